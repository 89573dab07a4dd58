/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Records, sealed and opened by OpenSSL alone: for programs that judge what the library has put on the wire. */
#ifndef UKTLS_TEST_CIPHER_H
#define UKTLS_TEST_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Keys are made from it; the program that links cipher.c defines it. */
uint64_t mix(uint64_t x);

struct suite {
    uint16_t version, cipher;
    const char *name;
    size_t iv, key, salt;
};
extern const struct suite suites[];
extern const int suite_count;

struct keys {
    const struct suite *suite;
    unsigned char info[64]; /* struct tls12_crypto_info_* */
    size_t len;
};
struct keys make_keys(int suite, uint64_t seed);
/* Opens one record as number `number` into `out`. Returns the length of the content, -1 if it does not open. */
ssize_t open_record(const struct keys *keys, uint64_t number, const unsigned char *record, size_t len,
                    unsigned char *out, int *type);
/* Returns the length of the record. */
size_t seal_record(const struct keys *keys, uint64_t number, int type, const void *content, size_t len,
                   unsigned char *out);
size_t explicit_nonce_len(const struct suite *suite);
/* The least and the most that the length field of a header can say. */
bool header_is_possible(const struct suite *suite, const unsigned char head[5]);

#endif
