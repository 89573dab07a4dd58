/* Streams of the C library: how they come and go. */
#include <dlfcn.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <unistd.h>

#include "streams.h"

/* With a number that is TLS already it is dead from the start. */
FILE *fdopen(int fd, const char *mode)
{
    return uktls_stream_opened(NEXT(fdopen)(fd, mode));
}

TWIN(_IO_fdopen, fdopen);

/* Another thread may make the number a TLS socket's before the program knows it. */
FILE *fopen(const char *path, const char *mode)
{
    return uktls_stream_opened(NEXT(fopen)(path, mode));
}

TWIN(_IO_fopen, fopen);

FILE *fopen64(const char *path, const char *mode)
{
    return uktls_stream_opened(NEXT(fopen64)(path, mode));
}

FILE *tmpfile(void)
{
    return uktls_stream_opened(NEXT(tmpfile)());
}

FILE *tmpfile64(void)
{
    return uktls_stream_opened(NEXT(tmpfile64)());
}

FILE *popen(const char *command, const char *mode)
{
    uktls_preload_before_spawn();
    return uktls_stream_opened(NEXT(popen)(command, mode));
}

TWIN(_IO_popen, popen);

/* What has no twin, and a number that is off nevertheless: the C library would close it behind our back. */
static void follow_number(FILE *stream)
{
    int saved = errno, fd = serving(stream) == stream ? NEXT(fileno)(stream) : -1;

    if (fd >= 0 && is_off(fd))
        (void)uktls_streams_leave(fd);
    errno = saved;
}

static int close_stream(FILE *stream, int (*next)(FILE *))
{
    follow_number(stream);
    return uktls_stream_close(stream, next);
}

int fclose(FILE *stream)
{
    return close_stream(stream, NEXT(fclose));
}

TWIN(_IO_fclose, fclose);

/* Its result is the command's. */
int pclose(FILE *stream)
{
    return close_stream(stream, NEXT(pclose));
}

int endmntent(FILE *stream)
{
    return stream == NULL ? NEXT(endmntent)(stream) : close_stream(stream, NEXT(endmntent));
}

TWIN(__endmntent, endmntent);

typedef FILE *(*reopening)(const char *, const char *, FILE *);

/* The C library puts the new file over the number by itself. So something plain is put there before, by a function
 * that knows what the number is. */
static FILE *reopen(const char *path, const char *mode, FILE *stream, reopening next)
{
    int fd, plain;

    follow_number(stream);
    fd = uktls_stream_number(stream);
    if (fd < 0)
        return uktls_stream_opened(next(path, mode, stream));
    (void)fflush(stream);
    /* A socket cannot be opened by its number's name. */
    errno = ENXIO;
    plain = path == NULL ? -1 : NEXT(socket)(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (plain < 0 || (is_off(fd) && dup2(plain, fd) < 0)) {
        int error = errno;

        if (plain >= 0)
            NEXT(close)(plain);
        (void)fclose(stream);
        errno = error;
        return NULL;
    }
    NEXT(close)(plain);
    uktls_stream_put_back(stream);
    return uktls_stream_opened(next(path, mode, stream));
}

FILE *freopen(const char *path, const char *mode, FILE *stream)
{
    return reopen(path, mode, stream, NEXT(freopen));
}

FILE *freopen64(const char *path, const char *mode, FILE *stream)
{
    return reopen(path, mode, stream, NEXT(freopen64));
}

int fileno(FILE *stream)
{
    int fd = uktls_stream_number(stream);

    return fd >= 0 ? fd : NEXT(fileno)(stream);
}

TWIN(fileno_unlocked, fileno);

static int flush(FILE *stream)
{
    SERVED(stream, NEXT(fflush)(at));
}

/* The twins are among the streams that the C library knows of. */
int fflush(FILE *stream)
{
    int result;

    if (stream == NULL)
        return NEXT(fflush)(stream);
    result = flush(stream);
    if (UNLIKELY(serving(stream) != stream))
        uktls_stream_rests(stream);
    return result;
}

TWIN(_IO_fflush, fflush);

int fflush_unlocked(FILE *stream)
{
    bool is_plain = stream == NULL || LIKELY(serving(stream) == stream);

    return is_plain && is_alone() ? NEXT(fflush_unlocked)(stream) : fflush(stream);
}

/* The stream that a lock is of may change until it is taken, but not as long as it is held. */
void flockfile(FILE *stream)
{
    (void)uktls_stream_hold(stream);
}

TWIN(_IO_flockfile, flockfile);

int ftrylockfile(FILE *stream)
{
    FILE *at = serving(stream);
    int result = NEXT(ftrylockfile)(at);

    if (UNLIKELY(result == 0 && serving(stream) != at)) {
        NEXT(funlockfile)(at);
        return EBUSY;
    }
    return result;
}

TWIN(_IO_ftrylockfile, ftrylockfile);

void funlockfile(FILE *stream)
{
    NEXT(funlockfile)(serving(stream));
}

TWIN(_IO_funlockfile, funlockfile);

SERVE(int, setvbuf, (FILE *stream, char *buffer, int mode, size_t size), (at, buffer, mode, size))
TWIN(_IO_setvbuf, setvbuf);
SERVE_VOID(setbuf, (FILE *stream, char *buffer), (at, buffer))
SERVE_VOID(setbuffer, (FILE *stream, char *buffer, size_t size), (at, buffer, size))
TWIN(_IO_setbuffer, setbuffer);
SERVE_VOID(setlinebuf, (FILE *stream), (at))

SERVE(int, fseek, (FILE *stream, long offset, int whence), (at, offset, whence))
SERVE(int, fseeko, (FILE *stream, off_t offset, int whence), (at, offset, whence))
SERVE(int, fseeko64, (FILE *stream, off64_t offset, int whence), (at, offset, whence))
SERVE(long, ftell, (FILE *stream), (at))
TWIN(_IO_ftell, ftell);
SERVE(off_t, ftello, (FILE *stream), (at))
SERVE(off64_t, ftello64, (FILE *stream), (at))
SERVE_VOID(rewind, (FILE *stream), (at))
SERVE(int, fgetpos, (FILE *stream, fpos_t *position), (at, position))
TWIN(_IO_fgetpos, fgetpos);
SERVE(int, fgetpos64, (FILE *stream, fpos64_t *position), (at, position))
TWIN(_IO_fgetpos64, fgetpos64);
SERVE(int, fsetpos, (FILE *stream, const fpos_t *position), (at, position))
TWIN(_IO_fsetpos, fsetpos);
SERVE(int, fsetpos64, (FILE *stream, const fpos64_t *position), (at, position))
TWIN(_IO_fsetpos64, fsetpos64);

SERVE(int, feof, (FILE *stream), (at))
TWIN(_IO_feof, feof);
SERVE(int, feof_unlocked, (FILE *stream), (at))
SERVE(int, ferror, (FILE *stream), (at))
TWIN(_IO_ferror, ferror);
SERVE(int, ferror_unlocked, (FILE *stream), (at))
SERVE_VOID(clearerr, (FILE *stream), (at))
SERVE_VOID(clearerr_unlocked, (FILE *stream), (at))

SERVE(size_t, __fbufsize, (FILE *stream), (at))
SERVE(int, __flbf, (FILE *stream), (at))
SERVE(size_t, __fpending, (FILE *stream), (at))
SERVE_VOID(__fpurge, (FILE *stream), (at))
SERVE(int, __freadable, (FILE *stream), (at))
SERVE(int, __freading, (FILE *stream), (at))
SERVE(int, __fsetlocking, (FILE *stream, int type), (at, type))
SERVE(int, __fwritable, (FILE *stream), (at))
SERVE(int, __fwriting, (FILE *stream), (at))
