/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Sends: records on the wire, room, the end of a connection. */
#include "harness.h"

#include <sys/syscall.h>

/* TX-5, TX-7 to TX-9, all suites: splitting and filling; a full record is pushed at once, under
 * MSG_MORE too. */
static void test_tx7_records(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct receiver r;
        struct keys keys = make_keys(&suites[i], 5, 0);
        tls_pair(fd, &keys, &r);
        send_all(fd[0], 0, 40000, 0);
        expect_records(&r, "23:16384 23:16384 23:7232");
        send_all(fd[0], 40000, 10, MSG_MORE);
        send_all(fd[0], 40010, 16384, 0);
        expect_records(&r, "23:16384 23:10");
        send_all(fd[0], 56394, 16384, MSG_MORE);
        expect_records(&r, "23:16384");
        close_both(fd);
    }
}

/* TX-11, TX-15 to TX-20. */
static void test_tx20_control(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, MSG_MORE);
    assert_returns(tls_send(fd[0], "", 0, 0), 0);
    expect_pending(fd[0], 10);
    assert_fails(send_typed(fd[0], ALERT, "\1", 1, MSG_MORE), EINVAL);
    r.pattern = false;
    assert_returns(send_typed(fd[0], ALERT, "\1\0", 2, 0), 2);
    expect_records(&r, "23:10 21:2");
    assert_fails(tls_send(fd[0], "x", 1, MSG_OOB), EOPNOTSUPP);
    assert_fails(tls_send(fd[0], "x", 1, MSG_MORE | MSG_EOR), EINVAL);
    close_both(fd);
}

/* TX-25, TX-27, TX-28, AS-16, AS-20: a full socket says EAGAIN, then EPOLLOUT; what was accepted arrives without
 * any further call. */
static void test_tx28_full_socket(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    small_tls_pair(fd, &keys, &r);
    uint64_t accepted = fill_socket(fd[0], 0, 30000);
    assert_true(accepted > 0);
    struct pollfd p = {fd[0], POLLOUT, 0};
    /* On a busy machine the peer's window may open only now: filled again, until it has no more. */
    for (int tries = 0; tries < 50 && poll(&p, 1, 20) != 0; tries++)
        accepted += fill_socket(fd[0], accepted, 30000);
    assert_int_equal(poll(&p, 1, 0), 0);
    expect_bytes(&r, accepted);
    wait_for(fd[0], POLLOUT);
    close_both(fd);
}

/* TX-55, TX-57, AS-18: close loses nothing, and the number is free at once. */
static void test_tx57_close_lingers(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls12_keys();
    struct receiver r;
    small_tls_pair(fd, &keys, &r);
    uint64_t accepted = fill_socket(fd[0], 0, 20000);
    assert_ok(uktls_close(fd[0]));
    assert_int_equal(fcntl(fd[0], F_GETFD), -1);
    expect_bytes(&r, accepted);
    expect_end(&r);
    close(fd[1]);
    /* An abandoned MSG_MORE goes out with the close. */
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 7, MSG_MORE);
    assert_ok(uktls_close(fd[0]));
    expect_records(&r, "23:7");
    expect_end(&r);
    close(fd[1]);
}

/* TX-54: the FIN of tls_shutdown comes behind the last byte. */
static void test_tx54_shutdown(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct receiver r;
    small_tls_pair(fd, &keys, &r);
    uint64_t accepted = fill_socket(fd[0], 0, 20000);
    assert_ok(tls_shutdown(fd[0], SHUT_WR));
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    expect_bytes(&r, accepted);
    expect_end(&r);
    close_both(fd);
}

/* TX-24, TX-26: a blocking send of many megabytes is accepted whole, read by a thread. */
static void test_tx26_blocking(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct receiver r;
    struct drain d;
    tls_pair(fd, &keys, &r);
    drain_start(&d, fd[1], &keys);
    send_all(fd[0], 0, 8 << 20, 0);
    assert_ok(uktls_flush(fd[0], DEADLINE_MS));
    expect_pending(fd[0], 0);
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, 8 << 20);
    close(fd[1]);
}

/* Zero-copy pages are released when the kernel has them. */
static void test_sendpage(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct receiver r;
    tls_pair(fd, &keys, &r);
    for (int i = 0; i < 4; i++)
        assert_returns(tls_sendpage(fd[0], pattern(i * 4096, 4096), 0, 4096, i < 3 ? MSG_MORE : 0),
                       4096);
    assert_ok(uktls_flush(fd[0], DEADLINE_MS));
    expect_pending(fd[0], 0);
    expect_records(&r, "23:16384");
    close_both(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx7_records),        cmocka_unit_test(test_tx20_control),
        cmocka_unit_test(test_tx28_full_socket),   cmocka_unit_test(test_tx57_close_lingers),
        cmocka_unit_test(test_tx54_shutdown),      cmocka_unit_test(test_tx26_blocking),
        cmocka_unit_test(test_sendpage),
    };
    return RUN_ENGINES("send", tests);
}
