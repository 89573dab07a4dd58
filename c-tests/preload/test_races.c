/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The socket, not the number: keys, duplicates and writes at the same time, by all numbers that a socket has, in threads.
 * test_family.c has the same for processes. No byte goes out plain, and no number is sealed twice.
 */
#include "preload.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define SECRET "nobody may read this"
enum { SECRET_LEN = sizeof(SECRET) - 1 };

/* --- keys by two threads --------------------------------------------------------------------- */

static pthread_barrier_t together;

struct setter {
    int fd, result;
    int (*set)(int, const void *, size_t);
    struct keys keys;
};

static void *sets(void *argument)
{
    struct setter *setter = argument;

    pthread_barrier_wait(&together);
    setter->result = setter->set(setter->fd, setter->keys.info, setter->keys.len) == 0 ? 0 : errno;
    return NULL;
}

static void set_together(struct setter *one, struct setter *other)
{
    pthread_t thread;

    assert_ok(pthread_barrier_init(&together, NULL, 2));
    assert_ok(pthread_create(&thread, NULL, sets, other));
    sets(one);
    assert_ok(pthread_join(thread, NULL));
    assert_ok(pthread_barrier_destroy(&together));
}

/* Both have set keys for sending by a number of their own: there is one sequence of numbers. */
static void test_one_state_for_two_setters(void **state)
{
    (void)state;
    for (int round = 0; round < 1500; round++) {
        struct keys keys = tls13_keys();
        struct receiver receiver;
        int fd[2];

        tcp_pair(fd);
        receiver_init(&receiver, fd[1], &keys);
        struct setter setters[] = {{.fd = fd[0], .set = tls_tx_init, .keys = keys},
                                   {.fd = dup(fd[0]), .set = tls_tx_init, .keys = keys}};
        set_together(&setters[0], &setters[1]);
        /* The second replaces the keys of TLS 1.3 by the same, which is refused; or has come first. */
        assert_true(setters[0].result == 0 || setters[1].result == 0);
        assert_returns(write(setters[0].fd, pattern(0, 10), 10), 10);
        assert_returns(write(setters[1].fd, pattern(10, 10), 10), 10);
        expect_records(&receiver, "23:10 23:10");
        assert_ok(close(setters[1].fd));
        close_both(fd);
    }
}

/* One sets keys for each direction: both are set, and both numbers seal. */
static void test_a_direction_each(void **state)
{
    (void)state;
    for (int round = 0; round < 1500; round++) {
        struct keys keys = tls12_keys();
        struct receiver receiver;
        int fd[2];

        tcp_pair(fd);
        receiver_init(&receiver, fd[1], &keys);
        struct setter setters[] = {{.fd = fd[0], .set = tls_tx_init, .keys = keys},
                                   {.fd = dup(fd[0]), .set = tls_rx_init, .keys = keys}};
        set_together(&setters[0], &setters[1]);
        assert_int_equal(setters[0].result, 0);
        assert_int_equal(setters[1].result, 0);
        assert_returns(write(setters[1].fd, pattern(0, 10), 10), 10);
        assert_returns(write(setters[0].fd, pattern(10, 10), 10), 10);
        expect_records(&receiver, "23:10 23:10");
        assert_ok(close(setters[1].fd));
        close_both(fd);
    }
}

/* An attempt that fails takes nothing away that another thread has. */
static void test_refused_keys_beside_good_ones(void **state)
{
    (void)state;
    for (int round = 0; round < 1500; round++) {
        struct keys keys = tls13_keys(), wrong = keys;
        struct receiver receiver;
        uint16_t cipher = 999;
        int fd[2];

        memcpy(wrong.info + 2, &cipher, sizeof cipher);
        tcp_pair(fd);
        receiver_init(&receiver, fd[1], &keys);
        struct setter setters[] = {{.fd = fd[0], .set = tls_tx_init, .keys = keys},
                                   {.fd = fd[0], .set = tls_rx_init, .keys = wrong}};
        set_together(&setters[0], &setters[1]);
        assert_int_equal(setters[0].result, 0);
        assert_int_equal(setters[1].result, EINVAL);
        assert_returns(write(fd[0], pattern(0, 10), 10), 10);
        expect_records(&receiver, "23:10");
        close_both(fd);
    }
}

/* --- numbers that were there before the keys ------------------------------------------------------ */

static int by_dup(int fd)
{
    return dup(fd);
}

static int by_dup2(int fd)
{
    return dup2(fd, 700);
}

static int by_dup3(int fd)
{
    return dup3(fd, 701, O_CLOEXEC);
}

static int by_fcntl(int fd)
{
    return fcntl(fd, F_DUPFD, 702);
}

static int by_system_call(int fd)
{
    return (int)syscall(SYS_dup, fd);
}

static int by_dup_of_a_dup(int fd)
{
    int first = dup(fd), second = dup(first);

    close(first);
    return second;
}

static void pass(int through, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = "", byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    assert_returns(sendmsg(through, &msg, 0), 1);
}

static int take(int through)
{
    char control[CMSG_SPACE(sizeof(int))] = "", byte;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd;

    assert_returns(recvmsg(through, &msg, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
    return fd;
}

static int by_rights(int fd)
{
    int ends[2], came;

    assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pass(ends[0], fd);
    came = take(ends[1]);
    close_both(ends);
    return came;
}

static int by_pidfd(int fd)
{
    int process = (int)syscall(SYS_pidfd_open, getpid(), 0), came = (int)syscall(SYS_pidfd_getfd, process, fd, 0);

    close(process);
    return came;
}

static int (*const ways[])(int) = {by_dup,         by_dup2,         by_dup3,   by_fcntl,
                                   by_system_call, by_dup_of_a_dup, by_rights, by_pidfd};

static void test_every_number_is_the_socket(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        for (size_t suite = 0; suite < suite_count; suite += 5)
            for (int by_other = 0; by_other < 2 && suite_evp(&suites[suite]) != NULL; by_other++) {
                struct keys keys = make_keys(&suites[suite], 0, 0);
                struct receiver receiver;
                int fd[2], other;

                tcp_pair(fd);
                receiver_init(&receiver, fd[1], &keys);
                other = ways[i](fd[0]);
                assert_true(other >= 0);
                assert_ok(tls_tx_init(by_other ? other : fd[0], keys.info, keys.len));
                assert_returns(write(other, pattern(0, 10), 10), 10);
                assert_returns(write(fd[0], pattern(10, 10), 10), 10);
                assert_ok(close(fd[0]));
                assert_returns(send(other, pattern(20, 10), 10, 0), 10);
                expect_records(&receiver, "23:10 23:10 23:10");
                assert_ok(close(other));
                expect_end(&receiver);
                assert_ok(close(fd[1]));
            }
}

/* A descriptor that lies in a socket's queue while the keys are set. */
static void test_a_number_in_flight(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], ends[2], came;

    tcp_pair(fd);
    receiver_init(&receiver, fd[1], &keys);
    assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pass(ends[0], fd[0]);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    came = take(ends[1]);
    assert_returns(write(came, pattern(0, 10), 10), 10);
    assert_returns(write(fd[0], pattern(10, 10), 10), 10);
    expect_records(&receiver, "23:10 23:10");
    assert_ok(close(came));
    close_both(ends);
    close_both(fd);
}

static void tell(int to)
{
    assert_returns(write(to, "", 1), 1);
}

static void await(int from)
{
    char byte;

    assert_returns(read(from, &byte, 1), 1);
}

/* --- between mark and kernel ---------------------------------------------------------------------- */

struct stopped {
    int number;
    _Atomic int tid, may_write;
    ssize_t written;
};

static void *writes_once(void *argument)
{
    struct stopped *it = argument;

    it->tid = gettid();
    while (!it->may_write)
        sched_yield();
    it->written = write(it->number, SECRET, SECRET_LEN);
    return NULL;
}

enum { BY_KEYS, BY_TWIN_KEYS, BY_DUP2, BY_DUP3, BY_CLOSE_AND_DUPFD, STOPPED_WAYS };

/* The number becomes a TLS socket's while a thread is stopped in front of the kernel with it. -1: that is refused. */
static int becomes_tls(int how, const int fd[2], int number, const struct keys *keys)
{
    switch (how) {
    case BY_KEYS:
        return tls_tx_init(number, keys->info, keys->len);
    case BY_TWIN_KEYS:
        return tls_tx_init(fd[0], keys->info, keys->len);
    case BY_DUP2:
        return dup2(fd[0], number);
    case BY_DUP3:
        return dup3(fd[0], number, O_CLOEXEC);
    default:
        close(number);
        return fcntl(fd[0], F_DUPFD, number);
    }
}

static int with_a_stopped_writer(int how, int tids, int go)
{
    struct keys keys = tls12_keys();
    struct stopped it = {.number = 500};
    static char wire[1000];
    pthread_t thread;
    int fd[2], file = memfd_create("before", MFD_CLOEXEC);
    bool has_keys = how != BY_KEYS && how != BY_TWIN_KEYS;

    tcp_pair(fd);
    if (has_keys)
        CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(dup2(has_keys ? file : fd[0], it.number) == it.number);
    CHILD_CHECK(pthread_create(&thread, NULL, writes_once, &it) == 0);
    while (!it.tid)
        sched_yield();
    int tid = it.tid;
    CHILD_CHECK(write(tids, &tid, sizeof tid) == sizeof tid);
    await(go);
    it.may_write = 1;
    /* The tracer has stopped it. */
    await(go);
    int result = becomes_tls(how, fd, it.number, &keys), error = errno;
    CHILD_CHECK(result >= 0 || error == EBUSY);
    tid = 0;
    CHILD_CHECK(write(tids, &tid, sizeof tid) == sizeof tid);
    CHILD_CHECK(pthread_join(thread, NULL) == 0);
    if (result < 0 && how != BY_CLOSE_AND_DUPFD)
        CHILD_CHECK(becomes_tls(how, fd, it.number, &keys) >= 0);
    CHILD_CHECK(how == BY_CLOSE_AND_DUPFD || write(it.number, "abc", 3) == 3);
    /* What the writer has written is on its way; a record that is not there yet is none that could be plain. */
    usleep(20000);
    ssize_t n = recv(fd[1], wire, sizeof wire, MSG_DONTWAIT);
    /* What was written while there were no keys went out before. */
    bool before = !has_keys && result < 0;
    CHILD_CHECK(n <= 0 || before || memmem(wire, (size_t)n, SECRET, SECRET_LEN) == NULL);
    char *plain = n <= 0 ? NULL : memmem(wire, (size_t)n, SECRET, SECRET_LEN);
    CHILD_CHECK(plain == NULL || plain == wire);
    return 0;
}

/* Design rule 2 at its sharpest: a thread is stopped at its system call, behind its look at the mark. */
static void test_a_writer_stopped_at_its_system_call(void **state)
{
    (void)state;
    for (int how = 0; how < STOPPED_WAYS; how++) {
        int tids[2], go[2], tid, told, status;

        assert_ok(pipe(tids));
        assert_ok(pipe(go));
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(60);
            _exit(with_a_stopped_writer(how, tids[1], go[0]));
        }
        assert_returns(read(tids[0], &tid, sizeof tid), sizeof tid);
        if (ptrace(PTRACE_ATTACH, tid, NULL, NULL) != 0) {
            print_message("SKIPPED: no ptrace here: %s\n", strerror(errno));
            kill(child, SIGKILL);
            wait_child(child);
            skip();
        }
        assert_returns(waitpid(tid, &status, __WALL), tid);
        assert_ok(ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)PTRACE_O_TRACESYSGOOD));
        tell(go[1]);
        /* To the next call that enters the kernel with the number. */
        for (;;) {
            struct __ptrace_syscall_info info;

            assert_ok(ptrace(PTRACE_SYSCALL, tid, NULL, NULL));
            assert_returns(waitpid(tid, &status, __WALL), tid);
            assert_true(WIFSTOPPED(status));
            assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, tid, (void *)sizeof info, &info) > 0);
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_write && info.entry.args[0] == 500)
                break;
        }
        tell(go[1]);
        assert_returns(read(tids[0], &told, sizeof told), sizeof told);
        assert_int_equal(told, 0);
        assert_ok(ptrace(PTRACE_DETACH, tid, NULL, NULL));
        assert_exited(wait_child(child), 0);
        close_both(tids);
        close_both(go);
    }
}

/* --- everything at once ------------------------------------------------------------------------------- */

enum { NUMBER = 600, WRITERS = 4, ROUNDS = 150 };

static atomic_bool stops;
static _Atomic uint64_t unexpected;
static _Atomic int an_error;

static ssize_t write_somehow(unsigned how, int file, const int ends[2])
{
    struct iovec iov = {(void *)(uintptr_t)SECRET, SECRET_LEN};
    off_t offset = 0;
    char back[SECRET_LEN];
    ssize_t n;

    switch (how % 7) {
    case 0:
        return write(NUMBER, SECRET, SECRET_LEN);
    case 1:
        return writev(NUMBER, &iov, 1);
    case 2:
        return sendfile(NUMBER, file, &offset, SECRET_LEN);
    case 3:
        return dprintf(NUMBER, "%s", SECRET);
    case 4:
        return syscall(SYS_write, NUMBER, SECRET, SECRET_LEN);
    case 5:
        return pwritev2(NUMBER, &iov, 1, -1, 0);
    default:
        if (write(ends[1], SECRET, SECRET_LEN) != SECRET_LEN)
            return 0;
        n = splice(ends[0], NULL, NUMBER, NULL, SECRET_LEN, 0);
        if (n < 0)
            (void)!read(ends[0], back, sizeof back);
        return n;
    }
}

static void *writes_always(void *argument)
{
    unsigned how = (unsigned)(intptr_t)argument;
    int ends[2], file = memfd_create("secret", MFD_CLOEXEC);

    if (pipe2(ends, O_NONBLOCK) != 0 || write(file, SECRET, SECRET_LEN) != SECRET_LEN)
        abort();
    for (; !atomic_load(&stops); how++) {
        /* EPIPE, ECONNRESET: the peer of a socket that has just lost the number is gone. EAGAIN: what a call had
         * taken out of the pipe went with such a socket. */
        if (write_somehow(how, file, ends) < 0 && errno != EPIPE && errno != ECONNRESET && errno != EAGAIN) {
            an_error = errno;
            unexpected++;
        }
        /* Little at a time, as all of it is opened and looked at. */
        usleep(20);
    }
    close_both(ends);
    close(file);
    return NULL;
}

/* All that has come in whole records; a last one may be cut off by the end. */
static void expect_only_records(struct receiver *receiver)
{
    struct timeval timeout = {.tv_sec = 10};

    assert_ok(setsockopt(receiver->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    receiver->pattern = false;
    for (;;) {
        int got = receiver_next(receiver);

        if (got == 0)
            return;
        if (got < 0)
            fail_msg("%s", receiver->fault);
        for (size_t i = 0; i + SECRET_LEN <= receiver->len; i += SECRET_LEN)
            assert_memory_equal(receiver->data + i, SECRET, SECRET_LEN);
    }
}

/* Over a number that is always open, TLS sockets and other files are put without pause. */
static void everything_over_a_number(bool with_files)
{
    pthread_t threads[WRITERS];
    struct receiver *last = malloc(sizeof *last), *next = malloc(sizeof *next);
    int fd[2];

    signal(SIGPIPE, SIG_IGN);
    stops = false;
    unexpected = 0;
    struct keys keys = make_keys(&suites[0], 0, 0);
    small_tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    receiver_init(last, fd[1], &keys);
    assert_returns(dup2(fd[0], NUMBER), NUMBER);
    assert_ok(close(fd[0]));
    for (intptr_t i = 0; i < WRITERS; i++)
        assert_ok(pthread_create(&threads[i], NULL, writes_always, (void *)i));
    for (int round = 0; round < ROUNDS; round++) {
        const struct suite *suite = &suites[(size_t)round % suite_count];

        keys = make_keys(suite_evp(suite) != NULL ? suite : &suites[0], 0, (unsigned char)round);
        small_tcp_pair(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        receiver_init(next, fd[1], &keys);
        if (with_files) {
            int null = open("/dev/null", O_WRONLY);

            assert_returns(dup2(null, NUMBER), NUMBER);
            assert_ok(close(null));
        }
        assert_returns(round % 2 ? dup2(fd[0], NUMBER) : dup3(fd[0], NUMBER, O_CLOEXEC), NUMBER);
        assert_ok(close(fd[0]));
        expect_only_records(last);
        assert_ok(close(last->fd));
        struct receiver *was = last;
        last = next;
        next = was;
    }
    atomic_store(&stops, true);
    for (int i = 0; i < WRITERS; i++)
        assert_ok(pthread_join(threads[i], NULL));
    assert_ok(close(NUMBER));
    expect_only_records(last);
    assert_ok(close(last->fd));
    free(last);
    free(next);
    /* sendfile and send say ENOTSOCK and EINVAL of /dev/null. */
    if (unexpected && !with_files)
        fail_msg("%llu calls failed: %s", (unsigned long long)unexpected, strerror(an_error));
}

static void test_sockets_over_a_number(void **state)
{
    (void)state;
    everything_over_a_number(false);
}

static void test_sockets_and_files_over_a_number(void **state)
{
    (void)state;
    everything_over_a_number(true);
}

/* A thread closes and opens what another sets keys on: numbers come back as others all the time. */
static void *churns(void *argument)
{
    (void)argument;
    while (!atomic_load(&stops)) {
        struct keys keys = tls13_keys();
        struct receiver *receiver = malloc(sizeof *receiver);
        int fd[2], copy;

        tcp_pair(fd);
        receiver_init(receiver, fd[1], &keys);
        copy = dup(fd[0]);
        if (tls_tx_init(fd[0], keys.info, keys.len) != 0 || close(fd[0]) != 0 ||
            write(copy, pattern(0, 10), 10) != 10 || close(copy) != 0 || receiver_next(receiver) != 1 ||
            receiver->len != 10)
            abort();
        close(fd[1]);
        free(receiver);
    }
    return NULL;
}

static void test_numbers_come_and_go(void **state)
{
    (void)state;
    pthread_t threads[3];

    stops = false;
    for (int i = 0; i < 3; i++)
        assert_ok(pthread_create(&threads[i], NULL, churns, NULL));
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(0);
        assert_exited(wait_child(child), 0);
    }
    atomic_store(&stops, true);
    for (int i = 0; i < 3; i++)
        assert_ok(pthread_join(threads[i], NULL));
}

/* --- limits --------------------------------------------------------------------------------------------- */

/* What the C library writes to standard error by itself cannot be sealed. */
static int standard_error_is_refused(void *argument)
{
    struct keys keys = tls12_keys();
    int fd[2];

    (void)argument;
    tcp_pair(fd);
    CHILD_CHECK(dup2(fd[0], 2) == 2);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == -1 && errno == ENOPROTOOPT);
    CHILD_CHECK(write(fd[0], "plain", 5) == 5);
    CHILD_CHECK(close(2) == 0);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(dup2(fd[0], 2) == -1 && errno == EOPNOTSUPP);
    CHILD_CHECK(dup3(fd[0], 2, O_CLOEXEC) == -1 && errno == EOPNOTSUPP);
    CHILD_CHECK(fcntl(fd[0], F_DUPFD, 2) != 2);
    return 0;
}

static void test_standard_error(void **state)
{
    (void)state;
    assert_exited(in_child(standard_error_is_refused, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_state_for_two_setters),
        cmocka_unit_test(test_a_direction_each),
        cmocka_unit_test(test_refused_keys_beside_good_ones),
        cmocka_unit_test(test_every_number_is_the_socket),
        cmocka_unit_test(test_a_number_in_flight),
        cmocka_unit_test(test_a_writer_stopped_at_its_system_call),
        cmocka_unit_test(test_sockets_over_a_number),
        cmocka_unit_test(test_sockets_and_files_over_a_number),
        cmocka_unit_test(test_numbers_come_and_go),
        cmocka_unit_test(test_standard_error),
    };
    return RUN_PRELOADED("test_races", tests);
}
