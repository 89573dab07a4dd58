/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The accelerator as a provider of OpenSSL 3: AES-128-GCM and AES-256-GCM with the property
 * "provider=uktls-accelerator". Additional data and tags pass by the device, text goes through it.
 */
#include "device.h"

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/params.h>
#include <stdlib.h>

struct cipher {
    struct device_cipher device;
    size_t key_len;
};

static void *cipher_new(size_t key_len)
{
    struct cipher *c = calloc(1, sizeof *c);
    if (c && !device_cipher_new(&c->device, key_len == 16 ? "AES-128-GCM" : "AES-256-GCM")) {
        device_cipher_free(&c->device);
        free(c);
        return NULL;
    }
    if (c)
        c->key_len = key_len;
    return c;
}

static void *new_128(void *provider)
{
    (void)provider;
    return cipher_new(16);
}

static void *new_256(void *provider)
{
    (void)provider;
    return cipher_new(32);
}

static void cipher_free(void *context)
{
    struct cipher *c = context;
    device_cipher_free(&c->device);
    free(c);
}

static int init(struct cipher *c, const unsigned char *key, const unsigned char *iv, const OSSL_PARAM params[], int seal)
{
    const EVP_CIPHER *first = EVP_CIPHER_CTX_get0_cipher(c->device.context) ? NULL : c->device.cipher;
    return EVP_CipherInit_ex2(c->device.context, first, key, iv, seal, params);
}

static int encrypt_init(void *context, const unsigned char *key, size_t key_len, const unsigned char *iv, size_t iv_len,
                        const OSSL_PARAM params[])
{
    (void)key_len, (void)iv_len;
    return init(context, key, iv, params, 1);
}

static int decrypt_init(void *context, const unsigned char *key, size_t key_len, const unsigned char *iv, size_t iv_len,
                        const OSSL_PARAM params[])
{
    (void)key_len, (void)iv_len;
    return init(context, key, iv, params, 0);
}

static int update(void *context, unsigned char *out, size_t *written, size_t room, const unsigned char *in, size_t len)
{
    struct cipher *c = context;
    int n = 0;
    if (out && room < len)
        return 0;
    int done = out ? device_update(&c->device, out, &n, in, (int)len)
                   : EVP_CipherUpdate(c->device.context, NULL, &n, in, (int)len);
    *written = (size_t)n;
    return done;
}

static int final(void *context, unsigned char *out, size_t *written, size_t room)
{
    struct cipher *c = context;
    int n = 0;
    (void)room;
    int done = EVP_CipherFinal_ex(c->device.context, out, &n);
    *written = (size_t)n;
    return done;
}

static int get_params(OSSL_PARAM params[], size_t key_len)
{
    OSSL_PARAM *p;
    return (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_MODE)) || OSSL_PARAM_set_uint(p, EVP_CIPH_GCM_MODE)) &&
           (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_KEYLEN)) || OSSL_PARAM_set_size_t(p, key_len)) &&
           (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_IVLEN)) || OSSL_PARAM_set_size_t(p, 12)) &&
           (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_BLOCK_SIZE)) || OSSL_PARAM_set_size_t(p, 1)) &&
           (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_AEAD)) || OSSL_PARAM_set_int(p, 1)) &&
           (!(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_CUSTOM_IV)) || OSSL_PARAM_set_int(p, 1));
}

static int get_params_128(OSSL_PARAM params[])
{
    return get_params(params, 16);
}

static int get_params_256(OSSL_PARAM params[])
{
    return get_params(params, 32);
}

static int get_ctx_params(void *context, OSSL_PARAM params[])
{
    struct cipher *c = context;
    OSSL_PARAM *p;
    if ((p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_KEYLEN)) && !OSSL_PARAM_set_size_t(p, c->key_len))
        return 0;
    if ((p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_AEAD_TAGLEN)) && !OSSL_PARAM_set_size_t(p, 16))
        return 0;
    /* Before there is a key, only the lengths are known. */
    if (!EVP_CIPHER_CTX_get0_cipher(c->device.context))
        return !(p = OSSL_PARAM_locate(params, OSSL_CIPHER_PARAM_IVLEN)) || OSSL_PARAM_set_size_t(p, 12);
    return EVP_CIPHER_CTX_get_params(c->device.context, params);
}

static int set_ctx_params(void *context, const OSSL_PARAM params[])
{
    struct cipher *c = context;
    if (!EVP_CIPHER_CTX_get0_cipher(c->device.context) && !init(c, NULL, NULL, NULL, -1))
        return 0;
    return EVP_CIPHER_CTX_set_params(c->device.context, params);
}

static const OSSL_PARAM *gettable(void *context, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL), OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TAGLEN, NULL), OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_END,
    };
    (void)context, (void)provider;
    return known;
}

static const OSSL_PARAM *settable(void *context, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_IVLEN, NULL), OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_END,
    };
    (void)context, (void)provider;
    return known;
}

typedef void (*function)(void);

#define CIPHER(bits)                                                                                                   \
    static const OSSL_DISPATCH aes_##bits##_gcm[] = {                                                                  \
        {OSSL_FUNC_CIPHER_NEWCTX, (function)new_##bits},                                                               \
        {OSSL_FUNC_CIPHER_FREECTX, (function)cipher_free},                                                             \
        {OSSL_FUNC_CIPHER_ENCRYPT_INIT, (function)encrypt_init},                                                       \
        {OSSL_FUNC_CIPHER_DECRYPT_INIT, (function)decrypt_init},                                                       \
        {OSSL_FUNC_CIPHER_UPDATE, (function)update},                                                                   \
        {OSSL_FUNC_CIPHER_FINAL, (function)final},                                                                     \
        {OSSL_FUNC_CIPHER_GET_PARAMS, (function)get_params_##bits},                                                    \
        {OSSL_FUNC_CIPHER_GET_CTX_PARAMS, (function)get_ctx_params},                                                   \
        {OSSL_FUNC_CIPHER_SET_CTX_PARAMS, (function)set_ctx_params},                                                   \
        {OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, (function)gettable},                                                    \
        {OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, (function)settable},                                                    \
        {0, NULL},                                                                                                     \
    }
CIPHER(128);
CIPHER(256);

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
    static const OSSL_ALGORITHM ciphers[] = {
        {"AES-128-GCM:id-aes128-GCM", "provider=uktls-accelerator", aes_128_gcm, NULL},
        {"AES-256-GCM:id-aes256-GCM", "provider=uktls-accelerator", aes_256_gcm, NULL},
        {NULL, NULL, NULL, NULL},
    };
    (void)provider;
    *no_cache = 0;
    return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

int OSSL_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **provider);
int OSSL_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **provider)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (function)query},
        {0, NULL},
    };
    (void)in;
    *provider = (void *)core;
    *out = functions;
    return 1;
}
