/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Receiving on one connection in several processes (design rule 5, section 8 of the kTLS behaviour).
 *
 * The stream is a counter of 8 bytes, written over and over, in records of many sizes, so a receiver
 * knows of every byte where it belongs. A child cannot use the assertions of the test: it says by
 * its exit status in which line it went wrong. */
#include "harness.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            _exit(__LINE__ % 250 + 1);                                                             \
    } while (0)

/* Forks; true in the child, which has to end by `_exit`. */
static bool fork_child(pid_t *child)
{
    fflush(NULL);
    *child = fork();
    if (*child == 0)
        alarm(under_valgrind() ? 200 : 60);
    return *child == 0;
}

static void expect_success(pid_t child)
{
    int status = wait_child(child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("child: status %#x, line %d modulo 250", status, WEXITSTATUS(status) - 1);
}

/* A pair with both ends in uktls: [0] sends, [1] receives. */
static void joint_pair(int fd[2], const struct keys *keys)
{
    tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys->info, keys->len));
    assert_ok(tls_rx_init(fd[1], keys->info, keys->len));
}

enum { COUNTERS = 1 << 16, STREAM = COUNTERS * 8 };

static const unsigned char *stream(void)
{
    static uint64_t numbers[COUNTERS];
    for (uint64_t i = 0; i < COUNTERS; i++)
        numbers[i] = i;
    return (const unsigned char *)numbers;
}

/* What the processes have received, in memory of all of them. */
struct tally {
    _Atomic unsigned char times[STREAM];
    _Atomic uint64_t bytes;
    _Atomic int faults;
};

static struct tally *tally_new(void)
{
    struct tally *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(t, MAP_FAILED);
    return t;
}

/* Where a piece of 16 bytes or more stands in the stream: it holds a whole counter. */
static int64_t place_of(const unsigned char *data, size_t len)
{
    const unsigned char *all = stream();
    for (size_t shift = 0; shift < 8 && shift + 8 <= len; shift++) {
        uint64_t number;
        memcpy(&number, data + shift, 8);
        int64_t at = (int64_t)(number * 8) - (int64_t)shift;
        if (number < COUNTERS && at >= 0 && at + (int64_t)len <= STREAM
            && !memcmp(all + at, data, len))
            return at;
    }
    return -1;
}

/* Receives until the end of the stream, in calls of 16 to `most` bytes. */
static void receive_all(struct tally *t, int fd, size_t most, unsigned seed, bool waits)
{
    static unsigned char data[1 << 16];
    for (;;) {
        size_t len = 16 + (size_t)rand_r(&seed) % (most - 15);
        /* All of a call's bytes, so that they can be placed. */
        ssize_t n = tls_recv(fd, data, len, waits ? MSG_WAITALL : MSG_DONTWAIT);
        if (n == 0)
            return;
        if (n < 0) {
            struct pollfd poll = {.fd = fd, .events = POLLIN};
            if (errno != EAGAIN || tls_poll(&poll, 1, DEADLINE_MS) != 1) {
                t->faults++;
                return;
            }
            continue;
        }
        int64_t at = n >= 16 ? place_of(data, (size_t)n) : -1;
        if (at < 0 && n >= 16)
            t->faults++;
        for (ssize_t i = 0; at >= 0 && i < n; i++)
            t->times[at + i]++;
        t->bytes += (uint64_t)n;
    }
}

/* MT-5, MT-7: three processes receive at once, waiting and not: each call returns a contiguous piece
 * of the stream, each byte is delivered once. */
static void test_mt5_all_receive(void **state)
{
    (void)state;
    for (int waits = 0; waits < 2; waits++) {
        int fd[2];
        pid_t children[2], writer;
        struct keys keys = waits ? tls12_keys() : tls13_keys();
        struct tally *t = tally_new();
        joint_pair(fd, &keys);
        if (fork_child(&writer)) {
            unsigned seed = 7;
            close(fd[1]);
            for (size_t at = 0; at < STREAM;) {
                size_t len = 16 * (1 + (size_t)rand_r(&seed) % 3000);
                len = len < STREAM - at ? len : STREAM - at;
                CHECK(tls_send(fd[0], stream() + at, len, 0) == (ssize_t)len);
                at += len;
            }
            CHECK(uktls_close(fd[0]) == 0);
            _exit(0);
        }
        for (unsigned i = 0; i < 2; i++)
            if (fork_child(&children[i])) {
                uktls_close(fd[0]);
                /* Aligned to whole pieces only if every call gets what it asks for. */
                receive_all(t, fd[1], i ? 4000 : 400, i + 1, waits);
                _exit(0);
            }
        assert_ok(uktls_close(fd[0]));
        receive_all(t, fd[1], 30000, 3, waits);
        expect_success(writer);
        for (int i = 0; i < 2; i++)
            expect_success(children[i]);
        assert_int_equal(t->faults, 0);
        assert_int_equal(t->bytes, STREAM);
        for (size_t i = 0; i < STREAM; i++)
            assert_true(t->times[i] <= 1);
        assert_ok(uktls_close(fd[1]));
        munmap(t, sizeof *t);
    }
}

/* MT-7: the rest of a record that the parent has read a part of, the pending control record, and the
 * number of the next record are the same for the child, and for the parent after it. */
static void test_mt7_place_in_the_stream(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2], status[2];
        char data[64];
        pid_t child;
        struct keys keys = make_keys(&suites[i], 5, 0);
        joint_pair(fd, &keys);
        assert_ok(pipe(status));
        assert_returns(tls_send(fd[0], "0123456789", 10, 0), 10);
        assert_returns(tls_send(fd[0], "abcdefghij", 10, 0), 10);
        assert_returns(send_typed(fd[0], ALERT, "\1", 1, 0), 1);
        assert_returns(tls_recv(fd[1], data, 3, 0), 3);
        /* What was peeked at is delivered once all the same. */
        assert_returns(tls_recv(fd[1], data, 12, MSG_PEEK), 12);
        if (fork_child(&child)) {
            CHECK(tls_recv(fd[1], data, 10, 0) == 10 && !memcmp(data, "3456789abc", 10));
            _exit(0);
        }
        expect_success(child);
        assert_returns(tls_recv(fd[1], data, sizeof data, 0), 7);
        assert_memory_equal(data, "defghij", 7);
        if (fork_child(&child)) {
            CHECK(tls_recv(fd[1], data, sizeof data, 0) == -1 && errno == EIO);
            struct iovec iov = {data, sizeof data};
            char control[CMSG_SPACE(1)];
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                                 .msg_controllen = sizeof control};
            CHECK(tls_recvmsg(fd[1], &msg, 0) == 1);
            CHECK(*CMSG_DATA(CMSG_FIRSTHDR(&msg)) == ALERT);
            _exit(0);
        }
        expect_success(child);
        assert_fails(tls_recv(fd[1], data, sizeof data, MSG_DONTWAIT), EAGAIN);
        unsigned char info[64];
        socklen_t len = (socklen_t)keys.len;
        assert_ok(tls_getsockopt(fd[1], SOL_TLS, TLS_RX, info, &len));
        assert_int_equal(info[keys.len - 1], 5 + 3);
        close(status[0]);
        close(status[1]);
        assert_ok(uktls_close(fd[0]));
        assert_ok(uktls_close(fd[1]));
    }
}

/* MT-8: a child that is killed in the middle of receiving takes with it what it was given, and
 * nothing else: the parent goes on behind it. */
static void test_mt8_killed_receiver(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        int fd[2];
        pid_t child, writer;
        struct keys keys = tls13_keys();
        struct tally *t = tally_new();
        joint_pair(fd, &keys);
        if (fork_child(&child)) {
            uktls_close(fd[0]);
            receive_all(t, fd[1], 2000, (unsigned)round, false);
            _exit(0);
        }
        if (fork_child(&writer)) {
            close(fd[1]);
            for (size_t at = 0; at < STREAM; at += 4096)
                CHECK(tls_send(fd[0], stream() + at, 4096, 0) == 4096);
            CHECK(uktls_close(fd[0]) == 0);
            _exit(0);
        }
        assert_ok(uktls_close(fd[0]));
        while (t->bytes < 20000u * (unsigned)round) {
            struct timespec pause = {.tv_nsec = 100000};
            nanosleep(&pause, NULL);
        }
        assert_ok(kill(child, SIGKILL));
        wait_child(child);
        receive_all(t, fd[1], 5000, 3, false);
        expect_success(writer);
        assert_int_equal(t->faults, 0);
        size_t missing = 0;
        for (size_t i = 0; i < STREAM; i++) {
            assert_true(t->times[i] <= 1);
            missing += t->times[i] == 0;
        }
        /* One call of the child's, and pieces that are too short to be placed. */
        assert_true(missing < 2000 + 64);
        assert_ok(uktls_close(fd[1]));
        munmap(t, sizeof *t);
    }
}

/* MT-10, RK-9, RK-10: a poller in one process sleeps while the other has to set new keys, and wakes
 * when it has. */
static void test_mt10_rekey_wakes_all(void **state)
{
    (void)state;
    int fd[2];
    char data[64];
    pid_t child;
    struct keys keys = tls13_keys(), fresh = make_keys(keys.suite, 0, 77);
    joint_pair(fd, &keys);
    if (fork_child(&child)) {
        struct pollfd poll = {.fd = fd[1], .events = POLLIN};
        int expired = 0;
        for (;;) {
            CHECK(tls_poll(&poll, 1, DEADLINE_MS) == 1);
            ssize_t got = tls_recv(fd[1], data, sizeof data, MSG_DONTWAIT);
            if (got >= 0) {
                CHECK(got == 3 && !memcmp(data, "new", 3));
                _exit(0);
            }
            /* Woken for the KeyUpdate, which the parent takes; once by it, if it did so in between. */
            if (errno == EKEYEXPIRED)
                CHECK(++expired == 1);
            else
                CHECK(errno == EIO || errno == EAGAIN);
        }
    }
    struct iovec iov = {data, sizeof data};
    char control[CMSG_SPACE(1)];
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                         .msg_controllen = sizeof control};
    ssize_t n;
    assert_returns(send_typed(fd[0], HANDSHAKE, "\x18\0\0\1\0", 5, 0), 5);
    /* The child may have been woken by it, and reads nothing without room for the type. */
    while ((n = tls_recvmsg(fd[1], &msg, 0)) == -1 && errno == EAGAIN) {
    }
    assert_int_equal(n, 5);
    assert_fails(tls_recv(fd[1], data, sizeof data, 0), EKEYEXPIRED);
    assert_ok(tls_tx_init(fd[0], fresh.info, fresh.len));
    assert_returns(tls_send(fd[0], "new", 3, 0), 3);
    struct timespec pause = {.tv_nsec = 50000000};
    nanosleep(&pause, NULL);
    assert_int_equal(waitpid(child, NULL, WNOHANG), 0);
    assert_ok(tls_rx_init(fd[1], fresh.info, fresh.len));
    expect_success(child);
    assert_fails(tls_recv(fd[1], data, sizeof data, MSG_DONTWAIT), EAGAIN);
    assert_ok(uktls_close(fd[0]));
    assert_ok(uktls_close(fd[1]));
}

/* RX-6 in two processes: a record that is larger than the receive buffer, of which one reads a part
 * and the other the rest. */
static void test_rx6_small_buffer(void **state)
{
    (void)state;
    int fd[2], small = 4096;
    static char data[RECORD_MAX];
    pid_t child, writer;
    struct keys keys = tls13_keys();
    joint_pair(fd, &keys);
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
    /* Shared before the first byte comes. */
    if (fork_child(&writer)) {
        close(fd[1]);
        CHECK(tls_send(fd[0], pattern(0, 3 * RECORD_MAX), 3 * RECORD_MAX, 0) == 3 * RECORD_MAX);
        CHECK(uktls_close(fd[0]) == 0);
        _exit(0);
    }
    assert_returns(tls_recv(fd[1], data, 1000, MSG_WAITALL), 1000);
    assert_memory_equal(data, pattern(0, 1000), 1000);
    if (fork_child(&child)) {
        CHECK(tls_recv(fd[1], data, 9000, MSG_WAITALL) == 9000);
        CHECK(!memcmp(data, pattern(1000, 9000), 9000));
        _exit(0);
    }
    expect_success(child);
    for (size_t at = 10000; at < 3 * RECORD_MAX; at += 4788)  {
        size_t len = 3 * RECORD_MAX - at < 4788 ? 3 * RECORD_MAX - at : 4788;
        assert_returns(tls_recv(fd[1], data, len, MSG_WAITALL), len);
        assert_memory_equal(data, pattern(at, len), len);
    }
    expect_success(writer);
    assert_ok(uktls_close(fd[0]));
    assert_returns(tls_recv(fd[1], data, 1, 0), 0);
    assert_ok(uktls_close(fd[1]));
}

struct sleeper {
    int fd;
    ssize_t got;
    char data[16];
};

static void *sleep_in_recv(void *argument)
{
    struct sleeper *s = argument;
    s->got = tls_recv(s->fd, s->data, sizeof s->data, 0);
    return NULL;
}

/* A fork beside a thread that sleeps in a receive neither waits for it nor disturbs it. */
static void test_mt4_fork_beside_a_sleeper(void **state)
{
    (void)state;
    int fd[2];
    char data[16];
    pid_t child;
    pthread_t thread;
    struct keys keys = tls12_keys();
    struct sleeper s;
    struct timespec pause = {.tv_nsec = 50000000};
    joint_pair(fd, &keys);
    s = (struct sleeper){.fd = fd[1]};
    assert_int_equal(pthread_create(&thread, NULL, sleep_in_recv, &s), 0);
    nanosleep(&pause, NULL);
    if (fork_child(&child)) {
        CHECK(tls_recv(fd[1], data, sizeof data, MSG_DONTWAIT) == -1 && errno == EAGAIN);
        _exit(0);
    }
    expect_success(child);
    assert_returns(tls_send(fd[0], "hello", 5, 0), 5);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(s.got, 5);
    assert_memory_equal(s.data, "hello", 5);
    assert_ok(uktls_close(fd[0]));
    assert_ok(uktls_close(fd[1]));
}

/* Design rule 5: a child that came without the handlers is refused. */
static void test_rule5_raw_clone(void **state)
{
    (void)state;
    int fd[2];
    char data[16];
    struct keys keys = tls13_keys();
    joint_pair(fd, &keys);
    assert_returns(tls_send(fd[0], "hello", 5, 0), 5);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        CHECK(tls_recv(fd[1], data, sizeof data, 0) == -1 && errno == ENOTRECOVERABLE);
        _exit(0);
    }
    expect_success(child);
    assert_returns(tls_recv(fd[1], data, sizeof data, 0), 5);
    assert_ok(uktls_close(fd[0]));
    assert_ok(uktls_close(fd[1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt5_all_receive),
        cmocka_unit_test(test_mt7_place_in_the_stream),
        cmocka_unit_test(test_mt8_killed_receiver),
        cmocka_unit_test(test_mt10_rekey_wakes_all),
        cmocka_unit_test(test_rx6_small_buffer),
        cmocka_unit_test(test_mt4_fork_beside_a_sleeper),
        cmocka_unit_test(test_rule5_raw_clone),
    };
    return RUN_ENGINES("fork_recv", tests);
}
