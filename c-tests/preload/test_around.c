/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Ways around the functions that are interposed: a library that is bound to the C library first, one that is
 * preloaded as well and makes its calls by syscall(2), functions of the C library that write by hidden names.
 */
#include "preload.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <libgen.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/uio.h>

static char folder[400], early[512], finder[512], company[512];

static void expect_sealed(int fd, int len)
{
    unsigned char wire[100];
    assert_returns(recv(fd, wire, 5 + 8 + (size_t)len + 16, MSG_WAITALL), 5 + 8 + len + 16);
    assert_int_equal(wire[0], DATA);
    assert_int_equal(wire[3] << 8 | wire[4], 8 + len + 16);
}

static void *open_library(const char *name, int flags)
{
    void *handle = dlopen(name, flags);
    if (!handle)
        fail_msg("%s", dlerror());
    return handle;
}

/* Its constructor has written, and its function does. */
static void expect_sealed_by(void *handle)
{
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    int *pair = dlsym(handle, "early_pair");
    int (*write_there)(int, const void *, int) = (int (*)(int, const void *, int))dlsym(handle, "early_write");
    assert_non_null(pair);
    assert_non_null(write_there);
    expect_sealed(pair[1], 2);
    tls_pair(fd, &keys, &receiver);
    assert_int_equal(write_there(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_tls(fd);
    assert_ok(close(pair[0]));
    assert_ok(close(pair[1]));
}

static void test_a_library_with_deepbind(void **state)
{
    (void)state;
    void *handle = open_library(early, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    expect_sealed_by(handle);
    assert_ok(dlclose(handle));
}

/* A run path is that of the library that calls. */
static void test_a_library_by_the_run_path_of_another(void **state)
{
    (void)state;
    const int flags[] = {RTLD_NOW, RTLD_NOW | RTLD_DEEPBIND};
    void *by = open_library(finder, RTLD_NOW);
    void *(*find)(const char *, int) = (void *(*)(const char *, int))dlsym(by, "find");
    assert_non_null(find);
    assert_null(dlopen("plugin_found.so", RTLD_NOW));
    for (int i = 0; i < 2; i++) {
        void *found = find("plugin_found.so", flags[i]);
        assert_non_null(found);
        expect_sealed_by(found);
        assert_ok(dlclose(found));
        assert_null(dlopen("plugin_found.so", RTLD_NOW));
    }
    assert_null(find("no such library", RTLD_NOW | RTLD_DEEPBIND));
    assert_ok(dlclose(by));
}

static void exec_self(const char *what)
{
    setenv("UKTLS_TEST_CHILD", what, 1);
    execl(program_invocation_name, program_invocation_name, (char *)NULL);
    _exit(127);
}

static int opens_twice(void)
{
    CHILD_CHECK(dlopen(finder, RTLD_NOW | RTLD_DEEPBIND) != NULL);
    CHILD_CHECK(dlopen(early, RTLD_NOW | RTLD_DEEPBIND) != NULL);
    return 0;
}

static void test_deepbind_is_logged_once(void **state)
{
    (void)state;
    char name[] = "/tmp/uktls-test-XXXXXX", setting[100], log[4000] = "";
    int file = mkstemp(name);
    assert_true(file >= 0);
    snprintf(setting, sizeof setting, "info:%s", name);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("UKTLS_LOG", setting, 1);
        exec_self("deepbind");
    }
    assert_exited(wait_child(child), 0);
    assert_true(read(file, log, sizeof log - 1) > 0);
    const char *line = strstr(log, "RTLD_DEEPBIND");
    assert_non_null(line);
    assert_null(strstr(line + 1, "RTLD_DEEPBIND"));
    assert_ok(close(file));
    assert_ok(unlink(name));
}

static void expect_tls(int fd, struct receiver *receiver, uint64_t at)
{
    CHILD_CHECK(write(fd, pattern(at, 5), 5) == 5);
    CHILD_CHECK(syscall(SYS_write, fd, pattern(at + 5, 5), 5L) == 5);
    expect_records(receiver, "23:5 23:5");
}

/* Every call of the library beside us goes by a syscall(2) that it has itself. */
static int with_company(void)
{
    struct keys keys = tls12_keys();
    struct receiver receiver;
    struct sealer sealer;
    char data[10];
    int fd[2], ends[2], *seen = dlsym(RTLD_DEFAULT, "company_seen");
    CHILD_CHECK(seen != NULL);
    CHILD_CHECK(syscall(SYS_getppid) == getppid() && *seen == 1);
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHILD_CHECK(memory != MAP_FAILED);
    CHILD_CHECK(munmap(memory, 4096) == 0);
    CHILD_CHECK(pipe(ends) == 0);
    CHILD_CHECK(write(ends[1], "abc", 3) == 3 && read(ends[0], data, 3) == 3);
    CHILD_CHECK(dup2(ends[0], ends[1]) == ends[1]);
    CHILD_CHECK(close(ends[0]) == 0 && close(ends[1]) == 0 && close(ends[1]) == -1);
    tcp_pair(fd);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(tls_rx_init(fd[0], keys.info, keys.len) == 0);
    receiver_init(&receiver, fd[1], &keys);
    sealer_init(&sealer, fd[1], fd[0], &keys);
    expect_tls(fd[0], &receiver, 0);
    send_sealed(&sealer, "23:10");
    CHILD_CHECK(read(fd[0], data, 10) == 10);
    int copy = dup(fd[0]);
    expect_tls(copy, &receiver, 10);
    CHILD_CHECK(dup2(copy, 90) == 90 && dup2(fd[0], copy) == copy && dup3(fd[0], 91, O_CLOEXEC) == 91);
    expect_tls(90, &receiver, 20);
    expect_tls(copy, &receiver, 30);
    expect_tls(91, &receiver, 40);
    CHILD_CHECK(fcntl(fd[0], F_SETFD, 0) == 0 && fcntl(fd[0], F_GETFD) == FD_CLOEXEC);
    CHILD_CHECK(close_range(90, 91, CLOSE_RANGE_CLOEXEC) == 0 && close_range(90, 91, 0) == 0);
    CHILD_CHECK(close(copy) == 0);
    CHILD_CHECK(send(fd[0], pattern(50, 5), 5, MSG_MORE) == 5);
    CHILD_CHECK(close(fd[0]) == 0);
    expect_records(&receiver, "23:5");
    expect_end(&receiver);
    _exit(9);
}

static void preloaded_as(const char *first, const char *second)
{
    char preload[1100];
    snprintf(preload, sizeof preload, "%s:%s", first, second);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("LD_PRELOAD", preload, 1);
        exec_self("company");
    }
    assert_exited(wait_child(child), 9);
}

static void test_company_before(void **state)
{
    (void)state;
    preloaded_as(company, getenv("UKTLS_TEST_PRELOAD"));
}

static void test_company_behind(void **state)
{
    (void)state;
    preloaded_as(getenv("UKTLS_TEST_PRELOAD"), company);
}

static void test_eventfd(void **state)
{
    (void)state;
    struct peer peer;
    unsigned char wire[100];
    eventfd_t value = 0x0102030405060708, got = 0;
    int fd[2], counter = eventfd(3, EFD_CLOEXEC);
    assert_ok(eventfd_write(counter, 4));
    assert_ok(eventfd_read(counter, &got));
    assert_int_equal(got, 7);
    assert_ok(close(counter));
    assert_fails(eventfd_write(-1, 1), EBADF);
    both_pair(fd, &peer);
    peer.in.pattern = false;
    assert_ok(eventfd_write(fd[0], value));
    expect_records(&peer.in, "23:8");
    assert_memory_equal(peer.in.data, &value, 8);
    send_wire(&peer.out, wire, seal(&peer.out, wire, DATA, &value, 8));
    assert_ok(eventfd_read(fd[0], &got));
    assert_true(got == value);
    close_tls(fd);
}

/* The same lines as in a file. */
static void test_backtrace(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    char plain[4000] = "", sealed[4000] = "";
    void *addresses[12];
    int fd[2], ends[2], n = backtrace(addresses, 8);
    assert_true(n > 0);
    addresses[n++] = NULL;
    addresses[n++] = (void *)write;
    addresses[n++] = (void *)((uintptr_t)dlsym(RTLD_DEFAULT, "strlen") - 1);
    assert_ok(pipe(ends));
    backtrace_symbols_fd(addresses, n, ends[1]);
    assert_ok(close(ends[1]));
    ssize_t len = read(ends[0], plain, sizeof plain - 1);
    assert_true(len > 0);
    assert_ok(close(ends[0]));
    tls_pair(fd, &keys, &receiver);
    receiver.pattern = false;
    backtrace_symbols_fd(addresses, n, fd[0]);
    assert_ok(close(fd[0]));
    while (receiver_next(&receiver) == 1)
        strncat(sealed, (char *)receiver.data, receiver.len);
    assert_string_equal(receiver.fault, "");
    assert_string_equal(sealed, plain);
    assert_ok(close(fd[1]));
}

ssize_t __pread64(int, void *, size_t, off64_t);
ssize_t __pwrite64(int, const void *, size_t, off64_t);
ssize_t __pread_chk(int, void *, size_t, off_t, size_t);
ssize_t __pread64_chk(int, void *, size_t, off64_t, size_t);

/* The kernel refuses them on any socket, so they are left to it. */
static void test_calls_that_no_socket_takes(void **state)
{
    (void)state;
    struct peer peer;
    char data[10] = "plain";
    struct iovec iov = {data, 5};
    int fd[2], ends[2], file = memfd_create("file", MFD_CLOEXEC);
    both_pair(fd, &peer);
    send_sealed(&peer.out, "23:10");
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], data, 5), 5);
    assert_returns(write(file, data, 5), 5);
    assert_returns(lseek(file, 0, SEEK_SET), 0);
    assert_fails(pread(fd[0], data, 5, 0), ESPIPE);
    assert_fails(pread64(fd[0], data, 5, 0), ESPIPE);
    assert_fails(__pread64(fd[0], data, 5, 0), ESPIPE);
    assert_fails(__pread_chk(fd[0], data, 5, 0, sizeof data), ESPIPE);
    assert_fails(__pread64_chk(fd[0], data, 5, 0, sizeof data), ESPIPE);
    assert_fails(preadv(fd[0], &iov, 1, 0), ESPIPE);
    assert_fails(preadv64(fd[0], &iov, 1, 0), ESPIPE);
    assert_fails(pwrite(fd[0], data, 5, 0), ESPIPE);
    assert_fails(pwrite64(fd[0], data, 5, 0), ESPIPE);
    assert_fails(__pwrite64(fd[0], data, 5, 0), ESPIPE);
    assert_fails(pwritev(fd[0], &iov, 1, 0), ESPIPE);
    assert_fails(pwritev64(fd[0], &iov, 1, 0), ESPIPE);
    assert_true(posix_fallocate(fd[0], 0, 5) != 0);
    assert_true(posix_fallocate64(fd[0], 0, 5) != 0);
    assert_fails(vmsplice(fd[0], &iov, 1, 0), EBADF);
    assert_fails(tee(ends[0], fd[0], 5, 0), EINVAL);
    assert_fails(tee(fd[0], ends[1], 5, 0), EINVAL);
    assert_fails(copy_file_range(file, NULL, fd[0], NULL, 5, 0), EINVAL);
    assert_fails(copy_file_range(fd[0], NULL, file, NULL, 5, 0), EINVAL);
    expect_nothing(fd[1]);
    assert_returns(read(fd[0], data, 10), 10);
    assert_memory_equal(data, pattern(0, 10), 10);
    assert_ok(close(file));
    close_tls(ends);
    close_tls(fd);
}

static void test_pidfd_getfd(void **state)
{
    (void)state;
    char data[3];
    int ends[2], self = pidfd_open(getpid(), 0);
    assert_true(self >= 0);
    assert_ok(pipe(ends));
    assert_fails(pidfd_getfd(self, -1, 0), EBADF);
    int came = pidfd_getfd(self, ends[1], 0);
    assert_true(came >= 0);
    assert_returns(write(came, "abc", 3), 3);
    assert_ok(close(came));
    came = (int)syscall(SYS_pidfd_getfd, self, ends[1], 0L);
    assert_true(came >= 0);
    assert_returns(read(ends[0], data, 3), 3);
    assert_ok(close(came));
    assert_ok(close(self));
    close_tls(ends);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_library_with_deepbind),
        cmocka_unit_test(test_a_library_by_the_run_path_of_another),
        cmocka_unit_test(test_deepbind_is_logged_once),
        cmocka_unit_test(test_company_before),
        cmocka_unit_test(test_company_behind),
        cmocka_unit_test(test_eventfd),
        cmocka_unit_test(test_backtrace),
        cmocka_unit_test(test_calls_that_no_socket_takes),
        cmocka_unit_test(test_pidfd_getfd),
    };
    const char *child = getenv("UKTLS_TEST_CHILD");
    (void)argc;
    char *name = strdup(argv[0]);
    snprintf(folder, sizeof folder, "%s", dirname(name));
    free(name);
    snprintf(early, sizeof early, "%s/plugin_early.so", folder);
    snprintf(finder, sizeof finder, "%s/plugin_finder.so", folder);
    snprintf(company, sizeof company, "%s/plugin_company.so", folder);
    if (child)
        return strcmp(child, "deepbind") == 0 ? opens_twice() : with_company();
    return RUN_PRELOADED("test_around", tests);
}
