/* Descriptor numbers: what becomes of a connection when they are closed, duplicated and given out again.
 *
 * The child of a vfork has its parent's memory, but descriptors of its own: what it closes or duplicates says
 * nothing of the parent's, and the table stays as it is. */
#include <fcntl.h>
#include <unistd.h>

#include "around.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

int close(int fd)
{
    uint8_t mark = mark_of(fd);

    if (LIKELY(mark == 0) || uktls_preload_in_vfork())
        return NEXT(close)(fd);
    if (mark != MARK_OWN)
        return uktls_preload_close(fd);
    /* One of ours, which the program cannot have meant. */
    errno = EBADF;
    return -1;
}

TWIN(__close, close);

int close_range(unsigned first, unsigned last, int flags)
{
    /* With other flags it marks them only, or is wrong: either is the kernel's to say. */
    bool closes = (flags & ~CLOSE_RANGE_UNSHARE) == 0 && first <= last && !uktls_preload_in_vfork();
    unsigned from = first;

    /* In pieces, around the descriptors of the library's own. */
    for (unsigned fd = first; closes && fd <= last && fd < MARKS; fd++) {
        uint8_t mark = mark_of((int)fd);

        if (mark & MARK_TLS)
            (void)uktls_preload_close((int)fd);
        if (mark != MARK_OWN)
            continue;
        if (from < fd && NEXT(close_range)(from, fd - 1, flags) < 0)
            return -1;
        from = fd + 1;
    }
    return from > last && from > first ? 0 : NEXT(close_range)(from, last, flags);
}

void closefrom(int first)
{
    if (close_range(first < 0 ? 0 : (unsigned)first, ~0U, 0) < 0)
        NEXT(closefrom)(first);
}

void uktls_followed(int old, int new_fd)
{
    if (new_fd >= 0 && UNLIKELY(is_tls(old) || mark_of(new_fd)))
        uktls_preload_duplicated(old, new_fd);
}

int dup(int old)
{
    int new_fd = NEXT(dup)(old);

    uktls_followed(old, new_fd);
    return new_fd;
}

struct over {
    int old, new_fd, flags;
    int (*next)(int, int, int);
};

static int dup_over(void *closure)
{
    const struct over *over = closure;

    return over->next(over->old, over->new_fd, over->flags);
}

static int duplicate_over(struct over over)
{
    uint8_t mark = mark_of(over.new_fd);
    int result;

    if (LIKELY(mark == 0) || over.old == over.new_fd || uktls_preload_in_vfork()) {
        result = dup_over(&over);
    } else if (mark == MARK_OWN) {
        /* As for a number that is about to be used by another thread. */
        errno = EBUSY;
        return -1;
    } else if ((over.flags & ~O_CLOEXEC) != 0) {
        errno = EINVAL;
        return -1;
    } else if (fcntl(over.old, F_GETFD) < 0) {
        return -1;
    } else {
        result = uktls_preload_close_by(over.new_fd, dup_over, &over);
    }
    if (over.old != over.new_fd)
        uktls_followed(over.old, result);
    return result;
}

int uktls_dup_over(int old, int new_fd, int flags, int (*next)(int, int, int))
{
    return duplicate_over((struct over){old, new_fd, flags, next});
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

/* A new socket under a number that was closed without our knowledge. */
int uktls_fresh(int fd)
{
    if (fd >= 0 && UNLIKELY(mark_of(fd)))
        uktls_preload_reused(fd);
    if (LIKELY((unsigned)fd < MARKS))
        uktls_last_writer[fd] = NULL;
    if (LIKELY((unsigned)fd < MARKS) && UNLIKELY(atomic_load_explicit(&uktls_streams[fd], memory_order_relaxed)))
        atomic_store_explicit(&uktls_streams[fd], 0, memory_order_relaxed);
    return fd;
}

int socket(int domain, int type, int protocol)
{
    return uktls_fresh(NEXT(socket)(domain, type, protocol));
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
    int result = NEXT(socketpair)(domain, type, protocol, pair);

    if (result == 0) {
        uktls_fresh(pair[0]);
        uktls_fresh(pair[1]);
    }
    return result;
}

int accept(int fd, struct sockaddr *address, socklen_t *len)
{
    return uktls_fresh(NEXT(accept)(fd, address, len));
}

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    return uktls_fresh(NEXT(accept4)(fd, address, len, flags));
}

/* A disconnected socket would be free for another connection, without keys (ATT-12). */
bool uktls_disconnects(int fd, const struct sockaddr *address, socklen_t len)
{
    return is_tls(fd) && uktls_preload_verify(fd) && len >= sizeof(address->sa_family) &&
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
