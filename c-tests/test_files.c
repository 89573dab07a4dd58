/* SPDX-License-Identifier: MIT OR Apache-2.0
 * tls_sendfile and tls_splice: files and pipes become records. */
#include "harness.h"

/* A file of `len` bytes of the pattern, gone with its descriptor. */
static int pattern_file(size_t len)
{
    char name[] = "/tmp/uktls-test-XXXXXX";
    int file = mkstemp(name);
    assert_true(file >= 0);
    assert_ok(unlink(name));
    assert_returns(write(file, pattern(0, len), len), len);
    assert_returns(lseek(file, 0, SEEK_SET), 0);
    return file;
}

/* TX-41, all suites: full records and a shorter last one, the file's position or *offset moves. */
static void test_tx41_sendfile(void **state)
{
    (void)state;
    int file = pattern_file(200000);
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct receiver r;
        struct keys keys = make_keys(&suites[i], 5, 0);
        tls_pair(fd, &keys, &r);
        assert_returns(lseek(file, 0, SEEK_SET), 0);
        assert_returns(tls_sendfile(fd[0], file, NULL, 100000), 100000);
        expect_records(&r, "23:16384 23:16384 23:16384 23:16384 23:16384 23:16384 23:1696");
        assert_returns(lseek(file, 0, SEEK_CUR), 100000);
        off_t offset = 100000;
        assert_returns(tls_sendfile(fd[0], file, &offset, 1000), 1000);
        assert_int_equal(offset, 101000);
        assert_returns(lseek(file, 0, SEEK_CUR), 100000);
        expect_records(&r, "23:1000");
        close_both(fd);
    }
    close(file);
}

/* TX-41 to TX-43, AS-17: the end of the file seals; at the end nothing happens; the open record is joined. */
static void test_tx42_end_of_file(void **state)
{
    (void)state;
    int fd[2], file = pattern_file(20010);
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    off_t offset = 3;
    send_all(fd[0], 0, 3, MSG_MORE);
    assert_returns(tls_sendfile(fd[0], file, &offset, 10), 10);
    expect_records(&r, "23:13");
    assert_returns(tls_sendfile(fd[0], file, &offset, 1 << 20), 20010 - 13);
    expect_records(&r, "23:16384 23:3613");
    send_all(fd[0], 20010, 4, MSG_MORE);
    assert_returns(tls_sendfile(fd[0], file, &offset, 100), 0);
    assert_int_equal(offset, 20010);
    expect_pending(fd[0], 4);
    expect_nothing(fd[1]);
    assert_ok(uktls_flush(fd[0], DEADLINE_MS));
    expect_records(&r, "23:4");
    assert_returns(tls_sendfile(fd[0], file, &offset, 0), 0);
    int directory = open("/tmp", O_RDONLY | O_DIRECTORY), sink = open("/dev/null", O_WRONLY);
    assert_fails(tls_sendfile(fd[0], directory, NULL, 1), EINVAL);
    assert_fails(tls_sendfile(fd[0], fd[1], NULL, 1), EINVAL);
    assert_fails(tls_sendfile(fd[0], sink, NULL, 1), EBADF);
    close(directory);
    close(sink);
    close(file);
    close_both(fd);
}

/* TX-44: without room a part is accepted, then EAGAIN; *offset says where to go on. */
static void test_tx44_nonblocking(void **state)
{
    (void)state;
    enum { TOTAL = 6 << 20 };
    int fd[2], file = pattern_file(TOTAL);
    struct receiver r;
    struct drain d;
    struct keys keys = tls12_keys();
    small_tls_pair(fd, &keys, &r);
    set_nonblocking(fd[0], true);
    off_t offset = 0;
    ssize_t n, refused = 0;
    drain_start(&d, fd[1], &keys);
    while (offset < TOTAL) {
        off_t before = offset;
        n = tls_sendfile(fd[0], file, &offset, (size_t)(TOTAL - offset));
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            assert_int_equal(offset, before);
            wait_for(fd[0], POLLOUT);
            refused++;
        } else {
            assert_int_equal(offset, before + n);
        }
    }
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, TOTAL);
    assert_true(refused > 0);
    close(fd[1]);
    close(file);
}

/* TX-45, TX-46: a pipe's bytes are sealed with the call, or stay open with SPLICE_F_MORE. */
static void test_tx45_splice(void **state)
{
    (void)state;
    int fd[2], pipes[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    assert_ok(pipe(pipes));
    assert_fails(tls_splice(pipes[0], NULL, fd[0], NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
    off_t offset = 0;
    assert_fails(tls_splice(pipes[0], NULL, fd[0], &offset, 100, 0), EINVAL);
    assert_fails(tls_splice(pipes[0], &offset, fd[0], NULL, 100, 0), ESPIPE);
    assert_fails(tls_splice(pipes[0], &offset, fd[0], &offset, 100, 0), ESPIPE);
    assert_returns(write(pipes[1], pattern(0, 6), 6), 6);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 100, 0), 6);
    expect_records(&r, "23:6");
    assert_returns(write(pipes[1], pattern(6, 8), 8), 8);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 100, SPLICE_F_MORE), 8);
    expect_nothing(fd[1]);
    expect_pending(fd[0], 8);
    assert_returns(write(pipes[1], pattern(14, 40000), 40000), 40000);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 40000, SPLICE_F_MORE), 40000);
    expect_records(&r, "23:16384 23:16384");
    close(pipes[1]);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 100, 0), 0);
    expect_pending(fd[0], 40008 - 32768);
    expect_nothing(fd[1]);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 0, 0), 0);
    assert_ok(uktls_flush(fd[0], DEADLINE_MS));
    expect_records(&r, "23:7240");
    close(pipes[0]);
    close_both(fd);
}

static void *write_late(void *argument)
{
    struct timespec pause = {.tv_nsec = 50000000};
    nanosleep(&pause, NULL);
    ssize_t n = write(*(int *)argument, "\0\1\2", 3);
    return (void *)n;
}

/* TX-47: an empty pipe is waited for, unless SPLICE_F_NONBLOCK says not to. */
static void test_tx47_splice_waits(void **state)
{
    (void)state;
    int fd[2], pipes[2];
    pthread_t writer;
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    assert_ok(pipe(pipes));
    assert_int_equal(pthread_create(&writer, NULL, write_late, &pipes[1]), 0);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 100, 0), 3);
    assert_int_equal(pthread_join(writer, NULL), 0);
    expect_records(&r, "23:3");
    close(pipes[0]);
    close(pipes[1]);
    close_both(fd);
}

static void *read_to_the_end(void *argument)
{
    struct drain *d = argument;
    struct timespec pause = {.tv_nsec = 200000000};
    nanosleep(&pause, NULL);
    while (receiver_next(&d->receiver) > 0) {
    }
    return NULL;
}

/* TX-47: SPLICE_F_NONBLOCK is the pipe's; whether room is waited for is the socket's O_NONBLOCK. */
static void test_tx47_which_side_waits(void **state)
{
    (void)state;
    int fd[2], pipes[2];
    struct receiver unused;
    struct drain d;
    struct keys keys = tls12_keys();
    small_tls_pair(fd, &keys, &unused);
    assert_ok(pipe(pipes));
    receiver_init(&d.receiver, fd[1], &keys);
    uint64_t sent = fill_socket(fd[0], 0, 16384);
    assert_returns(write(pipes[1], pattern(sent, 1000), 1000), 1000);
    set_nonblocking(fd[0], true);
    assert_fails(tls_splice(pipes[0], NULL, fd[0], NULL, 1000, 0), EAGAIN);
    set_nonblocking(fd[0], false);
    assert_int_equal(pthread_create(&d.thread, NULL, read_to_the_end, &d), 0);
    assert_returns(tls_splice(pipes[0], NULL, fd[0], NULL, 1000, SPLICE_F_NONBLOCK), 1000);
    assert_ok(uktls_close(fd[0]));
    drain_finish(&d, sent + 1000);
    close(pipes[0]);
    close(pipes[1]);
    close(fd[1]);
}

/* Zero-copy pages of odd sizes, mixed with copied bytes, in every suite. */
static void test_sendpage_mixed(void **state)
{
    (void)state;
    for (size_t i = 0; i < suite_count; i++) {
        int fd[2];
        struct receiver r;
        struct drain d;
        struct keys keys = make_keys(&suites[i], 5, 0);
        uint64_t sent = 0;
        tls_pair(fd, &keys, &r);
        drain_start(&d, fd[1], &keys);
        for (int call = 0; call < 60; call++) {
            size_t len = (size_t)(call * 5003) % 40000 + 1;
            int flags = call % 4 == 3 ? 0 : 0x20000; /* MSG_SENDPAGE_NOTLAST */
            if (call % 5 == 4)
                send_all(fd[0], sent, len, flags ? MSG_MORE : 0);
            else
                assert_returns(tls_sendpage(fd[0], pattern(sent, len), 0, len, flags), len);
            sent += len;
        }
        assert_ok(uktls_flush(fd[0], DEADLINE_MS));
        expect_pending(fd[0], 0);
        assert_ok(uktls_close(fd[0]));
        drain_finish(&d, sent);
        close(fd[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx41_sendfile),    cmocka_unit_test(test_tx42_end_of_file),
        cmocka_unit_test(test_tx44_nonblocking), cmocka_unit_test(test_tx45_splice),
        cmocka_unit_test(test_tx47_splice_waits), cmocka_unit_test(test_tx47_which_side_waits),
        cmocka_unit_test(test_sendpage_mixed),
    };
    return RUN_ENGINES("files", tests);
}
