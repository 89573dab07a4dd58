/* Descriptor numbers: what becomes of a connection when they are closed, duplicated and given out again.
 *
 * The child of a vfork has its parent's memory, but descriptors of its own: what it closes or duplicates says
 * nothing of the parent's, and the table stays as it is. */
#include <fcntl.h>
#include <unistd.h>

#include "streams.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

int close(int fd)
{
    uint8_t mark = mark_of(fd);

    if (LIKELY(mark == 0) || uktls_preload_in_vfork())
        return NEXT(close)(fd);
    if (mark != MARK_OWN) {
        int result = uktls_preload_close(fd);

        uktls_streams_return(fd);
        return result;
    }
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
            (void)close((int)fd);
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

int uktls_follow(int old, int new_fd)
{
    /* A number that the kernel chose may be that of a stream whose descriptor was closed; and nothing of a TLS socket
     * goes to standard error, where the C library writes by itself. */
    if (is_tls(old) && (new_fd == STDERR_FILENO || uktls_streams_leave(new_fd) < 0)) {
        int error = new_fd == STDERR_FILENO ? EOPNOTSUPP : errno;

        NEXT(close)(new_fd);
        errno = error;
        return -1;
    }
    uktls_preload_duplicated(old, new_fd);
    return new_fd;
}

static int follow(int old, int new_fd)
{
    return new_fd >= 0 && UNLIKELY(is_tls(old) || mark_of(new_fd)) ? uktls_follow(old, new_fd) : new_fd;
}

int dup(int old)
{
    return follow(old, NEXT(dup)(old));
}

struct over {
    int old, new_fd, flags;
    bool is_dup3;
};

static int dup_over(void *closure)
{
    const struct over *over = closure;

    return over->is_dup3 ? NEXT(dup3)(over->old, over->new_fd, over->flags) : NEXT(dup2)(over->old, over->new_fd);
}

static int duplicate(struct over over)
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
    if (over.old != over.new_fd && result >= 0 && UNLIKELY(is_tls(over.old) || mark_of(result)))
        uktls_preload_duplicated(over.old, result);
    return result;
}

static int duplicate_over(struct over over)
{
    bool was_tls = is_tls(over.new_fd), gets_tls = is_tls(over.old) && over.old != over.new_fd;
    int result;

    if (LIKELY(!was_tls && !gets_tls))
        return duplicate(over);
    if (gets_tls && over.new_fd == STDERR_FILENO) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (gets_tls && uktls_streams_leave(over.new_fd) < 0)
        return -1;
    result = duplicate(over);
    /* What it was, or what it did not become. */
    if (was_tls || (gets_tls && result < 0))
        uktls_streams_return(over.new_fd);
    return result;
}

int dup2(int old, int new_fd)
{
    return duplicate_over((struct over){.old = old, .new_fd = new_fd});
}

TWIN(__dup2, dup2);

int dup3(int old, int new_fd, int flags)
{
    return duplicate_over((struct over){.old = old, .new_fd = new_fd, .flags = flags, .is_dup3 = true});
}

/* A new socket under a number that was closed without our knowledge. */
static int fresh(int fd)
{
    if (fd >= 0 && UNLIKELY(mark_of(fd)))
        uktls_preload_reused(fd);
    if (LIKELY((unsigned)fd < MARKS))
        uktls_last_writer[fd] = NULL;
    return fd;
}

int socket(int domain, int type, int protocol)
{
    return fresh(NEXT(socket)(domain, type, protocol));
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
    int result = NEXT(socketpair)(domain, type, protocol, pair);

    if (result == 0) {
        fresh(pair[0]);
        fresh(pair[1]);
    }
    return result;
}

int accept(int fd, struct sockaddr *address, socklen_t *len)
{
    return fresh(NEXT(accept)(fd, address, len));
}

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
    return fresh(NEXT(accept4)(fd, address, len, flags));
}

int connect(int fd, const struct sockaddr *address, socklen_t len)
{
    if (is_tls(fd) && uktls_preload_verify(fd) && address != NULL && len >= sizeof(address->sa_family) &&
        address->sa_family == AF_UNSPEC) {
        /* A disconnected socket would be free for another connection, without keys (ATT-12). */
        errno = EOPNOTSUPP;
        return -1;
    }
    return NEXT(connect)(fd, address, len);
}

TWIN(__connect, connect);
