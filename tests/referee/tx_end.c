/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Full sockets, errors and ends of sending: TX-24 to TX-40, TX-51 to TX-58. */
#include "probe.h"

/* Sends without waiting until the socket takes no more; adds how it ended. */
static size_t fill(int fd, size_t step)
{
    size_t sum = 0;
    ssize_t n;
    while (sum < BIG * 8u && (n = send(fd, pattern(sum % BIG, step), step, MSG_DONTWAIT)) > 0) {
        sum += (size_t)n;
        if (n % RECORD_MAX && n != (ssize_t)step)
            put("part of a record");
    }
    put_result(n);
    return sum;
}

static void small_tx_pair(int fd[2])
{
    struct keys keys = keys12();
    tcp_pair_sized(fd, 4608, 4608);
    attach(fd[0]);
    set_keys(fd[0], TX, &keys);
}

/* Adds whether exactly the records of `sum` bytes, and then an end, arrive. */
static void put_arrival(int fd, size_t sum)
{
    size_t got = 0;
    unsigned char head[5], body[SEALED_MAX];
    ssize_t n;
    while (got < sum && (n = recv(fd, head, 5, MSG_WAITALL)) == 5) {
        size_t len = (size_t)head[3] << 8 | head[4];
        if (recv(fd, body, len, MSG_WAITALL) != (ssize_t)len) {
            put("cut off");
            return;
        }
        got += len - 24;
    }
    put(got == sum ? "all arrived" : got < sum ? "less arrived" : "more arrived");
}

static void full(void)
{
    int fd[2];
    small_tx_pair(fd);
    line("TX-27", "fill a small socket");
    size_t sum = fill(fd[0], 30000);
    put("%s", sum >= RECORD_MAX ? "some" : "none");
    line("TX-51", "not writable, then writable");
    put_ready(fd[0], 0);
    put_result(send(fd[0], "x", 1, MSG_DONTWAIT));
    line("TX-28", "all arrives without another call");
    put_arrival(fd[1], sum);
    sleep_ms(50);
    put_ready(fd[0], 0);
    put_result(send(fd[0], "x", 1, MSG_DONTWAIT));
    close_both(fd);

    small_tx_pair(fd);
    set_timeout(fd[0], SO_SNDTIMEO, 200);
    line("TX-30", "SO_SNDTIMEO");
    ssize_t n = send(fd[0], pattern(0, 900000), 900000, 0);
    put("%s", n > 0 && n < 900000 ? "a part" : "not a part");
    put_result(send(fd[0], "x", 1, 0));
    put_result(send(fd[0], "x", 1, 0));
    put_arrival(fd[1], (size_t)n);
    close_both(fd);

    small_tx_pair(fd);
    line("TX-31", "a signal");
    alarm_after(300, 0);
    n = send(fd[0], pattern(0, 900000), 900000, 0);
    put("%s", n > 0 && n < 900000 ? "a part" : "not a part");
    put_result(send(fd[0], "x", 1, 0));
    alarm_off();
    put_arrival(fd[1], (size_t)n);
    put_result(send(fd[0], "x", 1, 0));
    close_both(fd);
}

static void from_receiving(void)
{
    static const struct { const char *name; unsigned char head[13]; } rows[] = {
        {"too long", {23, 3, 3, 0x50, 0}}, {"too short", {23, 3, 3, 0, 3}}, {"version", {23, 3, 1, 0, 40}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int both = 0; both < 2; both++) {
            struct keys keys = keys12();
            int fd[2];
            rx_pair(fd, &keys);
            if (both)
                set_keys(fd[1], TX, &keys);
            line("TX-35", "a bad header, %s, sending is %s", rows[i].name, both ? "TLS" : "plain");
            write_all(fd[0], rows[i].head, 13);
            sleep_ms(20);
            put_result(send(fd[1], "a", 1, 0));
            put_result(send(fd[1], "b", 1, 0));
            put_so_error(fd[1]);
            put_result(send(fd[1], "c", 1, 0));
            put_wire(fd[0]);
            close_both(fd);
        }
    for (int version = TLS12; version <= TLS13; version++) {
        struct keys keys = keys_of(version, AES128_GCM, 5, 0);
        struct sealer s;
        unsigned char record[SEALED_MAX];
        int fd[2];
        rx_pair(fd, &keys);
        set_keys(fd[1], TX, &keys);
        sealer_open(&s, &keys);
        line("TX-35", "a bad MAC, %x", version);
        size_t len = seal(&s, DATA, "hello", 5, record);
        record[len - 1] ^= 1;
        write_all(fd[0], record, len);
        sleep_ms(20);
        put_result(send(fd[1], "a", 1, 0));
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_result(send(fd[1], "b", 1, 0));
        put_so_error(fd[1]);
        put_result(send(fd[1], "c", 1, 0));
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_wire(fd[0]);
        sealer_close(&s);
        close_both(fd);
    }
}

static void ends(void)
{
    struct keys keys = keys12();
    int fd[2];
    tx_pair(fd, &keys);
    line("TX-34", "after a reset");
    reset(fd[1]);
    sleep_ms(20);
    put_ready(fd[0], 0);
    put_result(send(fd[0], "a", 1, 0));
    put_result(send(fd[0], "b", 1, 0));
    put_result(send(fd[0], "", 0, 0));
    put_so_error(fd[0]);
    line("TX-38", "after a reset, the error taken");
    put_result(send(fd[0], "c", 1, 0));
    put_result(send(fd[0], "d", 1, MSG_NOSIGNAL));
    put_result(send_type(fd[0], ALERT, "d", 1, MSG_NOSIGNAL));
    put_ready(fd[0], 0);
    close(fd[0]);

    tx_pair(fd, &keys);
    line("TX-38", "after SHUT_WR");
    shutdown(fd[0], SHUT_WR);
    put_ready(fd[0], 0);
    put_result(send(fd[0], "a", 1, 0));
    put_result(send(fd[0], "b", 1, MSG_NOSIGNAL));
    put_so_error(fd[0]);
    put_wire(fd[1]);
    close_both(fd);

    tx_pair(fd, &keys);
    line("TX-39", "the peer closed");
    close(fd[1]);
    sleep_ms(20);
    put_ready(fd[0], 0);
    put_result(send(fd[0], "a", 1, 0));
    sleep_ms(20);
    put_ready(fd[0], 0);
    put_result(send(fd[0], "b", 1, 0));
    put_result(send(fd[0], "c", 1, MSG_NOSIGNAL));
    put_ready(fd[0], 0);
    close(fd[0]);

    tx_pair(fd, &keys);
    line("TX-54", "SHUT_WR with an open record");
    put_result(send(fd[0], "sent", 4, 0));
    put_result(send(fd[0], "open", 4, MSG_MORE));
    put_result(shutdown(fd[0], SHUT_WR));
    put_wire(fd[1]);
    put_result(shutdown(fd[0], SHUT_WR));
    close_both(fd);

    tx_pair(fd, &keys);
    line("TX-55", "close with an open record");
    put_result(send(fd[0], "open", 4, MSG_MORE));
    put_result(close(fd[0]));
    put_wire(fd[1]);
    close(fd[1]);

    tx_pair(fd, &keys);
    line("TX-56", "close one of two descriptors");
    int copy = dup(fd[0]);
    put_result(send(fd[0], "open", 4, MSG_MORE));
    put_result(close(fd[0]));
    put_wire_late(fd[1]);
    put_result(send(copy, "x", 1, 0));
    put_wire(fd[1]);
    put_result(close(copy));
    put_wire(fd[1]);
    close(fd[1]);

    tx_pair(fd, &keys);
    line("TX-53", "both directions down");
    shutdown(fd[0], SHUT_RDWR);
    shutdown(fd[1], SHUT_RDWR);
    sleep_ms(20);
    put_ready(fd[0], 0);
    close_both(fd);

    tx_pair(fd, &keys);
    line("TX-58", "linger 0");
    put_result(send(fd[0], "hello", 5, 0));
    reset(fd[0]);
    put_wire(fd[1]);
}

static void late_close(void)
{
    int fd[2];
    small_tx_pair(fd);
    line("TX-57", "close with records that the socket does not take");
    size_t sum = fill(fd[0], 30000);
    close(fd[0]);
    put_arrival(fd[1], sum);
}

const struct probe_case tx_end_cases[] = {
    {"txend full", full}, {"txend receiving", from_receiving}, {"txend ends", ends},
    {"txend late close", late_close}, {NULL, NULL},
};
