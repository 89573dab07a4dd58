/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The names of libuktls.so that the harness uses, as an unmodified program would say them.
 */
#include "preload.h"

#include <dlfcn.h>
#include <linux/tls.h>

static int set_keys(int fd, int direction, const void *info, size_t len)
{
    if (setsockopt(fd, SOL_TCP, TCP_ULP, "tls", sizeof "tls") != 0 && errno != EEXIST)
        return -1;
    return setsockopt(fd, SOL_TLS, direction, info, (socklen_t)len);
}

int tls_tx_init(int fd, const void *info, size_t len)
{
    return set_keys(fd, TLS_TX, info, len);
}

int tls_rx_init(int fd, const void *info, size_t len)
{
    return set_keys(fd, TLS_RX, info, len);
}

ssize_t tls_send(int fd, const void *data, size_t len, int flags)
{
    return send(fd, data, len, flags);
}

ssize_t tls_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    return sendmsg(fd, msg, flags);
}

ssize_t tls_recv(int fd, void *data, size_t len, int flags)
{
    return recv(fd, data, len, flags);
}

ssize_t tls_recvmsg(int fd, struct msghdr *msg, int flags)
{
    return recvmsg(fd, msg, flags);
}

int tls_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    return getsockopt(fd, level, name, value, len);
}

int tls_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
    return poll(fds, n, timeout_ms);
}

int uktls_close(int fd)
{
    return close(fd);
}

/* Wanted for suites that OpenSSL does not have, which are none of these tests'. */
int uktls_flush(int fd, int timeout_ms)
{
    (void)fd;
    (void)timeout_ms;
    errno = ENOSYS;
    return -1;
}

void both_pair(int fd[2], struct peer *peer)
{
    struct keys keys = tls12_keys();
    tls_pair(fd, &keys, &peer->in);
    assert_ok(tls_rx_init(fd[0], keys.info, keys.len));
    sealer_init(&peer->out, fd[1], fd[0], &keys);
}

bool is_tls_socket(int fd)
{
    char name[16] = "";
    socklen_t len = sizeof name;
    return getsockopt(fd, SOL_TCP, TCP_ULP, name, &len) == 0 && !strncmp(name, "tls", 3);
}

void raw_close(int fd)
{
    assert_ok(raw_call(SYS_close, fd, 0, 0));
}

int in_child(int (*body)(void *), void *argument)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(body(argument));
    }
    return wait_child(child);
}

int run_preloaded(const char *file, const struct CMUnitTest *tests, size_t count)
{
    Dl_info info;
    void *used = dlsym(RTLD_DEFAULT, "write");
    if (!used || !dladdr(used, &info) || !strstr(info.dli_fname, "libuktls_preload")) {
        fprintf(stderr, "%s: the preload library is not loaded\n", file);
        return 1;
    }
    return run_once(file, tests, count);
}
