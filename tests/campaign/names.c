/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The names of the product, the cells that there cannot be, and the messages. */
#include "campaign.h"

#include <string.h>

const char *const how_names[HOW_COUNT] = {
    "connected", "accepted", "dup", "dup2-free", "dup2-plain", "dup2-file", "dup2-tls", "dup3", "F_DUPFD",
    "F_DUPFD_CLOEXEC", "rights-self", "rights-child", "pidfd-self", "pidfd-child", "syscall-dup", "syscall-dup2",
    "onto-stdout", "neighbours", "reused-tls", "reused-plain", "reused-range", "reused-syscall", "reused-dup", "churn",
    "churn-plain",
    "fork", "vfork", "exec", "spawn", "unshare", "raw-clone", "raw-clone-files",
};
const char *const when_names[WHEN_COUNT] = {"before",        "after",        "after-by-new",
                                             "other-process", "other-thread", "twice"};
const char *const forks_names[FORKS_COUNT] = {"none", "child", "both", "grandchild", "while-writing"};
const int thread_counts[THREADS_COUNT] = {1, THREADS_MAX};
const char *const plant_names[PLANT_COUNT] = {
    "none", "a plain message", "one plain byte", "a plain message dressed as a record",
    "other bytes under an old number", "a record repeated", "a number ahead", "a truncated record",
    "a record under another key", "a spoiled tag", "a message swallowed", "a message doubled", "a message altered",
    "a record of the wrong type", "a message sent and called refused", "two messages swapped",
    "a record under the next number beside the library's",
};

const char *impossible(const struct cell *c)
{
    int flags = functions[c->function].flags;
    bool churns = c->how == CHURN || c->how == CHURN_PLAIN;

    if (churns && c->when != BEFORE)
        return "the sockets that take turns under the number have their keys";
    if (churns && flags & (OWN_NUMBER | FREE_FORM))
        return "a copy of the number does not change with it, and what cannot be told apart cannot be followed";
    if (flags & HAS_THREADS && c->how == CHURN_PLAIN)
        return "a number by which the C library's threads may yet write is not put over (EBUSY)";
    if (flags & WIDE && c->how == CHURN_PLAIN && thread_counts[c->threads] > 1)
        return "a long message leaves a wide stream in pieces, between which others write";
    if (churns && c->forks != NO_FORK)
        return "the number changes in one table";
    if ((c->how == VFORKED || c->how == RAW_CLONE || c->how == RAW_CLONE_FILES) &&
        (c->threads > 0 || c->forks != NO_FORK))
        return "such a child makes no threads and no processes: the C library does not know of it";
    if (flags & LIBRARY && (c->how == DUP2_TLS || churns || (c->how >= REUSED_TLS && c->how <= REUSED_DUP)))
        return "with the C library a number is free when uktls_close has closed it";
    if (flags & LIBRARY && (c->how == VFORKED || c->how == EXECED || c->how == SPAWNED || c->how == NEIGHBOURS))
        return "the C library follows no vfork, exec and close_range";
    if (flags & LIBRARY && (c->how == RAW_CLONE || c->how == RAW_CLONE_FILES) && c->when == OTHER_THREAD)
        return "the C library sees no clone: its locks are in the child as other threads have left them";
    if (flags & OWN_NUMBER && c->how == VFORKED)
        return "the child of a vfork has its parent's streams, and numbers of its own";
    if (flags & LAZY && c->forks == FORK_WHILE_WRITING)
        return "what waits in a stream is in the child once more";
    if (flags & LAZY && (c->how == VFORKED || c->how == RAW_CLONE || c->how == RAW_CLONE_FILES))
        return "such a child ends by _exit, which writes no streams";
    if (flags & HAS_THREADS && c->forks == FORK_WHILE_WRITING)
        return "the C library's asynchronous I/O does not work in a child of who has used it";
    return NULL;
}

uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int digit(char c)
{
    const char *at = c ? memchr(digits, c, 64) : NULL;

    return at ? (int)(at - digits) : -1;
}

size_t message(char *out, uint64_t seed, int writer, unsigned counter, int function)
{
    static const char mark[] = "plaintext:";
    int flags = functions[function].flags;
    uint64_t x = mix(seed ^ (uint64_t)writer << 32 ^ counter);
    size_t len = HEAD + x % 150;

    if (x >> 20 & 1 && (x >> 21 & 15) == 0)
        len = HEAD + 1000 + x % 3000;
    if (flags & BIG)
        len = MESSAGE_MAX;
    if (flags & ONLY_HEAD)
        len = HEAD;
    out[0] = 'K';
    out[1] = flags & TYPED && writer != AUXILIARY ? 'H' : 'T';
    out[2] = digits[writer];
    out[3] = digits[counter >> 12 & 63];
    out[4] = digits[counter >> 6 & 63];
    out[5] = digits[counter & 63];
    out[6] = digits[len >> 6];
    out[7] = digits[len & 63];
    for (size_t i = HEAD; i < len; i++) {
        if ((i & 7) == 0)
            x = mix(x);
        out[i] = i - HEAD < sizeof mark - 1 ? mark[i - HEAD] : digits[x >> (i & 7) * 6 & 63];
    }
    return len;
}

size_t length_of(const char *head)
{
    return (size_t)(digit(head[6]) << 6 | digit(head[7]));
}

unsigned batch_of(int function)
{
    return functions[function].flags & BIG ? 5 : functions[function].flags & PAIR ? 2 : 1;
}

bool is_head(const char *at, size_t left)
{
    if (left < HEAD || at[0] != 'K' || (at[1] != 'T' && at[1] != 'H'))
        return false;
    for (int i = 2; i < HEAD; i++)
        if (digit(at[i]) < 0)
            return false;
    return true;
}

uint64_t connection_seed(const struct shared *shared, int connection)
{
    return mix(shared->seed + (uint64_t)connection + 1);
}

/* So many that there are at least a hundred records, also where half of them go elsewhere. */
unsigned messages_of(const struct cell *cell)
{
    int flags = functions[cell->function].flags;
    bool alone = thread_counts[cell->threads] == 1;

    if (cell->how == CHURN_PLAIN)
        return flags & BIG ? (alone ? 1000 : 250) : (alone ? 504 : 126);
    if (flags & BIG)
        return alone ? 300 : 75;
    if (flags & PAIR)
        return alone ? 208 : 56;
    return alone ? 104 : 28;
}
