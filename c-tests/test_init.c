/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Keys in: what tls_tx_init takes and refuses, and what every other call refuses. */
#include "harness.h"

#include <netinet/in.h>

/* CI-1, CI-5: each row is one thing wrong; nothing has changed afterwards (CI-2). */
static void test_ci1_bad_crypto_info(void **state)
{
    (void)state;
    struct row { uint16_t version, cipher; size_t len; } rows[] = {
        {0x0302, 51, 40}, {0x0305, 51, 40}, {0, 51, 40}, {0x0303, 0, 40}, {0x0303, 50, 40},
        {0x0303, 59, 40}, {0x0304, 57, 40}, {0x0304, 58, 56}, {0x0303, 51, 39}, {0x0303, 51, 41},
        {0x0303, 52, 40}, {0x0303, 54, 40}, {0x0303, 51, 0}, {0x0303, 51, 3}, {0x0303, 51, 4},
    };
    int fd[2];
    tcp_pair(fd);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char info[64] = {0};
        memcpy(info, &rows[i].version, 2);
        memcpy(info + 2, &rows[i].cipher, 2);
        assert_fails(tls_tx_init(fd[0], info, rows[i].len), EINVAL);
    }
    assert_fails(tls_tx_init(fd[0], NULL, 40), EINVAL);
    assert_fails(tls_send(fd[0], "x", 1, 0), ENOPROTOOPT);
    struct keys keys = tls12_keys();
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    close_both(fd);
}

/* ATT-5, ATT-7, and descriptors that are none. */
static void test_att5_bad_descriptors(void **state)
{
    (void)state;
    struct keys keys = tls13_keys();
    assert_fails(tls_tx_init(-1, keys.info, keys.len), EBADF);
    assert_fails(tls_tx_init(1000000, keys.info, keys.len), EBADF);
    int pipes[2];
    assert_ok(pipe(pipes));
    assert_fails(tls_tx_init(pipes[1], keys.info, keys.len), ENOTSOCK);
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
    int local = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_fails(tls_tx_init(udp, keys.info, keys.len), ENOPROTOOPT);
    assert_fails(tls_tx_init(local, keys.info, keys.len), EOPNOTSUPP);
    assert_fails(tls_tx_init(tcp, keys.info, keys.len), ENOTCONN);
    int fd[2];
    tcp_pair(fd);
    assert_ok(shutdown(fd[0], SHUT_WR));
    assert_fails(tls_tx_init(fd[0], keys.info, keys.len), ENOTCONN);
    int all[] = {pipes[0], pipes[1], udp, tcp, local};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
    close_both(fd);
    /* TX takes any connected stream. */
    unix_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
    close_both(fd);
}

/* CI-3, RK-1: TLS 1.2 keys stay; TLS 1.3 keys are replaced by the same cipher's only. */
static void test_ci3_second_init(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls12_keys();
    tls_pair(fd, &keys, &r);
    assert_fails(tls_tx_init(fd[0], keys.info, keys.len), EBUSY);
    send_all(fd[0], 0, 100, 0);
    expect_records(&r, "23:100");
    close_both(fd);
    keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 100, 0);
    unsigned char other[64] = {0x04, 0x03, 52, 0};
    assert_fails(tls_tx_init(fd[0], other, 56), EINVAL);
    struct keys fresh = make_keys(keys.suite, 0, 7);
    assert_ok(tls_tx_init(fd[0], fresh.info, fresh.len));
    send_all(fd[0], 100, 100, 0);
    expect_records(&r, "23:100");
    receiver_rekey(&r, &fresh);
    expect_records(&r, "23:100");
    close_both(fd);
}

/* CI-11, CI-12: what getsockopt answers. */
static void test_ci11_getsockopt(void **state)
{
    (void)state;
    int fd[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    send_all(fd[0], 0, 10, 0);
    unsigned char info[64];
    socklen_t len = keys.len;
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len));
    assert_int_equal(len, keys.len);
    assert_memory_equal(info, keys.info, keys.len - 1);
    assert_int_equal(info[keys.len - 1], keys.info[keys.len - 1] + 1);
    len = 4;
    assert_ok(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len));
    len = 3;
    assert_fails(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len), EINVAL);
    len = 39;
    assert_fails(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, &len), EINVAL);
    len = 40;
    assert_fails(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, NULL, &len), EINVAL);
    assert_fails(tls_getsockopt(fd[0], SOL_TLS, TLS_TX, info, NULL), EFAULT);
    assert_fails(tls_getsockopt(fd[0], SOL_TLS, 99, info, &len), ENOPROTOOPT);
    int error = -1;
    len = sizeof error;
    assert_ok(tls_getsockopt(fd[0], SOL_SOCKET, SO_ERROR, &error, &len));
    assert_int_equal(error, 0);
    close_both(fd);
}

/* Every function, every argument that can be wrong. */
static void test_bad_arguments(void **state)
{
    (void)state;
    int fd[2], pipes[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    tls_pair(fd, &keys, &r);
    assert_ok(pipe(pipes));
    struct msghdr msg = {0};
    struct iovec iov = {NULL, 4};
    int bad[] = {-1, pipes[0], fd[1]}, want[] = {EBADF, ENOTSOCK, ENOPROTOOPT};
    for (int i = 0; i < 3; i++) {
        struct uktls_info info = {.size = sizeof info};
        assert_fails(tls_send(bad[i], "x", 1, 0), want[i]);
        assert_fails(tls_sendmsg(bad[i], &msg, 0), want[i]);
        assert_fails(tls_sendpage(bad[i], "x", 0, 1, 0), want[i]);
        assert_fails(tls_sendfile(bad[i], 0, NULL, 1), want[i]);
        assert_fails(tls_splice(pipes[0], NULL, bad[i], NULL, 1, 0), want[i]);
        assert_fails(tls_shutdown(bad[i], SHUT_WR), want[i]);
        assert_fails(uktls_flush(bad[i], 0), want[i]);
        assert_fails(uktls_get_info(bad[i], &info), want[i]);
        assert_int_equal(uktls_tx_pending(bad[i]), 0);
    }
    assert_fails(uktls_close(-1), EBADF);
    assert_fails(tls_send(fd[0], NULL, 1, 0), EFAULT);
    assert_fails(tls_sendmsg(fd[0], NULL, 0), EFAULT);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    assert_fails(tls_sendmsg(fd[0], &msg, 0), EFAULT);
    msg.msg_iovlen = 1025;
    assert_fails(tls_sendmsg(fd[0], &msg, 0), EMSGSIZE);
    assert_fails(tls_sendpage(fd[0], NULL, 0, 1, 0), EFAULT);
    assert_fails(tls_sendpage(fd[0], "x", SIZE_MAX, 2, 0), EINVAL);
    off_t negative = -1;
    assert_fails(tls_sendfile(fd[0], pipes[0], &negative, 1), ESPIPE);
    assert_fails(tls_sendfile(fd[0], -1, NULL, 1), EBADF);
    assert_fails(tls_splice(fd[1], NULL, fd[0], NULL, 1, 0), EINVAL);
    assert_fails(tls_splice(pipes[0], NULL, fd[0], NULL, 1, 0x100), EINVAL);
    assert_fails(tls_splice(pipes[0], &negative, fd[0], NULL, 1, 0), ESPIPE);
    assert_fails(tls_shutdown(fd[0], 3), EINVAL);
    assert_fails(tls_poll(NULL, 1, 0), EFAULT);
    struct uktls_stats stats = {.size = 8};
    struct uktls_config config = {.size = sizeof config, .engine = 77};
    assert_fails(uktls_get_stats(&stats), EINVAL);
    assert_fails(uktls_get_stats(NULL), EFAULT);
    assert_fails(uktls_get_info(fd[0], NULL), EFAULT);
    assert_fails(uktls_configure(NULL), EFAULT);
    assert_fails(uktls_configure(&config), EINVAL);
    expect_nothing(fd[1]);
    close(pipes[0]);
    close(pipes[1]);
    close_both(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ci1_bad_crypto_info), cmocka_unit_test(test_att5_bad_descriptors),
        cmocka_unit_test(test_ci3_second_init),     cmocka_unit_test(test_ci11_getsockopt),
        cmocka_unit_test(test_bad_arguments),
    };
    return RUN_ENGINES("init", tests);
}
