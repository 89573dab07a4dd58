/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The accelerator as an ENGINE, where libcrypto has them: "uktls-accelerator", with AES-128-GCM and AES-256-GCM.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "device.h"

#include <openssl/engine.h>
#include <openssl/objects.h>

static const int nids[] = {NID_aes_128_gcm, NID_aes_256_gcm};
static EVP_CIPHER *made[2];

static struct device_cipher *data_of(EVP_CIPHER_CTX *context)
{
    return EVP_CIPHER_CTX_get_cipher_data(context);
}

static int init(EVP_CIPHER_CTX *context, const unsigned char *key, const unsigned char *iv, int seal)
{
    struct device_cipher *c = data_of(context);
    const EVP_CIPHER *first = EVP_CIPHER_CTX_get0_cipher(c->context) ? NULL : c->cipher;
    return EVP_CipherInit_ex2(c->context, first, key, iv, seal, NULL);
}

/* Bytes written, or -1; additional data has no `out`, the end no `in`. */
static int work(EVP_CIPHER_CTX *context, unsigned char *out, const unsigned char *in, size_t len)
{
    struct device_cipher *c = data_of(context);
    unsigned char nothing[16];
    int n = 0;
    int done = !in    ? EVP_CipherFinal_ex(c->context, out ? out : nothing, &n)
               : !out ? EVP_CipherUpdate(c->context, NULL, &n, in, (int)len)
                      : device_update(c, out, &n, in, (int)len);
    return done ? n : -1;
}

static int control(EVP_CIPHER_CTX *context, int command, int value, void *pointer)
{
    struct device_cipher *c = data_of(context);
    switch (command) {
    case EVP_CTRL_INIT:
        return device_cipher_new(c, EVP_CIPHER_CTX_get_key_length(context) == 16 ? "AES-128-GCM" : "AES-256-GCM");
    case EVP_CTRL_AEAD_SET_IVLEN:
        return value == 12;
    case EVP_CTRL_GET_IVLEN:
        *(int *)pointer = 12;
        return 1;
    case EVP_CTRL_AEAD_GET_TAG:
    case EVP_CTRL_AEAD_SET_TAG:
        return EVP_CIPHER_CTX_ctrl(c->context, command, value, pointer);
    default:
        return -1;
    }
}

static int cleanup(EVP_CIPHER_CTX *context)
{
    struct device_cipher *c = data_of(context);
    if (c)
        device_cipher_free(c);
    return 1;
}

static EVP_CIPHER *make(int nid)
{
    EVP_CIPHER *cipher = EVP_CIPHER_meth_new(nid, 1, nid == NID_aes_128_gcm ? 16 : 32);
    unsigned long flags = EVP_CIPH_GCM_MODE | EVP_CIPH_FLAG_AEAD_CIPHER | EVP_CIPH_CUSTOM_IV | EVP_CIPH_FLAG_CUSTOM_CIPHER |
                          EVP_CIPH_ALWAYS_CALL_INIT | EVP_CIPH_CTRL_INIT | EVP_CIPH_CUSTOM_IV_LENGTH;
    if (cipher && EVP_CIPHER_meth_set_iv_length(cipher, 12) && EVP_CIPHER_meth_set_flags(cipher, flags) &&
        EVP_CIPHER_meth_set_init(cipher, init) && EVP_CIPHER_meth_set_do_cipher(cipher, work) &&
        EVP_CIPHER_meth_set_ctrl(cipher, control) && EVP_CIPHER_meth_set_cleanup(cipher, cleanup) &&
        EVP_CIPHER_meth_set_impl_ctx_size(cipher, sizeof(struct device_cipher)))
        return cipher;
    EVP_CIPHER_meth_free(cipher);
    return NULL;
}

static int ciphers(ENGINE *engine, const EVP_CIPHER **cipher, const int **known, int nid)
{
    (void)engine;
    if (!cipher) {
        *known = nids;
        return 2;
    }
    for (int i = 0; i < 2; i++)
        if (nids[i] == nid)
            return (*cipher = made[i] ? made[i] : (made[i] = make(nid))) != NULL;
    return 0;
}

static int bind(ENGINE *engine, const char *id)
{
    (void)id;
    return ENGINE_set_id(engine, "uktls-accelerator") && ENGINE_set_name(engine, "a slow accelerator for tests") &&
           ENGINE_set_ciphers(engine, ciphers);
}

IMPLEMENT_DYNAMIC_BIND_FN(bind)
IMPLEMENT_DYNAMIC_CHECK_FN()
