/* Streams of the C library: what reads characters of one byte. */
#include <stdlib.h>

#include "streams.h"

SERVE(int, fgetc, (FILE *stream), (at))
SERVE(int, fgetc_unlocked, (FILE *stream), (at))
TWIN(getc, fgetc);
TWIN(_IO_getc, fgetc);
TWIN(getc_unlocked, fgetc_unlocked);
SERVE(int, __uflow, (FILE *stream), (at))
int __underflow(FILE *stream);
SERVE(int, __underflow, (FILE *stream), (at))
int _IO_peekc_locked(FILE *stream);
SERVE(int, _IO_peekc_locked, (FILE *stream), (at))
SERVE(int, getw, (FILE *stream), (at))
SERVE(int, ungetc, (int c, FILE *stream), (c, at))
TWIN(_IO_ungetc, ungetc);
SERVE(char *, fgets, (char *text, int room, FILE *stream), (text, room, at))
TWIN(_IO_fgets, fgets);
SERVE(char *, fgets_unlocked, (char *text, int room, FILE *stream), (text, room, at))
char *__fgets_chk(char *text, size_t size, int room, FILE *stream);
SERVE(char *, __fgets_chk, (char *text, size_t size, int room, FILE *stream), (text, size, room, at))
char *__fgets_unlocked_chk(char *text, size_t size, int room, FILE *stream);
SERVE(char *, __fgets_unlocked_chk, (char *text, size_t size, int room, FILE *stream), (text, size, room, at))
SERVE(size_t, fread, (void *data, size_t size, size_t n, FILE *stream), (data, size, n, at))
TWIN(_IO_fread, fread);
SERVE(size_t, fread_unlocked, (void *data, size_t size, size_t n, FILE *stream), (data, size, n, at))
size_t __fread_chk(void *data, size_t len, size_t size, size_t n, FILE *stream);
SERVE(size_t, __fread_chk, (void *data, size_t len, size_t size, size_t n, FILE *stream), (data, len, size, n, at))
size_t __fread_unlocked_chk(void *data, size_t len, size_t size, size_t n, FILE *stream);
SERVE(size_t, __fread_unlocked_chk, (void *data, size_t len, size_t size, size_t n, FILE *stream),
      (data, len, size, n, at))
SERVE(ssize_t, getdelim, (char **line, size_t *room, int end, FILE *stream), (line, room, end, at))
TWIN(__getdelim, getdelim);
SERVE(ssize_t, getline, (char **line, size_t *room, FILE *stream), (line, room, at))

int getchar(void)
{
    return fgetc(stdin);
}

int getchar_unlocked(void)
{
    return fgetc_unlocked(stdin);
}

/* Into `room` bytes, more of which the program did not expect. */
static char *get_line(char *text, size_t room, FILE *at)
{
    size_t n = 0;
    int c;

    NEXT(flockfile)(at);
    for (c = NEXT(fgetc_unlocked)(at); c != EOF && c != '\n'; c = NEXT(fgetc_unlocked)(at)) {
        if (n + 1 >= room)
            abort();
        text[n++] = (char)c;
    }
    /* What came before an error is not a line. */
    if (c == EOF && (n == 0 || NEXT(ferror_unlocked)(at)))
        text = NULL;
    else
        text[n] = '\0';
    NEXT(funlockfile)(at);
    uktls_stream_served(stdin, at);
    return text;
}

char *gets(char *text);
char *gets(char *text)
{
    FILE *at = serving(stdin);

    return LIKELY(at == stdin) ? NEXT(gets)(text) : get_line(text, (size_t)-1, at);
}

TWIN(_IO_gets, gets);

char *__gets_chk(char *text, size_t room);
char *__gets_chk(char *text, size_t room)
{
    FILE *at = serving(stdin);

    return LIKELY(at == stdin) ? NEXT(__gets_chk)(text, room) : get_line(text, room, at);
}
