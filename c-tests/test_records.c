/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Bytes on the wire and figures: the known-answer records by every AEAD implementation, and what
 * the counters say. */
#include "harness.h"

static size_t unhex(const char *text, unsigned char *out)
{
    size_t len = 0;
    unsigned value;
    for (; sscanf(text, "%2x", &value) == 1; text += 2)
        out[len++] = (unsigned char)value;
    return len;
}

static void use_aead(int aead)
{
    struct uktls_config config = {
        .size = sizeof config, .engine = current_engine, .aead = aead, .threads = 2};
    assert_ok(uktls_configure(&config));
}

/* CI-6, REC-1 to REC-8 (REC-7: the CCM suites): the first two records of every suite, byte by byte. The third of the list is
 * empty, and a send makes no empty records (TX-22). */
static void test_rec1_known_answers(void **state)
{
    (void)state;
    for (int aead = UKTLS_AEAD_AUTO; aead <= UKTLS_AEAD_RING; aead++) {
        FILE *list = fopen("../tests/data/known_answers.txt", "r");
        char version[4], hex[256];
        int cipher, place, checked = 0, fd[2] = {-1, -1};
        struct uktls_info info = {.size = sizeof info};
        assert_non_null(list);
        use_aead(aead);
        while (fscanf(list, "%3s %d %d %255s", version, &cipher, &place, hex) == 4) {
            unsigned char want[128], got[128];
            size_t len = unhex(hex, want);
            const struct suite *suite = suites;
            while (suite->cipher != cipher || suite->version != (version[2] == '2' ? 0x303 : 0x304))
                assert_true(++suite < suites + suite_count);
            if (place == 1) {
                struct keys keys = make_keys(suite, 5, 0);
                struct receiver r;
                tls_pair(fd, &keys, &r);
                assert_returns(tls_send(fd[0], "Hello, world", 12, 0), 12);
                assert_ok(uktls_get_info(fd[0], &info));
                assert_int_equal(info.version, suite->version);
                assert_int_equal(info.cipher, suite->cipher);
                assert_int_equal(info.txconf, 2);
                assert_int_equal(info.rxconf, 1);
                assert_int_equal(info.tx_rec_seq[7], 6);
            } else if (place == 2) {
                assert_returns(send_typed(fd[0], ALERT, "\1\0", 2, 0), 2);
            } else {
                close_both(fd);
                continue;
            }
            assert_returns(recv(fd[1], got, len, MSG_WAITALL), len);
            assert_memory_equal(got, want, len);
            checked++;
        }
        assert_int_equal(checked, 2 * suite_count);
        fclose(list);
    }
    use_aead(UKTLS_AEAD_AUTO);
}

/* CI-12, CI-13: getsockopt tells the number of the next record, and for TLS 1.2 with an explicit
 * nonce the next one of those. */
static void test_ci13_crypto_info(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct receiver r;
        struct keys keys = make_keys(&suites[i], 0xfe, 0);
        unsigned char got[64], want[64];
        socklen_t len = (socklen_t)keys.len;
        tls_pair(fd, &keys, &r);
        send_all(fd[0], 0, 40000, 0);
        assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, got, &len));
        assert_int_equal(len, keys.len);
        memcpy(want, keys.info, keys.len);
        want[keys.len - 2] = 1; /* 0xfe + 3 */
        want[keys.len - 1] = 1;
        if (suites[i].version == 0x303 && suites[i].cipher != 54)
            want[4 + 7] = (unsigned char)(want[4 + 7] + 3);
        assert_memory_equal(got, want, keys.len);
        len = 4;
        memset(got, 0, sizeof got);
        assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, got, &len));
        assert_memory_equal(got, keys.info, 4);
        assert_int_equal(got[4], 0);
        close_both(fd);
    }
}

/* A burst is gathered; what is left of it goes out without another call (AS-20); each record is
 * counted once, in the caller's name or the worker's. */
static void test_as9_counters(void **state)
{
    (void)state;
    enum { CALLS = 20000, LEN = 64 };
    int fd[2];
    struct receiver r;
    struct drain d;
    struct keys keys = tls13_keys();
    struct uktls_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    expect_no_connections();
    tls_pair(fd, &keys, &r);
    assert_ok(uktls_get_stats(&before));
    drain_start(&d, fd[1], &keys);
    for (uint64_t i = 0; i < CALLS; i++)
        send_all(fd[0], i * LEN, LEN, 0);
    expect_pending(fd[0], 0);
    assert_ok(uktls_get_stats(&after));
    assert_int_equal(after.tx_records - before.tx_records, CALLS);
    assert_int_equal(after.tx_bytes - before.tx_bytes, CALLS * LEN);
    assert_int_equal(after.tx_wire_bytes - before.tx_wire_bytes, CALLS * (LEN + 22));
    assert_int_equal(after.records_from_caller + after.records_from_worker -
                         before.records_from_caller - before.records_from_worker,
                     CALLS);
    assert_int_equal(after.sealed_inline + after.sealed_threads + after.sealed_accelerator -
                         before.sealed_inline - before.sealed_threads - before.sealed_accelerator,
                     CALLS);
    assert_true(after.transmit_calls > before.transmit_calls);
    assert_true(after.transmit_calls - before.transmit_calls <= CALLS);
    assert_true(after.queue_bytes_max >= LEN + 22);
    assert_true(after.queue_records_max >= 1);
    assert_true(after.deferred_cancelled <= after.deferred_scheduled);
    assert_int_equal(after.errors, before.errors);
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, (uint64_t)CALLS * LEN);
    close(fd[1]);
}

static uint64_t records_from_caller(void)
{
    struct uktls_stats stats = {.size = sizeof stats};
    assert_ok(uktls_get_stats(&stats));
    return stats.records_from_caller;
}

/* AS-9: tls_poll transmits what a burst has left, before it waits, unless the worker has been there first: that is not
 * so each time. */
static void test_as9_poll_pushes(void **state)
{
    (void)state;
    enum { BURST = 50, LEN = 64 };
    /* Elsewhere nothing is deferred, or not for as long. */
    if (current_engine != UKTLS_ENGINE_INLINE || under_valgrind())
        return;
    int fd[2];
    struct drain d;
    struct receiver r;
    struct keys keys = tls13_keys();
    uint64_t sent = 0, pushed = 0;
    tls_pair(fd, &keys, &r);
    drain_start(&d, fd[1], &keys);
    for (int round = 0; round < 20000 && pushed == 0; round++) {
        for (int i = 0; i < BURST; i++, sent += LEN)
            send_all(fd[0], sent, LEN, 0);
        struct pollfd writable = {.fd = fd[0], .events = POLLOUT};
        uint64_t before = records_from_caller();
        assert_int_equal(tls_poll(&writable, 1, 0), 1);
        pushed = records_from_caller() - before;
    }
    assert_true(pushed > 0);
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, sent);
    close(fd[1]);
}

/* The line of UKTLS_STATS_FILE, and a full disk under it. */
static void test_stats_file(void **state)
{
    (void)state;
    char name[] = "/tmp/uktls-stats-XXXXXX", line[2048];
    int file = mkstemp(name);
    assert_true(file >= 0);
    const char *paths[] = {name, "/dev/full"};
    for (int i = 0; i < 2; i++) {
        int fd[2];
        tcp_pair(fd);
        pid_t child = fork();
        if (child == 0) {
            dup2(open("/dev/null", O_WRONLY), 2);
            setenv("UKTLS_STATS_FILE", paths[i], 1);
            become_child("1", fd[0], -1);
        }
        assert_int_equal(wait_child(child), 0);
        close(fd[0]);
        close(fd[1]);
    }
    ssize_t n = pread(file, line, sizeof line - 1, 0);
    assert_true(n > 2);
    line[n] = 0;
    assert_string_equal(line + n - 2, "}\n");
    assert_int_equal(line[0], '{');
    static const char *const fields[] = {"\"pid\":",       "\"tx_sw\":1,",    "\"rx_sw\":0",
                                         "\"tx_records\":3,", "\"rx_records\":0", "\"tx_bytes\":40000,",
                                         "\"rx_bytes\":0", "\"errors\":0"};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strstr(line, fields[i]))
            fail_msg("no %s in %s", fields[i], line);
    close(file);
    unlink(name);
}

static int child_main(void)
{
    struct keys keys = tls13_keys();
    return tls_tx_init(3, keys.info, keys.len) != 0 ||
           tls_send(3, pattern(0, 40000), 40000, 0) != 40000;
}

int main(void)
{
    if (getenv("UKTLS_TEST_CHILD"))
        return child_main();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rec1_known_answers), cmocka_unit_test(test_ci13_crypto_info),
        cmocka_unit_test(test_as9_counters),       cmocka_unit_test(test_as9_poll_pushes),
        cmocka_unit_test(test_stats_file),
    };
    return RUN_ENGINES("records", tests);
}
