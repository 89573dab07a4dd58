/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Descriptor tables that are not the memory's: one table with two memories (clone with CLONE_FILES and without CLONE_VM),
 * one memory with two tables (unshare, CLOSE_RANGE_UNSHARE, CLONE_VM without CLONE_FILES). A process with TLS sockets is
 * not let make one, and one that has made one takes no keys.
 *
 * Each test is a process of its own, as that stays so.
 */
#include "preload.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2
#endif

static char stack[64 * 1024] __attribute__((aligned(16)));

/* --- ways ------------------------------------------------------------------------------------------ */

/* What is made ends at once, with 3. All return the child, or 0 if there is none to wait for; -1 and errno. */
__attribute__((noreturn)) static void ends(void)
{
    raw_call(SYS_exit_group, 3, 0, 0);
    __builtin_unreachable();
}

static int body(void *argument)
{
    (void)argument;
    ends();
}

static pid_t by_syscall(unsigned long flags)
{
    pid_t child = (pid_t)syscall(SYS_clone, flags | SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        ends();
    return child;
}

static pid_t files_by_syscall(void)
{
    return by_syscall(CLONE_FILES);
}

static pid_t files_by_function(void)
{
    return clone(body, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL);
}

static pid_t files_by_clone3(void)
{
    struct clone_args arguments = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    pid_t child = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        ends();
    return child;
}

/* The child has the parent's memory and no more numbers in common. */
static pid_t memory_by_function(void)
{
    return clone(body, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
}

static pid_t memory_in_table_by_function(void)
{
    return clone(body, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD, NULL);
}

static pid_t unshare_by_function(void)
{
    return unshare(CLONE_FILES);
}

static pid_t unshare_by_syscall(void)
{
    return (pid_t)syscall(SYS_unshare, (long)CLONE_FILES);
}

static pid_t range_by_function(void)
{
    return close_range(900, 910, CLOSE_RANGE_UNSHARE);
}

static pid_t range_by_syscall(void)
{
    return (pid_t)syscall(SYS_close_range, 900L, 910L, (long)CLOSE_RANGE_UNSHARE);
}

static pid_t range_of_nothing_by_syscall(void)
{
    return (pid_t)syscall(SYS_close_range, ~0U, ~0U, (long)CLOSE_RANGE_UNSHARE);
}

/* The first change what a process has, the others that of a thread beside others. */
static pid_t (*const ways[])(void) = {
    files_by_syscall,    files_by_function,   files_by_clone3,     memory_by_function,          memory_in_table_by_function,
    unshare_by_function, unshare_by_syscall,  range_by_function,   range_by_syscall,            range_of_nothing_by_syscall,
};
enum { WAYS = sizeof ways / sizeof *ways, OF_PROCESS = 5 };

struct attempt {
    pid_t (*way)(void);
    pid_t result;
    int error;
};

static void *makes_attempt(void *argument)
{
    struct attempt *attempt = argument;
    errno = 0;
    attempt->result = attempt->way();
    attempt->error = errno;
    return NULL;
}

/* By a thread that is not alone. */
static struct attempt in_thread(pid_t (*way)(void))
{
    struct attempt attempt = {.way = way};
    pthread_t thread;
    CHILD_CHECK(pthread_create(&thread, NULL, makes_attempt, &attempt) == 0);
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    if (attempt.result > 0)
        CHILD_CHECK(wait_child(attempt.result) == 3 << 8);
    return attempt;
}

/* --- with TLS sockets ------------------------------------------------------------------------------ */

static int is_refused(void *argument)
{
    pid_t (*way)(void) = *(pid_t (**)(void))argument;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    struct attempt attempt = in_thread(way);
    CHILD_CHECK(attempt.result == -1);
    errno = attempt.error;
    CHILD_CHECK(errno == EOPNOTSUPP);
    /* Nothing has changed: other sockets get keys, too. */
    CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    tls_pair(fd, &keys, &receiver);
    CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    return 5;
}

static void test_refused_beside_a_tls_socket(void **state)
{
    (void)state;
    for (size_t i = 0; i < WAYS; i++) {
        print_message("way %zu\n", i);
        assert_exited(in_child(is_refused, (void *)(uintptr_t)&ways[i]), 5);
    }
}

/* Not by one that the program has closed: what is on its way uses none of the numbers. */
static int is_not_refused_by_a_closed_one(void *argument)
{
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    (void)argument;
    small_tls_pair(fd, &keys, &receiver);
    uint64_t sent = fill_socket(fd[0], 0, 1000);
    CHILD_CHECK(close(fd[0]) == 0);
    pid_t child = files_by_syscall();
    CHILD_CHECK(child >= 0);
    if (child == 0)
        raw_call(SYS_exit_group, 0, 0, 0);
    CHILD_CHECK(waitpid(child, NULL, 0) == child);
    while (receiver_next(&receiver) == 1)
        ;
    CHILD_CHECK(receiver.fault[0] == '\0' && receiver.position == sent);
    return 5;
}

static void test_beside_a_closed_one(void **state)
{
    (void)state;
    assert_exited(in_child(is_not_refused_by_a_closed_one, NULL), 5);
}

/* --- without ---------------------------------------------------------------------------------------- */

static bool are_declined(int fd, int to)
{
    struct keys keys = tls12_keys();
    char data[5] = "";
    (void)setsockopt(fd, SOL_TCP, TCP_ULP, "tls", sizeof "tls");
    errno = 0;
    return tls_tx_init(fd, keys.info, keys.len) == -1 && errno == ENOPROTOOPT && tls_rx_init(fd, keys.info, keys.len) == -1 &&
           errno == ENOPROTOOPT && write(fd, "plain", 5) == 5 && read(to, data, 5) == 5 && !memcmp(data, "plain", 5);
}

/* Sockets from before and from afterwards, also in a child. */
static int takes_no_keys_afterwards(void *argument)
{
    pid_t (*way)(void) = *(pid_t (**)(void))argument;
    int before[2], fd[2];
    tcp_pair(before);
    struct attempt attempt = in_thread(way);
    errno = attempt.error;
    CHILD_CHECK(attempt.result >= 0);
    tcp_pair(fd);
    CHILD_CHECK(are_declined(before[0], before[1]));
    CHILD_CHECK(are_declined(fd[0], fd[1]));
    pid_t child = fork();
    if (child == 0) {
        tcp_pair(fd);
        _exit(are_declined(before[0], before[1]) && are_declined(fd[0], fd[1]) ? 4 : 6);
    }
    CHILD_CHECK(wait_child(child) == 4 << 8);
    return 5;
}

static void test_no_keys_afterwards(void **state)
{
    (void)state;
    for (size_t i = 0; i < WAYS; i++) {
        print_message("way %zu\n", i);
        assert_exited(in_child(takes_no_keys_afterwards, (void *)(uintptr_t)&ways[i]), 5);
    }
}

/* A process with one thread has one table whatever it asks for. The first socket with keys brings a thread of the
 * library's. */
static int goes_on(void *argument)
{
    pid_t (*way)(void) = *(pid_t (**)(void))argument;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    CHILD_CHECK(way() == 0);
    tls_pair(fd, &keys, &receiver);
    CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    return 5;
}

static void test_one_thread(void **state)
{
    (void)state;
    for (size_t i = OF_PROCESS; i < WAYS; i++) {
        print_message("way %zu\n", i);
        assert_exited(in_child(goes_on, (void *)(uintptr_t)&ways[i]), 5);
    }
}

/* The child of a vfork has a table of its own already. */
static int is_asked_by_a_child_of_vfork(void *argument)
{
    pid_t (*way)(void) = *(pid_t (**)(void))argument;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], first[2];
    tcp_pair(first);
    for (int round = 0; round < 2; round++) {
        pid_t child = vfork();
        if (child == 0)
            _exit(way() == 0 ? 3 : 7);
        CHILD_CHECK(wait_child(child) == 3 << 8);
        tls_pair(fd, &keys, &receiver);
        CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
        CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    }
    return 5;
}

static void test_in_a_child_of_vfork(void **state)
{
    (void)state;
    for (size_t i = OF_PROCESS; i < WAYS; i++) {
        print_message("way %zu\n", i);
        assert_exited(in_child(is_asked_by_a_child_of_vfork, (void *)(uintptr_t)&ways[i]), 5);
    }
}

static void *closes_in_its_own_table(void *argument)
{
    int *fd = argument;
    if (fd[2])
        fd[3] = (int)syscall(SYS_close_range, (unsigned)fd[0], (unsigned)fd[0], (long)CLOSE_RANGE_UNSHARE);
    else
        fd[3] = close_range((unsigned)fd[0], (unsigned)fd[0], CLOSE_RANGE_UNSHARE);
    /* Gone here. */
    fd[4] = raw_call(SYS_fcntl, fd[0], F_GETFD, 0) == -1;
    return NULL;
}

static int leaves_the_others_open(void *argument)
{
    pthread_t thread;
    int fd[5] = {0};
    char data[5];
    tcp_pair(fd);
    fd[2] = *(int *)argument;
    CHILD_CHECK(pthread_create(&thread, NULL, closes_in_its_own_table, fd) == 0);
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    CHILD_CHECK(fd[3] == 0 && fd[4]);
    CHILD_CHECK(write(fd[0], "plain", 5) == 5 && read(fd[1], data, 5) == 5);
    return 5;
}

static void test_a_range_is_closed_in_the_own_table(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++)
        assert_exited(in_child(leaves_the_others_open, &how), 5);
}

/* --- what another process sets keys on --------------------------------------------------------------- */

/* A child shares the table and puts a socket under another number, of which this memory knows nothing. A process that was
 * forked before has set keys on that socket. */
static int looks_at_every_number(void *argument)
{
    enum { NUMBER = 777 };
    struct keys keys = tls12_keys();
    int fd[2], gate[2], ready[2];
    char byte;
    (void)argument;
    tcp_pair(fd);
    CHILD_CHECK(pipe(gate) == 0 && pipe(ready) == 0);
    pid_t setter = fork();
    if (setter == 0) {
        CHILD_CHECK(read(gate[0], &byte, 1) == 1);
        CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
        CHILD_CHECK(write(ready[1], "k", 1) == 1 && read(gate[0], &byte, 1) == 1);
        _exit(4);
    }
    /* Its mark is looked at now. */
    CHILD_CHECK(write(fd[0], "plain", 5) == 5);
    pid_t sharer = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0L, 0L, 0L, 0L);
    if (sharer == 0) {
        if (raw_call(SYS_dup3, fd[0], NUMBER, 0) != NUMBER)
            raw_call(SYS_exit_group, 9, 0, 0);
        ends();
    }
    CHILD_CHECK(sharer > 0 && wait_child(sharer) == 3 << 8);
    CHILD_CHECK(write(NUMBER, "more.", 5) == 5);
    CHILD_CHECK(write(gate[1], "s", 1) == 1 && read(ready[0], &byte, 1) == 1);
    CHILD_CHECK(write(fd[0], "secret", 6) == -1 && errno == EIO);
    CHILD_CHECK(write(NUMBER, "secret", 6) == -1 && errno == EIO);
    CHILD_CHECK(write(gate[1], "e", 1) == 1 && wait_child(setter) == 4 << 8);
    char data[20];
    CHILD_CHECK(recv(fd[1], data, sizeof data, MSG_DONTWAIT) == 10);
    return 5;
}

static void test_each_number_is_looked_at(void **state)
{
    (void)state;
    assert_exited(in_child(looks_at_every_number, NULL), 5);
}

/* --- a process made while keys are being set --------------------------------------------------------- */

static _Atomic bool stop;

static void *sets_keys(void *argument)
{
    struct keys keys = tls12_keys();
    int *number = argument, fd[2];
    /* Ended by a reset, a connection leaves no port behind that could not be used again for a minute. */
    const struct linger reset = {1, 0};
    while (!stop) {
        tcp_pair(fd);
        CHILD_CHECK(setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
        CHILD_CHECK(dup2(fd[0], *number) == *number);
        CHILD_CHECK(tls_tx_init(*number, keys.info, keys.len) == 0 || errno == ENOPROTOOPT);
        CHILD_CHECK(close(fd[1]) == 0 && close(fd[0]) == 0);
    }
    return NULL;
}

/* The child finds no number in the middle of a change, for whose end it would wait for ever. */
static int makes_children(void *argument)
{
    int how = *(int *)argument, number = 600;
    pthread_t thread;
    CHILD_CHECK(dup2(open("/dev/null", O_WRONLY), number) == number);
    stop = false;
    CHILD_CHECK(pthread_create(&thread, NULL, sets_keys, &number) == 0);
    for (int round = 0; round < 200; round++) {
        pid_t child = 0;
        if (how == 0)
            child = (pid_t)syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
        else if (how == 1)
            child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0L, 0L, 0L, 0L);
        else
            child = _Fork();
        if (child == 0) {
            alarm(20);
            ssize_t written = write(number, "x", 1);
            raw_call(SYS_exit_group, written == 1 || errno == ENOTRECOVERABLE || errno == EIO || errno == EPIPE ||
                     errno == ECONNRESET || errno == EBADF ? 3 : errno, 0, 0);
        }
        if (child == -1 && errno == EOPNOTSUPP && how == 1)
            continue;
        int status = wait_child(child);
        if (status != 3 << 8)
            fprintf(stderr, "round %d: wait status %#x\n", round, (unsigned)status);
        CHILD_CHECK(status == 3 << 8);
    }
    stop = true;
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    return 5;
}

static void test_made_while_keys_are_set(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    for (int how = 0; how < 3; how++) {
        print_message("how %d\n", how);
        assert_exited(in_child(makes_children, &how), 5);
    }
}

/* Such a child has numbers of its own: what it opens and closes is as in any process. */
static int has_numbers_of_its_own(void *argument)
{
    struct keys keys = tls12_keys();
    struct receiver receiver, own;
    int fd[2];
    (void)argument;
    tls_pair(fd, &keys, &receiver);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0) {
        int other[2];
        CHILD_CHECK(write(fd[0], "x", 1) == -1 && errno == ENOTRECOVERABLE);
        CHILD_CHECK(close(fd[0]) == 0);
        int ends_of[2];
        CHILD_CHECK(pipe(ends_of) == 0 && (ends_of[0] == fd[0] || ends_of[1] == fd[0]));
        CHILD_CHECK(write(ends_of[1], "x", 1) == 1);
        tls_pair(other, &keys, &own);
        CHILD_CHECK(write(other[0], pattern(0, 10), 10) == 10);
        CHILD_CHECK(receiver_next(&own) == 1 && own.len == 10);
        raw_call(SYS_exit_group, 3, 0, 0);
    }
    CHILD_CHECK(wait_child(child) == 3 << 8);
    CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    return 5;
}

static void test_numbers_of_a_raw_child(void **state)
{
    (void)state;
    assert_exited(in_child(has_numbers_of_its_own, NULL), 5);
}

static void test_what_is_wrong_is_the_kernels(void **state)
{
    (void)state;
    void *nothing = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct clone_args arguments = {.flags = CLONE_FILES | CLONE_THREAD, .exit_signal = SIGCHLD};
    assert_true(nothing != MAP_FAILED);
    assert_fails(syscall(SYS_clone3, nothing, sizeof arguments), EFAULT);
    assert_fails(syscall(SYS_clone3, &arguments, 3L), EINVAL);
    assert_fails(close_range(5, 4, CLOSE_RANGE_UNSHARE), EINVAL);
    assert_fails(syscall(SYS_close_range, 5L, 5L, 1L << 20), EINVAL);
    assert_fails(unshare(-1), EINVAL);
    assert_ok(munmap(nothing, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_beside_a_tls_socket),
        cmocka_unit_test(test_beside_a_closed_one),
        cmocka_unit_test(test_no_keys_afterwards),
        cmocka_unit_test(test_one_thread),
        cmocka_unit_test(test_in_a_child_of_vfork),
        cmocka_unit_test(test_a_range_is_closed_in_the_own_table),
        cmocka_unit_test(test_each_number_is_looked_at),
        cmocka_unit_test(test_made_while_keys_are_set),
        cmocka_unit_test(test_numbers_of_a_raw_child),
        cmocka_unit_test(test_what_is_wrong_is_the_kernels),
    };
    return RUN_PRELOADED("test_tables", tests);
}
