/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Receiving: what one call returns, flags, types, empty records. RX-6 to RX-19, RX-27 to RX-40. */
#include "probe.h"

#include <sys/mman.h>

static struct sealer s;
static int fd[2];

/* A receiving socket that has been sent these records; see relay. */
static void begin(int version, const char *records)
{
    struct keys keys = keys_of(version, AES128_GCM, 5, 0);
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
    relay(&s, fd[0], records);
}

static void end(void)
{
    sealer_close(&s);
    close_both(fd);
}

static void merging(int version)
{
    begin(version, "23:10 23:20 23:30");
    line("RX-9", "three records in one call, %x", version);
    put_receive(fd[1], 999, 0);
    put_receive(fd[1], 999, MSG_DONTWAIT);
    end();
    begin(version, "23:10 23:20 23:30");
    line("RX-10", "a part of the second, %x", version);
    put_receive(fd[1], 15, 0);
    put_receive(fd[1], 15, 0);
    put_receive(fd[1], 99, 0);
    end();
    begin(version, "23:10 22:5 22:6 23:7 21:2");
    line("RX-11", "types, %x", version);
    put_receive(fd[1], 99, MSG_WAITALL);
    for (int i = 0; i < 5; i++)
        put_receive(fd[1], 99, MSG_DONTWAIT);
    end();
    begin(version, "22:50 22:5");
    line("RX-12", "a handshake record in parts, %x", version);
    put_receive(fd[1], 20, 0);
    put_receive(fd[1], 20, 0);
    put_receive(fd[1], 20, 0);
    put_receive(fd[1], 20, 0);
    end();
    begin(version, "23:4000 23:4000 23:100");
    line("RX-30", "WAITALL of 7000, the rest, %x", version);
    put_receive(fd[1], 7000, MSG_WAITALL);
    put_receive(fd[1], 7000, MSG_DONTWAIT);
    set_timeout(fd[1], SO_RCVTIMEO, 200);
    relay(&s, fd[0], "23:10");
    line("RX-29", "WAITALL of 99 with a time-out, then nothing, %x", version);
    put_receive(fd[1], 99, MSG_WAITALL);
    put_receive(fd[1], 99, 0);
    line("RX-29", "a signal, %x", version);
    set_timeout(fd[1], SO_RCVTIMEO, 0);
    alarm_after(200, 0);
    put_receive(fd[1], 99, 0);
    relay(&s, fd[0], "23:10");
    put_receive(fd[1], 99, MSG_WAITALL);
    alarm_off();
    end();
    begin(version, "");
    line("RX-17", "EOR, %x", version);
    relay(&s, fd[0], "23:10 23:20");
    put_receive(fd[1], 5, 0);
    put_receive(fd[1], 10, 0);
    put_receive(fd[1], 30, MSG_PEEK);
    put_receive(fd[1], 30, 0);
    end();
    begin(version, "23:10 23:20 22:3 23:4");
    line("RX-31", "peek, %x", version);
    put_receive(fd[1], 5, MSG_PEEK);
    put_receive(fd[1], 99, MSG_PEEK);
    put_receive(fd[1], 99, MSG_PEEK | MSG_WAITALL);
    put_receive(fd[1], 7, 0);
    put_receive(fd[1], 99, MSG_PEEK);
    put_receive(fd[1], 99, 0);
    put_receive(fd[1], 99, MSG_PEEK);
    put_receive(fd[1], 99, MSG_PEEK);
    put_receive(fd[1], 99, 0);
    put_receive(fd[1], 99, 0);
    put_receive(fd[1], 99, MSG_PEEK | MSG_DONTWAIT);
    end();
}

static void merging12(void)
{
    merging(TLS12);
}

static void merging13(void)
{
    merging(TLS13);
}

static void put_with_control(int flags, size_t room, size_t len)
{
    union { char bytes[64]; struct cmsghdr align; } control;
    char bytes[128];
    struct sockaddr_in name;
    struct iovec iov = {bytes, len};
    struct msghdr msg = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &iov, .msg_iovlen = 1,
                         .msg_control = room ? &control : NULL, .msg_controllen = room};
    memset(&control, 0, sizeof control);
    ssize_t n = recvmsg(fd[1], &msg, flags);
    put_result(n);
    put("controllen=%zu flags=%x namelen=%u", msg.msg_controllen, (unsigned)msg.msg_flags, (unsigned)msg.msg_namelen);
    if (room >= sizeof(struct cmsghdr))
        put("cmsg=%zu,%d,%d,%d", control.align.cmsg_len, control.align.cmsg_level, control.align.cmsg_type,
            control.bytes[16]);
}

static void control_room(void)
{
    static const size_t rooms[] = {0, 8, 16, 17, 20, 24, 64};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        begin(TLS12, "23:10 21:2 23:3");
        line("RX-13", "room of %zu, data", rooms[i]);
        put_with_control(0, rooms[i], 99);
        line("RX-15", "room of %zu, an alert", rooms[i]);
        put_with_control(MSG_PEEK, rooms[i], 99);
        put_with_control(0, rooms[i], 99);
        put_with_control(0, rooms[i], 99);
        put_with_control(MSG_DONTWAIT, rooms[i], 99);
        put_ready(fd[1], 0);
        end();
    }
    begin(TLS13, "21:2 23:3");
    char bytes[32];
    line("RX-15", "an alert, every plain call");
    put_recv(fd[1], 99, 0);
    put_recv(fd[1], 99, MSG_PEEK);
    put_result(read(fd[1], bytes, sizeof bytes));
    struct iovec iov = {bytes, sizeof bytes};
    put_result(readv(fd[1], &iov, 1));
    put_result(preadv2(fd[1], &iov, 1, -1, 0));
    put_result(recvfrom(fd[1], bytes, sizeof bytes, 0, NULL, NULL));
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, 0);
    put_recv(fd[1], 99, 0);
    end();
    begin(TLS12, "23:5 21:2 23:6");
    line("RX-16", "data, then an alert, without room");
    put_recv(fd[1], 99, 0);
    put_recv(fd[1], 99, 0);
    end();
}

static void other_calls(void)
{
    begin(TLS12, "23:10 23:20");
    char a[4], b[4], c[50];
    struct iovec iov[3] = {{a, 4}, {b, 4}, {c, 50}};
    line("RX-35", "readv");
    put_result(readv(fd[1], iov, 3));
    put_hash(a, 4);
    put_hash(b, 4);
    put_hash(c, 22);
    line("RX-33", "recvmmsg of data, alert, data");
    relay(&s, fd[0], "23:10 21:2 23:3");
    union { char bytes[3][CMSG_SPACE(1)]; struct cmsghdr align; } control = {{{0}}};
    char bytes[3][32];
    struct mmsghdr messages[3] = {{{0}, 0}};
    struct iovec iovs[3];
    for (int i = 0; i < 3; i++) {
        iovs[i] = (struct iovec){bytes[i], 32};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iovs[i], .msg_iovlen = 1, .msg_control = control.bytes[i],
                                              .msg_controllen = CMSG_SPACE(1)};
    }
    put_result(recvmmsg(fd[1], messages, 3, MSG_DONTWAIT, NULL));
    for (int i = 0; i < 3; i++)
        put("%u/%d", messages[i].msg_len, control.bytes[i][16]);
    put_result(recvmmsg(fd[1], messages, 3, MSG_DONTWAIT, NULL));
    line("RX-32", "ignored flags");
    static const int flags[] = {MSG_TRUNC, MSG_OOB, MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, MSG_EOR, 0x10000, MSG_ERRQUEUE};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        relay(&s, fd[0], "23:5");
        put_receive(fd[1], 3, flags[i] | MSG_DONTWAIT);
    }
    put_receive(fd[1], 99, MSG_DONTWAIT);
    line("RX-19", "no length");
    relay(&s, fd[0], "23:5 21:2");
    put_result(recv(fd[1], a, 0, 0));
    put_result(read(fd[1], a, 0));
    put_result(recv(fd[1], a, 0, MSG_PEEK));
    put_recv(fd[1], 99, 0);
    put_result(recv(fd[1], a, 0, 0));
    put_receive(fd[1], 0, 0);
    put_receive(fd[1], 99, 0);
    put_result(recv(fd[1], a, 0, 0));
    end();
}

static void small_buffer(void)
{
    struct keys keys = keys12();
    tcp_pair_sized(fd, 0, 4096);
    attach(fd[1]);
    set_keys(fd[1], RX, &keys);
    sealer_open(&s, &keys);
    line("RX-6", "a full record in a small receive buffer");
    unsigned char record[SEALED_MAX];
    size_t len = seal(&s, DATA, pattern(0, RECORD_MAX), RECORD_MAX, record);
    write_all(fd[0], record, len);
    put_ready(fd[1], 5000);
    put_receive(fd[1], 20000, 0);
    end();
}

static void memory(void)
{
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(map + 4096, 4096, PROT_NONE);
    for (int version = TLS12; version <= TLS13; version++) {
        begin(version, "23:100 23:5");
        line("RX-27", "NULL, %x", version);
        put_result(recv(fd[1], NULL, 999, MSG_DONTWAIT));
        put_receive(fd[1], 999, MSG_DONTWAIT);
        put_receive(fd[1], 999, MSG_DONTWAIT);
        end();
        if (apart()) {
            begin(version, "23:100 23:5");
            line("RX-27", "bad memory, %x", version);
            put_result(recv(fd[1], bad_address(), 999, MSG_DONTWAIT));
            put_result(recv(fd[1], map + 4096, 999, MSG_DONTWAIT));
            put_receive(fd[1], 999, MSG_DONTWAIT);
            put_receive(fd[1], 999, MSG_DONTWAIT);
            apart_end();
        }
        if (apart()) {
            begin(version, "23:100 23:5");
            line("RX-28", "half good memory, %x", version);
            ssize_t n = recv(fd[1], map + 4096 - 50, 999, MSG_DONTWAIT);
            put("%s", n > 0 && n <= 50 ? "a part" : n < 0 ? strerrorname_np(errno) : "?");
            size_t sum = n > 0 ? (size_t)n : 0;
            char bytes[999];
            memcpy(bytes, map + 4096 - 50, sum);
            while ((n = recv(fd[1], bytes + sum, sizeof bytes - sum, MSG_DONTWAIT)) > 0)
                sum += (size_t)n;
            put("then %zu in all", sum);
            put_hash(bytes, sum);
            apart_end();
        }
    }
}

static void empty(void)
{
    /* D: data, d: empty data, C: control, c: empty control, as RX-40 */
    static const char *const rows[] = {"DDD", "DcD", "ddd", "ddC", "ddc", "ccc", "ddD", "Ddd", "DdD", "cD"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int peek = 0; peek < 2; peek++) {
            begin(TLS13, "");
            for (const char *c = rows[i]; *c; c++)
                relay(&s, fd[0], *c == 'D' ? "23:11" : *c == 'd' ? "23:0" : *c == 'C' ? "22:11" : "22:0");
            line("RX-40", "%s%s", rows[i], peek ? ", peeked" : "");
            put_ready(fd[1], 0);
            if (peek)
                put_receive(fd[1], 99, MSG_PEEK | MSG_DONTWAIT);
            for (int k = 0; k < 4; k++)
                put_receive(fd[1], 99, MSG_DONTWAIT);
            put_ready(fd[1], 0);
            end();
        }
    begin(TLS13, "23:0");
    line("RX-36", "an empty record, then the end");
    shutdown(fd[0], SHUT_WR);
    sleep_ms(20);
    put_receive(fd[1], 99, 0);
    end();
    begin(TLS13, "22:0 23:0 22:0");
    line("RX-38", "empty handshake records without room");
    put_recv(fd[1], 99, MSG_DONTWAIT);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_recv(fd[1], 99, MSG_DONTWAIT);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    end();
}

const struct probe_case rx_cases[] = {
    {"rx 1.2", merging12}, {"rx 1.3", merging13}, {"rx control room", control_room}, {"rx other calls", other_calls},
    {"rx small buffer", small_buffer}, {"rx memory", memory}, {"rx empty", empty}, {NULL, NULL},
};
