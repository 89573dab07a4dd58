/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Options and flags that a program has set for its own calls, on both ends of a connection. A fixed course of calls
 * is told as text: on a TLS socket with the option it is as on one without, or as on a plain socket with it, whichever the
 * kernel's own TLS does.
 */
#include "preload.h"

#include <limits.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/timerfd.h>

struct option {
    const char *name;
    int level, option, value;
    /* A whole value of another type. */
    const void *whole;
    socklen_t len;
    /* In place of an option. */
    int (*set)(int fd);
    /* As on a plain socket that has it. */
    bool as_plain;
    /* The kernel changes it by itself. */
    bool changes;
};

static const struct timeval soon = {.tv_sec = 5};
static const struct linger at_once = {1, 0};

static int be_asynchronous(int fd)
{
    return fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETSIG, SIGURG) ||
           fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
}
static int append(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_APPEND); }
static int no_atime(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NOATIME); }
static int not_block(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* Newer than the headers may be. */
enum { PREFER_BUSY_POLL = 69, TXREHASH = 74, RCVMARK = 75, OPTION_TCP_INQ = 36, OPTION_TCP_NOTSENT_LOWAT = 25 };

static const struct option options[] = {
    {.name = "SO_PEEK_OFF 0", .level = SOL_SOCKET, .option = SO_PEEK_OFF, .value = 0},
    {.name = "SO_PEEK_OFF 3", .level = SOL_SOCKET, .option = SO_PEEK_OFF, .value = 3},
    {.name = "SO_TIMESTAMP", .level = SOL_SOCKET, .option = SO_TIMESTAMP, .value = 1},
    {.name = "SO_TIMESTAMPNS", .level = SOL_SOCKET, .option = SO_TIMESTAMPNS, .value = 1},
    {.name = "SO_TIMESTAMPING, received", .level = SOL_SOCKET, .option = SO_TIMESTAMPING,
     .value = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE},
    {.name = "SO_TIMESTAMPING, sent", .level = SOL_SOCKET, .option = SO_TIMESTAMPING,
     .value = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_TX_ACK | SOF_TIMESTAMPING_SOFTWARE},
    {.name = "TCP_INQ", .level = IPPROTO_TCP, .option = OPTION_TCP_INQ, .value = 1},
    {.name = "SO_RXQ_OVFL", .level = SOL_SOCKET, .option = SO_RXQ_OVFL, .value = 1},
    {.name = "SO_RCVMARK", .level = SOL_SOCKET, .option = RCVMARK, .value = 1},
    {.name = "IP_PKTINFO", .level = IPPROTO_IP, .option = IP_PKTINFO, .value = 1},
    {.name = "IP_RECVTOS", .level = IPPROTO_IP, .option = IP_RECVTOS, .value = 1},
    {.name = "IP_RECVTTL", .level = IPPROTO_IP, .option = IP_RECVTTL, .value = 1},
    {.name = "IP_RECVERR", .level = IPPROTO_IP, .option = IP_RECVERR, .value = 1},
    {.name = "SO_SELECT_ERR_QUEUE", .level = SOL_SOCKET, .option = SO_SELECT_ERR_QUEUE, .value = 1},
    {.name = "SO_ZEROCOPY", .level = SOL_SOCKET, .option = SO_ZEROCOPY, .value = 1},
    {.name = "SO_BUSY_POLL", .level = SOL_SOCKET, .option = SO_BUSY_POLL, .value = 50},
    {.name = "SO_PREFER_BUSY_POLL", .level = SOL_SOCKET, .option = PREFER_BUSY_POLL, .value = 1},
    {.name = "SO_OOBINLINE", .level = SOL_SOCKET, .option = SO_OOBINLINE, .value = 1},
    {.name = "SO_PRIORITY", .level = SOL_SOCKET, .option = SO_PRIORITY, .value = 3},
    {.name = "SO_KEEPALIVE", .level = SOL_SOCKET, .option = SO_KEEPALIVE, .value = 1},
    {.name = "SO_DONTROUTE", .level = SOL_SOCKET, .option = SO_DONTROUTE, .value = 1},
    {.name = "SO_TXREHASH", .level = SOL_SOCKET, .option = TXREHASH, .value = 1},
    {.name = "SO_SNDBUF", .level = SOL_SOCKET, .option = SO_SNDBUF, .value = 1 << 20},
    {.name = "SO_RCVBUF", .level = SOL_SOCKET, .option = SO_RCVBUF, .value = 1 << 20},
    {.name = "SO_RCVLOWAT", .level = SOL_SOCKET, .option = SO_RCVLOWAT, .value = 3},
    {.name = "SO_MAX_PACING_RATE", .level = SOL_SOCKET, .option = SO_MAX_PACING_RATE, .value = 100 << 20},
    {.name = "SO_LINGER", .level = SOL_SOCKET, .option = SO_LINGER, .whole = &at_once, .len = sizeof at_once},
    {.name = "SO_RCVTIMEO", .level = SOL_SOCKET, .option = SO_RCVTIMEO, .whole = &soon, .len = sizeof soon},
    {.name = "SO_SNDTIMEO", .level = SOL_SOCKET, .option = SO_SNDTIMEO, .whole = &soon, .len = sizeof soon},
    {.name = "TCP_NODELAY", .level = IPPROTO_TCP, .option = TCP_NODELAY, .value = 1},
    {.name = "TCP_CORK", .level = IPPROTO_TCP, .option = TCP_CORK, .value = 1},
    {.name = "TCP_QUICKACK", .level = IPPROTO_TCP, .option = TCP_QUICKACK, .value = 1, .changes = true},
    {.name = "TCP_NOTSENT_LOWAT", .level = IPPROTO_TCP, .option = OPTION_TCP_NOTSENT_LOWAT, .value = 16384},
    {.name = "TCP_USER_TIMEOUT", .level = IPPROTO_TCP, .option = TCP_USER_TIMEOUT, .value = 10000},
    {.name = "TCP_WINDOW_CLAMP", .level = IPPROTO_TCP, .option = TCP_WINDOW_CLAMP, .value = 20000, .changes = true},
    {.name = "O_ASYNC", .set = be_asynchronous},
    {.name = "O_APPEND", .set = append, .as_plain = true},
    {.name = "O_NOATIME", .set = no_atime},
    {.name = "O_NONBLOCK", .set = not_block},
};
enum { OPTIONS = sizeof options / sizeof *options };

static int set_option(int fd, const struct option *option)
{
    if (option->set)
        return option->set(fd);
    if (option->whole)
        return setsockopt(fd, option->level, option->option, option->whole, option->len);
    return setsockopt(fd, option->level, option->option, &option->value, sizeof option->value);
}

/* What was seen. */
struct story {
    char text[4096];
    size_t len;
};

static void __attribute__((format(printf, 2, 3))) tell(struct story *story, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(story->text + story->len, sizeof story->text - story->len, format, arguments);
    va_end(arguments);
    assert_true(n >= 0 && story->len + (size_t)n < sizeof story->text);
    story->len += (size_t)n;
}

/* A call's result, and the bytes that it has brought. */
static void tell_result(struct story *story, const char *call, ssize_t n, const char *data)
{
    int error = errno;
    tell(story, "%s: %zd %s%s%.*s\n", call, n, n < 0 ? strerrorname_np(error) : "", data ? " " : "",
         data && n > 0 && n < 40 ? (int)n : 0, data ? data : "");
}

static int readable(int fd)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    assert_true(poll(&wanted, 1, DEADLINE_MS) == 1);
    return wanted.revents;
}

static void tell_message(struct story *story, int fd)
{
    char data[40], room[300];
    struct iovec iov = {data, sizeof data};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
    tell_result(story, "recvmsg", n, data);
    tell(story, "msg_flags %#x\n", msg.msg_flags & ~MSG_EOR);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level != SOL_TLS)
            tell(story, "control message %d %d\n", c->cmsg_level, c->cmsg_type);
}

static void come(int fd, size_t len)
{
    int there = 0;
    /* Sealed bytes are more, and readable as a whole. */
    readable(fd);
    for (int i = 0; i < DEADLINE_MS && (size_t)there < len; i++, usleep(1000))
        assert_ok(ioctl(fd, FIONREAD, &there));
}

/* From a to b. */
static void course(struct story *story, int a, int b)
{
    enum { MUCH = 60000 };
    static char data[MUCH], much[MUCH];
    int ends[2], file = memfd_create("file", 0);
    assert_true(file >= 0 && pipe(ends) == 0);
    memset(much, 'm', MUCH);
    assert_returns(write(file, much, MUCH), MUCH);
    off_t offset = 0;

    tell_result(story, "recv, nothing there", recv(b, data, 40, MSG_DONTWAIT), NULL);
    tell_result(story, "send", send(a, "hello", 5, 0), NULL);
    tell(story, "poll %#x\n", readable(b) & ~POLLERR);
    tell_result(story, "peek", recv(b, data, 3, MSG_PEEK | MSG_DONTWAIT), data);
    tell_result(story, "peek again", recv(b, data, 5, MSG_PEEK | MSG_DONTWAIT), data);
    tell_result(story, "recv", recv(b, data, 2, 0), data);
    tell_result(story, "peek", recv(b, data, 40, MSG_PEEK | MSG_DONTWAIT), data);
    tell_result(story, "recv", recv(b, data, 40, MSG_WAITALL | MSG_DONTWAIT), data);
    tell_result(story, "send", send(a, "good day", 8, 0), NULL);
    tell(story, "poll %#x\n", readable(b) & ~POLLERR);
    tell_message(story, b);
    tell_message(story, b);
    tell_result(story, "send, more", send(a, "good ", 5, MSG_MORE), NULL);
    tell_result(story, "send, no more", send(a, "night", 5, 0), NULL);
    come(b, 10);
    tell_result(story, "recv", recv(b, data, 40, 0), data);

    size_t sent = 0, got = 0;
    ssize_t n = 0;
    while (got < MUCH) {
        if (sent < MUCH && (n = send(a, much + sent, MUCH - sent, MSG_DONTWAIT)) > 0)
            sent += (size_t)n;
        if ((n = recv(b, data, MUCH, MSG_DONTWAIT)) > 0)
            got += (size_t)n;
        else if (errno != EAGAIN)
            break;
        struct pollfd both[] = {{.fd = b, .events = POLLIN}, {.fd = a, .events = sent < MUCH ? POLLOUT : 0}};
        if (got < MUCH)
            assert_true(poll(both, 2, DEADLINE_MS) > 0);
    }
    tell(story, "much: sent %zu, received %zu\n", sent, got);
    ssize_t moved = sendfile(a, file, &offset, 3000);
    tell_result(story, "sendfile", moved, NULL);
    tell(story, "offset %jd\n", (intmax_t)offset);
    if (moved > 0) {
        come(b, 3000);
        tell_result(story, "recv", recv(b, data, MUCH, MSG_WAITALL | MSG_DONTWAIT), NULL);
    }
    assert_returns(write(ends[1], "through a pipe", 14), 14);
    moved = splice(ends[0], NULL, a, NULL, 14, 0);
    tell_result(story, "splice to", moved, NULL);
    if (moved <= 0) {
        assert_returns(read(ends[0], data, 40), 14);
        tell_result(story, "send", send(a, "through a pipe", 14, 0), NULL);
    }
    come(b, 14);
    n = splice(b, NULL, ends[1], NULL, 40, 0);
    tell_result(story, "splice from", n, NULL);
    if (n > 0)
        tell_result(story, "the pipe", read(ends[0], data, 40), data);
    tell_result(story, "shutdown", shutdown(a, SHUT_WR), NULL);
    tell_result(story, "the end", recv(b, data, 40, 0), NULL);
    close(file);
    close_both(ends);
}

/* The course on a pair, with the option set before there are keys, after, or not at all. */
enum when { NEVER, BEFORE, AFTER };

static bool run_course(struct story *story, const struct option *option, bool tls, enum when when)
{
    struct keys keys = tls12_keys();
    int fd[2], was_set = 0;
    story->len = 0;
    tcp_pair(fd);
    for (int i = 0; i < 2 && when == BEFORE; i++)
        was_set |= set_option(fd[i], option);
    if (tls) {
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
    }
    for (int i = 0; i < 2 && when == AFTER; i++)
        was_set |= set_option(fd[i], option);
    if (was_set == 0) {
        if (tls || option->as_plain)
            course(story, fd[0], fd[1]);
        if (when != NEVER && option->len == 0 && option->set == NULL && !option->changes) {
            int value = -7;
            socklen_t len = sizeof value;
            assert_ok(getsockopt(fd[1], option->level, option->option, &value, &len));
            tell(story, "the option: %d\n", value);
        }
    }
    close_both(fd);
    return was_set == 0;
}

static void test_options(void **state)
{
    (void)state;
    static struct story without, with, plain;
    int known = 0, differ = 0;
    assert_true(run_course(&without, NULL, true, NEVER));
    signal(SIGURG, SIG_IGN);
    for (size_t i = 0; i < OPTIONS; i++) {
        for (enum when when = BEFORE; when <= AFTER; when++) {
            if (!run_course(&plain, &options[i], false, when)) {
                print_message("%s: not on this kernel\n", options[i].name);
                break;
            }
            known += when == BEFORE;
            assert_true(run_course(&with, &options[i], true, when));
            /* What is set is told again as the kernel tells it. */
            char *value = strstr(plain.text, "the option:"), *told = strstr(with.text, "the option:");
            if (value && told && strcmp(value, told) != 0) {
                print_message("%s: on TLS: %son a plain socket: %s", options[i].name, told, value);
                differ++;
            }
            if (!options[i].as_plain && told)
                *told = '\0';
            const char *want = options[i].as_plain ? plain.text : without.text;
            if (strcmp(with.text, want) != 0) {
                print_message("%s, set %s the keys:\n%swhere the kernel has\n%s\n", options[i].name,
                              when == BEFORE ? "before" : "after", with.text, want);
                differ++;
            }
        }
    }
    assert_int_equal(differ, 0);
    assert_true(known > OPTIONS / 2);
}

/* Where sendfile and splice take bytes from: the kernel decides before it comes to the socket. */
static char *folder;

static int of_kind(const char *kind)
{
    char path[100];
    snprintf(path, sizeof path, "%s/file", folder);
    if (!strcmp(kind, "a file"))
        return open(path, O_RDONLY);
    if (!strcmp(kind, "a file, O_DIRECT"))
        return open(path, O_RDONLY | O_DIRECT);
    if (!strcmp(kind, "a file, O_APPEND"))
        return open(path, O_RDWR | O_APPEND);
    if (!strcmp(kind, "a file, O_NONBLOCK"))
        return open(path, O_RDONLY | O_NONBLOCK);
    if (!strcmp(kind, "a file, O_WRONLY"))
        return open(path, O_WRONLY);
    if (!strcmp(kind, "a file, O_PATH"))
        return open(path, O_PATH);
    if (!strcmp(kind, "a folder"))
        return open(folder, O_RDONLY);
    if (!strcmp(kind, "memory")) {
        int fd = memfd_create("memory", 0);
        assert_returns(write(fd, "in memory", 9), 9);
        assert_returns(lseek(fd, 0, SEEK_SET), 0);
        return fd;
    }
    if (!strcmp(kind, "an eventfd"))
        return eventfd(7, EFD_NONBLOCK);
    if (!strcmp(kind, "a timerfd"))
        return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!strcmp(kind, "a signalfd")) {
        sigset_t none;
        sigemptyset(&none);
        return signalfd(-1, &none, SFD_NONBLOCK);
    }
    if (!strcmp(kind, "an epoll set"))
        return epoll_create1(0);
    if (!strcmp(kind, "inotify"))
        return inotify_init1(IN_NONBLOCK);
    if (!strcmp(kind, "a process"))
        return (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (!strcmp(kind, "a number that is not open"))
        return 900;
    if (!strncmp(kind, "a pipe", 6)) {
        int ends[2];
        assert_ok(pipe2(ends, O_NONBLOCK | (strstr(kind, "O_DIRECT") ? O_DIRECT : 0)));
        if (!strstr(kind, "empty"))
            assert_returns(write(ends[1], "in a pipe, of two", 17), 17);
        if (!strstr(kind, "empty"))
            assert_returns(write(ends[1], " packets", 8), 8);
        if (strstr(kind, "written"))
            return ends[1];
        close(ends[1]);
        return ends[0];
    }
    if (!strcmp(kind, "a UNIX socket")) {
        int ends[2];
        assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
        assert_returns(write(ends[1], "in a socket", 11), 11);
        close(ends[1]);
        return ends[0];
    }
    return open(kind, O_RDONLY | O_NONBLOCK);
}

static const char *const kinds[] = {
    "a file", "a file, O_DIRECT", "a file, O_APPEND", "a file, O_NONBLOCK", "a file, O_WRONLY", "a file, O_PATH",
    "a folder", "memory", "an eventfd", "a timerfd", "a signalfd", "an epoll set", "inotify", "a process",
    "a number that is not open", "a pipe", "a pipe, O_DIRECT", "a pipe, empty", "a pipe, to be written", "a UNIX socket", "/dev/null",
    "/dev/zero", "/proc/self/comm", "/proc/sys/kernel/ostype",
};

/* From `in` to `out` until nothing comes any more, `step` bytes at a time, or all at once. */
static void take(struct story *story, int in, int out, int from, bool by_splice, const off_t *offset, size_t step)
{
    static char data[70000];
    size_t arrived = 0;
    for (int i = 0; i < 6; i++) {
        off_t at = offset ? *offset + (off_t)arrived : 0;
        ssize_t n = by_splice ? splice(in, offset ? &at : NULL, out, NULL, step, SPLICE_F_NONBLOCK)
                              : sendfile(out, in, offset ? &at : NULL, step);
        tell_result(story, by_splice ? "splice" : "sendfile", n, NULL);
        if (offset)
            tell(story, "offset %jd\n", (intmax_t)at);
        if (n <= 0)
            break;
        arrived += (size_t)n;
    }
    for (size_t got = 0; got < arrived;) {
        readable(from);
        ssize_t n = recv(from, data, sizeof data, 0);
        assert_true(n > 0);
        got += (size_t)n;
        if (arrived < 40)
            tell(story, "%.*s", (int)n, data[0] ? data : "");
    }
    tell(story, "\n%zu arrived\n", arrived);
    off_t place = lseek(in, 0, SEEK_CUR);
    tell(story, "the source is at %jd\n", (intmax_t)place);
    if (by_splice)
        tell_result(story, "the rest", read(in, data, 40), data);
}

static void test_sources(void **state)
{
    (void)state;
    static struct story stories[2];
    char name[] = "/tmp/uktls-sources-XXXXXX", path[100];
    static char content[65536];
    int differ = 0;
    folder = mkdtemp(name);
    assert_non_null(folder);
    snprintf(path, sizeof path, "%s/file", folder);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    memset(content, 'c', sizeof content);
    assert_returns(write(file, content, sizeof content), sizeof content);
    close(file);
    static const off_t offsets[] = {-1, 0, 3, 70000, -5};
    static const size_t steps[] = {0, 4, 8192, 65536, (size_t)SSIZE_MAX, (size_t)SSIZE_MAX + 1, SIZE_MAX};
    signal(SIGPIPE, SIG_IGN);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int by_splice = 0; by_splice < 2; by_splice++)
            for (size_t place = 0; place < 5; place++)
                for (size_t step = 0; step < 7; step++) {
                    bool without_end = !strcmp(kinds[kind], "/dev/zero");
                    /* It has no place that the kernel would move on. */
                    if (without_end && (place > 0 || (steps[step] > 8192 && steps[step] <= (size_t)SSIZE_MAX)))
                        continue;
                    for (int tls = 0; tls < 2; tls++) {
                        struct keys keys = tls12_keys();
                        int fd[2], in = of_kind(kinds[kind]);
                        stories[tls].len = 0;
                        tcp_pair(fd);
                        if (tls) {
                            assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
                            assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
                        }
                        set_nonblocking(fd[0], true);
                        if (in < 0)
                            tell(&stories[tls], "not here\n");
                        else
                            take(&stories[tls], in, fd[0], fd[1], by_splice, place ? &offsets[place] : NULL, steps[step]);
                        close(in);
                        close_both(fd);
                    }
                    if (strcmp(stories[0].text, stories[1].text) != 0) {
                        differ++;
                        print_message("%s, %s %zu from %jd:\n%swhere the kernel has\n%s\n", kinds[kind],
                                      by_splice ? "splice" : "sendfile", steps[step], (intmax_t)offsets[place],
                                      stories[1].text, stories[0].text);
                    }
                }
    assert_ok(unlink(path));
    assert_ok(rmdir(folder));
    assert_int_equal(differ, 0);
}

/* Of the processor, by this thread, in milliseconds. */
static long used(void)
{
    struct rusage usage;
    assert_ok(getrusage(RUSAGE_THREAD, &usage));
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

enum { WAIT_MS = 400 };

static void wait_at_most(int fd)
{
    struct timeval time = {.tv_usec = WAIT_MS * 1000};
    assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    assert_ok(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time));
}

/* What is in the error queue keeps poll(2) from sleeping: a call that waits sleeps all the same. */
static void test_error_queue(void **state)
{
    (void)state;
    int fd[2], queue = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_TX_ACK | SOF_TIMESTAMPING_SOFTWARE;
    struct keys keys = tls12_keys();
    struct receiver r;
    small_tls_pair(fd, &keys, &r);
    assert_ok(tls_rx_init(fd[0], keys.info, keys.len));
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_TIMESTAMPING, &queue, sizeof queue));
    assert_returns(send(fd[0], pattern(0, 5), 5, 0), 5);
    expect_records(&r, "23:5");
    struct pollfd error = {.fd = fd[0], .events = 0};
    assert_int_equal(poll(&error, 1, DEADLINE_MS), 1);
    assert_int_equal(error.revents, POLLERR);
    wait_at_most(fd[0]);
    long before = used();
    char byte;
    assert_fails(recv(fd[0], &byte, 1, 0), EAGAIN);
    for (uint64_t sent = 5; send(fd[0], pattern(sent, 5000), 5000, 0) == 5000;)
        sent += 5000;
    assert_int_equal(errno, EAGAIN);
    long spent = used() - before;
    if (spent > WAIT_MS / 2)
        fail_msg("%ld ms of the processor to sleep for twice %d", spent, WAIT_MS);
    close(fd[1]);
    close(fd[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_error_queue),
    };
    return RUN_PRELOADED("test_own_options", tests);
}
