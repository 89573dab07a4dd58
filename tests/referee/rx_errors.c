/* SPDX-License-Identifier: MIT OR Apache-2.0
 * What is wrong with what comes, and the end of it: RX-3 to RX-5, RX-20 to RX-26. */
#include "probe.h"

static void headers(void)
{
    static const struct { const char *name; int version, cipher; unsigned char head[5]; } rows[] = {
        {"1.2 longest", TLS12, AES128_GCM, {23, 3, 3, 16408 >> 8, 16408 & 255}},
        {"1.2 too long", TLS12, AES128_GCM, {23, 3, 3, 16409 >> 8, 16409 & 255}},
        {"1.2 shortest", TLS12, AES128_GCM, {23, 3, 3, 0, 24}},
        {"1.2 too short", TLS12, AES128_GCM, {23, 3, 3, 0, 23}},
        {"1.2 ChaCha20 too long", TLS12, CHACHA20, {23, 3, 3, 16401 >> 8, 16401 & 255}},
        {"1.2 ChaCha20 too short", TLS12, CHACHA20, {23, 3, 3, 0, 15}},
        {"1.3 longest", TLS13, AES128_GCM, {23, 3, 3, 16401 >> 8, 16401 & 255}},
        {"1.3 too long", TLS13, AES128_GCM, {23, 3, 3, 16402 >> 8, 16402 & 255}},
        {"1.3 no inner type", TLS13, AES128_GCM, {23, 3, 3, 0, 16}},
        {"1.3 too short", TLS13, AES128_GCM, {23, 3, 3, 0, 15}},
        {"1.2 length 65535", TLS12, AES128_GCM, {23, 3, 3, 255, 255}},
        {"1.2 length 0", TLS12, AES128_GCM, {23, 3, 3, 0, 0}},
        {"version 0301", TLS12, AES128_GCM, {23, 3, 1, 0, 40}},
        {"version 0304", TLS13, AES128_GCM, {23, 3, 4, 0, 40}},
        {"version 0203", TLS12, AES128_GCM, {23, 2, 3, 0, 40}},
        {"version and length bad", TLS12, AES128_GCM, {23, 9, 9, 255, 255}},
        {"version bad, too short", TLS12, AES128_GCM, {23, 9, 9, 0, 0}},
        {"type 0, too long", TLS12, AES128_GCM, {0, 3, 3, 255, 255}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct keys keys = keys_of(rows[i].version, rows[i].cipher, 0, 0);
        char rest[64] = {0};
        int fd[2];
        rx_pair(fd, &keys);
        line("RX-2", "%s, 5 bytes", rows[i].name);
        write_all(fd[0], rows[i].head, 5);
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        line("RX-3", "%s, 69 bytes", rows[i].name);
        write_all(fd[0], rest, sizeof rest);
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_so_error(fd[1]);
        put_ready(fd[1], 0);
        line("RX-4", "%s, the end behind it", rows[i].name);
        shutdown(fd[0], SHUT_WR);
        sleep_ms(20);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        close_both(fd);
    }
    struct keys keys = keys12();
    int fd[2];
    rx_pair(fd, &keys);
    line("RX-4", "SO_ERROR first, then receive");
    write_all(fd[0], rows[1].head, 5);
    write_all(fd[0], pattern(0, 40), 40);
    sleep_ms(20);
    put_so_error(fd[1]);
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    close_both(fd);
    struct sealer s;
    sealer_open(&s, &keys);
    rx_pair(fd, &keys);
    line("RX-21", "good records, then a bad header");
    relay(&s, fd[0], "23:10 23:20");
    write_all(fd[0], rows[1].head, 5);
    write_all(fd[0], pattern(0, 40), 40);
    sleep_ms(20);
    put_ready(fd[1], 0);
    put_receive(fd[1], 5, MSG_DONTWAIT);
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_ready(fd[1], 0);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_receive(fd[1], 99, MSG_DONTWAIT);
}

static void spoiled(void)
{
    static const struct { const char *name; int at; } rows[] = {
        {"tag", -1}, {"ciphertext", 14}, {"explicit nonce or ciphertext", 6}, {"type", 0},
    };
    for (int version = TLS12; version <= TLS13; version++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct keys keys = keys_of(version, AES128_GCM, 5, 0);
            unsigned char record[SEALED_MAX];
            struct sealer s;
            int fd[2];
            if (version == TLS13 && rows[i].at == 0)
                continue; /* REC-10 */
            rx_pair(fd, &keys);
            sealer_open(&s, &keys);
            line("RX-20", "%x, %s spoiled, behind a good record", version, rows[i].name);
            relay(&s, fd[0], "23:10");
            size_t len = seal(&s, DATA, "hello", 5, record);
            record[rows[i].at < 0 ? len - 1 : (size_t)rows[i].at] ^= 1;
            write_all(fd[0], record, len);
            relay(&s, fd[0], "23:20");
            put_ready(fd[1], 0);
            put_receive(fd[1], 99, MSG_DONTWAIT); /* RX-21 */
            put_ready(fd[1], 0);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            put_receive(fd[1], 99, MSG_PEEK);
            put_receive(fd[1], 0, MSG_DONTWAIT);
            put_so_error(fd[1]);
            put_ready(fd[1], 0);
            put_receive(fd[1], 99, 0);
            shutdown(fd[0], SHUT_WR);
            sleep_ms(20);
            put_receive(fd[1], 99, 0);
            put_ready(fd[1], 0);
            sealer_close(&s);
            close_both(fd);
        }
    struct keys keys = keys12(), other = keys_of(TLS12, AES128_GCM, 6, 0);
    struct sealer s;
    int fd[2];
    rx_pair(fd, &other);
    sealer_open(&s, &keys);
    line("RX-20", "another number");
    relay(&s, fd[0], "23:10");
    put_receive(fd[1], 99, MSG_DONTWAIT);
}

static void ends(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        struct keys keys = keys_of(version, AES128_GCM, 5, 0);
        unsigned char record[SEALED_MAX];
        struct sealer s;
        int fd[2];
        sealer_open(&s, &keys);
        rx_pair(fd, &keys);
        line("RX-25", "%x, the end between records", version);
        relay(&s, fd[0], "23:10");
        shutdown(fd[0], SHUT_WR);
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, MSG_PEEK);
        put_ready(fd[1], 0);
        close_both(fd);
        sealer_close(&s);

        static const size_t lens[] = {1, 4, 5, 13, 20};
        for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
            sealer_open(&s, &keys);
            rx_pair(fd, &keys);
            line("RX-25", "%x, the end behind %zu bytes", version, lens[i]);
            seal(&s, DATA, "hello", 5, record);
            write_all(fd[0], record, lens[i]);
            sleep_ms(20);
            put_ready(fd[1], 0); /* RX-48 */
            put_receive(fd[1], 99, MSG_DONTWAIT);
            shutdown(fd[0], SHUT_WR);
            sleep_ms(20);
            put_ready(fd[1], 0); /* RX-50 */
            put_receive(fd[1], 99, 0);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            put_so_error(fd[1]);
            close_both(fd);
            sealer_close(&s);
        }

        sealer_open(&s, &keys);
        rx_pair(fd, &keys);
        line("RX-24", "%x, a reset behind a record", version);
        relay(&s, fd[0], "23:10");
        reset(fd[0]);
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        put_ready(fd[1], 0);
        close(fd[1]);
        sealer_close(&s);

        sealer_open(&s, &keys);
        rx_pair(fd, &keys);
        line("RX-26", "%x, SHUT_RD", version);
        relay(&s, fd[0], "23:10 23:20");
        put_receive(fd[1], 5, 0);
        put_result(shutdown(fd[1], SHUT_RD));
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        relay(&s, fd[0], "23:30");
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        close_both(fd);
        sealer_close(&s);
    }
}

const struct probe_case rx_error_cases[] = {
    {"rxerror headers", headers}, {"rxerror spoiled", spoiled}, {"rxerror ends", ends}, {NULL, NULL},
};
