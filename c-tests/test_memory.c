/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Memory that is not there, or may only be read: EFAULT, as the kernel has it, and nothing is lost. */
#include "harness.h"
#include "sealer.h"

#include <netinet/in.h>
#include <sys/mman.h>

enum { PAGE = 4096, GOOD = 8 * PAGE, TCP_ULP = 31 };

/* GOOD bytes that can be read and written, then a page that can only be read, then one with nothing. */
static char *good, *fixed, *nothing;

static int map(void)
{
    good = mmap(NULL, GOOD + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fixed = good + GOOD;
    nothing = fixed + PAGE;
    return good == MAP_FAILED || mprotect(fixed, PAGE, PROT_READ) || mprotect(nothing, PAGE, PROT_NONE);
}

/* From now on another process has had the connections. It ends without a look at its memory, in which valgrind would
 * miss what was its parent's threads'. */
static void share(void)
{
    pid_t child = fork();
    if (child == 0)
        kill(getpid(), SIGKILL);
    assert_true(WIFSIGNALED(wait_child(child)));
}

/* Addresses at which no byte can be read. */
static void *const bad[] = {NULL, (void *)16, (void *)-4096, (void *)(1ULL << 62), NULL};
enum { BAD = sizeof bad / sizeof *bad };

static void *bad_at(size_t i)
{
    return i < BAD - 1 ? bad[i] : nothing;
}

/* TX-13: whole records count, of the one that is being filled nothing. In one process, and where there
 * have been two. */
static void test_tx13_unreadable_data(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        int fd[2], more = round & 1 ? MSG_MORE : 0;
        struct receiver r;
        struct keys keys = tls13_keys();
        tls_pair(fd, &keys, &r);
        if (round & 2) {
            share();
        }
        for (size_t i = 0; i < BAD; i++)
            assert_fails(tls_send(fd[0], bad_at(i), 9, more), EFAULT);
        fill_pattern(good, 0, GOOD);
        fill_pattern(nothing - 20480, 0, 16384);
        assert_returns(tls_send(fd[0], nothing - 20480, 40000, more), 16384);
        expect_records(&r, "23:16384");
        /* Segments, the last of which is bad; what an earlier call has left open stays. */
        fill_pattern(good, 16384, 16384);
        struct iovec iov[] = {{good + 4, 4}, {nothing, 5}, {good + 16380, 4}, {nothing, 1}};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 4};
        assert_returns(tls_send(fd[0], good, 4, MSG_MORE), 4);
        assert_fails(tls_sendmsg(fd[0], &msg, more), EFAULT);
        expect_pending(fd[0], 4);
        iov[1] = (struct iovec){good + 8, 16372};
        assert_returns(tls_sendmsg(fd[0], &msg, more), 16380);
        expect_records(&r, "23:16384");
        /* A record type: nothing of it either. */
        assert_fails(send_typed(fd[0], ALERT, nothing - 1, 2, 0), EFAULT);
        expect_pending(fd[0], 0);
        close_both(fd);
    }
}

/* TX-13, TX-57: what is accepted in front of a bad address is sent, also by a process that shares the connection. */
static void test_tx13_accepted_is_sent(void **state)
{
    (void)state;
    enum { LEN = 6 * 16384 };
    char *area = mmap(NULL, LEN + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(area != MAP_FAILED);
    assert_ok(mprotect(area + LEN, PAGE, PROT_NONE));
    fill_pattern(area, 0, LEN);
    for (int round = 0; round < 4; round++) {
        int fd[2];
        struct receiver r;
        struct keys keys = tls13_keys();
        small_tls_pair(fd, &keys, &r);
        if (round & 1) {
            share();
        }
        set_nonblocking(fd[0], round & 2);
        struct drain drain;
        if (!(round & 2))
            drain_start(&drain, fd[1], &keys);
        ssize_t n = tls_send(fd[0], area, LEN + 5, 0);
        assert_true(n > 0 && n % 16384 == 0);
        if (round & 2)
            drain_start(&drain, fd[1], &keys);
        else
            assert_int_equal(n, LEN);
        /* Without another call on the connection. */
        expect_pending(fd[0], 0);
        assert_ok(uktls_close(fd[0]));
        drain_finish(&drain, (uint64_t)n);
        close(fd[1]);
    }
    munmap(area, LEN + PAGE);
}

/* TX-13, AS-11: the pages of tls_sendpage are read later, but seen now. */
static void test_tx13_unreadable_pages(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    tls_pair(fd, &keys, &r);
    fill_pattern(good, 0, GOOD);
    assert_fails(tls_sendpage(fd[0], nothing, 0, 9, 0), EFAULT);
    assert_fails(tls_sendpage(fd[0], good, 4, GOOD * 2, MSG_OOB), EOPNOTSUPP);
    fill_pattern(nothing - 16384, 0, 16384 - PAGE);
    assert_fails(tls_sendpage(fd[0], nothing - 5, 0, 6, 0), EFAULT);
    assert_returns(tls_sendpage(fd[0], good, 0, 100, 0), 100);
    expect_records(&r, "23:100");
    close_both(fd);
}

/* TX-13, TX-19, TX-41: what a call points to beside its data. */
static void test_tx13_unreadable_arguments(void **state)
{
    (void)state;
    int fd[2], file = fileno(tmpfile());
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    assert_ok(ftruncate(file, 10));
    for (size_t i = 0; i < BAD; i++) {
        struct iovec iov = {"x", 1};
        struct msghdr segments = {.msg_iov = bad_at(i), .msg_iovlen = 1};
        struct msghdr control = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = bad_at(i),
                                 .msg_controllen = CMSG_SPACE(1)};
        assert_fails(tls_sendmsg(fd[0], bad_at(i), 0), EFAULT);
        assert_fails(tls_sendmsg(fd[0], &segments, 0), EFAULT);
        assert_fails(tls_sendmsg(fd[0], &control, 0), EFAULT);
        if (bad_at(i) != NULL)
            assert_fails(tls_sendfile(fd[0], file, bad_at(i), 1), EFAULT);
        assert_fails(tls_poll(bad_at(i), 1, 0), EFAULT);
    }
    assert_fails(tls_sendfile(fd[0], file, (off_t *)(void *)fixed, 1), EFAULT);
    expect_nothing(fd[1]);
    close_both(fd);
}

/* RX-27: no record is lost; DIV: no error stays behind. RX-28: a message of which a part can be written. */
static void test_rx27_unwritable(void **state)
{
    (void)state;
    for (int tls13 = 0; tls13 < 2; tls13++) {
        int fd[2];
        struct sealer s;
        struct keys keys = tls13 ? tls13_keys() : tls12_keys();
        rx_pair(fd, &keys, &s);
        send_sealed(&s, "23:100 23:5");
        for (size_t i = 0; i < BAD + 1; i++) {
            void *where = i < BAD ? bad_at(i) : fixed;
            struct iovec iov[] = {{where, 50}, {good, 50}};
            struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2}, segments = {.msg_iov = where, .msg_iovlen = 1};
            assert_fails(tls_recv(fd[1], where, 999, 0), EFAULT);
            assert_fails(tls_recv(fd[1], where, 999, MSG_PEEK), EFAULT);
            assert_fails(tls_recv(fd[1], where, 105, MSG_WAITALL), EFAULT);
            assert_fails(tls_recvmsg(fd[1], &msg, 0), EFAULT);
            assert_fails(tls_recvmsg(fd[1], where, 0), EFAULT);
            if (where != fixed) /* zeros: no memory, and 0 of it */
                assert_fails(tls_recvmsg(fd[1], &segments, 0), EFAULT);
        }
        assert_returns(tls_recv(fd[1], fixed - 50, 999, MSG_PEEK), 50);
        assert_memory_equal(fixed - 50, pattern(0, 50), 50);
        memset(fixed - 50, 0, 50);
        assert_returns(tls_recv(fd[1], fixed - 50, 999, 0), 50);
        assert_memory_equal(fixed - 50, pattern(0, 50), 50);
        s.reader = 50;
        struct iovec half[] = {{good, 20}, {nothing, 20}, {good + 20, 20}};
        struct msghdr msg = {.msg_iov = half, .msg_iovlen = 3};
        assert_returns(tls_recvmsg(fd[1], &msg, 0), 20);
        assert_memory_equal(good, pattern(50, 20), 20);
        s.reader = 70;
        expect_calls(&s, 100, MSG_DONTWAIT, "23:35 EAGAIN");
        /* Records that would be opened where they go. */
        send_sealed(&s, "23:16384 23:10");
        assert_fails(tls_recv(fd[1], fixed, 16384, 0), EFAULT);
        assert_returns(tls_recv(fd[1], fixed - 10000, 16384, 0), 10000);
        assert_memory_equal(fixed - 10000, pattern(105, 10000), 10000);
        s.reader = 10105;
        expect_calls(&s, 20000, MSG_DONTWAIT, "23:6394 EAGAIN");
        /* Nothing there: a bad address is not seen. */
        assert_fails(tls_recv(fd[1], nothing, 5, MSG_DONTWAIT), EAGAIN);
        close_tls(fd);
    }
}

/* RX-15, RX-27: no memory for the type is no room for it. */
static void test_rx15_unwritable_type(void **state)
{
    (void)state;
    int fd[2];
    struct sealer s;
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    send_sealed(&s, "23:5 21:2");
    struct iovec iov = {good, 100};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = nothing, .msg_controllen = CMSG_SPACE(1)};
    assert_returns(tls_recvmsg(fd[1], &msg, 0), 5);
    assert_int_equal(msg.msg_controllen, 0);
    msg.msg_control = fixed;
    msg.msg_controllen = CMSG_SPACE(1);
    assert_fails(tls_recvmsg(fd[1], &msg, 0), EIO);
    s.reader = 5;
    expect_calls(&s, 100, MSG_DONTWAIT, "21:2 EAGAIN");
    close_tls(fd);
}

/* The last `len` bytes that can be read. */
static void *in_front_of_nothing(const void *bytes, size_t len)
{
    assert_ok(mprotect(fixed, PAGE, PROT_READ | PROT_WRITE));
    memcpy(nothing - len, bytes, len);
    assert_ok(mprotect(fixed, PAGE, PROT_READ));
    return nothing - len;
}

/* ATT-3; CI-1: what is wrong with version, cipher and length goes before what cannot be read behind them. */
static void test_ci1_unreadable_keys(void **state)
{
    (void)state;
    for (int direction = TLS_TX; direction <= TLS_RX; direction++)
        for (size_t i = 0; i < suite_count; i++) {
            int fd[2];
            struct keys keys = make_keys(&suites[i], 5, 0);
            socklen_t len = (socklen_t)keys.len;
            tcp_pair(fd);
            for (size_t k = 1; k < BAD; k++)
                assert_fails(tls_setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, bad_at(k), 4), EFAULT);
            assert_fails(tls_setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, in_front_of_nothing("tls", 3), 4), EFAULT);
            assert_ok(tls_setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, in_front_of_nothing("tls", 4), 16));
            for (size_t k = 1; k < BAD; k++)
                assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, bad_at(k), len), EFAULT);
            void *head = in_front_of_nothing(keys.info, 4);
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, head, len), EFAULT);
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, head, len + 1), EINVAL);
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, in_front_of_nothing(keys.info, 3), len), EFAULT);
            head = in_front_of_nothing("\5\3\63\0", 4);
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, head, len), EINVAL);
            head = in_front_of_nothing(keys.info, keys.len - 1);
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, head, len), EFAULT);
            assert_fails(direction == TLS_TX ? tls_tx_init(fd[0], head, len) : tls_rx_init(fd[0], head, len), EFAULT);
            head = in_front_of_nothing(keys.info, keys.len);
            assert_ok(tls_setsockopt(fd[0], SOL_TLS, direction, head, len));
            if (suites[i].version == 0x0303)
                assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, nothing, len), EBUSY);
            else /* RK-1 */
                assert_fails(tls_setsockopt(fd[0], SOL_TLS, direction, nothing, len), EFAULT);
            close_tls(fd);
        }
}

/* CI-11, CI-15, CI-16, CI-17, CI-20: options, their values and the memory for them. */
static void test_ci11_options(void **state)
{
    (void)state;
    enum { ZEROCOPY_RO = 3, NO_PAD = 4, MAX_PAYLOAD = 5 };
    static const struct { int option; socklen_t len; } rows[] = {
        {TLS_TX, 4}, {TLS_TX, 40}, {TLS_RX, 4}, {TLS_RX, 40}, {ZEROCOPY_RO, 4}, {NO_PAD, 4}, {MAX_PAYLOAD, 2},
    };
    int fd[2];
    struct keys keys = tls13_keys();
    tcp_pair(fd);
    assert_ok(tls_setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "tls", 4));
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    assert_ok(tls_rx_init(fd[0], keys.info, keys.len));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        socklen_t len = rows[i].len;
        for (size_t k = 1; k < BAD + 1; k++) {
            void *where = k < BAD ? bad_at(k) : fixed;
            assert_fails(tls_getsockopt(fd[0], SOL_TLS, rows[i].option, where, &len), EFAULT);
            assert_int_equal(len, rows[i].len);
            if (k < BAD)
                assert_fails(tls_getsockopt(fd[0], SOL_TLS, rows[i].option, good, where), EFAULT);
        }
        socklen_t *written = in_front_of_nothing(&len, sizeof len);
        assert_fails(tls_getsockopt(fd[0], SOL_TLS, rows[i].option, good, written), EFAULT);
        assert_ok(tls_getsockopt(fd[0], SOL_TLS, rows[i].option, good, &len));
        if (rows[i].option == TLS_TX || rows[i].option == TLS_RX)
            continue;
        for (size_t k = 1; k < BAD; k++)
            assert_fails(tls_setsockopt(fd[0], SOL_TLS, rows[i].option, bad_at(k), len), EFAULT);
        assert_fails(tls_setsockopt(fd[0], SOL_TLS, rows[i].option, nothing - 1, len), EFAULT);
    }
    assert_fails(tls_getsockopt(fd[0], IPPROTO_TCP, TCP_ULP, nothing, &(socklen_t){4}), EFAULT);
    assert_fails(tls_setsockopt(fd[0], SOL_SOCKET, SO_RCVLOWAT, nothing, 4), EFAULT);
    close_tls(fd);
}

/* The structs of the library's own functions. */
static void test_own_structs(void **state)
{
    (void)state;
    for (size_t i = 0; i < BAD; i++) {
        assert_fails(uktls_configure(bad_at(i)), EFAULT);
        assert_fails(uktls_get_stats(bad_at(i)), EFAULT);
        assert_fails(uktls_get_info(0, bad_at(i)), EFAULT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx13_accepted_is_sent),
        cmocka_unit_test(test_tx13_unreadable_data),      cmocka_unit_test(test_tx13_unreadable_pages),
        cmocka_unit_test(test_tx13_unreadable_arguments), cmocka_unit_test(test_rx27_unwritable),
        cmocka_unit_test(test_rx15_unwritable_type),      cmocka_unit_test(test_ci1_unreadable_keys),
        cmocka_unit_test(test_ci11_options),              cmocka_unit_test(test_own_structs),
    };
    return map() || RUN_ENGINES("memory", tests);
}
