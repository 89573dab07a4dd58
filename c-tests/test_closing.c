/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Keys that change and sockets that close while records are on their way. */
#include "harness.h"

#include <sys/epoll.h>
#include <time.h>

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* CI-8: what was sent before the keys stays plain, in front; nothing behind them is. */
static void test_ci8_plain_before(void **state)
{
    (void)state;
    int fd[2];
    char plain[6] = "";
    struct receiver r;
    struct keys keys = tls13_keys();
    tcp_pair(fd);
    assert_returns(send(fd[0], "plain", 5, 0), 5);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    send_all(fd[0], 0, 20000, 0);
    assert_returns(recv(fd[1], plain, 5, MSG_WAITALL), 5);
    assert_string_equal(plain, "plain");
    receiver_init(&r, fd[1], &keys);
    expect_records(&r, "23:16384 23:3616");
    close_both(fd);
}

/* CI-14: a record counts when it is sealed, not when it is collected, and not when TCP has it. */
static void test_ci14_when_it_counts(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    unsigned char info[64];
    socklen_t len = (socklen_t)keys.len;
    small_tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 5, MSG_MORE);
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len));
    assert_memory_equal(info, keys.info, keys.len);
    send_all(fd[0], 5, 16384 - 5, 0);
    uint64_t sent = 16384 + fill_socket(fd[0], 16384, 16384);
    assert_true(uktls_tx_pending(fd[0]) > 0);
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len));
    uint64_t number = 0;
    for (int i = 32; i < 40; i++)
        number = number << 8 | info[i];
    assert_int_equal(number, 5 + sent / 16384);
    expect_bytes(&r, sent);
    close_both(fd);
}

struct sending {
    int fd;
    pthread_t thread;
    _Atomic ssize_t got;
    int error;
};

static void *send_much(void *argument)
{
    struct sending *s = argument;
    s->got = tls_send(s->fd, pattern(0, 4 << 20), 4 << 20, MSG_NOSIGNAL);
    s->error = errno;
    return NULL;
}

static void *read_late(void *argument)
{
    struct drain *d = argument;
    struct timespec pause = {.tv_nsec = 100000000};
    nanosleep(&pause, NULL);
    while (d->receiver.records < (4 << 20) / 16384 && receiver_next(&d->receiver) > 0) {
    }
    return NULL;
}

/* CI-10: new keys wait for a send in progress. All of its records are sealed with the old ones. */
static void test_ci10_rekey_waits(void **state)
{
    (void)state;
    int fd[2];
    struct receiver unused;
    struct drain d;
    struct keys keys = tls13_keys(), fresh = make_keys(keys.suite, 0, 9);
    struct sending s = {.got = 0};
    small_tls_pair(fd, &keys, &unused);
    receiver_init(&d.receiver, fd[1], &keys);
    s.fd = fd[0];
    assert_int_equal(pthread_create(&s.thread, NULL, send_much, &s), 0);
    wait_for(fd[1], POLLIN);
    assert_int_equal(pthread_create(&d.thread, NULL, read_late, &d), 0);
    assert_ok(tls_tx_init(fd[0], fresh.info, fresh.len));
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    assert_int_equal(s.got, 4 << 20);
    drain_finish(&d, 4 << 20);
    send_all(fd[0], 4 << 20, 7, 0);
    receiver_rekey(&d.receiver, &fresh);
    expect_records(&d.receiver, "23:7");
    close_both(fd);
}

/* AS-21, AS-18: the keys of queued records stay valid across a rekey and a close. */
static void test_as21_old_keys_live_on(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys(), fresh = make_keys(keys.suite, 0, 9);
    small_tls_pair(fd, &keys, &r);
    uint64_t sent = fill_socket(fd[0], 0, 20000);
    assert_ok(tls_tx_init(fd[0], fresh.info, fresh.len));
    assert_ok(uktls_close(fd[0]));
    expect_bytes(&r, sent);
    expect_end(&r);
    close(fd[1]);
}

/* TX-56: closing one of two descriptors of a socket sends what was accepted, and does not end the
 * connection. */
static void test_tx56_second_descriptor(void **state)
{
    (void)state;
    int fd[2], other;
    struct receiver r;
    struct keys keys = tls12_keys();
    /* Nothing waits: the duplicate, which the library has never seen, goes on. */
    tls_pair(fd, &keys, &r);
    other = dup(fd[0]);
    assert_true(other >= 0);
    send_all(fd[0], 0, 7, MSG_MORE);
    assert_ok(uktls_close(fd[0]));
    send_all(other, 7, 9, 0);
    expect_bytes(&r, 16);
    assert_fails(tls_tx_init(other, keys.info, keys.len), EBUSY);
    int third = dup(other);
    send_all(third, 16, 3, 0);
    assert_ok(uktls_close(other));
    send_all(third, 19, 3, 0);
    expect_bytes(&r, 22);
    assert_ok(uktls_close(third));
    expect_end(&r);
    expect_no_connections();
    close(fd[1]);
    /* Records wait for room: they go out, and the duplicate sends no more, not plain either. */
    small_tls_pair(fd, &keys, &r);
    other = dup(fd[0]);
    uint64_t sent = fill_socket(fd[0], 0, 20000);
    assert_ok(uktls_close(fd[0]));
    expect_bytes(&r, sent);
    expect_no_connections();
    expect_nothing(fd[1]);
    assert_fails(tls_send(other, "x", 1, 0), ENOPROTOOPT);
    assert_ok(close(other));
    expect_end(&r);
    close(fd[1]);
}

/* TX-58: SO_LINGER of 0 seconds resets, of some seconds makes the close wait. */
static void test_tx58_linger(void **state)
{
    (void)state;
    int fd[2];
    char byte;
    struct receiver r;
    struct drain d;
    struct keys keys = tls13_keys();
    struct linger linger = {.l_onoff = 1};
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, 0);
    expect_records(&r, "23:10");
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    assert_ok(uktls_close(fd[0]));
    wait_for(fd[1], POLLERR);
    assert_fails(recv(fd[1], &byte, 1, 0), ECONNRESET);
    close(fd[1]);

    /* Also while records are queued, but not by a close that leaves the socket another number. */
    uint64_t sent;
    for (int with_duplicate = 0; with_duplicate < 2; with_duplicate++) {
        small_tls_pair(fd, &keys, &r);
        sent = fill_socket(fd[0], 0, 20000);
        assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
        int other = with_duplicate ? dup(fd[0]) : -1;
        assert_ok(uktls_close(fd[0]));
        if (with_duplicate) {
            expect_bytes(&r, sent);
            linger.l_onoff = 0;
            assert_ok(setsockopt(other, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
            linger.l_onoff = 1;
            assert_ok(uktls_close(other));
            expect_end(&r);
        } else {
            wait_for(fd[1], POLLERR);
        }
        expect_no_connections();
        close(fd[1]);
    }

    /* Nobody reads: it waits for its second, and what is left goes out all the same. */
    linger.l_linger = 1;
    small_tls_pair(fd, &keys, &r);
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    sent = fill_socket(fd[0], 0, 20000);
    int64_t began = now_ms();
    assert_ok(uktls_close(fd[0]));
    assert_in_range(now_ms() - began, 990, 10000);
    expect_bytes(&r, sent);
    expect_end(&r);
    close(fd[1]);

    /* Somebody reads: it does not wait longer than that takes. (valgrind runs no other thread while
     * one is in close(2), so there the reader cannot help it.) */
    linger.l_linger = under_valgrind() ? 1 : 25;
    small_tls_pair(fd, &keys, &r);
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    sent = fill_socket(fd[0], 0, 20000);
    drain_start(&d, fd[1], &keys);
    began = now_ms();
    assert_ok(uktls_close(fd[0]));
    if (!under_valgrind())
        assert_in_range(now_ms() - began, 0, 20000);
    drain_finish(&d, sent);
    close(fd[1]);
}

static int count_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* TX-57: what is closed lives on without a descriptor of the program's and out of its epoll sets, keeps nothing else of the
 * program's open, and arrives. */
static void test_tx57_orphans(void **state)
{
    (void)state;
    enum { ORPHANS = 20 };
    struct keys keys = tls13_keys();
    struct receiver r[ORPHANS];
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP};
    int fd[ORPHANS][2], ends[2], before = 0, set = epoll_create1(EPOLL_CLOEXEC);
    uint64_t sent[ORPHANS];
    char byte;
    assert_true(set >= 0);
    for (int i = 0; i < ORPHANS; i++) {
        small_tls_pair(fd[i], &keys, &r[i]);
        sent[i] = fill_socket(fd[i][0], 0, 1 << 20);
        assert_ok(epoll_ctl(set, EPOLL_CTL_ADD, fd[i][0], &event));
    }
    assert_ok(pipe(ends));
    for (int i = 0; i < ORPHANS; i++) {
        assert_ok(uktls_close(fd[i][0]));
        /* The first may make something for all of them. */
        if (i == 0)
            before = count_descriptors();
        else
            assert_int_equal(count_descriptors(), before - i);
        assert_ok(shutdown(fd[i][1], SHUT_WR));
    }
    assert_returns(epoll_wait(set, &event, 1, 100), 0);
    assert_ok(close(ends[1]));
    assert_returns(read(ends[0], &byte, 1), 0);
    assert_ok(close(ends[0]));
    for (int i = 0; i < ORPHANS; i++)
        expect_bytes(&r[i], sent[i]);
    expect_no_connections();
    for (int i = 0; i < ORPHANS; i++)
        assert_ok(close(fd[i][1]));
    assert_ok(close(set));
}

/* More records than one system call takes, to a reader that then takes them all at once. */
static void test_tx57_many_records(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver r;
    int fd[2], large = 1 << 20;
    small_tls_pair(fd, &keys, &r);
    uint64_t sent = fill_socket(fd[0], 0, 10000);
    /* Room for all that is queued, when the reader makes some. */
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &large, sizeof large));
    assert_ok(uktls_close(fd[0]));
    expect_bytes(&r, sent);
    expect_end(&r);
    assert_ok(close(fd[1]));
}

/* Not for ever: a reader that takes nothing is reset. */
static void test_tx57_orphans_end(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver r;
    struct uktls_config config = {.size = sizeof config, .linger_ms = 200};
    int fd[2];
    assert_ok(uktls_configure(&config));
    small_tls_pair(fd, &keys, &r);
    fill_socket(fd[0], 0, 1 << 20);
    assert_ok(uktls_close(fd[0]));
    wait_for(fd[1], POLLERR);
    assert_ok(close(fd[1]));
}

/* TX-59: a signal that is pending at close makes it drop nothing. */
static void test_tx59_signal_at_close(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    sigset_t one;
    small_tls_pair(fd, &keys, &r);
    uint64_t sent = fill_socket(fd[0], 0, 20000);
    count_signal(SIGUSR1, 0);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    assert_ok(raise(SIGUSR1));
    assert_ok(uktls_close(fd[0]));
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    assert_int_equal(signals_seen, 1);
    expect_bytes(&r, sent);
    expect_end(&r);
    close(fd[1]);
    signal(SIGUSR1, SIG_DFL);
}

/* The way to free a sender whose reader does not read: shutdown does not wait for it, and what it has accepted
 * arrives, with the end behind it. */
static void test_shutdown_beside_a_blocked_send(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct receiver r;
    small_tls_pair(fd, &keys, &r);
    struct sending sending = {.fd = fd[0]};
    assert_ok(pthread_create(&sending.thread, NULL, send_much, &sending));
    usleep(100000);
    int64_t begin = now_ms();
    assert_ok(tls_shutdown(fd[0], SHUT_WR));
    assert_true(now_ms() - begin < DEADLINE_MS / 2);
    assert_ok(pthread_join(sending.thread, NULL));
    assert_true(sending.got > 0 && sending.got < 4 << 20);
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    expect_bytes(&r, (uint64_t)sending.got);
    expect_end(&r);
    close_both(fd);
}

/* MT-3: a second sender waits for the first, until a signal. */
static void test_mt3_waiting_sender_is_interrupted(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct receiver r;
    small_tls_pair(fd, &keys, &r);
    struct sending first = {.fd = fd[0]}, second = {.fd = fd[0]};
    count_signal(SIGUSR1, 0);
    assert_ok(pthread_create(&first.thread, NULL, send_much, &first));
    usleep(100000);
    assert_ok(pthread_create(&second.thread, NULL, send_much, &second));
    usleep(100000);
    assert_ok(pthread_kill(second.thread, SIGUSR1));
    assert_ok(pthread_join(second.thread, NULL));
    assert_int_equal(second.got, -1);
    assert_int_equal(second.error, EINTR);
    expect_bytes(&r, 4 << 20);
    assert_ok(pthread_join(first.thread, NULL));
    assert_int_equal(first.got, 4 << 20);
    signal(SIGUSR1, SIG_DFL);
    close_both(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ci8_plain_before),       cmocka_unit_test(test_ci14_when_it_counts),
        cmocka_unit_test(test_ci10_rekey_waits),       cmocka_unit_test(test_as21_old_keys_live_on),
        cmocka_unit_test(test_tx56_second_descriptor), cmocka_unit_test(test_tx58_linger),
        cmocka_unit_test(test_tx59_signal_at_close),   cmocka_unit_test(test_shutdown_beside_a_blocked_send),
        cmocka_unit_test(test_mt3_waiting_sender_is_interrupted), cmocka_unit_test(test_tx57_orphans), cmocka_unit_test(test_tx57_many_records),
        cmocka_unit_test(test_tx57_orphans_end),
    };
    return RUN_ENGINES("closing", tests);
}
