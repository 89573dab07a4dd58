/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Many threads and many descriptors on one receiving connection. */
#include "sealer.h"

#include <sys/ioctl.h>
#include <sys/time.h>

struct reader {
    int fd;
    size_t len;
    int flags;
    _Atomic bool done;
    ssize_t n;
    int error;
    unsigned char data[64];
    pthread_t thread;
};

static void *reader_main(void *argument)
{
    struct reader *r = argument;
    r->n = tls_recv(r->fd, r->data, r->len, r->flags);
    r->error = errno;
    r->done = true;
    return NULL;
}

static void reader_start(struct reader *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, reader_main, r), 0);
}

static void pause_ms(long ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* Gives another thread the time to fall asleep. No test fails where it was too short. */
static void let_sleep(void)
{
    pause_ms(50);
}

/* Waits until a reader has opened so many records, and so has the turn. */
static void wait_records(int fd, uint64_t records)
{
    struct uktls_info info = {.size = sizeof info};
    for (int i = 0; i < DEADLINE_MS; i++) {
        assert_ok(uktls_get_info(fd, &info));
        if (info.rx_records >= records)
            return;
        pause_ms(1);
    }
    fail_msg("nobody has opened record %d", (int)records);
}

/* MT-1, MT-12, ATT-17: a reader that sleeps stops neither senders nor questions nor polls. */
static void test_mt1_others_go_on(void **state)
{
    (void)state;
    int fd[2];
    unsigned char info[64];
    struct sealer s;
    struct receiver r;
    struct keys keys = tls13_keys();
    socklen_t len = (socklen_t)keys.len;
    struct uktls_info figures = {.size = sizeof figures};
    rx_pair(fd, &keys, &s);
    assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
    receiver_init(&r, fd[0], &keys);
    struct reader sleeper = {.fd = fd[1], .len = 10};
    reader_start(&sleeper);
    let_sleep();
    send_all(fd[1], 0, 100, 0);
    expect_records(&r, "23:100");
    assert_ok(tls_getsockopt(fd[1], SOL_TLS, TLS_RX, info, &len));
    assert_ok(uktls_get_info(fd[1], &figures));
    assert_int_equal(tls_events(fd[1], POLLIN | POLLOUT), POLLOUT);
    assert_false(sleeper.done);
    s.rx = -1;
    send_sealed(&s, "23:10");
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(sleeper.n, 10);
    close_tls(fd);
}

/* MT-4: a second reader waits for the first: not at all, for SO_RCVTIMEO, or until a signal. */
static void test_mt4_second_reader(void **state)
{
    (void)state;
    int fd[2], p[2];
    char data[16];
    struct timeval timeout = {.tv_usec = 50000}, none = {0};
    struct sealer s;
    struct keys keys = tls13_keys();
    assert_ok(pipe(p));
    rx_pair(fd, &keys, &s);
    struct reader sleeper = {.fd = fd[1], .len = 20, .flags = MSG_WAITALL};
    reader_start(&sleeper);
    s.rx = -1;
    send_sealed(&s, "23:10");
    wait_records(fd[1], 1);
    assert_fails(tls_recv(fd[1], data, 10, MSG_DONTWAIT), EAGAIN);
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 10, SPLICE_F_NONBLOCK), EAGAIN);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    assert_fails(tls_recv(fd[1], data, 10, 0), EAGAIN);
    assert_fails(tls_splice(fd[1], NULL, p[1], NULL, 10, 0), EAGAIN);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none));
    count_signal(SIGUSR1, 0);
    struct reader second = {.fd = fd[1], .len = 5};
    reader_start(&second);
    let_sleep();
    assert_false(second.done);
    while (!second.done) {
        pthread_kill(second.thread, SIGUSR1);
        pause_ms(5);
    }
    assert_int_equal(pthread_join(second.thread, NULL), 0);
    assert_int_equal(second.n, -1);
    assert_int_equal(second.error, EINTR);
    count_signal(SIGUSR1, SA_RESTART);
    struct reader third = {.fd = fd[1], .len = 5};
    reader_start(&third);
    let_sleep();
    pthread_kill(third.thread, SIGUSR1);
    let_sleep();
    assert_false(third.done);
    assert_false(sleeper.done);
    send_sealed(&s, "23:10 23:5");
    assert_int_equal(pthread_join(sleeper.thread, NULL), 0);
    assert_int_equal(pthread_join(third.thread, NULL), 0);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(sleeper.n, 20);
    assert_int_equal(third.n, 5);
    assert_memory_equal(third.data, pattern(20, 5), 5);
    close_tls(fd);
    close_tls(p);
}

/* MT-4, MT-5: two readers sleep, and one gets the record that both waited for: the other one goes on with what is
 * left of it, and is not told of the end, or of what else came, in front of that. */
static void test_mt4_two_wait_for_one(void **state)
{
    (void)state;
    for (int round = 0; round < 80; round++) {
        bool ends = round & 1, forked = round & 2;
        unsigned char wire[8192];
        int fd[2];
        struct sealer s;
        struct keys keys = tls13_keys();
        rx_pair(fd, &keys, &s);
        if (forked) {
            pid_t child = fork();
            if (child == 0)
                _exit(0);
            assert_int_equal(wait_child(child), 0);
        }
        struct reader one = {.fd = fd[1], .len = 1}, other = {.fd = fd[1], .len = 1, .flags = round & 4 ? MSG_PEEK : 0};
        reader_start(&one);
        reader_start(&other);
        pause_ms(3);
        s.rx = -1;
        size_t len = seal_layout(&s, wire, ends ? "23:5" : "23:5 23:3000");
        send_wire(&s, wire, ends ? len : len - 1000);
        if (ends)
            assert_ok(shutdown(fd[0], SHUT_WR));
        assert_int_equal(pthread_join(one.thread, NULL), 0);
        assert_int_equal(pthread_join(other.thread, NULL), 0);
        assert_int_equal(one.n, 1);
        assert_int_equal(other.n, 1);
        if (!ends)
            send_wire(&s, wire + len - 1000, 1000);
        s.rx = fd[1];
        s.reader = other.flags ? 1 : 2;
        expect_calls(&s, 4000, ends ? 0 : MSG_WAITALL | MSG_DONTWAIT,
                     ends ? (other.flags ? "23:4 EOF" : "23:3 EOF") : other.flags ? "23:3004 EAGAIN" : "23:3003 EAGAIN");
        close_tls(fd);
    }
}

enum { READERS = 4, TOTAL = 3000000, PIECE = 4 };

struct share {
    int fd;
    size_t step;
    unsigned char *seen; /* of every number, whether it came */
    _Atomic int *faults;
    pthread_t thread;
};

static void *share_main(void *argument)
{
    struct share *s = argument;
    uint32_t numbers[2048];
    for (;;) {
        /* MSG_WAITALL: whole numbers, of which one call's are consecutive. */
        ssize_t n = tls_recv(s->fd, numbers, s->step * PIECE, MSG_WAITALL);
        if (n <= 0)
            return NULL;
        *s->faults += n % PIECE != 0;
        for (ssize_t i = 0; i < n / PIECE; i++) {
            *s->faults += numbers[i] >= TOTAL / PIECE || (i && numbers[i] != numbers[i - 1] + 1);
            if (numbers[i] < TOTAL / PIECE)
                *s->faults += __atomic_fetch_add(&s->seen[numbers[i]], 1, __ATOMIC_RELAXED) != 0;
        }
    }
}

/* MT-5: of several readers each byte is delivered once, and a call's bytes are contiguous. */
static void test_mt5_each_byte_once(void **state)
{
    (void)state;
    int fd[2];
    struct keys keys = tls13_keys();
    struct share shares[READERS];
    _Atomic int faults = 0;
    unsigned char *seen = calloc(1, TOTAL / PIECE);
    uint32_t *numbers = malloc(TOTAL);
    assert_non_null(seen);
    assert_non_null(numbers);
    for (uint32_t i = 0; i < TOTAL / PIECE; i++)
        numbers[i] = i;
    tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    for (size_t i = 0; i < READERS; i++) {
        static const size_t steps[READERS] = {1, 33, 512, 2000};
        shares[i] = (struct share){.fd = fd[1], .step = steps[i], .seen = seen, .faults = &faults};
        assert_int_equal(pthread_create(&shares[i].thread, NULL, share_main, &shares[i]), 0);
    }
    for (size_t at = 0; at < TOTAL;) {
        size_t len = 1000 + at % 30000;
        len = len < TOTAL - at ? len : TOTAL - at;
        assert_returns(tls_send(fd[0], (char *)numbers + at, len, 0), len);
        at += len;
    }
    assert_ok(tls_shutdown(fd[0], SHUT_WR));
    for (size_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(shares[i].thread, NULL), 0);
    assert_int_equal(faults, 0);
    for (size_t i = 0; i < TOTAL / PIECE; i++)
        assert_int_equal(seen[i], 1);
    free(seen);
    free(numbers);
    close_tls(fd);
}

static void *poll_main(void *argument)
{
    struct pollfd p = {*(int *)argument, POLLIN, 0};
    return (void *)(intptr_t)tls_poll(&p, 1, DEADLINE_MS);
}

/* MT-10: what one reader leaves wakes another thread's poll. */
static void test_mt10_rest_wakes(void **state)
{
    (void)state;
    int fd[2];
    pthread_t poller;
    void *result;
    struct sealer s;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    assert_int_equal(pthread_create(&poller, NULL, poll_main, &fd[1]), 0);
    let_sleep();
    s.rx = -1;
    send_sealed(&s, "23:10");
    s.rx = fd[1];
    expect_calls(&s, 3, 0, "23:3");
    assert_int_equal(pthread_join(poller, &result), 0);
    assert_int_equal((intptr_t)result, 1);
    assert_int_equal(pthread_create(&poller, NULL, poll_main, &fd[1]), 0);
    assert_int_equal(pthread_join(poller, &result), 0);
    assert_int_equal((intptr_t)result, 1);
    expect_calls(&s, 30, 0, "23:7");
    close_tls(fd);
}

/* MT-11: a close while a reader is in its call. DIV: the call ends, instead of going on with a socket
 * that nobody can name any more; it brings what had come, or EBADF. */
static void test_mt11_close_under_a_reader(void **state)
{
    (void)state;
    for (int keyed = 0; keyed < 2; keyed++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls13_keys();
        rx_pair(fd, &keys, &s);
        if (keyed)
            assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        struct reader r = {.fd = fd[1], .len = 10};
        reader_start(&r);
        /* An empty record does not end the call. */
        s.rx = -1;
        send_sealed(&s, "23:0");
        wait_records(fd[1], 1);
        assert_ok(uktls_close(fd[1]));
        /* The number is free, and another file has nothing to do with the call. */
        int other[2];
        tcp_pair(other);
        assert_returns(send(other[0], "other", 5, 0), 5);
        assert_returns(send(other[1], "other", 5, 0), 5);
        assert_int_equal(pthread_join(r.thread, NULL), 0);
        assert_int_equal(r.n, -1);
        assert_int_equal(r.error, EBADF);
        char data[8];
        assert_returns(recv(other[0], data, 8, 0), 5);
        assert_returns(recv(other[1], data, 8, 0), 5);
        close_tls(other);
        assert_ok(uktls_close(fd[0]));
    }
    expect_no_connections();
}

/* TX-56: of several descriptors the close of one does nothing; one that was never used before works
 * when the one with the keys is gone. */
static void test_tx56_duplicates(void **state)
{
    (void)state;
    for (int original_first = 0; original_first < 2; original_first++) {
        int fd[2], copies[4];
        struct sealer s;
        struct receiver r;
        struct keys keys = tls13_keys();
        rx_pair(fd, &keys, &s);
        assert_ok(tls_tx_init(fd[1], keys.info, keys.len));
        receiver_init(&r, fd[0], &keys);
        copies[0] = dup(fd[1]);
        copies[1] = dup2(fd[1], 200);
        copies[2] = dup3(fd[1], 201, O_CLOEXEC);
        copies[3] = fcntl(fd[1], F_DUPFD, 300);
        send_sealed(&s, "23:10 23:10 23:10 23:10 23:10");
        int order[] = {fd[1], copies[0], copies[1], copies[2], copies[3]};
        if (!original_first) {
            order[0] = copies[3];
            order[4] = fd[1];
        }
        for (int i = 0; i < 5; i++) {
            /* In part by this one, which is then closed. */
            s.rx = order[i];
            send_all(order[i], (uint64_t)i * 9, 9, i < 4 ? MSG_MORE : 0);
            assert_events(order[i], POLLIN);
            expect_calls(&s, 5, 0, "23:5");
            s.rx = order[(i + 1) % 5];
            if (i < 4)
                expect_calls(&s, 5, 0, "23:5");
            else
                s.rx = order[i];
            unsigned char info[64];
            socklen_t len = (socklen_t)keys.len;
            assert_ok(tls_getsockopt(order[i], SOL_TLS, TLS_RX, info, &len));
            assert_int_equal(info[keys.len - 1], i + 1);
            if (i < 4)
                assert_ok(uktls_close(order[i]));
        }
        expect_calls(&s, 5, 0, "23:5");
        expect_records(&r, "23:45");
        assert_ok(uktls_close(order[4]));
        expect_end(&r);
        assert_ok(uktls_close(fd[0]));
        expect_no_connections();
    }
}

/* A duplicate that the library has never seen, of which the original was closed by uktls_close before
 * anybody used it; and one that is put over another connection's number. */
static void test_tx56_unseen_duplicate(void **state)
{
    (void)state;
    int fd[2], other[2];
    struct sealer s, t;
    struct keys keys = tls12_keys();
    rx_pair(fd, &keys, &s);
    int copy = dup(fd[1]);
    send_sealed(&s, "23:10");
    expect_calls(&s, 4, 0, "23:4");
    assert_ok(uktls_close(fd[1]));
    s.rx = copy;
    assert_events(copy, POLLIN);
    expect_calls(&s, 100, 0, "23:6");
    send_sealed(&s, "21:2");
    expect_calls(&s, 100, MSG_DONTWAIT, "21:2 EAGAIN");
    /* The first that is done with a duplicate is a splice. */
    int p[2], third = dup(copy);
    assert_ok(pipe(p));
    send_sealed(&s, "23:10");
    assert_returns(tls_splice(third, NULL, p[1], NULL, 10, 0), 10);
    s.reader += 10;
    assert_ok(uktls_close(third));
    close_tls(p);
    /* A number changes hands. */
    rx_pair(other, &keys, &t);
    send_sealed(&t, "23:10");
    assert_ok(uktls_close(other[1]));
    assert_int_equal(dup2(copy, other[1]), other[1]);
    send_sealed(&s, "23:10");
    s.rx = other[1];
    expect_calls(&s, 100, MSG_DONTWAIT, "23:10 EAGAIN");
    assert_ok(uktls_close(copy));
    send_sealed(&s, "23:10");
    expect_calls(&s, 100, MSG_DONTWAIT, "23:10 EAGAIN");
    assert_ok(uktls_close(other[1]));
    assert_ok(uktls_close(other[0]));
    assert_ok(uktls_close(fd[0]));
    expect_no_connections();
}

/* ATT-20: a reader that is in a plain receive when the keys are set goes on with plain bytes; TLS
 * begins with what it leaves. Nothing crashes or hangs. */
static void test_att20_reader_while_keys_are_set(void **state)
{
    (void)state;
    for (size_t len = 10; len <= 40; len += 30) {
        int fd[2];
        unsigned char wire[128];
        struct sealer s;
        struct keys keys = tls13_keys();
        tcp_pair(fd);
        assert_ok(tls_setsockopt(fd[1], 6, 31, "tls", 3));
        sealer_init(&s, fd[0], -1, &keys);
        struct reader r = {.fd = fd[1], .len = len, .flags = MSG_WAITALL};
        size_t first = seal_layout(&s, wire, "23:18");
        assert_int_equal(first, 40);
        send_wire(&s, wire, 1);
        reader_start(&r);
        /* It has taken the byte, and waits for more. */
        for (int queued = 1; queued; pause_ms(1))
            assert_ok(ioctl(fd[1], FIONREAD, &queued));
        assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
        send_wire(&s, wire + 1, first - 1);
        assert_int_equal(pthread_join(r.thread, NULL), 0);
        assert_int_equal(r.n, len);
        assert_memory_equal(r.data, wire, len);
        send_sealed(&s, "23:10");
        assert_ok(shutdown(fd[0], SHUT_WR));
        /* The rest of a record is none. */
        struct got *got = receive(fd[1], 100, 0);
        assert_int_equal(got->n, -1);
        assert_true(got->error == EBADMSG || got->error == EMSGSIZE || got->error == EINVAL);
        close_tls(fd);
    }
}

struct churn {
    int fd;
    _Atomic bool stop;
    pthread_t thread;
};

static void *churn_main(void *argument)
{
    struct churn *c = argument;
    while (!c->stop) {
        struct pollfd p = {c->fd, POLLIN | POLLOUT, 0};
        struct uktls_info info = {.size = sizeof info};
        unsigned char keys[64];
        socklen_t len = 40;
        tls_poll(&p, 1, 1);
        poll(&p, 1, 0);
        uktls_get_info(c->fd, &info);
        tls_getsockopt(c->fd, SOL_TLS, TLS_RX, keys, &len);
        char byte[4];
        tls_recv(c->fd, byte, sizeof byte, MSG_DONTWAIT | MSG_PEEK);
    }
    return NULL;
}

/* MT-12: polls, peeks and questions of other threads, beside a reader and a sender that are busy. */
static void test_mt12_everything_at_once(void **state)
{
    (void)state;
    enum { BYTES = 4 << 20 };
    int fd[2];
    struct keys keys = tls13_keys();
    struct churn churn[2];
    static unsigned char data[50000];
    tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    for (int i = 0; i < 2; i++) {
        churn[i] = (struct churn){.fd = fd[1]};
        assert_int_equal(pthread_create(&churn[i].thread, NULL, churn_main, &churn[i]), 0);
    }
    set_nonblocking(fd[0], true);
    size_t sent = 0, got = 0;
    while (got < BYTES) {
        size_t len = BYTES - sent < 30000 ? BYTES - sent : 30000;
        if (len) {
            ssize_t n = tls_send(fd[0], pattern(sent, len), len, 0);
            sent += n > 0 ? (size_t)n : 0;
        }
        ssize_t n = tls_recv(fd[1], data, sizeof data, MSG_DONTWAIT);
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            continue;
        }
        assert_true(n > 0);
        assert_memory_equal(data, pattern(got, (size_t)n), (size_t)n);
        got += (size_t)n;
    }
    for (int i = 0; i < 2; i++) {
        churn[i].stop = true;
        assert_int_equal(pthread_join(churn[i].thread, NULL), 0);
    }
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt1_others_go_on),
        cmocka_unit_test(test_mt4_second_reader),
        cmocka_unit_test(test_mt4_two_wait_for_one),
        cmocka_unit_test(test_mt5_each_byte_once),
        cmocka_unit_test(test_mt10_rest_wakes),
        cmocka_unit_test(test_mt11_close_under_a_reader),
        cmocka_unit_test(test_tx56_duplicates),
        cmocka_unit_test(test_tx56_unseen_duplicate),
        cmocka_unit_test(test_att20_reader_while_keys_are_set),
        cmocka_unit_test(test_mt12_everything_at_once),
    };
    return RUN_ONCE("threads_rx", tests);
}
