/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Records on the wire, of every version and cipher, sent and received: REC. */
#include "probe.h"

static const int suites[][2] = {
    {TLS12, AES128_GCM}, {TLS12, AES256_GCM}, {TLS12, AES128_CCM}, {TLS12, CHACHA20},
    {TLS12, SM4_GCM},    {TLS12, SM4_CCM},    {TLS12, ARIA128_GCM}, {TLS12, ARIA256_GCM},
    {TLS13, AES128_GCM}, {TLS13, AES256_GCM}, {TLS13, AES128_CCM}, {TLS13, CHACHA20},
    {TLS13, SM4_GCM},    {TLS13, SM4_CCM},
};
enum { SUITES = sizeof suites / sizeof *suites };

static void put_raw(int fd, size_t len)
{
    unsigned char raw[128];
    ssize_t n = recv(fd, raw, len, MSG_WAITALL);
    put_hex(raw, n > 0 ? (size_t)n : 0);
}

static void on_the_wire(void)
{
    for (int i = 0; i < SUITES; i++) {
        struct keys keys = keys_of(suites[i][0], suites[i][1], 5, 0);
        int fd[2];
        tcp_pair(fd);
        attach(fd[0]);
        line("REC-1", "known answers of %x/%d", suites[i][0], suites[i][1]);
        int r = set_keys(fd[0], TX, &keys);
        put_result(r);
        if (r == 0) {
            size_t over = suites[i][0] == TLS13 ? 22 : suites[i][1] == CHACHA20 ? 21 : 29;
            send(fd[0], "Hello, world", 12, 0);
            put_raw(fd[1], 12 + over);
            send_type(fd[0], ALERT, "\1\0", 2, 0);
            put_raw(fd[1], 2 + over);
            send(fd[0], pattern(0, 20000), 20000, 0);
            put_wire(fd[1]);
        }
        close_both(fd);
    }
}

static void opened(void)
{
    for (int i = 0; i < SUITES; i++) {
        struct keys keys = keys_of(suites[i][0], suites[i][1], 0xfffffffe, 0);
        int fd[2];
        tcp_pair(fd);
        attach(fd[1]);
        line("REC-5", "received with %x/%d", suites[i][0], suites[i][1]);
        int r = set_keys(fd[1], RX, &keys);
        put_result(r);
        if (r == 0) {
            struct sealer s;
            sealer_open(&s, &keys);
            relay(&s, fd[0], "23:1 23:16384 22:16384 21:2");
            for (int k = 0; k < 5; k++)
                put_receive(fd[1], 20000, MSG_DONTWAIT);
            sealer_close(&s);
        }
        close_both(fd);
    }
}

static size_t from_hex(const char *hex, unsigned char *out)
{
    size_t n = 0;
    for (unsigned byte; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        out[n++] = (unsigned char)byte;
    return n;
}

/* Record 3 of the known answers, number 7: no sender makes an empty record. */
static void empty(void)
{
    static const struct { int version, cipher; const char *record; } rows[] = {
        {TLS12, AES128_GCM, "1703030018b0b1b2b3b4b5b6b956ab2263afef09c7244e1a278325e948"},
        {TLS12, AES256_GCM, "1703030018b0b1b2b3b4b5b6b9fa3dcf7371dc2c5ab6c893814c95a8a3"},
        {TLS12, AES128_CCM, "1703030018b0b1b2b3b4b5b6b949b72595ae25eaa23650a17d748854b2"},
        {TLS12, CHACHA20, "1703030010f4970a6e61554c29c72e909cc243f853"},
        {TLS13, AES128_GCM, "17030300110d4841769df0dfb74eb234e465e0a8da6d"},
        {TLS13, AES256_GCM, "17030300119c91d37a31eddefedb93f480cf1a4584bf"},
        {TLS13, AES128_CCM, "1703030011dbf046f114b64ad375bd0d1c79a0b968b5"},
        {TLS13, CHACHA20, "1703030011b9b95538feefe6b08a1a272c601a10f604"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char record[64];
        struct keys keys = keys_of(rows[i].version, rows[i].cipher, 7, 0);
        int fd[2];
        rx_pair(fd, &keys);
        line("RX-36", "the empty known answer of %x/%d", rows[i].version, rows[i].cipher);
        write_all(fd[0], record, from_hex(rows[i].record, record));
        sleep_ms(20);
        put_ready(fd[1], 0);
        put_receive(fd[1], 9, MSG_DONTWAIT);
        put_ready(fd[1], 0);
        close_both(fd);
    }
}

static void inner_types(void)
{
    static const struct { const char *name, *inner; int len; } rows[] = {
        {"padded data", "hello\x17\0\0", 8}, {"no content, a type", "\x17", 1}, {"all zero", "\0\0\0", 3},
        {"one zero", "\0", 1},               {"padded alert", "\1\0\x15\0", 4}, {"type 255", "x\xff", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int no_pad = 0; no_pad < 2; no_pad++) {
            struct keys keys = keys13();
            unsigned char record[SEALED_MAX];
            struct sealer s;
            int fd[2];
            rx_pair(fd, &keys);
            set_tls(fd[1], NO_PAD, &no_pad, sizeof no_pad);
            sealer_open(&s, &keys);
            line("REC-9", "%s%s", rows[i].name, no_pad ? ", no-pad mode" : "");
            write_all(fd[0], record, seal(&s, 0, rows[i].inner, (size_t)rows[i].len, record));
            relay(&s, fd[0], "23:3");
            for (int k = 0; k < 3; k++)
                put_receive(fd[1], 99, MSG_DONTWAIT);
            put_so_error(fd[1]);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            sealer_close(&s);
            close_both(fd);
        }
}

/* RX-57: what lies behind the bytes returned. */
static void behind(void)
{
    static const char *const rows[] = {"21:5", "23:5", "23:5+40", "22:0"};
    for (int no_pad = 0; no_pad < 2; no_pad++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct keys keys = keys13();
            struct sealer s;
            char bytes[200], control[64];
            struct iovec iov = {bytes, sizeof bytes};
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
            int fd[2];
            rx_pair(fd, &keys);
            set_tls(fd[1], NO_PAD, &no_pad, sizeof no_pad);
            sealer_open(&s, &keys);
            line("RX-57", "memory behind %s%s", i == 0 ? "an alert" : i == 1 ? "data" : i == 2 ? "padded data" : "an empty handshake record",
                 no_pad ? ", no-pad mode" : "");
            relay(&s, fd[0], rows[i]);
            memset(bytes, 'x', sizeof bytes);
            ssize_t n = recvmsg(fd[1], &msg, MSG_DONTWAIT);
            put_result(n);
            put_hash(bytes, sizeof bytes);
            sealer_close(&s);
            close_both(fd);
        }
}

static void outer_types(void)
{
    static const int types[] = {0, 20, 22, 24, 255};
    for (int version = TLS12; version <= TLS13; version++)
        for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
            struct keys keys = keys_of(version, AES128_GCM, 0, 0);
            unsigned char record[SEALED_MAX];
            struct sealer s;
            int fd[2];
            rx_pair(fd, &keys);
            sealer_open(&s, &keys);
            line(version == TLS13 ? "REC-10" : "REC-11", "%x, type %d", version, types[i]);
            size_t len = seal(&s, version == TLS13 ? DATA : types[i], "hello", 5, record);
            if (version == TLS13)
                record[0] = (unsigned char)types[i];
            write_all(fd[0], record, len);
            sleep_ms(20);
            put_ready(fd[1], 0);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            put_so_error(fd[1]);
            put_receive(fd[1], 99, MSG_DONTWAIT);
            put_ready(fd[1], 0);
            sealer_close(&s);
            close_both(fd);
        }
}

static void plain_records(void)
{
    static const struct { const char *name, *hex; } rows[] = {
        {"ChangeCipherSpec", "140303000101"}, {"alert", "15030300020100"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char record[16];
        struct keys keys = keys13();
        struct sealer s;
        int fd[2];
        rx_pair(fd, &keys);
        sealer_open(&s, &keys);
        line("REC-12", "plain %s", rows[i].name);
        write_all(fd[0], record, from_hex(rows[i].hex, record));
        relay(&s, fd[0], "23:3");
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        put_receive(fd[1], 99, MSG_DONTWAIT);
        sealer_close(&s);
        close_both(fd);
    }
}

static void wrap(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        struct keys keys = keys_of(version, AES128_GCM, UINT64_MAX - 1, 0);
        int fd[2];
        tx_pair(fd, &keys);
        line("REC-13", "the last number, %x", version);
        put_result(send(fd[0], "one", 3, 0));
        put_result(send(fd[0], "two", 3, 0));
        put_result(send(fd[0], "three", 5, 0));
        put_wire(fd[1]);
        put_ready(fd[0], 0);
        line("REC-13", "the last number, %x, error read", version);
        put_so_error(fd[0]);
        put_result(send(fd[0], "four", 4, 0));
        put_wire(fd[1]);
        close_both(fd);
    }
    struct keys before = keys_of(TLS13, AES128_GCM, UINT64_MAX - 1, 0);
    struct sealer s;
    int fd[2];
    rx_pair(fd, &before);
    sealer_open(&s, &before);
    line("REC-14", "the last but one number received");
    relay(&s, fd[0], "23:3");
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_receive(fd[1], 99, MSG_DONTWAIT);
    put_ready(fd[1], 0);
}

const struct probe_case record_cases[] = {
    {"records on the wire", on_the_wire}, {"records opened", opened}, {"records empty", empty},
    {"records inner types", inner_types}, {"records behind", behind}, {"records outer types", outer_types},
    {"records plain", plain_records},     {"records wrap", wrap},     {NULL, NULL},
};
