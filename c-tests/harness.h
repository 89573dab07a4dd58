/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the C tests share: connected pairs, keys, and a receiver of its own that takes records off
 * the wire and opens them with OpenSSL.
 *
 * All plain bytes that the tests send are one endless pattern, continued from call to call, so
 * that a receiver knows what has to come: a lost, repeated or swapped byte shows.
 */
#ifndef UKTLS_TEST_HARNESS_H
#define UKTLS_TEST_HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <uktls.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { RECORD_MAX = 16384, DATA = 23, ALERT = 21, HANDSHAKE = 22 };

/* Far longer than any wait that succeeds, under valgrind too. */
enum { DEADLINE_MS = 30000 };

struct suite {
    uint16_t version;
    uint16_t cipher;
    const char *name;
    size_t iv, key, salt;
};

/* The 14 pairs of version and cipher that there are. */
extern const struct suite suites[];
extern const size_t suite_count;

struct keys {
    const struct suite *suite;
    size_t len;
    unsigned char info[64];
};

/* The keys of tests/data/known_answers.txt, told apart by `tag` (0: as there). */
struct keys make_keys(const struct suite *suite, uint64_t rec_seq, unsigned char tag);
/* AES-128-GCM. */
struct keys tls12_keys(void);
struct keys tls13_keys(void);

/* Connected pairs: [0] sends, [1] receives. */
void tcp_pair(int fd[2]);
void small_tcp_pair(int fd[2]);
/* With these buffers from the start, so that TCP goes by them; 0: the usual one. */
void tcp_pair_sized(int fd[2], int send, int receive);
void unix_pair(int fd[2]);
void unix_small_pair(int fd[2]);

/* A TCP pair with TX keys on [0], and the receiver for [1]. */
struct receiver;
void tls_pair(int fd[2], const struct keys *keys, struct receiver *receiver);
void small_tls_pair(int fd[2], const struct keys *keys, struct receiver *receiver);

struct receiver {
    int fd;
    struct keys keys;
    uint64_t seq; /* of the next record */
    uint64_t iv;  /* its explicit nonce */
    uint64_t position; /* in the pattern */
    bool pattern;      /* whether the content has to be the pattern */
    uint64_t records;
    /* The last record. */
    unsigned char type;
    size_t len;
    unsigned char data[RECORD_MAX + 1];
    unsigned char raw[RECORD_MAX + 512];
    size_t raw_len;
    /* What was wrong; empty as long as nothing is. */
    char fault[256];
};

/* Nonce and additional data of a record with `content_len` bytes of content in all; returns the
 * length of the latter. `head` is the record's header, `iv` its explicit nonce, if it has one. */
int record_inputs(const struct keys *keys, uint64_t seq, uint64_t iv, const unsigned char *head,
                  size_t content_len, unsigned char nonce[12], unsigned char aad[13]);
/* Bytes of the explicit nonce: 8 or 0. */
size_t explicit_nonce_len(const struct suite *suite);
/* OpenSSL's cipher; NULL if it has none for the suite. */
const struct evp_cipher_st *suite_evp(const struct suite *suite);

void receiver_init(struct receiver *r, int fd, const struct keys *keys);
/* From the next record on other keys. */
void receiver_rekey(struct receiver *r, const struct keys *keys);
/* 1: a record; 0: the end of the stream, between records; -1: see `fault`. For any thread. */
int receiver_next(struct receiver *r);

/* Reads exactly these records, "23:16384 22:3". */
void expect_records(struct receiver *r, const char *layout);
/* Reads data records until `total` bytes of the pattern have come in all. */
void expect_bytes(struct receiver *r, uint64_t total);
void expect_end(struct receiver *r);
/* Nothing is there to be read now. */
void expect_nothing(int fd);

/* A thread that receives until the end of the stream. */
struct drain {
    struct receiver receiver;
    pthread_t thread;
};
void drain_start(struct drain *d, int fd, const struct keys *keys);
void drain_go_on(struct drain *d);
/* Asserts that exactly `total` bytes of the pattern came, and then the end. */
void drain_finish(struct drain *d, uint64_t total);

/* `len` bytes of the pattern from `position`, for ever valid; at most 16 MiB. */
const void *pattern(uint64_t position, size_t len);
void fill_pattern(void *buffer, uint64_t position, size_t len);

/* Sends all of the pattern piece [position, position + len). */
void send_all(int fd, uint64_t position, size_t len, int flags);
/* Sends without blocking, in calls of `step` bytes, until EAGAIN; returns the bytes accepted. */
uint64_t fill_socket(int fd, uint64_t position, size_t step);
/* Waits until exactly `bytes` are pending: the kernel has a record before it is counted as gone. */
void expect_pending(int fd, size_t bytes);
/* Waits until every connection of the process is gone, the lingering ones too. */
void expect_no_connections(void);
/* sendmsg with a record type. */
ssize_t send_typed(int fd, unsigned char type, const void *data, size_t len, int flags);

void wait_for(int fd, short events);
void set_nonblocking(int fd, bool on);
bool under_valgrind(void);
void close_both(int fd[2]);
/* The wait status of `child`, which has to end in time. */
int wait_child(pid_t child);

/* In a forked child: becomes this program anew, told apart by UKTLS_TEST_CHILD=`what`, with
 * `first` and `second` (-1: none) as its descriptors 3 and 4 and no other. */
void become_child(const char *what, int first, int second);

/* SIGPIPE and SIGUSR1 are counted once this was called. */
void count_signal(int number, int sa_flags);
extern _Atomic int signals_seen;

#define assert_ok(call) assert_returns(call, 0)
#define assert_returns(call, value)                                                                \
    do {                                                                                           \
        long long got_ = (long long)(call);                                                        \
        if (got_ != (long long)(value))                                                            \
            fail_msg("%s: %lld (%s), not %lld", #call, got_, got_ < 0 ? strerror(errno) : "",      \
                     (long long)(value));                                                          \
    } while (0)
#define assert_fails(call, error)                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long long got_ = (long long)(call);                                                        \
        if (got_ != -1 || errno != (error))                                                        \
            fail_msg("%s: %lld (%s), not -1 (%s)", #call, got_, strerror(errno), strerror(error)); \
    } while (0)

/* Runs the tests once per engine, or with the one in UKTLS_ENGINE. */
int run_engines(const char *file, const struct CMUnitTest *tests, size_t count);
/* UKTLS_ENGINE_* that the tests run with now. */
extern int current_engine;
void use_engine(int engine);
const char *engine_name(int engine);

#define RUN_ENGINES(file, tests) run_engines(file, tests, sizeof(tests) / sizeof((tests)[0]))

/* Runs the tests once: nothing in them depends on the engine. */
int run_once(const char *file, const struct CMUnitTest *tests, size_t count);
#define RUN_ONCE(file, tests) run_once(file, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
