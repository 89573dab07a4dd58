/* Streams of the C library: wide characters.
 *
 * The C library's streams of fopencookie know bytes only. So for a stream with a twin the characters are made bytes
 * here, in the locale of the call; the stream itself knows whether it is a wide one. */
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "streams.h"

/* The dead stream keeps the orientation. */
int fwide(FILE *stream, int mode)
{
    return NEXT(fwide)(stream, mode);
}

/* --- writing ------------------------------------------------------------------------------- */

static bool is_wide(FILE *stream)
{
    return NEXT(fwide)(stream, 1) > 0;
}

static wint_t put(wchar_t c, FILE *at)
{
    char bytes[MB_LEN_MAX];
    mbstate_t state = {0};
    size_t n = wcrtomb(bytes, c, &state);

    return n != (size_t)-1 && NEXT(fwrite_unlocked)(bytes, 1, n, at) == n ? (wint_t)c : WEOF;
}

static bool put_all(const wchar_t *text, size_t n, FILE *at)
{
    bool is_written = true;

    for (size_t i = 0; i < n && is_written; i++)
        is_written = put(text[i], at) != WEOF;
    return is_written;
}

static wint_t put_one(wchar_t c, FILE *stream, FILE *at)
{
    wint_t result;

    if (!is_wide(stream))
        return WEOF;
    NEXT(flockfile)(at);
    result = put(c, at);
    NEXT(funlockfile)(at);
    return result;
}

static int put_text(const wchar_t *text, FILE *stream, FILE *at)
{
    bool is_written;

    if (!is_wide(stream))
        return EOF;
    NEXT(flockfile)(at);
    is_written = put_all(text, wcslen(text), at);
    NEXT(funlockfile)(at);
    return is_written ? 1 : EOF;
}

typedef int print(FILE *stream, int flag, const wchar_t *format, va_list list);

static int print_plain(FILE *stream, int flag, const wchar_t *format, va_list list)
{
    (void)flag;
    return NEXT(vfwprintf)(stream, format, list);
}

int __vfwprintf_chk(FILE *stream, int flag, const wchar_t *format, va_list list);

static int print_checked(FILE *stream, int flag, const wchar_t *format, va_list list)
{
    return NEXT(__vfwprintf_chk)(stream, flag, format, list);
}

static int print_text(FILE *stream, FILE *at, print *next, int flag, const wchar_t *format, va_list list)
{
    wchar_t *text = NULL;
    size_t len = 0;
    FILE *memory = is_wide(stream) ? open_wmemstream(&text, &len) : NULL;
    int result;

    if (memory == NULL)
        return -1;
    result = next(memory, flag, format, list);
    if (NEXT(fclose)(memory) != 0)
        result = -1;
    NEXT(flockfile)(at);
    if (result >= 0 && !put_all(text, len, at))
        result = -1;
    NEXT(funlockfile)(at);
    free(text);
    return result;
}

static int print_to(FILE *stream, print *next, int flag, const wchar_t *format, va_list list)
{
    HOLD(stream);
    int result;

    if (LIKELY(at == stream))
        return next(stream, flag, format, list);
    result = print_text(stream, at, next, flag, format, list);
    uktls_stream_served(stream, at);
    return result;
}

/* As SERVE, but for what is done for the twin. */
#define SERVE_WIDE(type, name, parameters, arguments, at_twin)                                                         \
    type name parameters                                                                                               \
    {                                                                                                                  \
        HOLD(stream);                                                                                                  \
        type result;                                                                                                   \
        if (LIKELY(at == stream))                                                                                      \
            return NEXT(name) arguments;                                                                               \
        result = at_twin;                                                                                              \
        uktls_stream_served(stream, at);                                                                               \
        return result;                                                                                                 \
    }

SERVE_WIDE(wint_t, fputwc, (wchar_t c, FILE *stream), (c, stream), put_one(c, stream, at))
TWIN(putwc, fputwc);
SERVE_UNLOCKED(wint_t, fputwc_unlocked, (wchar_t c, FILE *stream), (c, at), fputwc(c, stream))
TWIN(putwc_unlocked, fputwc_unlocked);
wint_t __woverflow(FILE *stream, wint_t c);
SERVE_UNLOCKED(wint_t, __woverflow, (FILE *stream, wint_t c), (at, c), fputwc((wchar_t)c, stream))
SERVE_WIDE(int, fputws, (const wchar_t *text, FILE *stream), (text, stream), put_text(text, stream, at))
SERVE_UNLOCKED(int, fputws_unlocked, (const wchar_t *text, FILE *stream), (text, at), fputws(text, stream))

wint_t putwchar(wchar_t c)
{
    return fputwc(c, stdout);
}

wint_t putwchar_unlocked(wchar_t c)
{
    return fputwc_unlocked(c, stdout);
}

#define PRINT(stream, next, flag)                                                                                      \
    va_list list;                                                                                                      \
    int result;                                                                                                        \
                                                                                                                       \
    va_start(list, format);                                                                                            \
    result = print_to(stream, next, flag, format, list);                                                               \
    va_end(list);                                                                                                      \
    return result

int vfwprintf(FILE *stream, const wchar_t *format, va_list list)
{
    return print_to(stream, print_plain, 0, format, list);
}

int vwprintf(const wchar_t *format, va_list list)
{
    return print_to(stdout, print_plain, 0, format, list);
}

int fwprintf(FILE *stream, const wchar_t *format, ...)
{
    PRINT(stream, print_plain, 0);
}

int wprintf(const wchar_t *format, ...)
{
    PRINT(stdout, print_plain, 0);
}

int __vfwprintf_chk(FILE *stream, int flag, const wchar_t *format, va_list list)
{
    return print_to(stream, print_checked, flag, format, list);
}

int __vwprintf_chk(int flag, const wchar_t *format, va_list list);
int __vwprintf_chk(int flag, const wchar_t *format, va_list list)
{
    return print_to(stdout, print_checked, flag, format, list);
}

int __fwprintf_chk(FILE *stream, int flag, const wchar_t *format, ...);
int __fwprintf_chk(FILE *stream, int flag, const wchar_t *format, ...)
{
    PRINT(stream, print_checked, flag);
}

int __wprintf_chk(int flag, const wchar_t *format, ...);
int __wprintf_chk(int flag, const wchar_t *format, ...)
{
    PRINT(stdout, print_checked, flag);
}

/* --- reading ------------------------------------------------------------------------------- */

static wint_t get(FILE *at)
{
    mbstate_t state = {0};
    wchar_t c;

    for (;;) {
        int next = NEXT(fgetc_unlocked)(at);
        char byte = (char)next;
        size_t n;

        if (next == EOF)
            return WEOF;
        n = mbrtowc(&c, &byte, 1, &state);
        if (n == (size_t)-1) {
            at->_flags |= _IO_ERR_SEEN;
            return WEOF;
        }
        if (n != (size_t)-2)
            return (wint_t)c;
    }
}

static wint_t unget(wint_t c, FILE *at)
{
    char bytes[MB_LEN_MAX];
    mbstate_t state = {0};
    size_t n = c == WEOF ? (size_t)-1 : wcrtomb(bytes, (wchar_t)c, &state);
    bool is_back = n != (size_t)-1;

    NEXT(flockfile)(at);
    while (is_back && n > 0)
        is_back = NEXT(ungetc)((unsigned char)bytes[--n], at) != EOF;
    NEXT(funlockfile)(at);
    return is_back ? c : WEOF;
}

static wint_t get_one(FILE *stream, FILE *at, bool is_unlocked)
{
    wint_t c;

    if (!is_wide(stream))
        return WEOF;
    if (!is_unlocked)
        NEXT(flockfile)(at);
    c = get(at);
    if (!is_unlocked)
        NEXT(funlockfile)(at);
    return c;
}

/* Without the character taken. */
static wint_t peek(FILE *stream, FILE *at)
{
    wint_t c = get_one(stream, at, true);

    return c == WEOF ? WEOF : unget(c, at);
}

static wchar_t *get_line(wchar_t *text, size_t size, int room, FILE *stream, FILE *at, bool is_unlocked)
{
    int n = 0;
    wint_t c = 0;

    if (room > 0 && size < (size_t)room)
        abort();
    if (room <= 0 || !is_wide(stream))
        return NULL;
    if (!is_unlocked)
        NEXT(flockfile)(at);
    while (n < room - 1 && c != L'\n' && (c = get(at)) != WEOF)
        text[n++] = (wchar_t)c;
    if (!is_unlocked)
        NEXT(funlockfile)(at);
    if (n == 0 && room > 1)
        return NULL;
    text[n] = L'\0';
    return text;
}

SERVE_WIDE(wint_t, fgetwc, (FILE *stream), (stream), get_one(stream, at, false))
TWIN(getwc, fgetwc);
SERVE_WIDE(wint_t, fgetwc_unlocked, (FILE *stream), (stream), get_one(stream, at, true))
TWIN(getwc_unlocked, fgetwc_unlocked);
wint_t __wuflow(FILE *stream);
SERVE_WIDE(wint_t, __wuflow, (FILE *stream), (stream), get_one(stream, at, true))
wint_t __wunderflow(FILE *stream);
SERVE_WIDE(wint_t, __wunderflow, (FILE *stream), (stream), peek(stream, at))
SERVE_WIDE(wint_t, ungetwc, (wint_t c, FILE *stream), (c, stream), is_wide(stream) ? unget(c, at) : WEOF)
SERVE_WIDE(wchar_t *, fgetws, (wchar_t *text, int room, FILE *stream), (text, room, stream),
           get_line(text, SIZE_MAX, room, stream, at, false))
SERVE_WIDE(wchar_t *, fgetws_unlocked, (wchar_t *text, int room, FILE *stream), (text, room, stream),
           get_line(text, SIZE_MAX, room, stream, at, true))
wchar_t *__fgetws_chk(wchar_t *text, size_t size, int room, FILE *stream);
SERVE_WIDE(wchar_t *, __fgetws_chk, (wchar_t *text, size_t size, int room, FILE *stream), (text, size, room, stream),
           get_line(text, size, room, stream, at, false))
wchar_t *__fgetws_unlocked_chk(wchar_t *text, size_t size, int room, FILE *stream);
SERVE_WIDE(wchar_t *, __fgetws_unlocked_chk, (wchar_t *text, size_t size, int room, FILE *stream),
           (text, size, room, stream), get_line(text, size, room, stream, at, true))

wint_t getwchar(void)
{
    return fgetwc(stdin);
}

wint_t getwchar_unlocked(void)
{
    return fgetwc_unlocked(stdin);
}
