/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Sending and receiving with record types, and records on the wire. */
#include "probe.h"

/* Nothing more comes once nothing came for so long. The longer one is above TCP's 200 ms for data
 * that is held back. */
enum { QUIET_MS = 120, QUIET_LATE_MS = 450, WIRE_MAX = 4 * BIG };

ssize_t send_type(int fd, int type, const void *data, size_t len, int flags)
{
    union { char bytes[CMSG_SPACE(1)]; struct cmsghdr align; } control = {{0}};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                         .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_TLS;
    cmsg->cmsg_type = SET_RECORD_TYPE;
    cmsg->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(cmsg) = (unsigned char)type;
    return sendmsg(fd, &msg, flags);
}

static char into[BIG];

ssize_t put_receive(int fd, size_t len, int flags)
{
    union { char bytes[CMSG_SPACE(64)]; struct cmsghdr align; } control = {{0}};
    struct iovec iov = {.iov_base = into, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                         .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &msg, flags);
    put_result(n);
    if (n < 0)
        return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_TLS && c->cmsg_type == GET_RECORD_TYPE)
            put("type=%d", *CMSG_DATA(c));
        else
            put("cmsg=%d/%d", c->cmsg_level, c->cmsg_type);
    if (msg.msg_flags & MSG_EOR)
        put("EOR");
    if (msg.msg_flags & MSG_CTRUNC)
        put("CTRUNC");
    if (msg.msg_flags & MSG_TRUNC)
        put("TRUNC");
    if (n > 0)
        put_hash(into, (size_t)n);
    return n;
}

ssize_t put_recv(int fd, size_t len, int flags)
{
    ssize_t n = recv(fd, into, len, flags);
    put_result(n);
    if (n > 0)
        put_hash(into, (size_t)n);
    return n;
}

static void put_records(const unsigned char *bytes, size_t len)
{
    size_t at = 0;
    while (len - at >= 5) {
        size_t body = (size_t)bytes[at + 3] << 8 | bytes[at + 4];
        unsigned same = 1;
        if (len - at < 5 + body)
            break;
        size_t next = at + 5 + body;
        while (len - next >= 5 + body && memcmp(bytes + at, bytes + next, 5) == 0) {
            next += 5 + body;
            same++;
        }
        if (same > 1)
            put("%u:%zux%u", bytes[at], body, same);
        else
            put("%u:%zu", bytes[at], body);
        at = next;
    }
    if (at < len)
        put("partial:%zu", len - at);
}

static void put_wire_until(int fd, int quiet)
{
    static unsigned char wire[WIRE_MAX];
    size_t len = 0;
    const char *end = NULL;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (!end && len < sizeof wire && poll(&p, 1, quiet) == 1) {
        ssize_t n = recv(fd, wire + len, sizeof wire - len, MSG_DONTWAIT);
        if (n > 0)
            len += (size_t)n;
        else
            end = n == 0 ? "EOF" : strerrorname_np(errno);
    }
    put("wire");
    put_records(wire, len);
    if (len)
        put_hash(wire, len);
    if (end)
        put("%s", end);
}

void put_wire(int fd)
{
    put_wire_until(fd, QUIET_MS);
}

void put_wire_late(int fd)
{
    put_wire_until(fd, QUIET_LATE_MS);
}

void write_all(int fd, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL);
        if (n < 0) {
            put("(write: %s)", strerrorname_np(errno));
            return;
        }
        done += (size_t)n;
    }
}

void sealer_open(struct sealer *s, const struct keys *keys)
{
    tx_pair(s->fd, keys);
}

void sealer_close(struct sealer *s)
{
    close_both(s->fd);
}

size_t seal(struct sealer *s, int type, const void *data, size_t len, unsigned char *out)
{
    ssize_t n = send_type(s->fd[0], type, data, len, 0);
    if (n != (ssize_t)len || recv(s->fd[1], out, 5, MSG_WAITALL) != 5) {
        put("(seal: %zd)", n);
        return 0;
    }
    size_t body = (size_t)out[3] << 8 | out[4];
    if (recv(s->fd[1], out + 5, body, MSG_WAITALL) != (ssize_t)body)
        put("(seal: short)");
    return 5 + body;
}

void relay(struct sealer *s, int fd, const char *records)
{
    static unsigned char plain[RECORD_MAX + 1], sealed[SEALED_MAX];
    int type, used, pad;
    size_t len;
    for (; sscanf(records, " %d:%zu%n", &type, &len, &used) == 2; records += used) {
        bool padded = sscanf(records + used, "+%d", &pad) == 1;
        if (!padded)
            pad = len ? 0 : 1;
        memcpy(plain, pattern(0, len), len);
        if (pad) {
            /* A content type of 0 is TLS 1.3 padding: the real type is the last byte before it. */
            plain[len] = (unsigned char)type;
            memset(plain + len + 1, 0, (size_t)pad - 1);
            write_all(fd, sealed, seal(s, 0, plain, len + (size_t)pad, sealed));
        } else {
            write_all(fd, sealed, seal(s, type, plain, len, sealed));
        }
        records += padded ? strcspn(records, " ") - (size_t)used : 0;
    }
    sleep_ms(20);
}
