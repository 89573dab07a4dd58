/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Handlers that write in the middle of anything, and many threads beside TLS.
 */
#include "preload.h"

#include <sys/time.h>

static int noise[2];
static _Atomic uint64_t storms;

/* As handlers do: the call has to be safe wherever the signal came, and errno as it was. */
static void on_storm(int number)
{
    int saved = errno;
    char byte = (char)number;
    struct pollfd p = {.fd = noise[1], .events = POLLOUT};
    storms++;
    if (write(noise[1], &byte, 1) < 0 && errno != EAGAIN)
        abort();
    if (poll(&p, 1, 0) < 0 && errno != EINTR)
        abort();
    while (read(noise[0], &byte, 1) == 1) {
    }
    errno = saved;
}

static void storm(bool on)
{
    struct itimerval every = {{0, on ? 200 : 0}, {0, on ? 200 : 0}};
    if (on) {
        struct sigaction action = {.sa_handler = on_storm, .sa_flags = SA_RESTART};
        assert_ok(pipe2(noise, O_NONBLOCK | O_CLOEXEC));
        assert_ok(sigaction(SIGPROF, &action, NULL));
    }
    assert_ok(setitimer(ITIMER_PROF, &every, NULL));
    if (!on) {
        assert_true(signal(SIGPROF, SIG_IGN) != SIG_ERR);
        close_tls(noise);
    }
}

/* Of the processor's time, so that there are signals on a slow machine too. */
enum { ENOUGH = 50, ROUNDS = 200000 };

static void test_a_storm_of_signals_while_sending(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct drain drain;
    int fd[2];
    uint64_t sent = 0;
    tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    drain_start(&drain, fd[1], &keys);
    storms = 0;
    storm(true);
    for (int i = 0; storms < ENOUGH && i < ROUNDS; i++) {
        errno = 77;
        size_t len = (size_t)(i % 7 + 1) * 700;
        ssize_t n = send(fd[0], pattern(sent, len), len, 0);
        assert_true(n > 0 && (size_t)n <= len);
        assert_int_equal(errno, 77);
        sent += (uint64_t)n;
    }
    storm(false);
    assert_true(storms >= ENOUGH);
    assert_ok(close(fd[0]));
    drain_finish(&drain, sent);
    assert_ok(close(fd[1]));
}

static void test_a_storm_of_signals_while_receiving(void **state)
{
    (void)state;
    struct sealer s;
    struct keys keys = tls12_keys();
    int fd[2];
    char data[3000];
    rx_pair(fd, &keys, &s);
    storms = 0;
    storm(true);
    for (int i = 0; storms < ENOUGH && i < ROUNDS; i++) {
        send_sealed(&s, "23:2000");
        struct pollfd p = {.fd = fd[1], .events = POLLIN};
        int n;
        while ((n = poll(&p, 1, DEADLINE_MS)) < 0)
            assert_int_equal(errno, EINTR);
        assert_int_equal(n, 1);
        assert_returns(read(fd[1], data, sizeof data), 2000);
        assert_memory_equal(data, pattern(s.reader, 2000), 2000);
        s.reader += 2000;
    }
    storm(false);
    assert_true(storms >= ENOUGH);
    close_tls(fd);
}

/* Plain traffic of many threads, with descriptors that come and go, beside threads with TLS. */
enum { PLAIN = 32, TLS = 4, TIMES = 300 };

static void *plain(void *argument)
{
    unsigned char sent[64], got[64];
    (void)argument;
    for (int i = 0; i < TIMES; i++) {
        int ends[2], pair[2];
        if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
            abort();
        memset(sent, i, sizeof sent);
        for (int j = 0; j < 4; j++) {
            int out = j % 2 ? pair[0] : ends[1], in = j % 2 ? pair[1] : ends[0];
            struct pollfd p = {.fd = in, .events = POLLIN};
            if (write(out, sent, sizeof sent) != sizeof sent || poll(&p, 1, DEADLINE_MS) != 1 ||
                read(in, got, sizeof got) != sizeof got || memcmp(sent, got, sizeof sent))
                return "a plain descriptor was not";
        }
        if (close(ends[0]) || close(ends[1]) || close(pair[0]) || close(pair[1]))
            return "close";
    }
    return NULL;
}

static void *tls(void *argument)
{
    struct keys keys = tls12_keys();
    struct receiver *receiver = malloc(sizeof *receiver);
    (void)argument;
    for (int i = 0; i < TIMES; i++) {
        int fd[2];
        tcp_pair(fd);
        if (tls_tx_init(fd[0], keys.info, keys.len))
            return "keys";
        receiver_init(receiver, fd[1], &keys);
        for (uint64_t at = 0; at < 5000; at += 1000)
            if (write(fd[0], pattern(at, 1000), 1000) != 1000)
                return "write";
        if (close(fd[0]))
            return "close";
        while (receiver->position < 5000)
            if (receiver_next(receiver) != 1)
                return receiver->fault;
        if (receiver_next(receiver) != 0 || close(fd[1]))
            return "the end";
    }
    free(receiver);
    return NULL;
}

static void test_plain_threads_beside_tls(void **state)
{
    (void)state;
    pthread_t threads[PLAIN + TLS];
    for (int i = 0; i < PLAIN + TLS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i < PLAIN ? plain : tls, NULL), 0);
    for (int i = 0; i < PLAIN + TLS; i++) {
        void *fault;
        assert_int_equal(pthread_join(threads[i], &fault), 0);
        if (fault)
            fail_msg("thread %d: %s", i, (char *)fault);
    }
}

/* A thread that is cancelled in a blocking call on a TLS socket ends, and the socket goes on. */
static void *reads_for_ever(void *argument)
{
    char byte;
    (void)!read(*(int *)argument, &byte, 1);
    return NULL;
}

static void test_cancellation(void **state)
{
    (void)state;
    int ends[2];
    pthread_t thread;
    void *result;
    assert_ok(pipe(ends));
    assert_int_equal(pthread_create(&thread, NULL, reads_for_ever, &ends[0]), 0);
    assert_int_equal(pthread_cancel(thread), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, PTHREAD_CANCELED);
    close_tls(ends);
    /* On a TLS socket a pending cancellation is taken when the call begins. */
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    assert_int_equal(pthread_create(&thread, NULL, reads_for_ever, &fd[0]), 0);
    assert_int_equal(pthread_cancel(thread), 0);
    send_sealed(&peer.out, "23:1");
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_returns(write(fd[0], pattern(0, 5), 5), 5);
    expect_records(&peer.in, "23:5");
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_storm_of_signals_while_sending),
        cmocka_unit_test(test_a_storm_of_signals_while_receiving),
        cmocka_unit_test(test_plain_threads_beside_tls),
        cmocka_unit_test(test_cancellation),
    };
    return RUN_PRELOADED("test_signals", tests);
}
