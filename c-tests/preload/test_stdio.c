/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Streams of the C library over TLS sockets: it writes by a hidden name.
 */
#include "preload.h"

#include <dlfcn.h>
#include <linux/tls.h>
#include <locale.h>
#include <sched.h>
#include <stdio_ext.h>
#include <wchar.h>

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

/* The connection ends as it does by close, and the stream goes on with the file. */
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
        FILE *again = by64 ? freopen64("/dev/full", "w", stream) : freopen("/dev/full", "w", stream);
        assert_ptr_equal(again, stream);
        assert_int_equal(fileno(stream), fd[0]);
        expect_records(&peer.in, "23:6");
        expect_end(&peer.in);
        assert_true(fputs("after", stream) >= 0);
        assert_fails(fflush(stream), ENOSPC);
        (void)fclose(stream);
        assert_ok(close(fd[1]));
    }
    FILE *file = fopen("/dev/zero", "r");
    file = freopen("/dev/null", "r", file);
    assert_non_null(file);
    assert_int_equal(fgetc(file), EOF);
    assert_ok(fclose(file));
}

/* A socket has no name to be opened by; the stream is closed nevertheless. */
static void test_freopen_without_a_path(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fdopen(fd[0], "w");
    assert_true(fputs("before", stream) >= 0);
    errno = 0;
    assert_null(freopen(NULL, "r", stream));
    assert_int_equal(errno, ENXIO);
    expect_records(&peer.in, "23:6");
    expect_end(&peer.in);
    assert_fails(fcntl(fd[0], F_GETFD), EBADF);
    assert_ok(close(fd[1]));
}

static void set_both_keys(int fd, int other, struct peer *peer)
{
    struct keys keys = tls12_keys();
    assert_ok(tls_tx_init(fd, keys.info, keys.len));
    assert_ok(tls_rx_init(fd, keys.info, keys.len));
    receiver_init(&peer->in, other, &keys);
    peer->in.pattern = false;
    sealer_init(&peer->out, other, fd, &keys);
}

static void send_text(struct peer *peer, const char *text)
{
    unsigned char wire[400];
    send_wire(&peer->out, wire, seal(&peer->out, wire, DATA, text, strlen(text)));
}

#define expect_text(peer, layout, text)                                                            \
    do {                                                                                           \
        expect_records(&(peer)->in, layout);                                                       \
        assert_memory_equal((peer)->in.data, text, strlen(text));                                  \
    } while (0)

/* As with the kernel's TLS: what the stream writes when the keys are set is sealed, and so is what waited in it. */
static void test_a_stream_before_the_keys(void **state)
{
    (void)state;
    int fd[2];
    char data[8] = "";
    struct peer peer;
    tcp_pair(fd);
    FILE *stream = fdopen(fd[0], "r+");
    assert_returns(fputs("clear", stream), 1);
    assert_ok(fflush(stream));
    assert_returns(recv(fd[1], data, 5, MSG_WAITALL), 5);
    assert_string_equal(data, "clear");
    assert_returns(fputs("waits", stream), 1);
    set_both_keys(fd[0], fd[1], &peer);
    assert_int_equal(fileno(stream), fd[0]);
    assert_int_equal(__fpending(stream), 5);
    expect_nothing(fd[1]);
    assert_returns(fputs(" and more", stream), 1);
    assert_ok(fflush(stream));
    expect_text(&peer, "23:14", "waits and more");
    send_text(&peer, "x");
    assert_int_equal(fgetc(stream), 'x');
    assert_ok(fclose(stream));
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

/* Keys that are refused leave the stream where it is, with what is in it. */
static void test_keys_that_fail(void **state)
{
    (void)state;
    int fd[2];
    char data[16] = "";
    unsigned char bad[40] = {9, 9, 9, 9};
    tcp_pair(fd);
    FILE *stream = fdopen(fd[0], "r+");
    assert_returns(fputs("waits", stream), 1);
    assert_ok(setsockopt(fd[0], SOL_TCP, TCP_ULP, "tls", sizeof "tls"));
    assert_int_equal(setsockopt(fd[0], SOL_TLS, TLS_TX, bad, sizeof bad), -1);
    assert_returns(fputs(", goes", stream), 1);
    assert_ok(fflush(stream));
    assert_returns(recv(fd[1], data, 11, MSG_WAITALL), 11);
    assert_string_equal(data, "waits, goes");
    assert_ok(fclose(stream));
    assert_ok(close(fd[1]));
}

/* What was read from the file and not yet from the stream comes first, characters pushed back included. */
static void test_unread_input(void **state)
{
    (void)state;
    int fd[2], ends[2];
    char text[16] = "";
    struct peer peer;
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], "one\ntwo\n", 8), 8);
    FILE *stream = fdopen(ends[0], "r");
    assert_int_equal(fgetc(stream), 'o');
    assert_int_equal(ungetc('O', stream), 'O');
    both_pair(fd, &peer);
    send_text(&peer, "three\n");
    assert_returns(dup2(fd[0], ends[0]), ends[0]);
    assert_int_equal(getc_unlocked(stream), 'O');
    assert_non_null(fgets(text, sizeof text, stream));
    assert_string_equal(text, "ne\n");
    assert_non_null(fgets(text, sizeof text, stream));
    assert_string_equal(text, "two\n");
    assert_non_null(fgets(text, sizeof text, stream));
    assert_string_equal(text, "three\n");
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(ends[1]));
}

static void test_unread_wide_input(void **state)
{
    (void)state;
    int fd[2], ends[2];
    wchar_t text[16] = L"";
    struct peer peer;
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], "\xc3\xa4""b\nc\xc3\xb6\n", 8), 8);
    FILE *stream = fdopen(ends[0], "r");
    assert_int_equal(fgetwc(stream), L'\u00e4');
    assert_int_equal(ungetwc(L'\u00df', stream), L'\u00df');
    both_pair(fd, &peer);
    send_text(&peer, "\xc3\xbc\n");
    assert_returns(dup2(fd[0], ends[0]), ends[0]);
    assert_int_equal(fwide(stream, 0), 1);
    assert_non_null(fgetws(text, 16, stream));
    assert_int_equal(wcscmp(text, L"\u00df""b\n"), 0);
    assert_non_null(fgetws(text, 16, stream));
    assert_int_equal(wcscmp(text, L"c\u00f6\n"), 0);
    assert_non_null(fgetws(text, 16, stream));
    assert_int_equal(wcscmp(text, L"\u00fc\n"), 0);
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(ends[1]));
}

static void test_waiting_wide_output(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fopen("/dev/null", "w");
    assert_true(fputws(L"\u00e4 waits", stream) >= 0);
    assert_returns(dup2(fd[0], fileno(stream)), fileno(stream));
    assert_true(fputws(L", \u00f6 too", stream) >= 0);
    expect_nothing(fd[1]);
    assert_ok(fflush(stream));
    expect_text(&peer, "23:16", "\xc3\xa4 waits, \xc3\xb6 too");
    assert_ok(fclose(stream));
    close_both(fd);
}

/* A full buffer, one that the program gave, and none: as they were. */
static void test_buffers_stay(void **state)
{
    (void)state;
    static char given[100000];
    for (int mode = 0; mode < 3; mode++) {
        int fd[2];
        struct peer peer;
        both_pair(fd, &peer);
        peer.in.pattern = false;
        FILE *stream = fopen("/dev/null", "w");
        assert_ok(setvbuf(stream, mode == 0 ? given : NULL, mode == 0 ? _IOFBF : mode == 1 ? _IOLBF : _IONBF,
                          mode == 0 ? sizeof given : 0));
        if (mode == 0)
            for (size_t i = 0; i < sizeof given; i++)
                assert_int_equal(putc_unlocked('a' + (int)(i % 26), stream), 'a' + (int)(i % 26));
        assert_returns(dup2(fd[0], fileno(stream)), fileno(stream));
        assert_ok(close(fd[0]));
        if (mode == 0) {
            size_t got = 0;
            expect_nothing(fd[1]);
            assert_ok(fclose(stream));
            while (receiver_next(&peer.in) > 0)
                for (size_t i = 0; i < peer.in.len; i++)
                    assert_int_equal(peer.in.data[i], 'a' + (int)(got++ % 26));
            assert_int_equal(got, sizeof given);
        } else {
            assert_true(fputs("line", stream) >= 0);
            if (mode == 1)
                expect_nothing(fd[1]);
            assert_int_equal(fputc('\n', stream), '\n');
            expect_records(&peer.in, mode == 1 ? "23:5" : "23:4 23:1");
            assert_ok(fclose(stream));
            expect_end(&peer.in);
        }
        assert_ok(close(fd[1]));
    }
}

/* The C library by itself writes to a descriptor that takes nothing, and no signal comes of it. */
static void test_what_the_library_does_not_see(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    ssize_t (*hidden)(FILE *, const void *, ssize_t) = dlsym(RTLD_DEFAULT, "_IO_file_write");
    char byte;
    both_pair(fd, &peer);
    FILE *stream = fopen("/dev/null", "w+");
    assert_returns(dup2(fd[0], fileno(stream)), fileno(stream));
    assert_non_null(hidden);
    count_signal(SIGPIPE, 0);
    errno = 0;
    assert_int_equal(hidden(stream, "plain", 5), 0);
    assert_int_equal(errno, ENOTCONN);
    assert_int_not_equal(stream->_fileno, fileno(stream));
    assert_fails(syscall(SYS_write, stream->_fileno, "plain", 5), ENOTCONN);
    assert_fails(syscall(SYS_read, stream->_fileno, &byte, 1), EINVAL);
    assert_returns(syscall(SYS_fcntl, stream->_fileno, F_GETFD), FD_CLOEXEC);
    assert_int_equal(signals_seen, 0);
    /* It is out of reach, too. */
    assert_fails(close(stream->_fileno), EBADF);
    expect_nothing(fd[1]);
    assert_ok(fclose(stream));
    close_both(fd);
    assert_true(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
}

/* A number that is a file's again has its streams again, macros and all. */
static void test_return(void **state)
{
    (void)state;
    char text[32] = "";
    FILE *stream = tmpfile();
    int number = fileno(stream), saved = dup(number);
    for (int i = 0; i < 3; i++) {
        int fd[2];
        struct peer peer;
        both_pair(fd, &peer);
        peer.in.pattern = false;
        assert_returns(fputs("file ", stream), 1);
        assert_ok(fflush(stream));
        assert_returns(dup2(fd[0], number), number);
        assert_returns(fputs("socket", stream), 1);
        assert_ok(fflush(stream));
        expect_text(&peer, "23:6", "socket");
        errno = 0;
        assert_returns(fseek(stream, 0, SEEK_SET), -1);
        assert_int_equal(errno, ESPIPE);
        assert_returns(dup2(saved, number), number);
        assert_int_equal(stream->_fileno, number);
        assert_int_equal(putc_unlocked('.', stream), '.');
        close_both(fd);
    }
    rewind(stream);
    assert_non_null(fgets(text, sizeof text, stream));
    assert_string_equal(text, "file .file .file .");
    assert_ok(fclose(stream));
    assert_ok(close(saved));
}

/* Wide text leaves in one piece, also by a twin that serves again. */
static void test_return_of_wide_output(void **state)
{
    (void)state;
    FILE *stream = tmpfile();
    int number = fileno(stream), saved = dup(number);
    for (int i = 0; i < 3; i++) {
        int fd[2];
        struct peer peer;
        both_pair(fd, &peer);
        peer.in.pattern = false;
        assert_true(fputws(L"file ", stream) >= 0);
        assert_ok(fflush(stream));
        assert_returns(dup2(fd[0], number), number);
        assert_true(fputws(L"socket", stream) >= 0);
        assert_ok(fflush(stream));
        expect_text(&peer, "23:6", "socket");
        assert_returns(dup2(saved, number), number);
        close_both(fd);
    }
    assert_ok(fclose(stream));
    assert_ok(close(saved));
}

/* As with plain files, what was not flushed goes where the number leads. */
static void test_return_with_output(void **state)
{
    (void)state;
    char text[32] = "";
    FILE *stream = tmpfile();
    int number = fileno(stream), saved = dup(number), fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    assert_returns(dup2(fd[0], number), number);
    assert_returns(fputs("late ", stream), 1);
    assert_returns(dup2(saved, number), number);
    assert_returns(fputs("but there", stream), 1);
    assert_ok(fflush(stream));
    assert_int_equal(stream->_fileno, number);
    rewind(stream);
    assert_non_null(fgets(text, sizeof text, stream));
    assert_string_equal(text, "late but there");
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(saved));
}

/* A closed number that another connection gets, by accept or dup. */
static void test_a_number_that_comes_again(void **state)
{
    (void)state;
    FILE *stream = fopen("/dev/null", "w");
    int number = fileno(stream), fd[2];
    struct peer peer;
    for (int by_dup = 0; by_dup < 2; by_dup++) {
        both_pair(fd, &peer);
        assert_ok(close(number));
        int again = by_dup ? dup(fd[0]) : fcntl(fd[0], F_DUPFD, number);
        assert_int_equal(again, number);
        peer.in.pattern = false;
        assert_returns(fputs("sealed", stream), 1);
        assert_ok(fflush(stream));
        expect_text(&peer, "23:6", "sealed");
        close_both(fd);
    }
    tcp_pair(fd);
    assert_ok(close(number));
    assert_returns(fcntl(fd[0], F_DUPFD, number), number);
    assert_ok(close(fd[0]));
    set_both_keys(number, fd[1], &peer);
    assert_returns(fputs("sealed", stream), 1);
    assert_ok(fclose(stream));
    expect_text(&peer, "23:6", "sealed");
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

static void *hold(void *argument)
{
    FILE *stream = argument;
    char byte;
    /* Sleeps in the stream. */
    (void)!fread(&byte, 1, 1, stream);
    return NULL;
}

/* Neither moved nor ignored: the caller is told. */
static void test_a_stream_in_use(void **state)
{
    (void)state;
    int fd[2], ends[2];
    struct peer peer;
    pthread_t thread;
    both_pair(fd, &peer);
    assert_ok(pipe(ends));
    FILE *stream = fdopen(ends[0], "r");
    flockfile(stream);
    assert_fails(dup2(fd[0], ends[0]), EBUSY);
    funlockfile(stream);
    assert_ok(pthread_create(&thread, NULL, hold, stream));
    while (ftrylockfile(stream) == 0) {
        funlockfile(stream);
        sched_yield();
    }
    assert_fails(dup2(fd[0], ends[0]), EBUSY);
    assert_returns(write(ends[1], "x", 1), 1);
    assert_ok(pthread_join(thread, NULL));
    assert_returns(dup2(fd[0], ends[0]), ends[0]);
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(ends[1]));
}

/* The lock is the same before and behind a change of the number. */
static void test_locks(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fopen("/dev/null", "w");
    int number = fileno(stream), saved = dup(number);
    assert_returns(dup2(fd[0], number), number);
    flockfile(stream);
    assert_int_equal(ftrylockfile(stream), 0);
    assert_returns(fputs_unlocked("locked", stream), 1);
    assert_ok(fflush_unlocked(stream));
    assert_returns(dup2(saved, number), number);
    funlockfile(stream);
    funlockfile(stream);
    expect_text(&peer, "23:6", "locked");
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(saved));
}

static void test_fclose_and_pclose(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *command = popen("exit 7", "w");
    int number = fileno(command);
    assert_returns(dup2(fd[0], number), number);
    assert_ok(close(fd[0]));
    assert_returns(fputs("bye", command), 1);
    int status = pclose(command);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_fails(fcntl(number, F_GETFD), EBADF);
    expect_text(&peer, "23:3", "bye");
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
    /* What cannot be sent is told, and the number is closed. */
    both_pair(fd, &peer);
    FILE *stream = fdopen(fd[0], "w");
    assert_ok(shutdown(fd[0], SHUT_WR));
    assert_true(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    assert_returns(fputs("late", stream), 1);
    assert_fails(fclose(stream), EPIPE);
    assert_fails(fcntl(fd[0], F_GETFD), EBADF);
    assert_ok(close(fd[1]));
    assert_true(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
}

static int write_in_child(void *argument)
{
    FILE *stream = argument;
    CHILD_CHECK(fputs("child ", stream) == 1);
    CHILD_CHECK(fflush(stream) == 0);
    /* This waits in the stream until exit. */
    CHILD_CHECK(fputs("at exit", stream) == 1);
    exit(0);
}

static void test_fork_and_exit(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fopen("/dev/null", "w");
    assert_returns(dup2(fd[0], fileno(stream)), fileno(stream));
    assert_ok(close(fd[0]));
    assert_returns(fputs("parent", stream), 1);
    assert_ok(fflush(stream));
    assert_exited(in_child(write_in_child, stream), 0);
    expect_text(&peer, "23:6", "parent");
    expect_text(&peer, "23:6", "child ");
    expect_text(&peer, "23:7", "at exit");
    assert_ok(fclose(stream));
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

static int move_in_child(void *argument)
{
    FILE *stream = argument;
    int fd[2], number = fileno(stream);
    struct peer peer;
    both_pair(fd, &peer);
    CHILD_CHECK(dup2(fd[0], number) == number);
    CHILD_CHECK(fileno(stream) == number);
    return 0;
}

/* A thread that sleeps in a stream is not there in a child. */
static void test_fork_beside_a_reader(void **state)
{
    (void)state;
    int fd[2], ends[2];
    struct peer peer;
    pthread_t thread;
    both_pair(fd, &peer);
    assert_ok(pipe(ends));
    FILE *stream = fdopen(ends[0], "r");
    /* It goes on with its twin on the pipe, as something is left in that. */
    assert_returns(dup2(fd[0], ends[0]), ends[0]);
    send_text(&peer, "xy");
    assert_int_equal(fgetc(stream), 'x');
    int again[2];
    assert_ok(pipe(again));
    assert_returns(dup2(again[0], ends[0]), ends[0]);
    assert_int_equal(fgetc(stream), 'y');
    assert_ok(pthread_create(&thread, NULL, hold, stream));
    while (ftrylockfile(stream) == 0) {
        funlockfile(stream);
        sched_yield();
    }
    /* For it to be in the read itself; the test holds if it is not. */
    usleep(20000);
    assert_fails(dup2(fd[0], ends[0]), EBUSY);
    /* Not by in_child: it flushes all streams first, and waits for the thread. */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(move_in_child(stream));
    }
    assert_exited(wait_child(child), 0);
    assert_returns(write(again[1], "z", 1), 1);
    assert_ok(pthread_join(thread, NULL));
    assert_ok(fclose(stream));
    close_both(fd);
    assert_ok(close(again[0]));
    assert_ok(close(again[1]));
    assert_ok(close(ends[1]));
}

static void test_flush_of_all(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    peer.in.pattern = false;
    FILE *stream = fopen("/dev/null", "w");
    assert_returns(dup2(fd[0], fileno(stream)), fileno(stream));
    assert_returns(fputs("all", stream), 1);
    assert_ok(fflush(NULL));
    expect_text(&peer, "23:3", "all");
    assert_returns(fputs("dropped", stream), 1);
    __fpurge(stream);
    assert_int_equal(__fpending(stream), 0);
    assert_true(__fwritable(stream));
    assert_false(__freadable(stream));
    assert_ok(fclose(stream));
    expect_nothing(fd[1]);
    close_both(fd);
}

/* Threads write to a stream whose number is changed over and over. What the peers get is records, whatever the
 * calls return: one that had passed the look may fail. */
static _Atomic bool is_over;

static void *write_on(void *argument)
{
    FILE *stream = argument;
    while (!is_over) {
        fputs("a line of text\n", stream);
        putc_unlocked('\n', stream);
        fprintf(stream, "%d\n", 7);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    enum { ROUNDS = 100, THREADS = 3 };
    pthread_t threads[THREADS];
    FILE *stream = fopen("/dev/null", "w");
    int number = fileno(stream), saved = dup(number);
    size_t records = 0;
    assert_true(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    is_over = false;
    for (int i = 0; i < THREADS; i++)
        assert_ok(pthread_create(&threads[i], NULL, write_on, stream));
    for (int round = 0; round < ROUNDS; round++) {
        int fd[2], result, more;
        struct peer peer;
        both_pair(fd, &peer);
        peer.in.pattern = false;
        while ((result = dup2(fd[0], number)) < 0 && errno == EBUSY)
            ;
        assert_int_equal(result, number);
        for (int i = 0; i < 5; i++) {
            more = receiver_next(&peer.in);
            if (more < 0)
                fail_msg("round %d: %s", round, peer.in.fault);
            records++;
        }
        assert_ok(close(fd[0]));
        assert_returns(dup2(saved, number), number);
        while ((more = receiver_next(&peer.in)) > 0)
            records++;
        if (more < 0)
            fail_msg("round %d: %s", round, peer.in.fault);
        assert_ok(close(fd[1]));
    }
    is_over = true;
    for (int i = 0; i < THREADS; i++)
        assert_ok(pthread_join(threads[i], NULL));
    assert_true(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    assert_true(records >= ROUNDS * 5);
    assert_ok(fclose(stream));
    assert_ok(close(saved));
}

/* The C library writes there by instruction: assert, malloc, the stack protector, backtrace_symbols_fd. */
static void test_standard_error_is_refused(void **state)
{
    (void)state;
    int fd[2], saved = fcntl(2, F_DUPFD_CLOEXEC, 10);
    struct peer peer;
    struct keys keys = tls12_keys();
    both_pair(fd, &peer);
    assert_fails(dup2(fd[0], 2), EOPNOTSUPP);
    assert_fails(dup3(fd[0], 2, 0), EOPNOTSUPP);
    assert_ok(close(2));
    int result = fcntl(fd[0], F_DUPFD, 2), error = errno;
    assert_returns(dup2(saved, 2), 2);
    assert_int_equal(result, -1);
    assert_int_equal(error, EOPNOTSUPP);
    close_both(fd);
    tcp_pair(fd);
    assert_returns(dup2(fd[0], 2), 2);
    result = setsockopt(2, SOL_TCP, TCP_ULP, "tls", sizeof "tls");
    int keys_result = setsockopt(2, SOL_TLS, TLS_TX, keys.info, (socklen_t)keys.len);
    error = errno;
    assert_returns(dup2(saved, 2), 2);
    assert_int_equal(keys_result, -1);
    assert_int_equal(error, ENOPROTOOPT);
    close_both(fd);
    assert_ok(close(saved));
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
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_two_streams),
        cmocka_unit_test(test_errors_are_told),
        cmocka_unit_test(test_freopen),
        cmocka_unit_test(test_freopen_without_a_path),
        cmocka_unit_test(test_a_stream_before_the_keys),
        cmocka_unit_test(test_keys_that_fail),
        cmocka_unit_test(test_unread_input),
        cmocka_unit_test(test_unread_wide_input),
        cmocka_unit_test(test_waiting_wide_output),
        cmocka_unit_test(test_buffers_stay),
        cmocka_unit_test(test_what_the_library_does_not_see),
        cmocka_unit_test(test_return),
        cmocka_unit_test(test_return_of_wide_output),
        cmocka_unit_test(test_return_with_output),
        cmocka_unit_test(test_a_number_that_comes_again),
        cmocka_unit_test(test_a_stream_in_use),
        cmocka_unit_test(test_locks),
        cmocka_unit_test(test_fclose_and_pclose),
        cmocka_unit_test(test_fork_and_exit),
        cmocka_unit_test(test_fork_beside_a_reader),
        cmocka_unit_test(test_flush_of_all),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_standard_error_is_refused),
        cmocka_unit_test(test_streams_elsewhere),
    };
    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    return RUN_PRELOADED("test_stdio", tests);
}
