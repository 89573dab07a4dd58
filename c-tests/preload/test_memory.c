/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Memory that is not there: EFAULT from every call, on sockets with TLS and without.
 */
#include "preload.h"

#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>

/* Of any size that a page may have. */
enum { PAGE = 65536 };

static void *new_page(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(page != MAP_FAILED);
    return page;
}

/* `bad` is what a call is to point to. */
static void assert_calls_fail(int fd, void *bad)
{
    struct iovec iov = {bad, 5};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct mmsghdr messages = {.msg_hdr = msg};
    assert_fails(write(fd, bad, 5), EFAULT);
    assert_fails(send(fd, bad, 5, MSG_NOSIGNAL), EFAULT);
    assert_fails(sendto(fd, bad, 5, 0, NULL, 0), EFAULT);
    assert_fails(writev(fd, &iov, 1), EFAULT);
    assert_fails(writev(fd, bad, 1), EFAULT);
    assert_fails(sendmsg(fd, &msg, 0), EFAULT);
    assert_fails(sendmsg(fd, bad, 0), EFAULT);
    assert_fails(sendmmsg(fd, &messages, 1, 0), EFAULT);
    assert_fails(sendmmsg(fd, bad, 1, 0), EFAULT);
    assert_fails(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, bad, 4), EFAULT);
    assert_fails(setsockopt(fd, IPPROTO_TCP, TCP_ULP, bad, 4), EFAULT);
    assert_fails(getsockopt(fd, SOL_SOCKET, SO_ERROR, bad, &(socklen_t){4}), EFAULT);
}

static void assert_receives_fail(int fd, void *bad)
{
    struct iovec iov = {bad, 5};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct mmsghdr messages = {.msg_hdr = msg};
    struct sockaddr_in from;
    char byte;
    assert_fails(read(fd, bad, 5), EFAULT);
    assert_fails(recv(fd, bad, 5, 0), EFAULT);
    assert_fails(readv(fd, &iov, 1), EFAULT);
    assert_fails(readv(fd, bad, 1), EFAULT);
    assert_fails(recvmsg(fd, &msg, 0), EFAULT);
    assert_fails(recvmsg(fd, bad, 0), EFAULT);
    assert_fails(recvmmsg(fd, &messages, 1, 0, NULL), EFAULT);
    assert_fails(recvmmsg(fd, bad, 1, 0, NULL), EFAULT);
    assert_fails(recvmmsg(fd, &messages, 1, 0, bad), EFAULT);
    if (is_tls_socket(fd))
        assert_fails(recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&from, bad), EFAULT);
}

/* Not their times: the C library reads those itself. */
static void assert_waits_fail(int fd, void *bad)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    struct timeval none = {0, 0};
    struct timespec nothing = {0, 0};
    assert_fails(poll(bad, 1, 0), EFAULT);
    assert_fails(ppoll(bad, 1, &nothing, NULL), EFAULT);
    assert_fails(ppoll(&wanted, 1, &nothing, bad), EFAULT);
    assert_fails(select(fd + 1, bad, NULL, NULL, &none), EFAULT);
    assert_fails(select(fd + 1, NULL, NULL, bad, &none), EFAULT);
    assert_fails(pselect(fd + 1, bad, NULL, NULL, &nothing, NULL), EFAULT);
    assert_fails(poll(bad, SIZE_MAX / 16, 0), EINVAL);
}

/* TX-13, RX-27, ATT-3, and the kernel's own answers. */
static void test_tx13_rx27_bad_addresses(void **state)
{
    (void)state;
    void *page = new_page();
    assert_ok(mprotect(page, PAGE, PROT_NONE));
    void *bad[] = {page, (void *)16, (void *)-64};
    struct peer peer;
    int tls[2], plain[2];
    both_pair(tls, &peer);
    tcp_pair(plain);
    send_sealed(&peer.out, "23:5");
    write(plain[1], "hello", 5);
    wait_for(plain[0], POLLIN);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_calls_fail(tls[0], bad[i]);
        assert_calls_fail(plain[0], bad[i]);
        assert_receives_fail(tls[0], bad[i]);
        assert_receives_fail(plain[0], bad[i]);
        assert_waits_fail(tls[0], bad[i]);
        assert_waits_fail(plain[0], bad[i]);
    }
    expect_calls(&peer.out, 9, MSG_DONTWAIT, "23:5 EAGAIN");
    assert_returns(write(tls[0], pattern(0, 5), 5), 5);
    expect_records(&peer.in, "23:5");
    close_tls(tls);
    close_both(plain);
    munmap(page, PAGE);
}

/* What a call writes to besides the data: here the kernel finds out afterwards, we before. */
static void test_read_only_arguments(void **state)
{
    (void)state;
    char *page = new_page();
    struct peer peer;
    int fd[2], pair[2];
    both_pair(fd, &peer);
    struct iovec iov = {"x", 1};
    struct mmsghdr *messages = (struct mmsghdr *)(void *)page;
    messages->msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    fd_set *set = (fd_set *)(void *)(page + 1024);
    FD_ZERO(set);
    FD_SET(fd[0], set);
    struct timeval none = {0, 0};
    assert_ok(mprotect(page, PAGE, PROT_READ));
    assert_fails(sendmmsg(fd[0], messages, 1, 0), EFAULT);
    assert_fails(recvmmsg(fd[0], messages, 1, MSG_DONTWAIT, NULL), EFAULT);
    assert_fails(select(fd[0] + 1, set, NULL, NULL, &none), EFAULT);
    assert_fails(select(fd[0] + 1, NULL, set, NULL, &none), EFAULT);
    expect_nothing(fd[1]);
    munmap(page, PAGE);
    /* A control message that says it is longer than its memory, on a socket without TLS. */
    assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    page = new_page();
    char *last = page + PAGE - CMSG_SPACE(sizeof(int));
    *(struct cmsghdr *)(void *)last = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = 1 << 20};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = last, .msg_controllen = CMSG_SPACE(sizeof(int))};
    assert_fails(sendmsg(pair[0], &msg, 0), EINVAL);
    munmap(page, PAGE);
    close_both(pair);
    close_tls(fd);
}

/* TX-13, RX-27: what was good is not any more. */
static void test_tx13_memory_taken_away(void **state)
{
    (void)state;
    for (int how = 0; how < 5; how++) {
        char *area = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *page = area + PAGE;
        assert_true(area != MAP_FAILED);
        struct peer peer;
        int fd[2];
        both_pair(fd, &peer);
        fill_pattern(page, 0, 5);
        assert_returns(write(fd[0], page, 5), 5);
        expect_records(&peer.in, "23:5");
        send_sealed(&peer.out, "23:5 23:5");
        assert_returns(read(fd[0], page, 5), 5);
        if (how == 0)
            assert_ok(munmap(page, PAGE));
        else if (how == 1)
            assert_ok(mprotect(page, PAGE, PROT_NONE));
        else if (how == 2)
            assert_ok(mprotect(page, PAGE, PROT_READ));
        else if (how == 3)
            assert_ptr_equal(mremap(area, 2 * PAGE, PAGE, 0), area);
        else
            assert_ptr_equal(mmap(page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), page);
        assert_fails(read(fd[0], page, 5), EFAULT);
        if (how != 2)
            assert_fails(write(fd[0], page, 5), EFAULT);
        munmap(area, 2 * PAGE);
        close_tls(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx13_rx27_bad_addresses),
        cmocka_unit_test(test_read_only_arguments),
        cmocka_unit_test(test_tx13_memory_taken_away),
    };
    return RUN_PRELOADED("test_memory", tests);
}
