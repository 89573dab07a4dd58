/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A program that does to TLS sockets what a user program can do, and says what came back: one line
 * an observation, "STATEMENT name: what came". It knows no right answers. The kernel's own kTLS and
 * this library under LD_PRELOAD run it, and their lines are compared.
 *
 * A line holds nothing that differs from run to run: no descriptors, times, addresses or ports.
 */
#ifndef REFEREE_PROBE_H
#define REFEREE_PROBE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif

/* Not mapped. */
static inline void *bad_address(void)
{
    return (void *)16;
}

enum { TX = 1, RX = 2, ZEROCOPY_RO = 3, NO_PAD = 4, MAX_PAYLOAD = 5 };
enum { SET_RECORD_TYPE = 1, GET_RECORD_TYPE = 2 };
enum { TLS12 = 0x0303, TLS13 = 0x0304 };
enum { AES128_GCM = 51, AES256_GCM, AES128_CCM, CHACHA20, SM4_GCM, SM4_CCM, ARIA128_GCM, ARIA256_GCM };
enum { CCS = 20, ALERT = 21, HANDSHAKE = 22, DATA = 23 };
enum { RECORD_MAX = 16384, SEALED_MAX = RECORD_MAX + 64, BIG = 1 << 20 };

/* --- report.c: lines ------------------------------------------------------------------------ */

/* Ends the line before and begins one. */
void line(const char *statement, const char *format, ...) __attribute__((format(printf, 2, 3)));
void line_end(void);
/* Adds a word to the line. */
void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds what a call returned, or its errno by name; and SIGPIPE, if one came since. */
void put_result(long long returned);
/* Adds a hash of bytes. */
void put_hash(const void *bytes, size_t len);
void put_hex(const void *bytes, size_t len);
/* Adds what poll says of `fd` within `ms`. */
void put_ready(int fd, int ms);
/* Adds SO_ERROR, which takes it. */
void put_so_error(int fd);
/* Catches SIGPIPE; SIGTERM, by which the parent ends what hangs; and what crashes. */
void catch_signals(void);
/* For what may crash: `if (apart()) { line(...); ...; apart_end(); }` runs in a process of its own. */
bool apart(void);
void apart_end(void);

/* --- sockets.c: connections, keys ----------------------------------------------------------- */

struct keys {
    socklen_t len;
    unsigned char info[64];
};

/* The keys of the known answers; `salt` 0, or what tells other keys from them. */
struct keys keys_of(int version, int cipher, uint64_t rec_seq, unsigned char other);
/* AES-128-GCM, from number 5, as the known answers. */
struct keys keys12(void);
struct keys keys13(void);

void tcp_pair(int fd[2]);
void tcp6_pair(int fd[2]);
/* Small buffers from the start, so that they are soon full; 0: the usual one. */
void tcp_pair_sized(int fd[2], int send, int receive);
int attach(int fd);
int set_keys(int fd, int direction, const struct keys *keys);
int set_tls(int fd, int option, const void *value, socklen_t len);
/* [0] sends with these keys, [1] is plain TCP. */
void tx_pair(int fd[2], const struct keys *keys);
/* [0] is plain TCP, [1] receives with these keys. */
void rx_pair(int fd[2], const struct keys *keys);
/* [0] sends, [1] receives. */
void tls_pair(int fd[2], const struct keys *keys);
void close_both(int fd[2]);
void nonblocking(int fd, bool on);
void set_timeout(int fd, int option, int ms);
/* Resets the connection when it is closed. */
void reset(int fd);
/* After `ms` SIGALRM, whose handler does nothing, comes every 100 ms. */
void alarm_after(int ms, int sa_flags);
void alarm_off(void);
void sleep_ms(int ms);

/* `len` bytes, at most BIG, of a fixed pattern from `from`. */
const char *pattern(size_t from, size_t len);

/* --- messages.c: sending and receiving ------------------------------------------------------- */

ssize_t send_type(int fd, int type, const void *data, size_t len, int flags);
/* recvmsg with room for the type: adds the count or errno, "type=", the flags and a hash. */
ssize_t put_receive(int fd, size_t len, int flags);
/* recv: adds the count or errno, and a hash. */
ssize_t put_recv(int fd, size_t len, int flags);
/* Adds the records that come on plain TCP until it is quiet, "23:36", a hash of all, and the end. */
void put_wire(int fd);
/* The same where TCP may hold data back for a while (MSG_MORE). */
void put_wire_late(int fd);

/* Records as they are on the wire, made by a sending socket on the way. */
struct sealer {
    int fd[2];
};
void sealer_open(struct sealer *s, const struct keys *keys);
void sealer_close(struct sealer *s);
/* Seals one record into `out`, of SEALED_MAX bytes; returns its length. */
size_t seal(struct sealer *s, int type, const void *data, size_t len, unsigned char *out);
/* Seals records and writes them to plain TCP. "23:5 21:2 23:0": types and lengths; a length of 0 is
 * made of TLS 1.3 padding, and "23:5+9" has 9 bytes of it. */
void relay(struct sealer *s, int fd, const char *records);
void write_all(int fd, const void *data, size_t len);

/* --- walk.c ------------------------------------------------------------------------------------ */

/* Walks by the numbers of their seeds, each in a process of its own. */
void walk(unsigned first, unsigned count);

/* --- cases ------------------------------------------------------------------------------------ */

struct probe_case {
    const char *name;
    void (*run)(void);
};

extern const struct probe_case attach_cases[], key_cases[], record_cases[], tx_cases[],
    tx_file_cases[], tx_end_cases[], rx_cases[], rx_error_cases[], rx_splice_cases[], ready_cases[], share_cases[],
    rekey_cases[];

#endif
