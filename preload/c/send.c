/* What writes. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "around.h"

/* The usual way is a few instructions; with the other in the same function they would save and restore every register. */
#define APART __attribute__((noinline, cold)) static

APART ssize_t write_slowly(int fd, const void *data, size_t len)
{
    SLOWLY(uktls_begin_out, fd, uktls_preload_send(fd, data, len, 0), NEXT(write)(fd, data, len));
}

ssize_t write(int fd, const void *data, size_t len)
{
    NOTE_WRITER(fd);
    FAST(fd, SLOW_OUT, RESOLVED(write)(fd, data, len));
    return write_slowly(fd, data, len);
}

TWIN(__write, write);

APART ssize_t send_slowly(int fd, const void *data, size_t len, int flags)
{
    SLOWLY(uktls_begin_out, fd, uktls_preload_send(fd, data, len, flags), NEXT(send)(fd, data, len, flags));
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    NOTE_WRITER(fd);
    FAST(fd, SLOW_OUT, RESOLVED(send)(fd, data, len, flags));
    return send_slowly(fd, data, len, flags);
}

TWIN(__send, send);

/* The address of a connected socket is not looked at. */
ssize_t sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
    NOTE_WRITER(fd);
    OUT(fd, uktls_preload_send(fd, data, len, flags), NEXT(sendto)(fd, data, len, flags, to, to_len));
}

/* A TLS socket in another process would have no keys, and send in the clear (design rule 2). */
bool uktls_passes_tls(const struct msghdr *msg)
{
    if (LIKELY(!uktls_preload_may_look(msg, sizeof(*msg)) || msg->msg_controllen < sizeof(struct cmsghdr) ||
               !uktls_preload_may_look(msg->msg_control, msg->msg_controllen)))
        return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR((struct msghdr *)msg, c)) {
        if (c->cmsg_len > (size_t)((char *)msg->msg_control + msg->msg_controllen - (char *)c))
            /* The kernel refuses it. */
            return false;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int passed;

            memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (is_tls(passed))
                return true;
        }
    }
    return false;
}

/* The kernel has taken the message, so it can be read. What it passes on, another process may have from now on. */
void uktls_note_passed(const struct msghdr *msg)
{
    if (LIKELY(msg->msg_controllen < sizeof(struct cmsghdr)))
        return;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR((struct msghdr *)msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int passed;

            memcpy(&passed, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (mark_of(passed))
                uktls_preload_passed(passed);
        }
    }
}

static ssize_t send_on(int fd, const struct msghdr *msg, int flags)
{
    ssize_t n;

    if (uktls_passes_tls(msg)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    n = NEXT(sendmsg)(fd, msg, flags);
    if (n >= 0)
        uktls_note_passed(msg);
    return n;
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    NOTE_WRITER(fd);
    OUT(fd, uktls_preload_sendmsg(fd, msg, flags), send_on(fd, msg, flags));
}

static int send_messages(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
    unsigned sent = 0;

    while (sent < n) {
        ssize_t len;

        if (!uktls_preload_is_writable(&messages[sent], sizeof(*messages))) {
            errno = EFAULT;
            return sent ? (int)sent : -1;
        }
        len = uktls_preload_sendmsg(fd, &messages[sent].msg_hdr, flags);

        if (len < 0)
            return sent ? (int)sent : -1;
        messages[sent++].msg_len = (unsigned)len;
    }
    return (int)sent;
}

bool uktls_any_passes_tls(const struct mmsghdr *messages, unsigned n)
{
    for (unsigned i = 0; i < n && uktls_preload_may_look(&messages[i], sizeof(*messages)); i++)
        if (uktls_passes_tls(&messages[i].msg_hdr))
            return true;
    return false;
}

static int send_messages_on(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
    int sent;

    if (uktls_any_passes_tls(messages, n)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    sent = NEXT(sendmmsg)(fd, messages, n, flags);
    for (int i = 0; i < sent; i++)
        uktls_note_passed(&messages[i].msg_hdr);
    return sent;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
    NOTE_WRITER(fd);
    OUT(fd, send_messages(fd, messages, n, flags), send_messages_on(fd, messages, n, flags));
}

static ssize_t send_vector(int fd, const struct iovec *iov, int n, int flags)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};

    if (n < 0 || n > 1024) {
        errno = EINVAL;
        return -1;
    }
    return uktls_preload_sendmsg(fd, &msg, flags);
}

APART ssize_t writev_slowly(int fd, const struct iovec *iov, int n)
{
    SLOWLY(uktls_begin_out, fd, send_vector(fd, iov, n, 0), NEXT(writev)(fd, iov, n));
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    NOTE_WRITER(fd);
    FAST(fd, SLOW_OUT, RESOLVED(writev)(fd, iov, n));
    return writev_slowly(fd, iov, n);
}

static ssize_t send_vector_v2(int fd, const struct iovec *iov, int n, int flags)
{
    if (flags & ~RWF_NOWAIT) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return send_vector(fd, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

/* With an offset it fails on any socket (ESPIPE): the kernel says so. */
ssize_t pwritev2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    if (offset != -1)
        return NEXT(pwritev2)(fd, iov, n, offset, flags);
    OUT(fd, send_vector_v2(fd, iov, n, flags), NEXT(pwritev2)(fd, iov, n, offset, flags));
}

TWIN(pwritev64v2, pwritev2);

ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    OUT(out, uktls_preload_sendfile(out, in, offset, count), NEXT(sendfile)(out, in, offset, count));
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    OUT(out, uktls_preload_sendfile(out, in, (off_t *)offset, count),
                 NEXT(sendfile64)(out, in, offset, count));
}

ssize_t splice(int in, off64_t *off_in, int out, off64_t *off_out, size_t len, unsigned flags)
{
    if (is_tls(in))
        IN(in, uktls_preload_splice(in, off_in, out, off_out, len, flags),
           NEXT(splice)(in, off_in, out, off_out, len, flags));
    OUT(out, uktls_preload_splice(in, off_in, out, off_out, len, flags),
        NEXT(splice)(in, off_in, out, off_out, len, flags));
}

static int print(int fd, const char *format, va_list arguments)
{
    char *text;
    int len = vasprintf(&text, format, arguments);

    if (len < 0)
        return -1;
    for (int done = 0; done < len;) {
        ssize_t n = write(fd, text + done, (size_t)(len - done));

        if (n < 0) {
            len = -1;
            break;
        }
        done += (int)n;
    }
    free(text);
    return len;
}

int vdprintf(int fd, const char *format, va_list arguments)
{
    struct noted call __attribute__((cleanup(uktls_end_call)));

    uktls_begin_out(&call, fd);
    if (call.way == WAY_PLAIN)
        return NEXT(vdprintf)(fd, format, arguments);
    uktls_end_call(&call);
    return call.way == WAY_SERVED || call.way == WAY_WATCHED ? print(fd, format, arguments) : -1;
}

int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments);
int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments)
{
    struct noted call __attribute__((cleanup(uktls_end_call)));

    uktls_begin_out(&call, fd);
    if (LIKELY(call.way == WAY_PLAIN))
        return NEXT(__vdprintf_chk)(fd, flag, format, arguments);
    uktls_end_call(&call);
    return call.way == WAY_SERVED || call.way == WAY_WATCHED ? print(fd, format, arguments) : -1;
}

int dprintf(int fd, const char *format, ...)
{
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vdprintf(fd, format, arguments);
    va_end(arguments);
    return len;
}

int __dprintf_chk(int fd, int flag, const char *format, ...);
int __dprintf_chk(int fd, int flag, const char *format, ...)
{
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = __vdprintf_chk(fd, flag, format, arguments);
    va_end(arguments);
    return len;
}
