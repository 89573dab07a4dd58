/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The function syscall(2): of TLS sockets it is served, all else is the kernel's.
 */
#include "preload.h"

#include <linux/aio_abi.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

static int written_file(const void *data, size_t len)
{
    int file = memfd_create("file", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_returns(pwrite(file, data, len, 0), len);
    return file;
}

static void test_what_writes(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], ends[2];
    tls_pair(fd, &keys, &receiver);
    assert_returns(syscall(SYS_write, fd[0], pattern(0, 10), 10L), 10);
    expect_records(&receiver, "23:10");
    struct iovec iov[2] = {{(void *)(uintptr_t)pattern(10, 4), 4}, {(void *)(uintptr_t)pattern(14, 6), 6}};
    assert_returns(syscall(SYS_writev, fd[0], iov, 2L), 10);
    expect_records(&receiver, "23:10");
    assert_fails(syscall(SYS_writev, fd[0], iov, 1025L), EINVAL);
    iov[0].iov_base = (void *)(uintptr_t)pattern(20, 4);
    assert_returns(syscall(SYS_pwritev2, fd[0], iov, 1L, -1L, 0L, 0L), 4);
    expect_records(&receiver, "23:4");
    assert_fails(syscall(SYS_pwritev2, fd[0], iov, 1L, 0L, 0L, 0L), ESPIPE);
    assert_returns(syscall(SYS_sendto, fd[0], pattern(24, 6), 6L, MSG_MORE, NULL, 0L), 6);
    expect_nothing(fd[1]);
    assert_returns(syscall(SYS_sendto, fd[0], pattern(30, 6), 6L, 0L, NULL, 0L), 6);
    expect_records(&receiver, "23:12");
    iov[0].iov_base = (void *)(uintptr_t)pattern(36, 4);
    struct mmsghdr message = {.msg_hdr = {.msg_iov = iov, .msg_iovlen = 1}};
    assert_returns(syscall(SYS_sendmsg, fd[0], &message.msg_hdr, 0L), 4);
    iov[0].iov_base = (void *)(uintptr_t)pattern(40, 4);
    assert_returns(syscall(SYS_sendmmsg, fd[0], &message, 1L, 0L), 1);
    assert_int_equal(message.msg_len, 4);
    expect_records(&receiver, "23:4 23:4");
    int file = written_file(pattern(44, 6), 6);
    off_t at = 0;
    assert_returns(syscall(SYS_sendfile, fd[0], file, &at, 6L), 6);
    expect_records(&receiver, "23:6");
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], pattern(50, 5), 5), 5);
    assert_returns(syscall(SYS_splice, ends[0], NULL, fd[0], NULL, 5L, 0L), 5);
    expect_records(&receiver, "23:5");
    assert_ok(close(file));
    close_tls(ends);
    close_tls(fd);
}

static void test_what_reads(void **state)
{
    (void)state;
    struct peer peer;
    char data[20];
    int fd[2], ends[2];
    both_pair(fd, &peer);
    struct iovec iov[2] = {{data, 2}, {data + 2, 18}};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = iov, .msg_iovlen = 2}};
    send_sealed(&peer.out, "23:10 23:10 23:4 23:10 23:6 23:6 23:5");
    assert_returns(syscall(SYS_read, fd[0], data, 10L), 10);
    assert_memory_equal(data, pattern(0, 10), 10);
    iov[1].iov_len = 8;
    assert_returns(syscall(SYS_readv, fd[0], iov, 2L), 10);
    assert_memory_equal(data, pattern(10, 10), 10);
    assert_returns(syscall(SYS_preadv2, fd[0], iov, 2L, -1L, 0L, RWF_NOWAIT), 10);
    assert_memory_equal(data, pattern(20, 10), 10);
    assert_returns(syscall(SYS_recvfrom, fd[0], data, 4L, 0L, NULL, NULL), 4);
    assert_memory_equal(data, pattern(30, 4), 4);
    assert_returns(syscall(SYS_recvmsg, fd[0], &message.msg_hdr, 0L), 10);
    assert_memory_equal(data, pattern(34, 10), 10);
    iov[1].iov_len = 0;
    assert_returns(syscall(SYS_recvmmsg, fd[0], &message, 1L, 0L, NULL), 1);
    assert_int_equal(message.msg_len, 2);
    assert_memory_equal(data, pattern(44, 2), 2);
    assert_ok(pipe(ends));
    assert_returns(syscall(SYS_splice, fd[0], NULL, ends[1], NULL, 5L, 0L), 5);
    assert_returns(read(ends[0], data, 5), 5);
    assert_memory_equal(data, pattern(46, 5), 5);
    close_tls(ends);
    close_tls(fd);
}

static void test_numbers_that_it_makes(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], made[6], n = 0;
    tls_pair(fd, &keys, &receiver);
    made[n++] = (int)syscall(SYS_dup, fd[0]);
    made[n++] = (int)syscall(SYS_fcntl, fd[0], F_DUPFD, 100L);
    made[n++] = (int)syscall(SYS_fcntl, fd[0], F_DUPFD_CLOEXEC, 100L);
    made[n++] = (int)syscall(SYS_dup3, fd[0], 200L, O_CLOEXEC);
#ifdef SYS_dup2
    made[n++] = (int)syscall(SYS_dup2, fd[0], 201L);
    /* Over a number of the socket. */
    made[n++] = (int)syscall(SYS_dup2, fd[0], made[0]);
#endif
    for (int i = 0; i < n; i++) {
        assert_true(made[i] >= 0);
        assert_returns(write(made[i], pattern((uint64_t)i, 1), 1), 1);
        expect_records(&receiver, "23:1");
        assert_returns(fcntl(made[i], F_GETFD), FD_CLOEXEC);
    }
    /* Another program would send in the clear. */
    assert_ok(syscall(SYS_fcntl, fd[0], F_SETFD, 0L));
    assert_returns(fcntl(fd[0], F_GETFD), FD_CLOEXEC);
    assert_ok(syscall(SYS_ioctl, fd[0], FIONCLEX, 0L));
    assert_returns(fcntl(fd[0], F_GETFD), FD_CLOEXEC);
    assert_fails(syscall(SYS_dup3, fd[0], fd[0], 0L), EINVAL);
    assert_fails(syscall(SYS_dup, -1L), EBADF);
    for (int i = 0; i < 3; i++)
        assert_ok(syscall(SYS_close, made[i]));
    assert_ok(syscall(SYS_close_range, 200L, 201L, 0L));
    assert_fails(fcntl(200, F_GETFD), EBADF);
    assert_returns(syscall(SYS_sendto, fd[0], pattern((uint64_t)n, 5), 5L, MSG_MORE, NULL, 0L), 5);
    assert_ok(syscall(SYS_close, fd[0]));
    expect_records(&receiver, "23:5");
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

static void plain_under(int number, int other)
{
    char data[3];
    assert_returns(write(number, "abc", 3), 3);
    assert_returns(read(other, data, 3), 3);
    assert_memory_equal(data, "abc", 3);
}

/* A number that was a TLS socket and closed behind our back is plain again, whoever gives it out. */
static void test_new_sockets(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd[2], ends[2], listener = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM, 0L);
    assert_ok(bind(listener, (struct sockaddr *)&address, len));
    assert_ok(listen(listener, 1));
    assert_ok(getsockname(listener, (struct sockaddr *)&address, &len));
    for (int how = 0; how < 3; how++) {
        tls_pair(fd, &keys, &receiver);
        int want = fd[0];
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (how > 0)
            assert_ok(connect(client, (struct sockaddr *)&address, len));
        raw_close(want);
        if (how == 0) {
            assert_ok(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0L, ends));
            assert_int_equal(ends[0], want);
            plain_under(ends[0], ends[1]);
            close_tls(ends);
        } else {
            int server = (int)(how == 1 ? syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC)
                                        : syscall(SYS_accept, listener, NULL, NULL));
            assert_int_equal(server, want);
            plain_under(server, client);
            assert_ok(close(server));
        }
        assert_ok(close(client));
        assert_ok(close(fd[1]));
    }
    assert_ok(close(listener));
}

static void test_options(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct peer peer;
    char name[16] = "", data[5];
    socklen_t len = sizeof name;
    int fd[2], waiting = 0;
    tcp_pair(fd);
    assert_ok(syscall(SYS_setsockopt, fd[0], SOL_TCP, TCP_ULP, "tls", 4L));
    assert_ok(syscall(SYS_setsockopt, fd[0], SOL_TLS, 1L, keys.info, keys.len));
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(syscall(SYS_getsockopt, fd[0], SOL_TCP, TCP_ULP, name, &len));
    assert_string_equal(name, "tls");
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    assert_fails(syscall(SYS_connect, fd[0], &none, sizeof none), EOPNOTSUPP);
    assert_returns(send(fd[0], pattern(10, 5), 5, MSG_MORE), 5);
    assert_ok(syscall(SYS_shutdown, fd[0], SHUT_WR));
    expect_records(&receiver, "23:5");
    expect_end(&receiver);
    close_tls(fd);
    both_pair(fd, &peer);
    send_sealed(&peer.out, "23:5");
    assert_ok(syscall(SYS_ioctl, fd[0], FIONREAD, &waiting));
    assert_true(waiting > 0);
    assert_returns(read(fd[0], data, 5), 5);
    close_tls(fd);
}

static void test_passing_a_socket(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], ends[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                                          .msg_controllen = sizeof control.bytes}};
    tls_pair(fd, &keys, &receiver);
    unix_pair(ends);
    memcpy(CMSG_DATA(&control.header), &fd[0], sizeof(int));
    assert_fails(syscall(SYS_sendmsg, ends[0], &message.msg_hdr, 0L), EOPNOTSUPP);
    assert_fails(syscall(SYS_sendmmsg, ends[0], &message, 1L, 0L), EOPNOTSUPP);
    memcpy(CMSG_DATA(&control.header), &fd[1], sizeof(int));
    assert_returns(syscall(SYS_sendmsg, ends[0], &message.msg_hdr, 0L), 1);
    assert_returns(syscall(SYS_recvmsg, ends[1], &message.msg_hdr, 0L), 1);
    int came;
    memcpy(&came, CMSG_DATA(&control.header), sizeof(int));
    assert_true(came != fd[1] && fcntl(came, F_GETFD) >= 0);
    assert_ok(close(came));
    close_tls(ends);
    close_tls(fd);
}

/* A record that is not complete cannot be read. */
static void test_readiness(void **state)
{
    (void)state;
    struct peer peer;
    unsigned char wire[200];
    int fd[2];
    both_pair(fd, &peer);
    size_t len = seal(&peer.out, wire, DATA, pattern(0, 10), 10);
    send_wire(&peer.out, wire, len - 1);
    struct pollfd p = {.fd = fd[0], .events = POLLIN};
    struct timespec time = {0, 1000000};
    sigset_t mask;
    struct {
        const sigset_t *mask;
        size_t len;
    } with = {&mask, 8};
    fd_set in;
    sigemptyset(&mask);
    assert_ok(syscall(SYS_ppoll, &p, 1L, &time, &mask, 8L));
    /* What is left of the time is told, and it is nothing. */
    assert_true(time.tv_sec == 0 && time.tv_nsec == 0);
    time = (struct timespec){100, 999999999};
    assert_fails(syscall(SYS_ppoll, &p, 1L, &time, &mask, 16L), EINVAL);
#ifdef SYS_poll
    assert_ok(syscall(SYS_poll, &p, 1L, 1L));
#endif
#ifdef SYS_select
    struct timeval wait = {0, 1000};
    FD_ZERO(&in);
    FD_SET(fd[0], &in);
    assert_ok(syscall(SYS_select, fd[0] + 1L, &in, NULL, NULL, &wait));
    assert_false(FD_ISSET(fd[0], &in));
    assert_true(wait.tv_sec == 0 && wait.tv_usec == 0);
#endif
    FD_ZERO(&in);
    FD_SET(fd[0], &in);
    time = (struct timespec){0, 1000000};
    assert_ok(syscall(SYS_pselect6, fd[0] + 1L, &in, NULL, NULL, &time, &with));
    assert_false(FD_ISSET(fd[0], &in));
    send_wire(&peer.out, wire + len - 1, 1);
    time = (struct timespec){100, 999999999};
    assert_returns(syscall(SYS_ppoll, &p, 1L, &time, NULL, 0L), 1);
    assert_true(time.tv_sec >= 0 && time.tv_sec <= 100 && time.tv_nsec >= 0 && time.tv_nsec < 1000000000);
    FD_SET(fd[0], &in);
    assert_returns(syscall(SYS_pselect6, fd[0] + 1L, &in, NULL, NULL, &time, NULL), 1);
    assert_true(FD_ISSET(fd[0], &in));
    close_tls(fd);
}

/* The kernel's asynchronous I/O would write in the clear. */
static void test_io_submit(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    aio_context_t context = 0;
    tls_pair(fd, &keys, &receiver);
    if (syscall(SYS_io_setup, 1L, &context) != 0) {
        print_message("no AIO in this kernel: %s\n", strerror(errno));
        close_tls(fd);
        skip();
    }
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (unsigned)fd[0],
                           .aio_buf = (uintptr_t)pattern(0, 10), .aio_nbytes = 10};
    struct iocb *list[1] = {&request};
    assert_fails(syscall(SYS_io_submit, context, 1L, list), EOPNOTSUPP);
    int file = written_file("", 0);
    request.aio_fildes = (unsigned)file;
    assert_returns(syscall(SYS_io_submit, context, 1L, list), 1);
    assert_ok(syscall(SYS_io_destroy, context));
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    assert_ok(close(file));
    close_tls(fd);
}

static int ends_with_an_open_record(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(send(fd[0], pattern(0, 10), 10, MSG_MORE) == 10);
    syscall(SYS_exit_group, 7L);
    return 8;
}

static int becomes_another_program(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(send(fd[0], pattern(0, 10), 10, MSG_MORE) == 10);
    char *const arguments[] = {(char *)(uintptr_t)"true", NULL};
    syscall(SYS_execve, "/bin/true", arguments, environ);
    return 8;
}

static void test_the_end_of_a_process(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    for (int how = 0; how < 2; how++) {
        tcp_pair(fd);
        receiver_init(&receiver, fd[1], &keys);
        if (how == 0)
            assert_exited(in_child(ends_with_an_open_record, fd), 7);
        else
            assert_exited(in_child(becomes_another_program, fd), 0);
        expect_records(&receiver, "23:10");
        close_both(fd);
    }
}

static _Atomic int received;

static void *receives_by_number(void *argument)
{
    char data[10];
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    received = (int)syscall(SYS_read, *(int *)argument, data, 10L);
    while (received != 0)
        pause();
    return NULL;
}

/* It is no cancellation point, on a TLS socket either; and cancellation is as it was afterwards. */
static void test_cancellation(void **state)
{
    (void)state;
    struct peer peer;
    pthread_t thread;
    void *result;
    int fd[2];
    both_pair(fd, &peer);
    received = 0;
    assert_ok(pthread_create(&thread, NULL, receives_by_number, &fd[0]));
    assert_ok(pthread_cancel(thread));
    send_sealed(&peer.out, "23:10");
    assert_ok(pthread_join(thread, &result));
    assert_ptr_equal(result, PTHREAD_CANCELED);
    assert_int_equal(received, 10);
    close_tls(fd);
}

static void test_what_is_the_kernels(void **state)
{
    (void)state;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char data[3];
    int ends[2];
    void *mapped = (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ, flags, -1L, 0L);
    assert_true(mapped != MAP_FAILED);
    assert_ok(syscall(SYS_munmap, mapped, 4096L));
    /* The sixth argument is on the stack. */
    assert_fails(syscall(SYS_mmap, NULL, 4096L, PROT_READ, flags, -1L, 1L), EINVAL);
    assert_fails(syscall(100000L), ENOSYS);
    assert_fails(syscall(-1L), ENOSYS);
    assert_fails(syscall(SYS_read, -1L, data, 3L), EBADF);
    assert_fails(syscall(SYS_close, -1L), EBADF);
    errno = 77;
    assert_returns(syscall(SYS_getpid), getpid());
    assert_int_equal(errno, 77);
    assert_ok(syscall(SYS_pipe2, ends, 0L));
    assert_returns(syscall(SYS_write, ends[1], "abc", 3L), 3);
    assert_returns(syscall(SYS_read, ends[0], data, 3L), 3);
    assert_memory_equal(data, "abc", 3);
    assert_returns(syscall(SYS_fcntl, ends[0], F_GETFD, 0L), 0);
    assert_ok(syscall(SYS_close, ends[0]));
    assert_ok(syscall(SYS_close, ends[1]));
}

static void test_forks(void **state)
{
    (void)state;
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        raw_call(SYS_exit_group, 3, 0, 0);
    assert_exited(wait_child(child), 3);
#ifdef SYS_fork
    child = (pid_t)syscall(SYS_fork);
    if (child == 0)
        raw_call(SYS_exit_group, 4, 0, 0);
    assert_exited(wait_child(child), 4);
#endif
#ifdef SYS_vfork
    child = (pid_t)syscall(SYS_vfork);
    if (child == 0)
        raw_call(SYS_exit_group, 5, 0, 0);
    assert_exited(wait_child(child), 5);
#endif
}

#ifdef __x86_64__
__attribute__((noreturn)) static void ends_here(void)
{
    raw_call(SYS_exit_group, 6, 0, 0);
    __builtin_unreachable();
}

/* The child goes on at what is on top of its own stack, which is so only if nothing was put on the parent's. */
static void test_clone_with_a_stack(void **state)
{
    (void)state;
    static _Alignas(16) uintptr_t stack[1024];
    uintptr_t *top = &stack[1021];
    *top = (uintptr_t)ends_here;
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, top, 0L, 0L, 0L);
    assert_exited(wait_child(child), 6);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_writes),
        cmocka_unit_test(test_what_reads),
        cmocka_unit_test(test_numbers_that_it_makes),
        cmocka_unit_test(test_new_sockets),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_passing_a_socket),
        cmocka_unit_test(test_readiness),
        cmocka_unit_test(test_io_submit),
        cmocka_unit_test(test_the_end_of_a_process),
        cmocka_unit_test(test_cancellation),
        cmocka_unit_test(test_what_is_the_kernels),
        cmocka_unit_test(test_forks),
#ifdef __x86_64__
        cmocka_unit_test(test_clone_with_a_stack),
#endif
    };
    return RUN_PRELOADED("test_syscall", tests);
}
