/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Children: by fork they share the connection; by vfork, posix_spawn, system and popen they leave it alone;
 * and no other program ever gets the socket, as it would send in the clear.
 */
#include "preload.h"

#include <spawn.h>
#include <sys/ioctl.h>

extern char **environ;

static int writes_ten(void *argument)
{
    int fd = *(int *)argument;
    CHILD_CHECK(write(fd, pattern(10, 10), 10) == 10);
    return 0;
}

static void test_fork_and_both_write(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    assert_exited(in_child(writes_ten, &fd[0]), 0);
    assert_returns(write(fd[0], pattern(20, 10), 10), 10);
    assert_ok(close(fd[0]));
    expect_records(&receiver, "23:10 23:10 23:10");
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

static int closes(void *argument)
{
    int *fd = argument;
    CHILD_CHECK(close(fd[0]) == 0);
    CHILD_CHECK(dup2(fd[1], fd[0]) == fd[0]);
    closefrom(3);
    return 0;
}

static void test_a_forked_child_closes(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    assert_returns(send(fd[0], pattern(0, 10), 10, MSG_MORE), 10);
    assert_exited(in_child(closes, fd), 0);
    expect_nothing(fd[1]);
    assert_returns(send(fd[0], pattern(10, 10), 10, 0), 10);
    expect_records(&receiver, "23:20");
    close_tls(fd);
}

/* What a child does that a library of the program starts. `open` is set by a script that finds a socket
 * of ours: the number is the first argument. */
#define FINDS_IT "if [ -e /proc/self/fd/$1 ]; then exit 9; else exit 5; fi"

static int by_fork(char **arguments)
{
    pid_t child = fork();
    if (child == 0) {
        execv("/bin/sh", arguments);
        _exit(127);
    }
    return wait_child(child);
}

static int by_vfork(char **arguments)
{
    pid_t child = vfork();
    if (child == 0) {
        execve("/bin/sh", arguments, environ);
        _exit(127);
    }
    return wait_child(child);
}

static int by_posix_spawn(char **arguments)
{
    pid_t child;
    posix_spawn_file_actions_t actions;
    assert_ok(posix_spawn_file_actions_init(&actions));
    assert_ok(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0));
    assert_ok(posix_spawn_file_actions_adddup2(&actions, 0, 700));
    assert_ok(posix_spawn(&child, "/bin/sh", &actions, NULL, arguments, environ));
    assert_ok(posix_spawn_file_actions_destroy(&actions));
    return wait_child(child);
}

static int by_posix_spawn_dup(char **arguments)
{
    pid_t child;
    posix_spawn_file_actions_t actions;
    int number = atoi(arguments[4]);
    assert_ok(posix_spawn_file_actions_init(&actions));
    int refused = posix_spawn_file_actions_adddup2(&actions, number, 600);
    int same = posix_spawn_file_actions_adddup2(&actions, number, number);
    assert_int_equal(refused, EOPNOTSUPP);
    assert_int_equal(same, EOPNOTSUPP);
    arguments[4] = "600";
    assert_ok(posix_spawn(&child, "/bin/sh", &actions, NULL, arguments, environ));
    assert_ok(posix_spawn_file_actions_destroy(&actions));
    return wait_child(child);
}

static int by_posix_spawnp(char **arguments)
{
    pid_t child;
    assert_ok(posix_spawnp(&child, "sh", NULL, NULL, arguments, environ));
    return wait_child(child);
}

static int by_system(char **arguments)
{
    char command[200];
    snprintf(command, sizeof command, "set -- %s; %s", arguments[4], FINDS_IT);
    return system(command);
}

static int by_popen(char **arguments)
{
    char command[200];
    snprintf(command, sizeof command, "set -- %s; %s", arguments[4], FINDS_IT);
    FILE *stream = popen(command, "r");
    assert_non_null(stream);
    assert_int_equal(fgetc(stream), EOF);
    return pclose(stream);
}

static int by_fork_dup_exec(char **arguments)
{
    pid_t child = fork();
    if (child == 0) {
        if (dup2(atoi(arguments[4]), 600) != 600)
            _exit(1);
        arguments[4] = "600";
        execvp("sh", arguments);
        _exit(127);
    }
    return wait_child(child);
}

static int by_vfork_dup_exec(char **arguments)
{
    int number = atoi(arguments[4]);
    pid_t child = vfork();
    if (child == 0) {
        if (dup2(number, 600) != 600)
            _exit(1);
        arguments[4] = "600";
        execvp("sh", arguments);
        _exit(127);
    }
    return wait_child(child);
}

/* The parent's duplicate. */
static int by_dup_system(char **arguments)
{
    char number[16];
    int copy = dup(atoi(arguments[4])), again = dup2(copy, 601);
    assert_true(copy >= 0);
    snprintf(number, sizeof number, "%d", copy);
    arguments[4] = number;
    int first = by_system(arguments);
    arguments[4] = "601";
    int second = by_system(arguments);
    assert_ok(close(copy));
    assert_ok(close(again));
    return first == second ? first : -1;
}

static int by_ioctl(char **arguments)
{
    assert_ok(ioctl(atoi(arguments[4]), FIONCLEX));
    return by_posix_spawn(arguments);
}

static int (*const starters[])(char **) = {by_fork, by_vfork, by_posix_spawn, by_posix_spawnp,
                                           by_system, by_popen, by_fork_dup_exec, by_vfork_dup_exec,
                                           by_posix_spawn_dup, by_dup_system, by_ioctl};

/* Even if the program has taken the flag off. */
static void test_no_other_program_gets_the_socket(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    for (size_t i = 0; i < sizeof starters / sizeof *starters; i++) {
        struct receiver receiver;
        int fd[2];
        char number[16];
        char *arguments[] = {"sh", "-c", FINDS_IT, "sh", number, NULL};
        tcp_pair(fd);
        assert_ok(fcntl(fd[0], F_SETFD, 0));
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        assert_ok(fcntl(fd[0], F_SETFD, 0));
        receiver_init(&receiver, fd[1], &keys);
        assert_returns(send(fd[0], pattern(0, 10), 10, 0), 10);
        snprintf(number, sizeof number, "%d", fd[0]);
        print_message("starter %zu\n", i);
        assert_exited(starters[i](arguments), 5);
        /* And here it is as it was. */
        assert_returns(send(fd[0], pattern(10, 10), 10, 0), 10);
        expect_records(&receiver, "23:10 23:10");
        assert_ok(close(fd[0]));
        expect_end(&receiver);
        assert_ok(close(fd[1]));
    }
}

/* The number is put down first, and becomes a TLS socket's afterwards. */
static void test_keys_between_adddup2_and_spawn(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    for (int by_name = 0; by_name < 2; by_name++) {
        posix_spawn_file_actions_t passes, opens, closes;
        struct receiver receiver;
        pid_t child;
        int fd[2], other, number;
        char *arguments[] = {"sh", "-c", FINDS_IT, "sh", "600", NULL};
        tcp_pair(fd);
        number = fd[0];
        other = open("/dev/null", O_RDWR | O_CLOEXEC);
        assert_ok(posix_spawn_file_actions_init(&passes));
        assert_ok(posix_spawn_file_actions_adddup2(&passes, other, 599));
        assert_ok(posix_spawn_file_actions_adddup2(&passes, fd[0], 600));
        /* Here it is something else by then. */
        assert_ok(posix_spawn_file_actions_init(&opens));
        assert_ok(posix_spawn_file_actions_addopen(&opens, fd[0], "/dev/null", O_RDWR, 0));
        assert_ok(posix_spawn_file_actions_adddup2(&opens, fd[0], 600));
        assert_ok(posix_spawn_file_actions_init(&closes));
        assert_ok(posix_spawn_file_actions_addclose(&closes, fd[0]));
        assert_ok(posix_spawn_file_actions_adddup2(&closes, other, fd[0]));
        assert_ok(posix_spawn_file_actions_adddup2(&closes, fd[0], 600));
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        receiver_init(&receiver, fd[1], &keys);
        int (*spawn)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const[],
                     char *const[]) = by_name ? posix_spawnp : posix_spawn;
        const char *program = by_name ? "sh" : "/bin/sh";
        assert_int_equal(spawn(&child, program, &passes, NULL, arguments, environ), EOPNOTSUPP);
        assert_ok(spawn(&child, program, &opens, NULL, arguments, environ));
        assert_exited(wait_child(child), 9);
        assert_ok(spawn(&child, program, &closes, NULL, arguments, environ));
        assert_exited(wait_child(child), 9);
        assert_returns(send(fd[0], pattern(0, 10), 10, 0), 10);
        expect_records(&receiver, "23:10");
        close_tls(fd);
        /* The number is an ordinary one's again. */
        tcp_pair(fd);
        assert_returns(dup2(fd[0], number), number);
        assert_ok(spawn(&child, program, &passes, NULL, arguments, environ));
        assert_exited(wait_child(child), 9);
        close_both(fd);
        if (number != fd[0] && number != fd[1])
            assert_ok(close(number));
        assert_ok(close(other));
        assert_ok(posix_spawn_file_actions_destroy(&passes));
        assert_ok(posix_spawn_file_actions_destroy(&opens));
        assert_ok(posix_spawn_file_actions_destroy(&closes));
    }
}

/* A server whose standard input is the socket, and a child that gets a pipe in its place. */
static int starts_with_a_pipe(void *argument)
{
    int how = *(int *)argument, fd[2], ends[2];
    struct keys keys = tls12_keys();
    struct receiver receiver;
    char *arguments[] = {"sh", "-c", "read -r x && test \"$x\" = hello && exit 5", NULL};
    tls_pair(fd, &keys, &receiver);
    CHILD_CHECK(dup2(fd[0], 0) == 0 && close(fd[0]) == 0);
    CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
    CHILD_CHECK(write(ends[1], "hello\n", 6) == 6);
    pid_t child = how ? vfork() : fork();
    if (child == 0) {
        if (dup2(ends[0], 0) != 0 || (how == 2 && fcntl(0, F_SETFD, 0) != 0))
            _exit(1);
        execv("/bin/sh", arguments);
        _exit(127);
    }
    int status = wait_child(child);
    CHILD_CHECK(write(0, pattern(0, 10), 10) == 10);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 10);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void test_a_child_with_a_pipe_for_standard_input(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++)
        assert_exited(in_child(starts_with_a_pipe, &how), 5);
}

/* Many children of every kind, while threads send: nothing is lost, and nothing goes out in the clear. */
static _Atomic bool stop;

struct sender {
    int fd;
    uint64_t sent;
    pthread_t thread;
};

static void *sends(void *argument)
{
    struct sender *sender = argument;
    while (!stop) {
        ssize_t n = send(sender->fd, pattern(sender->sent, 1000), 1000, 0);
        if (n <= 0)
            abort();
        sender->sent += (uint64_t)n;
    }
    return NULL;
}

static void test_children_beside_senders(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct sender senders[2];
    struct drain drains[2];
    int fd[2][2];
    stop = false;
    for (int i = 0; i < 2; i++) {
        tcp_pair(fd[i]);
        assert_ok(tls_tx_init(fd[i][0], keys.info, keys.len));
        drain_start(&drains[i], fd[i][1], &keys);
        senders[i] = (struct sender){.fd = fd[i][0]};
        assert_int_equal(pthread_create(&senders[i].thread, NULL, sends, &senders[i]), 0);
    }
    for (int round = 0; round < 4; round++) {
        char number[16];
        char *arguments[] = {"sh", "-c", FINDS_IT, "sh", number, NULL};
        snprintf(number, sizeof number, "%d", fd[round % 2][0]);
        for (size_t i = 0; i < sizeof starters / sizeof *starters; i++) {
            snprintf(number, sizeof number, "%d", fd[round % 2][0]);
            arguments[4] = number;
            assert_exited(starters[i](arguments), 5);
        }
    }
    stop = true;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(senders[i].thread, NULL), 0);
        assert_ok(close(fd[i][0]));
        drain_finish(&drains[i], senders[i].sent);
        assert_ok(close(fd[i][1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork_and_both_write),
        cmocka_unit_test(test_a_forked_child_closes),
        cmocka_unit_test(test_no_other_program_gets_the_socket),
        cmocka_unit_test(test_keys_between_adddup2_and_spawn),
        cmocka_unit_test(test_a_child_with_a_pipe_for_standard_input),
        cmocka_unit_test(test_children_beside_senders),
    };
    return RUN_PRELOADED("test_children", tests);
}
