/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Keys and options: CI. */
#include "probe.h"

#include <sys/mman.h>

static void bad_keys(void)
{
    static const struct { const char *name; int version, cipher, length; } rows[] = {
        {"version 0", 0, AES128_GCM, 40},       {"version 1.1", 0x0302, AES128_GCM, 40},
        {"version 1.4", 0x0305, AES128_GCM, 40}, {"version bytes swapped", 0x0303 << 8, AES128_GCM, 40},
        {"cipher 0", TLS12, 0, 40},             {"cipher 50", TLS12, 50, 40},
        {"cipher 59", TLS12, 59, 40},           {"ARIA-128 in 1.3", TLS13, ARIA128_GCM, 40},
        {"ARIA-256 in 1.3", TLS13, ARIA256_GCM, 56}, {"ARIA in 1.3, short", TLS13, ARIA128_GCM, 4},
        {"39 bytes", TLS12, AES128_GCM, 39},    {"41 bytes", TLS12, AES128_GCM, 41},
        {"4 bytes", TLS12, AES128_GCM, 4},      {"3 bytes", TLS12, AES128_GCM, 3},
        {"0 bytes", TLS12, AES128_GCM, 0},      {"-1 bytes", TLS12, AES128_GCM, -1},
        {"AES-256 with 40", TLS13, AES256_GCM, 40}, {"ChaCha20 with 40", TLS13, CHACHA20, 40},
        {"bad version, 4 bytes", 0, AES128_GCM, 4}, {"bad cipher, 4 bytes", TLS12, 60, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct keys keys = keys_of(rows[i].version, rows[i].cipher, 0, 0), good = keys12();
        int fd[2];
        tcp_pair(fd);
        attach(fd[0]);
        line("CI-1", "%s", rows[i].name);
        for (int direction = TX; direction <= RX; direction++) {
            put_result(set_tls(fd[0], direction, keys.info, (socklen_t)rows[i].length));
            put_result(set_keys(fd[0], direction, &good)); /* CI-2 */
        }
        close_both(fd);
    }
    int fd[2];
    struct keys good = keys12();
    tcp_pair(fd);
    attach(fd[0]);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_NONE);
    memcpy(page + 4096 - 4, good.info, 4);
    for (int direction = TX; direction <= RX; direction++) {
        line("CI-1", "NULL, direction %d", direction);
        put_result(set_tls(fd[0], direction, NULL, 40));
        put_result(set_tls(fd[0], direction, NULL, 0));
        if (apart()) {
            line("CI-1", "unreadable, direction %d", direction);
            put_result(set_tls(fd[0], direction, bad_address(), 40));
            apart_end();
        }
        if (apart()) {
            line("CI-1", "unreadable behind the first bytes, direction %d", direction);
            put_result(set_tls(fd[0], direction, page + 4096 - 4, 40));
            put_result(set_keys(fd[0], direction, &good));
            apart_end();
        }
    }
}

static void again(void)
{
    struct keys keys = keys12(), other = keys_of(TLS13, AES128_GCM, 0, 9), bad = keys_of(0, 0, 0, 0);
    int fd[2];
    tls_pair(fd, &keys);
    for (int direction = TX; direction <= RX; direction++) {
        line("CI-3", "again in 1.2, direction %d", direction);
        put_result(set_keys(fd[direction - 1], direction, &keys));
        put_result(set_keys(fd[direction - 1], direction, &other));
        put_result(set_keys(fd[direction - 1], direction, &bad));
        put_result(set_tls(fd[direction - 1], direction, keys.info, 39));
        put_result(set_tls(fd[direction - 1], direction, keys.info, 3));
        put_result(set_tls(fd[direction - 1], direction, NULL, 40));
        if (apart()) {
            line("CI-3", "again in 1.2, unreadable, direction %d", direction);
            put_result(set_tls(fd[direction - 1], direction, bad_address(), 40));
            apart_end();
        }
    }
    close_both(fd);
    for (int first = TX; first <= RX; first++) {
        tcp_pair(fd);
        attach(fd[0]);
        line("CI-4", "direction %d first", first);
        struct keys other_cipher = keys_of(TLS12, AES256_GCM, 0, 0),
                    other_version = keys_of(TLS13, AES128_GCM, 0, 0),
                    unrelated = keys_of(TLS12, AES128_GCM, 77, 9);
        put_result(set_keys(fd[0], first, &keys));
        put_result(set_keys(fd[0], TX + RX - first, &other_cipher));
        put_result(set_keys(fd[0], TX + RX - first, &other_version));
        put_result(set_keys(fd[0], TX + RX - first, &unrelated));
        close_both(fd);
    }
}

static void put_keys(int fd, int direction, void *into, int offered)
{
    socklen_t len = (socklen_t)offered;
    int r = getsockopt(fd, SOL_TLS, direction, into, &len);
    put_result(r);
    if (r == 0) {
        put("len=%u", (unsigned)len);
        put_hex(into, len);
    }
}

static void read_keys(void)
{
    unsigned char info[64];
    int fd[2];
    tcp_pair(fd);
    attach(fd[0]);
    line("CI-11", "no keys");
    put_keys(fd[0], TX, info, 40);
    put_keys(fd[0], RX, info, 40);
    put_keys(fd[0], TX, info, 3);
    put_keys(fd[0], TX, NULL, 40);
    put_result(getsockopt(fd[0], SOL_TLS, TX, info, NULL));
    close_both(fd);
    static const int suites[][2] = {{TLS12, AES128_GCM}, {TLS12, AES256_GCM}, {TLS12, AES128_CCM},
                                    {TLS12, CHACHA20},   {TLS13, AES128_GCM}, {TLS13, CHACHA20}};
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++) {
        struct keys keys = keys_of(suites[i][0], suites[i][1], 5, 0);
        tls_pair(fd, &keys);
        line("CI-12", "keys of %x/%d", suites[i][0], suites[i][1]);
        put_keys(fd[0], TX, info, (int)keys.len);
        put_keys(fd[1], RX, info, (int)keys.len);
        line("CI-13", "%x/%d after records", suites[i][0], suites[i][1]);
        send(fd[0], pattern(0, 40000), 40000, 0);
        sleep_ms(20);
        put_keys(fd[0], TX, info, (int)keys.len);
        put_keys(fd[1], RX, info, (int)keys.len);
        line("CI-14", "%x/%d, after one byte of the first record, of the second, after a peek", suites[i][0], suites[i][1]);
        put_recv(fd[1], 1, 0);
        put_keys(fd[1], RX, info, (int)keys.len);
        put_recv(fd[1], RECORD_MAX, 0);
        put_keys(fd[1], RX, info, (int)keys.len);
        put_recv(fd[1], 40000, MSG_PEEK);
        put_keys(fd[1], RX, info, (int)keys.len);
        line("CI-11", "lengths, %x/%d", suites[i][0], suites[i][1]);
        static const int lens[] = {-1, 0, 3, 4, 5, 39, 41, 55, 57, 64};
        for (size_t k = 0; k < sizeof lens / sizeof *lens; k++)
            put_keys(fd[0], TX, info, lens[k]);
        put_keys(fd[0], TX, NULL, (int)keys.len);
        for (int len = 4; len <= (int)keys.len; len += (int)keys.len - 4)
            if (apart()) {
                line("CI-11", "unwritable, %d bytes, %x/%d", len, suites[i][0], suites[i][1]);
                put_keys(fd[1], RX, bad_address(), len);
                apart_end();
            }
        close_both(fd);
    }
}

static void put_int(int fd, int option, int offered)
{
    unsigned char value[16];
    socklen_t len = (socklen_t)offered;
    memset(value, 'x', sizeof value);
    int r = getsockopt(fd, SOL_TLS, option, value, &len);
    put_result(r);
    if (r == 0) {
        put("len=%u", (unsigned)len);
        put_hex(value, 8);
    }
}

static void zerocopy(void)
{
    static const struct { int value, len; } rows[] = {{0, 4}, {1, 4}, {2, 4}, {-1, 4}, {1, 3}, {1, 8}, {1, 0}};
    struct keys keys = keys12();
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        int fd[2];
        tcp_pair(fd);
        attach(fd[0]);
        if (with_keys)
            set_keys(fd[0], TX, &keys);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            int value[2] = {rows[i].value, 0};
            line("CI-15", "%s keys, value %d of %d bytes", with_keys ? "with" : "without", rows[i].value, rows[i].len);
            put_result(set_tls(fd[0], ZEROCOPY_RO, value, (socklen_t)rows[i].len));
            put_int(fd[0], ZEROCOPY_RO, 4);
        }
        line("CI-15", "%s keys, memory and lengths", with_keys ? "with" : "without");
        put_result(set_tls(fd[0], ZEROCOPY_RO, NULL, 4));
        put_int(fd[0], ZEROCOPY_RO, 3);
        put_int(fd[0], ZEROCOPY_RO, 8);
        if (apart()) {
            line("CI-15", "%s keys, unreadable", with_keys ? "with" : "without");
            put_result(set_tls(fd[0], ZEROCOPY_RO, bad_address(), 4));
            apart_end();
        }
        close_both(fd);
    }
}

static void no_pad(void)
{
    static const struct { int value[2], len; } rows[] = {
        {{1, 0}, 4}, {{0, 0}, 4}, {{2, 0}, 4}, {{1, 0}, 8}, {{0, 7}, 8}, {{1, 0}, 3}, {{1, 0}, 0},
    };
    static const char *const states[] = {"no keys", "1.2", "1.3 sending", "1.3 receiving"};
    for (int state = 0; state < 4; state++) {
        struct keys keys = state == 1 ? keys12() : keys13();
        int fd[2];
        tcp_pair(fd);
        attach(fd[0]);
        if (state == 1)
            set_keys(fd[0], RX, &keys);
        if (state > 1)
            set_keys(fd[0], state - 1, &keys);
        line("CI-17", "%s, before", states[state]);
        put_int(fd[0], NO_PAD, 4);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            line("CI-16", "%s, value %d %d of %d bytes", states[state], rows[i].value[0], rows[i].value[1], rows[i].len);
            put_result(set_tls(fd[0], NO_PAD, rows[i].value, (socklen_t)rows[i].len));
            put_int(fd[0], NO_PAD, 4);
        }
        line("CI-17", "%s, memory and lengths", states[state]);
        put_result(set_tls(fd[0], NO_PAD, NULL, 4));
        put_int(fd[0], NO_PAD, 3);
        put_int(fd[0], NO_PAD, 8);
        line("CI-17", "%s, a negative length", states[state]);
        put_int(fd[0], NO_PAD, -1);
        if (apart()) {
            line("CI-16", "%s, unreadable", states[state]);
            put_result(set_tls(fd[0], NO_PAD, bad_address(), 4));
            apart_end();
        }
        close_both(fd);
    }
}

static void max_payload(void)
{
    uint16_t value = 1000;
    char got[8];
    socklen_t len = sizeof got;
    struct keys keys = keys12();
    int fd[2];
    tx_pair(fd, &keys);
    line("CI-19", "largest payload");
    put_result(set_tls(fd[0], MAX_PAYLOAD, &value, sizeof value));
    line("CI-20", "largest payload, read");
    put_result(getsockopt(fd[0], SOL_TLS, MAX_PAYLOAD, got, &len));
}

const struct probe_case key_cases[] = {
    {"keys bad", bad_keys},      {"keys again", again},   {"keys read", read_keys},
    {"keys zerocopy", zerocopy}, {"keys no pad", no_pad}, {"keys max payload", max_payload},
    {NULL, NULL},
};
