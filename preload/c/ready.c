/* Waiting for descriptors: the kernel's answer, less the records that are not complete (design rule 4). */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

#include "around.h"

bool uktls_polls_tls(const struct pollfd *fds, nfds_t n)
{
    if (LIKELY(n >= MARKS || !uktls_preload_may_look(fds, n * sizeof(*fds))))
        return false;
    for (nfds_t i = 0; i < n; i++)
        if (is_tls(fds[i].fd))
            return true;
    return false;
}

int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};

    if (LIKELY(!uktls_polls_tls(fds, n)))
        return NEXT(poll)(fds, n, timeout_ms);
    pthread_testcancel();
    return uktls_preload_poll(fds, n, timeout_ms < 0 ? NULL : &timeout, NULL);
}

TWIN(__poll, poll);

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
    if (LIKELY(!uktls_polls_tls(fds, n)))
        return NEXT(ppoll)(fds, n, timeout, mask);
    pthread_testcancel();
    return uktls_preload_poll(fds, n, timeout, mask);
}

int __poll_chk(struct pollfd *fds, nfds_t n, int timeout_ms, size_t room);
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout_ms, size_t room)
{
    if (room / sizeof(*fds) < n)
        return NEXT(__poll_chk)(fds, n, timeout_ms, room);
    return poll(fds, n, timeout_ms);
}

int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t room)
{
    if (room / sizeof(*fds) < n)
        return NEXT(__ppoll_chk)(fds, n, timeout, mask, room);
    return ppoll(fds, n, timeout, mask);
}

/* A set may be larger than an fd_set, as the kernel takes any: so by words. */
static bool is_in(const fd_set *set, int fd)
{
    const unsigned long *words = (const unsigned long *)set;

    return set != NULL && (words[fd / (8 * (int)sizeof(long))] >> fd % (8 * (int)sizeof(long)) & 1);
}

static int put(fd_set *set, int fd, bool is_ready)
{
    unsigned long *words = (unsigned long *)set;
    unsigned long bit = 1UL << fd % (8 * (int)sizeof(long));

    if (!is_in(set, fd))
        return 0;
    if (!is_ready)
        words[fd / (8 * (int)sizeof(long))] &= ~bit;
    return is_ready;
}

static size_t set_len(int n)
{
    const size_t bits = 8 * sizeof(long);

    return ((size_t)n + bits - 1) / bits * sizeof(long);
}

static bool may_look(const fd_set *set, int n)
{
    return set == NULL || uktls_preload_may_look(set, set_len(n));
}

static bool is_writable(const fd_set *set, int n)
{
    return set == NULL || uktls_preload_is_writable(set, set_len(n));
}

bool uktls_selects_tls(int n, const fd_set *in, const fd_set *out, const fd_set *other)
{
    if (LIKELY(n <= 0 || n > MARKS || !may_look(in, n) || !may_look(out, n) || !may_look(other, n)))
        return false;
    for (int fd = 0; fd < n; fd++)
        if (is_tls(fd) && (is_in(in, fd) || is_in(out, fd) || is_in(other, fd)))
            return true;
    return false;
}

/* The events by which the kernel's select reads poll's answers. */
enum {
    SELECT_IN = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR,
    SELECT_OUT = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR,
};

static int select_by_poll(int n, fd_set *in, fd_set *out, fd_set *other, const struct timespec *timeout,
                          const sigset_t *mask)
{
    struct pollfd few[64], *fds = n <= 64 ? few : malloc((size_t)n * sizeof(*fds));
    nfds_t count = 0;
    int ready;

    if (fds == NULL)
        return -1;
    if (!is_writable(in, n) || !is_writable(out, n) || !is_writable(other, n)) {
        errno = EFAULT;
        n = ready = -1;
    }
    for (int fd = 0; fd < n; fd++) {
        short events = (short)((is_in(in, fd) ? POLLIN : 0) | (is_in(out, fd) ? POLLOUT : 0) |
                               (is_in(other, fd) ? POLLPRI : 0));
        if (events)
            fds[count++] = (struct pollfd){.fd = fd, .events = events};
    }
    if (n >= 0)
        ready = uktls_preload_poll(fds, count, timeout, mask);
    for (nfds_t i = 0; i < count && ready >= 0; i++)
        if (fds[i].revents & POLLNVAL) {
            errno = EBADF;
            ready = -1;
        }
    if (ready >= 0) {
        ready = 0;
        for (nfds_t i = 0; i < count; i++) {
            ready += put(in, fds[i].fd, (fds[i].revents & SELECT_IN) != 0);
            ready += put(out, fds[i].fd, (fds[i].revents & SELECT_OUT) != 0);
            ready += put(other, fds[i].fd, (fds[i].revents & POLLPRI) != 0);
        }
    }
    if (fds != few)
        free(fds);
    return ready;
}

/* Linux tells by the time that is left how long a select has waited; nearly nobody looks, and it is kept. */
int select(int n, fd_set *in, fd_set *out, fd_set *other, struct timeval *timeout)
{
    struct timespec wait, begin, end;
    int result;

    if (LIKELY(!uktls_selects_tls(n, in, out, other)))
        return NEXT(select)(n, in, out, other, timeout);
    pthread_testcancel();
    if (timeout == NULL)
        return select_by_poll(n, in, out, other, NULL, NULL);
    wait = (struct timespec){timeout->tv_sec, timeout->tv_usec * 1000};
    if (timeout->tv_usec >= 1000000)
        /* As the kernel's. */
        wait = (struct timespec){timeout->tv_sec + timeout->tv_usec / 1000000, timeout->tv_usec % 1000000 * 1000};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    result = select_by_poll(n, in, out, other, &wait, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    long long left = (timeout->tv_sec - (end.tv_sec - begin.tv_sec)) * 1000000LL + timeout->tv_usec -
                     (end.tv_nsec - begin.tv_nsec) / 1000;
    left = left < 0 ? 0 : left;
    timeout->tv_sec = left / 1000000;
    timeout->tv_usec = left % 1000000;
    return result;
}

TWIN(__select, select);

int pselect(int n, fd_set *in, fd_set *out, fd_set *other, const struct timespec *timeout, const sigset_t *mask)
{
    if (LIKELY(!uktls_selects_tls(n, in, out, other)))
        return NEXT(pselect)(n, in, out, other, timeout, mask);
    pthread_testcancel();
    return select_by_poll(n, in, out, other, timeout, mask);
}
