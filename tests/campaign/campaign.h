/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The campaign: every way by which bytes can reach a TLS socket, and what of it is seen on the wire.
 *
 * One program with two parts. The driver (driver.h) runs without the library; it has the other ends of the connections,
 * opens every record with OpenSSL and accounts for every message. A worker runs under the preload library, or with the C
 * library, one process for each cell of the product (function x how the number came x when the keys come x threads x
 * fork), and says in shared memory what its calls have returned. */
#ifndef UKTLS_CAMPAIGN_H
#define UKTLS_CAMPAIGN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "cipher.h"

/* --- the product ----------------------------------------------------------------------------- */

/* How the number of a writer came. From FORKED on the writers are in another process or descriptor table. */
enum how {
    CONNECTED, ACCEPTED, DUP, DUP2_FREE, DUP2_PLAIN, DUP2_FILE, DUP2_TLS, DUP3, F_DUP, F_DUP_CLOEXEC, RIGHTS_SELF,
    RIGHTS_CHILD, PIDFD_SELF, PIDFD_CHILD, SYSCALL_DUP, SYSCALL_DUP2, ONTO_STDOUT, NEIGHBOURS, REUSED_TLS,
    REUSED_PLAIN, REUSED_RANGE, REUSED_SYSCALL, REUSED_DUP, CHURN, CHURN_PLAIN, FORKED, VFORKED, EXECED, SPAWNED,
    UNSHARED, RAW_CLONE, RAW_CLONE_FILES, HOW_COUNT
};

/* When the keys come, seen from the making of the numbers. */
enum when { BEFORE, AFTER, AFTER_BY_NEW, OTHER_PROCESS, OTHER_THREAD, TWICE, WHEN_COUNT };

enum { THREADS_COUNT = 2, THREADS_MAX = 4 };

enum forks { NO_FORK, CHILD, BOTH, GRANDCHILD, FORK_WHILE_WRITING, FORKS_COUNT };

extern const char *const how_names[HOW_COUNT], *const when_names[WHEN_COUNT], *const forks_names[FORKS_COUNT];
extern const int thread_counts[THREADS_COUNT];

struct cell {
    int function, how, when, threads, forks;
};

/* Why there is no such cell; NULL if there is. */
const char *impossible(const struct cell *cell);

/* --- messages --------------------------------------------------------------------------------- */

/* What is sent is text: "KT", the writer, three digits of counter, two of length, then a body that only the writer
 * and the counter decide. So each message is known wherever it turns up. "KH": in a record of another type. */
enum { HEAD = 8, MESSAGE_MAX = 4095, MESSAGES_MAX = 1024, WRITERS_MAX = 64, AUXILIARY = 62 };

size_t message(char *out, uint64_t seed, int writer, unsigned counter, int function);
/* Whether `at` looks like the head of one; `left` bytes are there. */
bool is_head(const char *at, size_t left);
int digit(char c);
/* What the head says. */
size_t length_of(const char *head);
/* How many messages a call is given. */
unsigned batch_of(int function);

/* --- functions -------------------------------------------------------------------------------- */

struct writer {
    int fd, id;
    FILE *file;
    int pipe[2], memory;
    off_t offset;
};

enum {
    ONLY_HEAD = 1,   /* writes eight bytes at a time */
    FREE_FORM = 2,   /* what is written is not ours to choose */
    BIG = 4,         /* five messages in one call, more than a record takes */
    TYPED = 8,       /* records of type 22 */
    PAIR = 16,       /* two messages at a time, each as bytes of its own */
    OWN_NUMBER = 32, /* writes by a number of its own, made when it is prepared */
    STREAM = 64,     /* keeps a buffer in the process */
    HAS_THREADS = 128, /* of the C library, which do not outlive a fork */
    LAZY = 256,      /* the last message waits in a stream for the end of the process */
    WIDE = 1024,     /* in pieces, where a message is longer than the buffer */
    LIBRARY = 512    /* a call of the C library uktls, in a process without the preload library */
};

struct function {
    const char *name;
    int flags;
    /* Done as soon as the number is there, before the keys if the number is. */
    bool (*prepare)(struct writer *);
    /* Returns the bytes taken, or -1 with errno: then none was. */
    ssize_t (*write)(struct writer *, const char *data, size_t len);
};
extern const struct function functions[];
extern const int function_count;
extern const char *plugin_path;

/* The calls of uktls.h, where the cell is one of the C library. */
struct iovec;
struct msghdr;
extern struct uktls {
    int (*tls_tx_init)(int fd, const void *crypto_info, size_t len);
    ptrdiff_t (*tls_send)(int fd, const void *data, size_t len, int flags);
    ptrdiff_t (*tls_sendmsg)(int fd, const struct msghdr *msg, int flags);
    ptrdiff_t (*tls_sendpage)(int fd, const void *page, size_t offset, size_t size, int flags);
    ptrdiff_t (*tls_sendfile)(int fd, int in_fd, off_t *offset, size_t count);
    ptrdiff_t (*tls_splice)(int in, off_t *off_in, int out, off_t *off_out, size_t len, unsigned flags);
    int (*uktls_flush)(int fd, int timeout_ms);
    int (*uktls_close)(int fd);
} uktls;
bool load_library(const char *path);

void start_writer(struct writer *writer);

/* --- what driver and worker share -------------------------------------------------------------- */

enum { NOT_TRIED, TRYING, TAKEN, REFUSED };
enum { KEYS_SET = 1, KEYS_DECLINED = 2 };
enum { CONNECTIONS_MAX = 32, SHARED_FD = 700 };

enum plant {
    NO_PLANT, PLAIN_MESSAGE, PLAIN_BYTE, DRESSED, OLD_NUMBER, REPEAT, AHEAD, TRUNCATED, WRONG_KEY, SPOILED_TAG,
    SWALLOWED, DOUBLED, ALTERED, WRONG_TYPE, SENT_AND_REFUSED, SWAPPED, NEXT_NUMBER, PLANT_COUNT
};
extern const char *const plant_names[PLANT_COUNT];

struct shared {
    /* Set by the driver. */
    struct cell cell;
    int suite, port;
    uint64_t seed;
    int plant, plant_writer;
    unsigned plant_counter;
    /* Set by the worker and its children. */
    _Atomic int go, made, keys_errno, number_errno, connections, main_connection, auxiliaries, forks_begun, step;
    _Atomic int complained;
    char complaint[160];
    struct {
        _Atomic int first_errno;
        _Atomic unsigned char state[MESSAGES_MAX];
    } writers[WRITERS_MAX];
};

uint64_t connection_seed(const struct shared *shared, int connection);
unsigned messages_of(const struct cell *cell);

void plant_now(struct shared *shared, struct writer *writer, unsigned counter);

int worker_main(int argc, char **argv);

/* --- calls by the instruction, which no library sees ------------------------------------------- */

static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "no raw system call for this machine"
#endif
}

#endif
