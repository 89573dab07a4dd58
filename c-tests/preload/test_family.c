/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A socket that several processes have, one of which sets keys: the others are refused, whatever they write by, and no byte
 * of theirs goes out plain behind that.
 */
#include "preload.h"

#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <wchar.h>

#define SECRET "nobody may read this"
enum { SECRET_LEN = sizeof(SECRET) - 1 };

static void tell(int to)
{
    assert_returns(write(to, "", 1), 1);
}

static void await(int from)
{
    char byte;

    assert_returns(read(from, &byte, 1), 1);
}

struct inherited {
    int fd, from, to;
    struct keys keys;
};

/* Bytes by the number, before and after the parent sets keys; then keys. */
static int uses_what_it_inherited(void *argument)
{
    const struct inherited *it = argument;

    CHILD_CHECK(write(it->fd, "plain", 5) == 5);
    tell(it->to);
    await(it->from);
    CHILD_CHECK(write(it->fd, SECRET, SECRET_LEN) == -1 && errno == EIO);
    CHILD_CHECK(send(it->fd, SECRET, SECRET_LEN, MSG_NOSIGNAL) == -1 && errno == EIO);
    CHILD_CHECK(dprintf(it->fd, SECRET) < 0);
    int copy = dup(it->fd);
    CHILD_CHECK(copy >= 0 && write(copy, SECRET, SECRET_LEN) == -1 && errno == EIO);
    CHILD_CHECK(tls_tx_init(it->fd, it->keys.info, it->keys.len) == -1 && errno == EBUSY);
    CHILD_CHECK(write(it->fd, SECRET, SECRET_LEN) == -1 && errno == EIO);
    char data[10];
    CHILD_CHECK(recv(it->fd, data, sizeof data, MSG_DONTWAIT) == -1 && errno == EIO);
    return 0;
}

static void test_a_forked_child_without_the_keys(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    int fd[2], there[2], back[2];
    char data[6] = "";

    tcp_pair(fd);
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(pipe(there));
    assert_ok(pipe(back));
    struct inherited it = {fd[0], there[0], back[1], keys};
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(uses_what_it_inherited(&it));
    }
    await(back[0]);
    assert_returns(recv(fd[1], data, 5, MSG_WAITALL), 5);
    assert_string_equal(data, "plain");
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(10, 10), 10), 10);
    expect_records(&receiver, "23:10 23:10");
    close_both(fd);
    close_both(there);
    close_both(back);
}

/* The other way round: the child sets keys (a server that forks for each connection), and its parent is refused. */
static void test_a_parent_without_the_keys(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    int fd[2], there[2], back[2];

    tcp_pair(fd);
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(pipe(there));
    assert_ok(pipe(back));
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
        CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
        tell(back[1]);
        await(there[0]);
        CHILD_CHECK(write(fd[0], pattern(10, 10), 10) == 10);
        _exit(0);
    }
    await(back[0]);
    assert_fails(write(fd[0], SECRET, SECRET_LEN), EIO);
    assert_fails(tls_tx_init(fd[0], keys.info, keys.len), EBUSY);
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    expect_records(&receiver, "23:10 23:10");
    /* When the process with the keys has gone, too. */
    assert_fails(write(fd[0], SECRET, SECRET_LEN), EIO);
    expect_nothing(fd[1]);
    close_both(fd);
    close_both(there);
    close_both(back);
}

/* The program started by exec has the socket, and this one the keys. */
static int inherited_by_exec(void)
{
    await(4);
    CHILD_CHECK(write(3, SECRET, SECRET_LEN) == -1 && errno == EIO);
    struct keys keys = tls13_keys();
    CHILD_CHECK(tls_tx_init(3, keys.info, keys.len) == -1 && errno == EBUSY);
    return 0;
}

static void test_a_program_without_the_keys(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    int fd[2], there[2];

    tcp_pair(fd);
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(pipe(there));
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        become_child("exec", fd[0], there[0]);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_both(fd);
    close_both(there);
}

/* --- streams of the C library ------------------------------------------------------------------------ */

struct streams {
    int fd, from, to;
    FILE *opened;
};

static bool is_refused(FILE *stream)
{
    errno = 0;
    bool result = fputs(SECRET, stream) == EOF || fflush(stream) == EOF;
    return result && errno == EIO;
}

/* One that was there before the fork, one that comes afterwards, one whose number becomes the socket's, standard output. */
static int writes_by_streams(void *argument)
{
    const struct streams *it = argument;
    FILE *own = fdopen(dup(it->fd), "w"), *file = fopen("/dev/null", "w"), *wide = fdopen(dup(it->fd), "w");

    CHILD_CHECK(own != NULL && file != NULL && wide != NULL);
    CHILD_CHECK(dup2(it->fd, fileno(file)) == fileno(file) && dup2(it->fd, STDOUT_FILENO) == STDOUT_FILENO);
    FILE *all[] = {it->opened, own, file, stdout};
    for (int i = 0; i < 4; i++)
        CHILD_CHECK(fputs("plain", all[i]) >= 0 && fflush(all[i]) == 0);
    CHILD_CHECK(fputws(L"plain", wide) >= 0 && fflush(wide) == 0);
    tell(it->to);
    await(it->from);
    for (int i = 0; i < 4; i++)
        CHILD_CHECK(is_refused(all[i]));
    CHILD_CHECK(fputws(L"nobody", wide) == -1 || fflush(wide) == EOF);
    CHILD_CHECK(printf(SECRET) < 0 || fflush(stdout) == EOF);
    return 0;
}

static void test_streams_of_a_child(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    int fd[2], there[2], back[2];
    char data[26] = "";

    tcp_pair(fd);
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(pipe(there));
    assert_ok(pipe(back));
    struct streams it = {fd[0], there[0], back[1], fdopen(dup(fd[0]), "w")};
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(writes_by_streams(&it));
    }
    await(back[0]);
    assert_returns(recv(fd[1], data, 25, MSG_WAITALL), 25);
    assert_string_equal(data, "plainplainplainplainplain");
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    expect_nothing(fd[1]);
    assert_ok(fclose(it.opened));
    close_both(fd);
    close_both(there);
    close_both(back);
}

/* Standard output of a program that is started with the socket. */
static int prints_by_exec(void)
{
    CHILD_CHECK(printf("plain") == 5 && fflush(stdout) == 0);
    tell(5);
    await(4);
    CHILD_CHECK(is_refused(stdout));
    return 0;
}

/* --- a program that is started sets keys -------------------------------------------------------------- */

static int sets_keys_by_exec(void)
{
    struct keys keys = tls13_keys();

    await(4);
    CHILD_CHECK(tls_tx_init(3, keys.info, keys.len) == 0);
    CHILD_CHECK(write(3, pattern(0, 10), 10) == 10);
    tell(5);
    await(4);
    return 0;
}

enum { BY_FORK, BY_VFORK, BY_SPAWN, BY_SPAWN_DUP, STARTS };

/* `name`, with descriptors 3 to 5 from the three given. */
static pid_t start(int how, const char *name, const int numbers[3], bool is_stdout)
{
    /* Not /proc/self/exe, which is valgrind's under valgrind. */
    char *arguments[] = {program_invocation_name, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child = -1;

    assert_ok(setenv("UKTLS_TEST_CHILD", name, 1));
    fflush(NULL);
    if (how == BY_SPAWN || how == BY_SPAWN_DUP) {
        assert_ok(posix_spawn_file_actions_init(&actions));
        for (int i = 0; i < 3; i++)
            assert_ok(posix_spawn_file_actions_adddup2(&actions, numbers[i], 3 + i));
        assert_ok(posix_spawn(&child, arguments[0], &actions, NULL, arguments, environ));
        assert_ok(posix_spawn_file_actions_destroy(&actions));
    } else {
        child = how == BY_FORK ? fork() : vfork();
        if (child == 0) {
            for (int i = 0; i < 3; i++)
                if (dup2(numbers[i], 3 + i) < 0)
                    _exit(98);
            if (is_stdout && dup2(3, STDOUT_FILENO) < 0)
                _exit(97);
            execv(arguments[0], arguments);
            _exit(96);
        }
    }
    assert_true(child > 0);
    assert_ok(unsetenv("UKTLS_TEST_CHILD"));
    return child;
}

/* Numbers above those that a started program has. */
static void move_up(int ends[2])
{
    for (int i = 0; i < 2; i++) {
        int up = fcntl(ends[i], F_DUPFD_CLOEXEC, 20);
        assert_true(up >= 20);
        assert_ok(close(ends[i]));
        ends[i] = up;
    }
}

static void test_standard_output_of_a_program(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    struct receiver receiver;
    int fd[2], there[2], back[2];
    char data[6] = "";

    tcp_pair(fd);
    assert_ok(pipe(there));
    assert_ok(pipe(back));
    move_up(fd);
    move_up(there);
    move_up(back);
    receiver_init(&receiver, fd[1], &keys);
    pid_t child = start(BY_FORK, "prints", (int[]){fd[0], there[0], back[1]}, true);
    await(back[0]);
    assert_returns(recv(fd[1], data, 5, MSG_WAITALL), 5);
    assert_string_equal(data, "plain");
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    expect_nothing(fd[1]);
    close_both(fd);
    close_both(there);
    close_both(back);
}

struct beside {
    int fd;
    atomic_bool stops;
    int error;
};

/* Looks at the socket all the time. */
static void *asks(void *argument)
{
    struct beside *it = argument;

    while (!it->stops && it->error == 0)
        if (write(it->fd, "", 0) < 0)
            it->error = errno;
    return NULL;
}

/* Its parent, which goes on with the number, is refused; so is a thread that never stops writing. */
static void test_a_program_with_the_keys(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    for (int how = 0; how < STARTS; how++) {
        struct receiver receiver;
        int fd[2], there[2], back[2];
        pthread_t thread;

        tcp_pair(fd);
        assert_ok(pipe(there));
        assert_ok(pipe(back));
        move_up(fd);
        move_up(there);
        move_up(back);
        receiver_init(&receiver, fd[1], &keys);
        /* As it would be inherited, unless it goes by the actions of posix_spawn. */
        if (how == BY_SPAWN)
            assert_ok(fcntl(fd[0], F_SETFD, 0));
        pid_t child = start(how, "keys", (int[]){fd[0], there[0], back[1]}, false);
        struct beside beside = {.fd = fd[0]};
        assert_ok(pthread_create(&thread, NULL, asks, &beside));
        FILE *stream = fdopen(dup(fd[0]), "w");
        assert_non_null(stream);
        tell(there[1]);
        await(back[0]);
        assert_fails(write(fd[0], SECRET, SECRET_LEN), EIO);
        assert_true(is_refused(stream));
        int copy = dup(fd[0]);
        assert_fails(send(copy, SECRET, SECRET_LEN, 0), EIO);
        assert_fails(tls_tx_init(fd[0], keys.info, keys.len), EBUSY);
        assert_ok(pthread_join(thread, NULL));
        assert_int_equal(beside.error, EIO);
        tell(there[1]);
        assert_exited(wait_child(child), 0);
        expect_records(&receiver, "23:10");
        expect_nothing(fd[1]);
        assert_ok(close(copy));
        (void)fclose(stream);
        close_both(fd);
        close_both(there);
        close_both(back);
    }
}

/* A socket that only its child has, and has set keys on, is taken out of that. */
static void test_a_socket_that_is_taken(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    int there[2], back[2], numbers[2];

    assert_ok(pipe(there));
    assert_ok(pipe(back));
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int fd[2];
        struct receiver receiver;
        alarm(60);
        tcp_pair(fd);
        receiver_init(&receiver, fd[1], &keys);
        CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
        CHILD_CHECK(write(back[1], fd, sizeof fd) == sizeof fd);
        await(there[0]);
        CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
        CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
        CHILD_CHECK(recv(fd[1], numbers, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
        _exit(0);
    }
    assert_returns(read(back[0], numbers, sizeof numbers), sizeof numbers);
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    assert_true(pidfd >= 0);
    int taken = (int)syscall(SYS_pidfd_getfd, pidfd, numbers[0], 0);
    int plain = (int)syscall(SYS_pidfd_getfd, pidfd, numbers[1], 0);
    assert_true(taken >= 0 && plain >= 0);
    assert_fails(write(taken, SECRET, SECRET_LEN), EIO);
    assert_fails(write(taken, SECRET, SECRET_LEN), EIO);
    assert_fails(tls_tx_init(taken, keys.info, keys.len), EBUSY);
    assert_fails(write(taken, SECRET, SECRET_LEN), EIO);
    /* The other end is a plain socket. */
    assert_returns(write(plain, "x", 1), 1);
    tell(there[1]);
    assert_exited(wait_child(child), 0);
    assert_ok(close(taken));
    assert_ok(close(plain));
    assert_ok(close(pidfd));
    close_both(there);
    close_both(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_forked_child_without_the_keys),
        cmocka_unit_test(test_a_parent_without_the_keys),
        cmocka_unit_test(test_a_program_without_the_keys),
        cmocka_unit_test(test_streams_of_a_child),
        cmocka_unit_test(test_standard_output_of_a_program),
        cmocka_unit_test(test_a_program_with_the_keys),
        cmocka_unit_test(test_a_socket_that_is_taken),
    };
    const char *child = getenv("UKTLS_TEST_CHILD");
    if (child) {
        alarm(60);
        return !strcmp(child, "keys")     ? sets_keys_by_exec()
               : !strcmp(child, "prints") ? prints_by_exec()
                                          : inherited_by_exec();
    }
    return RUN_PRELOADED("test_family", tests);
}
