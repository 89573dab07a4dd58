/* Moves streams of the C library off numbers that become TLS sockets', and back (streams.h). */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#include "streams.h"

/* glibc's libio.h and libioP.h, which are not installed; these have been the same since 2.1. */
enum {
    IO_UNBUFFERED = 0x2,
    IO_NO_READS = 0x4,
    IO_NO_WRITES = 0x8,
    IO_IN_BACKUP = 0x100,
    IO_LINE_BUF = 0x200,
    IO_CURRENTLY_PUTTING = 0x800,
    IO_SEEN = _IO_EOF_SEEN | _IO_ERR_SEEN,
};

struct io_lock {
    int lock, count;
    void *owner;
};

struct io_wide {
    wchar_t *read_ptr, *read_end, *read_base;
    wchar_t *write_base, *write_ptr, *write_end;
    wchar_t *buf_base, *buf_end;
    wchar_t *save_base, *backup_base, *save_end;
};

extern FILE *_IO_iter_begin(void), *_IO_iter_end(void), *_IO_iter_next(FILE *), *_IO_iter_file(FILE *);
extern void _IO_list_lock(void), _IO_list_unlock(void);

/* A stream and its twin. Never freed: whoever looks a twin up takes no lock. A stream that is back on its number
 * keeps the twin for the next time, as other threads may still be in a call on it. */
struct twin {
    FILE *_Atomic stream; /* NULL: free for another */
    FILE *_Atomic file;   /* of fopencookie */
    _Atomic int number;
    _Atomic int inside; /* calls that are at the number now */
    atomic_bool serves;
    /* What moving must not do: write. */
    bool is_held;
    int flags; /* of the stream, that it gets back */
    char *buffer;
    /* What the stream had read and the program had not: bytes from `unread_at` to `unread_len`. */
    char *unread;
    size_t unread_len, unread_at;
    struct twin *_Atomic next;
    struct twin *staged;
};

enum { BUCKETS = 256 };
static struct twin *_Atomic buckets[BUCKETS];
_Atomic int uktls_dead_number = NOT_MADE;

/* By number: leaves that no return has ended yet, where it was not off; and streams that are served by twins. */
static _Atomic uint32_t claims[MARKS];
static _Atomic uint32_t served[MARKS];

/* The C library does its last writing when we have drained. */
static atomic_bool is_ending;

/* Guards all but what the calls on streams look up. Behind it: the C library's lock of its list, and of that the
 * locks of streams, which are only tried. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* close is called in signal handlers, which must not find the lock held by their own thread. */
static void take(sigset_t *mask)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, mask);
    pthread_mutex_lock(&lock);
}

static void release(const sigset_t *mask)
{
    pthread_mutex_unlock(&lock);
    pthread_sigmask(SIG_SETMASK, mask, NULL);
}

static struct twin *_Atomic *bucket_of(const FILE *stream)
{
    uintptr_t address = (uintptr_t)stream / 16;

    return &buckets[(address ^ address / BUCKETS) % BUCKETS];
}

static struct twin *twin_of(const FILE *stream)
{
    /* Acquire: of a twin that is found, what it was when it was put there. */
    struct twin *at = atomic_load_explicit(bucket_of(stream), memory_order_acquire);

    while (at != NULL && atomic_load_explicit(&at->stream, memory_order_acquire) != stream)
        at = atomic_load_explicit(&at->next, memory_order_acquire);
    return at;
}

static bool serves(struct twin *twin)
{
    /* Acquire: pairs with the release in `become_dead`. */
    return twin != NULL && atomic_load_explicit(&twin->serves, memory_order_acquire);
}

FILE *uktls_find_twin(FILE *stream)
{
    struct twin *twin = twin_of(stream);

    return serves(twin) ? atomic_load_explicit(&twin->file, memory_order_relaxed) : stream;
}

/* --- the twin's functions ------------------------------------------------------------------ */

static bool is_changing(int fd)
{
    return (unsigned)fd < MARKS && atomic_load(&claims[fd]) > 0 && !is_off(fd);
}

static void go_out(void *twin)
{
    atomic_fetch_sub(&((struct twin *)twin)->inside, 1);
}

/* Between uktls_streams_leave, which has waited for all to be out of here, and the number's mark it is not decided what
 * the number is. That takes a system call or two, unless we have interrupted it. Whoever is let in goes out again. */
static bool go_in(struct twin *twin)
{
    enum { ROUNDS = 1000 };
    static const struct timespec round = {0, 1000000};

    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&twin->inside, 1);
        /* Behind that: who changes the number does it the other way round. */
        if (LIKELY(!is_changing(twin->number)))
            return true;
        go_out(twin);
        nanosleep(&round, NULL);
    }
    errno = EAGAIN;
    return false;
}

static ssize_t twin_read(void *closure, char *data, size_t len)
{
    struct twin *twin = closure;
    size_t left = twin->unread_len - twin->unread_at;
    ssize_t n;

    if (left > 0) {
        len = len < left ? len : left;
        memcpy(data, twin->unread + twin->unread_at, len);
        twin->unread_at += len;
        return (ssize_t)len;
    }
    if (!go_in(twin))
        return -1;
    /* The thread may be cancelled there. */
    pthread_cleanup_push(go_out, twin);
    n = read(twin->number, data, len);
    pthread_cleanup_pop(1);
    return n;
}

static ssize_t twin_write(void *closure, const char *data, size_t len)
{
    struct twin *twin = closure;
    ssize_t n;

    if (twin->is_held) {
        errno = EAGAIN;
        return 0;
    }
    if (!go_in(twin))
        return 0;
    pthread_cleanup_push(go_out, twin);
    n = write(twin->number, data, len);
    pthread_cleanup_pop(1);
    if (UNLIKELY(atomic_load_explicit(&is_ending, memory_order_relaxed)))
        uktls_preload_drain();
    /* What fopencookie(3) wants for an error. */
    return n < 0 ? 0 : n;
}

/* The number may be another file's by now. */
static int twin_seek(void *closure, off64_t *offset, int whence)
{
    struct twin *twin = closure;
    off64_t at = -1;

    if (is_tls(twin->number))
        errno = ESPIPE;
    else
        at = lseek64(twin->number, *offset, whence);
    if (at < 0)
        return -1;
    *offset = at;
    return 0;
}

static int twin_close(void *closure)
{
    struct twin *twin = closure;

    return twin->number < 0 ? 0 : close(twin->number);
}

/* --- a stream's state ---------------------------------------------------------------------- */

static struct io_wide *wide_of(const FILE *stream)
{
    return stream->_mode > 0 ? (struct io_wide *)stream->_wide_data : NULL;
}

static bool is_locked_by_us(const FILE *stream)
{
    return ((struct io_lock *)stream->_lock)->owner == (void *)pthread_self();
}

/* Not again what this thread has: it is in the midst of a call on the stream then. */
static bool try_lock(FILE *stream)
{
    return stream->_lock != NULL && !is_locked_by_us(stream) && NEXT(ftrylockfile)(stream) == 0;
}

/* Of threads that write without pause one may have it at each look. */
static bool try_lock_often(FILE *stream)
{
    enum { TRIES = 100 };

    for (int i = 0; i < TRIES; i++) {
        if (try_lock(stream))
            return true;
        if (is_locked_by_us(stream))
            return false;
        sched_yield();
    }
    return false;
}

static void unlock(FILE *stream)
{
    NEXT(funlockfile)(stream);
}

static bool has_bytes_read(const FILE *stream)
{
    const struct io_wide *wide = wide_of(stream);

    return (wide != NULL && wide->read_ptr < wide->read_end) || (stream->_flags & IO_IN_BACKUP) != 0 ||
           stream->_IO_read_ptr < stream->_IO_read_end;
}

/* How much of that there is: wide characters, and bytes behind those that were pushed back. */
static size_t unread_wide(const FILE *stream)
{
    const struct io_wide *wide = wide_of(stream);

    if (wide == NULL)
        return 0;
    return (size_t)(wide->read_end - wide->read_ptr) +
           (stream->_flags & IO_IN_BACKUP ? (size_t)(wide->save_end - wide->save_base) : 0);
}

static size_t unread_behind(const FILE *stream)
{
    bool is_narrow = wide_of(stream) == NULL;

    return is_narrow && (stream->_flags & IO_IN_BACKUP) ? (size_t)(stream->_IO_save_end - stream->_IO_save_base) : 0;
}

/* As bytes, at most. */
static size_t unread_of(const FILE *stream)
{
    return unread_wide(stream) * MB_LEN_MAX + (size_t)(stream->_IO_read_end - stream->_IO_read_ptr) +
           unread_behind(stream);
}

/* How much its buffers hold, for the twin's. */
static size_t room_of(FILE *stream)
{
    size_t room = NEXT(__fbufsize)(stream), pending = NEXT(__fpending)(stream) + 1;

    room = room > pending ? room : pending;
    room = room > BUFSIZ ? room : BUFSIZ;
    return stream->_mode > 0 ? room * MB_LEN_MAX : room;
}

/* --- finding and making twins -------------------------------------------------------------- */

static bool fits(const struct twin *twin, const FILE *stream)
{
    const FILE *file = twin->file;
    int access = IO_NO_READS | IO_NO_WRITES;

    return file != NULL && (file->_flags & access) == (stream->_flags & access);
}

static struct twin *place_for(FILE *stream)
{
    struct twin *_Atomic *bucket = bucket_of(stream);
    struct twin *twin = twin_of(stream);

    if (twin != NULL && fits(twin, stream))
        return twin;
    /* Of a stream that the C library has closed by itself. Its twin is not freed: it may be in use. */
    if (twin != NULL)
        atomic_store_explicit(&twin->stream, NULL, memory_order_release);
    for (twin = *bucket; twin != NULL; twin = twin->next)
        if (twin->stream == NULL && twin->file == NULL)
            break;
    if (twin == NULL) {
        twin = calloc(1, sizeof(*twin));
        if (twin == NULL)
            return NULL;
        twin->next = *bucket;
        atomic_store_explicit(bucket, twin, memory_order_release);
    }
    return twin;
}

/* The twin's stream, with a buffer of `room` bytes; NULL with errno. */
static FILE *file_of(struct twin *twin, const FILE *stream, char *buffer, size_t room)
{
    static const cookie_io_functions_t functions = {twin_read, twin_write, twin_seek, twin_close};
    const char *mode = stream->_flags & IO_NO_READS ? "w" : stream->_flags & IO_NO_WRITES ? "r" : "r+";
    FILE *file = twin->file;

    if (file == NULL) {
        file = fopencookie(twin, mode, functions);
        if (file == NULL)
            return NULL;
    } else if (try_lock(file)) {
        unlock(file);
    } else {
        errno = EBUSY;
        return NULL;
    }
    twin->file = file;
    twin->is_held = true;
    if (NEXT(setvbuf)(file, buffer, _IOFBF, room) != 0) {
        /* Another thread's call that came too late has left something there, which it will write now. */
        errno = EBUSY;
        file = NULL;
    } else {
        /* The C library sets it only when it makes room in the buffer, which it has to do again. */
        file->_flags &= ~IO_CURRENTLY_PUTTING;
    }
    twin->is_held = false;
    return file;
}

/* A twin for the stream with room for all that is in it; NULL with errno. */
static struct twin *prepare(FILE *stream)
{
    struct twin *twin = place_for(stream);
    size_t room = room_of(stream), unread_room = unread_of(stream);
    char *buffer = malloc(room), *unread = malloc(unread_room + 1);

    if (twin == NULL || buffer == NULL || unread == NULL || file_of(twin, stream, buffer, room) == NULL) {
        free(buffer);
        free(unread);
        return NULL;
    }
    free(twin->buffer);
    free(twin->unread);
    twin->buffer = buffer;
    twin->unread = unread;
    twin->unread_at = twin->unread_len = 0;
    atomic_store_explicit(&twin->stream, stream, memory_order_release);
    return twin;
}

static bool make_dead(void)
{
    int fd;

    if (uktls_dead_number != NOT_MADE)
        return true;
    /* Writing fails (ENOTCONN) without a signal, reading fails (EINVAL) and does not wait. */
    fd = NEXT(socket)(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        uktls_dead_number = uktls_preload_keep(fd);
    return fd >= 0;
}

/* --- leaving ------------------------------------------------------------------------------- */

/* What has been read and not been asked for goes on as bytes. */
static void carry_input(struct twin *twin, FILE *stream)
{
    size_t wide_count = unread_wide(stream), backed = unread_behind(stream);
    mbstate_t state = {0};
    char *to = twin->unread;
    size_t plain;

    if (stream->_flags & IO_CURRENTLY_PUTTING)
        return;
    for (; wide_count > 0; wide_count--) {
        size_t n = wcrtomb(to, (wchar_t)NEXT(fgetwc_unlocked)(stream), &state);

        to += n == (size_t)-1 ? 0 : n;
    }
    plain = (size_t)(stream->_IO_read_end - stream->_IO_read_ptr);
    memcpy(to, stream->_IO_read_ptr, plain);
    memcpy(to + plain, stream->_IO_save_base, backed);
    twin->unread_len = (size_t)(to - twin->unread) + plain + backed;
}

/* A twin knows bytes only. Those that a wide stream has made of its characters already come before the others. */
static void carry_output(const FILE *stream, FILE *file)
{
    const struct io_wide *wide = wide_of(stream);
    mbstate_t state = {0};
    char bytes[MB_LEN_MAX];

    for (const char *at = stream->_IO_write_base; at < stream->_IO_write_ptr; at++)
        NEXT(fputc_unlocked)((unsigned char)*at, file);
    for (const wchar_t *at = wide == NULL ? NULL : wide->write_base; wide != NULL && at < wide->write_ptr; at++) {
        size_t n = wcrtomb(bytes, *at, &state);

        for (size_t i = 0; n != (size_t)-1 && i < n; i++)
            NEXT(fputc_unlocked)((unsigned char)bytes[i], file);
    }
}

/* Nothing is in the stream any more, and no room either: the program's macros come to us for each character. */
static void become_dead(FILE *stream)
{
    struct io_wide *wide = wide_of(stream);

    NEXT(__fpurge)(stream);
    stream->_IO_read_ptr = stream->_IO_read_end;
    stream->_IO_write_end = stream->_IO_write_ptr = stream->_IO_write_base;
    if (wide != NULL) {
        wide->read_ptr = wide->read_end;
        wide->write_end = wide->write_ptr = wide->write_base;
    }
    stream->_flags = (stream->_flags & ~IO_CURRENTLY_PUTTING) | IO_NO_READS | IO_NO_WRITES;
    stream->_offset = -1;
    stream->_fileno = uktls_dead_number;
}

static void leave(struct twin *twin, int fd)
{
    FILE *stream = twin->stream, *file = twin->file;
    int flags = stream->_flags;

    twin->is_held = true;
    carry_input(twin, stream);
    carry_output(stream, file);
    twin->is_held = false;
    if (flags & IO_UNBUFFERED)
        NEXT(setvbuf)(file, NULL, _IONBF, 0);
    else if (flags & IO_LINE_BUF)
        NEXT(setvbuf)(file, NULL, _IOLBF, 0);
    if (flags & _IO_USER_LOCK)
        NEXT(__fsetlocking)(file, FSETLOCKING_BYCALLER);
    file->_flags = (file->_flags & ~IO_SEEN) | (flags & IO_SEEN);
    twin->flags = flags;
    twin->number = fd;
    served[fd]++;
    /* Release: pairs with the acquire in `serves`. */
    atomic_store_explicit(&twin->serves, true, memory_order_release);
    become_dead(stream);
}

static void unlock_staged(struct twin *staged)
{
    for (; staged != NULL; staged = staged->staged)
        unlock(staged->stream);
}

/* Locks the streams that are on the number, each with a twin that is ready. */
static int stage(int fd, struct twin **staged)
{
    *staged = NULL;
    for (FILE *at = _IO_iter_begin(); at != _IO_iter_end(); at = _IO_iter_next(at)) {
        FILE *stream = _IO_iter_file(at);
        struct twin *twin;

        if (stream->_fileno != fd)
            continue;
        if (stream->_lock == NULL)
            /* Of dprintf, on another thread's stack: that call is noted (interpose.h) and waited for. */
            continue;
        if (!try_lock_often(stream))
            return EBUSY;
        twin = make_dead() ? prepare(stream) : NULL;
        if (twin == NULL) {
            unlock(stream);
            return errno;
        }
        twin->staged = *staged;
        *staged = twin;
    }
    return 0;
}

/* Whether a call on a twin may be between its look at the number, which another file has now, and the kernel. */
static int pass_twins(int fd)
{
    for (int i = 0; i < BUCKETS && served[fd] > 0 && !is_off(fd); i++)
        for (struct twin *twin = buckets[i]; twin != NULL; twin = twin->next)
            if (twin->serves && twin->number == fd && atomic_load(&twin->inside) > 0)
                return EBUSY;
    return 0;
}

/* Under the lock. A stream that another thread is in for longer may be what sleeps on the number. */
static int move_streams(int fd)
{
    enum { ROUNDS = 50 };
    static const struct timespec round = {0, 1000000};
    int error = 0;

    if (fd == uktls_dead_number) {
        errno = EBUSY;
        return -1;
    }
    for (int i = 0; i < ROUNDS; i++) {
        struct twin *staged;

        if (error != 0)
            nanosleep(&round, NULL);
        error = pass_twins(fd);
        if (error != 0)
            continue;
        _IO_list_lock();
        error = stage(fd, &staged);
        for (struct twin *at = staged; error == 0 && at != NULL; at = at->staged)
            leave(at, fd);
        unlock_staged(staged);
        _IO_list_unlock();
        if (error != EBUSY)
            break;
    }
    errno = error;
    return error == 0 ? 0 : -1;
}

int uktls_streams_leave(int fd)
{
    int saved = errno, result;
    sigset_t mask;
    bool was_off;

    if ((unsigned)fd >= MARKS || uktls_preload_in_vfork())
        return 0;
    take(&mask);
    was_off = is_off(fd);
    /* Ahead of the look: who opens a stream looks here afterwards. */
    if (!was_off)
        atomic_fetch_add(&claims[fd], 1);
    result = move_streams(fd);
    if (result < 0 && !was_off)
        atomic_fetch_sub(&claims[fd], 1);
    release(&mask);
    if (result == 0)
        errno = saved;
    return result;
}

void uktls_streams_leave_marked(int fd)
{
    int saved = errno;
    sigset_t mask;

    if ((unsigned)fd >= MARKS || !is_off(fd) || !uktls_preload_may_have_keys(fd) || uktls_preload_in_vfork())
        return;
    take(&mask);
    (void)move_streams(fd);
    release(&mask);
    errno = saved;
}

/* The first number, from `fd` on, that is off and has a stream. */
static int next_to_leave(int fd)
{
    int found = MARKS;

    _IO_list_lock();
    for (FILE *at = _IO_iter_begin(); at != _IO_iter_end(); at = _IO_iter_next(at)) {
        int number = _IO_iter_file(at)->_fileno;

        if (number >= fd && number < found && is_off(number))
            found = number;
    }
    _IO_list_unlock();
    return found;
}

void uktls_streams_leave_watched(void)
{
    for (int fd = next_to_leave(0); fd < MARKS; fd = next_to_leave(fd + 1))
        uktls_streams_leave_marked(fd);
}

/* --- returning ----------------------------------------------------------------------------- */

static bool is_idle(const struct twin *twin)
{
    return NEXT(__fpending)(twin->file) == 0 && !has_bytes_read(twin->file) && twin->unread_at == twin->unread_len;
}

static void stop_serving(struct twin *twin)
{
    atomic_store_explicit(&twin->serves, false, memory_order_release);
    served[twin->number]--;
}

/* With both locked. */
static void put_back(struct twin *twin)
{
    FILE *stream = twin->stream, *file = twin->file;
    int buffering = IO_LINE_BUF | IO_UNBUFFERED, closed = IO_NO_READS | IO_NO_WRITES, was = twin->flags;
    int mode = file->_flags & IO_UNBUFFERED ? _IONBF : file->_flags & IO_LINE_BUF ? _IOLBF : _IOFBF;

    stop_serving(twin);
    stream->_fileno = twin->number;
    stream->_flags = (stream->_flags & ~(closed | IO_SEEN)) | (was & closed) | (file->_flags & IO_SEEN);
    if ((file->_flags & buffering) != (was & buffering))
        NEXT(setvbuf)(stream, NULL, mode, 0);
}

static void try_to_return(struct twin *twin)
{
    FILE *stream = twin->stream, *file = twin->file;

    if (!try_lock(file))
        return;
    if (is_idle(twin) && try_lock(stream)) {
        put_back(twin);
        unlock(stream);
    }
    unlock(file);
}

static bool is_plain(int fd)
{
    return atomic_load(&claims[fd]) == 0 && !is_off(fd);
}

static void return_streams(int fd)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct twin *twin = buckets[i]; twin != NULL; twin = twin->next)
            if (twin->serves && twin->number == fd)
                try_to_return(twin);
}

void uktls_streams_return(int fd)
{
    int saved = errno;
    sigset_t mask;

    if ((unsigned)fd >= MARKS || (atomic_load(&claims[fd]) == 0 && atomic_load(&served[fd]) == 0) ||
        uktls_preload_in_vfork())
        return;
    take(&mask);
    if (claims[fd] > 0)
        claims[fd]--;
    if (served[fd] > 0 && is_plain(fd))
        return_streams(fd);
    release(&mask);
    errno = saved;
}

void uktls_stream_rests(FILE *stream)
{
    struct twin *twin = twin_of(stream);
    int saved = errno;
    sigset_t mask;

    if (!serves(twin) || !is_plain(twin->number))
        return;
    take(&mask);
    if (twin->stream == stream && twin->serves && is_plain(twin->number))
        try_to_return(twin);
    release(&mask);
    errno = saved;
}

void uktls_stream_put_back(FILE *stream)
{
    struct twin *twin = twin_of(stream);
    sigset_t mask;
    FILE *file;

    if (!serves(twin))
        return;
    file = twin->file;
    NEXT(flockfile)(file);
    NEXT(flockfile)(stream);
    take(&mask);
    if (twin->stream == stream && twin->serves) {
        NEXT(__fpurge)(file);
        twin->unread_at = twin->unread_len;
        put_back(twin);
    }
    release(&mask);
    unlock(stream);
    unlock(file);
}

/* --- calls --------------------------------------------------------------------------------- */

int uktls_stream_number(FILE *stream)
{
    struct twin *twin;

    if (LIKELY(serving(stream) == stream))
        return -1;
    twin = twin_of(stream);
    return serves(twin) ? twin->number : -1;
}

FILE *uktls_stream_hold(FILE *stream)
{
    FILE *at = serving(stream);

    NEXT(flockfile)(at);
    while (UNLIKELY(serving(stream) != at)) {
        NEXT(funlockfile)(at);
        at = serving(stream);
        NEXT(flockfile)(at);
    }
    return at;
}

void uktls_stream_let_go(FILE *const *held)
{
    if (UNLIKELY(*held != NULL))
        NEXT(funlockfile)(*held);
}

void uktls_stream_served(FILE *stream, FILE *file)
{
    int saved = errno;

    if (UNLIKELY(stream->_fileno != uktls_dead_number)) {
        /* It returned meanwhile. */
        NEXT(fflush)(file);
    } else if (UNLIKELY((stream->_flags ^ file->_flags) & IO_SEEN)) {
        NEXT(flockfile)(stream);
        if (stream->_fileno == uktls_dead_number)
            stream->_flags = (stream->_flags & ~IO_SEEN) | (file->_flags & IO_SEEN);
        unlock(stream);
    }
    errno = saved;
}

/* A descriptor that the C library may close, as dead as that of all. */
static int disposable(void)
{
    return NEXT(fcntl)(uktls_dead_number, F_DUPFD_CLOEXEC, 0);
}

FILE *uktls_stream_opened(FILE *stream)
{
    int fd = stream != NULL ? stream->_fileno : -1, error;
    sigset_t mask;

    if (LIKELY((unsigned)fd >= MARKS) || LIKELY(atomic_load(&claims[fd]) == 0 && !is_off(fd)) ||
        (!is_tls(fd) && atomic_load(&claims[fd]) == 0 && !uktls_preload_may_have_keys(fd)))
        return stream;
    take(&mask);
    error = move_streams(fd) == 0 ? 0 : errno;
    release(&mask);
    if (error == 0)
        return stream;
    stream->_fileno = uktls_dead_number != NOT_MADE ? disposable() : -1;
    NEXT(fclose)(stream);
    errno = error;
    return NULL;
}

int uktls_stream_close(FILE *stream, int (*next)(FILE *))
{
    struct twin *twin = twin_of(stream);
    int result = 0, error = 0;
    bool served_it;
    sigset_t mask;

    if (twin == NULL || twin->file == NULL)
        return next(stream);
    take(&mask);
    served_it = twin->serves;
    if (served_it)
        stop_serving(twin);
    else
        twin->number = -1;
    atomic_store_explicit(&twin->stream, NULL, memory_order_release);
    release(&mask);
    /* Closes the number, if it is the twin's. */
    if (NEXT(fclose)(twin->file) != 0 && served_it) {
        result = EOF;
        error = errno;
    }
    free(twin->buffer);
    free(twin->unread);
    twin->buffer = twin->unread = NULL;
    twin->unread_len = twin->unread_at = 0;
    /* Free for another, which may come at once. */
    atomic_store_explicit(&twin->file, NULL, memory_order_release);
    if (served_it)
        stream->_fileno = disposable();
    if (result == 0)
        return next(stream);
    (void)next(stream);
    errno = error;
    return result;
}

/* --- the process --------------------------------------------------------------------------- */

void uktls_streams_hold(void)
{
    pthread_mutex_lock(&lock);
}

void uktls_streams_release(void)
{
    pthread_mutex_unlock(&lock);
}

/* The threads that were in twins are not in the child. */
void uktls_streams_release_in_child(void)
{
    for (int i = 0; i < BUCKETS && uktls_dead_number != NOT_MADE; i++)
        for (struct twin *twin = buckets[i]; twin != NULL; twin = twin->next)
            twin->inside = 0;
    uktls_streams_release();
}

void uktls_flush_streams(void)
{
    atomic_store_explicit(&is_ending, true, memory_order_relaxed);
    if (uktls_dead_number == NOT_MADE)
        return;
    for (int i = 0; i < BUCKETS; i++)
        for (struct twin *twin = buckets[i]; twin != NULL; twin = twin->next) {
            FILE *file = twin->file;

            /* As exit does it, which passes over a stream that another thread is at. */
            if (serves(twin) && NEXT(ftrylockfile)(file) == 0) {
                NEXT(fflush_unlocked)(file);
                unlock(file);
            }
        }
}
