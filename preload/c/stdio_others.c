/* Streams of the C library: functions of other parts of it that take a stream, or have one of the three in mind. */
#include <argp.h>
#include <err.h>
#include <error.h>
#include <grp.h>
#include <gshadow.h>
#include <malloc.h>
#include <mntent.h>
#include <netdb.h>
#include <printf.h>
#include <pwd.h>
#include <shadow.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "streams.h"

SERVE(int, putgrent, (const struct group *entry, FILE *stream), (entry, at))
SERVE(int, putpwent, (const struct passwd *entry, FILE *stream), (entry, at))
SERVE(int, putspent, (const struct spwd *entry, FILE *stream), (entry, at))
SERVE(int, putsgent, (const struct sgrp *entry, FILE *stream), (entry, at))
SERVE(struct group *, fgetgrent, (FILE *stream), (at))
SERVE(int, fgetgrent_r, (FILE *stream, struct group *entry, char *buffer, size_t room, struct group **result),
      (at, entry, buffer, room, result))
SERVE(struct passwd *, fgetpwent, (FILE *stream), (at))
SERVE(int, fgetpwent_r, (FILE *stream, struct passwd *entry, char *buffer, size_t room, struct passwd **result),
      (at, entry, buffer, room, result))
SERVE(struct spwd *, fgetspent, (FILE *stream), (at))
SERVE(int, fgetspent_r, (FILE *stream, struct spwd *entry, char *buffer, size_t room, struct spwd **result),
      (at, entry, buffer, room, result))
SERVE(struct sgrp *, fgetsgent, (FILE *stream), (at))
SERVE(int, fgetsgent_r, (FILE *stream, struct sgrp *entry, char *buffer, size_t room, struct sgrp **result),
      (at, entry, buffer, room, result))
SERVE(int, addmntent, (FILE *stream, const struct mntent *entry), (at, entry))
SERVE(struct mntent *, getmntent, (FILE *stream), (at))
SERVE(struct mntent *, getmntent_r, (FILE *stream, struct mntent *entry, char *buffer, int room),
      (at, entry, buffer, room))
TWIN(__getmntent_r, getmntent_r);
SERVE(int, malloc_info, (int options, FILE *stream), (options, at))
SERVE(int, printf_size, (FILE *stream, const struct printf_info *info, const void *const *arguments),
      (at, info, arguments))
SERVE_VOID(argp_help, (const struct argp *argp, FILE *stream, unsigned flags, char *name), (argp, at, flags, name))
SERVE_VOID(argp_state_help, (const struct argp_state *state, FILE *stream, unsigned flags), (state, at, flags))

/* The streams that these write to and read from are in the C library's variables, which may be assigned to: they
 * have the twins meanwhile. Another thread that looks there finds a stream that serves as well. */
struct lent {
    FILE *in, *out, *error;
};

static struct lent lend_twins(void)
{
    struct lent lent = {stdin, stdout, stderr};

    stdin = serving(stdin);
    stdout = serving(stdout);
    stderr = serving(stderr);
    return lent;
}

static void take_back(struct lent lent)
{
    int saved = errno;

    stdin = lent.in;
    stdout = lent.out;
    stderr = lent.error;
    errno = saved;
}

#define LENT(call)                                                                                                     \
    do {                                                                                                               \
        struct lent lent = lend_twins();                                                                               \
        call;                                                                                                          \
        take_back(lent);                                                                                               \
    } while (0)

void perror(const char *text)
{
    LENT(NEXT(perror)(text));
}

void psignal(int number, const char *text)
{
    LENT(NEXT(psignal)(number, text));
}

void herror(const char *text)
{
    LENT(NEXT(herror)(text));
}

char *getpass(const char *prompt)
{
    char *result;

    LENT(result = NEXT(getpass)(prompt));
    return result;
}

/* They end the process, or go on: exit finds the streams either way. */
void vwarn(const char *format, va_list list)
{
    LENT(NEXT(vwarn)(format, list));
}

void vwarnx(const char *format, va_list list)
{
    LENT(NEXT(vwarnx)(format, list));
}

void verr(int status, const char *format, va_list list)
{
    lend_twins();
    NEXT(verr)(status, format, list);
    __builtin_unreachable();
}

void verrx(int status, const char *format, va_list list)
{
    lend_twins();
    NEXT(verrx)(status, format, list);
    __builtin_unreachable();
}

void warn(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vwarn(format, list);
    va_end(list);
}

void warnx(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vwarnx(format, list);
    va_end(list);
}

void err(int status, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    verr(status, format, list);
}

void errx(int status, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    verrx(status, format, list);
}

/* These two have no form that takes a list; and they flush stdout first. */
void error(int status, int number, const char *format, ...)
{
    va_list list;
    char *text;
    int len;

    va_start(list, format);
    len = vasprintf(&text, format, list);
    va_end(list);
    LENT(NEXT(error)(status, number, "%s", len < 0 ? format : text));
    if (len >= 0)
        free(text);
}

void error_at_line(int status, int number, const char *file, unsigned line, const char *format, ...)
{
    va_list list;
    char *text;
    int len;

    va_start(list, format);
    len = vasprintf(&text, format, list);
    va_end(list);
    LENT(NEXT(error_at_line)(status, number, file, line, "%s", len < 0 ? format : text));
    if (len >= 0)
        free(text);
}
