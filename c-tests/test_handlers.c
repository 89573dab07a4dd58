/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Signal handlers that come while a receive sleeps, and receive themselves, or never return to it. */
#include "harness.h"
#include "sealer.h"

#include <time.h>

static int tls[2];
static struct sealer sealer;
static char taken[100];
static volatile ssize_t got[2];
static volatile int handled;
static sigjmp_buf out;

static void receive_in_handler(int number)
{
    (void)number;
    if (handled++)
        return;
    got[0] = tls_recv(tls[1], taken, 5, MSG_DONTWAIT);
    if (got[0] >= 0 || errno != EAGAIN)
        return;
    send_sealed(&sealer, "23:5 23:6");
    got[1] = tls_recv(tls[1], taken, 5, 0);
}

/* Everything comes and is looked at in the middle of the call. */
static void peek_in_handler(int number)
{
    (void)number;
    if (handled++)
        return;
    send_sealed(&sealer, "23:5");
    shutdown(tls[0], SHUT_WR);
    got[0] = tls_recv(tls[1], taken, 5, MSG_PEEK);
}

static void jump(int number)
{
    (void)number;
    if (handled++ == 0)
        siglongjmp(out, 1);
}

/* SIGVTALRM, as the deadline of the tests is SIGALRM; when the call has gone to sleep, and again for as long as the
 * handler has found that it has not. */
static void on_timer(void (*handler)(int), int flags, timer_t *timer)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGVTALRM};
    struct itimerspec often = {{0, 50000000}, {under_valgrind() ? 2 : 0, 200000000}};
    handled = 0;
    assert_ok(sigaction(SIGVTALRM, &action, NULL));
    assert_ok(timer_create(CLOCK_MONOTONIC, &event, timer));
    assert_ok(timer_settime(*timer, 0, &often, NULL));
}

static void timer_off(timer_t timer)
{
    assert_ok(timer_delete(timer));
    signal(SIGVTALRM, SIG_DFL);
}

/* MT-3, RX-29: the handler finds the stream free, and what it takes is not taken again. */
static void test_mt3_handler_receives(void **state)
{
    (void)state;
    for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
        struct keys keys = tls13_keys();
        char data[100];
        timer_t timer;
        rx_pair(tls, &keys, &sealer);
        on_timer(receive_in_handler, flags, &timer);
        ssize_t n = tls_recv(tls[1], data, sizeof data, 0);
        int error = errno;
        timer_off(timer);
        assert_int_equal(got[0], -1);
        assert_int_equal(got[1], 5);
        assert_memory_equal(taken, pattern(0, 5), 5);
        sealer.reader = 5;
        if (flags == 0) {
            assert_true(n == -1 && error == EINTR);
        } else {
            assert_int_equal(n, 6);
            assert_memory_equal(data, pattern(5, 6), 6);
            sealer.reader = 11;
        }
        expect_calls(&sealer, 100, MSG_DONTWAIT, flags ? "EAGAIN" : "23:6 EAGAIN");
        close_tls(tls);
    }
}

/* RX-25: the end comes behind what the handler has left. */
static void test_mt3_handler_peeks(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    timer_t timer;
    char data[100];
    rx_pair(tls, &keys, &sealer);
    on_timer(peek_in_handler, SA_RESTART, &timer);
    assert_returns(tls_recv(tls[1], data, 1, 0), 1);
    timer_off(timer);
    assert_int_equal(got[0], 5);
    sealer.reader = 1;
    expect_calls(&sealer, 100, 0, "23:4 EOF");
    close_tls(tls);
}

/* As programs end a read that takes too long. */
static void test_mt3_handler_jumps_out(void **state)
{
    (void)state;
    static int ways;
    /* What a call that never returns has in its hands is lost. */
    if (under_valgrind())
        skip();
    for (ways = 0; ways < 3; ways++) {
        struct keys keys = tls12_keys();
        char data[100];
        timer_t timer;
        int pipes[2];
        assert_ok(pipe(pipes));
        rx_pair(tls, &keys, &sealer);
        if (sigsetjmp(out, 1) == 0) {
            on_timer(jump, 0, &timer);
            if (ways == 0)
                tls_recv(tls[1], data, 10, 0);
            else if (ways == 1)
                tls_recv(tls[1], data, 10, MSG_WAITALL);
            else
                tls_splice(tls[1], NULL, pipes[1], NULL, 10, 0);
            fail_msg("no jump");
        }
        timer_off(timer);
        assert_fails(tls_recv(tls[1], data, 10, MSG_DONTWAIT), EAGAIN);
        send_sealed(&sealer, "23:5 21:2");
        expect_calls(&sealer, 100, 0, "23:5 21:2");
        close(pipes[0]);
        close(pipes[1]);
        close_tls(tls);
    }
}

static volatile int errors[4];

static void send_in_handler(int number)
{
    (void)number;
    struct keys keys = tls13_keys();
    if (uktls_tx_pending(tls[0]) == 0 || handled++)
        return;
    errors[0] = tls_send(tls[0], "no", 2, 0) == -1 ? errno : 0;
    errors[1] = tls_send(tls[0], "no", 2, MSG_DONTWAIT) == -1 ? errno : 0;
    errors[2] = tls_tx_init(tls[0], keys.info, keys.len) == -1 ? errno : 0;
    errors[3] = tls_recv(tls[0], taken, 1, MSG_DONTWAIT) == -1 ? errno : 0;
}

/* MT-3: a call that waits in the middle of its bytes cannot be overtaken: its handler is told so, and does
 * not hang. */
static void test_mt3_handler_sends(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    timer_t timer;
    small_tls_pair(tls, &keys, &receiver);
    on_timer(send_in_handler, 0, &timer);
    ssize_t n = tls_send(tls[0], pattern(0, 8 << 20), 8 << 20, 0);
    timer_off(timer);
    assert_true(n > 0 && n < 8 << 20);
    assert_int_equal(errors[0], EDEADLK);
    /* The former if the call sleeps for room. */
    assert_true(errors[1] == EAGAIN || errors[1] == EDEADLK);
    assert_int_equal(errors[2], EDEADLK);
    assert_int_equal(errors[3], EAGAIN);
    set_nonblocking(tls[0], true);
    struct drain drain;
    drain_start(&drain, tls[1], &keys);
    assert_ok(uktls_flush(tls[0], DEADLINE_MS));
    assert_ok(uktls_close(tls[0]));
    drain_finish(&drain, (uint64_t)n);
    close(tls[1]);
}

static void wait_all_in_handler(int number)
{
    (void)number;
    if (handled++ == 0)
        errors[0] = tls_recv(tls[1], taken, 1, 0) == -1 ? errno : 0;
}

/* MT-4: the same of a receive that has something and waits for the rest. */
static void test_mt4_handler_in_wait_all(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    char data[10];
    timer_t timer;
    rx_pair(tls, &keys, &sealer);
    send_sealed(&sealer, "23:5");
    on_timer(wait_all_in_handler, 0, &timer);
    assert_returns(tls_recv(tls[1], data, sizeof data, MSG_WAITALL), 5);
    timer_off(timer);
    assert_int_equal(errors[0], EDEADLK);
    assert_memory_equal(data, pattern(0, 5), 5);
    close_tls(tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt3_handler_receives),
        cmocka_unit_test(test_mt3_handler_peeks),
        cmocka_unit_test(test_mt3_handler_jumps_out),
        cmocka_unit_test(test_mt3_handler_sends),
        cmocka_unit_test(test_mt4_handler_in_wait_all),
    };
    return RUN_ENGINES("handlers", tests);
}
