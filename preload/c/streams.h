/* Streams of the C library (FILE) whose number is a TLS socket's.
 *
 * The C library reads and writes them by system calls of its own, which no library sees. So such a stream is taken
 * off its number: its own descriptor (_fileno) becomes a dead one, a socket that is not connected, and whatever the
 * C library still writes there by itself fails. It gets a twin, a stream made by fopencookie(3) whose functions are
 * our read and write on the number, and the interposed functions of stdio (stdio_*.c) go to the twin.
 *
 * What waits in the stream's buffers, in either direction, goes along. The program keeps its pointer, and fileno(3)
 * answers the number.
 *
 * All of this is glibc's: streams.c and stdio_*.c know its struct. */
#ifndef UKTLS_STREAMS_H
#define UKTLS_STREAMS_H

#include <limits.h>

#include "interpose.h"

/* The number is about to become a TLS socket's (or has just become one, where the kernel chose it). Moves the C
 * library's streams off it. 0, or -1 with errno (EBUSY: a stream is locked by another thread, which may sleep in it,
 * or by this one; ENOMEM, EMFILE): then nothing has changed. Called with no lock of the library held.
 * A call that succeeds on a number that is not TLS yet (MARK_TLS) is ended by one of uktls_streams_return, when the
 * socket is gone again or did not come. Between the two, streams that are opened on the number are moved as well, and
 * calls on twins wait for the mark: they do not write to what has the number meanwhile. So the mark comes at once, and
 * is there as long as the number is TLS. */
int uktls_streams_leave(int fd);
/* The number is not a TLS socket's any more, or did not become one: its streams are on it again. One that is in use,
 * or has something in its buffers, goes on with its twin, which serves any descriptor. errno stays. */
void uktls_streams_return(int fd);

/* The number on which streams are dead. */
enum { NOT_MADE = INT_MIN };
extern _Atomic int uktls_dead_number;

/* The twin of a stream that is dead. */
FILE *uktls_find_twin(FILE *stream);
/* Tells the stream itself what a call on its twin has come to: the program's macros look there. errno stays. */
void uktls_stream_served(FILE *stream, FILE *twin);

/* The stream that a call on `stream` goes to. */
static inline FILE *serving(FILE *stream)
{
    int dead = atomic_load_explicit(&uktls_dead_number, memory_order_relaxed);

    return LIKELY(dead == NOT_MADE) || LIKELY(stream->_fileno != dead) ? stream : uktls_find_twin(stream);
}

/* glibc's, since 2.32. */
extern char __libc_single_threaded __attribute__((weak));

/* Whether a stream that is written to without its lock cannot be taken off its number at the same time: another
 * thread waits for the lock only, and the C library's write would go to what has the number then. */
static inline bool is_alone(void)
{
    return &__libc_single_threaded != NULL && __libc_single_threaded;
}

/* A stream that was just opened, whatever its number is by now; NULL with errno if that is TLS, and the stream
 * cannot be moved: it is closed then, and its number is not. */
FILE *uktls_stream_opened(FILE *stream);
/* For streams that may have twins: closes both, and the number, by `next`. */
int uktls_stream_close(FILE *stream, int (*next)(FILE *));
/* The number of a stream that has a twin; -1 for others. */
int uktls_stream_number(FILE *stream);
/* Puts the stream back on its number, which is not TLS any more, without what is in the twin's buffers. */
void uktls_stream_put_back(FILE *stream);
/* A stream that has been flushed may be able to return. */
void uktls_stream_rests(FILE *stream);

#define SERVED(stream, call)                                                                                           \
    do {                                                                                                               \
        FILE *at = serving(stream);                                                                                    \
        if (LIKELY(at == (stream)))                                                                                    \
            return call;                                                                                               \
        __typeof__(call) result_ = call;                                                                               \
        uktls_stream_served(stream, at);                                                                               \
        return result_;                                                                                                \
    } while (0)

#define SERVED_VOID(stream, call)                                                                                      \
    do {                                                                                                               \
        FILE *at = serving(stream);                                                                                    \
        call;                                                                                                          \
        if (UNLIKELY(at != (stream)))                                                                                  \
            uktls_stream_served(stream, at);                                                                           \
    } while (0)

/* The function of that name, which serves the next one at the stream's twin: `arguments` are those of the call,
 * with `at` for the stream. */
#define SERVE(type, name, parameters, arguments)                                                                       \
    type name parameters                                                                                               \
    {                                                                                                                  \
        SERVED(stream, NEXT(name) arguments);                                                                          \
    }

#define SERVE_VOID(name, parameters, arguments)                                                                        \
    void name parameters                                                                                               \
    {                                                                                                                  \
        SERVED_VOID(stream, NEXT(name) arguments);                                                                     \
    }

/* The same for a function that does not lock: `locking` is the one that does. */
#define SERVE_UNLOCKED(type, name, parameters, arguments, locking)                                                     \
    type name parameters                                                                                               \
    {                                                                                                                  \
        FILE *at = serving(stream);                                                                                    \
        return LIKELY(at == stream && is_alone()) ? NEXT(name) arguments : locking;                                    \
    }

/* With arguments behind `last`: by the function that takes a list of them. */
#define SERVED_LIST(stream, last, call)                                                                                \
    do {                                                                                                               \
        FILE *at = serving(stream);                                                                                    \
        va_list list;                                                                                                  \
        va_start(list, last);                                                                                          \
        int result_ = call;                                                                                            \
        va_end(list);                                                                                                  \
        if (UNLIKELY(at != (stream)))                                                                                  \
            uktls_stream_served(stream, at);                                                                           \
        return result_;                                                                                                \
    } while (0)

#endif
