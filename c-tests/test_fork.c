/* SPDX-License-Identifier: MIT OR Apache-2.0
 * One connection in several processes (design rule 5, section 8 of the kTLS behaviour).
 *
 * A child cannot use the assertions of the test: it says by its exit status in which line it went
 * wrong. Its receiver stays with the parent, which opens every record with the number that has to
 * come next: a number used twice or left out shows. */
#include "harness.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

enum { CALL_LEN = 400000 };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            _exit(__LINE__ % 250 + 1);                                                             \
    } while (0)

static bool is_child;

/* A child that has succeeded becomes true(1), so that no leak check judges what threads held that it
 * does not have. `exit(0)` comes here too, behind the library's own handler. */
static void die(void)
{
    if (is_child)
        execl("/bin/true", "true", (char *)NULL);
}

/* Forks; true in the child, which has to end by `die` or `exit(0)`. */
static bool fork_child(pid_t *child)
{
    fflush(NULL);
    *child = fork();
    if (*child == 0) {
        is_child = true;
        alarm(under_valgrind() ? 200 : 60);
    }
    return *child == 0;
}

static bool succeeded(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void expect_success(pid_t child)
{
    int status = wait_child(child);
    if (!succeeded(status))
        fail_msg("child: status %#x, line %d modulo 250", status, WEXITSTATUS(status) - 1);
}

static void *marked(unsigned char mark, size_t len)
{
    void *data = malloc(len);
    if (!data)
        abort();
    return memset(data, mark, len);
}

/* Sends `calls` times `len` bytes of `mark`, waiting by poll where the socket says EAGAIN. */
static bool send_marked(int fd, unsigned char mark, int calls, size_t len, int flags)
{
    char *data = marked(mark, len);
    bool good = true;
    for (int i = 0; i < calls && good; i++) {
        for (size_t at = 0; at < len && good;) {
            ssize_t n = tls_send(fd, data + at, len - at, flags);
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (n < 0 && errno == EAGAIN)
                good = tls_poll(&room, 1, DEADLINE_MS) == 1;
            else
                good = n > 0;
            at += n > 0 ? (size_t)n : 0;
        }
    }
    free(data);
    return good;
}

/* Receives `total` bytes; counts[mark] of each, and the runs of one mark. */
static int count_marks(struct receiver *r, uint64_t total, uint64_t counts[256])
{
    int runs = 0, last = -1;
    memset(counts, 0, 256 * sizeof *counts);
    r->pattern = false;
    for (uint64_t got = 0; got < total; got += r->len) {
        if (receiver_next(r) != 1)
            fail_msg("after %llu bytes: %s", (unsigned long long)got,
                     r->fault[0] ? r->fault : "the end");
        for (size_t i = 0; i < r->len; i++) {
            counts[r->data[i]]++;
            runs += r->data[i] != last;
            last = r->data[i];
        }
    }
    return runs;
}

/* MT-2: six 400000-byte sends from two processes are six runs, or fewer where two of one process
 * follow each other; MT-7: in one sequence of numbers. */
static void test_mt2_calls_are_whole(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    uint64_t counts[256];
    pid_t child;
    small_tls_pair(fd, &keys, &r);
    if (fork_child(&child)) {
        for (unsigned char i = 0; i < 3; i++)
            CHECK(send_marked(fd[0], (unsigned char)(11 + i), 1, CALL_LEN, 0));
        exit(0);
    }
    pid_t second;
    if (fork_child(&second)) {
        for (unsigned char i = 0; i < 3; i++)
            CHECK(send_marked(fd[0], (unsigned char)(21 + i), 1, CALL_LEN, 0));
        exit(0);
    }
    assert_int_equal(count_marks(&r, 6 * CALL_LEN, counts), 6);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(counts[11 + i], CALL_LEN);
        assert_int_equal(counts[21 + i], CALL_LEN);
    }
    expect_success(child);
    expect_success(second);
    close_both(fd);
}

struct writer {
    int fd;
    unsigned char mark;
    int calls;
    size_t len;
    int flags;
    bool good;
    pthread_t thread;
};

static void *writer_main(void *argument)
{
    struct writer *w = argument;
    w->good = send_marked(w->fd, w->mark, w->calls, w->len, w->flags);
    return NULL;
}

static void writer_start(struct writer *w)
{
    assert_int_equal(pthread_create(&w->thread, NULL, writer_main, w), 0);
}

static void writer_finish(struct writer *w)
{
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    assert_true(w->good);
}

/* MT-5, MT-7: parent, child and grandchild write at once, waiting or not, on TCP and on UNIX
 * sockets. */
static void test_mt7_all_write(void **state)
{
    (void)state;
    static void (*const pairs[])(int[2]) = {small_tcp_pair, tcp_pair, unix_small_pair};
    for (int i = 0; i < 6; i++) {
        int fd[2], flags = i < 3 ? MSG_DONTWAIT : 0;
        struct receiver r;
        struct keys keys = i % 2 ? tls12_keys() : tls13_keys();
        uint64_t counts[256];
        pid_t child;
        pairs[i % 3](fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        receiver_init(&r, fd[1], &keys);
        send_all(fd[0], 0, 1000, 0);
        if (fork_child(&child)) {
            pid_t grandchild;
            if (fork_child(&grandchild)) {
                CHECK(send_marked(fd[0], 3, 200, 1000, flags));
                exit(0);
            }
            CHECK(send_marked(fd[0], 2, 40, 5000, flags));
            int status = -1;
            CHECK(waitpid(grandchild, &status, 0) == grandchild && succeeded(status));
            exit(0);
        }
        struct writer own = {.fd = fd[0], .mark = 1, .calls = 5, .len = 40000, .flags = flags};
        expect_records(&r, "23:1000");
        writer_start(&own);
        count_marks(&r, 600000, counts);
        for (int mark = 1; mark <= 3; mark++)
            assert_int_equal(counts[mark], 200000);
        writer_finish(&own);
        expect_success(child);
        close_both(fd);
    }
}

/* MT-6: the open record is one, whoever adds to it. TX-56: the close of one process leaves it open,
 * the close of the last does not lose it. */
static void test_mt6_open_record(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    pid_t child;
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, MSG_MORE);
    if (fork_child(&child)) {
        CHECK(uktls_tx_pending(fd[0]) == 10);
        CHECK(tls_send(fd[0], pattern(10, 20), 20, 0) == 20);
        CHECK(tls_send(fd[0], pattern(30, 5), 5, MSG_MORE) == 5);
        CHECK(send_typed(fd[0], HANDSHAKE, pattern(35, 3), 3, 0) == 3);
        CHECK(tls_send(fd[0], pattern(38, 7), 7, MSG_MORE) == 7);
        CHECK(uktls_close(fd[0]) == 0);
        exit(0);
    }
    expect_success(child);
    expect_records(&r, "23:30 23:5 22:3");
    expect_nothing(fd[1]);
    assert_int_equal(uktls_tx_pending(fd[0]), 7);
    send_all(fd[0], 45, 1, MSG_MORE);
    assert_ok(uktls_close(fd[0]));
    expect_records(&r, "23:8");
    expect_end(&r);
    close(fd[1]);
}

enum absent { NO_FORK, FAILED_FORK, EXECUTED, KILLED_AT_ONCE, KILLED_ELSEWHERE, ABSENT };

/* A process that is not there, or has not got the socket, though it was forked, or nearly. Returns its id. */
static pid_t absent_process(enum absent how)
{
    struct rlimit none = {0, 0};
    pid_t child = 0;
    if (how == KILLED_ELSEWHERE && unshare(CLONE_NEWPID) != 0)
        how = KILLED_AT_ONCE;
    if (how == FAILED_FORK) {
        CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
        CHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
        CHECK(fork() == -1 && errno == EAGAIN);
    } else if (how != NO_FORK) {
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (how == EXECUTED)
                execl("/bin/sleep", "sleep", "60", (char *)NULL);
            for (;;)
                pause();
        }
    }
    /* Until it is another program, which has no socket of ours. */
    for (int i = 0; how == EXECUTED && i < 200; i++) {
        char name[64], text[16] = "";
        snprintf(name, sizeof name, "/proc/%d/comm", child);
        FILE *file = fopen(name, "r");
        CHECK(file != NULL && fgets(text, sizeof text, file) != NULL);
        fclose(file);
        if (!strcmp(text, "sleep\n"))
            break;
        usleep(10000);
    }
    if (how == KILLED_AT_ONCE || how == KILLED_ELSEWHERE) {
        CHECK(kill(child, SIGKILL) == 0);
        CHECK(waitpid(child, NULL, 0) == child);
    }
    return child;
}

/* TX-56: the last process that has the socket does not lose the open record, whoever was forked before. */
static void test_tx56_absent_processes(void **state)
{
    (void)state;
    for (int how = NO_FORK; how < ABSENT; how++) {
        int fd[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        pid_t child;
        tcp_pair(fd);
        receiver_init(&r, fd[1], &keys);
        if (fork_child(&child)) {
            close(fd[1]);
            CHECK(fcntl(fd[0], F_SETFD, FD_CLOEXEC) == 0);
            CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
            pid_t absent = absent_process((enum absent)how);
            CHECK(tls_send(fd[0], pattern(0, 10), 10, MSG_MORE) == 10);
            CHECK(uktls_close(fd[0]) == 0);
            if (how == EXECUTED)
                CHECK(absent > 0 && kill(absent, SIGKILL) == 0);
            exit(0);
        }
        close(fd[0]);
        expect_success(child);
        expect_records(&r, "23:10");
        expect_end(&r);
        close(fd[1]);
    }
}

/* MT-8: a sender killed anywhere in a long send changes nothing for the other, and what it had
 * accepted is sent. */
static void test_mt8_kill(void **state)
{
    (void)state;
    for (int round = 0; round < (under_valgrind() ? 6 : 40); round++) {
        int fd[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        pid_t child;
        small_tls_pair(fd, &keys, &r);
        r.pattern = false;
        if (fork_child(&child)) {
            send_marked(fd[0], 9, 1000, 4 << 20, 0);
            _exit(1);
        }
        /* At work, or asleep in a full socket. */
        for (int i = 0; i < round % 8 * 5; i++)
            if (receiver_next(&r) != 1)
                fail_msg("%s", r.fault);
        struct timespec pause = {.tv_nsec = round * 37000};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        assert_true(WIFSIGNALED(wait_child(child)));
        struct writer own = {.fd = fd[0], .mark = 1, .calls = 1, .len = 100000};
        writer_start(&own);
        for (size_t ones = 0; ones < 100000;) {
            if (receiver_next(&r) != 1)
                fail_msg("round %d: %s", round, r.fault);
            for (size_t i = 0; i < r.len; i++)
                ones += r.data[i] == 1;
            /* What the child left open may be in the first record of ours. */
            assert_true(ones == 0 || r.data[r.len - 1] == 1);
        }
        writer_finish(&own);
        expect_pending(fd[0], 0);
        close_both(fd);
    }
}

struct heir {
    struct writer writer;
    pid_t child;
    int status;
};

static void *heir_main(void *argument)
{
    struct heir *heir = argument;
    waitpid(heir->child, &heir->status, 0);
    return writer_main(&heir->writer);
}

/* MT-8: killed at full speed, so mostly while it seals or transmits: not a record is lost, and none is
 * sent twice. The timer ends the child as any signal would. */
static void test_mt8_killed_at_work(void **state)
{
    (void)state;
    for (int round = 0; round < (under_valgrind() ? 6 : 60); round++) {
        int fd[2];
        struct receiver r;
        struct keys keys = round % 2 ? tls12_keys() : tls13_keys();
        struct heir heir;
        tcp_pair(fd);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        receiver_init(&r, fd[1], &keys);
        r.pattern = false;
        heir.writer = (struct writer){.fd = fd[0], .mark = 1, .calls = 1, .len = 100000};
        if (fork_child(&heir.child)) {
            struct itimerval timer = {.it_value.tv_usec = 3000 + round * 211};
            alarm(0);
            setitimer(ITIMER_REAL, &timer, NULL);
            send_marked(fd[0], 9, 100000, 70000, round % 3 ? 0 : MSG_DONTWAIT);
            _exit(1);
        }
        assert_int_equal(pthread_create(&heir.writer.thread, NULL, heir_main, &heir), 0);
        for (size_t ones = 0; ones < 100000;) {
            if (receiver_next(&r) != 1)
                fail_msg("round %d: %s", round, r.fault);
            for (size_t i = 0; i < r.len; i++)
                ones += r.data[i] == 1;
        }
        writer_finish(&heir.writer);
        assert_true(WIFSIGNALED(heir.status));
        expect_pending(fd[0], 0);
        close_both(fd);
    }
}

/* Design rule 3: a child that exits with records in the queue has them sent first; AS-20: one that
 * sleeps has them sent by its worker. */
static void test_as20_pending_of_a_child(void **state)
{
    (void)state;
    for (int sleeps = 0; sleeps < 2; sleeps++) {
        int fd[2], pipes[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        pid_t child;
        small_tls_pair(fd, &keys, &r);
        assert_ok(pipe(pipes));
        if (fork_child(&child)) {
            uint64_t accepted = 0;
            ssize_t n;
            while ((n = tls_send(fd[0], pattern(accepted, 10000), 10000, MSG_DONTWAIT)) > 0)
                accepted += (uint64_t)n;
            CHECK(n == -1 && errno == EAGAIN);
            CHECK(write(pipes[1], &accepted, sizeof accepted) == sizeof accepted);
            if (sleeps)
                pause();
            exit(0);
        }
        uint64_t accepted = 0;
        assert_returns(read(pipes[0], &accepted, sizeof accepted), sizeof accepted);
        assert_true(accepted > 16384);
        expect_bytes(&r, accepted);
        if (sleeps) {
            kill(child, SIGKILL);
            wait_child(child);
        } else {
            expect_success(child);
        }
        send_all(fd[0], accepted, 100, 0);
        expect_bytes(&r, accepted + 100);
        close(pipes[0]);
        close(pipes[1]);
        close_both(fd);
    }
}

/* Design rule 1: the child of a raw clone, which no handler has prepared, is refused, also where an
 * earlier fork has shared the connection; its parent goes on. */
static void test_rule1_raw_clone(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        int fd[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        pid_t child;
        tls_pair(fd, &keys, &r);
        send_all(fd[0], 0, 100, 0);
        if (shared) {
            if (fork_child(&child))
                die();
            expect_success(child);
        }
        child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (child == 0) {
            struct uktls_info info = {.size = sizeof info};
            CHECK(tls_send(fd[0], "x", 1, 0) == -1 && errno == ENOTRECOVERABLE);
            CHECK(tls_send(fd[0], "x", 1, MSG_MORE) == -1 && errno == ENOTRECOVERABLE);
            CHECK(uktls_get_info(fd[0], &info) == -1 && errno == ENOTRECOVERABLE);
            CHECK(tls_tx_init(fd[0], keys.info, keys.len) == -1 && errno == ENOTRECOVERABLE);
            CHECK(uktls_close(fd[0]) == 0);
            is_child = true;
            die();
        }
        expect_success(child);
        send_all(fd[0], 100, 100, 0);
        expect_records(&r, "23:100 23:100");
        close_both(fd);
    }
}

/* A child's own connections work, and need nothing of its parent's threads. */
static void test_child_has_its_own(void **state)
{
    (void)state;
    int fd[2], own[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    pid_t child;
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 100000, 0);
    unix_pair(own);
    if (fork_child(&child)) {
        CHECK(uktls_close(fd[0]) == 0);
        CHECK(tls_tx_init(own[0], keys.info, keys.len) == 0);
        CHECK(tls_send(own[0], pattern(0, 50000), 50000, 0) == 50000);
        exit(0);
    }
    close(own[0]);
    receiver_init(&r, own[1], &keys);
    expect_bytes(&r, 50000);
    expect_end(&r);
    expect_success(child);
    receiver_init(&r, fd[1], &keys);
    expect_bytes(&r, 100000);
    close(own[1]);
    close_both(fd);
}

/* A fork while a thread sleeps in a blocking send does not wait for it; that call goes on, whole
 * (MT-2), and the child's comes behind it. */
static void test_mt2_fork_beside_a_sleeper(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        int fd[2], pipes[2];
        struct receiver r;
        struct keys keys = round % 2 ? tls12_keys() : tls13_keys();
        uint64_t counts[256];
        pid_t child;
        char ready;
        assert_ok(pipe(pipes));
        small_tls_pair(fd, &keys, &r);
        struct writer sleeper = {.fd = fd[0], .mark = 1, .calls = 1, .len = 2 << 20};
        writer_start(&sleeper);
        struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
        if (fork_child(&child)) {
            /* MT-3: a call that does not wait says so. */
            CHECK(tls_send(fd[0], "x", 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
            CHECK(write(pipes[1], "x", 1) == 1);
            CHECK(send_marked(fd[0], 2, 1, 100000, 0));
            if (round < 2)
                exit(0);
            die();
        }
        assert_returns(read(pipes[0], &ready, 1), 1);
        assert_int_equal(count_marks(&r, (2 << 20) + 100000, counts), 2);
        assert_int_equal(counts[2], 100000);
        writer_finish(&sleeper);
        expect_success(child);
        close(pipes[0]);
        close(pipes[1]);
        close_both(fd);
    }
}

/* MT-8: the parent's sleeper is killed with its process; the child's call, which waited for it,
 * gets its turn. */
static void test_mt8_killed_sleeper(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    pid_t parent;
    int pipes[2];
    small_tls_pair(fd, &keys, &r);
    r.pattern = false;
    assert_ok(pipe(pipes));
    if (fork_child(&parent)) {
        struct writer sleeper = {.fd = fd[0], .mark = 1, .calls = 1, .len = 2 << 20};
        CHECK(pthread_create(&sleeper.thread, NULL, writer_main, &sleeper) == 0);
        struct timespec pause = {.tv_nsec = 50000000};
        nanosleep(&pause, NULL);
        pid_t child;
        if (fork_child(&child)) {
            close(pipes[0]);
            CHECK(send_marked(fd[0], 2, 1, 100000, 0));
            exit(0);
        }
        char ready;
        CHECK(read(pipes[0], &ready, 1) == 1);
        kill(getpid(), SIGKILL);
    }
    struct timespec pause = {.tv_nsec = 200000000};
    nanosleep(&pause, NULL);
    assert_returns(write(pipes[1], "x", 1), 1);
    assert_true(WIFSIGNALED(wait_child(parent)));
    for (size_t twos = 0; twos < 100000;) {
        if (receiver_next(&r) != 1)
            fail_msg("%s", r.fault);
        for (size_t i = 0; i < r.len; i++)
            twos += r.data[i] == 2;
    }
    close(pipes[0]);
    close(pipes[1]);
    close_both(fd);
}

/* A fork with a full socket and sealed records that have not gone out; then both write. */
static void test_mt7_full_socket(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        int fd[2];
        struct receiver r;
        struct keys keys = i % 2 ? tls12_keys() : tls13_keys();
        uint64_t counts[256];
        pid_t child;
        small_tls_pair(fd, &keys, &r);
        /* Records of full size, or runs of small ones, of which the first is partly sent. */
        uint64_t accepted = fill_socket(fd[0], 0, i < 2 ? 50000 : 100);
        if (fork_child(&child)) {
            CHECK(send_marked(fd[0], 252, 10, 10000, MSG_DONTWAIT));
            exit(0);
        }
        struct writer own = {.fd = fd[0], .mark = 251, .calls = 10, .len = 10000};
        writer_start(&own);
        while (r.position < accepted)
            if (receiver_next(&r) != 1)
                fail_msg("%s", r.fault);
        assert_int_equal(r.position, accepted);
        count_marks(&r, 200000, counts);
        assert_int_equal(counts[251], 100000);
        writer_finish(&own);
        expect_success(child);
        close_both(fd);
    }
}

static int marked_file(unsigned char mark, size_t len)
{
    FILE *file = tmpfile();
    void *data = marked(mark, len);
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    free(data);
    int fd = dup(fileno(file));
    fclose(file);
    return fd;
}

/* TX-41, TX-42, TX-48: sendfile from two processes, joining an open record. */
static void test_tx48_sendfile(void **state)
{
    (void)state;
    int fd[2], file = marked_file(7, 300000);
    struct receiver r;
    struct keys keys = tls13_keys();
    uint64_t counts[256];
    pid_t child;
    small_tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 7, MSG_MORE);
    if (fork_child(&child)) {
        for (off_t at = 0; at < 300000;)
            CHECK(tls_sendfile(fd[0], file, &at, 300000) > 0);
        exit(0);
    }
    pid_t second;
    if (fork_child(&second)) {
        for (off_t at = 0; at < 300000;)
            CHECK(tls_sendfile(fd[0], file, &at, 300000) > 0);
        exit(0);
    }
    count_marks(&r, 600007, counts);
    assert_int_equal(counts[7], 600000);
    expect_success(child);
    expect_success(second);
    close(file);
    close_both(fd);
}

/* RK-2, MT-7: new keys set in one process count in the other, and so does every option. */
static void test_rk2_rekey(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys(), new = make_keys(keys.suite, 0, 5), old = keys;
    pid_t child;
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, 0);
    if (fork_child(&child)) {
        unsigned char seen[64];
        socklen_t len = (socklen_t)keys.len;
        CHECK(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, seen, &len) == 0);
        CHECK(memcmp(seen, old.info, keys.len - 1) == 0);
        CHECK(seen[keys.len - 1] == old.info[keys.len - 1] + 1);
        CHECK(tls_send(fd[0], pattern(10, 10), 10, 0) == 10);
        CHECK(tls_send(fd[0], pattern(20, 4), 4, MSG_MORE) == 4);
        CHECK(tls_tx_init(fd[0], new.info, new.len) == 0);
        exit(0);
    }
    expect_success(child);
    unsigned char seen[64];
    socklen_t len = (socklen_t)keys.len;
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, seen, &len));
    assert_memory_equal(seen, new.info, new.len);
    /* RK-5: the open record goes with the new keys. */
    send_all(fd[0], 24, 6, 0);
    expect_records(&r, "23:10 23:10");
    receiver_rekey(&r, &new);
    expect_records(&r, "23:10");
    close_both(fd);
}

/* TX-54: the end of the stream is everybody's. */
static void test_tx54_shutdown(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    pid_t child;
    small_tls_pair(fd, &keys, &r);
    uint64_t accepted = fill_socket(fd[0], 0, 20000);
    if (fork_child(&child)) {
        CHECK(tls_shutdown(fd[0], SHUT_WR) == 0);
        exit(0);
    }
    expect_bytes(&r, accepted);
    expect_end(&r);
    expect_success(child);
    assert_fails(tls_send(fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    close_both(fd);
}

/* Many connections and many children: each child takes over one, the parent closes it. */
static void test_prefork(void **state)
{
    (void)state;
    enum { COUNT = 12 };
    int fd[COUNT][2];
    pid_t child[COUNT];
    struct keys keys = tls12_keys();
    for (int i = 0; i < COUNT; i++) {
        tcp_pair(fd[i]);
        assert_ok(tls_tx_init(fd[i][0], keys.info, keys.len));
        send_all(fd[i][0], 0, 100, i % 2 ? MSG_MORE : 0);
        if (fork_child(&child[i])) {
            for (int j = 0; j <= i; j++)
                close(fd[j][1]);
            CHECK(tls_send(fd[i][0], pattern(100, 30000), 30000, 0) == 30000);
            CHECK(uktls_close(fd[i][0]) == 0);
            exit(0);
        }
        assert_ok(uktls_close(fd[i][0]));
    }
    for (int i = 0; i < COUNT; i++) {
        struct receiver r;
        receiver_init(&r, fd[i][1], &keys);
        expect_bytes(&r, 30100);
        expect_end(&r);
        expect_success(child[i]);
        close(fd[i][1]);
    }
    expect_no_connections();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mt2_calls_are_whole),
        cmocka_unit_test(test_mt7_all_write),
        cmocka_unit_test(test_mt6_open_record),
        cmocka_unit_test(test_tx56_absent_processes),
        cmocka_unit_test(test_mt8_kill),
        cmocka_unit_test(test_mt8_killed_at_work),
        cmocka_unit_test(test_as20_pending_of_a_child),
        cmocka_unit_test(test_rule1_raw_clone),
        cmocka_unit_test(test_child_has_its_own),
        cmocka_unit_test(test_mt2_fork_beside_a_sleeper),
        cmocka_unit_test(test_mt8_killed_sleeper),
        cmocka_unit_test(test_mt7_full_socket),
        cmocka_unit_test(test_tx48_sendfile),
        cmocka_unit_test(test_rk2_rekey),
        cmocka_unit_test(test_tx54_shutdown),
        cmocka_unit_test(test_prefork),
    };
    /* Runs after the library's handler, which comes later. */
    atexit(die);
    return RUN_ENGINES("fork", tests);
}
