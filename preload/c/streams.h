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

/* Whether no stream of the C library may be on the number: it is a TLS socket's, or another process may make it one, so that
 * each write has to be looked at. */
static inline bool is_off(int fd)
{
    return UNLIKELY(mark_of(fd) & SLOW_IN);
}

/* The number is about to be off (or has just come to be, where the kernel chose it). Moves the C
 * library's streams off it. 0, or -1 with errno (EBUSY: a stream is locked by another thread, which may sleep in it,
 * or by this one; ENOMEM, EMFILE): then nothing has changed. Called with no lock of the library held.
 * A call that succeeds on a number that is not off yet is ended by one of uktls_streams_return, when the mark is there, or
 * the socket is gone again or did not come. Between the two, streams that are opened on the number are moved as well, and
 * calls on twins wait for the mark: they do not write to what has the number meanwhile. So the mark comes at once. */
int uktls_streams_leave(int fd);
/* The number is not off any more, or did not become so: its streams are on it again. One that is in use,
 * or has something in its buffers, goes on with its twin, which serves any descriptor. errno stays. */
void uktls_streams_return(int fd);
/* The number is off, by its mark. Moves its streams, as far as no other thread sleeps in one. */
void uktls_streams_leave_marked(int fd);
/* The same for all such numbers: around a fork. */
void uktls_streams_leave_watched(void);

/* Keeps the list of those with twins whole while the process forks. */
void uktls_streams_hold(void);
void uktls_streams_release(void);
void uktls_streams_release_in_child(void);

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

/* The stream that a call on `stream` goes to, with its lock: it stays that one until uktls_stream_let_go. Without, the call
 * could wait for a stream that dies meanwhile. */
FILE *uktls_stream_hold(FILE *stream);
void uktls_stream_let_go(FILE *const *held);

/* As long as no stream has ever been moved nobody pays for that: of the first one that is, a call may fail (EBADF) that
 * another thread has made and that waits for its lock. A thread that is alone does not need it. */
static inline FILE *hold(FILE *stream)
{
    bool moves = atomic_load_explicit(&uktls_dead_number, memory_order_relaxed) != NOT_MADE;

    return LIKELY(!moves) || is_alone() ? NULL : uktls_stream_hold(stream);
}

#define HOLD(stream)                                                                                                   \
    FILE *held_ __attribute__((cleanup(uktls_stream_let_go))) = hold(stream);                                          \
    FILE *at = LIKELY(held_ == NULL) ? serving(stream) : held_

#define SERVED(stream, call)                                                                                           \
    do {                                                                                                               \
        HOLD(stream);                                                                                                  \
        if (LIKELY(at == (stream)))                                                                                    \
            return call;                                                                                               \
        __typeof__(call) result_ = call;                                                                               \
        uktls_stream_served(stream, at);                                                                               \
        return result_;                                                                                                \
    } while (0)

#define SERVED_VOID(stream, call)                                                                                      \
    do {                                                                                                               \
        HOLD(stream);                                                                                                  \
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
        HOLD(stream);                                                                                                  \
        va_list list;                                                                                                  \
        va_start(list, last);                                                                                          \
        int result_ = call;                                                                                            \
        va_end(list);                                                                                                  \
        if (UNLIKELY(at != (stream)))                                                                                  \
            uktls_stream_served(stream, at);                                                                           \
        return result_;                                                                                                \
    } while (0)

#endif
