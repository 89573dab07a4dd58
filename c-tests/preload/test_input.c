/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Every call that reads from a descriptor, on a TLS socket: plaintext, record by record.
 */
#include "preload.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

static void begin(int fd[2], struct sealer *s, const char *layout)
{
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, s);
    send_sealed(s, layout);
}

static void assert_pattern(const void *data, uint64_t position, size_t len)
{
    assert_memory_equal(data, pattern(position, len), len);
}

static void test_read_recv_recvfrom(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[1000];
    begin(fd, &s, "23:300 23:40");
    assert_returns(read(fd[1], data, 100), 100);
    assert_pattern(data, 0, 100);
    assert_returns(recv(fd[1], data, 50, MSG_PEEK), 50);
    assert_pattern(data, 100, 50);
    assert_returns(recv(fd[1], data, 50, 0), 50);
    assert_pattern(data, 100, 50);
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    assert_returns(recvfrom(fd[1], data, 100, 0, (struct sockaddr *)&from, &len), 100);
    assert_int_equal(len, 0);
    assert_pattern(data, 150, 100);
    assert_returns(recv(fd[1], data, 90, MSG_WAITALL), 90);
    assert_pattern(data, 250, 90);
    assert_fails(recv(fd[1], data, 1, MSG_DONTWAIT), EAGAIN);
    close_tls(fd);
}

static void test_vectors(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[100];
    struct iovec iov[3] = {{data, 10}, {NULL, 0}, {data + 10, 90}};
    begin(fd, &s, "23:400");
    assert_returns(readv(fd[1], iov, 3), 100);
    assert_pattern(data, 0, 100);
    assert_returns(preadv2(fd[1], iov, 3, -1, 0), 100);
    assert_pattern(data, 100, 100);
    assert_returns(preadv64v2(fd[1], iov, 3, -1, 0), 100);
    assert_pattern(data, 200, 100);
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    assert_returns(recvmsg(fd[1], &msg, 0), 100);
    assert_pattern(data, 300, 100);
    assert_fails(preadv2(fd[1], iov, 3, -1, RWF_NOWAIT), EAGAIN);
    close_tls(fd);
}

static void test_offsets(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[100];
    struct iovec iov = {data, sizeof data};
    begin(fd, &s, "23:100");
    assert_fails(pread(fd[1], data, 100, 0), ESPIPE);
    assert_fails(pread64(fd[1], data, 100, 0), ESPIPE);
    assert_fails(preadv(fd[1], &iov, 1, 0), ESPIPE);
    assert_fails(preadv2(fd[1], &iov, 1, 0, 0), ESPIPE);
    assert_returns(read(fd[1], data, 100), 100);
    assert_pattern(data, 0, 100);
    close_tls(fd);
}

static void test_recvmsg_tells_the_type(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    begin(fd, &s, "22:11 23:5");
    struct got *got = receive(fd[1], 100, 0);
    assert_int_equal(got->n, 11);
    assert_int_equal(got->type, HANDSHAKE);
    /* Without room for it a record of another type cannot be told. */
    send_sealed(&s, "22:3");
    char data[10];
    assert_returns(read(fd[1], data, 10), 5);
    assert_fails(read(fd[1], data, 10), EIO);
    close_tls(fd);
}

static void test_recvmmsg(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[3][20];
    struct iovec iov[3] = {{data[0], 20}, {data[1], 20}, {data[2], 20}};
    struct mmsghdr messages[3] = {0};
    for (int i = 0; i < 3; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    begin(fd, &s, "23:50");
    assert_returns(recvmmsg(fd[1], messages, 3, MSG_WAITFORONE, NULL), 3);
    assert_int_equal(messages[2].msg_len, 10);
    assert_pattern(data[1], 20, 20);
    assert_pattern(data[2], 40, 10);
    send_sealed(&s, "23:5");
    assert_returns(recvmmsg(fd[1], messages, 3, MSG_WAITFORONE, NULL), 1);
    assert_int_equal(messages[0].msg_len, 5);
    assert_pattern(data[0], 50, 5);
    assert_fails(recvmmsg(fd[1], messages, 3, MSG_DONTWAIT, NULL), EAGAIN);
    close_tls(fd);
}

/* It counts what the kernel has (RX-46): no more is to be known than whether there is anything. */
static void test_fionread_rx46(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2], count = -1;
    char data[100];
    begin(fd, &s, "23:100");
    assert_ok(ioctl(fd[1], FIONREAD, &count));
    assert_true(count >= 100);
    assert_returns(read(fd[1], data, 40), 40);
    assert_ok(ioctl(fd[1], FIONREAD, &count));
    assert_true(count > 0);
    assert_returns(read(fd[1], data, 100), 60);
    assert_ok(ioctl(fd[1], FIONREAD, &count));
    assert_int_equal(count, 0);
    /* Other requests are the kernel's. */
    int on = 1;
    assert_ok(ioctl(fd[1], FIONBIO, &on));
    assert_fails(read(fd[1], data, 1), EAGAIN);
    close_tls(fd);
}

static void test_splice(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2], ends[2];
    char data[100];
    begin(fd, &s, "23:100");
    assert_ok(pipe(ends));
    assert_returns(splice(fd[1], NULL, ends[1], NULL, 100, 0), 100);
    assert_returns(read(ends[0], data, 100), 100);
    assert_pattern(data, 0, 100);
    close_tls(fd);
    assert_ok(close(ends[0]));
    assert_ok(close(ends[1]));
}

static void test_end_of_stream(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[100];
    begin(fd, &s, "23:10");
    assert_ok(shutdown(fd[0], SHUT_WR));
    assert_returns(read(fd[1], data, 100), 10);
    assert_returns(read(fd[1], data, 100), 0);
    close_tls(fd);
}

static void test_bad_record(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char data[100];
    struct keys keys = tls13_keys();
    rx_pair(fd, &keys, &s);
    s.spoil = true;
    send_sealed(&s, "23:10");
    assert_fails(read(fd[1], data, 100), EBADMSG);
    close_tls(fd);
}

static void test_receive_timeout(void **state)
{
    (void)state;
    struct sealer s;
    int fd[2];
    char byte;
    struct timeval soon = {.tv_usec = 20000};
    begin(fd, &s, "");
    assert_ok(setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    assert_fails(read(fd[1], &byte, 1), EAGAIN);
    close_tls(fd);
}

/* What asks for nothing is not waited for, whichever direction has keys. */
static void test_reading_nothing(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    struct iovec nothing = {NULL, 0};
    int fd[2];
    char byte;
    tls_pair(fd, &keys, &receiver);
    assert_returns(read(fd[0], &byte, 0), 0);
    assert_returns(readv(fd[0], &nothing, 1), 0);
    assert_returns(readv(fd[0], NULL, 0), 0);
    close_tls(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_recv_recvfrom), cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_offsets),            cmocka_unit_test(test_recvmsg_tells_the_type),
        cmocka_unit_test(test_recvmmsg),           cmocka_unit_test(test_fionread_rx46),
        cmocka_unit_test(test_splice),             cmocka_unit_test(test_end_of_stream),
        cmocka_unit_test(test_bad_record),         cmocka_unit_test(test_receive_timeout),
        cmocka_unit_test(test_reading_nothing),
    };
    return RUN_PRELOADED("test_input", tests);
}
