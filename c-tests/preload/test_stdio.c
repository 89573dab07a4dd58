/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Streams of the C library over TLS sockets: it writes by a hidden name.
 */
#include "preload.h"

#include <linux/tls.h>

static void test_write_and_read(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    char line[40];
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fdopen(fd[0], "r+");
    assert_non_null(stream);
    assert_int_equal(fileno(stream), fd[0]);
    assert_int_equal(fileno_unlocked(stream), fd[0]);
    assert_returns(fprintf(stream, "%s %d", "hello", 7), 7);
    assert_returns(fwrite("bytes", 1, 5, stream), 5);
    expect_nothing(fd[1]);
    assert_ok(fflush(stream));
    expect_records(&peer.in, "23:12");
    assert_memory_equal(peer.in.data, "hello 7bytes", 12);
    unsigned char wire[200];
    size_t len = seal(&peer.out, wire, DATA, "one\ntwo\n", 8);
    send_wire(&peer.out, wire, len);
    assert_non_null(fgets(line, sizeof line, stream));
    assert_string_equal(line, "one\n");
    assert_non_null(fgets(line, sizeof line, stream));
    assert_string_equal(line, "two\n");
    /* What is in the buffer goes out by fclose, and the socket is closed. */
    assert_returns(fputs("last", stream), 1);
    assert_ok(fclose(stream));
    expect_records(&peer.in, "23:4");
    expect_end(&peer.in);
    assert_fails(fcntl(fd[0], F_GETFD), EBADF);
    assert_ok(close(fd[1]));
}

static void test_two_streams(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    char line[8];
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *in = fdopen(dup(fd[0]), "r"), *out = fdopen(fd[0], "w");
    assert_non_null(in);
    assert_non_null(out);
    setvbuf(out, NULL, _IOLBF, 0);
    assert_true(fputs("question\n", out) >= 0);
    expect_records(&peer.in, "23:9");
    unsigned char wire[200];
    send_wire(&peer.out, wire, seal(&peer.out, wire, DATA, "reply\n", 6));
    assert_non_null(fgets(line, sizeof line, in));
    assert_string_equal(line, "reply\n");
    assert_ok(fclose(in));
    assert_true(fputs("more\n", out) >= 0);
    assert_ok(fclose(out));
    expect_records(&peer.in, "23:5");
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

static void test_errors_are_told(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    FILE *stream = fdopen(fd[0], "r+");
    assert_ok(shutdown(fd[0], SHUT_WR));
    count_signal(SIGPIPE, 0);
    assert_true(fputs("late", stream) >= 0);
    assert_fails(fflush(stream), EPIPE);
    assert_true(ferror(stream));
    assert_int_equal(signals_seen, 1);
    clearerr(stream);
    set_nonblocking(fd[0], true);
    assert_int_equal(fgetc(stream), EOF);
    assert_int_equal(errno, EAGAIN);
    assert_true(ferror(stream));
    clearerr(stream);
    assert_ok(shutdown(fd[1], SHUT_WR));
    wait_for(fd[0], POLLIN);
    assert_int_equal(fgetc(stream), EOF);
    assert_true(feof(stream));
    (void)fclose(stream);
    assert_ok(close(fd[1]));
    assert_true(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
}

/* It fails, and closes the stream as the standard has it: the C library cannot do it with a stream that is
 * not its own. */
static void test_freopen(void **state)
{
    (void)state;
    for (int by64 = 0; by64 < 2; by64++) {
        int fd[2];
        struct peer peer;
        both_pair(fd, &peer);
        peer.in.pattern = false;
        FILE *stream = fdopen(fd[0], "w");
        assert_true(fputs("before", stream) >= 0);
        errno = 0;
        assert_null(by64 ? freopen64("/dev/null", "w", stream) : freopen("/dev/null", "w", stream));
        assert_int_equal(errno, EOPNOTSUPP);
        expect_records(&peer.in, "23:6");
        expect_end(&peer.in);
        assert_ok(close(fd[1]));
    }
    FILE *file = fopen("/dev/zero", "r");
    file = freopen("/dev/null", "r", file);
    assert_non_null(file);
    assert_int_equal(fgetc(file), EOF);
    assert_ok(fclose(file));
}

/* A stream from before the keys would write in the clear. */
static void test_a_stream_before_the_keys_is_declined(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    int fd[2];
    char data[8] = "";
    tcp_pair(fd);
    FILE *stream = fdopen(fd[0], "r+");
    assert_ok(setsockopt(fd[0], SOL_TCP, TCP_ULP, "tls", sizeof "tls"));
    assert_fails(setsockopt(fd[0], SOL_TLS, TLS_TX, keys.info, keys.len), ENOPROTOOPT);
    assert_fails(setsockopt(fd[0], SOL_TLS, TLS_RX, keys.info, keys.len), ENOPROTOOPT);
    /* The program goes on with a TLS of its own, over the stream or beside it. */
    assert_returns(fputs("abc", stream), 1);
    assert_ok(fflush(stream));
    assert_returns(write(fd[0], "def", 3), 3);
    assert_returns(recv(fd[1], data, 6, MSG_WAITALL), 6);
    assert_string_equal(data, "abcdef");
    assert_ok(fclose(stream));
    /* The number is free of that. */
    struct receiver receiver;
    int again[2];
    tls_pair(again, &keys, &receiver);
    close_tls(again);
    assert_ok(close(fd[1]));
}

static void test_streams_elsewhere(void **state)
{
    (void)state;
    int ends[2];
    char line[8];
    assert_ok(pipe(ends));
    FILE *out = fdopen(ends[1], "w"), *in = fdopen(ends[0], "r");
    assert_int_equal(fileno(out), ends[1]);
    assert_true(fputs("line\n", out) >= 0);
    assert_ok(fclose(out));
    assert_non_null(fgets(line, sizeof line, in));
    assert_string_equal(line, "line\n");
    assert_ok(fclose(in));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_and_read),  cmocka_unit_test(test_two_streams),
        cmocka_unit_test(test_errors_are_told), cmocka_unit_test(test_freopen),
        cmocka_unit_test(test_a_stream_before_the_keys_is_declined),
        cmocka_unit_test(test_streams_elsewhere),
    };
    return RUN_PRELOADED("test_stdio", tests);
}
