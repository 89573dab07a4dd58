/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The other names of the calls: fortified ones, those with `__` or 64 in them, and those of the C
 * library's asynchronous I/O. Each would be a way around the keys.
 */
#include "preload.h"

#include <aio.h>
#include <sys/select.h>
#include <sys/uio.h>

ssize_t __write(int fd, const void *data, size_t len);
ssize_t __read(int fd, void *data, size_t len);
ssize_t __send(int fd, const void *data, size_t len, int flags);
int __close(int fd);
int __dup2(int old, int new_fd);
int __fcntl(int fd, int command, ...);
int __connect(int fd, const struct sockaddr *address, socklen_t len);
int __poll(struct pollfd *fds, nfds_t n, int timeout);
int __select(int n, fd_set *in, fd_set *out, fd_set *other, struct timeval *timeout);
ssize_t __read_chk(int fd, void *data, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *data, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *data, size_t len, size_t room, int flags, struct sockaddr *from,
                       socklen_t *from_len);
int __dprintf_chk(int fd, int flag, const char *format, ...);
int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments);
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t room);

static int by_vdprintf_chk(int fd, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = __vdprintf_chk(fd, 1, format, arguments);
    va_end(arguments);
    return n;
}

static void test_output(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    struct iovec iov = {(void *)(uintptr_t)pattern(8, 4), 4};
    both_pair(fd, &peer);
    assert_returns(__write(fd[0], pattern(0, 4), 4), 4);
    assert_returns(__send(fd[0], pattern(4, 4), 4, 0), 4);
    assert_returns(pwritev64v2(fd[0], &iov, 1, -1, 0), 4);
    expect_records(&peer.in, "23:4 23:4 23:4");
    peer.in.pattern = false;
    assert_returns(__dprintf_chk(fd[0], 1, "%d", 12345), 5);
    assert_returns(by_vdprintf_chk(fd[0], "%s", "text"), 4);
    expect_records(&peer.in, "23:5 23:4");
    close_tls(fd);
}

static void test_input(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    char data[8];
    struct iovec iov = {data, 4};
    both_pair(fd, &peer);
    send_sealed(&peer.out, "23:40");
    for (int i = 0; i < 5; i++) {
        ssize_t n = i == 0   ? __read(fd[0], data, 4)
                    : i == 1 ? __read_chk(fd[0], data, 4, sizeof data)
                    : i == 2 ? __recv_chk(fd[0], data, 4, sizeof data, 0)
                    : i == 3 ? __recvfrom_chk(fd[0], data, 4, sizeof data, 0, NULL, NULL)
                             : preadv64v2(fd[0], &iov, 1, -1, 0);
        assert_int_equal(n, 4);
        assert_memory_equal(data, pattern((uint64_t)i * 4, 4), 4);
    }
    close_tls(fd);
}

static void test_readiness(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    unsigned char record[100];
    struct timespec now = {0, 0};
    struct timeval soon = {0, 0};
    fd_set in;
    both_pair(fd, &peer);
    size_t len = seal(&peer.out, record, DATA, "12345", 5);
    send_wire(&peer.out, record, len - 1);
    struct pollfd p = {.fd = fd[0], .events = POLLIN};
    for (int complete = 0; complete < 2; complete++) {
        assert_returns(__poll(&p, 1, 0), complete);
        assert_returns(__poll_chk(&p, 1, 0, sizeof p), complete);
        assert_returns(__ppoll_chk(&p, 1, &now, NULL, sizeof p), complete);
        FD_ZERO(&in);
        FD_SET(fd[0], &in);
        assert_returns(__select(fd[0] + 1, &in, NULL, NULL, &soon), complete);
        if (!complete)
            send_wire(&peer.out, record + len - 1, 1);
    }
    close_tls(fd);
}

static void test_descriptors(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    both_pair(fd, &peer);
    assert_fails(__connect(fd[0], &none, sizeof none), EOPNOTSUPP);
    int high = __fcntl(fd[0], F_DUPFD_CLOEXEC, 100);
    assert_true(high >= 100);
    assert_returns(__dup2(fd[0], high + 1), high + 1);
    assert_returns(write(high, pattern(0, 4), 4), 4);
    assert_returns(write(high + 1, pattern(4, 4), 4), 4);
    assert_returns(send(fd[0], pattern(8, 4), 4, MSG_MORE), 4);
    assert_ok(__close(high));
    assert_ok(__close(high + 1));
    assert_ok(__close(fd[0]));
    expect_records(&peer.in, "23:4 23:4 23:4");
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

/* A fortified call with too small a buffer is the C library's to end. */
static int overflow(void *argument)
{
    char data[4];
    assert_ok(close(2));
    volatile size_t len = 5;
    return (int)__read_chk(*(int *)argument, data, len, sizeof data);
}

static void test_overflow_is_fatal(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    both_pair(fd, &peer);
    int status = in_child(overflow, &fd[0]);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    close_tls(fd);
}

/* The C library's threads write by a hidden name. The kernel would seal; here it is refused, before a
 * byte has gone out or in. */
static void test_asynchronous_io_is_refused(void **state)
{
    (void)state;
    int fd[2];
    struct peer peer;
    char data[8];
    both_pair(fd, &peer);
    send_sealed(&peer.out, "23:6");
    struct aiocb out = {.aio_fildes = fd[0], .aio_buf = "secret", .aio_nbytes = 6, .aio_lio_opcode = LIO_WRITE};
    struct aiocb in = {.aio_fildes = fd[0], .aio_buf = data, .aio_nbytes = 6, .aio_lio_opcode = LIO_READ};
    struct aiocb64 out64 = {.aio_fildes = fd[0], .aio_buf = "secret", .aio_nbytes = 6, .aio_lio_opcode = LIO_WRITE};
    struct aiocb64 in64 = {.aio_fildes = fd[0], .aio_buf = data, .aio_nbytes = 6, .aio_lio_opcode = LIO_READ};
    assert_fails(aio_write(&out), EOPNOTSUPP);
    assert_fails(aio_write64(&out64), EOPNOTSUPP);
    assert_fails(aio_read(&in), EOPNOTSUPP);
    assert_fails(aio_read64(&in64), EOPNOTSUPP);
    struct aiocb *list[] = {NULL, &in, &out};
    struct aiocb64 *list64[] = {NULL, &in64, &out64};
    assert_fails(lio_listio(LIO_WAIT, list, 3, NULL), EOPNOTSUPP);
    assert_fails(lio_listio64(LIO_WAIT, list64, 3, NULL), EOPNOTSUPP);
    expect_nothing(fd[1]);
    assert_returns(read(fd[0], data, 8), 6);
    close_tls(fd);
}

static void test_asynchronous_io_elsewhere(void **state)
{
    (void)state;
    int ends[2];
    char data[8];
    assert_ok(pipe(ends));
    struct aiocb out = {.aio_fildes = ends[1], .aio_buf = "plain", .aio_nbytes = 5, .aio_lio_opcode = LIO_WRITE};
    const struct aiocb *waits[] = {&out};
    assert_ok(aio_write(&out));
    assert_ok(aio_suspend(waits, 1, NULL));
    assert_returns(aio_return(&out), 5);
    assert_returns(read(ends[0], data, 8), 5);
    struct aiocb *list[] = {&out};
    assert_ok(lio_listio(LIO_WAIT, list, 1, NULL));
    assert_returns(aio_return(&out), 5);
    assert_returns(read(ends[0], data, 8), 5);
    assert_ok(close(ends[0]));
    assert_ok(close(ends[1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),      cmocka_unit_test(test_input),
        cmocka_unit_test(test_readiness),   cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_overflow_is_fatal), cmocka_unit_test(test_asynchronous_io_is_refused),
        cmocka_unit_test(test_asynchronous_io_elsewhere),
    };
    return RUN_PRELOADED("test_twins", tests);
}
