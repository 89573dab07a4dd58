/* SPDX-License-Identifier: MIT OR Apache-2.0
 * The counters of /proc/net/tls_stat, of a receiving process and connection. */
#include "sealer.h"

static void no_pad(int fd, int value)
{
    assert_ok(tls_setsockopt(fd, SOL_TLS, 4, &value, sizeof value));
}

/* ST-1, ST-2: connections now, and in all: the first keys of each direction only. */
static void test_st1_connections(void **state)
{
    (void)state;
    int fd[2], copy;
    struct uktls_stats before = statistics(), now;
    struct keys keys = tls13_keys(), old = tls12_keys();
    tcp_pair(fd);
    assert_ok(tls_setsockopt(fd[1], 6, 31, "tls", 3));
    now = statistics();
    assert_int_equal(now.tls_curr_rx_sw, before.tls_curr_rx_sw);
    assert_fails(tls_rx_init(fd[1], keys.info, 39), EINVAL);
    assert_int_equal(statistics().tls_rx_sw, before.tls_rx_sw);
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    now = statistics();
    assert_int_equal(now.tls_rx_sw - before.tls_rx_sw, 1);
    assert_int_equal(now.tls_curr_rx_sw - before.tls_curr_rx_sw, 1);
    assert_int_equal(now.tls_tx_sw, before.tls_tx_sw);
    /* Not by a rekey, a refused one, or refused keys of the other direction. */
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    assert_fails(tls_rx_init(fd[1], keys.info, 39), EINVAL);
    assert_fails(tls_tx_init(fd[1], old.info, old.len), EINVAL);
    now = statistics();
    assert_int_equal(now.tls_rx_sw - before.tls_rx_sw, 1);
    assert_int_equal(now.tls_tx_sw, before.tls_tx_sw);
    assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
    now = statistics();
    assert_int_equal(now.tls_tx_sw - before.tls_tx_sw, 1);
    assert_int_equal(now.tls_curr_tx_sw - before.tls_curr_tx_sw, 1);
    /* By the last close. */
    copy = dup(fd[1]);
    assert_ok(uktls_close(fd[1]));
    now = statistics();
    assert_int_equal(now.tls_curr_rx_sw - before.tls_curr_rx_sw, 1);
    assert_ok(uktls_close(copy));
    assert_ok(uktls_close(fd[0]));
    expect_no_connections();
    now = statistics();
    assert_int_equal(now.tls_curr_rx_sw, before.tls_curr_rx_sw);
    assert_int_equal(now.tls_rx_sw - before.tls_rx_sw, 1);
}

/* ST-3: authentication failures, each attempt; not what is refused for other reasons. */
static void test_st3_failures(void **state)
{
    (void)state;
    struct uktls_stats before = statistics();
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys(), old = tls12_keys();
    rx_pair(fd, &keys, &s);
    send_wire(&s, "\x17\3\3\xff\xff", 5);
    expect_calls(&s, 10, MSG_DONTWAIT, "EMSGSIZE");
    close_tls(fd);
    rx_pair(fd, &keys, &s);
    /* REC-9: no type. */
    send_sealed(&s, "0:0+5");
    expect_calls(&s, 10, MSG_DONTWAIT, "EBADMSG EBADMSG");
    close_tls(fd);
    rx_pair(fd, &old, &s);
    send_sealed(&s, "0:5");
    expect_calls(&s, 10, MSG_DONTWAIT, "EBADMSG");
    close_tls(fd);
    rx_pair(fd, &old, &s);
    send_sealed(&s, "23:5");
    assert_fails(tls_recv(fd[1], NULL, 5, 0), EFAULT);
    expect_calls(&s, 10, 0, "23:5");
    assert_int_equal(statistics().tls_decrypt_error, before.tls_decrypt_error);
    s.spoil = true;
    send_sealed(&s, "23:5");
    for (unsigned i = 1; i < 4; i++) {
        expect_calls(&s, 10, i == 2 ? MSG_PEEK : 0, "EBADMSG");
        assert_int_equal(statistics().tls_decrypt_error - before.tls_decrypt_error, i);
    }
    close_tls(fd);
}

/* ST-4 to ST-6, CI-18: what a record costs in no-pad mode; its content is the same. */
static void test_st4_no_pad(void **state)
{
    (void)state;
    static const struct { const char *sent, *received; size_t len; int flags; uint64_t retry, violation; } rows[] = {
        {"23:10", "23:10", 100, 0, 0, 0},
        {"22:10", "22:10", 100, 0, 1, 0},
        {"23:10+7", "23:10", 100, 0, 1, 1},
        {"22:10+7", "22:10", 100, 0, 1, 1},
        {"23:10 23:10+1 23:10 23:10+100", "23:40", 1000, 0, 2, 2},
        /* RX-56: not where the kernel would not have tried. */
        {"23:10+7", "23:5 23:5", 5, 0, 0, 0},
        {"22:10", "22:5 22:5", 5, 0, 0, 0},
        {"23:10+7", "23:10", 100, MSG_PEEK, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int on = 0; on < 2; on++) {
            int fd[2];
            struct sealer s;
            struct keys keys = tls13_keys();
            rx_pair(fd, &keys, &s);
            no_pad(fd[1], 1);
            no_pad(fd[1], on);
            struct uktls_stats before = statistics();
            send_sealed(&s, rows[i].sent);
            expect_calls(&s, rows[i].len, rows[i].flags, rows[i].received);
            struct uktls_stats now = statistics();
            if (now.tls_decrypt_retry - before.tls_decrypt_retry != (on ? rows[i].retry : 0) ||
                now.tls_rx_no_pad_violation - before.tls_rx_no_pad_violation != (on ? rows[i].violation : 0))
                fail_msg("row %zu, %d", i, on);
            close_tls(fd);
        }
}

/* ST-7, LIM-19: what a connection tells of itself, where the kernel has sock_diag. */
static void test_st7_info(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    struct uktls_info info = {.size = sizeof info};
    struct uktls_stats before = statistics();
    tcp_pair(fd);
    assert_ok(tls_setsockopt(fd[1], 6, 31, "tls", 3));
    assert_ok(uktls_get_info(fd[1], &info));
    assert_int_equal(info.version, 0);
    assert_int_equal(info.cipher, 0);
    assert_int_equal(info.txconf, 1);
    assert_int_equal(info.rxconf, 1);
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    sealer_init(&s, fd[0], fd[1], &keys);
    send_sealed(&s, "23:10 22:20 23:0 23:100");
    expect_calls(&s, 4, MSG_PEEK, "23:4");
    expect_calls(&s, 100, 0, "23:10 22:20 23:100");
    assert_ok(uktls_get_info(fd[1], &info));
    assert_int_equal(info.version, 0x0304);
    assert_int_equal(info.cipher, 51);
    assert_int_equal(info.txconf, 1);
    assert_int_equal(info.rxconf, 2);
    assert_int_equal(info.rx_records, 4);
    assert_int_equal(info.rx_bytes, 130);
    assert_int_equal(info.rx_rec_seq[7], 4);
    assert_int_equal(info.tx_max_payload_len, 16384);
    assert_int_equal(statistics().rx_records - before.rx_records, 4);
    assert_int_equal(statistics().rx_bytes - before.rx_bytes, 130);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_st1_connections), cmocka_unit_test(test_st3_failures),
        cmocka_unit_test(test_st4_no_pad),      cmocka_unit_test(test_st7_info),
    };
    return RUN_ONCE("rx_stats", tests);
}
