/* Descriptor numbers: what becomes of a connection when they are closed, duplicated and given out again.
 *
 * The child of a vfork has its parent's memory, but descriptors of its own: what it closes or duplicates says
 * nothing of the parent's, and the table stays as it is. */
#include <fcntl.h>
#include <unistd.h>

#include "around.h"
#include "streams.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#define CLOSE_RANGE_CLOEXEC 4
#endif

/* What the C library's threads have to write by a number is over when that is given out again: a program that does not
 * wait for it would write to something else. */
static void forget_queued(int fd)
{
    if (UNLIKELY(is_queued(fd)))
        atomic_fetch_and(&uktls_queued[fd / 8], (uint8_t)~(1 << fd % 8));
}

static void forget_mark(int fd, uint8_t mark)
{
    forget_queued(fd);
    /* Unless the number has been given out again. */
    if ((unsigned)fd < MARKS)
        atomic_compare_exchange_strong(&uktls_preload_marks[fd], &mark, uktls_floor());
}

int uktls_close_by(int fd, int (*next)(int))
{
    struct noted call __attribute__((cleanup(uktls_end_call)));
    uint8_t mark;
    int result;

    /* Keys that are set by this number at this moment wait until it is closed, and find that. */
    uktls_note_call(&call, fd);
    mark = mark_of(fd);
    if (LIKELY(mark == 0))
        return next(fd);
    if (!(mark & SLOW_CHANGE) || uktls_preload_in_vfork()) {
        if (mark & MARK_TLS)
            uktls_vfork_changed = true;
        result = next(fd);
        if (!(mark & SLOW_CHANGE) && !uktls_preload_in_vfork())
            forget_mark(fd, mark);
        return result;
    }
    uktls_end_note(&call);
    if (!(mark & MARK_OWN))
        return uktls_preload_close(fd);
    /* One of ours, which the program cannot have meant. */
    errno = EBADF;
    return -1;
}

int close(int fd)
{
    FAST(fd, 0xff, RESOLVED(close)(fd));
    return uktls_close_by(fd, NEXT(close));
}

TWIN(__close, close);

int uktls_unshare_range(unsigned first, unsigned last, int flags, int (*next)(unsigned, unsigned, int))
{
    if (!(flags & CLOSE_RANGE_UNSHARE) || first > last || flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC))
        return 0;
    if (uktls_preload_before_unshare() < 0)
        return -1;
    /* By the same call, of a number that there cannot be: a sandbox may forbid the other one. */
    return next(~0U, ~0U, CLOSE_RANGE_UNSHARE);
}

int close_range(unsigned first, unsigned last, int flags)
{
    /* With other flags it marks them only, or is wrong: either is the kernel's to say. */
    bool closes = (flags & ~CLOSE_RANGE_UNSHARE) == 0 && first <= last && !uktls_preload_in_vfork();
    unsigned from = first;

    if (uktls_unshare_range(first, last, flags, NEXT(close_range)) < 0)
        return -1;
    if (first <= last)
        flags &= ~CLOSE_RANGE_UNSHARE;

    /* In pieces, around what the library closes, and around its own descriptors. Each number is closed once: another thread may
     * open it again meanwhile. */
    for (unsigned fd = first; closes && fd <= last && fd < MARKS; fd++) {
        uint8_t mark = mark_of((int)fd);
        bool own = mark == MARK_OWN, watched = !(mark & (MARK_TLS | MARK_BUSY));

        if (!own && watched && !(mark & ~(MARK_OWN | uktls_floor())))
            continue;
        if (from < fd && NEXT(close_range)(from, fd - 1, flags) < 0)
            return -1;
        from = fd + 1;
        if (!own)
            (void)(watched ? close((int)fd) : uktls_preload_close((int)fd));
    }
    return from > last && from > first ? 0 : NEXT(close_range)(from, last, flags);
}

void closefrom(int first)
{
    if (close_range(first < 0 ? 0 : (unsigned)first, ~0U, 0) < 0)
        NEXT(closefrom)(first);
}

/* The socket will have more than one number. */
static void make_twin(int fd, uint8_t mark)
{
    if (UNLIKELY(mark & MARK_SOLE)) {
        atomic_fetch_or(&uktls_preload_marks[fd], MARK_TWIN);
        atomic_fetch_and(&uktls_preload_marks[fd], (uint8_t)~MARK_SOLE);
    }
}

/* What is known of the duplicate, while the call is noted; behind that, whether the socket has got keys meanwhile. Whoever
 * sets them waits for the call, and this one would wait for keys that are being set. */
static void follow(int old, int new_fd, uint8_t mark, struct noted *call, struct noted *of_old)
{
    if (new_fd < 0 || LIKELY(!(mark | mark_of(new_fd))))
        return;
    if (uktls_preload_in_vfork()) {
        /* The program that it starts has it. */
        if (mark)
            uktls_preload_passed(old);
        return;
    }
    uktls_preload_inherit(old, new_fd);
    uktls_end_note(call);
    if (of_old != NULL)
        uktls_end_note(of_old);
    uktls_preload_came_over(new_fd);
}

/* In the child of a vfork: a TLS socket under a number that its parent does not have there would be unknown to the table,
 * and the program that the child starts would not have the keys. The number gets a descriptor that nothing can be written
 * to or read from, and that closes itself as the socket would. */
static int place_in_vfork(int new_fd, int least)
{
    int place = uktls_preload_placeholder(least), result;

    uktls_vfork_changed = true;
    if (place < 0 || new_fd < 0)
        return place;
    result = NEXT(dup3)(place, new_fd, O_CLOEXEC);
    if (place != new_fd)
        NEXT(close)(place);
    return result;
}

_Atomic bool uktls_vfork_changed;

int uktls_duplicate(int old, int command, int least, int (*next)(int, int, ...))
{
    bool is_dup = command < 0;

    for (;;) {
        struct noted call __attribute__((cleanup(uktls_end_call)));
        uint8_t mark;
        int result;

        /* Who sets keys waits for this call, and then finds the duplicate. */
        uktls_note_call(&call, old);
        mark = mark_of(old);
        if (LIKELY(!(mark & (MARK_TLS | MARK_BUSY)))) {
            make_twin(old, mark);
            result = next(old, command, least);
            follow(old, result, mark, &call, NULL);
            return result;
        }
        uktls_end_note(&call);
        if (uktls_preload_in_vfork())
            return place_in_vfork(-1, is_dup ? -1 : least);
        if (!is_dup && least < 0) {
            errno = EINVAL;
            return -1;
        }
        result = uktls_preload_duplicate(old, is_dup ? -1 : least);
        if (result >= 0 || errno != ENOPROTOOPT)
            return result;
    }
}

static int next_dup(int old, int command, ...)
{
    (void)command;
    return NEXT(dup)(old);
}

int dup(int old)
{
    return uktls_duplicate(old, -1, 0, next_dup);
}

int uktls_dup_over(int old, int new_fd, int flags, int (*next)(int, int, int))
{
    struct noted of_old __attribute__((cleanup(uktls_end_call)));
    struct noted call __attribute__((cleanup(uktls_end_call)));
    uint8_t mark, mark_of_old;
    bool is_moving;
    int result;

    /* Who sets keys by either number waits for this call. */
    uktls_note_call(&of_old, old);
    uktls_note_call(&call, new_fd);
    mark = mark_of(new_fd);
    mark_of_old = mark_of(old);
    if (LIKELY(!(mark & SLOW_CHANGE) && !(mark_of_old & (MARK_TLS | MARK_BUSY))) || old == new_fd ||
        uktls_preload_in_vfork()) {
        if (mark_of_old & MARK_TLS && old != new_fd && uktls_preload_is_here(old))
            return place_in_vfork(new_fd, -1);
        if (mark & MARK_TLS && old != new_fd)
            /* By the child of a vfork. */
            uktls_vfork_changed = true;
        if (old == new_fd)
            return next(old, new_fd, flags);
        make_twin(old, mark_of_old);
        is_moving = mark_of_old & (MARK_WATCHED | MARK_REFUSED) && !(mark & SLOW_IN & ~uktls_floor()) &&
                    uktls_preload_may_have_keys(old);
        /* What the C library's streams write there by themselves would be written to the socket. */
        if (is_moving && uktls_streams_leave(new_fd) < 0)
            return -1;
        result = next(old, new_fd, flags);
        follow(old, result, mark_of_old, &call, &of_old);
        if (is_moving)
            uktls_streams_return(new_fd);
        return result;
    }
    uktls_end_note(&call);
    uktls_end_note(&of_old);
    if (mark & MARK_OWN || is_queued(new_fd)) {
        /* As for a number that is about to be used by another thread. */
        errno = EBUSY;
        return -1;
    }
    return uktls_preload_replace(old, new_fd, flags);
}

static int next_dup2(int old, int new_fd, int flags)
{
    (void)flags;
    return NEXT(dup2)(old, new_fd);
}

int dup2(int old, int new_fd)
{
    return uktls_dup_over(old, new_fd, 0, next_dup2);
}

TWIN(__dup2, dup2);

int dup3(int old, int new_fd, int flags)
{
    return uktls_dup_over(old, new_fd, flags, NEXT(dup3));
}

/* A new descriptor. */
int uktls_fresh(int fd, int type)
{
    bool is_stream = (type & 0xf) == SOCK_STREAM;

    if (fd < 0)
        return fd;
    if (LIKELY((unsigned)fd < MARKS))
        uktls_last_writer[fd] = NULL;
    forget_queued(fd);
    if ((is_stream || mark_of(fd)) && !uktls_preload_in_vfork())
        uktls_preload_fresh(fd, is_stream);
    return fd;
}

int socket(int domain, int type, int protocol)
{
    return uktls_fresh(NEXT(socket)(domain, type, protocol), type);
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
    int result = NEXT(socketpair)(domain, type, protocol, pair);

    if (result == 0) {
        uktls_fresh(pair[0], type);
        uktls_fresh(pair[1], type);
    }
    return result;
}

int accept(int fd, struct sockaddr *address, socklen_t *len)
{
    return uktls_fresh(NEXT(accept)(fd, address, len), SOCK_STREAM);
}

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    return uktls_fresh(NEXT(accept4)(fd, address, len, flags), SOCK_STREAM);
}

/* A disconnected socket would be free for another connection, without keys (ATT-12). */
bool uktls_disconnects(int fd, const struct sockaddr *address, socklen_t len)
{
    return is_tls(fd) && !uktls_preload_has_been_replaced(fd) && len >= sizeof(address->sa_family) &&
           uktls_preload_may_look(address, sizeof(address->sa_family)) && address->sa_family == AF_UNSPEC;
}

int connect(int fd, const struct sockaddr *address, socklen_t len)
{
    if (uktls_disconnects(fd, address, len)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return NEXT(connect)(fd, address, len);
}

TWIN(__connect, connect);
