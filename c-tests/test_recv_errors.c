/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Records that are none, streams that end badly, memory that cannot be written to; and records
 * whose bytes are known. */
#include "sealer.h"


static struct keys all_keys(size_t i)
{
    return make_keys(&suites[i], 5, 0);
}

static int socket_error(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;
    assert_ok(tls_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len));
    return error;
}

/* REC-1 to REC-9: the records of tests/data/known_answers.txt, received: data, an alert, and an
 * empty record, which only shows by the number of the one behind it. */
static void test_rec1_known_answers(void **state)
{
    (void)state;
    FILE *file = fopen("../tests/data/known_answers.txt", "r");
    char line[512], version[8], hex[256];
    unsigned cipher, number, seen = 0;
    int fd[2] = {-1, -1};
    struct sealer s;
    if (!file)
        file = fopen("tests/data/known_answers.txt", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        unsigned char wire[128];
        size_t len = 0, at = 0;
        if (sscanf(line, "%7s %u %u %255s", version, &cipher, &number, hex) != 4)
            continue;
        while (suites[at].cipher != cipher ||
               suites[at].version != (version[2] == '2' ? 0x0303 : 0x0304))
            assert_true(++at < suite_count);
        for (; hex[2 * len]; len++)
            assert_int_equal(sscanf(hex + 2 * len, "%2hhx", &wire[len]), 1);
        if (number == 1) {
            struct keys keys = all_keys(at);
            rx_pair(fd, &keys, &s);
        }
        send_wire(&s, wire, len);
        struct got *got = receive(fd[1], 100, MSG_DONTWAIT);
        seen++;
        if (number == 1) {
            assert_int_equal(got->n, 12);
            assert_int_equal(got->type, DATA);
            assert_memory_equal(got->data, "Hello, world", 12);
            continue;
        }
        if (number == 2) {
            assert_int_equal(got->n, 2);
            assert_int_equal(got->type, ALERT);
            assert_memory_equal(got->data, "\1", 2);
            continue;
        }
        assert_int_equal(number, 3);
        assert_int_equal(got->n, -1);
        assert_int_equal(got->error, EAGAIN);
        struct uktls_info info = {.size = sizeof info};
        assert_ok(uktls_get_info(fd[1], &info));
        assert_int_equal(info.rx_rec_seq[7], 8);
        close_tls(fd);
    }
    fclose(file);
    assert_int_equal(seen, 3 * suite_count);
}

/* REC-5: the explicit nonce is the wire's, whatever it is. */
static void test_rec5_explicit_nonce(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    for (int i = 0; i < 4; i++) {
        s.iv = i == 3 ? UINT64_MAX : (uint64_t)i * 0x123456789abcdef;
        send_sealed(&s, "23:10");
        expect_calls(&s, 100, 0, "23:10");
    }
    close_tls(fd);
}

/* REC-9: padding is stripped, however much; the last byte that is not zero is the type. */
static void test_rec9_padding(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        unsigned char wire[64];
        struct sealer s;
        struct keys keys = all_keys(i);
        if (keys.suite->version != 0x0304 || !suite_evp(keys.suite))
            continue;
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10+1 23:0+16384 23:1+16383 22:100+16284 23:16384 0:0");
        /* The first ones, and a record of zeros, which has no type. */
        expect_calls(&s, 65536, 0, "23:11 22:100 23:16384 EBADMSG EBADMSG");
        close_tls(fd);
        /* Not even a byte for the type: a bare tag, good or not. */
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10");
        memset(wire, 0, sizeof wire);
        memcpy(wire, "\x17\3\3\0\x10", 5);
        send_wire(&s, wire, 5 + 16);
        expect_calls(&s, 100, MSG_DONTWAIT, "23:10 EBADMSG EBADMSG");
        close_tls(fd);
    }
}

/* REC-10, DIV: the outer type of TLS 1.3 is not checked, as in the kernel. REC-11: any type of
 * TLS 1.2 but 0 (RX-22). */
static void test_rec10_types(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    for (int type = 1; type < 256; type += 13) {
        char layout[16], want[16];
        snprintf(layout, sizeof layout, "%d:10", type);
        snprintf(want, sizeof want, "%d:10", type);
        keys = tls12_keys();
        rx_pair(fd, &keys, &s);
        send_sealed(&s, layout);
        expect_calls(&s, 100, 0, want);
        close_tls(fd);
        keys = tls13_keys();
        rx_pair(fd, &keys, &s);
        send_sealed(&s, layout);
        expect_calls(&s, 100, 0, want);
        close_tls(fd);
    }
}

/* RX-22: type 0, which stays, and keeps the socket readable. */
static void test_rx22_type_zero(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:5 0:10 23:5");
    expect_calls(&s, 100, MSG_DONTWAIT, "23:5 EBADMSG EBADMSG");
    (void)socket_error(fd[1]);
    expect_calls(&s, 100, MSG_PEEK, "EBADMSG");
    assert_int_equal(tls_events(fd[1], POLLIN) & POLLIN, POLLIN);
    close_tls(fd);
}

/* RX-2 to RX-5, RX-51, REC-12, REC-15, TX-35: each header that is refused, in the order of the
 * checks. Two bytes of content of any record are enough to tell. */
static void test_rx3_bad_headers(void **state)
{
    (void)state;
    static const struct { unsigned char head[5]; int tls12, chacha12, tls13; } rows[] = {
        /* Lengths of 16408, 16400, 16401 are the largest. */
        {{23, 3, 3, 0x40, 0x19}, EMSGSIZE, EMSGSIZE, EMSGSIZE},
        {{23, 3, 3, 0x40, 0x18}, 0, EMSGSIZE, EMSGSIZE},
        {{23, 3, 3, 0x40, 0x12}, 0, EMSGSIZE, EMSGSIZE},
        {{23, 3, 3, 0x40, 0x11}, 0, EMSGSIZE, 0},
        {{23, 3, 3, 0x40, 0x10}, 0, 0, 0},
        {{23, 3, 3, 0xff, 0xff}, EMSGSIZE, EMSGSIZE, EMSGSIZE},
        /* And 24, 16, 16 the smallest. */
        {{23, 3, 3, 0, 23}, EBADMSG, 0, 0},
        {{23, 3, 3, 0, 24}, 0, 0, 0},
        {{23, 3, 3, 0, 15}, EBADMSG, EBADMSG, EBADMSG},
        {{23, 3, 3, 0, 0}, EBADMSG, EBADMSG, EBADMSG},
        {{20, 3, 3, 0, 1}, EBADMSG, EBADMSG, EBADMSG},
        {{23, 3, 4, 0, 40}, EINVAL, EINVAL, EINVAL},
        {{23, 3, 1, 0, 40}, EINVAL, EINVAL, EINVAL},
        {{23, 0, 3, 0, 40}, EINVAL, EINVAL, EINVAL},
        /* The length goes first. */
        {{23, 1, 1, 0x60, 0}, EMSGSIZE, EMSGSIZE, EMSGSIZE},
        {{23, 1, 1, 0, 3}, EBADMSG, EBADMSG, EBADMSG},
        {{'G', 'E', 'T', ' ', '/'}, EINVAL, EINVAL, EINVAL},
        /* The type is not looked at. */
        {{0, 3, 3, 0, 40}, 0, 0, 0},
        {{255, 3, 3, 0, 40}, 0, 0, 0},
    };
    static const size_t which[] = {0, 3, 8};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int v = 0; v < 3; v++) {
            int fd[2], want = v == 0 ? rows[i].tls12 : v == 1 ? rows[i].chacha12 : rows[i].tls13;
            unsigned char wire[64] = {0}, byte[20000];
            struct sealer s;
            struct keys keys = all_keys(which[v]);
            rx_pair(fd, &keys, &s);
            assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
            send_sealed(&s, "23:5");
            memcpy(wire, rows[i].head, 5);
            /* RX-2: not before the explicit nonce is there. */
            send_wire(&s, wire, 4);
            expect_calls(&s, 100, MSG_DONTWAIT, "23:5 EAGAIN");
            send_wire(&s, wire + 4, v == 0 ? 8 : 1);
            if (v == 0) {
                assert_events(fd[1], 0);
                send_wire(&s, wire + 12, 1);
            }
            if (!want) {
                assert_events(fd[1], 0);
                assert_fails(tls_recv(fd[1], byte, sizeof byte, MSG_DONTWAIT), EAGAIN);
                assert_events(fd[1], 0);
                close_tls(fd);
                continue;
            }
            /* RX-4: an error at once, which sends report, too (TX-35). */
            assert_events(fd[1], POLLERR);
            assert_fails(tls_send(fd[1], "x", 1, MSG_DONTWAIT), want);
            /* RX-5: not what stands behind it. */
            send_sealed(&s, "23:5");
            assert_fails(tls_recv(fd[1], byte, sizeof byte, MSG_DONTWAIT), want);
            assert_fails(tls_recv(fd[1], byte, sizeof byte, MSG_DONTWAIT), EAGAIN);
            assert_events(fd[1], 0);
            assert_returns(tls_send(fd[1], "x", 1, MSG_DONTWAIT), 1);
            /* RX-4, DIV: a call that waits is told again; the kernel lets it hang. */
            assert_fails(tls_recv(fd[1], byte, sizeof byte, 0), want);
            /* Until the peer closes, then 0. */
            assert_ok(shutdown(fd[0], SHUT_WR));
            assert_returns(tls_recv(fd[1], byte, sizeof byte, MSG_DONTWAIT), 0);
            assert_events(fd[1], POLLIN);
            close_tls(fd);
        }
    }
}

/* RX-4: SO_ERROR takes the error of a header, too; afterwards nothing is readable. It is there to be
 * taken when the header is, whether or not somebody has polled. */
static void test_rx4_so_error(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    /* REC-12: a plain alert, as of a peer that could not finish the handshake. */
    send_wire(&s, "\x15\3\3\0\2\2\x28", 7);
    assert_int_equal(kernel_events(fd[1], POLLIN), POLLIN);
    assert_events(fd[1], POLLERR);
    assert_int_equal(socket_error(fd[1]), EBADMSG);
    assert_int_equal(socket_error(fd[1]), 0);
    assert_events(fd[1], 0);
    struct pollfd p = {fd[1], POLLIN, 0};
    assert_returns(tls_poll(&p, 1, 50), 0);
    expect_calls(&s, 100, MSG_DONTWAIT, "EAGAIN EAGAIN");
    assert_int_equal(kernel_events(fd[1], POLLIN), 0);
    close_tls(fd);
    rx_pair(fd, &keys, &s);
    send_wire(&s, "\x15\3\3\0\2\2\x28", 7);
    assert_int_equal(kernel_events(fd[1], POLLIN), POLLIN);
    assert_int_equal(socket_error(fd[1]), EBADMSG);
    assert_int_equal(socket_error(fd[1]), 0);
    assert_events(fd[1], 0);
    close_tls(fd);
}

/* RX-20, RX-21, AS-19, TX-35: a record that is not authentic fails every time, also when SO_ERROR was read,
 * after the peer has closed, and for splice; good ones in front of it come first. */
static void test_rx20_bad_records(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2], p[2];
        struct sealer s;
        struct keys keys = all_keys(i);
        if (!suite_evp(keys.suite))
            continue;
        assert_ok(pipe(p));
        rx_pair(fd, &keys, &s);
        assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        send_sealed(&s, "23:10 23:10");
        s.spoil = true;
        send_sealed(&s, "23:10");
        s.spoil = false;
        send_sealed(&s, "23:10");
        expect_calls(&s, 100, 0, "23:20");
        /* A read that brings data leaves the error of the next record pending. */
        assert_events(fd[1], POLLIN | POLLERR);
        expect_calls(&s, 100, 0, "EBADMSG EBADMSG");
        assert_fails(tls_send(fd[1], "x", 1, MSG_DONTWAIT), EBADMSG);
        assert_int_equal(socket_error(fd[1]), EBADMSG);
        assert_returns(tls_send(fd[1], "x", 1, MSG_DONTWAIT), 1);
        assert_events(fd[1], POLLIN);
        assert_int_equal(kernel_events(fd[1], POLLIN), POLLIN);
        expect_calls(&s, 100, MSG_PEEK, "EBADMSG");
        expect_calls(&s, 1, MSG_DONTWAIT, "EBADMSG");
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 10, 0), EBADMSG);
        assert_ok(shutdown(fd[0], SHUT_WR));
        expect_calls(&s, 100, 0, "EBADMSG");
        close_tls(fd);
        close_tls(p);
    }
}

/* RX-56, DIV: what is not authentic is not shown. */
static void test_rx56_nothing_shown(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        unsigned char data[1000];
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        s.spoil = true;
        send_sealed(&s, "23:900");
        memset(data, 0, sizeof data);
        assert_fails(tls_recv(fd[1], data, sizeof data, 0), EBADMSG);
        for (size_t at = 0; at < sizeof data; at++)
            assert_int_equal(data[at], 0);
        close_tls(fd);
    }
}

/* Every byte of a record counts: one flipped bit anywhere, and it does not open. */
static void test_rx20_every_byte(void **state)
{
    (void)state;
    for (int v = 0; v < 3; v++) {
        size_t len = 1;
        for (size_t at = 0; at < len; at++) {
            int fd[2];
            unsigned char wire[128], byte[64];
            struct sealer s;
            struct keys keys = all_keys(v == 0 ? 0 : v == 1 ? 3 : 8);
            rx_pair(fd, &keys, &s);
            len = seal_layout(&s, wire, "23:7");
            /* REC-10: the outer type of TLS 1.3 is not authenticated. */
            if (v == 2 && at == 0)
                continue;
            wire[at] ^= 0x20;
            send_wire(&s, wire, len);
            assert_ok(shutdown(fd[0], SHUT_WR));
            ssize_t n = tls_recv(fd[1], byte, sizeof byte, 0);
            /* RX-25: a length that has become larger looks like the end. */
            if (!(n == -1 && (errno == EBADMSG || errno == EMSGSIZE || errno == EINVAL || errno == EIO)) &&
                !(n == 0 && (at == 3 || at == 4)))
                fail_msg("byte %zu: %zd (%s)", at, n, strerror(errno));
            close_tls(fd);
        }
    }
}

/* RX-23: data that is ready goes before the error, and a record before what the socket failed with. */
static void test_rx24_reset(void **state)
{
    (void)state;
    struct linger reset = {.l_onoff = 1};
    for (int partial = 0; partial < 2; partial++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls12_keys();
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10");
        if (partial)
            send_wire(&s, "\x17\3\3", 3);
        assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
        assert_ok(close(fd[0]));
        wait_for(fd[1], POLLHUP);
        assert_int_equal(tls_events(fd[1], POLLIN | POLLRDHUP),
                         POLLIN | POLLERR | POLLHUP | POLLRDHUP);
        expect_calls(&s, 100, 0, "23:10");
        struct got *got = receive(fd[1], 100, 0);
        /* What of a record was there has to be passed first, or not. */
        assert_true(got->n == -1 && got->error == ECONNRESET);
        expect_calls(&s, 100, 0, "EOF EOF");
        assert_ok(uktls_close(fd[1]));
    }
}

/* RX-25, RX-50: the end, between records and inside one. */
static void test_rx25_end(void **state)
{
    (void)state;
    for (size_t cut = 0; cut < 39; cut++) {
        int fd[2], p_ends[2];
        unsigned char wire[64], byte;
        struct sealer s;
        struct keys keys = tls12_keys();
        assert_ok(pipe(p_ends));
        rx_pair(fd, &keys, &s);
        assert_int_equal(seal_layout(&s, wire, "23:10"), 39);
        send_wire(&s, wire, cut);
        assert_events(fd[1], 0);
        assert_ok(shutdown(fd[0], SHUT_WR));
        wait_for(fd[1], POLLRDHUP);
        assert_int_equal(tls_events(fd[1], POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
        /* Also for who does not ask for POLLRDHUP. */
        struct pollfd p = {fd[1], POLLIN, 0};
        assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1);
        assert_int_equal(p.revents, POLLIN);
        for (int i = 0; i < 3; i++)
            assert_returns(tls_recv(fd[1], &byte, 1, i == 1 ? MSG_DONTWAIT : 0), 0);
        assert_returns(tls_splice(fd[1], NULL, p_ends[1], NULL, 1, 0), 0);
        close_tls(fd);
        close_tls(p_ends);
    }
}

/* RX-26: shut down here: what is there is returned, then 0; what comes later, too. */
static void test_rx26_shutdown(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10 23:10");
    expect_calls(&s, 5, 0, "23:5");
    assert_ok(tls_shutdown(fd[1], SHUT_RD));
    expect_calls(&s, 10, 0, "23:10 23:5 EOF EOF");
    send_sealed(&s, "23:10");
    assert_int_equal(tls_events(fd[1], POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    expect_calls(&s, 100, 0, "23:10 EOF");
    close_tls(fd);
}

/* RX-27: NULL is found before anything is consumed; DIV: no error stays behind. RX-28: what is in
 * front of it is filled. */
static void test_rx27_bad_memory(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        char data[16];
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        struct iovec null = {NULL, 10}, half[] = {{data, 4}, {NULL, 10}, {data, 4}};
        struct msghdr msg = {.msg_iov = &null, .msg_iovlen = 1};
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10");
        assert_fails(tls_recv(fd[1], NULL, 10, 0), EFAULT);
        assert_fails(tls_recvmsg(fd[1], &msg, 0), EFAULT);
        assert_fails(tls_recvmsg(fd[1], NULL, 0), EFAULT);
        msg.msg_iov = NULL;
        assert_fails(tls_recvmsg(fd[1], &msg, 0), EFAULT);
        assert_events(fd[1], POLLIN);
        assert_int_equal(socket_error(fd[1]), 0);
        msg.msg_iov = half;
        msg.msg_iovlen = 3;
        assert_returns(tls_recvmsg(fd[1], &msg, 0), 4);
        assert_memory_equal(data, pattern(0, 4), 4);
        s.reader = 4;
        expect_calls(&s, 100, MSG_DONTWAIT, "23:6 EAGAIN");
        msg.msg_iovlen = 1025;
        assert_fails(tls_recvmsg(fd[1], &msg, 0), EMSGSIZE);
        /* Lengths that cannot be, one by one and together: the kernel's limits. */
        struct iovec much[] = {{data, 8}, {data, PTRDIFF_MAX}};
        send_sealed(&s, "23:8 23:8");
        msg.msg_iov = much;
        msg.msg_iovlen = 2;
        assert_fails(tls_recvmsg(fd[1], &msg, 0), EFAULT);
        much[1].iov_len = SIZE_MAX;
        assert_fails(tls_recvmsg(fd[1], &msg, 0), EINVAL);
        assert_returns(tls_recv(fd[1], data, SIZE_MAX, MSG_PEEK), 8 + 8);
        s.reader = 10;
        expect_calls(&s, 100, MSG_DONTWAIT, "23:16 EAGAIN");
        close_tls(fd);
    }
}

/* RX-6: a record larger than the receive buffer arrives, of any size, however it is read. */
static void test_rx6_small_buffer(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct keys keys = all_keys(i);
        if (!suite_evp(keys.suite))
            continue;
        for (int way = 0; way < 3; way++) {
            struct sealer s;
            unsigned char *wire = malloc(1 << 20);
            assert_non_null(wire);
            small_rx_pair(fd, &keys, &s);
            size_t len = seal_layout(&s, wire, "23:16384 23:1 22:16384 23:16384 23:16384"), sent = 0;
            size_t total = 0;
            set_nonblocking(fd[0], true);
            set_nonblocking(fd[1], way != 0);
            while (total < 4 * 16384 + 1) {
                static unsigned char data[RECORD_MAX * 2];
                if (sent < len) {
                    ssize_t n = send(fd[0], wire + sent, len - sent, MSG_NOSIGNAL);
                    sent += n > 0 ? (size_t)n : 0;
                }
                struct iovec iov = {data, way == 2 ? 1000 : sizeof data};
                char control[CMSG_SPACE(1)];
                struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                                     .msg_controllen = sizeof control};
                if (way == 0 && sent < len) {
                    struct pollfd p = {fd[1], POLLIN, 0};
                    assert_true(tls_poll(&p, 1, 10) >= 0);
                    if (!(p.revents & POLLIN))
                        continue;
                }
                ssize_t n = tls_recvmsg(fd[1], &msg, 0);
                if (n < 0) {
                    assert_int_equal(errno, EAGAIN);
                    struct pollfd p[] = {{fd[1], POLLIN, 0}, {sent < len ? fd[0] : -1, POLLOUT, 0}};
                    assert_true(poll(p, 2, DEADLINE_MS) > 0);
                    continue;
                }
                assert_true(n > 0);
                assert_memory_equal(data, pattern(total, (size_t)n), (size_t)n);
                total += (size_t)n;
            }
            free(wire);
            close_tls(fd);
        }
    }
}

/* REC-14: the record with the last number is delivered; then the numbers are used up. */
static void test_rec14_last_number(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = make_keys(&suites[8], UINT64_MAX - 1, 0);
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10 23:10 23:10");
    expect_calls(&s, 10, 0, "23:10 23:10");
    assert_events(fd[1], POLLERR);
    expect_calls(&s, 10, MSG_DONTWAIT, "EBADMSG EAGAIN");
    /* DIV: it stays the end. */
    expect_calls(&s, 10, 0, "EBADMSG");
    close_tls(fd);
}

/* REC-13: sending ends one number earlier, for good (DIV). */
static void test_rec13_last_number_sent(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = make_keys(&suites[8], UINT64_MAX - 1, 0);
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, 0);
    assert_fails(tls_send(fd[0], "x", 1, 0), EBADMSG);
    (void)socket_error(fd[0]);
    assert_fails(tls_send(fd[0], "x", 1, 0), EBADMSG);
    expect_records(&r, "23:10");
    expect_nothing(fd[1]);
    close_tls(fd);
}

/* RX-54: urgent bytes in the stream: garbage like any other, and no crash. */
static void test_rx54_urgent(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10");
    assert_returns(send(fd[0], "\x17\3\3\0!", 5, MSG_OOB), 5);
    expect_calls(&s, 100, 0, "23:10");
    /* FIONREAD ends at the urgent byte. */
    s.rx = -1;
    send_sealed(&s, "23:100");
    assert_ok(shutdown(fd[0], SHUT_WR));
    struct pollfd p = {fd[1], POLLIN | POLLPRI, 0};
    assert_returns(tls_poll(&p, 1, DEADLINE_MS), 1);
    for (int i = 0; i < 5; i++)
        assert_true(receive(fd[1], 100, MSG_DONTWAIT)->n <= 0);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rec1_known_answers),
        cmocka_unit_test(test_rec5_explicit_nonce),
        cmocka_unit_test(test_rec9_padding),
        cmocka_unit_test(test_rec10_types),
        cmocka_unit_test(test_rx22_type_zero),
        cmocka_unit_test(test_rx3_bad_headers),
        cmocka_unit_test(test_rx4_so_error),
        cmocka_unit_test(test_rx20_bad_records),
        cmocka_unit_test(test_rx56_nothing_shown),
        cmocka_unit_test(test_rx20_every_byte),
        cmocka_unit_test(test_rx24_reset),
        cmocka_unit_test(test_rx25_end),
        cmocka_unit_test(test_rx26_shutdown),
        cmocka_unit_test(test_rx27_bad_memory),
        cmocka_unit_test(test_rx6_small_buffer),
        cmocka_unit_test(test_rec14_last_number),
        cmocka_unit_test(test_rec13_last_number_sent),
        cmocka_unit_test(test_rx54_urgent),
    };
    return RUN_ONCE("recv_errors", tests);
}
