/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The threads of the library come when something is left to them and end when there is nothing. Also run under the preload
 * library (preload/test_lone_threads.c).
 */
#include "harness.h"

#include <dirent.h>
#include <sched.h>
#include <time.h>

/* All connections are made in children: what a test leaves behind is its own. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: child: %s (%s)\n", __FILE__, __LINE__, #condition,             \
                    strerror(errno));                                                              \
            fflush(NULL);                                                                          \
            kill(getpid(), SIGKILL);                                                               \
        }                                                                                          \
    } while (0)

static int threads_of(pid_t process)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)process);
    DIR *tasks = opendir(path);
    assert_non_null(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* With an engine that was asked for, each record is sealed by another thread. */
static bool seals_elsewhere(void)
{
    const char *asked = getenv("UKTLS_ENGINE");
    return current_engine == UKTLS_ENGINE_THREADS || current_engine == UKTLS_ENGINE_OPENSSL ||
           (asked && strcmp(asked, "auto") != 0 && strcmp(asked, "inline") != 0);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

static void keyed_pair(int fd[2], bool is_small)
{
    struct keys keys = tls13_keys();
    if (is_small)
        small_tcp_pair(fd);
    else
        tcp_pair(fd);
    CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
}

static pid_t begin_child(void)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        alarm(60);
    return child;
}

/* Nothing is queued as the calls return: there is no other thread, and there never was. */
static void test_sends_start_no_thread(void **state)
{
    (void)state;
    pid_t child = begin_child();
    if (child == 0) {
        int fd[2];
        static char sink[65536];
        keyed_pair(fd, false);
        for (int round = 0; round < 8; round++) {
            set_nonblocking(fd[0], round % 2);
            CHECK(tls_send(fd[0], pattern(0, 3000), 3000, 0) == 3000);
            CHECK(recv(fd[1], sink, sizeof sink, 0) > 3000);
            nap();
        }
        /* What CLONE_NEWUSER asks of its caller, too, and a sandbox may refuse to all. */
        if (!seals_elsewhere())
            CHECK(unshare(CLONE_VM) == 0);
        _exit(0);
    }
    assert_returns(wait_child(child), 0);
}

/* What was queued goes out by other threads, and soon after the process has one again. */
static void test_threads_end(void **state)
{
    (void)state;
    /* The accelerator keeps its thread. */
    if (current_engine == UKTLS_ENGINE_OPENSSL)
        skip();
    pid_t child = begin_child();
    if (child == 0) {
        int fd[2];
        struct receiver receiver;
        struct keys keys = tls13_keys();
        keyed_pair(fd, true);
        receiver_init(&receiver, fd[1], &keys);
        for (int round = 0; round < 3; round++) {
            uint64_t sent = fill_socket(fd[0], receiver.position, 16384);
            CHECK(threads_of(getpid()) > 1);
            while (sent > 0) {
                CHECK(receiver_next(&receiver) > 0);
                sent -= receiver.len;
            }
            /* Half of the time the threads are met while they end. */
            for (int i = 0; round && i < 10; i++)
                nap();
        }
        for (int tries = 0; unshare(CLONE_VM) != 0 && tries < 2000; tries++)
            nap();
        CHECK(threads_of(getpid()) == 1);
        _exit(0);
    }
    assert_returns(wait_child(child), 0);
}

static int told[2];

static void tell_end(void)
{
    (void)!write(told[1], "E", 1);
}

/* A child that sends until the socket is full, closes or not, and whose main thread then ends: so many milliseconds behind
 * the parent's word, if it is to wait for one. The parent reads. */
static pid_t end_main(int receiving[2], const int *go, bool closes, int delay_ms, uint64_t *sent)
{
    int counts[2];
    assert_ok(pipe(told));
    assert_ok(pipe(counts));
    small_tcp_pair(receiving);
    pid_t child = begin_child();
    if (child == 0) {
        struct keys keys = tls13_keys();
        close(receiving[1]);
        CHECK(tls_tx_init(receiving[0], keys.info, keys.len) == 0);
        CHECK(atexit(tell_end) == 0);
        uint64_t count = fill_socket(receiving[0], 0, 16384);
        CHECK(write(counts[1], &count, sizeof count) == sizeof count);
        if (closes)
            CHECK(uktls_close(receiving[0]) == 0);
        if (go) {
            char word;
            CHECK(read(go[0], &word, 1) == 1);
            nanosleep(&(struct timespec){.tv_nsec = delay_ms * 1000000L}, NULL);
        }
        pthread_exit(NULL);
    }
    close(receiving[0]);
    close(told[1]);
    close(counts[1]);
    assert_returns(read(counts[0], sent, sizeof *sent), sizeof *sent);
    close(counts[0]);
    return child;
}

/* AS-20 and the end of a process: the last thread of the program has ended, and what it has sent arrives; the process
 * ends with 0 and runs its handlers, which have the program's descriptors. */
static void main_ends(bool closes)
{
    int fd[2];
    uint64_t sent;
    char end = 0;
    struct receiver receiver;
    struct keys keys = tls13_keys();
    pid_t child = end_main(fd, NULL, closes, 0, &sent);
    receiver_init(&receiver, fd[1], &keys);
    /* Main has ended, and what the process has left takes its time. */
    for (int i = 0; i < 30; i++)
        nap();
    expect_bytes(&receiver, sent);
    expect_end(&receiver);
    assert_returns(wait_child(child), 0);
    assert_returns(read(told[0], &end, 1), 1);
    assert_int_equal(end, 'E');
    close(told[0]);
    close(fd[1]);
}

static void test_main_ends(void **state)
{
    (void)state;
    if (under_valgrind())
        skip(); /* its own /proc/self/exe tells of no end of main */
    main_ends(false);
}

static void test_main_ends_behind_a_close(void **state)
{
    (void)state;
    if (under_valgrind())
        skip(); /* its own /proc/self/exe tells of no end of main */
    main_ends(true);
}

/* Main may also end when the orphan is out, and the threads that were there for it are about to end. Whichever of them
 * comes last, the handlers have the program's descriptors. */
static void test_main_ends_as_threads_do(void **state)
{
    (void)state;
    if (under_valgrind())
        skip(); /* its own /proc/self/exe tells of no end of main */
    for (int delay = 0; delay <= 160; delay += 20) {
        int fd[2], go[2];
        uint64_t sent;
        char end = 0;
        struct receiver receiver;
        struct keys keys = tls13_keys();
        assert_ok(pipe(go));
        pid_t child = end_main(fd, go, true, delay, &sent);
        receiver_init(&receiver, fd[1], &keys);
        expect_bytes(&receiver, sent);
        expect_end(&receiver);
        assert_returns(write(go[1], "G", 1), 1);
        assert_returns(wait_child(child), 0);
        assert_returns(read(told[0], &end, 1), 1);
        assert_int_equal(end, 'E');
        close(go[0]);
        close(go[1]);
        close(told[0]);
        close(fd[1]);
    }
}

/* Meanwhile a signal of the process ends it. */
static void signal_ends(bool closes)
{
    int fd[2];
    uint64_t sent;
    int status;
    pid_t child = end_main(fd, NULL, closes, 0, &sent);
    for (int i = 0; i < 5; i++)
        nap();
    assert_ok(kill(child, SIGTERM));
    status = wait_child(child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
    close(told[0]);
    close(fd[1]);
}

static void test_a_signal_ends_it(void **state)
{
    (void)state;
    signal_ends(false);
}

static void test_a_signal_ends_it_behind_a_close(void **state)
{
    (void)state;
    signal_ends(true);
}

#ifndef RUN_LONE
#define RUN_LONE RUN_ENGINES
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sends_start_no_thread),
        cmocka_unit_test(test_threads_end),
        cmocka_unit_test(test_main_ends),
        cmocka_unit_test(test_main_ends_behind_a_close),
        cmocka_unit_test(test_main_ends_as_threads_do),
        cmocka_unit_test(test_a_signal_ends_it),
        cmocka_unit_test(test_a_signal_ends_it_behind_a_close),
    };
    return RUN_LONE(__FILE__, tests);
}
