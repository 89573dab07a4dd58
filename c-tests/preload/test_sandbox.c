/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A sandbox that refuses what the library asks of the kernel beside the program's own calls: one kind of call at a time, with
 * EPERM and with ENOSYS, from before the keys on and from after them. A program works, or has not got the keys; and where
 * they were set before, its calls may fail, and what goes out is sealed. None hangs.
 */
#include "preload.h"

#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>

/* Beyond the headers of some machines. */
enum { POPULATE_READ = 22, POPULATE_WRITE = 23, OPTION_PEEK_OFF = 42, OPTION_COOKIE = 57, TIME_OUT = 20 };

/* Left out: futex(2) and rseq(2), without which the C library ends the process itself.
 *
 * A call, perhaps only with this value of an argument. */
struct refused {
    const char *name;
    int number, argument;
    unsigned value;
};

enum { ANY = -1 };

static const struct refused calls[] = {
    {"membarrier", SYS_membarrier, ANY, 0},
    {"fcntl F_OFD_SETLK", SYS_fcntl, 1, F_OFD_SETLK},
    {"fcntl F_OFD_GETLK", SYS_fcntl, 1, F_OFD_GETLK},
    {"fcntl F_DUPFD_CLOEXEC", SYS_fcntl, 1, F_DUPFD_CLOEXEC},
    {"fcntl F_SETFD", SYS_fcntl, 1, F_SETFD},
    {"fcntl F_GETFL", SYS_fcntl, 1, F_GETFL},
    {"getsockopt SO_COOKIE", SYS_getsockopt, 2, OPTION_COOKIE},
    {"getsockopt SO_DOMAIN", SYS_getsockopt, 2, SO_DOMAIN},
    {"getsockopt SO_PROTOCOL", SYS_getsockopt, 2, SO_PROTOCOL},
    {"getsockopt SO_TYPE", SYS_getsockopt, 2, SO_TYPE},
    {"getsockopt SO_ERROR", SYS_getsockopt, 2, SO_ERROR},
    {"getsockopt SO_LINGER", SYS_getsockopt, 2, SO_LINGER},
    {"getsockopt SO_RCVLOWAT", SYS_getsockopt, 2, SO_RCVLOWAT},
    {"getsockopt SO_PEEK_OFF", SYS_getsockopt, 2, OPTION_PEEK_OFF},
    {"getsockopt SO_RCVTIMEO", SYS_getsockopt, 2, SO_RCVTIMEO},
    {"getsockopt SO_SNDTIMEO", SYS_getsockopt, 2, SO_SNDTIMEO},
    {"getsockopt TCP_INFO", SYS_getsockopt, 2, TCP_INFO},
    {"setsockopt SO_RCVLOWAT", SYS_setsockopt, 2, SO_RCVLOWAT},
    {"getsockname", SYS_getsockname, ANY, 0},
    {"getpeername", SYS_getpeername, ANY, 0},
    {"recvfrom", SYS_recvfrom, ANY, 0},
    {"recvfrom MSG_PEEK", SYS_recvfrom, 3, MSG_PEEK | MSG_DONTWAIT},
    {"recvfrom MSG_TRUNC", SYS_recvfrom, 3, MSG_TRUNC | MSG_DONTWAIT},
    {"sendto", SYS_sendto, ANY, 0},
    {"sendmsg", SYS_sendmsg, ANY, 0},
    {"ppoll", SYS_ppoll, ANY, 0},
    {"eventfd2", SYS_eventfd2, ANY, 0},
    {"epoll_create1", SYS_epoll_create1, ANY, 0},
    {"epoll_ctl", SYS_epoll_ctl, ANY, 0},
    {"epoll_pwait", SYS_epoll_pwait, ANY, 0},
#ifdef SYS_epoll_wait
    {"epoll_wait", SYS_epoll_wait, ANY, 0},
#endif
    {"clone3", SYS_clone3, ANY, 0},
    {"ioctl TIOCOUTQ", SYS_ioctl, 1, TIOCOUTQ},
    {"ioctl FIONREAD", SYS_ioctl, 1, FIONREAD},
    {"madvise", SYS_madvise, ANY, 0},
    {"madvise MADV_WIPEONFORK", SYS_madvise, 2, MADV_WIPEONFORK},
    {"madvise MADV_DONTDUMP", SYS_madvise, 2, MADV_DONTDUMP},
    {"madvise MADV_REMOVE", SYS_madvise, 2, MADV_REMOVE},
    {"madvise MADV_POPULATE_READ", SYS_madvise, 2, POPULATE_READ},
    {"madvise MADV_POPULATE_WRITE", SYS_madvise, 2, POPULATE_WRITE},
    {"mmap MAP_SHARED", SYS_mmap, 3, MAP_SHARED},
    {"mmap MAP_SHARED MAP_ANONYMOUS", SYS_mmap, 3, MAP_SHARED | MAP_ANONYMOUS},
    {"mremap", SYS_mremap, ANY, 0},
    {"mlock", SYS_mlock, ANY, 0},
    {"fallocate", SYS_fallocate, ANY, 0},
    {"open", SYS_openat, ANY, 0},
#ifdef SYS_open
    {"open(2) itself", SYS_open, ANY, 0},
#endif
    {"fstat", SYS_fstat, ANY, 0},
    {"newfstatat", SYS_newfstatat, ANY, 0},
    {"statx", SYS_statx, ANY, 0},
    {"getdents64", SYS_getdents64, ANY, 0},
    {"unlinkat", SYS_unlinkat, ANY, 0},
#ifdef SYS_unlink
    {"unlink", SYS_unlink, ANY, 0},
#endif
    {"pread64", SYS_pread64, ANY, 0},
    {"lseek", SYS_lseek, ANY, 0},
    {"prctl", SYS_prctl, ANY, 0},
    {"prlimit64", SYS_prlimit64, ANY, 0},
    {"getrandom", SYS_getrandom, ANY, 0},
    {"gettid", SYS_gettid, ANY, 0},
    {"getpid", SYS_getpid, ANY, 0},
    {"sched_yield", SYS_sched_yield, ANY, 0},
    {"sched_getaffinity", SYS_sched_getaffinity, ANY, 0},
    {"sigaltstack", SYS_sigaltstack, ANY, 0},
    {"rt_sigprocmask", SYS_rt_sigprocmask, ANY, 0},
    {"rt_sigaction", SYS_rt_sigaction, ANY, 0},
    {"rt_sigpending", SYS_rt_sigpending, ANY, 0},
    {"rt_sigtimedwait", SYS_rt_sigtimedwait, ANY, 0},
    {"timer_create", SYS_timer_create, ANY, 0},
    {"timer_settime", SYS_timer_settime, ANY, 0},
    {"clock_nanosleep", SYS_clock_nanosleep, ANY, 0},
    {"set_robust_list", SYS_set_robust_list, ANY, 0},
    {"dup3", SYS_dup3, ANY, 0},
    {"waitid", SYS_waitid, ANY, 0},
    {"kill", SYS_kill, ANY, 0},
    {"socketpair", SYS_socketpair, ANY, 0},
    {"recvmsg", SYS_recvmsg, ANY, 0},
    {"setsockopt SO_LINGER", SYS_setsockopt, 2, SO_LINGER},
    {"unshare", SYS_unshare, ANY, 0},
    {"close_range", SYS_close_range, ANY, 0},
};
enum { CALLS = sizeof calls / sizeof *calls };

static void refuse(const struct refused *call, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call->number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 (unsigned)(offsetof(struct seccomp_data, args) + sizeof(uint64_t) * (call->argument == ANY ? 0 : (unsigned)call->argument))),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call->value, 0, call->argument == ANY ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

enum outcome { WORKS, DECLINED, FAILS };

struct trial {
    size_t call;
    int error;
    bool before;
    /* The peer's end, which another process has. */
    int fd, peer;
};

static uint64_t accepted;
static int failed;

static void sent(ssize_t n)
{
    if (n >= 0)
        accepted += (uint64_t)n;
    else if (errno != EAGAIN)
        failed++;
}

static _Atomic bool there;

/* Another thread, for which a change of numbers needs a barrier. */
static void *is_there(void *ends)
{
    char byte;
    CHILD_CHECK(write(((int *)ends)[1], "x", 1) == 1);
    there = true;
    while (read(((int *)ends)[0], &byte, 1) >= 0) {
    }
    return NULL;
}

/* In a child, whose calls the sandbox looks at. The bytes accepted are told last. */
static int sandboxed(const struct trial *trial, int report)
{
    enum { MUCH = 400000, SMALL = 50, FILE_LEN = 5000 };
    struct keys keys = tls12_keys();
    int fd = trial->fd, ends[2], file = memfd_create("file", 0);
    char data[200];
    const void *much = pattern(0, 4 * MUCH);
    int other[2];
    pthread_t thread;
    CHILD_CHECK(file >= 0 && pipe(ends) == 0 && pipe(other) == 0);
    CHILD_CHECK(pthread_create(&thread, NULL, is_there, other) == 0);
    while (!there)
        usleep(100);
    /* With one of the errors there is a connection before there is the sandbox. */
    if (trial->before && trial->error == EPERM) {
        int earlier[2];
        tcp_pair(earlier);
        CHILD_CHECK(tls_tx_init(earlier[0], keys.info, keys.len) == 0);
    }
    if (trial->before)
        refuse(&calls[trial->call], trial->error);
    if (tls_tx_init(fd, keys.info, keys.len) != 0 || tls_rx_init(fd, keys.info, keys.len) != 0) {
        /* Then it is a socket as any, if nothing has been set. */
        return DECLINED;
    }
    sent(write(fd, much, 5));
    if (!trial->before)
        refuse(&calls[trial->call], trial->error);
    for (int i = 0; i < 500; i++)
        sent(write(fd, (const char *)much + accepted, SMALL));
    sent(send(fd, (const char *)much + accepted, MUCH, 0));
    sent(send(fd, (const char *)much + accepted, 9, MSG_MORE));
    sent(send(fd, (const char *)much + accepted, MUCH, MSG_DONTWAIT));
    failed += recv(fd, data, sizeof data, 0) < 0;
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    failed += poll(&readable, 1, 1) < 0;
    if (pwrite(file, (const char *)much + accepted, FILE_LEN, 0) == FILE_LEN) {
        off_t at = 0;
        sent(sendfile(fd, file, &at, FILE_LEN));
    }
    if (raw_call(SYS_write, ends[1], (long)((const char *)much + accepted), 100) == 100)
        sent(splice(ends[0], NULL, fd, NULL, 100, 0));
    int copy = dup(fd);
    if (copy >= 0) {
        sent(write(copy, (const char *)much + accepted, SMALL));
        failed += dup2(copy, 60) < 0;
        close(copy);
    } else {
        failed++;
    }
    pid_t child = fork();
    if (child == 0) {
        ssize_t n = write(fd, (const char *)much + accepted, SMALL);
        raw_call(SYS_exit_group, n == SMALL ? 0 : 1, 0, 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        failed++;
    else
        accepted += SMALL;
    sent(write(fd, (const char *)much + accepted, SMALL));
    failed += shutdown(fd, SHUT_WR) < 0;
    failed += close(fd) < 0;
    raw_call(SYS_write, report, (long)&accepted, sizeof accepted);
    return failed ? FAILS : WORKS;
}

struct seen {
    struct receiver receiver;
    int fd;
    pthread_t thread;
};

static void *sees(void *argument)
{
    struct seen *seen = argument;
    while (receiver_next(&seen->receiver) == 1) {
    }
    return NULL;
}

static const char *const outcomes[] = {"works", "has no keys", "fails"};

static bool try(const struct trial *trial, char *how, size_t room)
{
    struct trial own = *trial;
    struct keys keys = tls12_keys();
    struct sealer sealer;
    static struct seen seen;
    int fd[2], report[2];
    uint64_t told = 0;
    tcp_pair(fd);
    assert_ok(pipe(report));
    own.fd = fd[0];
    memset(&seen, 0, sizeof seen);
    receiver_init(&seen.receiver, fd[1], &keys);
    /* What the child finds there when it has its keys. */
    sealer_init(&sealer, fd[1], -1, &keys);
    unsigned char record[200];
    size_t len = seal_layout(&sealer, record, "23:100");
    assert_returns(write(fd[1], record, len), len);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(fd[1]);
        alarm(TIME_OUT);
        int outcome = sandboxed(&own, report[1]);
        raw_call(SYS_exit_group, outcome, 0, 0);
    }
    close(fd[0]);
    close(report[1]);
    assert_int_equal(pthread_create(&seen.thread, NULL, sees, &seen), 0);
    int status = wait_child(child);
    assert_int_equal(pthread_join(seen.thread, NULL), 0);
    bool is_told = read(report[0], &told, sizeof told) == sizeof told;
    close(report[0]);
    close(fd[1]);
    int outcome = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    bool is_reset = strstr(seen.receiver.fault, "reset") != NULL;
    /* All that came opens and is the pattern; of what was accepted all comes where nothing failed. */
    if (outcome < WORKS || outcome > FAILS)
        snprintf(how, room, "wait status %#x", status);
    else if (seen.receiver.fault[0] && !is_reset)
        snprintf(how, room, "%s, and the peer: %s", outcomes[outcome], seen.receiver.fault);
    else if (outcome == FAILS && trial->before)
        snprintf(how, room, "takes keys and fails");
    else if (outcome == WORKS && (!is_told || seen.receiver.position != told))
        snprintf(how, room, "%ju of %ju bytes arrived", (uintmax_t)seen.receiver.position, (uintmax_t)told);
    else if (outcome == DECLINED && seen.receiver.raw_len != 0 && seen.receiver.records != 0)
        snprintf(how, room, "declined, and sealed");
    else {
        snprintf(how, room, "%s", outcomes[outcome]);
        return true;
    }
    return false;
}

static void test_refused_calls(void **state)
{
    (void)state;
    static const int errors[] = {EPERM, ENOSYS};
    const char *engine = getenv("UKTLS_ENGINE"), *only = getenv("UKTLS_TEST_ONLY");
    bool verbose = getenv("UKTLS_TEST_VERBOSE") != NULL;
    int bad = 0;
    if (engine && strcmp(engine, "auto") != 0)
        return;
    for (size_t call = 0; call < CALLS; call++)
        for (int i = 0; i < 4; i++) {
            struct trial trial = {.call = call, .error = errors[i % 2], .before = i < 2};
            char how[400];
            if (only && strcmp(only, calls[call].name) != 0)
                continue;
            bool good = try(&trial, how, sizeof how);
            bad += !good;
            if (!good || verbose)
                print_message("%s %s with %s %s the keys: %s\n", good ? "    " : "BAD:", calls[call].name,
                              strerrorname_np(trial.error), trial.before ? "before" : "after", how);
        }
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_calls),
    };
    return RUN_PRELOADED("test_sandbox", tests);
}
