/* Streams of the C library, whose reads and writes do not pass the functions that can be interposed. */
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "interpose.h"

/* A stream over a TLS socket is made of functions of ours; its descriptor is remembered for fileno. */
struct cookie {
    int fd;
    FILE *stream;
    struct cookie *next;
};

static struct cookie *_Atomic cookies;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t cookie_read(void *closure, char *data, size_t len)
{
    return read(((struct cookie *)closure)->fd, data, len);
}

static ssize_t cookie_write(void *closure, const char *data, size_t len)
{
    ssize_t n = write(((struct cookie *)closure)->fd, data, len);

    /* What fopencookie(3) wants for an error. */
    return n < 0 ? 0 : n;
}

/* A socket has no place to go to. Without this function the C library would not say so. */
static int cookie_seek(void *closure, off64_t *offset, int whence)
{
    (void)closure, (void)offset, (void)whence;
    errno = ESPIPE;
    return -1;
}

static int cookie_close(void *closure)
{
    struct cookie *cookie = closure;
    int result = close(cookie->fd);
    struct cookie *at;

    pthread_mutex_lock(&lock);
    at = cookies;
    if (at == cookie)
        cookies = cookie->next;
    while (at != NULL && at != cookie) {
        if (at->next == cookie)
            at->next = cookie->next;
        at = at->next;
    }
    pthread_mutex_unlock(&lock);
    free(cookie);
    return result;
}

FILE *fdopen(int fd, const char *mode)
{
    static const cookie_io_functions_t functions = {cookie_read, cookie_write, cookie_seek, cookie_close};
    struct cookie *cookie;

    if (!is_tls(fd)) {
        FILE *stream = NEXT(fdopen)(fd, mode);

        if (stream != NULL && (unsigned)fd < MARKS)
            atomic_store_explicit(&uktls_streams[fd], 1, memory_order_relaxed);
        return stream;
    }
    cookie = malloc(sizeof(*cookie));
    if (cookie == NULL)
        return NULL;
    cookie->fd = fd;
    cookie->stream = fopencookie(cookie, mode, functions);
    if (cookie->stream == NULL) {
        free(cookie);
        return NULL;
    }
    pthread_mutex_lock(&lock);
    cookie->next = cookies;
    cookies = cookie;
    pthread_mutex_unlock(&lock);
    return cookie->stream;
}

TWIN(_IO_fdopen, fdopen);

static void lock_streams(void)
{
    pthread_mutex_lock(&lock);
}

static void unlock_streams(void)
{
    pthread_mutex_unlock(&lock);
}

void uktls_watch_streams(void)
{
    pthread_atfork(lock_streams, unlock_streams, unlock_streams);
}

void uktls_flush_streams(void)
{
    if (LIKELY(atomic_load_explicit(&cookies, memory_order_relaxed) == NULL) || pthread_mutex_trylock(&lock) != 0)
        return;
    for (const struct cookie *at = cookies; at != NULL; at = at->next)
        /* As exit does it, which passes over a stream that another thread is at. */
        if (ftrylockfile(at->stream) == 0) {
            fflush_unlocked(at->stream);
            funlockfile(at->stream);
        }
    pthread_mutex_unlock(&lock);
}

static int number_of(FILE *stream)
{
    int fd = -1;

    if (LIKELY(atomic_load_explicit(&cookies, memory_order_relaxed) == NULL))
        return -1;
    pthread_mutex_lock(&lock);
    for (const struct cookie *at = cookies; at != NULL && fd < 0; at = at->next)
        if (at->stream == stream)
            fd = at->fd;
    pthread_mutex_unlock(&lock);
    return fd;
}

int fileno(FILE *stream)
{
    int fd = number_of(stream);

    return fd >= 0 ? fd : NEXT(fileno)(stream);
}

int fileno_unlocked(FILE *stream)
{
    int fd = number_of(stream);

    return fd >= 0 ? fd : NEXT(fileno_unlocked)(stream);
}

_Atomic uint8_t uktls_streams[MARKS];

static int close_stream(void *stream)
{
    return NEXT(fclose)(stream);
}

/* A stream that was there before the keys: what is still in its buffer would go out in the clear (design rule 2). */
static int plain_number_of(FILE *stream)
{
    int fd = number_of(stream) >= 0 ? -1 : NEXT(fileno)(stream);

    if ((unsigned)fd < MARKS)
        atomic_store_explicit(&uktls_streams[fd], 0, memory_order_relaxed);
    if (fd < 0 || !is_tls(fd))
        return -1;
    __fpurge(stream);
    return fd;
}

int fclose(FILE *stream)
{
    int saved = errno;
    int fd = plain_number_of(stream);

    errno = saved;
    return fd >= 0 ? uktls_preload_close_by(fd, close_stream, stream) : NEXT(fclose)(stream);
}

TWIN(_IO_fclose, fclose);

/* A stream of ours cannot become a file's: as for any reason to fail, it is closed. */
static FILE *cannot_reopen(FILE *stream)
{
    if (NEXT(fclose)(stream) == 0)
        errno = EOPNOTSUPP;
    return NULL;
}

struct reopening {
    const char *path, *mode;
    FILE *stream, *(*next)(const char *, const char *, FILE *);
};

static int reopen(void *closure)
{
    struct reopening *it = closure;

    /* The number is closed in any case. */
    it->stream = it->next(it->path, it->mode, it->stream);
    return 0;
}

static FILE *reopen_stream(struct reopening it)
{
    int fd;

    if (UNLIKELY(number_of(it.stream) >= 0))
        return cannot_reopen(it.stream);
    fd = plain_number_of(it.stream);
    if (fd < 0 || uktls_preload_in_vfork())
        return it.next(it.path, it.mode, it.stream);
    uktls_preload_close_by(fd, reopen, &it);
    return it.stream;
}

FILE *freopen(const char *path, const char *mode, FILE *stream)
{
    return reopen_stream((struct reopening){path, mode, stream, NEXT(freopen)});
}

FILE *freopen64(const char *path, const char *mode, FILE *stream)
{
    return reopen_stream((struct reopening){path, mode, stream, NEXT(freopen64)});
}
