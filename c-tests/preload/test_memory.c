/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Memory that is not there: EFAULT from every call, on sockets with TLS and without.
 */
#include "preload.h"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
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

/* Two pages of memory, of which the second is used, and then taken away or made unfit. */
struct taken {
    char *area, *page;
    int file, segment;
};

/* What is left of its use: nothing, or reading it. */
enum { NOTHING, READABLE };

static void by_munmap(struct taken *t) { assert_ok(munmap(t->page, PAGE)); }
static void by_mprotect(struct taken *t) { assert_ok(mprotect(t->page, PAGE, PROT_NONE)); }
static void by_mprotect_read(struct taken *t) { assert_ok(mprotect(t->page, PAGE, PROT_READ)); }
static void by_shrinking(struct taken *t) { assert_ptr_equal(mremap(t->area, 2 * PAGE, PAGE, 0), t->area); }
static void by_mmap(struct taken *t)
{
    assert_ptr_equal(mmap(t->page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), t->page);
}
static void moved_over(struct taken *t, int protection)
{
    void *other = mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_equal(mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, t->page), t->page);
}
static void by_moving_nothing_over(struct taken *t) { moved_over(t, PROT_NONE); }
static void by_moving_over(struct taken *t) { moved_over(t, PROT_READ); }
static void by_moving_away(struct taken *t)
{
    void *place = new_page(), *moved = mremap(t->page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    assert_ptr_equal(moved, place);
    assert_ok(munmap(place, PAGE));
}
static void by_pkey_mprotect(struct taken *t) { assert_ok(pkey_mprotect(t->page, PAGE, PROT_NONE, -1)); }
static void by_shmdt(struct taken *t) { assert_ok(shmdt(t->area)); }
static void by_shmat(struct taken *t)
{
    assert_ptr_equal(shmat(t->segment, t->area, SHM_REMAP | SHM_RDONLY), t->area);
}
static void by_sbrk(struct taken *t)
{
    (void)t;
    assert_true(sbrk(-2 * PAGE) != (void *)-1);
}
static void by_brk(struct taken *t) { assert_ok(brk(t->area)); }
static void by_ftruncate(struct taken *t) { assert_ok(ftruncate(t->file, PAGE)); }
static int cuts(void *file) { return ftruncate(*(int *)file, PAGE); }
static void by_another_process(struct taken *t) { assert_exited(in_child(cuts, &t->file), 0); }
static void *unmaps(void *page) { return munmap(page, PAGE) == 0 ? NULL : page; }
static void by_another_thread(struct taken *t)
{
    pthread_t thread;
    void *result;
    assert_int_equal(pthread_create(&thread, NULL, unmaps, t->page), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
}
static void by_syscall_munmap(struct taken *t) { assert_ok(syscall(SYS_munmap, t->page, PAGE)); }
static void by_syscall_mprotect(struct taken *t) { assert_ok(syscall(SYS_mprotect, t->page, PAGE, PROT_NONE)); }
static void by_syscall_pkey_mprotect(struct taken *t)
{
    assert_ok(syscall(SYS_pkey_mprotect, t->page, PAGE, PROT_READ, -1));
}
static void by_syscall_mmap(struct taken *t)
{
    assert_returns(syscall(SYS_mmap, t->page, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), t->page);
}
static void by_syscall_mremap(struct taken *t)
{
    assert_returns(syscall(SYS_mremap, t->area, 2 * PAGE, PAGE, 0, NULL), t->area);
}
static void by_syscall_shmdt(struct taken *t) { assert_ok(syscall(SYS_shmdt, t->area)); }
static void by_syscall_brk(struct taken *t) { assert_returns(syscall(SYS_brk, t->area), t->area); }

enum { GUARD_INSTALL = 102 };

static void by_guard(struct taken *t) { assert_ok(madvise(t->page, PAGE, GUARD_INSTALL)); }
static void by_syscall_guard(struct taken *t) { assert_ok(syscall(SYS_madvise, t->page, PAGE, GUARD_INSTALL)); }
static void by_process_guard(struct taken *t)
{
    struct iovec piece = {t->page, PAGE};
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    ssize_t done = process_madvise(self, &piece, 1, GUARD_INSTALL, 0);
    /* Before Linux 6.13 the guard is no advice for it. */
    if (done != PAGE)
        by_guard(t);
    close(self);
}

static void in_anonymous(struct taken *t)
{
    t->area = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
static void in_file(struct taken *t)
{
    t->file = memfd_create("cut", 0);
    assert_ok(ftruncate(t->file, 2 * PAGE));
    t->area = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, t->file, 0);
}
/* A mapping of a file that has been moved is one still. */
static void in_moved_file(struct taken *t)
{
    in_file(t);
    void *place = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    t->area = mremap(t->area, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    assert_ptr_equal(t->area, place);
}
static void in_segment(struct taken *t)
{
    t->segment = shmget(IPC_PRIVATE, 2 * PAGE, 0600);
    assert_true(t->segment >= 0);
    t->area = shmat(t->segment, NULL, 0);
}
/* The heap has room, and so does not grow behind it. */
static void behind_heap(struct taken *t)
{
    mallopt(M_TOP_PAD, 8 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    void *volatile room = malloc(8 << 20);
    free(room);
    char *end = sbrk(0);
    assert_true(sbrk(-(intptr_t)end & (PAGE - 1)) != (void *)-1);
    t->area = sbrk(2 * PAGE);
}

static const struct {
    const char *name;
    void (*where)(struct taken *), (*how)(struct taken *);
    int left;
} ways[] = {
    {"munmap", in_anonymous, by_munmap, NOTHING},
    {"munmap in another thread", in_anonymous, by_another_thread, NOTHING},
    {"mprotect, PROT_NONE", in_anonymous, by_mprotect, NOTHING},
    {"mprotect, PROT_READ", in_anonymous, by_mprotect_read, READABLE},
    {"pkey_mprotect", in_anonymous, by_pkey_mprotect, NOTHING},
    {"mmap over it", in_anonymous, by_mmap, NOTHING},
    {"mremap, shorter", in_anonymous, by_shrinking, NOTHING},
    {"mremap, something over it", in_anonymous, by_moving_over, READABLE},
    {"mremap, nothing over it", in_anonymous, by_moving_nothing_over, NOTHING},
    {"mremap away", in_anonymous, by_moving_away, NOTHING},
    {"shmdt", in_segment, by_shmdt, NOTHING},
    {"shmat over it", in_segment, by_shmat, READABLE},
    {"sbrk", behind_heap, by_sbrk, NOTHING},
    {"brk", behind_heap, by_brk, NOTHING},
    {"a file cut short", in_file, by_ftruncate, NOTHING},
    {"a file cut short by another process", in_file, by_another_process, NOTHING},
    {"a moved file cut short by another process", in_moved_file, by_another_process, NOTHING},
    {"guard pages", in_anonymous, by_guard, NOTHING},
    {"guard pages by process_madvise", in_anonymous, by_process_guard, NOTHING},
    {"syscall munmap", in_anonymous, by_syscall_munmap, NOTHING},
    {"syscall mprotect", in_anonymous, by_syscall_mprotect, NOTHING},
    {"syscall pkey_mprotect", in_anonymous, by_syscall_pkey_mprotect, READABLE},
    {"syscall mmap", in_anonymous, by_syscall_mmap, NOTHING},
    {"syscall mremap", in_anonymous, by_syscall_mremap, NOTHING},
    {"syscall shmdt", in_segment, by_syscall_shmdt, NOTHING},
    {"syscall brk", behind_heap, by_syscall_brk, NOTHING},
    {"syscall madvise", in_anonymous, by_syscall_guard, NOTHING},
};

static bool has_guard_pages(void)
{
    void *page = new_page();
    bool has = madvise(page, PAGE, GUARD_INSTALL) == 0;
    munmap(page, PAGE);
    return has;
}

/* TX-13, RX-27: what was good is not any more. In a child each, as the kernel's answer to a fault is a signal. */
static int is_taken_away(void *argument)
{
    size_t way = *(size_t *)argument;
    struct taken taken = {.file = -1, .segment = -1};
    struct peer peer;
    int fd[2];
    both_pair(fd, &peer);
    ways[way].where(&taken);
    CHILD_CHECK(taken.area != MAP_FAILED);
    taken.page = taken.area + PAGE;
    send_sealed(&peer.out, "23:5 23:5");
    CHILD_CHECK(read(fd[0], taken.page, 5) == 5);
    fill_pattern(taken.page, 0, 5);
    CHILD_CHECK(write(fd[0], taken.page, 5) == 5);
    expect_records(&peer.in, "23:5");
    ways[way].how(&taken);
    if (taken.segment >= 0)
        shmctl(taken.segment, IPC_RMID, NULL);
    CHILD_CHECK(read(fd[0], taken.page, 5) == -1 && errno == EFAULT);
    if (ways[way].left == NOTHING)
        CHILD_CHECK(write(fd[0], taken.page, 5) == -1 && errno == EFAULT);
    char other[5];
    CHILD_CHECK(read(fd[0], other, 5) == 5);
    CHILD_CHECK(write(fd[0], pattern(5, 5), 5) == 5);
    expect_records(&peer.in, "23:5");
    return 0;
}

static void test_tx13_memory_taken_away(void **state)
{
    (void)state;
    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
        if (strstr(ways[way].name, "guard") || strstr(ways[way].name, "madvise"))
            if (!has_guard_pages())
                continue;
        int status = in_child(is_taken_away, &way);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("%s: wait status %#x", ways[way].name, status);
    }
}

/* A child has not got what its parent keeps for itself. */
static void test_memory_that_a_child_lacks(void **state)
{
    (void)state;
    struct peer peer;
    int fd[2];
    both_pair(fd, &peer);
    char *page = new_page();
    fill_pattern(page, 0, 5);
    assert_returns(write(fd[0], page, 5), 5);
    expect_records(&peer.in, "23:5");
    assert_ok(madvise(page, PAGE, MADV_DONTFORK));
    pid_t child = fork();
    if (child == 0)
        _exit(write(fd[0], page, 5) == -1 && errno == EFAULT ? 0 : 1);
    assert_exited(wait_child(child), 0);
    assert_returns(write(fd[0], pattern(5, 5), 5), 5);
    expect_records(&peer.in, "23:5");
    munmap(page, PAGE);
    close_tls(fd);
}

/* What a key of memory protection allows is changed by an instruction. */
static void test_memory_with_a_key(void **state)
{
    (void)state;
    int key = pkey_alloc(0, 0);
    if (key < 0) {
        print_message("SKIPPED: no memory protection keys here\n");
        skip();
    }
    struct peer peer;
    int fd[2];
    both_pair(fd, &peer);
    char *page = new_page();
    fill_pattern(page, 0, 5);
    assert_ok(pkey_mprotect(page, PAGE, PROT_READ | PROT_WRITE, key));
    send_sealed(&peer.out, "23:5 23:5");
    assert_returns(read(fd[0], page, 5), 5);
    assert_returns(write(fd[0], page, 5), 5);
    assert_ok(pkey_set(key, PKEY_DISABLE_WRITE));
    assert_fails(read(fd[0], page, 5), EFAULT);
    assert_ok(pkey_set(key, PKEY_DISABLE_ACCESS));
    assert_fails(write(fd[0], page, 5), EFAULT);
    assert_ok(pkey_set(key, 0));
    assert_returns(read(fd[0], page, 5), 5);
    munmap(page, PAGE);
    pkey_free(key);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tx13_rx27_bad_addresses),
        cmocka_unit_test(test_read_only_arguments),
        cmocka_unit_test(test_tx13_memory_taken_away),
        cmocka_unit_test(test_memory_that_a_child_lacks),
        cmocka_unit_test(test_memory_with_a_key),
    };
    return RUN_PRELOADED("test_memory", tests);
}
