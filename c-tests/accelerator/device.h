/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A crypto accelerator that is none: it takes as long as it is told to, works on as many operations at a time
 * as it has lanes, finishes them out of order, fails and loses some. What it computes is real: AES-GCM by
 * libcrypto.
 *
 * UKTLS_ACCELERATOR is a list of NAME=VALUE, separated by commas:
 *   latency_us=100   of one operation
 *   jitter_us=0      more or less than that
 *   lanes=4          operations at a time
 *   depth=1024       operations that wait and are at work; more than that are asked to come again
 *   fail=0           of 1,000,000 operations
 *   lose=0           of 1,000,000 operations: they never finish
 *   gone_after=0     operations after which all fail (0: never)
 *   async=1          0: does not know of async jobs, and keeps its caller waiting
 *   notify=callback  or fd: how a paused job is told, if the caller has set a callback
 *   thread=1         0: none of its own, the caller waits for each operation
 *   log=PATH         a line at the end: operations, the most at a time
 */
#ifndef UKTLS_TEST_DEVICE_H
#define UKTLS_TEST_DEVICE_H

#include <openssl/evp.h>
#include <stddef.h>

/* One AES-GCM key at work: a context of libcrypto, and what is new about it. */
struct device_cipher {
    EVP_CIPHER_CTX *context;
    const EVP_CIPHER *cipher;
};

/* 1, or 0. `name` as libcrypto knows it. */
int device_cipher_new(struct device_cipher *c, const char *name);
void device_cipher_free(struct device_cipher *c);

/* EVP_CipherUpdate on the device, and by the async job that the caller is in. Returns 1, or 0. */
int device_update(struct device_cipher *c, unsigned char *out, int *written, const unsigned char *in, int len);

#endif
