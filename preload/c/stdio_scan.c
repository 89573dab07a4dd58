/* Streams of the C library: scanf and its relatives.
 *
 * glibc has them once for each standard that reads numbers in a way of its own, and its headers choose one: so they
 * are defined here under other names than those that they are exported by. */
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <wchar.h>

#include "streams.h"

#define SCAN(own, letter, exported, type, scan)                                                                         \
    int own##_vf(FILE *stream, const type *format, va_list list) __asm__(#exported "vf" letter);                       \
    int own##_v(const type *format, va_list list) __asm__(#exported "v" letter);                                       \
    int own##_f(FILE *stream, const type *format, ...) __asm__(#exported "f" letter);                                  \
    int own(const type *format, ...) __asm__(#exported letter);                                                        \
                                                                                                                       \
    int own##_vf(FILE *stream, const type *format, va_list list)                                                       \
    {                                                                                                                  \
        SERVED(stream, scan(stream, at, format, list));                                                                \
    }                                                                                                                  \
                                                                                                                       \
    int own##_v(const type *format, va_list list)                                                                      \
    {                                                                                                                  \
        SERVED(stdin, scan(stdin, at, format, list));                                                                  \
    }                                                                                                                  \
                                                                                                                       \
    int own##_f(FILE *stream, const type *format, ...)                                                                 \
    {                                                                                                                  \
        SERVED_LIST(stream, format, scan(stream, at, format, list));                                                   \
    }                                                                                                                  \
                                                                                                                       \
    int own(const type *format, ...)                                                                                   \
    {                                                                                                                  \
        SERVED_LIST(stdin, format, scan(stdin, at, format, list));                                                     \
    }

typedef int narrow(FILE *, const char *, va_list);
typedef int wide(FILE *, const wchar_t *, va_list);

/* A twin knows bytes only (stdio_wide.c). The conversions mean the same in a format of bytes; widths count bytes
 * then. */
static int scan_twin(FILE *stream, FILE *at, const wchar_t *format, va_list list, narrow *next)
{
    size_t room = wcslen(format) * MB_LEN_MAX + 1;
    char *bytes = NEXT(fwide)(stream, 1) > 0 ? malloc(room) : NULL;
    int result = EOF;

    if (bytes != NULL && wcstombs(bytes, format, room) != (size_t)-1)
        result = next(at, bytes, list);
    free(bytes);
    return result;
}

#define NEXT_NARROW(name) ((narrow *)next_of(NEXT_##name))
#define NEXT_WIDE(name) ((wide *)next_of(NEXT_##name))
#define SCAN_BYTES(name, stream, at, format, list) ((void)(stream), NEXT_NARROW(name)(at, format, list))
#define SCAN_WIDE(name, narrow_name, stream, at, format, list)                                                         \
    (LIKELY((at) == (stream)) ? NEXT_WIDE(name)(at, format, list)                                                      \
                              : scan_twin(stream, at, format, list, NEXT_NARROW(narrow_name)))

#define PLAIN(...) SCAN_BYTES(vfscanf, __VA_ARGS__)
#define PLAIN_WIDE(...) SCAN_WIDE(vfwscanf, vfscanf, __VA_ARGS__)
#define C99(...) SCAN_BYTES(__isoc99_vfscanf, __VA_ARGS__)
#define C99_WIDE(...) SCAN_WIDE(__isoc99_vfwscanf, __isoc99_vfscanf, __VA_ARGS__)
#define C23(...) SCAN_BYTES(__isoc23_vfscanf, __VA_ARGS__)
#define C23_WIDE(...) SCAN_WIDE(__isoc23_vfwscanf, __isoc23_vfscanf, __VA_ARGS__)

SCAN(scan, "scanf", , char, PLAIN)
SCAN(scan_wide, "wscanf", , wchar_t, PLAIN_WIDE)
SCAN(scan_c99, "scanf", __isoc99_, char, C99)
SCAN(scan_wide_c99, "wscanf", __isoc99_, wchar_t, C99_WIDE)
/* Since glibc 2.38. */
SCAN(scan_c23, "scanf", __isoc23_, char, C23)
SCAN(scan_wide_c23, "wscanf", __isoc23_, wchar_t, C23_WIDE)

int also_scan_vf(FILE *stream, const char *format, va_list list) __asm__("__vfscanf") __attribute__((alias("vfscanf")));
