/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Bad input, table by table: every argument of every function that can be wrong. A refused call
 * returns -1 with the errno of the table, and has changed nothing. */
#include "harness.h"

#include <sys/syscall.h>

#include <limits.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define ROWS(table) (sizeof(table) / sizeof(table)[0])

/* A connection with something in its open record, so that "nothing changed" can be seen. */
struct world {
    int fd[2], pipes[2], file;
    struct receiver r;
    struct uktls_info before;
    const char *what;
};

static void world_open(struct world *w, const struct keys *keys)
{
    char name[] = "/tmp/uktls-test-XXXXXX";
    memset(w, 0, sizeof *w);
    tls_pair(w->fd, keys, &w->r);
    send_all(w->fd[0], 0, 5, MSG_MORE);
    assert_ok(pipe(w->pipes));
    w->file = mkstemp(name);
    assert_true(w->file >= 0);
    assert_ok(unlink(name));
    assert_returns(write(w->file, "file", 4), 4);
    w->before.size = sizeof w->before;
    assert_ok(uktls_get_info(w->fd[0], &w->before));
}

/* The call of the row failed as it has to, and what it refused has left no trace. */
static void refused(struct world *w, const char *row, long long got, int error, int want)
{
    struct uktls_info now = {.size = sizeof now};
    if (got != -1 || error != want)
        fail_msg("%s: %lld (%s), not -1 (%s)", row, got, strerror(error), strerror(want));
    assert_ok(uktls_get_info(w->fd[0], &now));
    /* RK-12: the attempt itself is counted. */
    now.tls_tx_rekey_error = w->before.tls_tx_rekey_error;
    if (memcmp(&now, &w->before, sizeof now))
        fail_msg("%s: refused, and yet the connection has changed", row);
    expect_nothing(w->fd[1]);
}

#define REFUSED(w, row, call, want)                                                                \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long long got_ = (long long)(call);                                                        \
        refused(w, row, got_, errno, want);                                                        \
    } while (0)

/* What is in the open record still goes out, behind it what follows. */
static void world_close(struct world *w)
{
    send_all(w->fd[0], 5, 5, 0);
    expect_records(&w->r, "23:10");
    close(w->pipes[0]);
    close(w->pipes[1]);
    close(w->file);
    close_both(w->fd);
}

/* --- descriptors --- */

static struct msghdr no_bytes;
static int some_pipe[2];

static long long call_send(int fd) { return tls_send(fd, "x", 1, 0); }
static long long call_send_nothing(int fd) { return tls_send(fd, NULL, 0, 0); }
static long long call_sendmsg(int fd) { return tls_sendmsg(fd, &no_bytes, 0); }
static long long call_sendpage(int fd) { return tls_sendpage(fd, "x", 0, 1, 0); }
static long long call_sendfile(int fd) { return tls_sendfile(fd, 0, NULL, 1); }
static long long call_splice(int fd) { return tls_splice(some_pipe[0], NULL, fd, NULL, 1, 0); }
static long long call_shutdown(int fd) { return tls_shutdown(fd, SHUT_WR); }
static long long call_flush(int fd) { return uktls_flush(fd, 0); }
static long long call_info(int fd)
{
    struct uktls_info info = {.size = sizeof info};
    return uktls_get_info(fd, &info);
}
static long long call_getsockopt(int fd)
{
    char info[64];
    socklen_t len = 4;
    return tls_getsockopt(fd, SOL_TLS, TLS_TX, info, &len);
}
static long long call_init(int fd)
{
    struct keys keys = tls13_keys();
    return tls_tx_init(fd, keys.info, keys.len);
}

/* Every function that wants a descriptor with keys. */
static const struct { const char *name; long long (*call)(int); } functions[] = {
    {"tls_send", call_send},         {"tls_send of nothing", call_send_nothing},
    {"tls_sendmsg", call_sendmsg},   {"tls_sendpage", call_sendpage},
    {"tls_sendfile", call_sendfile}, {"tls_splice", call_splice},
    {"tls_shutdown", call_shutdown}, {"uktls_flush", call_flush},
    {"uktls_get_info", call_info},   {"tls_getsockopt", call_getsockopt},
};

/* ATT-5, ATT-7, ATT-14: descriptors that are closed, no sockets, no streams, or without keys. */
static void test_att14_descriptors(void **state)
{
    (void)state;
    int pipes[2], plain[2], half[2], local[2], ended[2], fresh;
    struct sockaddr_in address = {.sin_family = AF_INET};
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    assert_ok(pipe(pipes));
    assert_ok(bind(listening, (struct sockaddr *)&address, sizeof address));
    assert_ok(listen(listening, 1));
    tcp_pair(plain);
    tcp_pair(half);
    assert_ok(shutdown(half[0], SHUT_WR));
    tcp_pair(ended);
    assert_ok(close(ended[1]));
    wait_for(ended[0], POLLIN);
    assert_ok(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, local));
    fresh = fcntl(pipes[0], F_DUPFD, 700);
    assert_ok(close(fresh));
    const struct { const char *name; int fd, error, init; } rows[] = {
        {"-1", -1, EBADF, EBADF},
        {"INT_MIN", INT_MIN, EBADF, EBADF},
        {"INT_MAX", INT_MAX, EBADF, EBADF},
        {"a closed one", fresh, EBADF, EBADF},
        {"a pipe", pipes[1], ENOTSOCK, ENOTSOCK},
        {"a directory", open("/", O_RDONLY), ENOTSOCK, ENOTSOCK},
        {"an eventfd", eventfd(0, 0), ENOTSOCK, ENOTSOCK},
        {"an epoll set", epoll_create1(0), ENOTSOCK, ENOTSOCK},
        {"UDP", socket(AF_INET, SOCK_DGRAM, 0), ENOPROTOOPT, ENOPROTOOPT},
        {"UNIX datagrams", socket(AF_UNIX, SOCK_DGRAM, 0), ENOPROTOOPT, EOPNOTSUPP},
        {"UNIX packets", local[0], ENOPROTOOPT, EOPNOTSUPP},
        {"an unconnected stream", socket(AF_INET, SOCK_STREAM, 0), ENOPROTOOPT, ENOTCONN},
        {"an unconnected UNIX stream", socket(AF_UNIX, SOCK_STREAM, 0), ENOPROTOOPT, ENOTCONN},
        {"a listener", listening, ENOPROTOOPT, ENOTCONN},
        {"a shut-down stream", half[0], ENOPROTOOPT, ENOTCONN},
        {"a stream that the peer has ended", ended[0], ENOPROTOOPT, ENOTCONN},
        {"a stream without keys", plain[0], ENOPROTOOPT, 0},
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        for (size_t f = 0; f < ROWS(functions); f++) {
            errno = 0;
            long long got = functions[f].call(rows[i].fd);
            int error = rows[i].error;
            /* The kernel's own answer, which is another for this call. */
            if (functions[f].call == call_getsockopt && error == ENOPROTOOPT)
                error = EOPNOTSUPP;
            if (got != -1 || errno != error)
                fail_msg("%s on %s: %lld (%s)", functions[f].name, rows[i].name, got,
                         strerror(errno));
        }
        errno = EILSEQ;
        assert_int_equal(uktls_tx_pending(rows[i].fd), 0);
        assert_int_equal(errno, EILSEQ);
        errno = 0;
        long long got = call_init(rows[i].fd);
        if (got != (rows[i].init ? -1 : 0) || errno != rows[i].init)
            fail_msg("tls_tx_init on %s: %lld (%s)", rows[i].name, got, strerror(errno));
    }
    /* uktls_close takes what close(2) takes. */
    for (size_t i = 0; i < ROWS(rows); i++) {
        if (rows[i].error != EBADF)
            assert_ok(uktls_close(rows[i].fd));
        assert_fails(uktls_close(rows[i].fd), EBADF);
    }
    int rest[] = {pipes[0], plain[1], half[1], local[1]};
    for (size_t i = 0; i < ROWS(rest); i++)
        close(rest[i]);
}

/* Design rule 1: a descriptor whose keys were set before a raw clone, which no handler has seen, is
 * refused in the child, by every function; closing it there is nothing to the parent. */
static void test_rule1_inherited(void **state)
{
    (void)state;
    struct world w;
    struct keys keys = tls13_keys();
    world_open(&w, &keys);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        size_t f = 0;
        while (f < ROWS(functions) && functions[f].call(w.fd[0]) == -1 && errno == ENOTRECOVERABLE)
            f++;
        if (f < ROWS(functions))
            fprintf(stderr, "%s: %s\n", functions[f].name, strerror(errno));
        int again = call_init(w.fd[0]) == -1 && errno == ENOTRECOVERABLE;
        int none = uktls_tx_pending(w.fd[0]) == 0;
        /* SIGKILL is success: no leak check judges what only the parent's threads know. */
        if (f == ROWS(functions) && again && none && uktls_close(w.fd[0]) == 0)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status = wait_child(child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    expect_nothing(w.fd[1]);
    world_close(&w);
}

/* --- sends --- */

static void test_send_arguments(void **state)
{
    (void)state;
    static const struct { const char *name; const void *buf; size_t len; int flags, error; } rows[] = {
        {"NULL", NULL, 1, 0, EFAULT},
        {"NULL, MSG_MORE", NULL, 1, MSG_MORE, EFAULT},
        {"a length beyond SSIZE_MAX", "x", SIZE_MAX, 0, EINVAL},
        {"an unknown flag", "x", 1, 0x20000000, EOPNOTSUPP},
        {"every flag", "x", 1, -1, EOPNOTSUPP},
        {"MSG_OOB, NULL", NULL, 1, MSG_OOB, EOPNOTSUPP},
        {"MSG_OOB, no bytes", "", 0, MSG_OOB, EOPNOTSUPP},
        {"MSG_MORE | MSG_EOR", "x", 1, MSG_MORE | MSG_EOR, EINVAL},
    };
    struct world w;
    struct keys keys = tls13_keys();
    world_open(&w, &keys);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct iovec iov = {(void *)(uintptr_t)rows[i].buf, rows[i].len};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        REFUSED(&w, rows[i].name, tls_send(w.fd[0], rows[i].buf, rows[i].len, rows[i].flags),
                rows[i].error);
        REFUSED(&w, rows[i].name, tls_sendmsg(w.fd[0], &msg, rows[i].flags), rows[i].error);
        REFUSED(&w, rows[i].name,
                tls_sendpage(w.fd[0], rows[i].buf, 0, rows[i].len, rows[i].flags), rows[i].error);
    }
    REFUSED(&w, "sendpage: NULL and an offset", tls_sendpage(w.fd[0], NULL, 8, 1, 0), EFAULT);
    REFUSED(&w, "sendpage: an offset out of range", tls_sendpage(w.fd[0], "x", SIZE_MAX, 2, 0),
            EINVAL);
    REFUSED(&w, "sendpage: an end out of range",
            tls_sendpage(w.fd[0], "x", SIZE_MAX / 2, SIZE_MAX / 2, 0), EINVAL);
    world_close(&w);
}

/* TX-12, TX-13: the message itself and its segments. */
static void test_sendmsg_arguments(void **state)
{
    (void)state;
    static struct iovec null_first[] = {{NULL, 3}, {"x", 1}}, null_last[] = {{"x", 1}, {NULL, 3}},
                        too_long[] = {{"x", SIZE_MAX}, {"x", 1}},
                        too_long_together[] = {{"x", SSIZE_MAX}, {"x", SSIZE_MAX}},
                        many[1025];
    static const struct { const char *name; struct iovec *iov; size_t n; int error; } rows[] = {
        {"no segments, but a count", NULL, 1, EFAULT},
        {"NULL in the first", null_first, 2, EFAULT},
        {"NULL in the last", null_last, 2, EFAULT},
        {"a segment beyond SSIZE_MAX", too_long, 2, EINVAL},
        {"an end that no memory has", too_long_together, 2, EFAULT},
        {"1025 segments", many, 1025, EMSGSIZE},
        {"SIZE_MAX segments", many, SIZE_MAX, EMSGSIZE},
    };
    struct world w;
    struct keys keys = tls12_keys();
    world_open(&w, &keys);
    REFUSED(&w, "NULL", tls_sendmsg(w.fd[0], NULL, 0), EFAULT);
    for (size_t i = 0; i < ROWS(rows); i++) {
        struct msghdr msg = {.msg_iov = rows[i].iov, .msg_iovlen = rows[i].n};
        REFUSED(&w, rows[i].name, tls_sendmsg(w.fd[0], &msg, 0), rows[i].error);
        REFUSED(&w, rows[i].name, tls_sendmsg(w.fd[0], &msg, MSG_MORE), rows[i].error);
    }
    world_close(&w);
}

/* TX-15 to TX-17: control messages that are short, unknown, cut off, doubled, or against the flags. */
static void test_tx15_control_arguments(void **state)
{
    (void)state;
    enum { SET = TLS_SET_RECORD_TYPE, ONE = CMSG_LEN(1), ROOM = CMSG_SPACE(1) };
    static const struct {
        const char *name;
        size_t controllen, len, second; /* cmsg_len of both; 0: there is no second */
        int level, type, flags, error;
    } rows[] = {
        {"no data byte", ROOM, CMSG_LEN(0), 0, SOL_TLS, SET, 0, EINVAL},
        {"a length of 0", ROOM, 0, 0, SOL_TLS, SET, 0, EINVAL},
        {"a length below the header", ROOM, 15, 0, SOL_TLS, SET, 0, EINVAL},
        {"a length beyond the buffer", ROOM, ROOM + 1, 0, SOL_TLS, SET, 0, EINVAL},
        {"a length of SIZE_MAX", ROOM, SIZE_MAX, 0, SOL_TLS, SET, 0, EINVAL},
        {"a buffer below the header", 15, ONE, 0, SOL_TLS, SET, 0, EINVAL},
        {"a buffer of one byte", 1, ONE, 0, SOL_TLS, SET, 0, EINVAL},
        {"a buffer without the data byte", CMSG_LEN(0), ONE, 0, SOL_TLS, SET, 0, EINVAL},
        {"type 0", ROOM, ONE, 0, SOL_TLS, 0, 0, EINVAL},
        {"TLS_GET_RECORD_TYPE", ROOM, ONE, 0, SOL_TLS, TLS_GET_RECORD_TYPE, 0, EINVAL},
        {"an unknown type", ROOM, ONE, 0, SOL_TLS, 99, 0, EINVAL},
        {"another level only", ROOM, ONE, 0, SOL_SOCKET, SET, 0, EINVAL},
        {"another level twice", 2 * ROOM, ONE, ONE, SOL_SOCKET, SET, 0, EINVAL},
        {"doubled, the second short", 2 * ROOM, ONE, CMSG_LEN(0), SOL_TLS, SET, 0, EINVAL},
        {"doubled, the second too long", 2 * ROOM, ONE, ROOM + 1, SOL_TLS, SET, 0, EINVAL},
        {"with MSG_MORE", ROOM, ONE, 0, SOL_TLS, SET, MSG_MORE, EINVAL},
        {"doubled, with MSG_MORE", 2 * ROOM, ONE, ONE, SOL_TLS, SET, MSG_MORE, EINVAL},
        {"with MSG_OOB", ROOM, ONE, 0, SOL_TLS, SET, MSG_OOB, EOPNOTSUPP},
    };
    struct world w;
    struct keys keys = tls13_keys();
    world_open(&w, &keys);
    for (size_t i = 0; i < ROWS(rows); i++) {
        union { struct cmsghdr header; char bytes[2 * ROOM]; } control = {0};
        struct iovec iov = {"x", 1};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = rows[i].controllen};
        struct cmsghdr second = {.cmsg_len = rows[i].second, .cmsg_level = rows[i].level,
                                 .cmsg_type = rows[i].type};
        control.header.cmsg_len = rows[i].len;
        control.header.cmsg_level = rows[i].level;
        control.header.cmsg_type = rows[i].type;
        memcpy(control.bytes + ROOM, &second, sizeof second);
        REFUSED(&w, rows[i].name, tls_sendmsg(w.fd[0], &msg, rows[i].flags), rows[i].error);
    }
    struct msghdr no_buffer = {.msg_controllen = ROOM};
    REFUSED(&w, "NULL and a length", tls_sendmsg(w.fd[0], &no_buffer, 0), EFAULT);
    world_close(&w);
}

static void test_file_arguments(void **state)
{
    (void)state;
    struct world w;
    struct keys keys = tls12_keys();
    world_open(&w, &keys);
    int directory = open("/", O_RDONLY), sink = open("/dev/null", O_WRONLY);
    const struct { const char *name; int fd; off_t offset; bool null; int error; } files[] = {
        {"-1", -1, 0, true, EBADF},
        {"-1 with an offset", -1, 0, false, EBADF},
        {"a closed one", 1000000, 0, true, EBADF},
        {"one for writing", sink, 0, true, EBADF},
        {"a directory", directory, 0, true, EINVAL},
        {"an offset below 0", w.file, -1, false, EINVAL},
        {"a pipe with an offset", w.pipes[0], 0, false, ESPIPE},
    };
    for (size_t i = 0; i < ROWS(files); i++) {
        off_t offset = files[i].offset;
        off_t *at = files[i].null ? NULL : &offset;
        REFUSED(&w, files[i].name, tls_sendfile(w.fd[0], files[i].fd, at, 1), files[i].error);
        assert_int_equal(offset, files[i].offset);
    }
    off_t offset = 0;
    const struct { const char *name; int fd; off_t *in, *out; unsigned flags; int error; } pipes[] = {
        {"-1", -1, NULL, NULL, 0, EBADF},
        {"a closed one", 1000000, NULL, NULL, 0, EBADF},
        {"no pipe: a socket", w.fd[1], NULL, NULL, 0, EINVAL},
        {"no pipe: a file", w.file, NULL, NULL, 0, EINVAL},
        {"the wrong end", w.pipes[1], NULL, NULL, 0, EBADF},
        {"an offset in", w.pipes[0], &offset, NULL, 0, ESPIPE},
        {"an offset out", w.pipes[0], NULL, &offset, 0, EINVAL},
        {"an unknown flag", w.pipes[0], NULL, NULL, 0x100, EINVAL},
        {"every flag", w.pipes[0], NULL, NULL, UINT_MAX, EINVAL},
        {"an empty pipe, not waiting", w.pipes[0], NULL, NULL, SPLICE_F_NONBLOCK, EAGAIN},
    };
    for (size_t i = 0; i < ROWS(pipes); i++)
        REFUSED(&w, pipes[i].name,
                tls_splice(pipes[i].fd, pipes[i].in, w.fd[0], pipes[i].out, 1, pipes[i].flags),
                pipes[i].error);
    close(directory);
    close(sink);
    world_close(&w);
}

/* --- keys and options --- */

/* CI-1 to CI-3: a second tls_tx_init, good or bad, of TLS 1.2 and of TLS 1.3. */
static void test_ci3_second_init_arguments(void **state)
{
    (void)state;
    static const struct { const char *name; bool null; size_t cut; int version, cipher, tls12, tls13; } rows[] = {
        {"NULL", true, 0, 0x0303, 51, EINVAL, EINVAL},
        {"3 bytes", false, 37, 0x0303, 51, EINVAL, EINVAL},
        {"no bytes", false, 40, 0x0303, 51, EINVAL, EINVAL},
        {"4 bytes", false, 36, 0x0304, 51, EBUSY, EINVAL},
        {"a version unknown", false, 0, 0x0302, 51, EBUSY, EINVAL},
        {"the other version", false, 0, 0, 51, EBUSY, EINVAL},
        {"cipher 0 (CI-5)", false, 0, 0x0304, 0, EBUSY, EINVAL},
        {"another cipher", false, 0, 0x0304, 53, EBUSY, EINVAL},
        {"one byte short", false, 1, 0x0304, 51, EBUSY, EINVAL},
    };
    for (int tls13 = 0; tls13 < 2; tls13++) {
        struct world w;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        world_open(&w, &keys);
        for (size_t i = 0; i < ROWS(rows); i++) {
            struct keys bad = keys;
            uint16_t version = (uint16_t)rows[i].version, cipher = (uint16_t)rows[i].cipher;
            if (!version)
                version = tls13 ? 0x0303 : 0x0304;
            memcpy(bad.info, &version, 2);
            memcpy(bad.info + 2, &cipher, 2);
            REFUSED(&w, rows[i].name,
                    tls_tx_init(w.fd[0], rows[i].null ? NULL : bad.info, 40 - rows[i].cut),
                    tls13 ? rows[i].tls13 : rows[i].tls12);
        }
        if (!tls13)
            REFUSED(&w, "the same again", tls_tx_init(w.fd[0], keys.info, keys.len), EBUSY);
        world_close(&w);
    }
}

/* CI-11, CI-15 to CI-17, CI-20, ATT-15: lengths and numbers of SOL_TLS options, in the kernel's
 * order; none of them writes anything. */
static void test_ci11_option_arguments(void **state)
{
    (void)state;
    static const struct { const char *name; int option; bool null; socklen_t len; int error; } rows[] = {
        {"TLS_TX, NULL", TLS_TX, true, 40, EINVAL},
        {"TLS_TX, 0 bytes", TLS_TX, false, 0, EINVAL},
        {"TLS_TX, 3 bytes", TLS_TX, false, 3, EINVAL},
        {"TLS_TX, 5 bytes", TLS_TX, false, 5, EINVAL},
        {"TLS_TX, 39 bytes", TLS_TX, false, 39, EINVAL},
        {"TLS_TX, 41 bytes", TLS_TX, false, 41, EINVAL},
        {"TLS_TX, 56 bytes", TLS_TX, false, 56, EINVAL},
        {"TLS_TX, -1 bytes", TLS_TX, false, (socklen_t)-1, EINVAL},
        {"TLS_RX, NULL", TLS_RX, true, 40, EINVAL},
        {"TLS_RX, 3 bytes", TLS_RX, false, 3, EINVAL},
        {"TLS_RX without keys", TLS_RX, false, 40, EBUSY},
        {"TLS_RX without keys, 4 bytes", TLS_RX, false, 4, EBUSY},
        {"zero-copy, 3 bytes", 3, false, 3, EINVAL},
        {"zero-copy, 5 bytes", 3, false, 5, EINVAL},
        {"no padding, without RX keys", 4, false, 4, EINVAL},
        {"largest payload, 1 byte", 5, false, 1, EINVAL},
        {"option 0", 0, false, 40, ENOPROTOOPT},
        {"option 6", 6, false, 40, ENOPROTOOPT},
        {"option -1", -1, false, 40, ENOPROTOOPT},
    };
    for (int tls13 = 0; tls13 < 2; tls13++) {
        struct world w;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        world_open(&w, &keys);
        for (size_t i = 0; i < ROWS(rows); i++) {
            unsigned char value[64], untouched[64];
            socklen_t len = rows[i].len;
            memset(value, 0xa5, sizeof value);
            memset(untouched, 0xa5, sizeof untouched);
            REFUSED(&w, rows[i].name,
                    tls_getsockopt(w.fd[0], SOL_TLS, rows[i].option,
                                   rows[i].null ? NULL : value, &len),
                    rows[i].error);
            assert_memory_equal(value, untouched, sizeof value);
            assert_int_equal(len, rows[i].len);
            REFUSED(&w, rows[i].name,
                    tls_getsockopt(w.fd[0], SOL_TLS, rows[i].option, value, NULL), EFAULT);
        }
        uint16_t most = 0;
        socklen_t len = 40;
        assert_ok(tls_getsockopt(w.fd[0], SOL_TLS, 5, &most, &len));
        assert_int_equal(most, RECORD_MAX);
        assert_int_equal(len, 2);
        uint32_t zero_copy = 9;
        len = 4;
        assert_ok(tls_getsockopt(w.fd[0], SOL_TLS, 3, &zero_copy, &len));
        assert_int_equal(zero_copy, 0);
        world_close(&w);
    }
}

/* ATT-16: other levels are the kernel's, errors included. */
static void test_att16_other_options(void **state)
{
    (void)state;
    struct world w;
    struct keys keys = tls13_keys();
    int value = 0;
    socklen_t len = sizeof value;
    world_open(&w, &keys);
    assert_ok(tls_getsockopt(w.fd[0], SOL_SOCKET, SO_TYPE, &value, &len));
    assert_int_equal(value, SOCK_STREAM);
    const struct { const char *name; int level, option; void *value; socklen_t *len; int error; } rows[] = {
        {"an unknown level", 12345, 1, &value, &len, EOPNOTSUPP},
        {"an unknown option", SOL_SOCKET, 12345, &value, &len, ENOPROTOOPT},
        {"SO_ERROR, NULL", SOL_SOCKET, SO_ERROR, NULL, &len, EFAULT},
        {"SO_ERROR, no length", SOL_SOCKET, SO_ERROR, &value, NULL, EFAULT},
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        /* The kernel sees these pointers, and valgrind calls that an error. */
        if (under_valgrind() && (!rows[i].value || !rows[i].len))
            continue;
        REFUSED(&w, rows[i].name,
                tls_getsockopt(w.fd[0], rows[i].level, rows[i].option, rows[i].value, rows[i].len),
                rows[i].error);
    }
    assert_fails(tls_getsockopt(-1, SOL_SOCKET, SO_TYPE, &value, &len), EBADF);
    assert_fails(tls_getsockopt(w.file, SOL_SOCKET, SO_TYPE, &value, &len), ENOTSOCK);
    world_close(&w);
}

/* SO_ERROR into less than an int: as much as there is room for is written, and no more. */
static void test_so_error_lengths(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = make_keys(&suites[8], UINT64_MAX, 0);
    tls_pair(fd, &keys, &r);
    assert_fails(tls_send(fd[0], "x", 1, 0), EBADMSG);
    for (socklen_t room = 0; room <= 8; room++) {
        unsigned char value[8], want[8];
        int error = EBADMSG;
        socklen_t len = room;
        memset(value, 0xa5, sizeof value);
        memset(want, 0xa5, sizeof want);
        memcpy(want, &error, room < sizeof error ? room : sizeof error);
        assert_ok(tls_getsockopt(fd[0], SOL_SOCKET, SO_ERROR, room ? value : NULL, &len));
        assert_int_equal(len, room < sizeof error ? room : sizeof error);
        assert_memory_equal(value, want, sizeof value);
    }
    close_both(fd);
}

/* --- the rest --- */

static void test_wait_arguments(void **state)
{
    (void)state;
    struct world w;
    struct keys keys = tls13_keys();
    struct pollfd entry = {.fd = -1, .events = POLLIN};
    world_open(&w, &keys);
    static const int hows[] = {-1, 3, INT_MAX, INT_MIN};
    for (size_t i = 0; i < ROWS(hows); i++)
        REFUSED(&w, "tls_shutdown", tls_shutdown(w.fd[0], hows[i]), EINVAL);
    REFUSED(&w, "tls_poll: NULL", tls_poll(NULL, 1, 0), EFAULT);
    REFUSED(&w, "tls_poll: more than there can be", tls_poll(&entry, SIZE_MAX, 0), EINVAL);
    REFUSED(&w, "tls_poll: more than there can be", tls_poll(&entry, 1u << 31, 0), EINVAL);
    assert_returns(tls_poll(NULL, 0, 0), 0);
    assert_returns(tls_poll(&entry, 1, 0), 0);
    entry.fd = 1000000;
    assert_returns(tls_poll(&entry, 1, -1), 1);
    assert_int_equal(entry.revents, POLLNVAL);
    world_close(&w);
}

/* uktls_flush gives up in time, and the bytes still go out. */
static void test_flush_times_out(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    small_tls_pair(fd, &keys, &r);
    uint64_t accepted = fill_socket(fd[0], 0, 20000);
    assert_fails(uktls_flush(fd[0], 0), ETIMEDOUT);
    assert_fails(uktls_flush(fd[0], 20), ETIMEDOUT);
    expect_bytes(&r, accepted);
    assert_ok(uktls_flush(fd[0], -1));
    expect_pending(fd[0], 0);
    close_both(fd);
}

/* Structs that begin with their size. */
static void test_sized_structs(void **state)
{
    (void)state;
    struct world w;
    struct keys keys = tls13_keys();
    struct uktls_info info;
    struct uktls_stats stats;
    struct uktls_config config;
    world_open(&w, &keys);
    const size_t bad[] = {0, 1, sizeof(size_t), sizeof info - 1, sizeof info + 1, sizeof stats - 1,
                          sizeof stats + 1, sizeof config - 1, sizeof config + 1, SIZE_MAX};
    for (size_t i = 0; i < ROWS(bad); i++) {
        memset(&info, 0xa5, sizeof info);
        memset(&stats, 0xa5, sizeof stats);
        memset(&config, 0, sizeof config);
        info.size = stats.size = config.size = bad[i];
        REFUSED(&w, "uktls_get_info", uktls_get_info(w.fd[0], &info), EINVAL);
        REFUSED(&w, "uktls_get_stats", uktls_get_stats(&stats), EINVAL);
        REFUSED(&w, "uktls_configure", uktls_configure(&config), EINVAL);
        assert_int_equal(info.version, 0xa5a5);
        assert_int_equal(stats.errors, 0xa5a5a5a5a5a5a5a5);
    }
    REFUSED(&w, "NULL", uktls_get_info(w.fd[0], NULL), EFAULT);
    REFUSED(&w, "NULL", uktls_get_stats(NULL), EFAULT);
    REFUSED(&w, "NULL", uktls_configure(NULL), EFAULT);
    world_close(&w);
}

/* A refused configuration leaves the one in force. */
static void test_configure_arguments(void **state)
{
    (void)state;
    static const struct { const char *name; struct uktls_config config; } rows[] = {
        {"mode -1", {.mode = -1}},          {"mode 3", {.mode = 3}},
        {"engine -1", {.engine = -1}},      {"engine 99", {.engine = 99}},
        {"aead -1", {.aead = -1}},          {"aead 5", {.aead = 5}},
        {"a queue too small", {.tx_queue = 1}}, {"a queue one byte too small", {.tx_queue = 32767}},
        {"too many threads", {.threads = 1025}}, {"too many threads", {.threads = UINT32_MAX}},
        {"no level", {.log = ""}},          {"an unknown level", {.log = "loud"}},
        {"a level without its file", {.log = "debug:"}}, {"not UTF-8", {.log = "\xff\xfe"}},
        {"fallback -1", {.engine_fallback = -1}}, {"fallback 3", {.engine_fallback = 3}},
        {"too much in flight", {.engine_in_flight = 65537}},
        {"no accelerator's name", {.engine = UKTLS_ENGINE_OPENSSL, .engine_id = ""}},
        {"a name that is not UTF-8", {.engine = UKTLS_ENGINE_OPENSSL, .engine_id = "\xff"}},
    };
    struct world w;
    struct keys keys = tls13_keys();
    world_open(&w, &keys);
    for (size_t i = 0; i < ROWS(rows); i++) {
        int fd[2];
        struct receiver r;
        struct uktls_info info = {.size = sizeof info};
        struct uktls_config config = rows[i].config;
        config.size = sizeof config;
        if (!config.engine)
            config.engine = current_engine == UKTLS_ENGINE_INLINE ? UKTLS_ENGINE_THREADS
                                                                  : UKTLS_ENGINE_INLINE;
        REFUSED(&w, rows[i].name, uktls_configure(&config), EINVAL);
        tls_pair(fd, &keys, &r);
        assert_ok(uktls_get_info(fd[0], &info));
        assert_int_equal(info.engine, current_engine);
        close_both(fd);
    }
    /* The engines of this process are there already. */
    struct uktls_config late = {.size = sizeof late, .engine = UKTLS_ENGINE_OPENSSL, .engine_id = "late"};
    REFUSED(&w, "another accelerator", uktls_configure(&late), EBUSY);
    world_close(&w);
}

/* A call that succeeds leaves errno alone. */
static void test_errno_is_kept(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct uktls_info info = {.size = sizeof info};
    struct uktls_stats stats = {.size = sizeof stats};
    struct pollfd entry = {.events = POLLOUT};
    socklen_t len = 4;
    char option[64];
    tcp_pair(fd);
    entry.fd = fd[0];
    errno = EILSEQ;
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_returns(tls_send(fd[0], pattern(0, 30000), 30000, 0), 30000);
    assert_returns(tls_poll(&entry, 1, 0), 1);
    assert_ok(uktls_flush(fd[0], -1));
    assert_ok(uktls_get_info(fd[0], &info));
    assert_ok(uktls_get_stats(&stats));
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, option, &len));
    assert_ok(tls_shutdown(fd[0], SHUT_WR));
    assert_int_equal(uktls_tx_pending(fd[0]), 0);
    assert_ok(uktls_close(fd[0]));
    assert_int_equal(errno, EILSEQ);
    receiver_init(&r, fd[1], &keys);
    expect_bytes(&r, 30000);
    expect_end(&r);
    close(fd[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_att14_descriptors),       cmocka_unit_test(test_rule1_inherited),
        cmocka_unit_test(test_send_arguments),
        cmocka_unit_test(test_sendmsg_arguments),       cmocka_unit_test(test_tx15_control_arguments),
        cmocka_unit_test(test_file_arguments),          cmocka_unit_test(test_ci3_second_init_arguments),
        cmocka_unit_test(test_ci11_option_arguments),   cmocka_unit_test(test_att16_other_options),
        cmocka_unit_test(test_so_error_lengths),
        cmocka_unit_test(test_wait_arguments),          cmocka_unit_test(test_flush_times_out),
        cmocka_unit_test(test_sized_structs),           cmocka_unit_test(test_configure_arguments),
        cmocka_unit_test(test_errno_is_kept),
    };
    if (pipe(some_pipe) != 0)
        return 2;
    return RUN_ENGINES("arguments", tests);
}
