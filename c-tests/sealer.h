/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The other end of a connection that receives through uktls: seals records with OpenSSL, good ones
 * and bad ones, and reads the receiving end call by call.
 */
#ifndef UKTLS_TEST_SEALER_H
#define UKTLS_TEST_SEALER_H

#include "harness.h"

struct sealer {
    int fd;
    int rx; /* the receiving end, to wait for what was sent to be there; -1: do not */
    struct keys keys;
    uint64_t seq; /* of the next record */
    uint64_t iv;  /* its explicit nonce */
    uint64_t position; /* in the pattern, of the next content */
    uint64_t reader;   /* in the pattern, of what is received next */
    /* Of the next records. */
    size_t padding; /* zero bytes, TLS 1.3 */
    int outer;      /* type byte of the header; 0: the usual one */
    bool spoil;     /* the tag is wrong */
};

void sealer_init(struct sealer *s, int fd, int rx, const struct keys *keys);
void sealer_rekey(struct sealer *s, const struct keys *keys);
/* Seals one record into `out`; returns its length on the wire. Not for the SM4 suites. */
size_t seal(struct sealer *s, unsigned char *out, unsigned char type, const void *content,
            size_t len);
/* Seals and sends records of the pattern, in one piece: "23:11 22:0 23:5+100", `+` is padding. */
void send_sealed(struct sealer *s, const char *layout);
/* Seals into `out` instead; returns the length. */
size_t seal_layout(struct sealer *s, unsigned char *out, const char *layout);
/* Sends bytes as they are, and waits until they have arrived. */
void send_wire(struct sealer *s, const void *bytes, size_t len);
/* In segments of `step` bytes. */
void send_segments(struct sealer *s, const void *bytes, size_t len, size_t step);
/* A KeyUpdate message in a record of its own. */
void send_key_update(struct sealer *s);

/* A connected TCP pair with RX keys on [1], and the sealer for [0]. */
void rx_pair(int fd[2], const struct keys *keys, struct sealer *s);
/* The same with a receive buffer of the smallest size. */
void small_rx_pair(int fd[2], const struct keys *keys, struct sealer *s);

void close_tls(int fd[2]);

/* One tls_recvmsg. */
struct got {
    ssize_t n;
    int error;  /* errno if n is -1 */
    int type;   /* content type told; -1: none */
    int flags;  /* msg_flags */
    size_t controllen;
    unsigned char data[RECORD_MAX * 4];
};
struct got *receive(int fd, size_t len, int flags);
/* Calls of `len` bytes each, and what they bring: "23:11 22:0 EAGAIN EOF". The content has to be the
 * pattern, from where the last call has stopped; with MSG_PEEK the place stays. */
void expect_calls(struct sealer *s, size_t len, int flags, const char *results);
/* tls_recv until `total` more bytes of the pattern have come. */
void expect_stream(struct sealer *s, size_t total, size_t step);

/* tls_poll and poll now: what is set of POLLIN, POLLERR and so on. */
short tls_events(int fd, short events);
short kernel_events(int fd, short events);
#define assert_events(fd, want) assert_int_equal(tls_events(fd, POLLIN), want)

/* The counters of the process. */
struct uktls_stats statistics(void);

#endif
