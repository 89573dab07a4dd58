/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Sending: flags, how bytes become records, control messages. TX-1 to TX-23. */
#include "probe.h"

#include <sys/mman.h>

static void flags(void)
{
    static const struct { const char *name; int flags; } rows[] = {
        {"MORE", MSG_MORE}, {"DONTWAIT", MSG_DONTWAIT}, {"NOSIGNAL", MSG_NOSIGNAL}, {"EOR", MSG_EOR},
        {"OOB", MSG_OOB}, {"ZEROCOPY", MSG_ZEROCOPY}, {"CONFIRM", MSG_CONFIRM}, {"DONTROUTE", MSG_DONTROUTE},
        {"FASTOPEN", MSG_FASTOPEN}, {"PEEK", MSG_PEEK}, {"TRUNC", MSG_TRUNC}, {"WAITALL", MSG_WAITALL},
        {"PROBE", 0x10}, {"SYN", MSG_SYN}, {"FIN", MSG_FIN}, {"RST", MSG_RST}, {"ERRQUEUE", MSG_ERRQUEUE},
        {"CMSG_CLOEXEC", MSG_CMSG_CLOEXEC}, {"MORE|EOR", MSG_MORE | MSG_EOR}, {"OOB|MORE", MSG_OOB | MSG_MORE},
        {"0x8000000", 0x8000000},
    };
    struct keys keys = keys12();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd[2];
        tx_pair(fd, &keys);
        line(rows[i].flags == (MSG_MORE | MSG_EOR) ? "TX-2" : "TX-1", "%s", rows[i].name);
        put_result(send(fd[0], "hello", 5, rows[i].flags));
        put_result(send(fd[0], "", 0, rows[i].flags));
        put_wire_late(fd[1]);
        put_result(send(fd[0], "x", 1, 0));
        put_wire(fd[1]);
        close_both(fd);
    }
}

static void several(void)
{
    struct keys keys = keys12();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};
    struct iovec iov[2] = {{.iov_base = (void *)"one", .iov_len = 3}, {.iov_base = (void *)"two", .iov_len = 3}};
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &iov[0], .msg_iovlen = 1}},
                                  {.msg_hdr = {.msg_iov = &iov[1], .msg_iovlen = 1}}};
    int fd[2];
    tx_pair(fd, &keys);
    line("TX-3", "sendmmsg of two");
    put_result(sendmmsg(fd[0], messages, 2, 0));
    put_wire_late(fd[1]);
    close_both(fd);
    tx_pair(fd, &keys);
    line("TX-3", "sendmmsg of one, of none");
    put_result(sendmmsg(fd[0], messages, 1, 0));
    put_result(sendmmsg(fd[0], messages, 0, 0));
    put_wire_late(fd[1]);
    line("TX-4", "the same by every call");
    put_result(write(fd[0], "a", 1));
    put_result(writev(fd[0], iov, 2));
    put_result(pwritev2(fd[0], iov, 2, -1, 0));
    put_result(sendto(fd[0], "b", 1, 0, (struct sockaddr *)&address, sizeof address));
    put_result(sendmsg(fd[0], &messages[0].msg_hdr, 0));
    put_wire(fd[1]);
    line("TX-4", "at an offset");
    put_result(pwrite(fd[0], "c", 1, 0));
    put_result(pwritev(fd[0], iov, 2, 0));
    put_wire(fd[1]);
}

static void building(void)
{
    static const struct { const char *id, *name; size_t len[4]; int flags[4]; } rows[] = {
        {"TX-7", "40000", {40000}, {0}},
        {"TX-7", "16384, 16385", {16384, 16385}, {0}},
        {"TX-8", "MORE 10, 16384", {10, 16384}, {MSG_MORE}},
        {"TX-9", "MORE 16384", {16384}, {MSG_MORE}},
        {"TX-9", "MORE 40000", {40000}, {MSG_MORE}},
        {"TX-9", "MORE 40000, 1", {40000, 1}, {MSG_MORE}},
        {"TX-6", "MORE 5, MORE 6", {5, 6}, {MSG_MORE, MSG_MORE}},
        {"TX-6", "MORE 5, MORE 6, 7", {5, 6, 7}, {MSG_MORE, MSG_MORE}},
        {"TX-10", "MORE 5, EOR 6, EOR 7", {5, 6, 7}, {MSG_MORE, MSG_EOR, MSG_EOR}},
        {"TX-6", "MORE 16000, MORE 1000, 1000", {16000, 1000, 1000}, {MSG_MORE, MSG_MORE}},
    };
    for (int version = TLS12; version <= TLS13; version++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct keys keys = keys_of(version, AES128_GCM, 5, 0);
            size_t at = 0;
            int fd[2];
            tx_pair(fd, &keys);
            line(rows[i].id, "%s, %x", rows[i].name, version);
            for (int k = 0; k < 4 && rows[i].len[k]; k++) {
                put_result(send(fd[0], pattern(at, 0), rows[i].len[k], rows[i].flags[k]));
                at += rows[i].len[k];
            }
            put_wire_late(fd[1]);
            close_both(fd);
        }
}

static void zero_length(void)
{
    struct keys keys = keys12();
    struct iovec none = {.iov_base = NULL, .iov_len = 0};
    int fd[2];
    tx_pair(fd, &keys);
    line("TX-11", "no bytes");
    put_result(send(fd[0], "hello", 5, MSG_MORE));
    put_result(send(fd[0], "", 0, 0));
    put_result(send(fd[0], NULL, 0, 0));
    put_result(write(fd[0], "", 0));
    put_result(writev(fd[0], &none, 1));
    put_result(writev(fd[0], &none, 0));
    put_wire_late(fd[1]);
    put_result(send(fd[0], "x", 1, 0));
    put_wire(fd[1]);
    line("TX-11", "no bytes, shut down");
    shutdown(fd[0], SHUT_WR);
    put_result(send(fd[0], "", 0, 0));
    put_result(write(fd[0], "", 0));
    line("TX-12", "1024 segments of 16, and empty ones");
    close_both(fd);
    tx_pair(fd, &keys);
    struct iovec many[1024], mixed[5] = {{(void *)"ab", 2}, {NULL, 0}, {(void *)"cd", 2}, {bad_address(), 0}, {(void *)"e", 1}};
    for (size_t i = 0; i < 1024; i++)
        many[i] = (struct iovec){(void *)pattern(i * 16, 0), 16};
    put_result(writev(fd[0], many, 1024));
    put_result(writev(fd[0], mixed, 5));
    put_wire(fd[1]);
    line("TX-12", "too many segments");
    put_result(writev(fd[0], many, 1025));
    put_result(writev(fd[0], many, -1));
    struct msghdr msg = {.msg_iov = many, .msg_iovlen = 1025};
    put_result(sendmsg(fd[0], &msg, 0));
    put_wire(fd[1]);
}

static void bad_memory(void)
{
    struct keys keys = keys12();
    size_t size = 65536;
    char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(map, 'm', size);
    mprotect(map + 20480, size - 20480, PROT_NONE);
    int fd[2];
    for (int more = 0; more < 2; more++) {
        if (apart()) {
            tx_pair(fd, &keys);
            line("TX-13", "fault at 20480 of 40000%s", more ? ", MORE" : "");
            put_result(send(fd[0], map, 40000, more ? MSG_MORE : 0));
            put_result(send(fd[0], "x", 1, 0));
            put_wire_late(fd[1]);
            apart_end();
        }
        for (int null = 0; null < 2; null++)
            if (apart()) {
                tx_pair(fd, &keys);
                line("TX-13", "a %s segment between good ones%s", null ? "NULL" : "bad", more ? ", MORE" : "");
                struct iovec iov[3] = {{(void *)"ab", 2}, {null ? NULL : bad_address(), 5}, {(void *)"cd", 2}};
                struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
                put_result(send(fd[0], "open", 4, MSG_MORE));
                put_result(sendmsg(fd[0], &msg, more ? MSG_MORE : 0));
                put_result(send(fd[0], "x", 1, 0));
                put_wire_late(fd[1]);
                apart_end();
            }
    }
    tx_pair(fd, &keys);
    line("TX-13", "NULL");
    put_result(send(fd[0], NULL, 5, 0));
    put_result(write(fd[0], NULL, 5));
    put_result(sendmsg(fd[0], NULL, 0));
    put_wire(fd[1]);
    close_both(fd);
    if (apart()) {
        tx_pair(fd, &keys);
        line("TX-13", "write of a bad address");
        put_result(write(fd[0], bad_address(), 5));
        put_wire(fd[1]);
        apart_end();
    }
}

struct control {
    int level, type;
    size_t len; /* cmsg_len beyond the header */
    unsigned char value;
};

/* Sends with these control messages; `room` less than they take cuts them off. */
static ssize_t send_control(int fd, const struct control *list, int count, int cut, const void *data, size_t len, int flags)
{
    union { char bytes[256]; struct cmsghdr align; } buffer = {{0}};
    struct iovec iov = {(void *)data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &buffer};
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        struct cmsghdr *c = (struct cmsghdr *)(void *)(buffer.bytes + at);
        c->cmsg_level = list[i].level;
        c->cmsg_type = list[i].type;
        c->cmsg_len = sizeof *c + list[i].len;
        buffer.bytes[at + sizeof *c] = (char)list[i].value;
        at += CMSG_SPACE(list[i].len);
    }
    msg.msg_controllen = at - (size_t)cut;
    return sendmsg(fd, &msg, flags);
}

static void control_messages(void)
{
    static const struct { const char *id, *name; int count, cut; struct control list[3]; } rows[] = {
        {"TX-15", "SOL_SOCKET only", 1, 0, {{SOL_SOCKET, 1, 4, 0}}},
        {"TX-15", "SOL_IP only", 1, 0, {{IPPROTO_IP, 2, 4, 0}}},
        {"TX-15", "SOL_SOCKET, then a type", 2, 0, {{SOL_SOCKET, 1, 4, 0}, {SOL_TLS, 1, 1, 22}}},
        {"TX-15", "controllen 8", 1, 16, {{SOL_TLS, 1, 1, 22}}},
        {"TX-15", "controllen 16", 1, 8, {{SOL_TLS, 1, 1, 22}}},
        {"TX-15", "controllen 17", 1, 7, {{SOL_TLS, 1, 1, 22}}},
        {"TX-16", "type 2", 1, 0, {{SOL_TLS, 2, 1, 22}}},
        {"TX-16", "type 0", 1, 0, {{SOL_TLS, 0, 1, 22}}},
        {"TX-16", "no value", 1, 0, {{SOL_TLS, 1, 0, 22}}},
        {"TX-16", "longer value", 1, 0, {{SOL_TLS, 1, 9, 22}}},
        {"TX-16", "good, then bad type", 2, 0, {{SOL_TLS, 1, 1, 22}, {SOL_TLS, 3, 1, 22}}},
        {"TX-16", "beyond the buffer", 1, 8, {{SOL_TLS, 1, 16, 22}}},
        {"TX-18", "type 0", 1, 0, {{SOL_TLS, 1, 1, 0}}},
        {"TX-18", "type 23", 1, 0, {{SOL_TLS, 1, 1, 23}}},
        {"TX-18", "type 255", 1, 0, {{SOL_TLS, 1, 1, 255}}},
        {"TX-19", "two types", 2, 0, {{SOL_TLS, 1, 1, 21}, {SOL_TLS, 1, 1, 22}}},
    };
    struct keys keys = keys12();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd[2];
        tx_pair(fd, &keys);
        line(rows[i].id, "%s", rows[i].name);
        put_result(send(fd[0], "open", 4, MSG_MORE));
        put_result(send_control(fd[0], rows[i].list, rows[i].count, rows[i].cut, "abc", 3, 0));
        put_wire(fd[1]);
        put_result(send(fd[0], "x", 1, 0));
        put_wire(fd[1]);
        close_both(fd);
    }
    int fd[2];
    tx_pair(fd, &keys);
    line("TX-17", "a type with MORE");
    put_result(send(fd[0], "open", 4, MSG_MORE));
    put_result(send_type(fd[0], ALERT, "ab", 2, MSG_MORE));
    put_result(send(fd[0], "x", 1, 0));
    put_wire_late(fd[1]);
    line("TX-1", "a type with OOB; with EOR");
    put_result(send_type(fd[0], ALERT, "ab", 2, MSG_OOB));
    put_result(send_type(fd[0], ALERT, "ab", 2, MSG_EOR));
    put_wire(fd[1]);
    line("TX-22", "a type and no bytes");
    put_result(send_type(fd[0], ALERT, "", 0, 0));
    put_wire(fd[1]);
    line("TX-22", "the same with an open record");
    put_result(send(fd[0], "open", 4, MSG_MORE));
    put_result(send_type(fd[0], ALERT, "", 0, 0));
    put_wire_late(fd[1]);
    line("TX-23", "40000 bytes of type 22");
    put_result(send_type(fd[0], HANDSHAKE, pattern(0, 40000), 40000, 0));
    put_wire(fd[1]);
    line("TX-15", "control messages by sendmmsg");
    struct mmsghdr message = {{0}, 0};
    put_result(sendmmsg(fd[0], &message, 1, 0));
    put_wire(fd[1]);
}

const struct probe_case tx_cases[] = {
    {"tx flags", flags},           {"tx several", several},    {"tx building", building},
    {"tx zero length", zero_length}, {"tx bad memory", bad_memory}, {"tx control", control_messages},
    {NULL, NULL},
};
