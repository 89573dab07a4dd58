/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Readiness by poll, select and epoll: RX-47 to RX-55. */
#include "probe.h"

#include <sys/epoll.h>
#include <sys/select.h>

static int fd[2];
static struct sealer s;

static void begin(int version)
{
    struct keys keys = keys_of(version, AES128_GCM, 5, 0);
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
}

static void end(void)
{
    sealer_close(&s);
    close_both(fd);
}

static void put_select(void)
{
    struct timeval now = {0, 0};
    struct timespec now_too = {0, 0};
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(fd[1], &in);
    FD_SET(fd[1], &out);
    int n = select(fd[1] + 1, &in, &out, NULL, &now);
    put("select=%d%s%s", n, FD_ISSET(fd[1], &in) ? "r" : "", FD_ISSET(fd[1], &out) ? "w" : "");
    FD_SET(fd[1], &in);
    n = pselect(fd[1] + 1, &in, NULL, NULL, &now_too, NULL);
    put("pselect=%d", n);
    struct pollfd one = {.fd = fd[1], .events = POLLIN | POLLRDNORM};
    n = ppoll(&one, 1, &now_too, NULL);
    put("ppoll=%d,%x", n, (unsigned)one.revents);
}

static void put_epoll(int epoll, int ms)
{
    struct epoll_event event = {0};
    int n = epoll_wait(epoll, &event, 1, ms);
    put("epoll=%d,%x", n, n == 1 ? event.events : 0);
}

static int epoll_of(uint32_t events)
{
    struct epoll_event event = {.events = events};
    int epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd[1], &event);
    return epoll;
}

static void level(void)
{
    unsigned char record[SEALED_MAX];
    for (int version = TLS12; version <= TLS13; version++) {
        begin(version);
        int epoll = epoll_of(EPOLLIN | EPOLLRDHUP);
        line("RX-48", "%x, nothing, then parts of a record, then all of it", version);
        size_t len = seal(&s, DATA, pattern(0, 100), 100, record);
        put_ready(fd[1], 0);
        put_select();
        write_all(fd[0], record, 3);
        put_ready(fd[1], 200);
        put_select();
        write_all(fd[0], record + 3, 17);
        put_ready(fd[1], 200);
        put_select();
        write_all(fd[0], record + 20, len - 21);
        put_ready(fd[1], 200);
        put_epoll(epoll, 200);
        write_all(fd[0], record + len - 1, 1);
        put_ready(fd[1], 5000);
        put_select();
        put_epoll(epoll, 5000);
        line("RX-49", "%x, the rest of a record", version);
        put_recv(fd[1], 60, 0);
        put_ready(fd[1], 0);
        put_select();
        put_epoll(epoll, 0);
        put_recv(fd[1], 40, 0);
        put_ready(fd[1], 0);
        put_epoll(epoll, 0);
        line("RX-48", "%x, epoll sleeps through parts of a record", version);
        len = seal(&s, DATA, pattern(0, 100), 100, record);
        write_all(fd[0], record, 50);
        put_epoll(epoll, 200);
        put_receive(fd[1], 999, MSG_DONTWAIT);
        put_epoll(epoll, 200);
        write_all(fd[0], record + 50, len - 51);
        put_epoll(epoll, 200);
        write_all(fd[0], record + len - 1, 1);
        put_epoll(epoll, 5000);
        put_recv(fd[1], 999, 0);
        line("RX-47", "%x, two records, one read", version);
        relay(&s, fd[0], "23:10 23:20");
        put_recv(fd[1], 10, 0);
        put_ready(fd[1], 0);
        put_recv(fd[1], 20, MSG_PEEK);
        put_ready(fd[1], 0);
        put_recv(fd[1], 20, 0);
        put_ready(fd[1], 0);
        line("RX-50", "%x, a reset behind a part of a record", version);
        seal(&s, DATA, pattern(0, 100), 100, record);
        write_all(fd[0], record, 50);
        sleep_ms(20);
        reset(fd[0]);
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        fd[0] = -1;
        end();
    }
}

static void edge(void)
{
    begin(TLS12);
    int epoll = epoll_of(EPOLLIN | EPOLLET);
    line("RX-53", "edges, nothing, a record, again, a part read, another record, all read");
    put_epoll(epoll, 0);
    relay(&s, fd[0], "23:10");
    put_epoll(epoll, 0);
    put_epoll(epoll, 100);
    put_recv(fd[1], 5, 0);
    put_epoll(epoll, 100);
    relay(&s, fd[0], "23:20");
    put_epoll(epoll, 0);
    put_recv(fd[1], 99, MSG_DONTWAIT);
    put_recv(fd[1], 99, MSG_DONTWAIT);
    put_epoll(epoll, 100);
    shutdown(fd[0], SHUT_WR);
    sleep_ms(20);
    put_epoll(epoll, 0);
    end();
    begin(TLS12);
    unsigned char record[SEALED_MAX];
    epoll = epoll_of(EPOLLIN | EPOLLET);
    line("RX-53", "edges, a part of a record, read without success, the rest");
    size_t len = seal(&s, DATA, pattern(0, 100), 100, record);
    write_all(fd[0], record, 50);
    sleep_ms(20);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    epoll_wait(epoll, &(struct epoll_event){0}, 1, 0);
    write_all(fd[0], record + 50, len - 50);
    put_epoll(epoll, 5000);
    put_receive(fd[1], 999, MSG_DONTWAIT);
    end();
}

static void put_low_water(void)
{
    int value = -1;
    socklen_t len = sizeof value;
    put_result(getsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, &len));
    put("lowat=%d", value);
}

static void low_water(void)
{
    begin(TLS12);
    line("RX-9", "SO_RCVLOWAT, read back");
    put_low_water();
    int value = 100;
    put_result(setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    put_low_water();
    line("RX-52", "SO_RCVLOWAT of 100, 5 bytes there");
    relay(&s, fd[0], "23:5");
    put_ready(fd[1], 0);
    set_timeout(fd[1], SO_RCVTIMEO, 200);
    line("RX-9", "SO_RCVLOWAT of 100, a receive of 200 waits for 100");
    put_receive(fd[1], 200, 0);
    relay(&s, fd[0], "23:50 23:60 23:5");
    put_receive(fd[1], 200, 0);
    put_receive(fd[1], 200, MSG_DONTWAIT);
    value = 0;
    line("RX-9", "SO_RCVLOWAT of 0 and of -1");
    put_result(setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    put_low_water();
    value = -1;
    put_result(setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    value = 1;
    put_result(setsockopt(fd[1], SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value));
    put_low_water();
    end();
}

const struct probe_case ready_cases[] = {
    {"ready level", level}, {"ready edge", edge}, {"ready low water", low_water}, {NULL, NULL},
};
