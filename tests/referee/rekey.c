/* SPDX-License-Identifier: MIT OR Apache-2.0
 * New keys on a TLS 1.3 socket, and KeyUpdate: RK. */
#include "probe.h"

static void new_keys(void)
{
    struct keys keys = keys13(), next = keys_of(TLS13, AES128_GCM, 0, 9), cipher = keys_of(TLS13, AES256_GCM, 0, 9);
    int fd[2];
    tls_pair(fd, &keys);
    line("RK-1", "other cipher, other version, short");
    for (int direction = TX; direction <= RX; direction++) {
        struct keys old = keys12();
        put_result(set_keys(fd[direction - 1], direction, &cipher));
        put_result(set_keys(fd[direction - 1], direction, &old));
        put_result(set_tls(fd[direction - 1], direction, next.info, 39));
    }
    line("RK-2", "new keys");
    put_result(set_keys(fd[0], TX, &next));
    put_result(set_keys(fd[1], RX, &next));
    put_result(send(fd[0], "hello", 5, 0));
    put_receive(fd[1], 99, MSG_DONTWAIT);
}

static void key_update(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        static const char update[] = {24, 0, 0, 1, 0};
        unsigned char record[SEALED_MAX];
        struct keys keys = keys_of(version, AES128_GCM, 5, 0);
        struct sealer s;
        int fd[2];
        rx_pair(fd, &keys);
        sealer_open(&s, &keys);
        line("RK-7", "%x, a KeyUpdate is delivered", version);
        write_all(fd[0], record, seal(&s, HANDSHAKE, update, sizeof update, record));
        sleep_ms(20);
        put_recv(fd[1], 99, 0);
        put_receive(fd[1], 99, 0);
        line("RK-8", "%x, a record behind it", version);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        relay(&s, fd[0], "23:5");
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        sealer_close(&s);
        close_both(fd);
    }
}

const struct probe_case rekey_cases[] = {{"rekey", new_keys}, {"rekey update", key_update}, {NULL, NULL}};
