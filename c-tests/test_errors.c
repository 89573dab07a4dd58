/* SPDX-License-Identifier: MIT OR Apache-2.0
 * What a send returns when it cannot go on: flags, timeouts, signals, dead sockets. */
#include "harness.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/time.h>

/* TX-1, TX-2: every flag that the kernel refuses, before anything happens. */
static void test_tx1_flags(void **state)
{
    (void)state;
    static const int refused[] = {MSG_OOB, MSG_ZEROCOPY, MSG_CONFIRM, MSG_DONTROUTE, MSG_FASTOPEN,
                                  MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_PROXY, MSG_SYN, MSG_FIN,
                                  MSG_RST, MSG_ERRQUEUE, MSG_CMSG_CLOEXEC};
    static const int taken[] = {0, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_EOR, MSG_DONTWAIT | MSG_EOR};
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_fails(tls_send(fd[0], "x", 1, refused[i]), EOPNOTSUPP);
        assert_fails(send_typed(fd[0], ALERT, "x", 1, refused[i]), EOPNOTSUPP);
        assert_fails(tls_sendpage(fd[0], "x", 0, 1, refused[i]), EOPNOTSUPP);
    }
    assert_fails(tls_send(fd[0], "x", 1, MSG_MORE | MSG_EOR), EINVAL);
    expect_nothing(fd[1]);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        send_all(fd[0], i * 3, 3, taken[i]);
    expect_records(&r, "23:3 23:3 23:3 23:3 23:3");
    close_both(fd);
}

/* TX-15, TX-16, TX-18, TX-19, TX-23: control messages; a refused one changes nothing. */
static void test_tx15_control_messages(void **state)
{
    (void)state;
    struct row { size_t controllen, len; int level, type; } rows[] = {
        {24, 16, SOL_TLS, TLS_SET_RECORD_TYPE}, {24, 0, SOL_TLS, TLS_SET_RECORD_TYPE},
        {24, 25, SOL_TLS, TLS_SET_RECORD_TYPE}, {24, 17, SOL_TLS, TLS_GET_RECORD_TYPE},
        {24, 17, SOL_TLS, 0},                   {24, 17, SOL_SOCKET, 1},
        {8, 17, SOL_TLS, TLS_SET_RECORD_TYPE},  {1, 17, SOL_TLS, TLS_SET_RECORD_TYPE},
    };
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 5, MSG_MORE);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        union { struct cmsghdr header; char bytes[64]; } control = {0};
        struct iovec iov = {.iov_base = "x", .iov_len = 1};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = rows[i].controllen};
        control.header.cmsg_len = rows[i].len;
        control.header.cmsg_level = rows[i].level;
        control.header.cmsg_type = rows[i].type;
        assert_fails(tls_sendmsg(fd[0], &msg, 0), EINVAL);
    }
    struct msghdr no_buffer = {.msg_controllen = 24};
    assert_fails(tls_sendmsg(fd[0], &no_buffer, 0), EFAULT);
    expect_pending(fd[0], 5);
    expect_nothing(fd[1]);

    /* Two messages, a foreign one in front of each: the last type wins. */
    union { struct cmsghdr header; char bytes[4 * 24]; } control = {0};
    static const int levels[] = {SOL_SOCKET, SOL_TLS, SOL_IP, SOL_TLS};
    struct iovec iov = {.iov_base = "yyy", .iov_len = 3};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                         .msg_controllen = sizeof control.bytes};
    struct cmsghdr *at = CMSG_FIRSTHDR(&msg);
    for (int i = 0; i < 4; i++) {
        at->cmsg_len = CMSG_LEN(1);
        at->cmsg_level = levels[i];
        at->cmsg_type = TLS_SET_RECORD_TYPE;
        *CMSG_DATA(at) = (unsigned char)(20 + i);
        at = (struct cmsghdr *)((char *)at + CMSG_SPACE(1));
    }
    assert_returns(tls_sendmsg(fd[0], &msg, 0), 3);
    r.pattern = false;
    expect_records(&r, "23:5 23:3");
    /* Any byte is a type; a long message of one becomes several records. */
    assert_returns(send_typed(fd[0], 255, "a", 1, 0), 1);
    assert_returns(send_typed(fd[0], 0, "a", 1, 0), 1);
    assert_returns(send_typed(fd[0], HANDSHAKE, pattern(0, 20000), 20000, 0), 20000);
    expect_records(&r, "255:1 0:1 22:16384 22:3616");
    /* TX-22: no empty records; the open one is sealed. */
    send_all(fd[0], 0, 4, MSG_MORE);
    assert_returns(send_typed(fd[0], ALERT, "", 0, 0), 0);
    expect_records(&r, "23:4");
    expect_nothing(fd[1]);
    close_both(fd);
}

/* TX-12: segments are one message; empty ones have no effect. */
static void test_tx12_iovecs(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct iovec iov[1024];
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 1024};
    tls_pair(fd, &keys, &r);
    for (int i = 0; i < 1024; i++)
        iov[i] = (struct iovec){(void *)(uintptr_t)pattern(16u * i, 16), 16};
    assert_returns(tls_sendmsg(fd[0], &msg, 0), 16384);
    expect_records(&r, "23:16384");
    iov[0] = iov[2] = (struct iovec){NULL, 0};
    iov[1] = (struct iovec){(void *)(uintptr_t)pattern(16384, 9), 9};
    msg.msg_iovlen = 3;
    assert_returns(tls_sendmsg(fd[0], &msg, 0), 9);
    expect_records(&r, "23:9");
    /* TX-13: a bad segment in the middle adds nothing. */
    iov[0] = iov[2] = iov[1];
    iov[1] = (struct iovec){NULL, 5};
    assert_ok(uktls_flush(fd[0], DEADLINE_MS));
    assert_fails(tls_sendmsg(fd[0], &msg, MSG_MORE), EFAULT);
    expect_pending(fd[0], 0);
    close_both(fd);
}

/* TX-33, AS-11, AS-13, AS-14: the buffer, also that of an open record, is the program's again when
 * the call returns, though the records may still be being sealed. */
static void test_tx33_buffer_reuse(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct drain d;
    static unsigned char buffer[50000];
    uint64_t sent = 0;
    tls_pair(fd, &keys, &r);
    drain_start(&d, fd[1], &keys);
    for (int i = 0; i < 300; i++) {
        size_t len = (size_t)(i * 7919) % sizeof buffer + 1;
        fill_pattern(buffer, sent, len);
        assert_returns(tls_send(fd[0], buffer, len, i % 3 ? 0 : MSG_MORE), len);
        memset(buffer, 0xee, len);
        sent += len;
    }
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, sent);
    close(fd[1]);
}

/* TX-30: SO_SNDTIMEO ends a blocking send with what was accepted, then with EAGAIN. */
static void test_tx30_timeout(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct timeval short_time = {.tv_usec = 50000};
    small_tls_pair(fd, &keys, &r);
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDTIMEO, &short_time, sizeof short_time));
    uint64_t accepted = 0;
    for (;;) {
        ssize_t n = tls_send(fd[0], pattern(accepted, 4 << 20), 4 << 20, 0);
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            break;
        }
        assert_true(n > 0 && n < 4 << 20);
        accepted += (uint64_t)n;
    }
    assert_true(accepted > 0);
    expect_bytes(&r, accepted);
    wait_for(fd[0], POLLOUT);
    send_all(fd[0], accepted, 10, 0);
    expect_records(&r, "23:10");
    close_both(fd);
}

/* Sends SIGUSR1 to a thread every 20 ms, from 100 ms on: one of them finds it asleep. */
struct nagger {
    pthread_t victim, thread;
    _Atomic bool enough;
};

static void *nag(void *argument)
{
    struct nagger *n = argument;
    struct timespec pause = {.tv_nsec = 100000000};
    while (!n->enough) {
        nanosleep(&pause, NULL);
        pause.tv_nsec = 20000000;
        if (!n->enough)
            pthread_kill(n->victim, SIGUSR1);
    }
    return NULL;
}

/* TX-31: a signal ends a blocking send that has accepted nothing with EINTR. */
static void test_tx31_signal(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct nagger nagger = {.victim = pthread_self()};
    small_tls_pair(fd, &keys, &r);
    count_signal(SIGUSR1, 0);
    uint64_t accepted = fill_socket(fd[0], 0, 16384);
    ssize_t n;
    assert_int_equal(pthread_create(&nagger.thread, NULL, nag, &nagger), 0);
    /* Below the queue's limit a send accepts something first, so it takes a few. */
    while ((n = tls_send(fd[0], pattern(accepted, 4 << 20), 4 << 20, 0)) > 0)
        accepted += (uint64_t)n;
    int error = errno;
    nagger.enough = true;
    assert_int_equal(pthread_join(nagger.thread, NULL), 0);
    assert_int_equal(n, -1);
    assert_int_equal(error, EINTR);
    assert_true(signals_seen > 0);
    expect_bytes(&r, accepted);
    send_all(fd[0], accepted, 10, 0);
    expect_records(&r, "23:10");
    close_both(fd);
    signal(SIGUSR1, SIG_DFL);
}

/* TX-31: after a handler with SA_RESTART the send goes on. */
static void test_tx31_restart(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct drain d;
    struct nagger nagger = {.victim = pthread_self()};
    small_tls_pair(fd, &keys, &r);
    count_signal(SIGUSR1, SA_RESTART);
    uint64_t accepted = fill_socket(fd[0], 0, 16384);
    /* Nobody reads before the signal came, so the send is asleep when it does. */
    receiver_init(&d.receiver, fd[1], &keys);
    pid_t child = fork();
    if (child == 0) {
        /* Reads on behalf of the parent, later; ends with the stream. */
        close(fd[0]);
        struct timespec pause = {.tv_nsec = 400000000};
        nanosleep(&pause, NULL);
        while (receiver_next(&d.receiver) > 0) {
        }
        kill(getpid(), d.receiver.fault[0] ? SIGABRT : SIGKILL);
    }
    assert_int_equal(pthread_create(&nagger.thread, NULL, nag, &nagger), 0);
    ssize_t n = tls_send(fd[0], pattern(accepted, 4 << 20), 4 << 20, 0);
    nagger.enough = true;
    assert_int_equal(pthread_join(nagger.thread, NULL), 0);
    assert_returns(n, 4 << 20);
    assert_true(signals_seen > 0);
    assert_ok(uktls_close(fd[0]));
    int status = wait_child(child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(fd[1]);
    signal(SIGUSR1, SIG_DFL);
}

/* TX-11, TX-38, TX-40: after a shutdown every send is EPIPE, with SIGPIPE unless told otherwise. */
static void test_tx38_shut_down(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    for (int ours = 0; ours < 2; ours++) {
        tls_pair(fd, &keys, &r);
        count_signal(SIGPIPE, 0);
        assert_ok(ours ? tls_shutdown(fd[0], SHUT_WR) : shutdown(fd[0], SHUT_WR));
        assert_returns(tls_send(fd[0], "", 0, 0), 0);
        assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
        assert_int_equal(signals_seen, 0);
        assert_fails(tls_send(fd[0], "x", 1, 0), EPIPE);
        assert_int_equal(signals_seen, 1);
        assert_fails(send_typed(fd[0], ALERT, "x", 1, 0), EPIPE);
        assert_int_equal(signals_seen, 2);
        expect_end(&r);
        close_both(fd);
    }
    signal(SIGPIPE, SIG_DFL);
}

/* TX-34, TX-37, TX-39: after a reset the error stays until SO_ERROR takes it; then a send is EPIPE. */
static void test_tx34_reset(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct linger reset = {.l_onoff = 1};
    tls_pair(fd, &keys, &r);
    count_signal(SIGPIPE, 0);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
    assert_ok(close(fd[1]));
    wait_for(fd[0], POLLERR);
    for (int i = 0; i < 3; i++)
        assert_fails(tls_send(fd[0], "x", 1, 0), ECONNRESET);
    int error = 0;
    socklen_t len = sizeof error;
    assert_ok(tls_getsockopt(fd[0], SOL_SOCKET, SO_ERROR, &error, &len));
    assert_int_equal(error, ECONNRESET);
    assert_int_equal(signals_seen, 0);
    assert_fails(tls_send(fd[0], "x", 1, 0), EPIPE);
    assert_int_equal(signals_seen, 1);
    expect_pending(fd[0], 0);
    assert_ok(uktls_close(fd[0]));

    /* The peer closes and answers what comes with a reset. */
    tls_pair(fd, &keys, &r);
    assert_ok(close(fd[1]));
    wait_for(fd[0], POLLIN);
    send_all(fd[0], 0, 1, 0);
    wait_for(fd[0], POLLERR | POLLHUP);
    ssize_t n = 0;
    for (int i = 0; i < 100 && n >= 0; i++)
        n = tls_send(fd[0], "x", 1, MSG_NOSIGNAL);
    assert_int_equal(n, -1);
    assert_true(errno == EPIPE || errno == ECONNRESET);
    assert_ok(uktls_close(fd[0]));
    signal(SIGPIPE, SIG_DFL);
}

/* REC-13: the last number is never used, and the failure is for good. */
static void test_rec13_wrap(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct receiver r;
        struct keys keys = make_keys(&suites[i], UINT64_MAX - 2, 0);
        tls_pair(fd, &keys, &r);
        send_all(fd[0], 0, 5, 0);
        send_all(fd[0], 5, 5, 0);
        for (int again = 0; again < 3; again++) {
            int error = 0;
            socklen_t len = sizeof error;
            assert_fails(tls_send(fd[0], "x", 1, 0), EBADMSG);
            assert_ok(tls_getsockopt(fd[0], SOL_SOCKET, SO_ERROR, &error, &len));
        }
        expect_records(&r, "23:5 23:5");
        expect_nothing(fd[1]);
        close_both(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx1_flags),       cmocka_unit_test(test_tx15_control_messages),
        cmocka_unit_test(test_tx12_iovecs),     cmocka_unit_test(test_tx33_buffer_reuse),
        cmocka_unit_test(test_tx30_timeout),    cmocka_unit_test(test_tx31_signal),
        cmocka_unit_test(test_tx31_restart),    cmocka_unit_test(test_tx38_shut_down),
        cmocka_unit_test(test_tx34_reset),      cmocka_unit_test(test_rec13_wrap),
    };
    return RUN_ENGINES("errors", tests);
}
