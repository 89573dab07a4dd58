/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Descriptor numbers: duplicates are the same connection, a number that was closed never hands its
 * connection on, and the library's own descriptors are out of the way.
 */
#include "preload.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static void test_duplicates_are_the_same_connection(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    int copies[] = {fd[0], dup(fd[0]), fcntl(fd[0], F_DUPFD, 50), fcntl(fd[0], F_DUPFD_CLOEXEC, 60),
                    dup2(fd[0], 70), dup3(fd[0], 80, O_CLOEXEC)};
    for (size_t i = 0; i < 6; i++) {
        assert_true(copies[i] >= 0);
        assert_returns(write(copies[i], pattern(i * 10, 10), 10), 10);
    }
    assert_returns(dup2(fd[0], fd[0]), fd[0]);
    assert_returns(fcntl(fd[0], F_GETFD), FD_CLOEXEC);
    expect_bytes(&receiver, 60);
    for (size_t i = 0; i < 6; i++) {
        assert_returns(send(copies[i], pattern(60 + i, 1), 1, MSG_MORE), 1);
        assert_ok(close(copies[i]));
        if (i < 5)
            expect_nothing(fd[1]);
    }
    expect_records(&receiver, "23:6");
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

/* What waited for room under a number that is closed goes out under the other one. */
static void test_a_copy_takes_over_what_waits(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    uint64_t sent = fill_socket(fd[0], 0, 10000);
    int copy = dup(fd[0]);
    assert_true(copy >= 0);
    assert_ok(close(fd[0]));
    expect_bytes(&receiver, sent);
    assert_returns(write(copy, pattern(sent, 10), 10), 10);
    expect_bytes(&receiver, sent + 10);
    assert_ok(close(copy));
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

/* What was accepted for the socket that a duplicate takes the place of goes out. */
static void test_dup_over_a_socket_drains_it(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    for (int by_dup3 = 0; by_dup3 < 2; by_dup3++) {
        struct receiver receiver;
        int fd[2], ends[2];
        tls_pair(fd, &keys, &receiver);
        assert_ok(pipe(ends));
        assert_returns(send(fd[0], pattern(0, 100), 100, MSG_MORE), 100);
        assert_returns(by_dup3 ? dup3(ends[1], fd[0], 0) : dup2(ends[1], fd[0]), fd[0]);
        expect_records(&receiver, "23:100");
        expect_end(&receiver);
        assert_returns(write(fd[0], "plain", 5), 5);
        char data[6] = "";
        assert_returns(read(ends[0], data, 5), 5);
        assert_string_equal(data, "plain");
        assert_false(is_tls_socket(fd[0]));
        close_tls(fd);
        close_tls(ends);
    }
}

static void test_failing_dup_changes_nothing(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    assert_fails(dup2(1000, fd[0]), EBADF);
    assert_fails(dup3(1000, fd[0], 0), EBADF);
    assert_fails(dup3(fd[0], fd[0], 0), EINVAL);
    assert_fails(dup3(fd[1], fd[0], 0x7000000), EINVAL);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_tls(fd);
}

#define PLAIN "nobody may read this"

static atomic_bool stops;

/* Writes the same plain text to a number for as long as it takes. */
static void *writes_always(void *number)
{
    int fd = (int)(intptr_t)number;

    while (!atomic_load(&stops))
        if (send(fd, PLAIN, sizeof(PLAIN) - 1, MSG_NOSIGNAL) < 0)
            sched_yield();
    return NULL;
}

/* Reads what is there; fails if that text is in it. */
static void expect_no_plain(int fd)
{
    static char wire[1 << 20];
    ssize_t len = recv(fd, wire, sizeof(wire), MSG_DONTWAIT);

    if (len > 0)
        assert_null(memmem(wire, (size_t)len, PLAIN, sizeof(PLAIN) - 1));
}

/* Design rule 2, whatever the moment: another thread's write finds no plain socket under a number that is
 * being closed. */
static void test_nothing_plain_beside_a_close(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();

    for (int round = 0; round < 200; round++) {
        struct receiver receiver;
        pthread_t writer;
        int fd[2];

        tls_pair(fd, &keys, &receiver);
        atomic_store(&stops, false);
        assert_ok(pthread_create(&writer, NULL, writes_always, (void *)(intptr_t)fd[0]));
        usleep(200);
        assert_ok(close(fd[0]));
        atomic_store(&stops, true);
        assert_ok(pthread_join(writer, NULL));
        expect_no_plain(fd[1]);
        assert_ok(close(fd[1]));
    }
}

static void *opens_always(void *unused)
{
    (void)unused;
    while (!atomic_load(&stops)) {
        int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        for (int i = 0; i < 20; i++)
            if (fcntl(fd, F_GETFD) < 0)
                return (void *)(intptr_t)fd;
        if (close(fd) != 0)
            return (void *)(intptr_t)fd;
    }
    return NULL;
}

/* Each number of the range is closed once: what another thread opens under one of them meanwhile is its own. */
static void test_close_range_closes_once(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();

    for (int round = 0; round < 20; round++) {
        struct receiver receiver;
        pthread_t opener;
        int fd[2], first = INT_MAX, last = 0;
        void *lost;

        for (int i = 0; i < 40; i++) {
            tls_pair(fd, &keys, &receiver);
            first = first < fd[1] ? first : fd[1];
            first = first < fd[0] ? first : fd[0];
            last = last > fd[0] ? last : fd[0];
            last = last > fd[1] ? last : fd[1];
        }
        int lowest = open("/dev/null", O_WRONLY | O_CLOEXEC), filler = lowest;
        while (filler < last)
            assert_true((filler = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0);
        assert_ok(close(filler));
        atomic_store(&stops, false);
        /* It has the number behind the range, and then the lowest that has been closed, below those that are still to be. */
        assert_ok(pthread_create(&opener, NULL, opens_always, NULL));
        assert_ok(close_range((unsigned)first, (unsigned)last, 0));
        atomic_store(&stops, true);
        assert_ok(pthread_join(opener, &lost));
        assert_null(lost);
        for (; lowest < first; lowest++)
            close(lowest);
    }
}

/* Nor while one TLS socket takes another's number. */
static void test_nothing_plain_beside_a_dup(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver[2];
    pthread_t writer;
    int pair[2][2], number = 300;

    for (int i = 0; i < 2; i++)
        tls_pair(pair[i], &keys, &receiver[i]);
    assert_returns(dup2(pair[0][0], number), number);
    atomic_store(&stops, false);
    assert_ok(pthread_create(&writer, NULL, writes_always, (void *)(intptr_t)number));
    for (int round = 0; round < 2000; round++) {
        assert_returns(dup2(pair[round % 2][0], number), number);
        expect_no_plain(pair[0][1]);
        expect_no_plain(pair[1][1]);
    }
    atomic_store(&stops, true);
    for (int i = 0; i < 2; i++)
        assert_ok(shutdown(pair[i][1], SHUT_RDWR));
    assert_ok(pthread_join(writer, NULL));
    assert_ok(close(number));
    for (int i = 0; i < 2; i++)
        close_tls(pair[i]);
}

/* A dup3 that the kernel refuses leaves TLS on the number, also where the socket has another. */
static void test_failing_dup_of_one_of_two(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];

    tls_pair(fd, &keys, &receiver);
    int other = dup(fd[0]);
    assert_fails(dup3(fd[1], fd[0], 0x7000000), EINVAL);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    assert_returns(write(other, pattern(10, 10), 10), 10);
    expect_records(&receiver, "23:10 23:10");
    assert_ok(close(other));
    close_tls(fd);
}

/* A TLS pair whose sending end has the lowest number that is free. */
static void low_tls_pair(int fd[2], struct receiver *receiver)
{
    struct keys keys = tls12_keys();
    tcp_pair(fd);
    int low = dup(fd[0]);
    assert_true(low < fd[0]);
    assert_ok(close(fd[0]));
    fd[0] = low;
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    receiver_init(receiver, fd[1], &keys);
}

/* Gives out the lowest free number, which is `want`, for something whose other end is read at `*other`. */
typedef void (*opener)(int want, int *mine, int *other);

static void by_pipe(int want, int *mine, int *other)
{
    int ends[2];
    /* The first end takes the number. */
    assert_ok(pipe(ends));
    assert_int_equal(ends[0], want);
    *other = ends[0];
    *mine = ends[1];
}

static void by_socketpair(int want, int *mine, int *other)
{
    int ends[2];
    assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    assert_int_equal(ends[0], want);
    *mine = ends[0];
    *other = ends[1];
}

static int listening(struct sockaddr_in *address)
{
    socklen_t len = sizeof *address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int high = fcntl(listener, F_DUPFD, 500);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_ok(close(listener));
    assert_ok(bind(high, (struct sockaddr *)address, len));
    assert_ok(listen(high, 1));
    assert_ok(getsockname(high, (struct sockaddr *)address, &len));
    return high;
}

static void by_socket(int want, int *mine, int *other)
{
    struct sockaddr_in address;
    /* Behind the table's back, so that the number comes by the call that is looked at. */
    int listener = listening(&address);
    *mine = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(*mine, want);
    assert_ok(connect(*mine, (struct sockaddr *)&address, sizeof address));
    *other = accept(listener, NULL, NULL);
    assert_ok(close(listener));
}

static void by_raw_socket(int want, int *mine, int *other)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    *mine = (int)raw_call(SYS_socket, AF_INET, SOCK_STREAM, 0);
    assert_int_equal(*mine, want);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_ok(bind(listener, (struct sockaddr *)&address, len));
    assert_ok(listen(listener, 1));
    assert_ok(getsockname(listener, (struct sockaddr *)&address, &len));
    assert_ok(connect(*mine, (struct sockaddr *)&address, len));
    *other = accept4(listener, NULL, NULL, 0);
    assert_ok(close(listener));
}

/* What the kernel calls no socket is noticed. */
static void by_raw_dup(int want, int *mine, int *other)
{
    int ends[2];
    assert_ok(raw_call(SYS_pipe2, (long)ends, 0, 0));
    *other = fcntl(ends[0], F_DUPFD, 300);
    assert_returns(raw_call(SYS_dup3, ends[1], want, 0), want);
    if (ends[0] != want)
        raw_close(ends[0]);
    raw_close(ends[1]);
    *mine = want;
}

static void by_accept(int want, int *mine, int *other)
{
    struct sockaddr_in address;
    int listener = listening(&address);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    *other = fcntl(client, F_DUPFD, 400);
    /* By the system call: close would look at the table. */
    raw_close(client);
    assert_ok(connect(*other, (struct sockaddr *)&address, sizeof address));
    *mine = accept(listener, NULL, NULL);
    assert_int_equal(*mine, want);
    assert_ok(close(listener));
}

static void expect_plain(int mine, int other)
{
    char data[8] = "";
    struct iovec iov = {(void *)(uintptr_t)"abc", 3};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    assert_returns(write(mine, "123", 3), 3);
    assert_returns(read(other, data, 8), 3);
    assert_string_equal(data, "123");
    assert_false(is_tls_socket(mine));
    if (sendmsg(mine, &msg, 0) == 3)
        assert_returns(read(other, data, 8), 3);
    struct pollfd p = {.fd = mine, .events = POLLOUT};
    assert_returns(poll(&p, 1, 0), 1);
}

static void test_a_number_closed_behind_our_back_is_plain_again(void **state)
{
    (void)state;
    static const opener openers[] = {by_pipe, by_socketpair, by_socket, by_accept, by_raw_socket, by_raw_dup};
    for (size_t i = 0; i < sizeof openers / sizeof *openers; i++) {
        struct receiver receiver;
        int fd[2], mine, other;
        low_tls_pair(fd, &receiver);
        assert_returns(write(fd[0], pattern(0, 10), 10), 10);
        raw_close(fd[0]);
        openers[i](fd[0], &mine, &other);
        print_message("opener %zu: number %d\n", i, mine);
        expect_plain(mine, other);
        expect_records(&receiver, "23:10");
        expect_end(&receiver);
        /* A connection under the same number is a new one, with its own keys. */
        assert_ok(close(mine));
        assert_ok(close(other));
        assert_ok(close(fd[1]));
        for (int number = 300; number < 600; number++)
            close(number);
    }
}

static void test_files_under_an_old_number(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        struct receiver receiver;
        int fd[2];
        uint64_t one = 1;
        low_tls_pair(fd, &receiver);
        raw_close(fd[0]);
        int number = kind == 0   ? open("/dev/null", O_RDWR)
                     : kind == 1 ? eventfd(0, 0)
                     : kind == 2 ? epoll_create1(0)
                                 : openat(AT_FDCWD, "/dev/zero", O_RDWR);
        assert_int_equal(number, fd[0]);
        if (kind == 2)
            assert_fails(write(number, &one, 8), EINVAL);
        else {
            assert_returns(write(number, &one, 8), 8);
            assert_returns(read(number, &one, 8), kind == 0 ? 0 : 8);
        }
        expect_end(&receiver);
        close_tls(fd);
    }
}

/* A child of vfork has its parent's memory: what it closes stays open in the parent. */
static void test_vfork_child_closes(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    int null = open("/dev/null", O_WRONLY);
    pid_t child = vfork();
    if (child == 0) {
        if (dup2(null, fd[0]) != fd[0])
            _exit(1);
        close(fd[0]);
        close_range(3, 100, 0);
        _exit(0);
    }
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    assert_ok(close(null));
    close_tls(fd);
}

/* Such a child may do nothing but that. If it writes, the parent's connection may break, but never goes on
 * in the clear. */
static void test_vfork_child_writes(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    int null = open("/dev/null", O_WRONLY);
    pid_t child = vfork();
    if (child == 0)
        _exit(dup2(null, fd[0]) == fd[0] && write(fd[0], "x", 1) == 1 ? 0 : 1);
    assert_exited(wait_child(child), 0);
    assert_true(is_tls_socket(fd[0]));
    if (write(fd[0], pattern(0, 10), 10) == 10)
        expect_records(&receiver, "23:10");
    assert_ok(close(null));
    assert_ok(close(fd[0]));
    expect_end(&receiver);
    assert_ok(close(fd[1]));
}

/* The library's threads are not started there: they would end with the child, and what is left to them would stay. */
static void test_vfork_child_sends_first(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    pid_t child = vfork();
    if (child == 0) {
        for (int i = 0; i < 4; i++)
            if (write(fd[0], pattern((uint64_t)i * 65536, 65536), 65536) != 65536)
                _exit(1);
        _exit(0);
    }
    assert_exited(wait_child(child), 0);
    expect_bytes(&receiver, 4 * 65536);
    /* Nor are they missed when the parent could have used some. */
    send_all(fd[0], 4 * 65536, 65536, 0);
    expect_bytes(&receiver, 5 * 65536);
    close_tls(fd);
}

static void test_disconnecting_att12(void **state)
{
    (void)state;
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int fd[2];
    struct peer peer;
    char data[5];
    both_pair(fd, &peer);
    assert_fails(connect(fd[0], &none, sizeof none), EOPNOTSUPP);
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&peer.in, "23:10");
    send_sealed(&peer.out, "23:5");
    assert_returns(read(fd[0], data, 5), 5);
    close_tls(fd);
}

static void test_passing_a_socket_to_another_process(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2], ends[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } control = {.header = {CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec iov = {(void *)(uintptr_t)"x", 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                         .msg_controllen = sizeof control.bytes};
    struct mmsghdr many = {.msg_hdr = msg};
    tls_pair(fd, &keys, &receiver);
    unix_pair(ends);
    memcpy(CMSG_DATA(&control.header), (int[]){fd[1], fd[0]}, 2 * sizeof(int));
    assert_fails(sendmsg(ends[0], &msg, 0), EOPNOTSUPP);
    assert_fails(sendmmsg(ends[0], &many, 1, 0), EOPNOTSUPP);
    memcpy(CMSG_DATA(&control.header), (int[]){fd[1], 0}, 2 * sizeof(int));
    assert_returns(sendmsg(ends[0], &msg, 0), 1);
    close_tls(ends);
    close_tls(fd);
}

/* A plain write beside ours in a child that closes everything it does not know. */
static int close_all(void *argument)
{
    int fd[2], how = *(int *)argument;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    tcp_pair(fd);
    CHILD_CHECK(dup2(fd[0], 3) == 3 && dup2(fd[1], 4) == 4);
    if (how == 0)
        for (int number = 5; number < 1024; number++)
            (void)close(number);
    if (how == 1)
        closefrom(5);
    if (how == 2)
        CHILD_CHECK(close_range(5, ~0U, 0) == 0);
    CHILD_CHECK(tls_tx_init(3, keys.info, keys.len) == 0);
    receiver_init(&receiver, 4, &keys);
    CHILD_CHECK(fcntl(3, F_SETFL, O_NONBLOCK) == 0);
    /* So much that the library wants its worker. */
    uint64_t sent = fill_socket(3, 0, 10000);
    if (how == 0)
        for (int number = 5; number < 1024; number++)
            (void)close(number);
    if (how == 1)
        closefrom(5);
    if (how == 2)
        CHILD_CHECK(close_range(5, ~0U, 0) == 0);
    /* The lowest free number is the program's. */
    CHILD_CHECK(dup(0) == 5);
    CHILD_CHECK(close(5) == 0);
    CHILD_CHECK(close(3) == 0);
    while (receiver.position < sent)
        CHILD_CHECK(receiver_next(&receiver) == 1);
    CHILD_CHECK(receiver_next(&receiver) == 0);
    return 0;
}

static void test_closing_everything(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++)
        assert_exited(in_child(close_all, &how), 0);
}

/* The same for everything: TLS sockets are closed, with what was accepted. */
static int close_all_with_tls(void *argument)
{
    int fd[2], how = *(int *)argument;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    tcp_pair(fd);
    CHILD_CHECK(dup2(fd[1], 3) == 3);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    receiver_init(&receiver, 3, &keys);
    CHILD_CHECK(send(fd[0], pattern(0, 100), 100, MSG_MORE) == 100);
    if (how == 0)
        closefrom(4);
    else if (how == 1)
        CHILD_CHECK(close_range(4, ~0U, 0) == 0);
    else
        CHILD_CHECK(close_range(4, ~0U, CLOSE_RANGE_UNSHARE) == 0);
    CHILD_CHECK(fcntl(fd[0], F_GETFD) == -1 && errno == EBADF);
    CHILD_CHECK(write(fd[0], "x", 1) == -1 && errno == EBADF);
    CHILD_CHECK(receiver_next(&receiver) == 1 && receiver.len == 100);
    CHILD_CHECK(receiver_next(&receiver) == 0);
    return 0;
}

static void test_closing_everything_closes_tls(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++)
        assert_exited(in_child(close_all_with_tls, &how), 0);
}

static void test_close_range_with_cloexec_closes_nothing(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    tls_pair(fd, &keys, &receiver);
    assert_ok(close_range((unsigned)fd[0], (unsigned)fd[0], CLOSE_RANGE_CLOEXEC));
    assert_returns(write(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    assert_fails(close_range(10, 5, 0), EINVAL);
    assert_fails(close_range((unsigned)fd[0], (unsigned)fd[0], 0x100), EINVAL);
    assert_returns(write(fd[0], pattern(10, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* Before the library has any threads. */
        cmocka_unit_test(test_vfork_child_sends_first),
        cmocka_unit_test(test_duplicates_are_the_same_connection),
        cmocka_unit_test(test_a_copy_takes_over_what_waits),
        cmocka_unit_test(test_dup_over_a_socket_drains_it),
        cmocka_unit_test(test_failing_dup_changes_nothing),
        cmocka_unit_test(test_failing_dup_of_one_of_two),
        cmocka_unit_test(test_nothing_plain_beside_a_close),
        cmocka_unit_test(test_nothing_plain_beside_a_dup),
        cmocka_unit_test(test_a_number_closed_behind_our_back_is_plain_again),
        cmocka_unit_test(test_files_under_an_old_number),
        cmocka_unit_test(test_vfork_child_closes),
        cmocka_unit_test(test_vfork_child_writes),
        cmocka_unit_test(test_disconnecting_att12),
        cmocka_unit_test(test_passing_a_socket_to_another_process),
        cmocka_unit_test(test_closing_everything),
        cmocka_unit_test(test_closing_everything_closes_tls),
        cmocka_unit_test(test_close_range_with_cloexec_closes_nothing),
        cmocka_unit_test(test_close_range_closes_once),
    };
    return RUN_PRELOADED("test_numbers", tests);
}
