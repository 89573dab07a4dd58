/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Connections over the loopback interface, and keys on them. */
#include "probe.h"

#include <sys/time.h>

/* What the probe needs for a case fails only if the machine is wrong: the case ends with a line. */
static void must(bool good, const char *what)
{
    if (!good) {
        put("(%s: %s)", what, strerrorname_np(errno));
        line_end();
        _exit(4);
    }
}

struct keys keys_of(int version, int cipher, uint64_t rec_seq, unsigned char other)
{
    struct keys keys = {0};
    uint16_t head[2] = {(uint16_t)version, (uint16_t)cipher};
    bool chacha = cipher == CHACHA20;
    bool key32 = cipher == AES256_GCM || chacha || cipher == ARIA256_GCM;
    unsigned char *at = keys.info;
    memcpy(at, head, 4);
    at += 4;
    for (int i = 0; i < (chacha ? 12 : 8); i++)
        *at++ = (unsigned char)(0xb0 + i);
    for (int i = 0; i < (key32 ? 32 : 16); i++)
        *at++ = (unsigned char)(i ^ other);
    for (int i = 0; i < (chacha ? 0 : 4); i++)
        *at++ = (unsigned char)(0xa0 + i);
    for (int i = 7; i >= 0; i--)
        *at++ = (unsigned char)(rec_seq >> 8 * i);
    keys.len = (socklen_t)(at - keys.info);
    return keys;
}

struct keys keys12(void)
{
    return keys_of(TLS12, AES128_GCM, 5, 0);
}

struct keys keys13(void)
{
    return keys_of(TLS13, AES128_GCM, 5, 0);
}

static void connect_pair(int fd[2], struct sockaddr *address, socklen_t len, int send, int receive)
{
    int listener = socket(address->sa_family, SOCK_STREAM, 0);
    fd[0] = socket(address->sa_family, SOCK_STREAM, 0);
    must(listener >= 0 && fd[0] >= 0, "socket");
    if (receive)
        must(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive) == 0, "SO_RCVBUF");
    if (send)
        must(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &send, sizeof send) == 0, "SO_SNDBUF");
    must(bind(listener, address, len) == 0, "bind");
    must(listen(listener, 1) == 0, "listen");
    must(getsockname(listener, address, &len) == 0, "getsockname");
    must(connect(fd[0], address, len) == 0, "connect");
    fd[1] = accept(listener, NULL, NULL);
    must(fd[1] >= 0, "accept");
    close(listener);
}

void tcp_pair_sized(int fd[2], int send, int receive)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    connect_pair(fd, (struct sockaddr *)&address, sizeof address, send, receive);
}

void tcp_pair(int fd[2])
{
    tcp_pair_sized(fd, 0, 0);
}

void tcp6_pair(int fd[2])
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    connect_pair(fd, (struct sockaddr *)&address, sizeof address, 0, 0);
}

int attach(int fd)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4);
}

int set_tls(int fd, int option, const void *value, socklen_t len)
{
    return setsockopt(fd, SOL_TLS, option, value, len);
}

int set_keys(int fd, int direction, const struct keys *keys)
{
    return set_tls(fd, direction, keys->info, keys->len);
}

void tx_pair(int fd[2], const struct keys *keys)
{
    tcp_pair(fd);
    must(attach(fd[0]) == 0, "attach");
    must(set_keys(fd[0], TX, keys) == 0, "TLS_TX");
}

void rx_pair(int fd[2], const struct keys *keys)
{
    tcp_pair(fd);
    must(attach(fd[1]) == 0, "attach");
    must(set_keys(fd[1], RX, keys) == 0, "TLS_RX");
}

void tls_pair(int fd[2], const struct keys *keys)
{
    rx_pair(fd, keys);
    must(attach(fd[0]) == 0, "attach");
    must(set_keys(fd[0], TX, keys) == 0, "TLS_TX");
}

void close_both(int fd[2])
{
    close(fd[0]);
    close(fd[1]);
}

void nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

void set_timeout(int fd, int option, int ms)
{
    struct timeval value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, option, &value, sizeof value);
}

void reset(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

static void nothing(int number)
{
    (void)number;
}

void alarm_after(int ms, int sa_flags)
{
    struct sigaction action = {.sa_handler = nothing, .sa_flags = sa_flags};
    /* Again and again, lest the first comes before the call that it has to disturb. */
    struct itimerval value = {.it_value = {0, ms * 1000}, .it_interval = {0, 100 * 1000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &value, NULL);
}

void alarm_off(void)
{
    struct itimerval value = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &value, NULL);
}

void sleep_ms(int ms)
{
    poll(NULL, 0, ms);
}

const char *pattern(size_t from, size_t len)
{
    static char *bytes;
    if (!bytes) {
        bytes = malloc(2 * BIG);
        for (size_t i = 0; i < 2 * BIG; i++)
            bytes[i] = (char)(i * 7 + i / 251 + i / 65521);
    }
    (void)len;
    return bytes + from;
}
