/* SPDX-License-Identifier: MIT OR Apache-2.0
 * New keys on a connection that has some: both directions, with records on their way, and with
 * readers and pollers that wait. */
#include "sealer.h"

#include <sys/epoll.h>
#include <sys/time.h>

static struct keys fresh_keys(const struct keys *keys, unsigned char tag)
{
    return make_keys(keys->suite, 0, tag);
}

/* The suites of TLS 1.3 that OpenSSL has. */
static bool next_tls13(size_t *i, struct keys *keys)
{
    for (; *i < suite_count; (*i)++)
        if (suites[*i].version == 0x0304 && suite_evp(&suites[*i])) {
            *keys = make_keys(&suites[(*i)++], 0, 0);
            return true;
        }
    return false;
}

/* RK-1, RK-3, RK-12: what is refused leaves the old keys, their numbers and a pause in force, of both
 * directions. */
static void test_rk1_refused(void **state)
{
    (void)state;
    for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
        int fd[2];
        struct receiver r;
        struct sealer s;
        struct keys keys = tls13_keys(), fresh = fresh_keys(&keys, 1);
        struct keys other = make_keys(&suites[9], 0, 1), older = make_keys(&suites[0], 0, 1);
        struct keys chacha = make_keys(&suites[11], 0, 1);
        rx_pair(fd, &keys, &s);
        receiver_init(&r, fd[0], &keys);
        assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        send_all(fd[1], 0, 5, 0);
        send_sealed(&s, "23:5");
        expect_calls(&s, 10, 0, "23:5");
        bool pause = direction == TLS_RX;
        if (pause) {
            send_key_update(&s);
            assert_int_equal(receive(fd[1], 10, 0)->n, 5);
            expect_calls(&s, 10, 0, "EKEYEXPIRED");
        }
        struct uktls_stats before = statistics();
        struct { const struct keys *keys; size_t len; } rows[] = {
            {&other, other.len}, {&older, older.len}, {&chacha, chacha.len},
            {&fresh, fresh.len - 1}, {&fresh, fresh.len + 1}, {&fresh, 4},
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, rows[i].keys->info, (socklen_t)rows[i].len), EINVAL);
            assert_fails((direction == TLS_TX ? tls_tx_init : tls_rx_init)(fd[1], rows[i].keys->info, rows[i].len), EINVAL);
        }
        struct uktls_stats after = statistics();
        uint64_t tx = after.tls_tx_rekey_error - before.tls_tx_rekey_error;
        uint64_t rx = after.tls_rx_rekey_error - before.tls_rx_rekey_error;
        assert_int_equal(direction == TLS_TX ? tx : rx, 2 * sizeof rows / sizeof *rows);
        assert_int_equal(direction == TLS_TX ? rx : tx, 0);
        assert_int_equal(after.tls_tx_rekey_ok, before.tls_tx_rekey_ok);
        assert_int_equal(after.tls_rx_rekey_ok, before.tls_rx_rekey_ok);
        unsigned char info[64];
        socklen_t len = (socklen_t)keys.len;
        assert_ok(tls_getsockopt(fd[1], SOL_TLS, direction, info, &len));
        assert_memory_equal(info, keys.info, keys.len - 1);
        assert_int_equal(info[keys.len - 1], pause ? 2 : 1);
        send_all(fd[1], 5, 5, 0);
        expect_records(&r, "23:5 23:5");
        if (pause)
            expect_calls(&s, 10, MSG_DONTWAIT, "EKEYEXPIRED");
        assert_ok((direction == TLS_TX ? tls_tx_init : tls_rx_init)(fd[1], fresh.info, fresh.len));
        before = after;
        after = statistics();
        assert_int_equal(after.tls_tx_rekey_ok - before.tls_tx_rekey_ok, direction == TLS_TX);
        assert_int_equal(after.tls_rx_rekey_ok - before.tls_rx_rekey_ok, direction == TLS_RX);
        /* The other direction goes on with its keys. */
        if (pause) {
            sealer_rekey(&s, &fresh);
        } else {
            receiver_rekey(&r, &fresh);
        }
        send_sealed(&s, "23:5");
        expect_calls(&s, 10, 0, "23:5");
        send_all(fd[1], 10, 5, 0);
        expect_records(&r, "23:5");
        close_tls(fd);
    }
}

/* RK-12: TLS 1.2 keys that are there: EBUSY, and counted. */
static void test_rk12_tls12(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
    struct uktls_stats before = statistics();
    assert_fails(tls_rx_init(fd[1], keys.info, keys.len), EBUSY);
    assert_fails(tls_tx_init(fd[1], keys.info, keys.len), EBUSY);
    struct uktls_stats after = statistics();
    assert_int_equal(after.tls_rx_rekey_error - before.tls_rx_rekey_error, 1);
    assert_int_equal(after.tls_tx_rekey_error - before.tls_tx_rekey_error, 1);
    send_sealed(&s, "23:5");
    expect_calls(&s, 10, 0, "23:5");
    /* RK-6, DIV: a KeyUpdate is one of TLS 1.3 only. */
    send_key_update(&s);
    send_sealed(&s, "23:5");
    assert_int_equal(receive(fd[1], 10, 0)->type, HANDSHAKE);
    expect_calls(&s, 10, 0, "23:5");
    assert_int_equal(statistics().tls_rx_rekey_received, before.tls_rx_rekey_received);
    close_tls(fd);
}

/* RK-2, RK-3: key, iv, salt and number come from the new struct, at any time, also before the first
 * record and without a KeyUpdate, and again and again. */
static void test_rk2_all_is_new(void **state)
{
    (void)state;
    struct keys keys;
    for (size_t i = 0; next_tls13(&i, &keys);) {
        int fd[2];
        struct receiver r;
        struct sealer s;
        rx_pair(fd, &keys, &s);
        receiver_init(&r, fd[0], &keys);
        assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        for (unsigned round = 0; round < 5; round++) {
            struct keys fresh = make_keys(keys.suite, round * 0x10203u, (unsigned char)(round + 1));
            unsigned char info[64];
            for (size_t at = 4; at < fresh.len - 8; at++)
                fresh.info[at] ^= (unsigned char)(round * 17);
            for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
                socklen_t len = (socklen_t)fresh.len;
                assert_ok(tls_setsockopt(fd[1], SOL_TLS, direction, fresh.info, len));
                assert_ok(tls_getsockopt(fd[1], SOL_TLS, direction, info, &len));
                assert_memory_equal(info, fresh.info, fresh.len);
            }
            sealer_rekey(&s, &fresh);
            receiver_rekey(&r, &fresh);
            send_sealed(&s, "23:5 22:6");
            expect_calls(&s, 10, 0, "23:5 22:6");
            send_all(fd[1], round * 7, 7, 0);
            expect_records(&r, "23:7");
            socklen_t len = (socklen_t)fresh.len;
            assert_ok(tls_getsockopt(fd[1], SOL_TLS, TLS_RX, info, &len));
            assert_int_equal(info[fresh.len - 1], fresh.info[fresh.len - 1] + 2);
        }
        close_tls(fd);
    }
}

/* RK-4, RK-5: records that are accepted keep the old keys, also those that the socket has no room for;
 * the open record gets the new ones. */
static void test_rk4_records_in_flight(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys(), fresh = fresh_keys(&keys, 1), third = fresh_keys(&keys, 2);
    small_tls_pair(fd, &keys, &r);
    uint64_t first = fill_socket(fd[0], 0, 10000);
    assert_true(uktls_tx_pending(fd[0]) > 0);
    assert_ok(tls_tx_init(fd[0], fresh.info, fresh.len));
    expect_bytes(&r, first);
    receiver_rekey(&r, &fresh);
    send_all(fd[0], first, 100, 0);
    send_all(fd[0], first + 100, 10, MSG_MORE);
    assert_ok(tls_tx_init(fd[0], third.info, third.len));
    send_all(fd[0], first + 110, 20, 0);
    expect_records(&r, "23:100");
    receiver_rekey(&r, &third);
    expect_records(&r, "23:30");
    close_tls(fd);
}

/* RK-6 to RK-8: a KeyUpdate is delivered like any control record, and then nothing more, until there
 * are new keys; what follows it is not touched. */
static void test_rk8_pause(void **state)
{
    (void)state;
    struct keys keys;
    for (size_t i = 0; next_tls13(&i, &keys);) {
        int fd[2], p[2];
        char data[16];
        struct sealer s;
        struct keys fresh = fresh_keys(&keys, 1);
        struct uktls_stats before = statistics();
        assert_ok(pipe(p));
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:5");
        send_key_update(&s);
        sealer_rekey(&s, &fresh);
        send_sealed(&s, "23:6 22:7");
        assert_events(fd[1], POLLIN);
        /* A call with bytes returns them (RK-8), and has opened the message behind them. */
        expect_calls(&s, 10, MSG_WAITALL, "23:5");
        assert_int_equal(statistics().tls_rx_rekey_received - before.tls_rx_rekey_received, 1);
        /* RK-9. */
        assert_events(fd[1], 0);
        assert_fails(tls_recv(fd[1], data, 10, 0), EIO);
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 10, 0), EINVAL);
        struct got *got = receive(fd[1], 10, MSG_PEEK);
        assert_int_equal(got->type, HANDSHAKE);
        assert_int_equal(receive(fd[1], 2, 0)->n, 2);
        got = receive(fd[1], 10, 0);
        assert_int_equal(got->type, HANDSHAKE);
        assert_int_equal(got->n, 3);
        expect_calls(&s, 10, 0, "EKEYEXPIRED EKEYEXPIRED");
        expect_calls(&s, 10, MSG_PEEK, "EKEYEXPIRED");
        expect_calls(&s, 10, MSG_DONTWAIT | MSG_WAITALL, "EKEYEXPIRED");
        assert_fails(tls_recv(fd[1], data, 10, 0), EKEYEXPIRED);
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 10, 0), EKEYEXPIRED);
        assert_returns(tls_recv(fd[1], data, 0, 0), 0);
        assert_events(fd[1], 0);
        assert_int_equal(kernel_events(fd[1], POLLIN), 0);
        assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
        /* RK-10. */
        assert_events(fd[1], POLLIN);
        assert_int_equal(kernel_events(fd[1], POLLIN), POLLIN);
        expect_calls(&s, 10, MSG_DONTWAIT, "23:6 22:7 EAGAIN");
        assert_int_equal(statistics().tls_rx_rekey_received - before.tls_rx_rekey_received, 1);
        close_tls(fd);
        close_tls(p);
    }
}

/* RK-6: only the first byte of a handshake record says so; other records, and a 24 further on, do not. */
static void test_rk6_what_is_a_key_update(void **state)
{
    (void)state;
    static const struct { unsigned char type, content[4]; size_t len; bool is; } rows[] = {
        {HANDSHAKE, {24, 0, 0, 1}, 4, true}, {HANDSHAKE, {24}, 1, true}, {HANDSHAKE, {4, 24, 24, 24}, 4, false},
        {HANDSHAKE, {0}, 0, false}, {DATA, {24, 0, 0, 1}, 4, false}, {ALERT, {24, 0}, 2, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd[2];
        unsigned char wire[128];
        struct sealer s;
        struct keys keys = tls13_keys();
        struct uktls_stats before = statistics();
        rx_pair(fd, &keys, &s);
        send_wire(&s, wire, seal(&s, wire, rows[i].type, rows[i].content, rows[i].len));
        assert_int_equal(receive(fd[1], 10, 0)->n, rows[i].len);
        send_sealed(&s, "23:5");
        expect_calls(&s, 10, 0, rows[i].is ? "EKEYEXPIRED" : "23:5");
        assert_int_equal(statistics().tls_rx_rekey_received - before.tls_rx_rekey_received, rows[i].is);
        close_tls(fd);
    }
}

/* RK-8, RK-9: the pause goes before the end of the stream and the socket's error. */
static void test_rk8_before_the_end(void **state)
{
    (void)state;
    struct linger reset = {.l_onoff = 1};
    for (int broken = 0; broken < 2; broken++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls13_keys();
        rx_pair(fd, &keys, &s);
        send_key_update(&s);
        assert_int_equal(receive(fd[1], 10, 0)->n, 5);
        if (broken)
            assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
        assert_ok(close(fd[0]));
        wait_for(fd[1], POLLRDHUP);
        expect_calls(&s, 10, 0, "EKEYEXPIRED EKEYEXPIRED");
        /* Read side down: readable, whatever is pending. */
        assert_int_equal(tls_events(fd[1], POLLIN) & POLLIN, POLLIN);
        struct keys fresh = fresh_keys(&keys, 1);
        assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
        expect_calls(&s, 10, 0, broken ? "ECONNRESET EOF EOF" : "EOF EOF");
        assert_ok(uktls_close(fd[1]));
    }
}

/* RK-7, RK-11: what was opened under the old keys is delivered, whatever keys come meanwhile. */
static void test_rk11_opened_before(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys(), fresh = fresh_keys(&keys, 1);
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10 23:10");
    expect_calls(&s, 15, MSG_PEEK, "23:15");
    sealer_rekey(&s, &fresh);
    send_sealed(&s, "23:10");
    assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
    expect_calls(&s, 5, 0, "23:5");
    expect_calls(&s, 100, 0, "23:25");
    /* Also behind a KeyUpdate, which ends the call. */
    send_sealed(&s, "23:10");
    send_key_update(&s);
    struct keys third = fresh_keys(&keys, 2);
    sealer_rekey(&s, &third);
    send_sealed(&s, "23:10");
    expect_calls(&s, 100, MSG_PEEK | MSG_WAITALL, "23:10 23:10");
    assert_ok(tls_rx_init(fd[1], third.info, third.len));
    expect_calls(&s, 4, 0, "23:4 23:4");
    expect_calls(&s, 100, MSG_WAITALL, "23:2");
    assert_int_equal(receive(fd[1], 10, 0)->type, HANDSHAKE);
    expect_calls(&s, 100, MSG_DONTWAIT, "23:10 EAGAIN");
    close_tls(fd);
}

struct waiter {
    int fd;
    bool by_epoll, by_kernel;
    _Atomic int woken;
    pthread_t thread;
};

static void *wait_main(void *argument)
{
    struct waiter *w = argument;
    struct pollfd p = {w->fd, POLLIN, 0};
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    if (w->by_epoll) {
        epoll_ctl(epoll, EPOLL_CTL_ADD, w->fd, &event);
        w->woken = epoll_wait(epoll, &event, 1, DEADLINE_MS);
    } else {
        w->woken = w->by_kernel ? poll(&p, 1, DEADLINE_MS) : tls_poll(&p, 1, DEADLINE_MS);
    }
    close(epoll);
    return NULL;
}

/* RK-9, RK-10, MT-10: whoever sleeps in poll or epoll sleeps on while new keys are due, whatever
 * comes, and is woken by the new keys if something has come, and else by the first record. */
static void test_rk10_sleepers(void **state)
{
    (void)state;
    struct timespec pause = {.tv_nsec = 50000000};
    for (int early = 0; early < 2; early++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls13_keys(), fresh = fresh_keys(&keys, 1);
        rx_pair(fd, &keys, &s);
        send_key_update(&s);
        sealer_rekey(&s, &fresh);
        assert_int_equal(receive(fd[1], 10, 0)->n, 5);
        struct waiter all[] = {{.fd = fd[1]}, {.fd = fd[1], .by_kernel = true}, {.fd = fd[1], .by_epoll = true}};
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&all[i].thread, NULL, wait_main, &all[i]), 0);
        nanosleep(&pause, NULL);
        if (early) {
            send_sealed(&s, "23:5 23:5");
            nanosleep(&pause, NULL);
        }
        assert_int_equal(all[0].woken + all[1].woken + all[2].woken, 0);
        assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
        if (!early) {
            nanosleep(&pause, NULL);
            assert_int_equal(all[0].woken + all[1].woken + all[2].woken, 0);
            send_sealed(&s, "23:5 23:5");
        }
        for (int i = 0; i < 3; i++) {
            assert_int_equal(pthread_join(all[i].thread, NULL), 0);
            assert_int_equal(all[i].woken, 1);
        }
        expect_calls(&s, 10, 0, "23:10");
        close_tls(fd);
    }
}

/* RK-9: with a small receive buffer the kernel's mark goes no higher than half of it; tls_poll waits
 * all the same, and is woken. */
static void test_rk9_small_buffer(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys(), fresh = fresh_keys(&keys, 1);
    struct timespec pause = {.tv_nsec = 50000000};
    small_rx_pair(fd, &keys, &s);
    s.rx = fd[1];
    send_key_update(&s);
    sealer_rekey(&s, &fresh);
    assert_int_equal(receive(fd[1], 10, 0)->n, 5);
    s.rx = -1;
    send_sealed(&s, "23:900 23:900 23:900 23:900 23:900 23:900 23:900 23:900");
    struct pollfd p = {fd[1], POLLIN, 0};
    assert_returns(tls_poll(&p, 1, 100), 0);
    struct waiter w = {.fd = fd[1]};
    assert_int_equal(pthread_create(&w.thread, NULL, wait_main, &w), 0);
    nanosleep(&pause, NULL);
    assert_int_equal(w.woken, 0);
    assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
    assert_int_equal(pthread_join(w.thread, NULL), 0);
    assert_int_equal(w.woken, 1);
    s.rx = fd[1];
    expect_stream(&s, 7200, 500);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rk1_refused),        cmocka_unit_test(test_rk12_tls12),
        cmocka_unit_test(test_rk2_all_is_new),     cmocka_unit_test(test_rk4_records_in_flight),
        cmocka_unit_test(test_rk8_pause),          cmocka_unit_test(test_rk6_what_is_a_key_update),
        cmocka_unit_test(test_rk8_before_the_end), cmocka_unit_test(test_rk11_opened_before),
        cmocka_unit_test(test_rk10_sleepers),      cmocka_unit_test(test_rk9_small_buffer),
    };
    return RUN_ENGINES("rekey", tests);
}
