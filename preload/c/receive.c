/* What reads. */
#include <stdarg.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "around.h"

ssize_t read(int fd, void *data, size_t len)
{
    /* Nothing is nothing, and not waited for; recv of nothing is. */
    if (is_tls(fd) && len == 0)
        return 0;
    IN(fd, uktls_preload_recv(fd, data, len, 0), NEXT(read)(fd, data, len));
}

TWIN(__read, read);

/* The fortified twins are for buffers whose size the compiler knows: the next one checks it. */
ssize_t __read_chk(int fd, void *data, size_t len, size_t room);
ssize_t __read_chk(int fd, void *data, size_t len, size_t room)
{
    if (UNLIKELY(mark_of(fd) & SLOW_IN) && len <= room)
        return read(fd, data, len);
    return NEXT(__read_chk)(fd, data, len, room);
}

ssize_t recv(int fd, void *data, size_t len, int flags)
{
    IN(fd, uktls_preload_recv(fd, data, len, flags), NEXT(recv)(fd, data, len, flags));
}

ssize_t __recv_chk(int fd, void *data, size_t len, size_t room, int flags);
ssize_t __recv_chk(int fd, void *data, size_t len, size_t room, int flags)
{
    if (UNLIKELY(mark_of(fd) & SLOW_IN) && len <= room)
        return recv(fd, data, len, flags);
    return NEXT(__recv_chk)(fd, data, len, room, flags);
}

/* A stream has no address to tell. */
static ssize_t receive_from(int fd, void *data, size_t len, int flags, socklen_t *from_len)
{
    ssize_t n;

    if (from_len != NULL && !uktls_preload_is_writable(from_len, sizeof(*from_len))) {
        errno = EFAULT;
        return -1;
    }
    n = uktls_preload_recv(fd, data, len, flags);
    if (n >= 0 && from_len != NULL)
        *from_len = 0;
    return n;
}

ssize_t recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len)
{
    IN(fd, receive_from(fd, data, len, flags, from == NULL ? NULL : from_len),
       NEXT(recvfrom)(fd, data, len, flags, from, from_len));
}

ssize_t __recvfrom_chk(int fd, void *data, size_t len, size_t room, int flags, struct sockaddr *from,
                       socklen_t *from_len);
ssize_t __recvfrom_chk(int fd, void *data, size_t len, size_t room, int flags, struct sockaddr *from,
                       socklen_t *from_len)
{
    if (UNLIKELY(mark_of(fd) & SLOW_IN) && len <= room)
        return recvfrom(fd, data, len, flags, from, from_len);
    return NEXT(__recvfrom_chk)(fd, data, len, room, flags, from, from_len);
}

static ssize_t receive_on(int fd, struct msghdr *msg, int flags)
{
    ssize_t n = NEXT(recvmsg)(fd, msg, flags);

    if (n >= 0 && UNLIKELY(msg->msg_controllen > 0))
        uktls_numbers_came(msg);
    return n;
}

ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
    IN(fd, uktls_preload_recvmsg(fd, msg, flags), receive_on(fd, msg, flags));
}

static bool is_over(const struct timespec *end)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > end->tv_sec || (now.tv_sec == end->tv_sec && now.tv_nsec >= end->tv_nsec);
}

/* The time is looked at behind each message, as in the kernel (recvmmsg(2), BUGS). */
static int receive_messages(int fd, struct mmsghdr *messages, unsigned n, int flags, const struct timespec *timeout)
{
    struct timespec end = {0, 0};
    unsigned got = 0;

    if (timeout != NULL && !uktls_preload_may_look(timeout, sizeof(*timeout))) {
        errno = EFAULT;
        return -1;
    }
    if (timeout != NULL) {
        clock_gettime(CLOCK_MONOTONIC, &end);
        end.tv_sec += timeout->tv_sec;
        end.tv_nsec += timeout->tv_nsec;
        if (end.tv_nsec >= 1000000000) {
            end.tv_sec++;
            end.tv_nsec -= 1000000000;
        }
    }
    while (got < n) {
        ssize_t len;

        if (!uktls_preload_is_writable(&messages[got], sizeof(*messages))) {
            errno = EFAULT;
            return got ? (int)got : -1;
        }
        len = uktls_preload_recvmsg(fd, &messages[got].msg_hdr, flags & ~MSG_WAITFORONE);

        if (len < 0)
            return got ? (int)got : -1;
        messages[got++].msg_len = (unsigned)len;
        if (flags & MSG_WAITFORONE)
            flags |= MSG_DONTWAIT;
        if (timeout != NULL && is_over(&end))
            break;
    }
    return (int)got;
}

static int receive_messages_on(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
    int got = NEXT(recvmmsg)(fd, messages, n, flags, timeout);

    for (int i = 0; i < got; i++)
        if (UNLIKELY(messages[i].msg_hdr.msg_controllen > 0))
            uktls_numbers_came(&messages[i].msg_hdr);
    return got;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
    IN(fd, receive_messages(fd, messages, n, flags, timeout), receive_messages_on(fd, messages, n, flags, timeout));
}

static ssize_t receive_vector(int fd, const struct iovec *iov, int n, int flags)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};

    if (n < 0 || n > 1024) {
        errno = EINVAL;
        return -1;
    }
    if (!uktls_preload_may_look(iov, (size_t)n * sizeof(*iov))) {
        errno = EFAULT;
        return -1;
    }
    for (int i = 0; i < n; i++)
        if (iov[i].iov_len > 0)
            return uktls_preload_recvmsg(fd, &msg, flags);
    return 0;
}

ssize_t readv(int fd, const struct iovec *iov, int n)
{
    IN(fd, receive_vector(fd, iov, n, 0), NEXT(readv)(fd, iov, n));
}

static ssize_t receive_vector_v2(int fd, const struct iovec *iov, int n, int flags)
{
    if (flags & ~RWF_NOWAIT) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return receive_vector(fd, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

ssize_t preadv2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    if (offset != -1)
        return NEXT(preadv2)(fd, iov, n, offset, flags);
    IN(fd, receive_vector_v2(fd, iov, n, flags), NEXT(preadv2)(fd, iov, n, offset, flags));
}

TWIN(preadv64v2, preadv2);

/* The kernel counts ciphertext (RX-46), but not what is out of its queue already. FIONCLEX is refused as in
 * fcntl(F_SETFD). */
int uktls_ioctl(int fd, unsigned long request, void *argument, int (*next)(int, unsigned long, ...))
{
    int result;

    if (request == FIONCLEX && is_tls(fd) && uktls_preload_is_here(fd))
        request = FIOCLEX;
    result = next(fd, request, argument);
    if (is_tls(fd) && request == FIONREAD && result == 0 && *(int *)argument == 0 && uktls_preload_holds_data(fd))
        *(int *)argument = 1;
    return result;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return uktls_ioctl(fd, request, argument, NEXT(ioctl));
}
