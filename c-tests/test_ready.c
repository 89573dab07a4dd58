/* SPDX-License-Identifier: MIT OR Apache-2.0
 * When a socket is readable: by tls_poll, which is exact, and by the kernel's poll and epoll, on which
 * nobody may be woken too often or too seldom. */
#include "sealer.h"

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/time.h>

static struct keys all_keys(size_t i)
{
    return make_keys(&suites[i], 5, 0);
}

static int watch(int fd, uint32_t events)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = events};
    assert_true(epoll >= 0);
    assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    return epoll;
}

/* Events of the one descriptor now; 0 if there are none. */
static uint32_t events_now(int epoll)
{
    struct epoll_event event = {0};
    int n = epoll_wait(epoll, &event, 1, 0);
    assert_in_range(n, 0, 1);
    return n ? event.events : 0;
}

/* RX-47, RX-48, RX-49: byte by byte, a record becomes readable with its last; the kernel says so, too,
 * but for once in the beginning. The rest of a record stays readable, to its last byte. */
static void test_rx48_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2], epoll, woken = 0;
        unsigned char wire[200];
        struct sealer s;
        struct keys keys = all_keys(i);
        if (!suite_evp(keys.suite))
            continue;
        rx_pair(fd, &keys, &s);
        epoll = watch(fd[1], EPOLLIN);
        size_t first = seal_layout(&s, wire, "23:9"), len = first + seal_layout(&s, wire + first, "22:8");
        for (size_t at = 0; at < len; at++) {
            send_wire(&s, wire + at, 1);
            bool whole = at >= first - 1;
            uint32_t seen = events_now(epoll);
            if (seen && !whole) {
                woken++;
                expect_calls(&s, 100, MSG_DONTWAIT, "EAGAIN");
                assert_int_equal(events_now(epoll), 0);
            }
            if (whole)
                assert_int_equal(seen, EPOLLIN);
            assert_events(fd[1], whole ? POLLIN : 0);
        }
        assert_in_range(woken, 0, 1);
        for (int left = 9; left > 0; left--) {
            assert_int_equal(events_now(epoll), EPOLLIN);
            assert_events(fd[1], POLLIN);
            expect_calls(&s, 1, MSG_DONTWAIT, "23:1");
        }
        for (int left = 8; left > 0; left--) {
            assert_int_equal(events_now(epoll), EPOLLIN);
            assert_events(fd[1], POLLIN);
            expect_calls(&s, 1, MSG_DONTWAIT, "22:1");
        }
        assert_int_equal(events_now(epoll), 0);
        assert_events(fd[1], 0);
        close(epoll);
        close_tls(fd);
    }
}

struct writer {
    struct sealer s;
    const char *layout;
    size_t step;
    pthread_t thread;
};

static void *writer_main(void *argument)
{
    struct writer *w = argument;
    unsigned char *wire = malloc(1 << 20);
    if (!wire)
        abort();
    size_t len = seal_layout(&w->s, wire, w->layout);
    w->s.rx = -1;
    send_segments(&w->s, wire, len, w->step);
    free(wire);
    shutdown(w->s.fd, SHUT_WR);
    return NULL;
}

enum way { TLS_POLL, POLL, EPOLL_LEVEL, EPOLL_EDGE, BLOCKING, WAYS };

/* Reads the whole stream in calls of `step` bytes, waiting in one of the ways; returns the bytes. */
static size_t read_all(int fd, enum way way, size_t step, size_t *spurious)
{
    int epoll = watch(fd, way == EPOLL_EDGE ? EPOLLIN | EPOLLET : EPOLLIN);
    unsigned char data[RECORD_MAX];
    uint64_t position = 0;
    bool fresh = false;
    set_nonblocking(fd, way != BLOCKING);
    for (;;) {
        struct iovec iov = {data, step};
        char control[CMSG_SPACE(1)];
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
        ssize_t n = tls_recvmsg(fd, &msg, 0);
        if (n == 0 && msg.msg_controllen == 0)
            break;
        if (n < 0) {
            struct pollfd p = {fd, POLLIN, 0};
            struct epoll_event event;
            assert_int_equal(errno, EAGAIN);
            *spurious += fresh;
            fresh = true;
            switch (way) {
            case TLS_POLL: assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1); break;
            case POLL: assert_returns(poll(&p, 1, DEADLINE_MS), 1); break;
            case BLOCKING: fail_msg("EAGAIN from a call that waits"); break;
            default: assert_returns(epoll_wait(epoll, &event, 1, DEADLINE_MS), 1); break;
            }
            continue;
        }
        fresh = false;
        if (memcmp(data, pattern(position, (size_t)n), (size_t)n))
            fail_msg("wrong plaintext behind byte %llu", (unsigned long long)position);
        position += (uint64_t)n;
    }
    close(epoll);
    return position;
}

/* RX-47 to RX-49, RX-53: records of all kinds, in segments of all sizes, read in pieces of all sizes,
 * in every way to wait: everything comes, and tls_poll never lies. */
static void test_rx53_every_way(void **state)
{
    (void)state;
    static const size_t which[] = {0, 3, 8}, segments[] = {1, 7, 100, 20000}, steps[] = {1, 13, 16384};
    const char *layout = "23:1 23:100 22:30 23:0 23:200+10 21:2 22:0 23:300 23:0 24:1 23:50";
    for (size_t v = 0; v < 3; v++)
        for (size_t a = 0; a < 4; a++)
            for (size_t b = 0; b < 3; b++)
                for (int way = 0; way < WAYS; way++) {
                    struct writer w = {.layout = layout, .step = segments[a]};
                    struct keys keys = all_keys(which[v]);
                    size_t spurious = 0;
                    int fd[2];
                    rx_pair(fd, &keys, &w.s);
                    assert_int_equal(pthread_create(&w.thread, NULL, writer_main, &w), 0);
                    size_t got = read_all(fd[1], way, steps[b], &spurious);
                    assert_int_equal(got, 684);
                    assert_int_equal(pthread_join(w.thread, NULL), 0);
                    /* RX-37: but for the empty data records. */
                    if (way == TLS_POLL)
                        assert_in_range(spurious, 0, 2);
                    /* Once a record, at most, by the kernel. */
                    assert_in_range(spurious, 0, 13);
                    close_tls(fd);
                }
}

/* RX-6: the same with a receive buffer that no full record fits. */
static void test_rx6_every_way(void **state)
{
    (void)state;
    static const size_t segments[] = {1000, 100000}, steps[] = {100, 16384};
    const char *layout = "23:16384 23:1 22:16384 23:0 23:16384 21:2 23:5000 23:16384";
    for (size_t v = 0; v < 2; v++)
        for (size_t a = 0; a < 2; a++)
            for (size_t b = 0; b < 2; b++)
                for (int way = 0; way < WAYS; way++) {
                    struct writer w = {.layout = layout, .step = segments[a]};
                    struct keys keys = all_keys(v * 8);
                    size_t spurious = 0;
                    int fd[2];
                    small_rx_pair(fd, &keys, &w.s);
                    assert_int_equal(pthread_create(&w.thread, NULL, writer_main, &w), 0);
                    assert_int_equal(read_all(fd[1], way, steps[b], &spurious), 4 * 16384 + 5003);
                    assert_int_equal(pthread_join(w.thread, NULL), 0);
                    if (way == TLS_POLL)
                        assert_in_range(spurious, 0, 1);
                    close_tls(fd);
                }
}

/* RX-48: who sleeps is not woken by a part of a record, and is by the rest. */
static void test_rx48_sleepers(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        unsigned char wire[200];
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        size_t len = seal_layout(&s, wire, "23:100");
        send_wire(&s, wire, len - 1);
        struct pollfd p = {fd[1], POLLIN, 0};
        assert_returns(tls_poll(&p, 1, 50), 0);
        /* The header is known by now, so the kernel's own calls are exact as well. */
        assert_returns(poll(&p, 1, 50), 0);
        send_wire(&s, wire + len - 1, 1);
        assert_returns(poll(&p, 1, DEADLINE_MS), 1);
        assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1);
        expect_calls(&s, 100, 0, "23:100");
        close_tls(fd);
    }
}

/* RX-53: an edge for each record that is completed, none for a read of a part. */
static void test_rx53_edges(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    int epoll = watch(fd[1], EPOLLIN | EPOLLRDHUP | EPOLLET);
    assert_int_equal(events_now(epoll), 0);
    send_sealed(&s, "23:10");
    assert_int_equal(events_now(epoll), EPOLLIN);
    assert_int_equal(events_now(epoll), 0);
    send_sealed(&s, "23:10");
    assert_int_equal(events_now(epoll), EPOLLIN);
    expect_calls(&s, 5, MSG_DONTWAIT, "23:5");
    send_sealed(&s, "22:10");
    assert_int_equal(events_now(epoll), EPOLLIN);
    expect_calls(&s, 100, MSG_DONTWAIT, "23:15 22:10 EAGAIN");
    assert_ok(shutdown(fd[0], SHUT_WR));
    struct epoll_event event;
    assert_returns(epoll_wait(epoll, &event, 1, DEADLINE_MS), 1);
    assert_int_equal(event.events, EPOLLIN | EPOLLRDHUP);
    expect_calls(&s, 100, MSG_DONTWAIT, "EOF");
    close(epoll);
    close_tls(fd);
}

/* RX-52: SO_RCVLOWAT is the program's own, whatever the library does with the socket's; a call that
 * waits waits for so much (RX-9), and a record wakes. */
static void test_rx52_low_water(void **state)
{
    (void)state;
    int fd[2], value = 100;
    socklen_t len = sizeof value;
    struct timeval timeout = {.tv_usec = 30000};
    struct sealer s;
    struct keys keys = tls13_keys();
    /* Also when it was set before the keys. */
    tcp_pair(fd);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    sealer_init(&s, fd[0], fd[1], &keys);
    value = 0;
    assert_ok(tls_getsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    assert_int_equal(value, 100);
    value = 25;
    assert_ok(tls_setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    send_sealed(&s, "23:10");
    assert_events(fd[1], POLLIN);
    assert_int_equal(kernel_events(fd[1], POLLIN), POLLIN);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    expect_calls(&s, 100, 0, "23:10 EAGAIN");
    send_sealed(&s, "23:10 23:20");
    expect_calls(&s, 100, 0, "23:30 EAGAIN");
    send_sealed(&s, "23:10");
    expect_calls(&s, 100, MSG_DONTWAIT, "23:10");
    send_sealed(&s, "23:10");
    expect_calls(&s, 8, 0, "23:8");
    expect_calls(&s, 100, MSG_DONTWAIT, "23:2 EAGAIN");
    len = sizeof value;
    assert_ok(tls_getsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    assert_int_equal(value, 25);
    static const struct { int set, get; } values[] = {{0, 1}, {1, 1}, {-5, INT32_MAX}, {1 << 30, 1 << 30}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        assert_ok(tls_setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &values[i].set, sizeof value));
        assert_ok(tls_getsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, &len));
        assert_int_equal(value, values[i].get);
    }
    assert_fails(tls_setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, 3), EINVAL);
    assert_fails(tls_setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, NULL, 4), EFAULT);
    close_tls(fd);
}

/* RX-49, RX-31: what was peeked is readable still; also where its bytes had to leave a receive buffer
 * that was too small. */
static void test_rx49_peeked(void **state)
{
    (void)state;
    int fd[2];
    struct timeval timeout = {.tv_usec = 100000};
    struct writer w = {.layout = "23:100 23:16384", .step = 100000};
    static unsigned char data[RECORD_MAX];
    struct keys keys = tls13_keys();
    small_rx_pair(fd, &keys, &w.s);
    assert_int_equal(pthread_create(&w.thread, NULL, writer_main, &w), 0);
    struct pollfd p = {fd[1], POLLIN, 0};
    assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    ssize_t n = tls_recv(fd[1], data, sizeof data, MSG_PEEK | MSG_WAITALL);
    assert_in_range(n, 100, sizeof data);
    assert_returns(tls_poll(&p, 1, 0), 1);
    assert_int_equal(p.revents, POLLIN);
    size_t spurious = 0;
    assert_int_equal(read_all(fd[1], TLS_POLL, 1000, &spurious), 16484);
    assert_int_equal(pthread_join(w.thread, NULL), 0);
    close_tls(fd);
}

/* RX-1, RX-55: without RX keys readiness is TCP's; CI-9: with them, what is queued counts at once. */
static void test_rx55_before_keys(void **state)
{
    (void)state;
    int fd[2];
    unsigned char wire[100];
    struct sealer s;
    struct keys keys = tls12_keys();
    tcp_pair(fd);
    assert_ok(tls_setsockopt(fd[1], IPPROTO_TCP, 31, "tls", 3));
    sealer_init(&s, fd[0], fd[1], &keys);
    size_t len = seal_layout(&s, wire, "23:10");
    send_wire(&s, wire, 1);
    assert_events(fd[1], POLLIN);
    send_wire(&s, wire + 1, len - 2);
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    assert_events(fd[1], 0);
    send_wire(&s, wire + len - 1, 1);
    assert_events(fd[1], POLLIN);
    expect_calls(&s, 100, 0, "23:10");
    close_tls(fd);
    /* A bad header that is there already is an error at once. */
    tcp_pair(fd);
    sealer_init(&s, fd[0], fd[1], &keys);
    send_wire(&s, "GET / HTTP/1.1\r\n", 16);
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    assert_int_equal(tls_events(fd[1], 0), POLLERR);
    expect_calls(&s, 100, 0, "EINVAL");
    close_tls(fd);
}

/* tls_poll over many descriptors at once: what is not readable does not hide what is, and a socket
 * that the kernel cannot keep quiet costs no more than a look now and then. */
static void test_poll_among_others(void **state)
{
    (void)state;
    int fd[2], local[2], p[2];
    struct sealer s, t;
    struct keys keys = tls13_keys();
    assert_ok(pipe(p));
    rx_pair(fd, &keys, &s);
    unix_pair(local);
    assert_ok(tls_rx_init(local[1], keys.info, keys.len));
    sealer_init(&t, local[0], local[1], &keys);
    t.rx = -1;
    unsigned char wire[128];
    size_t len = seal_layout(&t, wire, "23:10");
    send_wire(&t, wire, 1);
    send_wire(&t, wire + 1, len - 2);
    send_wire(&s, wire, len - 1);
    struct pollfd all[] = {{fd[1], POLLIN, 0}, {local[1], POLLIN, 0}, {p[0], POLLIN, 0}, {-1, POLLIN, 0}};
    assert_returns(tls_poll(all, 4, 100), 0);
    assert_returns(write(p[1], "x", 1), 1);
    assert_returns(tls_poll(all, 4, DEADLINE_MS), 1);
    assert_int_equal(all[2].revents, POLLIN);
    assert_int_equal(all[0].revents | all[1].revents | all[3].revents, 0);
    send_wire(&s, wire + len - 1, 1);
    assert_returns(send(local[0], wire + len - 1, 1, 0), 1);
    assert_returns(tls_poll(all, 4, DEADLINE_MS), 3);
    expect_calls(&s, 100, 0, "23:10");
    t.rx = local[1];
    expect_calls(&t, 100, 0, "23:10");
    close_tls(fd);
    close_tls(local);
    close_tls(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rx48_byte_by_byte), cmocka_unit_test(test_rx53_every_way),
        cmocka_unit_test(test_rx6_every_way),     cmocka_unit_test(test_rx48_sleepers),
        cmocka_unit_test(test_rx53_edges),        cmocka_unit_test(test_rx52_low_water),
        cmocka_unit_test(test_rx49_peeked),       cmocka_unit_test(test_rx55_before_keys),
        cmocka_unit_test(test_poll_among_others),
    };
    return RUN_ONCE("ready", tests);
}
