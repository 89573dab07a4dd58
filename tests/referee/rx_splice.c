/* SPDX-License-Identifier: MIT OR Apache-2.0
 * splice from a receiving socket, and FIONREAD: RX-41 to RX-46. */
#include "probe.h"

#include <sys/ioctl.h>

static int fd[2], p[2];
static struct sealer s;

static void begin(int version, const char *records)
{
    struct keys keys = keys_of(version, AES128_GCM, 5, 0);
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
    if (pipe(p) != 0)
        put("(pipe)");
    relay(&s, fd[0], records);
}

static void end(void)
{
    sealer_close(&s);
    close_both(fd);
    close_both(p);
}

static void put_splice(size_t len, unsigned flags)
{
    char bytes[RECORD_MAX];
    ssize_t n = splice(fd[1], NULL, p[1], NULL, len, flags);
    put_result(n);
    if (n > 0) {
        n = read(p[0], bytes, sizeof bytes);
        put_hash(bytes, n > 0 ? (size_t)n : 0);
    }
}

static void spliced(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        begin(version, "23:10 23:20 22:5 23:7");
        line("RX-42", "%x, one record a call", version);
        put_splice(99, 0);
        put_splice(5, 0);
        put_recv(fd[1], 5, 0);
        put_recv(fd[1], 3, MSG_PEEK);
        put_splice(99, 0);
        line("RX-43", "%x, a handshake record", version);
        put_splice(99, 0);
        put_splice(99, SPLICE_F_NONBLOCK);
        put_ready(fd[1], 0);
        put_receive(fd[1], 99, 0);
        put_splice(99, 0);
        line("RX-44", "%x, nothing there", version);
        put_splice(99, SPLICE_F_NONBLOCK);
        set_timeout(fd[1], SO_RCVTIMEO, 200);
        put_splice(99, 0);
        nonblocking(fd[1], true);
        put_splice(99, 0);
        shutdown(fd[0], SHUT_WR);
        sleep_ms(20);
        put_splice(99, 0);
        end();
        begin(version, "23:16384");
        line("RX-45", "%x, a small pipe", version);
        fcntl(p[1], F_SETPIPE_SZ, 4096);
        ssize_t n;
        size_t sum = 0;
        static char all[RECORD_MAX];
        while (sum < RECORD_MAX && (n = splice(fd[1], NULL, p[1], NULL, RECORD_MAX, SPLICE_F_NONBLOCK)) > 0)
            sum += (size_t)read(p[0], all + sum, (size_t)n);
        put("%zu", sum);
        put_hash(all, sum);
        end();
    }
    static const char *const rows[] = {"dD", "ddD", "ddd", "dc", "cD"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        begin(TLS13, "");
        for (const char *c = rows[i]; *c; c++)
            relay(&s, fd[0], *c == 'D' ? "23:11" : *c == 'd' ? "23:0" : "22:0");
        line("RX-41", "%s", rows[i]);
        for (int k = 0; k < 4; k++)
            put_splice(99, SPLICE_F_NONBLOCK);
        end();
    }
    begin(TLS12, "");
    line("RX-43", "a spoiled record");
    unsigned char record[SEALED_MAX];
    size_t len = seal(&s, DATA, "hello", 5, record);
    record[len - 1] ^= 1;
    write_all(fd[0], record, len);
    sleep_ms(20);
    put_splice(99, 0);
    put_splice(99, 0);
    put_so_error(fd[1]);
    put_splice(99, SPLICE_F_NONBLOCK);
    end();
}

static void put_queued(void)
{
    int queued = -1;
    int r = ioctl(fd[1], FIONREAD, &queued);
    if (r != 0)
        put_result(r);
    else
        put("queued=%s", queued ? "some" : "none");
}

static void queued(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        begin(version, "");
        line("RX-46", "FIONREAD, %x, nothing, a record, two bytes taken, all taken", version);
        put_queued();
        relay(&s, fd[0], "23:5");
        put_queued();
        put_recv(fd[1], 5, 0);
        put_queued();
        end();
    }
}

const struct probe_case rx_splice_cases[] = {{"splice", spliced}, {"splice FIONREAD", queued}, {NULL, NULL}};
