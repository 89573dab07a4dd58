/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The end of a process in every way that there is: what was accepted arrives.
 */
#include "preload.h"

#include <arpa/inet.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

/* What a child does with its end of a connection, and how it goes. */
struct ending {
    const char *name;
    void (*end)(int fd);
    int status;
};

static int sending;
static uint64_t late_at;

static void send_late(void)
{
    if (send(sending, pattern(late_at, 7), 7, MSG_MORE | MSG_DONTWAIT) != 7)
        raw_call(SYS_exit_group, 98, 0, 0);
}

static void by_underscore_exit(int fd) { (void)fd; _exit(3); }
static void by_big_exit(int fd) { (void)fd; _Exit(3); }
static void by_exit(int fd) { (void)fd; exit(3); }
static void by_quick_exit(int fd) { (void)fd; quick_exit(3); }
static void by_close(int fd) { close(fd); _exit(3); }

static void by_exec(int fd)
{
    (void)fd;
    execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
}

static void by_execvpe(int fd)
{
    (void)fd;
    char *arguments[] = {"sh", "-c", "exit $CODE", NULL}, *environment[] = {"CODE=3", NULL};
    execvpe("sh", arguments, environment);
}

static void by_execlp(int fd)
{
    (void)fd;
    execlp("sh", "sh", "-c", "exit $1", "sh", "3", (char *)NULL);
}

static void by_execle(int fd)
{
    (void)fd;
    char *environment[] = {"CODE=3", NULL};
    execle("/bin/sh", "sh", "-c", "exit $CODE", (char *)NULL, environment);
}

static void by_abort_handler_exit(int fd)
{
    (void)fd;
    struct sigaction action = {.sa_handler = (void (*)(int))_exit};
    sigaction(3, &action, NULL);
    raise(3);
}

static void *exits(void *argument)
{
    (void)argument;
    exit(3);
}

static void by_another_thread(int fd)
{
    (void)fd;
    pthread_t thread;
    pthread_create(&thread, NULL, exits, NULL);
    pthread_exit(NULL);
}

static const struct ending endings[] = {
    {"_exit", by_underscore_exit, 3},
    {"_Exit", by_big_exit, 3},
    {"exit", by_exit, 3},
    {"quick_exit", by_quick_exit, 3},
    {"close and _exit", by_close, 3},
    {"execl", by_exec, 3},
    {"execvpe", by_execvpe, 3},
    {"execlp", by_execlp, 3},
    {"execle", by_execle, 3},
    {"_exit in a signal handler", by_abort_handler_exit, 3},
    {"exit of another thread", by_another_thread, 3},
};

/* The child has keys of its own, set after the fork: its connection is not a shared one. */
static void run_ending(const struct ending *ending, bool full)
{
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], report[2];
    uint64_t sent = 0;
    tcp_pair_sized(fd, 16384, 16384);
    assert_ok(pipe(report));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(30);
        CHILD_CHECK(close(fd[1]) == 0);
        CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
        if (full) {
            CHILD_CHECK(fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
            sent = fill_socket(fd[0], 0, 5000);
        } else {
            CHILD_CHECK(write(fd[0], pattern(0, 1000), 1000) == 1000);
            CHILD_CHECK(send(fd[0], pattern(1000, 11), 11, MSG_MORE) == 11);
            sent = 1011;
        }
        CHILD_CHECK(write(report[1], &sent, sizeof sent) == sizeof sent);
        ending->end(fd[0]);
        CHILD_CHECK(!"still there");
    }
    assert_ok(close(fd[0]));
    assert_ok(close(report[1]));
    assert_returns(read(report[0], &sent, sizeof sent), sizeof sent);
    receiver_init(&receiver, fd[1], &keys);
    print_message("%s, %llu bytes\n", ending->name, (unsigned long long)sent);
    expect_bytes(&receiver, sent);
    expect_end(&receiver);
    assert_exited(wait_child(child), ending->status);
    assert_ok(close(fd[1]));
    assert_ok(close(report[0]));
}

enum { MUCH = 400000 };

static void send_much(void)
{
    CHILD_CHECK(write(sending, pattern(0, MUCH), MUCH) == MUCH);
}

static void by_a_handler_of_quick_exit(int fd)
{
    sending = fd;
    CHILD_CHECK(at_quick_exit(send_much) == 0);
    quick_exit(3);
}

static void by_a_stream(int fd)
{
    FILE *stream = fdopen(fd, "w");
    CHILD_CHECK(stream != NULL && setvbuf(stream, NULL, _IOFBF, 2 * MUCH) == 0);
    CHILD_CHECK(fwrite(pattern(0, MUCH), 1, MUCH, stream) == MUCH);
    exit(3);
}

/* What is sent in the last moment, behind everything of the program's own. */
static void test_the_last_moment(void **state)
{
    (void)state;
    void (*const ends[])(int) = {by_a_handler_of_quick_exit, by_a_stream};
    struct keys keys = tls12_keys();
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct receiver receiver;
        int fd[2];
        tcp_pair_sized(fd, 16384, 16384);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(30);
            CHILD_CHECK(close(fd[1]) == 0);
            CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
            ends[i](fd[0]);
        }
        assert_ok(close(fd[0]));
        receiver_init(&receiver, fd[1], &keys);
        expect_bytes(&receiver, MUCH);
        expect_end(&receiver);
        assert_exited(wait_child(child), 3);
        assert_ok(close(fd[1]));
    }
}

static void test_a_pending_record(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        run_ending(&endings[i], false);
}

static void test_a_full_socket(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        run_ending(&endings[i], true);
}

static int sends_at_exit(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    CHILD_CHECK(close(fd[1]) == 0);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    sending = fd[0];
    CHILD_CHECK(write(fd[0], pattern(0, 10), 10) == 10);
    late_at = 10;
    CHILD_CHECK(atexit(send_late) == 0);
    exit(3);
}

static void test_a_handler_of_atexit_sends(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tcp_pair(fd);
    assert_exited(in_child(sends_at_exit, fd), 3);
    assert_ok(close(fd[0]));
    receiver_init(&receiver, fd[1], &keys);
    expect_bytes(&receiver, 17);
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

/* The parent leaves in daemon(3) by a hidden name, and the child goes on with the connection. */
static int becomes_a_daemon(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    CHILD_CHECK(close(fd[1]) == 0);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(send(fd[0], pattern(0, 10), 10, 0) == 10);
    CHILD_CHECK(daemon(1, 1) == 0);
    CHILD_CHECK(send(fd[0], pattern(10, 10), 10, 0) == 10);
    CHILD_CHECK(close(fd[0]) == 0);
    return 0;
}

static void test_daemon(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tcp_pair(fd);
    assert_exited(in_child(becomes_a_daemon, fd), 0);
    assert_ok(close(fd[0]));
    receiver_init(&receiver, fd[1], &keys);
    expect_bytes(&receiver, 20);
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

/* A reader that never reads does not keep a process for ever: the linger time is its end. */
static int leaves_a_reader_that_sleeps(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
    (void)fill_socket(fd[0], 0, 5000);
    return 0;
}

static void test_a_reader_that_sleeps(void **state)
{
    (void)state;
    int fd[2];
    small_tcp_pair(fd);
    assert_exited(in_child(leaves_a_reader_that_sleeps, fd), 0);
    close_tls(fd);
}

/* Many such readers cost no more than one: one time for all of them. What they have is no whole, so they are reset. */
enum { SLEEPERS = 16, READERS = 100 };

static void test_many_readers_that_sleep(void **state)
{
    (void)state;
    int fd[SLEEPERS][2];
    struct keys keys = tls12_keys();
    for (int i = 0; i < SLEEPERS; i++)
        small_tcp_pair(fd[i]);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        /* One after the other they would take half a minute. */
        alarm(15);
        for (int i = 0; i < SLEEPERS; i++) {
            CHILD_CHECK(close(fd[i][1]) == 0);
            CHILD_CHECK(tls_tx_init(fd[i][0], keys.info, keys.len) == 0);
            CHILD_CHECK(fcntl(fd[i][0], F_SETFL, O_NONBLOCK) == 0);
            (void)fill_socket(fd[i][0], 0, 1 << 20);
            if (i % 2)
                CHILD_CHECK(close(fd[i][0]) == 0);
        }
        exit(5);
    }
    for (int i = 0; i < SLEEPERS; i++)
        assert_ok(close(fd[i][0]));
    assert_exited(wait_child(child), 5);
    for (int i = 0; i < SLEEPERS; i++) {
        wait_for(fd[i][1], POLLERR);
        assert_ok(close(fd[i][1]));
    }
}

/* A child waits for nothing of its parent's, however it ends; only for what it has sent itself. */
static void test_a_child_beside_a_full_queue(void **state)
{
    (void)state;
    static const struct ending ways[] = {
        {"_exit", by_underscore_exit, 3}, {"exit", by_exit, 3}, {"quick_exit", by_quick_exit, 3},
        {"close and _exit", by_close, 3}, {"execl", by_exec, 3},
    };
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], ready[2];
    small_tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_ok(fcntl(fd[0], F_SETFL, O_NONBLOCK));
    uint64_t sent = fill_socket(fd[0], 0, 1 << 20);
    /* So many that waiting for each would take longer than the test may. */
    for (size_t i = 0; i < 6 * (sizeof ways / sizeof *ways); i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            ways[i % (sizeof ways / sizeof *ways)].end(fd[0]);
            CHILD_CHECK(!"still there");
        }
        /* Before anything is read: the parent's queue is as full as it was. */
        assert_exited(wait_child(child), 3);
        assert_fails(send(fd[0], "x", 1, MSG_DONTWAIT), EAGAIN);
    }
    /* The reader gets all of the parent's, and of a child that has sent something itself. */
    assert_ok(pipe(ready));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        CHILD_CHECK(fcntl(fd[0], F_SETFL, 0) == 0);
        CHILD_CHECK(write(ready[1], "", 1) == 1);
        CHILD_CHECK(send(fd[0], pattern(sent, 300), 300, 0) == 300);
        _exit(3);
    }
    char byte;
    assert_returns(read(ready[0], &byte, 1), 1);
    receiver_init(&receiver, fd[1], &keys);
    expect_bytes(&receiver, sent + 300);
    assert_exited(wait_child(child), 3);
    assert_ok(close(ready[0]));
    assert_ok(close(ready[1]));
    close_tls(fd);
}

/* More closed readers than there are descriptors: the program goes on. */
static int readers[READERS];

static int closes_many_readers(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    struct rlimit limit = {64, 64};
    for (int i = 0; i < READERS; i++)
        CHILD_CHECK(close(readers[i]) == 0);
    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int i = 0; i < READERS; i++) {
        int other = accept(fd[0], NULL, NULL), size = 16384;
        CHILD_CHECK(other >= 0);
        CHILD_CHECK(setsockopt(other, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
        CHILD_CHECK(tls_tx_init(other, keys.info, keys.len) == 0);
        CHILD_CHECK(fcntl(other, F_SETFL, O_NONBLOCK) == 0);
        (void)fill_socket(other, 0, 1 << 20);
        CHILD_CHECK(close(other) == 0);
    }
    return 7;
}

static void test_many_closed_readers(void **state)
{
    (void)state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), size = 16384;
    assert_ok(bind(listener, (void *)&at, sizeof at));
    assert_ok(listen(listener, READERS));
    assert_ok(getsockname(listener, (void *)&at, &len));
    for (int i = 0; i < READERS; i++) {
        readers[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_ok(setsockopt(readers[i], SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
        assert_ok(connect(readers[i], (void *)&at, sizeof at));
    }
    assert_exited(in_child(closes_many_readers, &listener), 7);
    /* The child has ended without having sent it all: no reader takes that for the end of the stream. */
    for (int i = 0; i < READERS; i++) {
        wait_for(readers[i], POLLERR);
        assert_ok(close(readers[i]));
    }
    assert_ok(close(listener));
}

/* dup2 over a socket takes it out of the epoll sets, too, also while records are queued. */
static void test_replaced_in_an_epoll_set(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP};
    int fd[2], ends[2], set = epoll_create1(EPOLL_CLOEXEC);
    small_tcp_pair(fd);
    assert_ok(pipe(ends));
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_ok(fcntl(fd[0], F_SETFL, O_NONBLOCK));
    uint64_t sent = fill_socket(fd[0], 0, 1 << 20);
    assert_ok(epoll_ctl(set, EPOLL_CTL_ADD, fd[0], &event));
    assert_int_equal(dup2(ends[0], fd[0]), fd[0]);
    assert_ok(shutdown(fd[1], SHUT_WR));
    assert_returns(epoll_wait(set, &event, 1, 100), 0);
    receiver_init(&receiver, fd[1], &keys);
    expect_bytes(&receiver, sent);
    for (int i = 0; i < 2; i++) {
        assert_ok(close(fd[i]));
        assert_ok(close(ends[i]));
    }
    assert_ok(close(set));
}

/* TX-58: SO_LINGER with no time resets, also while records are queued: by whatever takes the last number away. */
enum last { CLOSED, REPLACED, EXITED };

static void reset_a_reader(int fd, enum last how, int go)
{
    struct keys keys = tls12_keys();
    struct linger linger = {.l_onoff = 1};
    char byte;
    alarm(30);
    CHILD_CHECK(tls_tx_init(fd, keys.info, keys.len) == 0);
    CHILD_CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    (void)fill_socket(fd, 0, 1 << 20);
    CHILD_CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    if (how == EXITED)
        _exit(0);
    CHILD_CHECK(how == CLOSED ? close(fd) == 0 : dup2(go, fd) == fd);
    /* Until the reader has found out. */
    CHILD_CHECK(read(go, &byte, 1) == 0);
    _exit(0);
}

static void test_tx58_resets(void **state)
{
    (void)state;
    for (enum last how = CLOSED; how <= EXITED; how++) {
        int fd[2], go[2];
        small_tcp_pair(fd);
        assert_ok(pipe(go));
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(fd[1]);
            close(go[1]);
            reset_a_reader(fd[0], how, go[0]);
        }
        assert_ok(close(fd[0]));
        assert_ok(close(go[0]));
        wait_for(fd[1], POLLERR);
        assert_ok(close(go[1]));
        assert_exited(wait_child(child), 0);
        assert_ok(close(fd[1]));
    }
}

/* _exit from the handler of a signal that has interrupted the send itself, with and without something
 * pending. It may hold any lock of ours: some bytes may be lost, but the process ends. */
static void on_fault(int number)
{
    _exit(40 + (number == SIGSEGV));
}

static int faults_in_send(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    struct sigaction action = {.sa_handler = on_fault};
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    CHILD_CHECK(send(fd[0], pattern(0, 100), 100, MSG_MORE) == 100);
    /* An address that is none: EFAULT, or the signal, as the library copies by itself. */
    ssize_t n = send(fd[0], (void *)16, 100000, MSG_MORE);
    CHILD_CHECK(n < 0 && errno == EFAULT);
    return 41;
}

static void test_a_fault_in_send(void **state)
{
    (void)state;
    int fd[2];
    time_t begin = time(NULL);
    tcp_pair(fd);
    assert_exited(in_child(faults_in_send, fd), 41);
    /* The patience of the drain is 2 s; nothing like a hang. */
    assert_true(time(NULL) - begin < 20);
    close_tls(fd);
}

static void on_alarm(int number)
{
    (void)number;
    _exit(42);
}

/* At any moment of a stream of sends: the process ends, and what arrives is right and in order. The record
 * that the interrupted call was writing may be cut off, as nobody but that call can go on with it. */
static int is_interrupted_anywhere(void *argument)
{
    int *fd = argument;
    struct keys keys = tls12_keys();
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval soon = {.it_value.tv_usec = 500 + getpid() % 37 * 100};
    CHILD_CHECK(close(fd[1]) == 0);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHILD_CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    for (uint64_t at = 0;; at += 1000)
        CHILD_CHECK(send(fd[0], pattern(at, 1000), 1000, at % 3000 ? MSG_MORE : 0) == 1000);
    return 0;
}

static void test_exit_interrupts_a_send(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    for (int i = 0; i < 20; i++) {
        int fd[2];
        struct drain drain;
        tcp_pair(fd);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(is_interrupted_anywhere(fd));
        assert_ok(close(fd[0]));
        drain_start(&drain, fd[1], &keys);
        assert_exited(wait_child(child), 42);
        assert_int_equal(pthread_join(drain.thread, NULL), 0);
        if (drain.receiver.fault[0] && !strstr(drain.receiver.fault, "cut off"))
            fail_msg("%s", drain.receiver.fault);
        assert_ok(close(fd[1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_moment),
        cmocka_unit_test(test_a_pending_record),     cmocka_unit_test(test_a_full_socket),
        cmocka_unit_test(test_a_handler_of_atexit_sends), cmocka_unit_test(test_daemon),
        cmocka_unit_test(test_a_reader_that_sleeps), cmocka_unit_test(test_a_fault_in_send),
        cmocka_unit_test(test_tx58_resets), cmocka_unit_test(test_many_readers_that_sleep),
        cmocka_unit_test(test_a_child_beside_a_full_queue), cmocka_unit_test(test_many_closed_readers),
        cmocka_unit_test(test_replaced_in_an_epoll_set),
        cmocka_unit_test(test_exit_interrupts_a_send),
    };
    return RUN_PRELOADED("test_exit", tests);
}
