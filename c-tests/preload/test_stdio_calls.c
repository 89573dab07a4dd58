/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Every function of stdio that writes or reads, on streams that were there before their number became a TLS
 * socket's: what it writes is sealed, and what it reads has been opened.
 */
#include "preload.h"

#include <argp.h>
#include <err.h>
#include <error.h>
#include <grp.h>
#include <linux/tls.h>
#include <locale.h>
#include <malloc.h>
#include <mntent.h>
#include <pwd.h>
#include <shadow.h>
#include <stdio_ext.h>
#include <wchar.h>

int __fprintf_chk(FILE *, int, const char *, ...);
int __printf_chk(int, const char *, ...);
int __vfprintf_chk(FILE *, int, const char *, va_list);
int __vprintf_chk(int, const char *, va_list);
int __fwprintf_chk(FILE *, int, const wchar_t *, ...);
int __wprintf_chk(int, const wchar_t *, ...);
int _IO_putc(int, FILE *);
int _IO_getc(FILE *);
int _IO_puts(const char *);
int _IO_printf(const char *, ...);
char *__fgets_chk(char *, size_t, int, FILE *);
size_t __fread_chk(void *, size_t, size_t, size_t, FILE *);
char *gets(char *);
int __isoc99_fscanf(FILE *, const char *, ...);
int __isoc99_scanf(const char *, ...);
int plain_fscanf(FILE *, const char *, ...) __asm__("fscanf");
int plain_scanf(const char *, ...) __asm__("scanf");

/* --- what writes to a stream --------------------------------------------------------------- */

static int list_of(FILE *stream, int (*call)(FILE *, const char *, va_list), const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int result = call(stream, format, list);
    va_end(list);
    return result;
}

static int checked_list(FILE *stream, const char *format, va_list list)
{
    return __vfprintf_chk(stream, 1, format, list);
}

static int list_to_stdout(FILE *stream, const char *format, va_list list)
{
    (void)stream;
    return vprintf(format, list);
}

static int checked_list_to_stdout(FILE *stream, const char *format, va_list list)
{
    (void)stream;
    return __vprintf_chk(1, format, list);
}

#define WRITES(name, result, call)                                                                 \
    static void name(FILE *f)                                                                      \
    {                                                                                              \
        (void)f;                                                                                   \
        assert_int_equal(call, result);                                                            \
    }

/* Each writes "say 7". */
#define TEXT "say 7"
WRITES(by_fprintf, 5, fprintf(f, "say %d", 7))
WRITES(by_vfprintf, 5, list_of(f, vfprintf, "say %d", 7))
WRITES(by_fprintf_chk, 5, __fprintf_chk(f, 1, "say %d", 7))
WRITES(by_vfprintf_chk, 5, list_of(f, checked_list, "say %d", 7))
WRITES(by_fputs, true, fputs(TEXT, f) >= 0)
WRITES(by_fputs_unlocked, true, fputs_unlocked(TEXT, f) >= 0)
WRITES(by_fwrite, 5, fwrite(TEXT, 1, 5, f))
WRITES(by_fwrite_unlocked, 5, fwrite_unlocked(TEXT, 1, 5, f))
WRITES(by_fputc, '7', (fputs("say ", f), fputc('7', f)))
WRITES(by_putc, '7', (fputs("say ", f), (putc)('7', f)))
WRITES(by_io_putc, '7', (fputs("say ", f), _IO_putc('7', f)))
WRITES(by_fputc_unlocked, '7', (fputs("say ", f), fputc_unlocked('7', f)))
/* This one is a macro, or inlined. */
WRITES(by_putc_unlocked, '7', (fputs("say ", f), putc_unlocked('7', f)))
WRITES(by_putw, 0, (fputc('s', f), putw(' ' << 16 | 'y' << 8 | 'a' | '7' << 24, f)))
static void by_overflow(FILE *f)
{
    for (const char *c = TEXT; *c; c++)
        assert_int_equal(__overflow(f, *c), *c);
}

static void by_perror(FILE *f)
{
    FILE *was = stderr;
    stderr = f;
    errno = EIO;
    perror("say 7");
    stderr = was;
}

static void by_warnx(FILE *f)
{
    FILE *was = stderr;
    stderr = f;
    warnx("say %d", 7);
    stderr = was;
}

static void by_error(FILE *f)
{
    FILE *was = stderr;
    stderr = f;
    error(0, 0, "say %d", 7);
    error_at_line(0, 0, "file", 7, "say %d", 7);
    stderr = was;
}

static void by_psignal(FILE *f)
{
    FILE *was = stderr;
    stderr = f;
    psignal(SIGHUP, "say 7");
    stderr = was;
}

static void by_entries(FILE *f)
{
    struct passwd user = {.pw_name = "say", .pw_passwd = "7", .pw_gecos = "", .pw_dir = "", .pw_shell = ""};
    char *none[] = {NULL};
    struct group group = {.gr_name = "say", .gr_passwd = "7", .gr_mem = none};
    struct spwd shadow = {.sp_namp = "say", .sp_pwdp = "7"};
    struct mntent mount = {.mnt_fsname = "say", .mnt_dir = "7", .mnt_type = "x", .mnt_opts = "y"};
    assert_ok(putpwent(&user, f));
    assert_ok(putgrent(&group, f));
    assert_ok(putspent(&shadow, f));
    /* Seeks to the end first, which a socket has not. */
    (void)addmntent(f, &mount);
    assert_ok(malloc_info(0, f));
}

WRITES(by_printf, 5, printf("say %d", 7))
WRITES(by_io_printf, 5, _IO_printf("say %d", 7))
WRITES(by_printf_chk, 5, __printf_chk(1, "say %d", 7))
WRITES(by_vprintf, 5, list_of(f, list_to_stdout, "say %d", 7))
WRITES(by_vprintf_chk, 5, list_of(f, checked_list_to_stdout, "say %d", 7))
WRITES(by_puts, 6, puts(TEXT))
WRITES(by_io_puts, 6, _IO_puts(TEXT))
WRITES(by_putchar, '7', (printf("say "), (putchar)('7')))
WRITES(by_putchar_unlocked, '7', (printf("say "), putchar_unlocked('7')))

/* "say" has a letter of two bytes here. */
#define WIDE_TEXT "s\xc3\xa4y 7"
WRITES(by_fwprintf, 5, fwprintf(f, L"s\u00e4y %d", 7))
WRITES(by_fwprintf_chk, 5, __fwprintf_chk(f, 1, L"s\u00e4y %d", 7))
WRITES(by_fputws, true, fputws(L"s\u00e4y 7", f) >= 0)
WRITES(by_fputws_unlocked, true, fputws_unlocked(L"s\u00e4y 7", f) >= 0)
WRITES(by_fputwc, '7', (fputws(L"s\u00e4y ", f), fputwc('7', f)))
WRITES(by_putwc_unlocked, '7', (fputws(L"s\u00e4y ", f), putwc_unlocked('7', f)))
WRITES(by_wprintf, 5, wprintf(L"s\u00e4y %d", 7))
WRITES(by_wprintf_chk, 5, __wprintf_chk(1, L"s\u00e4y %d", 7))
WRITES(by_putwchar, '7', (wprintf(L"s\u00e4y "), putwchar('7')))

struct way {
    const char *name;
    void (*go)(FILE *);
    const char *want; /* what the peer gets, or has in what it gets if `is_part` */
    bool is_part;
};
#define WAY(name, want) {#name, by_##name, want, false}
#define PART(name, want) {#name, by_##name, want, true}

static const struct way writers[] = {
    WAY(fprintf, TEXT), WAY(vfprintf, TEXT), WAY(fprintf_chk, TEXT), WAY(vfprintf_chk, TEXT),
    WAY(fputs, TEXT), WAY(fputs_unlocked, TEXT), WAY(fwrite, TEXT), WAY(fwrite_unlocked, TEXT),
    WAY(fputc, TEXT), WAY(putc, TEXT), WAY(io_putc, TEXT), WAY(fputc_unlocked, TEXT),
    WAY(putc_unlocked, TEXT), WAY(putw, "say 7"), WAY(overflow, TEXT),
    WAY(perror, "say 7: Input/output error\n"), PART(warnx, ": say 7\n"), PART(error, ":file:7: say 7\n"),
    WAY(psignal, "say 7: Hangup\n"),
    PART(entries, "say:7:0:0:::\nsay:7:0:\nsay:7:0:0:0:0:0:0:0\n"),
};
static const struct way wide_writers[] = {
    WAY(fwprintf, WIDE_TEXT), WAY(fwprintf_chk, WIDE_TEXT), WAY(fputws, WIDE_TEXT),
    WAY(fputws_unlocked, WIDE_TEXT), WAY(fputwc, WIDE_TEXT), WAY(putwc_unlocked, WIDE_TEXT),
};
static const struct way to_stdout[] = {
    WAY(printf, TEXT), WAY(io_printf, TEXT), WAY(printf_chk, TEXT), WAY(vprintf, TEXT), WAY(vprintf_chk, TEXT),
    WAY(puts, TEXT "\n"), WAY(io_puts, TEXT "\n"), WAY(putchar, TEXT), WAY(putchar_unlocked, TEXT),
};
static const struct way wide_to_stdout[] = {
    WAY(wprintf, WIDE_TEXT), WAY(wprintf_chk, WIDE_TEXT), WAY(putwchar, WIDE_TEXT),
};
#define EACH(ways) ways, sizeof(ways) / sizeof((ways)[0])

/* All that comes until the end, opened; what is not a record fails here. */
static void expect_text(struct peer *peer, const struct way *way)
{
    char text[RECORD_MAX] = "";
    size_t len = 0;
    int more;
    peer->in.pattern = false;
    while ((more = receiver_next(&peer->in)) > 0) {
        assert_int_equal(peer->in.type, DATA);
        assert_true(len + peer->in.len < sizeof text);
        memcpy(text + len, peer->in.data, peer->in.len);
        len += peer->in.len;
    }
    if (more < 0)
        fail_msg("%s: %s", way->name, peer->in.fault);
    if (way->is_part ? !strstr(text, way->want) : strcmp(text, way->want) != 0)
        fail_msg("%s: '%s', not '%s'", way->name, text, way->want);
}

/* The stream is there, then its number becomes the TLS socket's by dup2, or has keys set on it. */
enum how { BY_DUP2, BY_KEYS, HOWS };

static void put_under(int number, enum how how, struct peer *peer, int *other)
{
    int fd[2];
    struct keys keys = tls12_keys();
    if (how == BY_DUP2) {
        both_pair(fd, peer);
        assert_returns(dup2(fd[0], number), number);
        assert_ok(close(fd[0]));
        sealer_init(&peer->out, fd[1], number, &keys);
    } else {
        tcp_pair(fd);
        assert_returns(dup2(fd[0], number), number);
        assert_ok(close(fd[0]));
        assert_ok(tls_tx_init(number, keys.info, keys.len));
        assert_ok(tls_rx_init(number, keys.info, keys.len));
        receiver_init(&peer->in, fd[1], &keys);
        sealer_init(&peer->out, fd[1], number, &keys);
    }
    *other = fd[1];
}

static void write_each(const struct way *ways, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (enum how how = 0; how < HOWS; how++) {
            struct peer peer;
            int other;
            FILE *stream = fopen("/dev/null", "w");
            assert_non_null(stream);
            put_under(fileno(stream), how, &peer, &other);
            ways[i].go(stream);
            assert_ok(fclose(stream));
            expect_text(&peer, &ways[i]);
            assert_ok(close(other));
        }
}

static void test_writers(void **state)
{
    (void)state;
    write_each(EACH(writers));
}

static void test_wide_writers(void **state)
{
    (void)state;
    write_each(EACH(wide_writers));
}

/* Of this process, whose output comes back afterwards; a child for the wide ones, as its stdout stays wide. */
static void write_to_stdout(const struct way *ways, size_t n)
{
    int saved = fcntl(1, F_DUPFD_CLOEXEC, 10);
    fflush(stdout);
    for (size_t i = 0; i < n; i++)
        for (enum how how = 0; how < HOWS; how++) {
            struct peer peer;
            int other;
            put_under(1, how, &peer, &other);
            ways[i].go(stdout);
            assert_int_equal(fileno(stdout), 1);
            assert_ok(fflush(stdout));
            assert_returns(dup2(saved, 1), 1);
            expect_text(&peer, &ways[i]);
            assert_ok(close(other));
        }
    assert_ok(close(saved));
}

static void test_stdout(void **state)
{
    (void)state;
    write_to_stdout(EACH(to_stdout));
}

static void run_in_child(void (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        body();
        syscall(SYS_exit_group, 0);
    }
    assert_exited(wait_child(child), 0);
}

static void wide_stdout(void)
{
    /* It is one of bytes, by what was printed before. */
    if (freopen("/dev/null", "w", stdout) == NULL)
        syscall(SYS_exit_group, 2);
    write_to_stdout(EACH(wide_to_stdout));
}

static void test_wide_stdout(void **state)
{
    (void)state;
    run_in_child(wide_stdout);
}

/* --- what reads ---------------------------------------------------------------------------- */

/* Each reads "say 7\n" and leaves nothing. */
#define LINE "say 7\n"
#define READS(name, ...)                                                                           \
    static void from_##name(FILE *f)                                                               \
    {                                                                                              \
        char text[16] = "";                                                                        \
        wchar_t wide[16] = L"";                                                                    \
        int number = 0;                                                                            \
        (void)f, (void)text, (void)wide, (void)number;                                             \
        __VA_ARGS__                                                                                \
    }
#define AS_TEXT assert_string_equal(text, LINE);
#define AS_NUMBER                                                                                  \
    assert_string_equal(text, "say");                                                              \
    assert_int_equal(number, 7);                                                                   \
    assert_int_equal(fgetc(f), '\n');
#define ONE_BY_ONE(call)                                                                           \
    for (int i = 0; i < 6; i++)                                                                    \
        text[i] = (char)call;                                                                      \
    AS_TEXT

READS(fgets, assert_ptr_equal(fgets(text, sizeof text, f), text); AS_TEXT)
READS(fgets_unlocked, assert_ptr_equal(fgets_unlocked(text, sizeof text, f), text); AS_TEXT)
READS(fgets_chk, assert_ptr_equal(__fgets_chk(text, sizeof text, sizeof text, f), text); AS_TEXT)
READS(fread, assert_int_equal(fread(text, 1, 6, f), 6); AS_TEXT)
READS(fread_unlocked, assert_int_equal(fread_unlocked(text, 1, 6, f), 6); AS_TEXT)
READS(fread_chk, assert_int_equal(__fread_chk(text, sizeof text, 1, 6, f), 6); AS_TEXT)
READS(fgetc, ONE_BY_ONE(fgetc(f)))
READS(getc, ONE_BY_ONE((getc)(f)))
READS(io_getc, ONE_BY_ONE(_IO_getc(f)))
READS(getc_unlocked, ONE_BY_ONE(getc_unlocked(f)))
READS(ungetc, assert_int_equal(fgetc(f), 's'); assert_int_equal(ungetc('s', f), 's'); ONE_BY_ONE(fgetc(f)))
READS(getline, char *line = NULL; size_t room = 0; assert_int_equal(getline(&line, &room, f), 6);
      strcpy(text, line); free(line); AS_TEXT)
READS(getdelim, char *line = NULL; size_t room = 0; assert_int_equal(getdelim(&line, &room, '\n', f), 6);
      strcpy(text, line); free(line); AS_TEXT)
READS(fscanf, assert_int_equal(fscanf(f, "%s%d", text, &number), 2); AS_NUMBER)
READS(old_fscanf, assert_int_equal(plain_fscanf(f, "%s%d", text, &number), 2); AS_NUMBER)
READS(isoc99_fscanf, assert_int_equal(__isoc99_fscanf(f, "%s%d", text, &number), 2); AS_NUMBER)
READS(scanf, assert_int_equal(scanf("%s%d", text, &number), 2); AS_NUMBER)
READS(old_scanf, assert_int_equal(plain_scanf("%s%d", text, &number), 2); AS_NUMBER)
READS(isoc99_scanf, assert_int_equal(__isoc99_scanf("%s%d", text, &number), 2); AS_NUMBER)
READS(getchar, ONE_BY_ONE((getchar)()))
READS(getchar_unlocked, ONE_BY_ONE(getchar_unlocked()))
READS(gets, assert_ptr_equal(gets(text), text); assert_string_equal(text, "say 7");)
READS(fgetws, assert_ptr_equal(fgetws(wide, 16, f), wide); assert_int_equal(wcscmp(wide, L"say 7\n"), 0);)
READS(fgetwc, ONE_BY_ONE(fgetwc(f)))
READS(getwc_unlocked, ONE_BY_ONE(getwc_unlocked(f)))
READS(fwscanf, assert_int_equal(fwscanf(f, L"%ls%d", wide, &number), 2);
      assert_int_equal(wcscmp(wide, L"say"), 0); assert_int_equal(number, 7); assert_int_equal(fgetwc(f), '\n');)
READS(getwchar, ONE_BY_ONE(getwchar()))

struct reader {
    const char *name;
    void (*go)(FILE *);
};
#define READER(name) {#name, from_##name}
static const struct reader readers[] = {
    READER(fgets), READER(fgets_unlocked), READER(fgets_chk), READER(fread), READER(fread_unlocked),
    READER(fread_chk), READER(fgetc), READER(getc), READER(io_getc), READER(getc_unlocked), READER(ungetc),
    READER(getline), READER(getdelim), READER(fscanf), READER(old_fscanf), READER(isoc99_fscanf),
    READER(fgetws), READER(fgetwc), READER(getwc_unlocked), READER(fwscanf),
};
static const struct reader from_stdin[] = {
    READER(scanf), READER(old_scanf), READER(isoc99_scanf), READER(getchar), READER(getchar_unlocked), READER(gets),
};
static const struct reader wide_from_stdin[] = {READER(getwchar)};

static void read_by(const struct reader *reader, FILE *stream, enum how how)
{
    struct peer peer;
    unsigned char wire[200];
    int other;
    put_under(fileno(stream), how, &peer, &other);
    send_wire(&peer.out, wire, seal(&peer.out, wire, DATA, LINE, 6));
    assert_ok(shutdown(other, SHUT_WR));
    reader->go(stream);
    assert_false(feof(stream));
    assert_false(ferror(stream));
    assert_int_equal(stream->_mode > 0 ? (int)fgetwc(stream) : getc_unlocked(stream), EOF);
    assert_true(feof(stream));
    /* This looks into the stream itself, where it is inlined. */
    assert_true(feof_unlocked(stream));
    assert_ok(close(other));
}

static void test_readers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++)
        for (enum how how = 0; how < HOWS; how++) {
            FILE *stream = fopen("/dev/zero", "r");
            assert_non_null(stream);
            read_by(&readers[i], stream, how);
            assert_ok(fclose(stream));
        }
}

static void read_stdin(const struct reader *from, size_t n)
{
    int saved = fcntl(0, F_DUPFD_CLOEXEC, 10);
    for (size_t i = 0; i < n; i++)
        for (enum how how = 0; how < HOWS; how++) {
            read_by(&from[i], stdin, how);
            assert_returns(dup2(saved, 0), 0);
            clearerr(stdin);
        }
    assert_ok(close(saved));
}

static void test_stdin(void **state)
{
    (void)state;
    read_stdin(EACH(from_stdin));
}

static void wide_stdin(void)
{
    read_stdin(EACH(wide_from_stdin));
}

static void test_wide_stdin(void **state)
{
    (void)state;
    run_in_child(wide_stdin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writers), cmocka_unit_test(test_wide_writers), cmocka_unit_test(test_stdout),
        cmocka_unit_test(test_wide_stdout), cmocka_unit_test(test_readers), cmocka_unit_test(test_stdin),
        cmocka_unit_test(test_wide_stdin),
    };
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    return RUN_PRELOADED("test_stdio_calls", tests);
}
