/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Many threads on one connection, many connections in one process, and the end of the process. */
#include "harness.h"

#include <sys/resource.h>

enum { SENDERS = 4, CALLS = 6, CALL_LEN = 400000 };

struct sender {
    int fd;
    unsigned char mark;
    pthread_t thread;
    const char *fault;
};

static void *sender_main(void *argument)
{
    struct sender *s = argument;
    unsigned char *data = malloc(CALL_LEN);
    if (!data)
        abort();
    memset(data, s->mark, CALL_LEN);
    for (int i = 0; i < CALLS; i++)
        if (tls_send(s->fd, data, CALL_LEN, i % 2 ? MSG_NOSIGNAL : 0) != CALL_LEN)
            s->fault = strerror(errno);
    free(data);
    return NULL;
}

/* MT-2: the bytes of one call are contiguous in the stream, whatever other threads send. */
static void test_mt2_calls_are_whole(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    struct sender senders[SENDERS];
    small_tls_pair(fd, &keys, &r);
    r.pattern = false;
    for (int i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.fd = fd[0], .mark = (unsigned char)(i + 1)};
        assert_int_equal(pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]), 0);
    }
    uint64_t total = (uint64_t)SENDERS * CALLS * CALL_LEN, position = 0;
    int calls[SENDERS + 1] = {0};
    unsigned char mark = 0;
    while (position < total) {
        if (receiver_next(&r) != 1)
            fail_msg("%s", r.fault);
        for (size_t i = 0; i < r.len; i++, position++) {
            if (position % CALL_LEN == 0) {
                mark = r.data[i];
                assert_in_range(mark, 1, SENDERS);
                calls[mark]++;
            }
            if (r.data[i] != mark)
                fail_msg("byte %llu is %d's within a call of %d", (unsigned long long)position,
                         r.data[i], mark);
        }
    }
    for (int i = 0; i < SENDERS; i++) {
        assert_int_equal(pthread_join(senders[i].thread, NULL), 0);
        assert_null(senders[i].fault);
        assert_int_equal(calls[i + 1], CALLS);
    }
    close_both(fd);
}

/* TX-48: a file is as contiguous in the stream as any other call. */
static void test_tx48_files_are_whole(void **state)
{
    (void)state;
    enum { LEN = 2 << 20 };
    int fd[2];
    char name[] = "/tmp/uktls-test-XXXXXX";
    struct receiver r;
    struct keys keys = tls13_keys();
    struct sender s = {.mark = 9};
    int file = mkstemp(name);
    assert_true(file >= 0);
    assert_ok(unlink(name));
    assert_ok(ftruncate(file, LEN));
    small_tls_pair(fd, &keys, &r);
    s.fd = fd[0];
    assert_int_equal(pthread_create(&s.thread, NULL, sender_main, &s), 0);
    wait_for(fd[1], POLLIN);
    pid_t child = fork();
    if (child == 0) {
        /* Reads on behalf of this thread, which is about to sleep in its call. */
        uint64_t zeros = 0, total = 0, runs = 0;
        unsigned char last = 9;
        close(fd[0]);
        r.pattern = false;
        while (total < LEN + (uint64_t)CALLS * CALL_LEN && receiver_next(&r) == 1)
            for (size_t i = 0; i < r.len; i++, total++) {
                zeros += r.data[i] == 0;
                runs += r.data[i] == 0 && last != 0;
                last = r.data[i];
            }
        /* As in test_rule1_fork: SIGKILL is success. */
        if (zeros == LEN && runs == 1)
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    off_t offset = 0;
    assert_returns(tls_sendfile(fd[0], file, &offset, LEN), LEN);
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    assert_null(s.fault);
    assert_ok(uktls_close(fd[0]));
    int status = wait_child(child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(fd[1]);
    close(file);
}

/* MT-3: a call that does not wait says EAGAIN. */
static void test_mt3_second_sender(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    struct sender s = {.mark = 9};
    small_tls_pair(fd, &keys, &r);
    s.fd = fd[0];
    assert_int_equal(pthread_create(&s.thread, NULL, sender_main, &s), 0);
    struct timespec pause = {.tv_nsec = 100000000};
    nanosleep(&pause, NULL);
    /* The other is asleep in its call, or has just filled the queue. */
    ssize_t n;
    int tries = 0;
    while ((n = tls_send(fd[0], "x", 1, MSG_DONTWAIT)) == 1 && tries++ < 100000) {
    }
    assert_int_equal(n, -1);
    assert_int_equal(errno, EAGAIN);
    r.pattern = false;
    uint64_t nines = 0;
    while (nines < (uint64_t)CALLS * CALL_LEN) {
        if (receiver_next(&r) != 1)
            fail_msg("%s", r.fault);
        for (size_t i = 0; i < r.len; i++)
            nines += r.data[i] == 9;
    }
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    assert_null(s.fault);
    close_both(fd);
}

static void *send_once(void *argument)
{
    struct sender *s = argument;
    if (tls_send(s->fd, pattern(0, 4 << 20), 4 << 20, MSG_NOSIGNAL) != 4 << 20)
        s->fault = strerror(errno);
    return NULL;
}

/* MT-11: a close while another thread is inside a send. That call keeps the socket: all its bytes
 * arrive, and then the end. */
static void test_mt11_close_inside_send(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        int fd[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        struct sender s = {.fd = -1};
        struct drain d;
        /* Asleep in a small socket, or at work in a large one. */
        (round % 2 ? small_tls_pair : tls_pair)(fd, &keys, &r);
        s.fd = fd[0];
        assert_int_equal(pthread_create(&s.thread, NULL, send_once, &s), 0);
        wait_for(fd[1], POLLIN);
        if (round % 2)
            drain_start(&d, fd[1], &keys);
        assert_ok(uktls_close(fd[0]));
        assert_int_equal(fcntl(fd[0], F_GETFD), -1);
        if (round % 2 == 0)
            drain_start(&d, fd[1], &keys);
        assert_int_equal(pthread_join(s.thread, NULL), 0);
        assert_null(s.fault);
        drain_finish(&d, 4 << 20);
        close(fd[1]);
    }
}

/* 200 connections closed with data in the queue all deliver; the numbers are used again meanwhile. */
static void test_tx57_many_linger(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static struct { int fd; uint64_t accepted; unsigned char tag; } left[COUNT];
    struct rlimit limit;
    assert_ok(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    assert_ok(setrlimit(RLIMIT_NOFILE, &limit));
    int fd[2];
    struct receiver *r = malloc(sizeof *r);
    for (int i = 0; i < COUNT; i++) {
        struct keys keys = make_keys(&suites[i % 2 ? 0 : 8], 0, (unsigned char)i);
        small_tls_pair(fd, &keys, r);
        left[i].fd = fd[1];
        left[i].tag = (unsigned char)i;
        left[i].accepted = fill_socket(fd[0], 0, 9000);
        assert_ok(uktls_close(fd[0]));
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        struct keys keys = make_keys(&suites[i % 2 ? 0 : 8], 0, left[i].tag);
        receiver_init(r, left[i].fd, &keys);
        expect_bytes(r, left[i].accepted);
        expect_end(r);
        close(left[i].fd);
    }
    free(r);
    expect_no_connections();
}

/* The end of the process: exit() and a return from main drain first (design rule 3). The child is
 * this program again, told by its environment. */
static int child_main(const char *how)
{
    struct keys keys = tls13_keys();
    use_engine(atoi(getenv("UKTLS_TEST_ENGINE")));
    if (tls_tx_init(3, keys.info, keys.len) != 0)
        return 10;
    uint64_t accepted = 0;
    ssize_t n;
    while ((n = tls_send(3, pattern(accepted, 10000), 10000, MSG_DONTWAIT)) > 0)
        accepted += (uint64_t)n;
    if (n != -1 || errno != EAGAIN)
        return 11;
    if (write(4, &accepted, sizeof accepted) != sizeof accepted)
        return 12;
    if (!strcmp(how, "exit"))
        exit(0);
    return 0;
}

static void test_rule3_exit_drains(void **state)
{
    (void)state;
    static const char *const ways[] = {"exit", "return"};
    for (int i = 0; i < 2; i++) {
        int fd[2], pipes[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        small_tcp_pair(fd);
        assert_ok(pipe(pipes));
        receiver_init(&r, fd[1], &keys);
        pid_t child = fork();
        if (child == 0)
            become_child(ways[i], fd[0], pipes[1]);
        close(fd[0]);
        close(pipes[1]);
        uint64_t accepted = 0;
        assert_returns(read(pipes[0], &accepted, sizeof accepted), sizeof accepted);
        assert_true(accepted > 16384);
        expect_bytes(&r, accepted);
        expect_end(&r);
        assert_int_equal(wait_child(child), 0);
        close(pipes[0]);
        close(fd[1]);
    }
}

int main(void)
{
    const char *child = getenv("UKTLS_TEST_CHILD");
    if (child)
        return child_main(child);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt2_calls_are_whole),    cmocka_unit_test(test_mt3_second_sender),
        cmocka_unit_test(test_tx48_files_are_whole),
        cmocka_unit_test(test_mt11_close_inside_send), cmocka_unit_test(test_tx57_many_linger),
        cmocka_unit_test(test_rule3_exit_drains),
    };
    return RUN_ENGINES("sharing", tests);
}
