/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The stress: sockets are opened, get keys, are used and closed as fast as it goes, by several threads, while processes
 * fork, run programs and end in every way.
 *
 * A judge (judge.c) runs without the library. It has the other ends of the connections, opens every record with OpenSSL, and
 * compares each byte. A worker (worker.c, children.c) runs under the preload library or with the C library, round after
 * round, and says in shared memory what its calls have taken. */
#ifndef UKTLS_STRESS_H
#define UKTLS_STRESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "../campaign/cipher.h"

enum { SLOTS = 4096, BEATS = 16, PATIENCE_S = 60, LINGER_MS = 3000 };

/* How the judge reads. */
enum pace { FAST, LATE, TRICKLE, VANISHES, STUCK, PACES };

enum state { FREE, TAKEN, JUDGED };

/* What is known beforehand to happen to a connection, so that less than everything may arrive. */
enum excuse {
    /* A process that writes is killed, or ends beside a thread that writes: the call may have taken more than it could say. */
    IN_FLIGHT = 1,
    /* What a process has taken may be lost: it is killed. */
    LOST = 2,
    /* An end by reset is in order. */
    RESET = 4
};

/* One connection. */
struct slot {
    _Atomic int state;
    /* The worker is done with it: nobody calls anything by it any more. */
    _Atomic int released;
    uint64_t seed;
    int suite, pace;
    /* Bytes that the judge sends. */
    uint64_t to_receive;

    /* Whole sends come one after the other: robust, and shared by processes. */
    pthread_mutex_t turn;
    /* Plain bytes that calls have said they took, and those that have been offered. */
    _Atomic uint64_t accepted, offered;
    /* Key updates that have been sent. */
    _Atomic int updates;
    /* The last bytes, in a record that is still open. */
    _Atomic uint64_t open;
    _Atomic int excuses;
    /* The peer has gone, as it was to. */
    _Atomic int broken;

    pthread_mutex_t reading;
    _Atomic uint64_t received;
};

/* What an actor is at. */
struct beat {
    _Atomic int64_t since; /* seconds; 0: none is here */
    char step[40];
};

enum tally { CONNECTIONS, BYTES, RECEIVED, FORKS, KILLED, PROGRAMS, CUT, UPDATES, TALLIES };

struct shared {
    uint64_t seed;
    int port;
    /* The worker has to come to an end. */
    _Atomic int stops;
    /* Excuses of all connections that are there: the end of the worker is not an orderly one. */
    _Atomic int excuses;
    /* The worker lives no more. */
    _Atomic int is_over;
    _Atomic int faults;
    _Atomic int open;
    _Atomic uint64_t tallies[TALLIES];
    struct beat beats[BEATS];
    struct slot slots[SLOTS];
};

/* How a round ends. */
enum ending { RETURNS, EXITS, QUICKLY, IS_KILLED, ENDINGS };

/* Bytes `at` and on of the stream of `seed`. */
static inline void pattern(uint64_t seed, uint64_t at, unsigned char *out, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint64_t word = mix(seed + (at + i) / 8) >> 8 * ((at + i) % 8);
        for (size_t n = 8 - (at + i) % 8; n > 0 && i < len; n--, word >>= 8)
            out[i++] = (unsigned char)word;
    }
}

static inline uint64_t received_seed(const struct slot *slot)
{
    return slot->seed ^ 0x5555555555555555;
}

/* Keys of one direction; TLS 1.3 has new ones for each update. */
static inline struct keys keys_of(const struct slot *slot, bool of_judge, int updates)
{
    return make_keys(slot->suite, slot->seed * 4 + (of_judge ? 1 : 2) + (uint64_t)updates * 1000003);
}

/* What comes before the keys. */
struct hello {
    char magic[8];
    uint32_t slot;
    uint32_t zero;
};

#endif
