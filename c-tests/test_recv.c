/* SPDX-License-Identifier: MIT OR Apache-2.0
 * What receiving calls return: content types, records merged and split, flags, empty records,
 * splice. */
#include "sealer.h"

#include <sys/ioctl.h>
#include <sys/time.h>

static struct keys all_keys(size_t i)
{
    return make_keys(&suites[i], 5, 0);
}

/* RX-7, RX-9, RX-10, RX-30: of every version and cipher, streams in pieces of every size, from one byte to
 * more than there is. */
static void test_rx9_every_suite(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct sealer s;
        struct keys keys = all_keys(i);
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:1 23:16384 23:100");
        expect_calls(&s, 65536, MSG_WAITALL | MSG_DONTWAIT, "23:16485 EAGAIN");
        send_sealed(&s, "23:1 23:2 23:30");
        expect_calls(&s, 1, 0, "23:1 23:1 23:1");
        expect_calls(&s, 29, 0, "23:29 23:1");
        send_sealed(&s, "23:16384 23:16384 23:5");
        expect_stream(&s, 2 * 16384 + 5, 1000);
        expect_calls(&s, 10, MSG_DONTWAIT, "EAGAIN");
        assert_ok(uktls_close(fd[0]));
        expect_calls(&s, 10, 0, "EOF EOF");
        assert_ok(uktls_close(fd[1]));
    }
}

/* RX-8, RX-11, RX-12: a call's bytes have one type; control records are never merged, a short buffer
 * takes a part and the next call the rest, with its type again. */
static void test_rx12_control_records(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct sealer s;
        struct keys keys = all_keys(i);
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10 23:20 22:30 22:40 21:2 23:5");
        expect_calls(&s, 1000, 0, "23:30 22:30 22:40 21:2 23:5");
        send_sealed(&s, "22:30 255:1 22:7");
        expect_calls(&s, 20, 0, "22:20 22:10 255:1 22:7");
        /* RX-11: MSG_WAITALL returns short. */
        send_sealed(&s, "23:10 21:2 23:10");
        expect_calls(&s, 20, MSG_WAITALL, "23:10 21:2");
        expect_calls(&s, 10, MSG_WAITALL, "23:10");
        close_tls(fd);
    }
}

static ssize_t receive_with(int fd, struct msghdr *msg, struct iovec *iov, void *control, size_t room)
{
    msg->msg_iov = iov;
    msg->msg_iovlen = 1;
    msg->msg_control = control;
    msg->msg_controllen = room;
    msg->msg_flags = 0x5a;
    return tls_recvmsg(fd, msg, MSG_DONTWAIT);
}

/* RX-13, RX-14, RX-15: the control buffer, by its size. The kernel's results for each. */
static void test_rx13_room_for_the_type(void **state)
{
    (void)state;
    static const struct { size_t room, written; bool tells; } rows[] = {
        {0, 0, false}, {1, 0, false}, {15, 0, false}, {16, 16, false}, {17, 17, true},
        {18, 18, true}, {23, 23, true}, {24, 24, true}, {25, 24, true}, {48, 24, true},
    };
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char data[64];
        union {
            struct cmsghdr header;
            char bytes[48];
        } control;
        struct iovec iov = {data, sizeof data};
        struct sockaddr name;
        struct msghdr msg = {.msg_name = &name, .msg_namelen = sizeof name};
        send_sealed(&s, "23:4 22:5");
        memset(&control, 0x77, sizeof control);
        assert_returns(receive_with(fd[1], &msg, &iov, &control, rows[i].room), 4);
        /* RX-17. */
        assert_int_equal(msg.msg_namelen, 0);
        assert_int_equal(msg.msg_controllen, rows[i].written);
        assert_int_equal(msg.msg_flags, MSG_EOR | (rows[i].tells ? 0 : MSG_CTRUNC));
        for (size_t at = rows[i].room; at < sizeof control; at++)
            assert_int_equal(control.bytes[at], 0x77);
        if (rows[i].tells) {
            assert_int_equal(control.header.cmsg_len, 17);
            assert_int_equal(control.header.cmsg_level, SOL_TLS);
            assert_int_equal(control.header.cmsg_type, TLS_GET_RECORD_TYPE);
            assert_int_equal(*CMSG_DATA(&control.header), DATA);
            assert_returns(receive_with(fd[1], &msg, &iov, &control, rows[i].room), 5);
            assert_int_equal(*CMSG_DATA(&control.header), HANDSHAKE);
            continue;
        }
        /* RX-15: as often as it is asked, and by every call that cannot tell the type. */
        assert_fails(receive_with(fd[1], &msg, &iov, &control, rows[i].room), EIO);
        /* RX-18: the message is as it was before the call. */
        assert_int_equal(msg.msg_controllen, rows[i].room);
        assert_int_equal(msg.msg_flags, 0x5a);
        assert_fails(tls_recv(fd[1], data, 5, 0), EIO);
        assert_fails(tls_recv(fd[1], data, 5, MSG_PEEK), EIO);
        assert_events(fd[1], POLLIN);
        assert_int_equal(receive(fd[1], 64, 0)->type, HANDSHAKE);
    }
    /* A buffer that is none, whatever its length. */
    char data[4];
    struct iovec iov = {data, sizeof data};
    struct msghdr msg = {0};
    send_sealed(&s, "23:4");
    assert_returns(receive_with(fd[1], &msg, &iov, NULL, 24), 4);
    assert_int_equal(msg.msg_flags, MSG_EOR | MSG_CTRUNC);
    assert_int_equal(msg.msg_controllen, 0);
    close_tls(fd);
}

/* RX-16: data that was collected is returned; the control record's EIO is the next call's. */
static void test_rx16_data_before_control(void **state)
{
    (void)state;
    int fd[2];
    char data[64];
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10 21:2");
    assert_returns(tls_recv(fd[1], data, sizeof data, 0), 10);
    assert_fails(tls_recv(fd[1], data, sizeof data, 0), EIO);
    assert_int_equal(receive(fd[1], 64, 0)->type, ALERT);
    close_tls(fd);
}

/* RX-17: MSG_EOR. */
static void test_rx17_end_of_record(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10 23:10 22:8");
        assert_int_equal(receive(fd[1], 4, 0)->flags, 0);
        assert_int_equal(receive(fd[1], 6, 0)->flags, MSG_EOR);
        assert_int_equal(receive(fd[1], 4, 0)->flags, 0);
        assert_int_equal(receive(fd[1], 60, 0)->flags, MSG_EOR);
        assert_int_equal(receive(fd[1], 4, 0)->flags, 0);
        assert_int_equal(receive(fd[1], 4, 0)->flags, MSG_EOR);
        /* It stays set if a further record is read in part. */
        send_sealed(&s, "23:10 23:10");
        assert_int_equal(receive(fd[1], 15, 0)->flags, MSG_EOR);
        assert_int_equal(receive(fd[1], 5, 0)->flags, MSG_EOR);
        /* Peeking: records that an earlier call has opened count, those opened now do not. */
        send_sealed(&s, "23:10");
        assert_int_equal(receive(fd[1], 10, MSG_PEEK)->flags, 0);
        assert_int_equal(receive(fd[1], 10, MSG_PEEK)->flags, MSG_EOR);
        assert_int_equal(receive(fd[1], 10, 0)->flags, MSG_EOR);
        close_tls(fd);
    }
}

/* RX-18: only empty data records, then EAGAIN: the type is in the buffer, the message unchanged. */
static void test_rx18_type_before_an_error(void **state)
{
    (void)state;
    int fd[2];
    char data[8], control[CMSG_SPACE(1)] = {0};
    struct iovec iov = {data, sizeof data};
    struct msghdr msg = {0};
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:0 23:0");
    assert_fails(receive_with(fd[1], &msg, &iov, control, sizeof control), EAGAIN);
    assert_int_equal(control[CMSG_LEN(0)], DATA);
    assert_int_equal(msg.msg_controllen, sizeof control);
    assert_int_equal(msg.msg_flags, 0x5a);
    close_tls(fd);
}

/* RX-19: nothing is asked for. */
static void test_rx19_no_bytes(void **state)
{
    (void)state;
    int fd[2];
    unsigned char wire[64];
    struct msghdr msg = {0};
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    assert_returns(tls_recv(fd[1], NULL, 0, 0), 0);
    assert_returns(tls_recvmsg(fd[1], &msg, 0), 0);
    send_sealed(&s, "21:2");
    assert_returns(tls_recv(fd[1], wire, 0, 0), 0);
    expect_calls(&s, 10, MSG_DONTWAIT, "21:2 EAGAIN");
    s.spoil = true;
    send_sealed(&s, "23:2");
    expect_calls(&s, 10, MSG_DONTWAIT, "EBADMSG");
    assert_returns(tls_recv(fd[1], wire, 0, 0), 0);
    expect_calls(&s, 10, MSG_DONTWAIT, "EBADMSG");
    close_tls(fd);
}

static void *send_later(void *argument)
{
    struct timespec pause = {.tv_nsec = 50000000};
    nanosleep(&pause, NULL);
    send_sealed(argument, "23:20");
    return NULL;
}

static void receive_timeout(int fd, long ms)
{
    struct timeval timeout = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
}

/* RX-9, RX-29, RX-30: calls that wait, do not wait, or wait for so long. */
static void test_rx29_waiting(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        pthread_t sender;
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        expect_calls(&s, 100, MSG_DONTWAIT, "EAGAIN");
        set_nonblocking(fd[1], true);
        expect_calls(&s, 100, MSG_WAITALL, "EAGAIN");
        set_nonblocking(fd[1], false);
        receive_timeout(fd[1], 30);
        expect_calls(&s, 100, 0, "EAGAIN");
        /* What there is, when the time is up. */
        send_sealed(&s, "23:10");
        expect_calls(&s, 100, MSG_WAITALL, "23:10 EAGAIN");
        receive_timeout(fd[1], 0);
        s.rx = -1;
        assert_int_equal(pthread_create(&sender, NULL, send_later, &s), 0);
        struct got *got = receive(fd[1], 100, 0);
        assert_int_equal(got->n, 20);
        assert_int_equal(pthread_join(sender, NULL), 0);
        s.rx = fd[1];
        s.reader += 20;
        /* MSG_WAITALL: beyond what is there. */
        send_sealed(&s, "23:30");
        s.rx = -1;
        assert_int_equal(pthread_create(&sender, NULL, send_later, &s), 0);
        assert_int_equal(receive(fd[1], 45, MSG_WAITALL)->n, 45);
        assert_int_equal(pthread_join(sender, NULL), 0);
        s.rx = fd[1];
        s.reader += 45;
        expect_calls(&s, 45, MSG_DONTWAIT, "23:5 EAGAIN");
        /* The end, and what was collected before. */
        send_sealed(&s, "23:3");
        assert_ok(shutdown(fd[0], SHUT_WR));
        expect_calls(&s, 45, MSG_WAITALL, "23:3 EOF");
        close_tls(fd);
    }
}

struct signaller {
    pthread_t to, thread;
    _Atomic bool stop;
};

/* Again and again, as the first may come before the call has begun. */
static void *signal_main(void *argument)
{
    struct signaller *s = argument;
    struct timespec pause = {.tv_nsec = 20000000};
    while (!s->stop) {
        nanosleep(&pause, NULL);
        pthread_kill(s->to, SIGUSR1);
    }
    return NULL;
}

static void signals_start(struct signaller *s)
{
    s->to = pthread_self();
    s->stop = false;
    assert_int_equal(pthread_create(&s->thread, NULL, signal_main, s), 0);
}

static void signals_stop(struct signaller *s)
{
    s->stop = true;
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    assert_true(signals_seen > 0);
}

/* RX-29: a signal ends a wait, with what was collected; SA_RESTART goes on. */
static void test_rx29_signals(void **state)
{
    (void)state;
    int fd[2];
    pthread_t sender;
    struct signaller other;
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    count_signal(SIGUSR1, 0);
    signals_start(&other);
    assert_fails(receive(fd[1], 10, 0)->n, EINTR);
    signals_stop(&other);
    send_sealed(&s, "23:4");
    signals_start(&other);
    expect_calls(&s, 10, MSG_WAITALL, "23:4");
    signals_stop(&other);
    count_signal(SIGUSR1, SA_RESTART);
    s.rx = -1;
    signals_start(&other);
    assert_int_equal(pthread_create(&sender, NULL, send_later, &s), 0);
    assert_int_equal(receive(fd[1], 10, 0)->n, 10);
    signals_stop(&other);
    assert_int_equal(pthread_join(sender, NULL), 0);
    signal(SIGUSR1, SIG_DFL);
    close_tls(fd);
}

/* RX-31: peeking over several records, again and again, and what it does not pass. */
static void test_rx31_peek(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct sealer s;
        struct keys keys = all_keys(i);
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:10 23:20 23:16384 22:6 23:7");
        expect_calls(&s, 5, MSG_PEEK, "23:5 23:5");
        expect_calls(&s, 15, MSG_PEEK, "23:15 23:15");
        expect_calls(&s, 20000, MSG_PEEK | MSG_DONTWAIT, "23:16414 23:16414");
        expect_calls(&s, 12, 0, "23:12");
        expect_calls(&s, 20000, MSG_PEEK | MSG_WAITALL, "23:16402");
        expect_calls(&s, 16402, MSG_WAITALL, "23:16402");
        expect_calls(&s, 100, MSG_PEEK, "22:6 22:6");
        expect_calls(&s, 4, MSG_PEEK, "22:4");
        expect_calls(&s, 100, 0, "22:6");
        expect_calls(&s, 7, MSG_PEEK | MSG_WAITALL, "23:7");
        expect_calls(&s, 100, 0, "23:7");
        close_tls(fd);
    }
}

/* RX-32: flags that mean nothing here, and the error queue. */
static void test_rx32_other_flags(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:10 23:10");
    expect_calls(&s, 5, MSG_TRUNC, "23:5");
    expect_calls(&s, 5, MSG_OOB, "23:5");
    expect_calls(&s, 5, MSG_CMSG_CLOEXEC | MSG_CONFIRM, "23:5");
    assert_fails(receive(fd[1], 5, MSG_ERRQUEUE | MSG_DONTWAIT)->n, EAGAIN);
    char data[4];
    assert_fails(tls_recv(fd[1], data, 4, MSG_ERRQUEUE | MSG_DONTWAIT), EAGAIN);
    expect_calls(&s, 50, 0, "23:5");
    close_tls(fd);
}

/* RX-35: segments are filled in order, empty ones skipped, and nothing behind them is touched
 * (RX-57), of every size of record and segment. */
static void test_rx35_segments(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2], on = 1;
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        if (tls13)
            assert_ok(tls_setsockopt(fd[1], SOL_TLS, 4, &on, sizeof on));
        for (int length = 1; length < 40; length++) {
            unsigned char data[60];
            struct iovec iov[] = {{data, 3}, {data + 10, 0}, {NULL, 0}, {data + 3, 20}, {data + 23, 30}};
            char control[CMSG_SPACE(1)], layout[32];
            struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 5, .msg_control = control,
                                 .msg_controllen = sizeof control};
            /* A control record in no-pad mode as well (RX-57). */
            snprintf(layout, sizeof layout, "%d:%d", length % 2 ? DATA : HANDSHAKE, length);
            memset(data, 0xee, sizeof data);
            send_sealed(&s, layout);
            assert_returns(tls_recvmsg(fd[1], &msg, 0), length);
            assert_memory_equal(data, pattern(s.reader, (size_t)length), (size_t)length);
            s.reader += (uint64_t)length;
            for (size_t at = (size_t)length; at < sizeof data; at++)
                assert_int_equal(data[at], 0xee);
        }
        close_tls(fd);
    }
}

/* RX-36 to RX-40: the sequences of empty and non-empty records. */
static void test_rx40_empty_records(void **state)
{
    (void)state;
    static const struct { const char *sent, *received; int peek; } rows[] = {
        {"23:11 23:11 23:11", "23:33 EAGAIN", 0},
        {"23:11 22:0 23:11", "23:11 22:0 23:11 EAGAIN", 0},
        {"23:0 23:0 23:0", "EAGAIN", 0},
        {"23:0 23:0 22:11", "23:0 22:11 EAGAIN", 0},
        {"23:0 23:0 22:0", "23:0 22:0 EAGAIN", 0},
        {"22:0 22:0 22:0", "22:0 22:0 22:0 EAGAIN", 0},
        {"23:0 23:0 23:11", "23:11 EAGAIN", 0},
        {"23:11 23:0 23:0", "23:11 EAGAIN", 0},
        {"23:11 23:0 23:11", "23:22 EAGAIN", 0},
        {"23:0 23:0 23:11", "23:11 EAGAIN", 1},
        {"23:0 23:0 23:0", "EAGAIN", 1},
    };
    for (size_t i = 0; i < suite_count; i++) {
        struct keys keys = all_keys(i);
        /* uktls sends no empty records (TX-22). */
        if (!suite_evp(keys.suite))
            continue;
        for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
            int fd[2];
            struct sealer s;
            rx_pair(fd, &keys, &s);
            send_sealed(&s, rows[row].sent);
            /* RX-37: readable, whatever a read brings. */
            assert_events(fd[1], POLLIN);
            if (rows[row].peek && rows[row].received[0] == '2')
                expect_calls(&s, 100, MSG_DONTWAIT | MSG_PEEK, "23:11");
            else if (rows[row].peek)
                expect_calls(&s, 100, MSG_DONTWAIT | MSG_PEEK, "EAGAIN");
            expect_calls(&s, 100, MSG_DONTWAIT, rows[row].received);
            assert_events(fd[1], 0);
            /* RX-36: an empty record and then the end. */
            send_sealed(&s, "23:0");
            assert_ok(shutdown(fd[0], SHUT_WR));
            char byte;
            assert_returns(tls_recv(fd[1], &byte, 1, 0), 0);
            close_tls(fd);
        }
    }
}

/* RX-36: a call that waits goes on waiting. RX-38: an empty control record without room for its type
 * is an error, and stays. */
static void test_rx38_empty_control(void **state)
{
    (void)state;
    int fd[2];
    char byte;
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    receive_timeout(fd[1], 20);
    send_sealed(&s, "23:0");
    assert_fails(tls_recv(fd[1], &byte, 1, 0), EAGAIN);
    send_sealed(&s, "22:0+20");
    assert_fails(tls_recv(fd[1], &byte, 1, 0), EIO);
    assert_fails(tls_recv(fd[1], &byte, 1, 0), EIO);
    expect_calls(&s, 10, MSG_PEEK, "22:0");
    expect_calls(&s, 10, 0, "22:0 EAGAIN");
    close_tls(fd);
}

static void expect_pipe(int fd, struct sealer *s, size_t len)
{
    static unsigned char data[RECORD_MAX];
    for (size_t done = 0; done < len;) {
        ssize_t n = read(fd, data, len - done);
        assert_true(n > 0);
        assert_memory_equal(data, pattern(s->reader, (size_t)n), (size_t)n);
        s->reader += (uint64_t)n;
        done += (size_t)n;
    }
}

/* RX-42, RX-43, RX-44: splice takes data of one record at most. */
static void test_rx42_splice(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2], p[2];
        struct sealer s;
        struct keys keys = all_keys(i);
        assert_ok(pipe(p));
        rx_pair(fd, &keys, &s);
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
        off_t offset = 0;
        assert_fails(tls_splice(fd[1], &offset, p[1], NULL, 100, 0), EINVAL);
        assert_fails(tls_splice(fd[1], NULL, p[1], &offset, 100, 0), ESPIPE);
        send_sealed(&s, "23:10 23:10 22:5 23:9");
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 4, 0), 4);
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 6);
        expect_pipe(p[0], &s, 10);
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 3, 0), 3);
        expect_pipe(p[0], &s, 3);
        /* RX-45: the rest is there for recv, and peeked data for splice. */
        expect_calls(&s, 4, MSG_PEEK, "23:4");
        expect_calls(&s, 4, 0, "23:4");
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 3);
        expect_pipe(p[0], &s, 3);
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EINVAL);
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EINVAL);
        expect_calls(&s, 100, 0, "22:5");
        expect_calls(&s, 100, MSG_PEEK, "23:9");
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 9);
        expect_pipe(p[0], &s, 9);
        /* RX-43: a control record, also behind the end of the stream. */
        send_sealed(&s, "21:2");
        assert_ok(shutdown(fd[0], SHUT_WR));
        assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EINVAL);
        expect_calls(&s, 100, 0, "21:2");
        assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 0);
        close_tls(fd);
        close_tls(p);
    }
}

/* RX-45: a pipe of one page, and a record of four (of one where pages are of 16 KiB). */
static void test_rx45_small_pipe(void **state)
{
    (void)state;
    int fd[2], p[2];
    struct sealer s;
    struct keys keys = tls12_keys();
    assert_ok(pipe(p));
    int room = fcntl(p[1], F_SETPIPE_SZ, 4096);
    assert_int_equal(room, sysconf(_SC_PAGESIZE));
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:16384 23:16384");
    for (int left = 2 * 16384; left > 0;) {
        ssize_t n = tls_splice(fd[1], NULL, p[1], NULL, 30000, 0);
        assert_in_range(n, 1, room);
        left -= (int)n;
        assert_events(fd[1], left ? POLLIN : 0);
        if (left) {
            /* The pipe is full, or nearly. */
            ssize_t more = tls_splice(fd[1], NULL, p[1], NULL, 1, SPLICE_F_NONBLOCK);
            assert_true(more == 1 || (more == -1 && errno == EAGAIN));
            left -= more > 0 ? 1 : 0;
            n += more > 0 ? 1 : 0;
        }
        expect_pipe(p[0], &s, (size_t)n);
    }
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
    close_tls(fd);
    close_tls(p);
}

/* RX-41: splice passes over empty data records. RX-44: O_NONBLOCK is honoured, SO_RCVTIMEO too. */
static void test_rx41_splice_empty(void **state)
{
    (void)state;
    int fd[2], p[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    assert_ok(pipe(p));
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:0 23:11 23:0 23:0 23:11 23:0 23:0 23:0");
    assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 11);
    assert_returns(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), 11);
    expect_pipe(p[0], &s, 22);
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
    /* They are consumed. */
    assert_events(fd[1], 0);
    send_sealed(&s, "23:0 22:0");
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EINVAL);
    expect_calls(&s, 100, MSG_DONTWAIT, "22:0 EAGAIN");
    receive_timeout(fd[1], 20);
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EAGAIN);
    receive_timeout(fd[1], 0);
    set_nonblocking(fd[1], true);
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 100, 0), EAGAIN);
    close_tls(fd);
    close_tls(p);
}

/* RX-46: FIONREAD is not 0 as long as something is queued, and 0 when nothing is. RX-34: no
 * control data of TCP's own. */
static void test_rx46_fionread(void **state)
{
    (void)state;
    int fd[2], n = -1, on = 1;
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
    send_sealed(&s, "23:5");
    assert_ok(ioctl(fd[1], FIONREAD, &n));
    assert_int_equal(n, 34);
    assert_int_equal(receive(fd[1], 4, 0)->controllen, CMSG_SPACE(1));
    assert_ok(ioctl(fd[1], FIONREAD, &n));
    assert_true(n > 0);
    s.reader = 4;
    expect_calls(&s, 4, MSG_DONTWAIT, "23:1 EAGAIN");
    assert_ok(ioctl(fd[1], FIONREAD, &n));
    assert_int_equal(n, 0);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rx9_every_suite),
        cmocka_unit_test(test_rx12_control_records),
        cmocka_unit_test(test_rx13_room_for_the_type),
        cmocka_unit_test(test_rx16_data_before_control),
        cmocka_unit_test(test_rx17_end_of_record),
        cmocka_unit_test(test_rx18_type_before_an_error),
        cmocka_unit_test(test_rx19_no_bytes),
        cmocka_unit_test(test_rx29_waiting),
        cmocka_unit_test(test_rx29_signals),
        cmocka_unit_test(test_rx31_peek),
        cmocka_unit_test(test_rx32_other_flags),
        cmocka_unit_test(test_rx35_segments),
        cmocka_unit_test(test_rx40_empty_records),
        cmocka_unit_test(test_rx38_empty_control),
        cmocka_unit_test(test_rx42_splice),
        cmocka_unit_test(test_rx45_small_pipe),
        cmocka_unit_test(test_rx41_splice_empty),
        cmocka_unit_test(test_rx46_fionread),
    };
    return RUN_ONCE("recv", tests);
}
