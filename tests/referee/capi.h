/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Turns the probe into a user of the C interface, by `cc -include`: on sockets with TLS each call of
 * libc becomes the function of uktls.h that mirrors it, as the preload library does at run time.
 * epoll, select and descriptor copies stay libc's, as they are for every user of the interface. */
#include "probe.h"

#include <sys/sendfile.h>
#include <uktls.h>

static inline bool c_ours(int fd)
{
    struct uktls_info info = {.size = sizeof info};
    int error = errno;
    bool ours = uktls_get_info(fd, &info) == 0;
    errno = error;
    return ours;
}

static inline ssize_t c_send(int fd, const void *bytes, size_t len, int flags)
{
    return c_ours(fd) ? tls_send(fd, bytes, len, flags) : send(fd, bytes, len, flags);
}

static inline ssize_t c_write(int fd, const void *bytes, size_t len)
{
    return c_ours(fd) ? tls_send(fd, bytes, len, 0) : write(fd, bytes, len);
}

static inline ssize_t c_sendto(int fd, const void *bytes, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
    return c_ours(fd) ? tls_send(fd, bytes, len, flags) : sendto(fd, bytes, len, flags, to, to_len);
}

static inline ssize_t c_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    return c_ours(fd) ? tls_sendmsg(fd, msg, flags) : sendmsg(fd, msg, flags);
}

static inline ssize_t c_writev(int fd, const struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    if (!c_ours(fd) || count < 0 || count > 1024)
        return writev(fd, iov, count < 0 || count > 1024 ? -1 : count);
    return tls_sendmsg(fd, &msg, 0);
}

static inline int c_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned done = 0;
    for (; c_ours(fd) && done < count; done++) {
        ssize_t n = tls_sendmsg(fd, &messages[done].msg_hdr, flags);
        if (n < 0)
            return done ? (int)done : -1;
        messages[done].msg_len = (unsigned)n;
    }
    return done == count ? (int)done : sendmmsg(fd, messages, count, flags);
}

static inline ssize_t c_recv(int fd, void *bytes, size_t len, int flags)
{
    return c_ours(fd) ? tls_recv(fd, bytes, len, flags) : recv(fd, bytes, len, flags);
}

static inline ssize_t c_read(int fd, void *bytes, size_t len)
{
    return c_ours(fd) ? tls_recv(fd, bytes, len, 0) : read(fd, bytes, len);
}

static inline ssize_t c_recvfrom(int fd, void *bytes, size_t len, int flags, struct sockaddr *from, socklen_t *from_len)
{
    return c_ours(fd) ? tls_recv(fd, bytes, len, flags) : recvfrom(fd, bytes, len, flags, from, from_len);
}

static inline ssize_t c_recvmsg(int fd, struct msghdr *msg, int flags)
{
    return c_ours(fd) ? tls_recvmsg(fd, msg, flags) : recvmsg(fd, msg, flags);
}

static inline ssize_t c_readv(int fd, const struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    return c_ours(fd) ? tls_recvmsg(fd, &msg, 0) : readv(fd, iov, count);
}

static inline int c_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *time)
{
    unsigned done = 0;
    for (; c_ours(fd) && done < count; done++) {
        ssize_t n = tls_recvmsg(fd, &messages[done].msg_hdr, flags);
        if (n < 0)
            return done ? (int)done : -1;
        messages[done].msg_len = (unsigned)n;
    }
    return done == count ? (int)done : recvmmsg(fd, messages, count, flags, time);
}

static inline ssize_t c_splice(int in, off_t *off_in, int to, off_t *off_to, size_t len, unsigned flags)
{
    return c_ours(in) || c_ours(to) ? tls_splice(in, off_in, to, off_to, len, flags)
                                    : splice(in, off_in, to, off_to, len, flags);
}

static inline ssize_t c_sendfile(int fd, int in, off_t *offset, size_t count)
{
    return c_ours(fd) ? tls_sendfile(fd, in, offset, count) : sendfile(fd, in, offset, count);
}

static inline ssize_t c_preadv2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
    return c_ours(fd) && at == -1 && flags == 0 ? c_readv(fd, iov, count) : preadv2(fd, iov, count, at, flags);
}

static inline ssize_t c_pwritev2(int fd, const struct iovec *iov, int count, off_t at, int flags)
{
    return c_ours(fd) && at == -1 && flags == 0 ? c_writev(fd, iov, count) : pwritev2(fd, iov, count, at, flags);
}

static inline int c_shutdown(int fd, int how)
{
    return c_ours(fd) ? tls_shutdown(fd, how) : shutdown(fd, how);
}

#define send c_send
#define write c_write
#define sendto c_sendto
#define sendmsg c_sendmsg
#define writev c_writev
#define sendmmsg c_sendmmsg
#define recv c_recv
#define read c_read
#define recvfrom c_recvfrom
#define recvmsg c_recvmsg
#define readv c_readv
#define recvmmsg c_recvmmsg
#define splice c_splice
#define sendfile c_sendfile
#define preadv2 c_preadv2
#define pwritev2 c_pwritev2
#define setsockopt tls_setsockopt
#define getsockopt tls_getsockopt
#define poll tls_poll
#define shutdown c_shutdown
#define close uktls_close
