/* Streams of the C library: what writes characters of one byte. */
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "streams.h"

SERVE(int, fputc, (int c, FILE *stream), (c, at))
SERVE_UNLOCKED(int, fputc_unlocked, (int c, FILE *stream), (c, at), fputc(c, stream))
TWIN(putc, fputc);
TWIN(_IO_putc, fputc);
TWIN(putc_unlocked, fputc_unlocked);

static int overflow(FILE *stream, int c)
{
    FILE *at;
    int result;

    flockfile(stream);
    at = serving(stream);
    result = NEXT(__overflow)(at, c);
    NEXT(funlockfile)(at);
    if (at != stream)
        uktls_stream_served(stream, at);
    return result;
}

SERVE_UNLOCKED(int, __overflow, (FILE *stream, int c), (at, c), overflow(stream, c))
SERVE(int, putw, (int word, FILE *stream), (word, at))
SERVE(int, fputs, (const char *text, FILE *stream), (text, at))
TWIN(_IO_fputs, fputs);
SERVE_UNLOCKED(int, fputs_unlocked, (const char *text, FILE *stream), (text, at), fputs(text, stream))
SERVE(size_t, fwrite, (const void *data, size_t size, size_t n, FILE *stream), (data, size, n, at))
TWIN(_IO_fwrite, fwrite);
SERVE_UNLOCKED(size_t, fwrite_unlocked, (const void *data, size_t size, size_t n, FILE *stream), (data, size, n, at),
               fwrite(data, size, n, stream))

int putchar(int c)
{
    return fputc(c, stdout);
}

int putchar_unlocked(int c)
{
    return fputc_unlocked(c, stdout);
}

int puts(const char *text)
{
    FILE *at = serving(stdout);
    size_t len;
    bool is_written;

    if (LIKELY(at == stdout))
        return NEXT(puts)(text);
    len = strlen(text);
    NEXT(flockfile)(at);
    is_written = NEXT(fputs_unlocked)(text, at) >= 0 && NEXT(fputc_unlocked)('\n', at) >= 0;
    NEXT(funlockfile)(at);
    uktls_stream_served(stdout, at);
    return !is_written ? EOF : len < INT_MAX ? (int)len + 1 : INT_MAX;
}

TWIN(_IO_puts, puts);

SERVE(int, vfprintf, (FILE *stream, const char *format, va_list list), (at, format, list))
TWIN(_IO_vfprintf, vfprintf);

int vprintf(const char *format, va_list list)
{
    return vfprintf(stdout, format, list);
}

int fprintf(FILE *stream, const char *format, ...)
{
    SERVED_LIST(stream, format, NEXT(vfprintf)(at, format, list));
}

TWIN(_IO_fprintf, fprintf);

int printf(const char *format, ...)
{
    SERVED_LIST(stdout, format, NEXT(vfprintf)(at, format, list));
}

TWIN(_IO_printf, printf);

int __vfprintf_chk(FILE *stream, int flag, const char *format, va_list list);
SERVE(int, __vfprintf_chk, (FILE *stream, int flag, const char *format, va_list list), (at, flag, format, list))

int __vprintf_chk(int flag, const char *format, va_list list);
int __vprintf_chk(int flag, const char *format, va_list list)
{
    return __vfprintf_chk(stdout, flag, format, list);
}

int __fprintf_chk(FILE *stream, int flag, const char *format, ...);
int __fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
    SERVED_LIST(stream, format, NEXT(__vfprintf_chk)(at, flag, format, list));
}

int __printf_chk(int flag, const char *format, ...);
int __printf_chk(int flag, const char *format, ...)
{
    SERVED_LIST(stdout, format, NEXT(__vfprintf_chk)(at, flag, format, list));
}
