/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Waiting for descriptors, TLS sockets and others mixed: a record that is not complete is nothing yet.
 */
#include "preload.h"

#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

struct mix {
    int fd[2]; /* [0] is the TLS socket */
    struct peer peer;
    int ends[2]; /* of a pipe */
    unsigned char record[64];
    size_t len;
};

static void begin(struct mix *m)
{
    both_pair(m->fd, &m->peer);
    assert_ok(pipe(m->ends));
    m->len = seal(&m->peer.out, m->record, DATA, "12345", 5);
}

static void end(struct mix *m)
{
    close_tls(m->fd);
    close_tls(m->ends);
}

enum call { POLL, PPOLL, SELECT, PSELECT, CALLS };

/* POLLIN of the TLS socket and of the pipe, as two digits; waits for `ms`. */
static int ready(struct mix *m, enum call call, int ms)
{
    struct pollfd p[] = {{.fd = m->fd[0], .events = POLLIN}, {.fd = -1}, {.fd = m->ends[0], .events = POLLIN}};
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
    struct timeval tv = {ms / 1000, ms % 1000 * 1000L};
    fd_set in;
    int top = (m->fd[0] > m->ends[0] ? m->fd[0] : m->ends[0]) + 1, n, tls, other;
    FD_ZERO(&in);
    FD_SET(m->fd[0], &in);
    FD_SET(m->ends[0], &in);
    n = call == POLL     ? poll(p, 3, ms)
        : call == PPOLL  ? ppoll(p, 3, &ts, NULL)
        : call == SELECT ? select(top, &in, NULL, NULL, &tv)
                         : pselect(top, &in, NULL, NULL, &ts, NULL);
    assert_true(n >= 0);
    if (call == POLL || call == PPOLL) {
        assert_true((p[0].revents & ~POLLIN) == 0 && p[1].revents == 0 && (p[2].revents & ~POLLIN) == 0);
        tls = p[0].revents != 0;
        other = p[2].revents != 0;
    } else {
        tls = FD_ISSET(m->fd[0], &in) != 0;
        other = FD_ISSET(m->ends[0], &in) != 0;
    }
    assert_int_equal(n, tls + other);
    return tls * 10 + other;
}

static void test_an_incomplete_record_is_not_ready(void **state)
{
    (void)state;
    for (enum call call = 0; call < CALLS; call++) {
        struct mix m;
        char data[8];
        begin(&m);
        assert_int_equal(ready(&m, call, 0), 0);
        for (size_t at = 0; at < m.len - 1; at++) {
            send_wire(&m.peer.out, m.record + at, 1);
            assert_int_equal(ready(&m, call, 0), 0);
        }
        assert_int_equal(ready(&m, call, 10), 0);
        assert_returns(write(m.ends[1], "x", 1), 1);
        assert_int_equal(ready(&m, call, DEADLINE_MS), 1);
        send_wire(&m.peer.out, m.record + m.len - 1, 1);
        assert_int_equal(ready(&m, call, DEADLINE_MS), 11);
        /* A rest of the record is as good. */
        assert_returns(read(m.fd[0], data, 2), 2);
        assert_returns(read(m.ends[0], data, 1), 1);
        assert_int_equal(ready(&m, call, DEADLINE_MS), 10);
        assert_returns(read(m.fd[0], data, 3), 3);
        assert_int_equal(ready(&m, call, 0), 0);
        end(&m);
    }
}

/* What comes while a call waits ends it. */
static void *send_rest(void *argument)
{
    struct mix *m = argument;
    /* So that the call most likely waits, and is woken for single bytes; nothing rests on it. */
    usleep(20000);
    for (size_t at = 10; at < m->len; at++) {
        if (send(m->fd[1], m->record + at, 1, 0) != 1)
            abort();
        usleep(100);
    }
    return NULL;
}

static void test_a_sleeper_is_woken_by_the_last_byte(void **state)
{
    (void)state;
    for (enum call call = 0; call < CALLS; call++) {
        struct mix m;
        pthread_t thread;
        char data[8];
        begin(&m);
        send_wire(&m.peer.out, m.record, 10);
        assert_int_equal(pthread_create(&thread, NULL, send_rest, &m), 0);
        assert_int_equal(ready(&m, call, DEADLINE_MS), 10);
        assert_returns(recv(m.fd[0], data, 8, MSG_DONTWAIT), 5);
        assert_int_equal(pthread_join(thread, NULL), 0);
        end(&m);
    }
}

static long long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/* Not before the time is over, although the kernel calls the socket readable; select tells the rest. */
static void test_timeouts(void **state)
{
    (void)state;
    struct mix m;
    begin(&m);
    send_wire(&m.peer.out, m.record, 7);
    for (enum call call = 0; call < CALLS; call++) {
        long long begin = now_us();
        assert_int_equal(ready(&m, call, 30), 0);
        assert_true(now_us() - begin >= 30000);
    }
    fd_set in;
    struct timeval wait = {DEADLINE_MS / 1000, 0};
    FD_ZERO(&in);
    FD_SET(m.fd[0], &in);
    FD_SET(m.ends[0], &in);
    assert_returns(write(m.ends[1], "x", 1), 1);
    assert_returns(select(100, &in, NULL, NULL, &wait), 1);
    assert_true(wait.tv_sec <= DEADLINE_MS / 1000 && wait.tv_sec >= 0);
    struct timespec bad = {0, 1000000000};
    struct pollfd p = {.fd = m.fd[0], .events = POLLIN};
    assert_fails(ppoll(&p, 1, &bad, NULL), EINVAL);
    struct timeval negative = {-1, 0};
    assert_fails(select(100, &in, NULL, NULL, &negative), EINVAL);
    end(&m);
}

/* The mask is that of the wait alone, and a signal ends it. */
static void test_masks(void **state)
{
    (void)state;
    struct mix m;
    sigset_t blocked, before, none, now;
    begin(&m);
    send_wire(&m.peer.out, m.record, 7);
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    assert_ok(sigprocmask(SIG_BLOCK, &blocked, &before));
    for (int by_select = 0; by_select < 2; by_select++) {
        struct timespec wait = {DEADLINE_MS / 1000, 0}, soon = {0, 10000000};
        struct pollfd p = {.fd = m.fd[0], .events = POLLIN};
        fd_set in;
        FD_ZERO(&in);
        FD_SET(m.fd[0], &in);
        count_signal(SIGUSR1, SA_RESTART);
        assert_ok(raise(SIGUSR1));
        assert_int_equal(signals_seen, 0);
        if (by_select)
            assert_fails(pselect(m.fd[0] + 1, &in, NULL, NULL, &wait, &none), EINTR);
        else
            assert_fails(ppoll(&p, 1, &wait, &none), EINTR);
        assert_int_equal(signals_seen, 1);
        /* And the other way round. */
        assert_ok(raise(SIGUSR1));
        if (by_select)
            assert_returns(pselect(m.fd[0] + 1, &in, NULL, NULL, &soon, &blocked), 0);
        else
            assert_returns(ppoll(&p, 1, &soon, &blocked), 0);
        assert_int_equal(signals_seen, 1);
        assert_ok(sigprocmask(SIG_SETMASK, NULL, &now));
        assert_true(sigismember(&now, SIGUSR1));
        assert_ok(sigprocmask(SIG_UNBLOCK, &blocked, NULL));
        assert_int_equal(signals_seen, 2);
        assert_ok(sigprocmask(SIG_BLOCK, &blocked, NULL));
    }
    assert_ok(sigprocmask(SIG_SETMASK, &before, NULL));
    end(&m);
}

static void test_other_events(void **state)
{
    (void)state;
    struct mix m;
    begin(&m);
    struct pollfd p[] = {{.fd = m.fd[0], .events = POLLOUT}, {.fd = 999, .events = POLLIN}};
    assert_returns(poll(p, 1, 0), 1);
    assert_int_equal(p[0].revents, POLLOUT);
    assert_returns(poll(p, 2, 0), 2);
    assert_int_equal(p[1].revents, POLLNVAL);
    fd_set in, out;
    struct timeval zero = {0, 0};
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(m.fd[0], &out);
    FD_SET(999, &in);
    assert_fails(select(1000, &in, &out, NULL, &zero), EBADF);
    FD_CLR(999, &in);
    FD_SET(m.fd[0], &in);
    assert_returns(select(m.fd[0] + 1, &in, &out, NULL, &zero), 1);
    assert_true(FD_ISSET(m.fd[0], &out) && !FD_ISSET(m.fd[0], &in));
    assert_ok(close(m.fd[1]));
    assert_returns(poll(p, 1, DEADLINE_MS), 1);
    p[0].events = POLLIN | POLLRDHUP;
    assert_returns(poll(p, 1, DEADLINE_MS), 1);
    assert_true(p[0].revents & POLLRDHUP);
    assert_ok(close(m.fd[0]));
    close_tls(m.ends);
}

/* epoll is the kernel's own: woken at most for the first bytes of a record, and then when it is complete. */
static void test_epoll(void **state)
{
    (void)state;
    for (int edge = 0; edge < 2; edge++) {
        struct mix m;
        struct epoll_event event = {.events = EPOLLIN | (edge ? EPOLLET : 0)};
        char data[8];
        begin(&m);
        set_nonblocking(m.fd[0], true);
        int set = epoll_create1(EPOLL_CLOEXEC);
        assert_ok(epoll_ctl(set, EPOLL_CTL_ADD, m.fd[0], &event));
        assert_returns(epoll_wait(set, &event, 1, 0), 0);
        send_wire(&m.peer.out, m.record, 7);
        if (epoll_wait(set, &event, 1, 0) == 1)
            assert_fails(read(m.fd[0], data, 8), EAGAIN);
        assert_returns(epoll_wait(set, &event, 1, 10), 0);
        send_wire(&m.peer.out, m.record + 7, m.len - 7);
        assert_returns(epoll_wait(set, &event, 1, DEADLINE_MS), 1);
        assert_int_equal(event.events, EPOLLIN);
        assert_returns(read(m.fd[0], data, 2), 2);
        if (!edge)
            assert_returns(epoll_wait(set, &event, 1, 0), 1);
        assert_returns(read(m.fd[0], data, 8), 3);
        assert_fails(read(m.fd[0], data, 8), EAGAIN);
        assert_returns(epoll_wait(set, &event, 1, 0), 0);
        assert_ok(close(set));
        end(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_incomplete_record_is_not_ready),
        cmocka_unit_test(test_a_sleeper_is_woken_by_the_last_byte),
        cmocka_unit_test(test_timeouts), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_other_events), cmocka_unit_test(test_epoll),
    };
    return RUN_PRELOADED("test_readiness", tests);
}
