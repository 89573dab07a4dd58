/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Attaching TLS to a socket, and a socket that has no keys yet: ATT. */
#include "probe.h"

#include <sys/un.h>

static void put_name(int fd, socklen_t len)
{
    char name[40];
    memset(name, 'x', sizeof name);
    int r = getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &len);
    put_result(r);
    if (r == 0) {
        put("len=%u", (unsigned)len);
        put_hex(name, len < 17 ? len + 1 : 17);
    }
}

static void names(void)
{
    static const struct { const char *name, *bytes; int len; } rows[] = {
        {"tls 3", "tls", 3},        {"tls 4", "tls", 4},         {"tls 2", "tls", 2},
        {"tls 0", "tls", 0},        {"tls -1", "tls", -1},       {"rubbish behind NUL", "tls\0rubbish", 11},
        {"tlsx", "tlsx", 4},        {"empty", "", 1},            {"upper case", "TLS", 3},
        {"16 bytes", "no such protocol", 16},                    {"NULL 3", NULL, 3},
        {"NULL 0", NULL, 0},        {"NUL first", "\0tls", 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd[2];
        tcp_pair(fd);
        line("ATT-2", "name %s", rows[i].name);
        put_result(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, rows[i].bytes, (socklen_t)rows[i].len));
        put_result(attach(fd[0]));
        close_both(fd);
    }
    int fd[2];
    tcp_pair(fd);
    if (apart()) {
        line("ATT-3", "unreadable name");
        put_result(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, bad_address(), 3));
        apart_end();
    }
    line("ATT-4", "again, unknown name");
    put_result(attach(fd[0]));
    put_result(attach(fd[0]));
    put_result(setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "unknown", 7));
}

static void states(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd[2], single = socket(AF_INET, SOCK_STREAM, 0);
    line("ATT-5", "not connected");
    put_result(attach(single));
    put_result(setsockopt(single, IPPROTO_TCP, TCP_ULP, "unknown", 7));
    line("ATT-5", "listening");
    bind(single, (struct sockaddr *)&any, sizeof any);
    listen(single, 1);
    put_result(attach(single));
    line("ATT-5", "SHUT_WR");
    tcp_pair(fd);
    shutdown(fd[0], SHUT_WR);
    put_result(attach(fd[0]));
    line("ATT-5", "the peer's end has come");
    put_result(attach(fd[1]));
    close_both(fd);
    line("ATT-5", "SHUT_RD");
    tcp_pair(fd);
    shutdown(fd[0], SHUT_RD);
    put_result(attach(fd[0]));
    close_both(fd);
    line("ATT-5", "SHUT_RDWR");
    tcp_pair(fd);
    shutdown(fd[0], SHUT_RDWR);
    put_result(attach(fd[0]));
    close_both(fd);
    line("ATT-1", "IPv6");
    tcp6_pair(fd);
    put_result(attach(fd[0]));
    struct keys keys = keys12();
    put_result(set_keys(fd[0], TX, &keys));
    put_result(send(fd[0], "Hello, world", 12, 0));
    put_wire(fd[1]);
    close_both(fd);
    line("ATT-7", "no TCP");
    put_result(attach(socket(AF_INET, SOCK_DGRAM, 0)));
    socketpair(AF_UNIX, SOCK_STREAM, 0, fd);
    put_result(attach(fd[0]));
    put_result(attach(-1));
    put_result(attach(STDOUT_FILENO));
}

static void read_name(void)
{
    int fd[2];
    tcp_pair(fd);
    line("ATT-9", "name before");
    put_name(fd[0], 16);
    attach(fd[0]);
    static const int lens[] = {0, 2, 3, 4, 16, 32, -1};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        line("ATT-10", "name of %d bytes", lens[i]);
        put_name(fd[0], (socklen_t)lens[i]);
    }
}

static void plain(void)
{
    int fd[2];
    char c;
    tcp_pair(fd);
    attach(fd[0]);
    attach(fd[1]);
    line("ATT-11", "plain");
    put_result(send(fd[0], "plain", 5, 0));
    put_recv(fd[1], 5, MSG_PEEK);
    put_recv(fd[1], 3, 0);
    put_recv(fd[1], 9, MSG_DONTWAIT);
    put_recv(fd[1], 9, MSG_DONTWAIT);
    line("ATT-11", "urgent");
    put_result(send(fd[0], "ab", 2, MSG_OOB));
    sleep_ms(20);
    put_result(recv(fd[1], &c, 1, MSG_OOB));
    put_recv(fd[1], 9, MSG_DONTWAIT);
    line("ATT-11", "record type");
    put_result(send_type(fd[0], ALERT, "xy", 2, 0));
    put_recv(fd[1], 9, MSG_DONTWAIT);
    line("ATT-12", "disconnect");
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    put_result(connect(fd[0], &none, sizeof none));
    put_result(send(fd[0], "z", 1, 0));
    put_recv(fd[1], 9, MSG_DONTWAIT);
    line("ATT-16", "other options");
    int one = 1;
    put_result(setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    put_result(setsockopt(fd[0], SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
}

static void listen_connect(void)
{
    int fd[2];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    tcp_pair(fd);
    attach(fd[0]);
    line("ATT-13", "listen, connect");
    put_result(listen(fd[0], 1));
    put_result(connect(fd[0], (struct sockaddr *)&address, sizeof address));
    line("ATT-13", "the same after both shutdowns");
    shutdown(fd[0], SHUT_RDWR);
    shutdown(fd[1], SHUT_RDWR);
    sleep_ms(50);
    put_result(connect(fd[0], (struct sockaddr *)&address, sizeof address));
    put_result(listen(fd[0], 1));
}

static void put_option(int fd)
{
    int value = 0;
    socklen_t len = sizeof value;
    put_result(set_tls(fd, ZEROCOPY_RO, &value, sizeof value));
    put_result(getsockopt(fd, SOL_TLS, ZEROCOPY_RO, &value, &len));
}

static void without(void)
{
    int fd[2];
    line("ATT-14", "options without TLS, IPv4");
    tcp_pair(fd);
    put_option(fd[0]);
    close_both(fd);
    line("ATT-14", "options without TLS, IPv6");
    tcp6_pair(fd);
    put_option(fd[0]);
    close_both(fd);
    line("ATT-14", "options without TLS, UDP");
    put_option(socket(AF_INET, SOCK_DGRAM, 0));
    line("ATT-14", "options without TLS, UNIX");
    socketpair(AF_UNIX, SOCK_STREAM, 0, fd);
    put_option(fd[0]);
    tcp_pair(fd);
    attach(fd[0]);
    static const int unknown[] = {0, 6, 7, 99, -1};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        char value[64] = {0};
        socklen_t len = sizeof value;
        line("ATT-15", "option %d", unknown[i]);
        put_result(set_tls(fd[0], unknown[i], value, 40));
        put_result(getsockopt(fd[0], SOL_TLS, unknown[i], value, &len));
    }
}

static void one_direction(void)
{
    struct keys keys = keys12();
    int fd[2];
    char c;
    tx_pair(fd, &keys);
    line("ATT-17", "sending keys, receiving is plain");
    put_result(send(fd[1], "plain", 5, 0));
    sleep_ms(20);
    put_ready(fd[0], 0);
    put_recv(fd[0], 2, MSG_PEEK);
    put_recv(fd[0], 99, 0);
    put_result(send(fd[1], "u", 1, MSG_OOB));
    sleep_ms(20);
    put_result(recv(fd[0], &c, 1, MSG_OOB));
    close_both(fd);
    rx_pair(fd, &keys);
    line("ATT-17", "receiving keys, sending is plain");
    put_result(send(fd[1], "plain", 5, 0));
    put_result(send(fd[1], "u", 1, MSG_OOB));
    sleep_ms(20);
    put_recv(fd[0], 99, MSG_DONTWAIT);
    close_both(fd);
    line("ATT-19", "records queued before the keys");
    struct sealer s;
    sealer_open(&s, &keys);
    tcp_pair(fd);
    attach(fd[1]);
    write_all(fd[0], "plain", 5);
    relay(&s, fd[0], "23:10 23:20");
    put_recv(fd[1], 5, 0);
    put_result(set_keys(fd[1], RX, &keys));
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    close_both(fd);
    line("CI-9", "rubbish queued before the keys");
    tcp_pair(fd);
    attach(fd[1]);
    write_all(fd[0], pattern(0, 40), 40);
    sleep_ms(20);
    put_result(set_keys(fd[1], RX, &keys));
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_receive(fd[1], 99, MSG_DONTWAIT);
}

const struct probe_case attach_cases[] = {
    {"attach names", names},      {"attach states", states},
    {"attach read", read_name},   {"attach plain", plain},
    {"attach listen", listen_connect}, {"attach without", without},
    {"attach one direction", one_direction}, {NULL, NULL},
};
