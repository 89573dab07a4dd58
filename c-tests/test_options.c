/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Attaching, keys and options through tls_setsockopt and tls_getsockopt: what each takes, refuses and
 * answers, for both directions. */
#include "sealer.h"

#include <arpa/inet.h>
#include <netinet/in.h>

enum { ULP = 31, ZEROCOPY_RO = 3, NO_PAD = 4, MAX_PAYLOAD = 5 };

static int set_ulp(int fd, const void *name, socklen_t len)
{
    return tls_setsockopt(fd, IPPROTO_TCP, ULP, name, len);
}

static int attach(int fd)
{
    return set_ulp(fd, "tls", 3);
}

static int set_keys(int fd, int direction, const struct keys *keys)
{
    return tls_setsockopt(fd, SOL_TLS, direction, keys->info, (socklen_t)keys->len);
}

static int set_int(int fd, int option, int value)
{
    return tls_setsockopt(fd, SOL_TLS, option, &value, sizeof value);
}

static void tcp6_pair(int fd[2])
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) != 0) {
        /* No IPv6 here: then IPv4 again. */
        close(listener);
        tcp_pair(fd);
        return;
    }
    assert_ok(listen(listener, 1));
    assert_ok(getsockname(listener, (struct sockaddr *)&address, &len));
    fd[0] = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_ok(connect(fd[0], (struct sockaddr *)&address, len));
    fd[1] = accept(listener, NULL, NULL);
    assert_true(fd[1] >= 0);
    close(listener);
}

/* ATT-1 to ATT-4, ATT-14: names and their lengths, and that nothing has changed where they are
 * refused. */
static void test_att2_names(void **state)
{
    (void)state;
    static const struct { const char *name; int len, error; } rows[] = {
        {"tls", 3, 0}, {"tls", 4, 0}, {"tls\0garbage of some length", 26, 0}, {"tls\0x", 5, 0},
        {"tls", 0, EINVAL}, {"tls", -1, EINVAL}, {"tls", INT32_MIN, EINVAL}, {NULL, 3, EFAULT},
        {NULL, 0, EINVAL}, {"tls", 2, ENOENT}, {"tlsx", 4, ENOENT}, {"", 1, ENOENT},
        {"TLS", 3, ENOENT}, {"no such protocol", 16, ENOENT}, {"\0tls", 4, ENOENT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int six = 0; six < 2; six++) {
            int fd[2], value = 0;
            socklen_t len = sizeof value;
            (six ? tcp6_pair : tcp_pair)(fd);
            if (rows[i].error) {
                assert_fails(set_ulp(fd[0], rows[i].name, (socklen_t)rows[i].len), rows[i].error);
                assert_fails(set_int(fd[0], ZEROCOPY_RO, 0), ENOPROTOOPT);
                assert_true(tls_getsockopt(fd[0], SOL_TLS, ZEROCOPY_RO, &value, &len) == -1);
                assert_true(errno == EOPNOTSUPP || errno == ENOPROTOOPT);
                assert_ok(attach(fd[0]));
            } else {
                assert_ok(set_ulp(fd[0], rows[i].name, (socklen_t)rows[i].len));
            }
            assert_ok(tls_getsockopt(fd[0], SOL_TLS, ZEROCOPY_RO, &value, &len));
            /* ATT-4: the name goes first, then what is there already. */
            assert_fails(set_ulp(fd[0], "unknown", 7), ENOENT);
            assert_fails(attach(fd[0]), EEXIST);
            assert_fails(attach(fd[0]), EEXIST);
            close_tls(fd);
        }
}

/* ATT-4, ATT-5, ATT-7, ATT-18: which sockets. */
static void test_att5_states(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd[2], udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), p[2];
    socklen_t len = sizeof address;
    assert_fails(attach(-1), EBADF);
    assert_ok(pipe(p));
    assert_fails(attach(p[0]), ENOTSOCK);
    assert_fails(attach(udp), ENOPROTOOPT);
    assert_fails(attach(tcp), ENOTCONN);
    assert_fails(set_ulp(tcp, "unknown", 7), ENOENT);
    assert_ok(bind(tcp, (struct sockaddr *)&address, len));
    assert_ok(listen(tcp, 1));
    assert_fails(attach(tcp), ENOTCONN);
    assert_fails(tls_rx_init(tcp, keys.info, keys.len), ENOTCONN);
    unix_pair(fd);
    assert_fails(attach(fd[0]), EOPNOTSUPP);
    close_tls(fd);
    static const struct { int here, there; int error; } rows[] = {
        {SHUT_WR, -1, ENOTCONN}, {SHUT_RDWR, -1, ENOTCONN}, {-1, SHUT_WR, ENOTCONN},
        {-1, SHUT_RDWR, ENOTCONN}, {SHUT_RD, -1, 0}, {-1, SHUT_RD, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tcp_pair(fd);
        if (rows[i].here >= 0)
            assert_ok(shutdown(fd[0], rows[i].here));
        if (rows[i].there >= 0) {
            assert_ok(shutdown(fd[1], rows[i].there));
            if (rows[i].error)
                wait_for(fd[0], POLLRDHUP);
        }
        if (rows[i].error)
            assert_fails(attach(fd[0]), rows[i].error);
        else
            assert_ok(attach(fd[0]));
        close_tls(fd);
    }
    close(udp);
    assert_ok(uktls_close(tcp));
    close_tls(p);
}

/* ATT-9, ATT-10: reading the name. */
static void test_att10_read_name(void **state)
{
    (void)state;
    static const struct { socklen_t given, got; } rows[] = {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {16, 16}, {32, 16}};
    int fd[2];
    char name[40];
    socklen_t len = 16;
    tcp_pair(fd);
    memset(name, 7, sizeof name);
    assert_ok(tls_getsockopt(fd[0], IPPROTO_TCP, ULP, name, &len));
    assert_int_equal(len, 0);
    assert_int_equal(name[0], 7);
    assert_ok(attach(fd[0]));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char want[40];
        memset(name, 7, sizeof name);
        memset(want, 7, sizeof want);
        memcpy(want, "tls\0\0\0\0\0\0\0\0\0\0\0\0", rows[i].got);
        len = rows[i].given;
        assert_ok(tls_getsockopt(fd[0], IPPROTO_TCP, ULP, name, &len));
        assert_int_equal(len, rows[i].got);
        assert_memory_equal(name, want, sizeof name);
    }
    len = (socklen_t)-1;
    assert_fails(tls_getsockopt(fd[0], IPPROTO_TCP, ULP, name, &len), EINVAL);
    assert_fails(tls_getsockopt(fd[0], IPPROTO_TCP, ULP, name, NULL), EFAULT);
    close_tls(fd);
}

/* ATT-11, ATT-17: with TLS attached and no keys, or keys of the other direction only, everything is
 * plain TCP. */
static void test_att11_plain(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        int fd[2], p[2], error = 1;
        char data[32];
        socklen_t len = sizeof error;
        struct keys keys = tls13_keys();
        struct sealer s;
        struct receiver r;
        assert_ok(pipe(p));
        tcp_pair(fd);
        assert_ok(attach(fd[1]));
        sealer_init(&s, fd[0], fd[1], &keys);
        receiver_init(&r, fd[0], &keys);
        if (what == 1)
            assert_ok(set_keys(fd[1], TLS_TX, &keys));
        if (what == 2)
            assert_ok(set_keys(fd[1], TLS_RX, &keys));
        if (what != 2) {
            struct iovec iov = {data, sizeof data};
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
            send_wire(&s, "abcdefgh", 8);
            assert_events(fd[1], POLLIN);
            assert_returns(tls_recv(fd[1], data, 2, MSG_PEEK), 2);
            assert_returns(tls_recv(fd[1], data, 2, 0), 2);
            assert_returns(tls_recv(fd[1], data, 1, MSG_TRUNC), 1);
            assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 2, 0), 2);
            assert_returns(tls_recvmsg(fd[1], &msg, MSG_DONTWAIT), 3);
            assert_memory_equal(data, "fgh", 3);
            assert_fails(tls_recv(fd[1], data, 1, MSG_OOB), EINVAL);
            assert_fails(tls_recv(fd[1], data, 1, MSG_DONTWAIT), EAGAIN);
            /* RX-55. */
            assert_events(fd[1], 0);
        } else {
            send_sealed(&s, "23:3");
            expect_calls(&s, 10, 0, "23:3");
        }
        if (what != 1) {
            assert_returns(tls_send(fd[1], "xyz", 3, MSG_MORE), 3);
            assert_returns(tls_send(fd[1], "!", 1, MSG_OOB), 1);
            assert_returns(write(p[1], "pipe", 4), 4);
            if (what == 0)
                assert_returns(read(p[0], data, 2), 2);
            assert_returns(tls_splice(p[0], NULL, fd[1], NULL, 4, 0), 4);
            assert_returns(recv(fd[0], data, 3, MSG_WAITALL), 3);
            assert_memory_equal(data, "xyz", 3);
            assert_returns(recv(fd[0], data, 4, MSG_WAITALL), 4);
            assert_memory_equal(data, "pipe", 4);
        } else {
            send_all(fd[1], 0, 3, 0);
            expect_records(&r, "23:3");
        }
        assert_ok(tls_getsockopt(fd[1], SOL_SOCKET, SO_ERROR, &error, &len));
        assert_int_equal(error, 0);
        close_tls(fd);
        close_tls(p);
    }
}

/* ATT-12 to ATT-14, LIM: connect and listen are the kernel's own here: a program that attached TLS
 * has no use for them. Options of a socket without TLS. */
static void test_att14_without(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    int fd[2], local[2], value = 0;
    socklen_t len = 4;
    tcp_pair(fd);
    unix_pair(local);
    for (int option = 0; option < 8; option++) {
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, option, keys.info, keys.len), ENOPROTOOPT);
        assert_fails(tls_getsockopt(fd[0], SOL_TLS, option, &value, &len), EOPNOTSUPP);
        assert_fails(tls_setsockopt(local[0], SOL_TLS, option, keys.info, keys.len), EOPNOTSUPP);
        assert_fails(tls_getsockopt(local[0], SOL_TLS, option, &value, &len), EOPNOTSUPP);
    }
    /* ATT-15, with TLS attached: numbers that there are not. */
    assert_ok(attach(fd[0]));
    static const int unknown[] = {0, 6, 7, 99, -1};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, unknown[i], &value, 4), ENOPROTOOPT);
        assert_fails(tls_getsockopt(fd[0], SOL_TLS, unknown[i], &value, &len), ENOPROTOOPT);
    }
    /* ATT-16: others are the kernel's. */
    value = 1;
    assert_ok(tls_setsockopt(fd[0], SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    value = 0;
    assert_ok(getsockopt(fd[0], SOL_SOCKET, SO_KEEPALIVE, &value, &len));
    assert_int_equal(value, 1);
    close_tls(fd);
    close_tls(local);
}

/* ATT-19, CI-8, CI-9: what was read and sent before the keys is plain; what is queued, not. ATT-8:
 * there is no way back. */
static void test_att19_before_the_keys(void **state)
{
    (void)state;
    int fd[2];
    char data[16];
    unsigned char wire[64];
    struct keys keys = tls12_keys();
    struct sealer s;
    tcp_pair(fd);
    assert_ok(attach(fd[1]));
    sealer_init(&s, fd[0], fd[1], &keys);
    send_wire(&s, "hello", 5);
    size_t len = seal_layout(&s, wire, "23:10");
    send_wire(&s, wire, len);
    assert_returns(tls_recv(fd[1], data, 5, 0), 5);
    assert_returns(tls_send(fd[1], "plain", 5, 0), 5);
    assert_ok(set_keys(fd[1], TLS_RX, &keys));
    assert_ok(set_keys(fd[1], TLS_TX, &keys));
    assert_events(fd[1], POLLIN);
    expect_calls(&s, 100, MSG_DONTWAIT, "23:10 EAGAIN");
    send_all(fd[1], 0, 7, 0);
    assert_returns(recv(fd[0], data, 5, MSG_WAITALL), 5);
    assert_memory_equal(data, "plain", 5);
    struct receiver r;
    receiver_init(&r, fd[0], &keys);
    expect_records(&r, "23:7");
    assert_fails(set_ulp(fd[1], "", 1), ENOENT);
    send_all(fd[1], 7, 7, 0);
    expect_records(&r, "23:7");
    close_tls(fd);
}

/* CI-1, CI-2, CI-5, for both directions and by both ways to set keys: each row is one thing wrong,
 * and nothing has changed afterwards. */
static void test_ci1_bad_keys(void **state)
{
    (void)state;
    static const struct { uint16_t version, cipher; int len; int error; } rows[] = {
        {0x0302, 51, 40, EINVAL}, {0x0305, 51, 40, EINVAL}, {0, 51, 40, EINVAL},
        {0x0303, 0, 40, EINVAL}, {0x0303, 50, 40, EINVAL}, {0x0303, 59, 40, EINVAL},
        {0x0304, 57, 40, EINVAL}, {0x0304, 58, 56, EINVAL}, {0x0303, 51, 39, EINVAL},
        {0x0303, 51, 41, EINVAL}, {0x0303, 52, 40, EINVAL}, {0x0303, 54, 40, EINVAL},
        {0x0303, 51, 0, EINVAL}, {0x0303, 51, 3, EINVAL}, {0x0303, 51, 4, EINVAL},
        {0x0303, 51, -1, EINVAL}, {0x0303, 51, -40, EINVAL},
    };
    for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
        int fd[2], other[2];
        unsigned char answer[64];
        socklen_t len = 4;
        struct keys keys = tls12_keys();
        tcp_pair(fd);
        tcp_pair(other);
        assert_ok(attach(fd[1]));
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            unsigned char info[64] = {0};
            memcpy(info, &rows[i].version, 2);
            memcpy(info + 2, &rows[i].cipher, 2);
            assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, info, (socklen_t)rows[i].len), rows[i].error);
            assert_fails(tls_getsockopt(fd[1], SOL_TLS, direction, answer, &len), EBUSY);
            if (rows[i].len < 0)
                continue;
            assert_fails((direction == TLS_TX ? tls_tx_init : tls_rx_init)(other[1], info, (size_t)rows[i].len),
                         rows[i].error);
        }
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, NULL, 40), EINVAL);
        assert_fails((direction == TLS_TX ? tls_tx_init : tls_rx_init)(other[1], NULL, 40), EINVAL);
        /* A socket whose first keys were refused has no TLS at all, if nobody attached it. */
        assert_fails(tls_getsockopt(other[1], SOL_TLS, direction, answer, &len), EOPNOTSUPP);
        assert_ok(set_keys(fd[1], direction, &keys));
        assert_ok((direction == TLS_TX ? tls_tx_init : tls_rx_init)(other[1], keys.info, keys.len));
        close_tls(fd);
        close_tls(other);
    }
}

/* CI-3: keys that are there, of TLS 1.2: EBUSY, whatever is given but too little. */
static void test_ci3_keys_again(void **state)
{
    (void)state;
    for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
        int fd[2];
        unsigned char bad[40] = {0};
        struct keys keys = tls12_keys();
        tcp_pair(fd);
        assert_ok(attach(fd[1]));
        assert_ok(set_keys(fd[1], direction, &keys));
        assert_fails(set_keys(fd[1], direction, &keys), EBUSY);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, bad, sizeof bad), EBUSY);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, bad, 4), EBUSY);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, bad, 3), EINVAL);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, direction, NULL, 40), EINVAL);
        close_tls(fd);
    }
}

/* CI-4, CI-1 (f), CI-7: either order; the keys may be any, also the same; version and cipher have to
 * agree. All pairs of suites. */
static void test_ci4_both_directions(void **state)
{
    (void)state;
    for (size_t a = 0; a < suite_count; a++)
        for (size_t b = 0; b < suite_count; b++)
            for (int first = TLS_TX; first <= TLS_RX; first++) {
                int fd[2];
                struct keys one = make_keys(&suites[a], 5, 0), two = make_keys(&suites[b], 5, 0);
                tcp_pair(fd);
                assert_ok(attach(fd[1]));
                assert_ok(set_keys(fd[1], first, &one));
                if (a == b)
                    assert_ok(set_keys(fd[1], 3 - first, &two));
                else
                    assert_fails(set_keys(fd[1], 3 - first, &two), EINVAL);
                /* CI-2. */
                if (a != b)
                    assert_ok(set_keys(fd[1], 3 - first, &one));
                close_tls(fd);
            }
}

/* CI-6, CI-11 to CI-14: reading the keys, of all suites and both directions: the number, and in TLS 1.2
 * with GCM or CCM the nonce, of the next record. */
static void test_ci12_read_keys(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct sealer s;
        /* A carry through every byte. */
        struct keys keys = make_keys(&suites[i], 0x00fffffffffffffe, 3);
        memset(keys.info + 4, 0xff, 7);
        rx_pair(fd, &keys, &s);
        assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        for (int round = 0; round < 4; round++) {
            for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
                unsigned char got[64], want[64];
                socklen_t len = (socklen_t)keys.len;
                memcpy(want, keys.info, keys.len);
                for (int n = 0; n < round; n++) {
                    for (size_t at = keys.len; ++want[--at] == 0 && at > keys.len - 8;) {
                    }
                    if (explicit_nonce_len(keys.suite))
                        for (size_t at = 12; ++want[--at] == 0 && at > 4;) {
                        }
                }
                memset(got, 0x55, sizeof got);
                assert_ok(tls_getsockopt(fd[1], SOL_TLS, direction, got, &len));
                assert_int_equal(len, keys.len);
                assert_memory_equal(got, want, keys.len);
                assert_int_equal(got[keys.len], 0x55);
                len = 4;
                memset(got, 0x55, sizeof got);
                assert_ok(tls_getsockopt(fd[1], SOL_TLS, direction, got, &len));
                assert_memory_equal(got, want, 4);
                assert_int_equal(got[4], 0x55);
                assert_int_equal(len, 4);
                for (socklen_t other = 0; other < 70; other++) {
                    len = other;
                    if (other != 4 && other != keys.len)
                        assert_fails(tls_getsockopt(fd[1], SOL_TLS, direction, got, &len), EINVAL);
                    assert_int_equal(len, other);
                }
                len = (socklen_t)-1;
                assert_fails(tls_getsockopt(fd[1], SOL_TLS, direction, got, &len), EINVAL);
                len = (socklen_t)keys.len;
                assert_fails(tls_getsockopt(fd[1], SOL_TLS, direction, NULL, &len), EINVAL);
                assert_fails(tls_getsockopt(fd[1], SOL_TLS, direction, got, NULL), EFAULT);
            }
            send_all(fd[1], (uint64_t)round, 1, 0);
            send_sealed(&s, "23:10");
            /* CI-14: a record counts with its first byte, also when that is peeked at; not before. */
            if (round == 1) {
                expect_calls(&s, 1, MSG_PEEK, "23:1");
                continue;
            }
            expect_calls(&s, 10, 0, "23:10");
            if (round == 2)
                expect_calls(&s, 1, 0, "23:1");
        }
        close_tls(fd);
    }
}

/* CI-15: TLS_TX_ZEROCOPY_RO. */
static void test_ci15_zerocopy(void **state)
{
    (void)state;
    int fd[2], value = 0;
    socklen_t len;
    struct keys keys = tls13_keys();
    tcp_pair(fd);
    assert_ok(attach(fd[1]));
    for (int keyed = 0; keyed < 2; keyed++) {
        static const struct { int value; socklen_t len; int error; } rows[] = {
            {1, 4, 0}, {1, 4, 0}, {0, 4, 0}, {2, 4, EINVAL}, {-1, 4, EINVAL}, {1, 3, EINVAL},
            {1, 5, EINVAL}, {1, 0, EINVAL}, {1, 8, EINVAL}, {1, (socklen_t)-4, EINVAL}, {1, 4, 0},
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            int padded[2] = {rows[i].value, 0}, before = 0, after = 0;
            len = 4;
            assert_ok(tls_getsockopt(fd[1], SOL_TLS, ZEROCOPY_RO, &before, &len));
            int got = tls_setsockopt(fd[1], SOL_TLS, ZEROCOPY_RO, padded, rows[i].len);
            assert_int_equal(got, rows[i].error ? -1 : 0);
            if (rows[i].error)
                assert_int_equal(errno, rows[i].error);
            assert_ok(tls_getsockopt(fd[1], SOL_TLS, ZEROCOPY_RO, &after, &len));
            assert_int_equal(after, rows[i].error ? before : rows[i].value);
            assert_int_equal(len, 4);
        }
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, ZEROCOPY_RO, NULL, 4), EINVAL);
        static const socklen_t lengths[] = {0, 3, 5, 8, (socklen_t)-1};
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            len = lengths[i];
            assert_fails(tls_getsockopt(fd[1], SOL_TLS, ZEROCOPY_RO, &value, &len), EINVAL);
        }
        assert_ok(set_keys(fd[1], keyed ? TLS_RX : TLS_TX, &keys));
    }
    send_all(fd[1], 0, 5, 0);
    close_tls(fd);
}

/* CI-16, CI-17: TLS_RX_EXPECT_NO_PAD, by version and by which directions have keys. */
static void test_ci16_no_pad(void **state)
{
    (void)state;
    for (int keyed = 0; keyed < 8; keyed++) {
        int fd[2], value = -1;
        socklen_t len = 4;
        bool tx = keyed & 1, rx = keyed & 2, tls13 = keyed & 4, works = rx && tls13;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        unsigned char longer[12] = {1, 0, 0, 0};
        tcp_pair(fd);
        assert_ok(attach(fd[1]));
        if (tx)
            assert_ok(set_keys(fd[1], TLS_TX, &keys));
        if (rx)
            assert_ok(set_keys(fd[1], TLS_RX, &keys));
        if (!works) {
            assert_fails(set_int(fd[1], NO_PAD, 1), EINVAL);
            assert_fails(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, &value, &len), EINVAL);
            close_tls(fd);
            continue;
        }
        assert_ok(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, &value, &len));
        assert_int_equal(value, 0);
        assert_ok(set_int(fd[1], NO_PAD, 1));
        assert_fails(set_int(fd[1], NO_PAD, 2), EINVAL);
        assert_fails(set_int(fd[1], NO_PAD, -1), EINVAL);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, NULL, 4), EINVAL);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, longer, 3), EINVAL);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, longer, 0), EINVAL);
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, longer, (socklen_t)-1), EINVAL);
        len = 12;
        unsigned char answer[12];
        memset(answer, 0x33, sizeof answer);
        assert_ok(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, answer, &len));
        assert_int_equal(len, 4);
        assert_memory_equal(answer, "\1\0\0\0\x33", 5);
        assert_ok(set_int(fd[1], NO_PAD, 0));
        assert_ok(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, longer, sizeof longer));
        longer[9] = 1;
        longer[0] = 0;
        assert_fails(tls_setsockopt(fd[1], SOL_TLS, NO_PAD, longer, sizeof longer), EINVAL);
        len = 4;
        assert_ok(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, &value, &len));
        assert_int_equal(value, 1);
        static const socklen_t lengths[] = {0, 1, 3, (socklen_t)-1};
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            len = lengths[i];
            assert_fails(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, &value, &len), EINVAL);
        }
        len = 4;
        assert_fails(tls_getsockopt(fd[1], SOL_TLS, NO_PAD, NULL, &len), EINVAL);
        struct uktls_info info = {.size = sizeof info};
        assert_ok(uktls_get_info(fd[1], &info));
        assert_int_equal(info.rx_no_pad, 1);
        close_tls(fd);
    }
}

/* CI-19 to CI-21: TLS_TX_MAX_PAYLOAD_LEN. */
static void test_ci19_max_payload(void **state)
{
    (void)state;
    for (int when = 0; when < 3; when++) {
        int fd[2];
        uint16_t value = 0;
        socklen_t len = 2;
        struct keys keys = when == 2 ? tls12_keys() : tls13_keys();
        struct receiver r;
        tcp_pair(fd);
        assert_ok(attach(fd[0]));
        /* Before any keys, and then those of TLS 1.3 or TLS 1.2. */
        if (when)
            assert_ok(set_keys(fd[0], TLS_TX, &keys));
        assert_ok(tls_getsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, &len));
        assert_int_equal(value, 16384);
        static const struct { uint16_t value; socklen_t len; } bad[] = {
            {0, 2}, {62, 2}, {16385, 2}, {65535, 2}, {100, 0}, {100, 1}, {100, 3}, {100, 4}, {100, (socklen_t)-2},
        };
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            uint16_t padded[2] = {bad[i].value, 0};
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, padded, bad[i].len), EINVAL);
        }
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, NULL, 2), EINVAL);
        value = 63;
        if (when == 1)
            assert_ok(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, 2));
        else
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, 2), EINVAL);
        value = 64;
        assert_ok(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, 2));
        if (!when)
            assert_ok(set_keys(fd[0], TLS_TX, &keys));
        receiver_init(&r, fd[0 + 1], &keys);
        send_all(fd[0], 0, 150, 0);
        expect_records(&r, "23:64 23:64 23:22");
        assert_returns(send_typed(fd[0], HANDSHAKE, pattern(150, 70), 70, 0), 70);
        expect_records(&r, "22:64 22:6");
        /* An open record goes before everything else. */
        send_all(fd[0], 220, 5, MSG_MORE);
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, 2), EBUSY);
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, NULL, 7), EBUSY);
        send_all(fd[0], 225, 5, 0);
        expect_records(&r, "23:10");
        value = 16384;
        assert_ok(tls_setsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, &value, 2));
        send_all(fd[0], 230, 20000, 0);
        expect_records(&r, "23:16384 23:3616");
        char answer[8];
        memset(answer, 0x44, sizeof answer);
        len = 8;
        assert_ok(tls_getsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, answer, &len));
        assert_int_equal(len, 2);
        assert_memory_equal(answer, "\0\x40\x44", 3);
        static const socklen_t lengths[] = {0, 1, (socklen_t)-1};
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            len = lengths[i];
            assert_fails(tls_getsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, answer, &len), EINVAL);
        }
        close_tls(fd);
    }
    /* It is no limit to what is received. */
    int fd[2];
    uint16_t value = 64;
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    assert_ok(tls_setsockopt(fd[1], SOL_TLS, MAX_PAYLOAD, &value, 2));
    send_sealed(&s, "23:16384");
    expect_calls(&s, 16384, 0, "23:16384");
    close_tls(fd);
}

/* CI-10: setting TX keys waits for a send in progress: no record of it has the new keys. */
static void *rekey_now(void *argument)
{
    int *fd = argument;
    struct keys fresh = make_keys(&suites[8], 0, 9);
    return (void *)(intptr_t)tls_tx_init(*fd, fresh.info, fresh.len);
}

struct bulk {
    int fd;
    ssize_t got;
};

static void *send_bulk(void *argument)
{
    struct bulk *b = argument;
    b->got = tls_send(b->fd, pattern(0, 2 << 20), 2 << 20, 0);
    return NULL;
}

static void test_ci10_waits_for_a_send(void **state)
{
    (void)state;
    int fd[2];
    pthread_t sender, setter;
    void *result;
    struct receiver r;
    struct keys keys = tls13_keys(), fresh = make_keys(&suites[8], 0, 9);
    struct timespec pause = {.tv_nsec = 50000000};
    small_tls_pair(fd, &keys, &r);
    struct bulk b = {fd[0], 0};
    assert_int_equal(pthread_create(&sender, NULL, send_bulk, &b), 0);
    wait_for(fd[1], POLLIN);
    nanosleep(&pause, NULL);
    assert_int_equal(pthread_create(&setter, NULL, rekey_now, &fd[0]), 0);
    expect_bytes(&r, 2 << 20);
    assert_int_equal(pthread_join(sender, NULL), 0);
    assert_int_equal(pthread_join(setter, &result), 0);
    assert_int_equal((intptr_t)result, 0);
    assert_int_equal(b.got, 2 << 20);
    send_all(fd[0], 2 << 20, 10, 0);
    receiver_rekey(&r, &fresh);
    expect_records(&r, "23:10");
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_att2_names),           cmocka_unit_test(test_att5_states),
        cmocka_unit_test(test_att10_read_name),      cmocka_unit_test(test_att11_plain),
        cmocka_unit_test(test_att14_without),        cmocka_unit_test(test_att19_before_the_keys),
        cmocka_unit_test(test_ci1_bad_keys),         cmocka_unit_test(test_ci3_keys_again),
        cmocka_unit_test(test_ci4_both_directions),  cmocka_unit_test(test_ci12_read_keys),
        cmocka_unit_test(test_ci15_zerocopy),        cmocka_unit_test(test_ci16_no_pad),
        cmocka_unit_test(test_ci19_max_payload),     cmocka_unit_test(test_ci10_waits_for_a_send),
    };
    return RUN_ONCE("options", tests);
}
