/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Records, sealed and opened by OpenSSL alone. OpenSSL 3.0 has the block cipher SM4 but none of its AEADs: GCM and
 * CCM are built on it here. */
#include "cipher.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct suite suites[] = {
    {0x0303, 51, "1.2 AES-128-GCM", 8, 16, 4},  {0x0304, 51, "1.3 AES-128-GCM", 8, 16, 4},
    {0x0303, 52, "1.2 AES-256-GCM", 8, 32, 4},  {0x0304, 52, "1.3 AES-256-GCM", 8, 32, 4},
    {0x0303, 53, "1.2 AES-128-CCM", 8, 16, 4},  {0x0304, 53, "1.3 AES-128-CCM", 8, 16, 4},
    {0x0303, 54, "1.2 ChaCha20", 12, 32, 0},    {0x0304, 54, "1.3 ChaCha20", 12, 32, 0},
    {0x0303, 55, "1.2 SM4-GCM", 8, 16, 4},      {0x0304, 55, "1.3 SM4-GCM", 8, 16, 4},
    {0x0303, 56, "1.2 SM4-CCM", 8, 16, 4},      {0x0304, 56, "1.3 SM4-CCM", 8, 16, 4},
    {0x0303, 57, "1.2 ARIA-128-GCM", 8, 16, 4}, {0x0303, 58, "1.2 ARIA-256-GCM", 8, 32, 4},
};
const int suite_count = sizeof suites / sizeof *suites;

enum { TAG = 16, CONTENT_MAX = 16384 };

static void put64(unsigned char *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (unsigned char)value;
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

struct keys make_keys(int index, uint64_t seed)
{
    const struct suite *suite = &suites[index];
    struct keys keys = {.suite = suite};
    unsigned char *at = keys.info + 4;

    memcpy(keys.info, &suite->version, 2);
    memcpy(keys.info + 2, &suite->cipher, 2);
    for (size_t i = 0; i < suite->iv + suite->key + suite->salt; i++)
        *at++ = (unsigned char)mix(seed + i * 0x9e3779b97f4a7c15);
    /* The number of the first record: 0. */
    at += 8;
    keys.len = (size_t)(at - keys.info);
    return keys;
}

size_t explicit_nonce_len(const struct suite *suite)
{
    return suite->version == 0x0303 && suite->cipher != 54 ? 8 : 0;
}

bool header_is_possible(const struct suite *suite, const unsigned char head[5])
{
    size_t len = (size_t)head[3] << 8 | head[4], least = explicit_nonce_len(suite) + TAG;
    bool tls13 = suite->version == 0x0304;

    return head[1] == 3 && head[2] == 3 && (tls13 ? head[0] == 23 : head[0] >= 20 && head[0] <= 23) &&
           len >= least + tls13 && len <= least + tls13 + CONTENT_MAX;
}

/* Returns the length of the additional data. */
static int inputs(const struct keys *keys, uint64_t number, const unsigned char *record, size_t content,
                  unsigned char nonce[12], unsigned char aad[13])
{
    const struct suite *suite = keys->suite;
    const unsigned char *salt = keys->info + 4 + suite->iv + suite->key;

    if (explicit_nonce_len(suite)) {
        memcpy(nonce, salt, 4);
        memcpy(nonce + 4, record + 5, 8);
    } else {
        memcpy(nonce, salt, suite->salt);
        memcpy(nonce + suite->salt, keys->info + 4, suite->iv);
        put64(nonce + 4, get64(nonce + 4) ^ number);
    }
    if (suite->version == 0x0304) {
        memcpy(aad, record, 5);
        return 5;
    }
    put64(aad, number);
    memcpy(aad + 8, record, 3);
    aad[11] = (unsigned char)(content >> 8);
    aad[12] = (unsigned char)content;
    return 13;
}

static const EVP_CIPHER *evp_of(const struct suite *suite)
{
    switch (suite->cipher) {
    case 51: return EVP_aes_128_gcm();
    case 52: return EVP_aes_256_gcm();
    case 53: return EVP_aes_128_ccm();
    case 54: return EVP_chacha20_poly1305();
    case 57: return EVP_aria_128_gcm();
    case 58: return EVP_aria_256_gcm();
    default: return NULL;
    }
}

static void must(bool good)
{
    if (!good) {
        fputs("OpenSSL fails\n", stderr);
        abort();
    }
}

static bool by_evp(const struct keys *keys, bool seals, const unsigned char nonce[12], const unsigned char *aad,
                   int aad_len, const unsigned char *in, size_t len, unsigned char *out, unsigned char tag[TAG])
{
    const struct suite *suite = keys->suite;
    const unsigned char *key = keys->info + 4 + suite->iv;
    bool ccm = suite->cipher == 53, good;
    int n = 0, more = 0;
    /* One for each thread of a process; it is set anew for each record. */
    static __thread EVP_CIPHER_CTX *ctx;

    if (ctx == NULL)
        must((ctx = EVP_CIPHER_CTX_new()) != NULL);
    must(EVP_CIPHER_CTX_reset(ctx) == 1 && EVP_CipherInit_ex(ctx, evp_of(suite), NULL, NULL, NULL, seals) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL) == 1);
    if (!seals || ccm)
        must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, seals ? NULL : tag) == 1);
    must(EVP_CipherInit_ex(ctx, NULL, NULL, key, nonce, seals) == 1);
    if (ccm)
        must(EVP_CipherUpdate(ctx, NULL, &n, NULL, (int)len) == 1);
    must(EVP_CipherUpdate(ctx, NULL, &n, aad, aad_len) == 1);
    n = 0;
    good = (len == 0 && !ccm) || EVP_CipherUpdate(ctx, out, &n, in, (int)len) == 1;
    if (good && (seals || !ccm))
        good = EVP_CipherFinal_ex(ctx, out + n, &more) == 1;
    if (seals)
        must(good && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1);
    return good;
}

/* --- SM4 ---------------------------------------------------------------------------------------- */

static void block(EVP_CIPHER_CTX *ctx, const unsigned char in[16], unsigned char out[16])
{
    int n;

    must(EVP_EncryptUpdate(ctx, out, &n, in, 16) == 1 && n == 16);
}

static void count(EVP_CIPHER_CTX *ctx, unsigned char counter[16], size_t bytes, const unsigned char *in, size_t len,
                  unsigned char *out)
{
    unsigned char stream[16];

    for (size_t at = 0; at < len; at++) {
        if (at % 16 == 0) {
            for (size_t i = 16; i > 16 - bytes && ++counter[i - 1] == 0; i--)
                ;
            block(ctx, counter, stream);
        }
        out[at] = in[at] ^ stream[at % 16];
    }
}

struct hash {
    uint64_t high, low, key_high, key_low;
};

static void hash_block(struct hash *h, const unsigned char *data, size_t len)
{
    unsigned char padded[16] = {0};
    uint64_t v_high = h->key_high, v_low = h->key_low, high = 0, low = 0;

    memcpy(padded, data, len);
    h->high ^= get64(padded);
    h->low ^= get64(padded + 8);
    for (int i = 0; i < 128; i++) {
        uint64_t bit = (i < 64 ? h->high >> (63 - i) : h->low >> (127 - i)) & 1, carry = v_low & 1;

        high ^= v_high & -bit;
        low ^= v_low & -bit;
        v_low = v_low >> 1 | v_high << 63;
        v_high = v_high >> 1 ^ (0xe100000000000000 & -carry);
    }
    h->high = high;
    h->low = low;
}

static void hash_all(struct hash *h, const unsigned char *data, size_t len)
{
    for (size_t at = 0; at < len; at += 16)
        hash_block(h, data + at, len - at < 16 ? len - at : 16);
}

static void gcm_tag(EVP_CIPHER_CTX *ctx, const unsigned char nonce[12], const unsigned char *aad, size_t aad_len,
                    const unsigned char *sealed, size_t len, unsigned char tag[TAG])
{
    unsigned char zero[16] = {0}, first[16] = {0}, lengths[16];
    struct hash h = {0};

    block(ctx, zero, zero);
    h.key_high = get64(zero);
    h.key_low = get64(zero + 8);
    hash_all(&h, aad, aad_len);
    hash_all(&h, sealed, len);
    put64(lengths, aad_len * 8);
    put64(lengths + 8, len * 8);
    hash_block(&h, lengths, 16);
    memcpy(first, nonce, 12);
    first[15] = 1;
    block(ctx, first, first);
    put64(tag, h.high);
    put64(tag + 8, h.low);
    for (int i = 0; i < TAG; i++)
        tag[i] ^= first[i];
}

static void chain(EVP_CIPHER_CTX *ctx, unsigned char state[16], const unsigned char *data, size_t len, size_t at)
{
    for (size_t i = 0; i < len; i++) {
        state[at++] ^= data[i];
        if (at == 16 || i + 1 == len) {
            block(ctx, state, state);
            at = 0;
        }
    }
}

/* CCM with a length of three bytes and a tag of sixteen. */
static void ccm_tag(EVP_CIPHER_CTX *ctx, const unsigned char nonce[12], const unsigned char *aad, size_t aad_len,
                    const unsigned char *plain, size_t len, unsigned char tag[TAG])
{
    unsigned char state[16] = {0x40 | 7 << 3 | 2}, first[16] = {2};

    memcpy(state + 1, nonce, 12);
    state[13] = (unsigned char)(len >> 16);
    state[14] = (unsigned char)(len >> 8);
    state[15] = (unsigned char)len;
    block(ctx, state, state);
    state[1] ^= (unsigned char)aad_len;
    chain(ctx, state, aad, aad_len, 2);
    chain(ctx, state, plain, len, 0);
    memcpy(first + 1, nonce, 12);
    block(ctx, first, first);
    for (int i = 0; i < TAG; i++)
        tag[i] = state[i] ^ first[i];
}

static bool by_block(const struct keys *keys, bool seals, const unsigned char nonce[12], const unsigned char *aad,
                     int aad_len, const unsigned char *in, size_t len, unsigned char *out, unsigned char tag[TAG])
{
    static __thread EVP_CIPHER_CTX *ctx;
    unsigned char counter[16] = {0}, found[TAG];
    bool gcm = keys->suite->cipher == 55;

    if (ctx == NULL)
        must((ctx = EVP_CIPHER_CTX_new()) != NULL);
    must(EVP_EncryptInit_ex(ctx, EVP_sm4_ecb(), NULL, keys->info + 4 + keys->suite->iv, NULL) == 1 &&
         EVP_CIPHER_CTX_set_padding(ctx, 0) == 1);
    if (gcm) {
        memcpy(counter, nonce, 12);
        counter[15] = 1;
        if (!seals)
            gcm_tag(ctx, nonce, aad, (size_t)aad_len, in, len, found);
        count(ctx, counter, 4, in, len, out);
        if (seals)
            gcm_tag(ctx, nonce, aad, (size_t)aad_len, out, len, found);
    } else {
        counter[0] = 2;
        memcpy(counter + 1, nonce, 12);
        count(ctx, counter, 3, in, len, out);
        ccm_tag(ctx, nonce, aad, (size_t)aad_len, seals ? in : out, len, found);
    }
    if (seals)
        memcpy(tag, found, TAG);
    return memcmp(tag, found, TAG) == 0;
}

static bool crypt(const struct keys *keys, bool seals, const unsigned char nonce[12], const unsigned char *aad,
                  int aad_len, const unsigned char *in, size_t len, unsigned char *out, unsigned char tag[TAG])
{
    return (evp_of(keys->suite) ? by_evp : by_block)(keys, seals, nonce, aad, aad_len, in, len, out, tag);
}

ssize_t open_record(const struct keys *keys, uint64_t number, const unsigned char *record, size_t len,
                    unsigned char *out, int *type)
{
    size_t nonce_len = explicit_nonce_len(keys->suite), inner = len - 5 - nonce_len - TAG;
    unsigned char nonce[12], aad[13], tag[TAG];
    int aad_len = inputs(keys, number, record, inner, nonce, aad);

    memcpy(tag, record + len - TAG, TAG);
    if (!crypt(keys, false, nonce, aad, aad_len, record + 5 + nonce_len, inner, out, tag))
        return -1;
    *type = record[0];
    if (keys->suite->version == 0x0304) {
        while (inner > 0 && out[inner - 1] == 0)
            inner--;
        if (inner == 0)
            return -1;
        *type = out[--inner];
    }
    return (ssize_t)inner;
}

size_t seal_record(const struct keys *keys, uint64_t number, int type, const void *content, size_t len,
                   unsigned char *out)
{
    const struct suite *suite = keys->suite;
    bool tls13 = suite->version == 0x0304;
    size_t nonce_len = explicit_nonce_len(suite), inner = len + tls13, field = nonce_len + inner + TAG;
    unsigned char nonce[12], aad[13], plain[CONTENT_MAX + 1];

    memcpy(plain, content, len);
    if (tls13)
        plain[len] = (unsigned char)type;
    out[0] = (unsigned char)(tls13 ? 23 : type);
    out[1] = out[2] = 3;
    out[3] = (unsigned char)(field >> 8);
    out[4] = (unsigned char)field;
    if (nonce_len)
        put64(out + 5, get64(keys->info + 4) + number);
    int aad_len = inputs(keys, number, out, inner, nonce, aad);
    crypt(keys, true, nonce, aad, aad_len, plain, inner, out + 5 + nonce_len, out + 5 + nonce_len + inner);
    return 5 + field;
}
