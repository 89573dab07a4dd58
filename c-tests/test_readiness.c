/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Waiting for room, by the kernel's own events, and what a blocked sender does not block. */
#include "harness.h"

#include <sys/epoll.h>
#include <sys/time.h>

/* Waits for one edge-triggered event. */
static uint32_t next_edge(int epoll)
{
    struct epoll_event event = {0};
    assert_returns(epoll_wait(epoll, &event, 1, DEADLINE_MS), 1);
    return event.events;
}

/* Design rule 4, TX-51, TX-52: whoever waits for an edge after each EAGAIN, and does nothing else,
 * gets everything out; an event may be followed by another EAGAIN, and that by another event. */
static void test_tx51_edges(void **state)
{
    (void)state;
    enum { TOTAL = 3 << 20, STEP = 50000 };
    for (int local = 0; local < 2; local++) {
        int fd[2], epoll = epoll_create1(0), refused = 0;
        struct keys keys = tls13_keys();
        struct drain d;
        struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
        (local ? unix_small_pair : small_tcp_pair)(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        set_nonblocking(fd[0], true);
        assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd[0], &event));
        uint64_t sent = fill_socket(fd[0], 0, STEP);
        drain_start(&d, fd[1], &keys);
        while (sent < TOTAL) {
            size_t left = TOTAL - sent < STEP ? TOTAL - sent : STEP;
            ssize_t n = tls_send(fd[0], pattern(sent, left), left, 0);
            if (n > 0) {
                sent += (uint64_t)n;
                continue;
            }
            assert_int_equal(n, -1);
            assert_int_equal(errno, EAGAIN);
            assert_true(next_edge(epoll) & EPOLLOUT);
            refused++;
        }
        assert_true(refused > 0);
        assert_ok(uktls_close(fd[0]));
        drain_finish(&d, TOTAL);
        close(fd[1]);
        close(epoll);
    }
}

/* TX-53: POLLOUT stays set when the write side is shut, POLLHUP comes when both are. */
static void test_tx53_hang_up(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, 0);
    assert_ok(tls_shutdown(fd[0], SHUT_WR));
    struct pollfd p = {fd[0], POLLOUT, 0};
    assert_returns(tls_poll(&p, 1, 0), 1);
    assert_int_equal(p.revents, POLLOUT);
    expect_records(&r, "23:10");
    expect_end(&r);
    assert_ok(close(fd[1]));
    wait_for(fd[0], POLLHUP);
    assert_ok(uktls_close(fd[0]));
}

/* TX-4: O_NONBLOCK is MSG_DONTWAIT on each call; the call itself decides, not what was before. */
static void test_tx4_nonblocking(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    struct iovec iov = {"\0\1\2", 3};
    struct msghdr msg = {.msg_name = &nowhere, .msg_namelen = sizeof nowhere, .msg_iov = &iov,
                         .msg_iovlen = 1};
    small_tls_pair(fd, &keys, &r);
    /* A destination address is ignored. */
    assert_returns(tls_sendmsg(fd[0], &msg, 0), 3);
    set_nonblocking(fd[0], true);
    uint64_t sent = 3;
    ssize_t n;
    while ((n = tls_send(fd[0], pattern(sent, 20000), 20000, 0)) > 0)
        sent += (uint64_t)n;
    assert_int_equal(errno, EAGAIN);
    set_nonblocking(fd[0], false);
    struct timeval short_time = {.tv_usec = 50000};
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDTIMEO, &short_time, sizeof short_time));
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while ((n = tls_send(fd[0], pattern(sent, 20000), 20000, 0)) > 0)
        sent += (uint64_t)n;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    assert_int_equal(errno, EAGAIN);
    /* This one has waited. */
    assert_true((ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000 >= 49);
    expect_bytes(&r, sent);
    close_both(fd);
}

/* TX-21: a record type while the socket is full. The open record is sealed and sent, whatever
 * becomes of the call's own bytes, and is not in its count. */
static void test_tx21_control_without_room(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    small_tls_pair(fd, &keys, &r);
    uint64_t sent = 0;
    ssize_t n;
    while ((n = tls_send(fd[0], pattern(sent, 10000), 10000, MSG_MORE | MSG_DONTWAIT)) > 0)
        sent += (uint64_t)n;
    assert_int_equal(errno, EAGAIN);
    n = send_typed(fd[0], ALERT, pattern(sent, 2), 2, MSG_DONTWAIT);
    assert_true(n == 2 || (n == -1 && errno == EAGAIN));
    expect_bytes(&r, sent);
    if (n < 0) {
        assert_ok(uktls_flush(fd[0], DEADLINE_MS));
        assert_returns(send_typed(fd[0], ALERT, pattern(sent, 2), 2, 0), 2);
    }
    expect_records(&r, "21:2");
    close_both(fd);
}

static void *reset_late(void *argument)
{
    int fd = *(int *)argument;
    struct linger reset = {.l_onoff = 1};
    struct pollfd wait = {fd, POLLIN, 0};
    struct timespec pause = {.tv_nsec = 50000000};
    poll(&wait, 1, DEADLINE_MS);
    nanosleep(&pause, NULL);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
    return NULL;
}

/* TX-32, TX-37: a reset in the middle of a call. The call returns what was accepted before; the
 * next ones the kernel's error. */
static void test_tx32_error_after_a_part(void **state)
{
    (void)state;
    int fd[2], error = 0;
    struct receiver r;
    struct keys keys = tls12_keys();
    pthread_t peer;
    socklen_t len = sizeof error;
    small_tls_pair(fd, &keys, &r);
    assert_int_equal(pthread_create(&peer, NULL, reset_late, &fd[1]), 0);
    ssize_t n = tls_send(fd[0], pattern(0, 8 << 20), 8 << 20, MSG_NOSIGNAL);
    assert_true(n > 0 && n < 8 << 20);
    assert_int_equal(pthread_join(peer, NULL), 0);
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), ECONNRESET);
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), ECONNRESET);
    assert_ok(tls_getsockopt(fd[0], SOL_SOCKET, SO_ERROR, &error, &len));
    assert_int_equal(error, ECONNRESET);
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    assert_ok(uktls_close(fd[0]));
}

struct blocked {
    int fd;
    pthread_t thread;
    _Atomic ssize_t got;
};

static void *send_blocked(void *argument)
{
    struct blocked *b = argument;
    b->got = tls_send(b->fd, pattern(0, 4 << 20), 4 << 20, MSG_NOSIGNAL);
    return NULL;
}

/* MT-1, MT-12, ATT-17: a sender that sleeps stops neither a reader nor a poll nor a question. */
static void test_mt1_others_go_on(void **state)
{
    (void)state;
    int fd[2];
    char byte = 0, info[64];
    struct receiver r;
    struct drain d;
    struct keys keys = tls13_keys();
    struct blocked b = {.got = 0};
    struct uktls_info figures = {.size = sizeof figures};
    socklen_t len = keys.len;
    struct timespec pause = {.tv_nsec = 100000000};
    small_tls_pair(fd, &keys, &r);
    b.fd = fd[0];
    assert_int_equal(pthread_create(&b.thread, NULL, send_blocked, &b), 0);
    wait_for(fd[1], POLLIN);
    nanosleep(&pause, NULL);
    assert_returns(send(fd[1], "y", 1, 0), 1);
    struct pollfd p = {fd[0], POLLIN, 0};
    assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1);
    assert_returns(recv(fd[0], &byte, 1, 0), 1);
    assert_int_equal(byte, 'y');
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len));
    assert_ok(uktls_get_info(fd[0], &figures));
    assert_true(figures.pending_bytes > 0 && uktls_tx_pending(fd[0]) > 0);
    assert_int_equal(b.got, 0);
    drain_start(&d, fd[1], &keys);
    assert_int_equal(pthread_join(b.thread, NULL), 0);
    assert_int_equal(b.got, 4 << 20);
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, 4 << 20);
    close(fd[1]);
}

static void *send_five(void *argument)
{
    return (void *)tls_send(*(int *)argument, pattern(5, 5), 5, 0);
}

/* MT-6, TX-6, TX-10: one open record, whoever adds to it; MSG_EOR is only the absence of MSG_MORE. */
static void test_mt6_one_open_record(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    pthread_t other;
    void *sent;
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 5, MSG_MORE);
    expect_nothing(fd[1]);
    assert_int_equal(pthread_create(&other, NULL, send_five, &fd[0]), 0);
    assert_int_equal(pthread_join(other, &sent), 0);
    assert_int_equal((ssize_t)sent, 5);
    expect_records(&r, "23:10");
    send_all(fd[0], 10, 5, MSG_MORE);
    send_all(fd[0], 15, 5, MSG_EOR);
    expect_records(&r, "23:10");
    close_both(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx51_edges),       cmocka_unit_test(test_tx53_hang_up),
        cmocka_unit_test(test_tx4_nonblocking),  cmocka_unit_test(test_tx21_control_without_room),
        cmocka_unit_test(test_tx32_error_after_a_part), cmocka_unit_test(test_mt1_others_go_on),
        cmocka_unit_test(test_mt6_one_open_record),
    };
    return RUN_ENGINES("readiness", tests);
}
