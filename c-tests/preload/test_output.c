/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Every call that writes to a descriptor, on a TLS socket: the other end sees records, and nothing else.
 */
#include "preload.h"

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

/* A pair, and how much has been sent over it. */
struct out {
    int fd[2];
    struct receiver receiver;
};

static void begin(struct out *o)
{
    struct keys keys = tls12_keys();
    tls_pair(o->fd, &keys, &o->receiver);
}

static void end(struct out *o, uint64_t total)
{
    assert_ok(close(o->fd[0]));
    expect_bytes(&o->receiver, total);
    expect_end(&o->receiver);
    assert_ok(close(o->fd[1]));
}

static void test_write_send_sendto(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    assert_returns(write(o.fd[0], pattern(0, 100), 100), 100);
    expect_records(&o.receiver, "23:100");
    assert_returns(send(o.fd[0], pattern(100, 50), 50, MSG_MORE), 50);
    expect_nothing(o.fd[1]);
    assert_returns(send(o.fd[0], pattern(150, 50), 50, 0), 50);
    expect_records(&o.receiver, "23:100");
    /* The address of a stream is not looked at. */
    struct sockaddr_in elsewhere = {.sin_family = AF_INET, .sin_port = 1};
    assert_returns(sendto(o.fd[0], pattern(200, 7), 7, 0, (struct sockaddr *)&elsewhere, sizeof elsewhere), 7);
    expect_records(&o.receiver, "23:7");
    assert_returns(write(o.fd[0], pattern(207, 40000), 40000), 40000);
    expect_records(&o.receiver, "23:16384 23:16384 23:7232");
    assert_returns(write(o.fd[0], "", 0), 0);
    end(&o, 40207);
}

static void split(struct iovec iov[3], uint64_t position)
{
    iov[0] = (struct iovec){(void *)(uintptr_t)pattern(position, 10), 10};
    iov[1] = (struct iovec){NULL, 0};
    iov[2] = (struct iovec){(void *)(uintptr_t)pattern(position + 10, 90), 90};
}

static void test_vectors(void **state)
{
    (void)state;
    struct out o;
    struct iovec iov[3];
    begin(&o);
    split(iov, 0);
    assert_returns(writev(o.fd[0], iov, 3), 100);
    expect_records(&o.receiver, "23:100");
    split(iov, 100);
    assert_returns(pwritev2(o.fd[0], iov, 3, -1, 0), 100);
    expect_records(&o.receiver, "23:100");
    split(iov, 200);
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    assert_returns(sendmsg(o.fd[0], &msg, 0), 100);
    expect_records(&o.receiver, "23:100");
    assert_returns(pwritev2(o.fd[0], (struct iovec[]){{(void *)(uintptr_t)pattern(300, 4), 4}}, 1, -1, RWF_NOWAIT), 4);
    expect_records(&o.receiver, "23:4");
    volatile int negative = -1, too_many = 1025;
    assert_fails(writev(o.fd[0], iov, negative), EINVAL);
    assert_fails(writev(o.fd[0], iov, too_many), EINVAL);
    end(&o, 304);
}

/* A place in a stream does not exist, and a call that names one sends nothing. */
static void test_offsets(void **state)
{
    (void)state;
    struct out o;
    struct iovec iov = {(void *)(uintptr_t)"secret", 6};
    begin(&o);
    assert_fails(pwrite(o.fd[0], "secret", 6, 0), ESPIPE);
    assert_fails(pwrite64(o.fd[0], "secret", 6, 0), ESPIPE);
    assert_fails(pwritev(o.fd[0], &iov, 1, 0), ESPIPE);
    assert_fails(pwritev64(o.fd[0], &iov, 1, 0), ESPIPE);
    assert_fails(pwritev2(o.fd[0], &iov, 1, 0, 0), ESPIPE);
    assert_fails(pwritev64v2(o.fd[0], &iov, 1, 0, 0), ESPIPE);
    end(&o, 0);
}

static void test_pwritev64v2(void **state)
{
    (void)state;
    struct out o;
    struct iovec iov = {(void *)(uintptr_t)pattern(0, 9), 9};
    begin(&o);
    assert_returns(pwritev64v2(o.fd[0], &iov, 1, -1, 0), 9);
    end(&o, 9);
}

static void test_record_type(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    o.receiver.pattern = false;
    assert_returns(send_typed(o.fd[0], ALERT, "\1\0", 2, 0), 2);
    expect_records(&o.receiver, "21:2");
    assert_memory_equal(o.receiver.data, "\1\0", 2);
    end(&o, 2);
}

static void test_sendmmsg(void **state)
{
    (void)state;
    struct out o;
    struct iovec iov[3] = {{(void *)(uintptr_t)pattern(0, 11), 11},
                           {(void *)(uintptr_t)pattern(11, 20000), 20000},
                           {(void *)(uintptr_t)pattern(20011, 1), 1}};
    struct mmsghdr messages[3] = {0};
    for (int i = 0; i < 3; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    begin(&o);
    assert_returns(sendmmsg(o.fd[0], messages, 3, 0), 3);
    assert_int_equal(messages[0].msg_len, 11);
    assert_int_equal(messages[1].msg_len, 20000);
    assert_int_equal(messages[2].msg_len, 1);
    expect_records(&o.receiver, "23:11 23:16384 23:3616 23:1");
    end(&o, 20012);
}

static int pattern_file(size_t len)
{
    int file = memfd_create("pattern", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_returns(write(file, pattern(0, len), len), len);
    assert_returns(lseek(file, 0, SEEK_SET), 0);
    return file;
}

static void test_sendfile(void **state)
{
    (void)state;
    struct out o;
    int file = pattern_file(50000);
    off_t at = 20000;
    off64_t at64 = 30000;
    begin(&o);
    assert_returns(sendfile(o.fd[0], file, NULL, 20000), 20000);
    assert_returns(lseek(file, 0, SEEK_CUR), 20000);
    assert_returns(sendfile(o.fd[0], file, &at, 10000), 10000);
    assert_int_equal(at, 30000);
    assert_returns(lseek(file, 0, SEEK_CUR), 20000);
    assert_returns(sendfile64(o.fd[0], file, &at64, 100000), 20000);
    assert_int_equal(at64, 50000);
    end(&o, 50000);
    assert_ok(close(file));
}

static void test_splice(void **state)
{
    (void)state;
    struct out o;
    int ends[2];
    begin(&o);
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], pattern(0, 30000), 30000), 30000);
    size_t done = 0;
    while (done < 30000) {
        ssize_t n = splice(ends[0], NULL, o.fd[0], NULL, 30000 - done, 0);
        assert_true(n > 0);
        done += (size_t)n;
    }
    end(&o, 30000);
    assert_ok(close(ends[0]));
    assert_ok(close(ends[1]));
}

/* tee(2), vmsplice(2), copy_file_range(2) do not take a socket; and nothing is sent. */
static void test_other_copies(void **state)
{
    (void)state;
    struct out o;
    int file = pattern_file(100), ends[2];
    off64_t at = 0;
    struct iovec iov = {(void *)(uintptr_t)"secret", 6};
    begin(&o);
    assert_ok(pipe(ends));
    assert_returns(write(ends[1], "secret", 6), 6);
    assert_fails(copy_file_range(file, &at, o.fd[0], NULL, 100, 0), EINVAL);
    assert_fails(tee(ends[0], o.fd[0], 6, 0), EINVAL);
    assert_fails(vmsplice(o.fd[0], &iov, 1, 0), EBADF);
    end(&o, 0);
    assert_ok(close(file));
    assert_ok(close(ends[0]));
    assert_ok(close(ends[1]));
}

__attribute__((format(printf, 2, 3))) static int by_vdprintf(int fd, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vdprintf(fd, format, arguments);
    va_end(arguments);
    return n;
}

static void test_dprintf(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    o.receiver.pattern = false;
    assert_returns(dprintf(o.fd[0], "%s %d %.1f", "number", 42, 1.5), 13);
    expect_records(&o.receiver, "23:13");
    assert_memory_equal(o.receiver.data, "number 42 1.5", 13);
    assert_returns(by_vdprintf(o.fd[0], "%05d", 7), 5);
    expect_records(&o.receiver, "23:5");
    assert_memory_equal(o.receiver.data, "00007", 5);
    assert_returns(dprintf(o.fd[0], "%*d", 20000, 1), 20000);
    expect_records(&o.receiver, "23:16384 23:3616");
    end(&o, 20018);
}

static void test_urgent_data_and_bad_flags(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    assert_fails(send(o.fd[0], "secret", 6, MSG_OOB), EOPNOTSUPP);
    end(&o, 0);
}

/* Accepted means sent: shutdown comes behind what was accepted. */
static void test_shutdown(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    assert_returns(send(o.fd[0], pattern(0, 300), 300, MSG_MORE), 300);
    assert_ok(shutdown(o.fd[0], SHUT_WR));
    expect_bytes(&o.receiver, 300);
    expect_end(&o.receiver);
    assert_fails(send(o.fd[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    assert_ok(close(o.fd[0]));
    assert_ok(close(o.fd[1]));
}

static void test_errno_is_kept(void **state)
{
    (void)state;
    struct out o;
    begin(&o);
    errno = 77;
    assert_returns(write(o.fd[0], pattern(0, 5), 5), 5);
    assert_int_equal(errno, 77);
    struct pollfd p = {.fd = o.fd[0], .events = POLLOUT};
    assert_returns(poll(&p, 1, 0), 1);
    assert_int_equal(errno, 77);
    assert_ok(close(o.fd[0]));
    assert_int_equal(errno, 77);
    expect_bytes(&o.receiver, 5);
    assert_ok(close(o.fd[1]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_send_sendto), cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_offsets),           cmocka_unit_test(test_pwritev64v2),
        cmocka_unit_test(test_record_type),       cmocka_unit_test(test_sendmmsg),
        cmocka_unit_test(test_sendfile),          cmocka_unit_test(test_splice),
        cmocka_unit_test(test_other_copies),      cmocka_unit_test(test_dprintf),
        cmocka_unit_test(test_urgent_data_and_bad_flags), cmocka_unit_test(test_shutdown),
        cmocka_unit_test(test_errno_is_kept),
    };
    return RUN_PRELOADED("test_output", tests);
}
