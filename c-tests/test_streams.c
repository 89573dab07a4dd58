/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Long streams, of which with `auto` another thread transmits a part while the calls go on sealing.
 */
#include "harness.h"

/* Enough for a connection to be known as a stream many times over; valgrind is slow. */
static uint64_t length(void)
{
    return under_valgrind() ? 1 << 20 : 12 << 20;
}

static const size_t steps[] = {1000, 16384, 65536, 300000};

/* Sends `total` bytes of the pattern in calls of `step` bytes, waiting for room where the socket does not block. */
static void stream(int fd, uint64_t total, size_t step)
{
    for (uint64_t at = 0; at < total;) {
        size_t len = total - at < step ? total - at : step;
        ssize_t sent = tls_send(fd, pattern(at, len), len, MSG_NOSIGNAL);
        if (sent == -1 && errno == EAGAIN) {
            wait_for(fd, POLLOUT);
            continue;
        }
        assert_in_range(sent, 1, len);
        at += sent;
    }
}

/* AS-4, AS-20: whole and in order, by small and large calls, blocking or not, with either version. */
static void test_as4_streams_are_whole(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        struct keys keys = round & 1 ? tls12_keys() : tls13_keys();
        struct drain drain;
        int fd[2];
        tcp_pair(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        set_nonblocking(fd[0], round & 2);
        drain_start(&drain, fd[1], &keys);
        stream(fd[0], length(), steps[round / 2]);
        assert_ok(uktls_close(fd[0]));
        drain_finish(&drain, length());
        close(fd[1]);
    }
}

static void *fork_once(void *delay)
{
    /* Somewhere in the stream; wherever it is, all has to hold. */
    usleep((uintptr_t)delay);
    pid_t child = fork();
    if (!child) {
        /* valgrind looks for leaks where a process ends, and the other threads are not here. */
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    return (void *)(uintptr_t)wait_child(child);
}

/* MT-7: a fork of another thread, at any time of a stream. */
static void test_mt7_fork_in_a_stream(void **state)
{
    (void)state;
    for (uintptr_t round = 0; round < 8; round++) {
        struct keys keys = tls13_keys();
        struct drain drain;
        pthread_t forker;
        void *status;
        int fd[2];
        tcp_pair(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        set_nonblocking(fd[0], round & 1);
        drain_start(&drain, fd[1], &keys);
        assert_ok(pthread_create(&forker, NULL, fork_once, (void *)(round * 1000)));
        stream(fd[0], length(), steps[round / 2]);
        assert_ok(pthread_join(forker, &status));
        assert_null(status);
        assert_ok(uktls_close(fd[0]));
        drain_finish(&drain, length());
        close(fd[1]);
    }
}

static void *close_soon(void *fd)
{
    /* Somewhere in the stream, which does not end before. */
    usleep(3000);
    /* With a reset: what is there is not read. */
    struct linger at_once = {1, 0};
    setsockopt((int)(intptr_t)fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close((int)(intptr_t)fd);
    return NULL;
}

/* AS-6: the peer goes in the middle of a stream: an error, and no call that waits for good. */
static void test_as6_peer_goes(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        struct keys keys = tls13_keys();
        pthread_t closer;
        int fd[2];
        tcp_pair(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        set_nonblocking(fd[0], round & 1);
        assert_ok(pthread_create(&closer, NULL, close_soon, (void *)(intptr_t)fd[1]));
        size_t step = steps[round / 2];
        ssize_t sent;
        while ((sent = tls_send(fd[0], pattern(0, step), step, MSG_NOSIGNAL)) > 0 || errno == EAGAIN)
            if (sent < 0)
                wait_for(fd[0], POLLOUT);
        assert_true(errno == ECONNRESET || errno == EPIPE);
        assert_ok(pthread_join(closer, NULL));
        assert_ok(uktls_close(fd[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as4_streams_are_whole),
        cmocka_unit_test(test_mt7_fork_in_a_stream),
        cmocka_unit_test(test_as6_peer_goes),
    };
    return RUN_ENGINES("streams", tests);
}
