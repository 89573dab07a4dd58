/* uktls_tls13.h: receive TLS 1.3 through uktls with any OpenSSL 3.
 *
 * OpenSSL 3.0 and 3.1 never hand over the receiving keys of TLS 1.3. A server gets them by the key log:
 *
 *     uktls_tls13_setup(ctx);                 once per SSL_CTX
 *     ...SSL_accept(ssl) == 1...
 *     if (uktls_tls13_receive(ssl, fd))       from now on tls_recvmsg(fd, ...), and no SSL_read() any more
 *
 * When a record of type 22 (handshake) comes, give it to uktls_tls13_handshake(): a peer may change its keys at
 * any time, and receiving goes on (it would fail with EKEYEXPIRED) when the next ones are set. A peer that also
 * asks us to change ours is not answered.
 *
 * For servers: a client's incoming secret is SERVER_TRAFFIC_SECRET_0. C99; needs uktls_openssl.h.
 */
#ifndef UKTLS_TLS13_H
#define UKTLS_TLS13_H

#include <stdlib.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "uktls_openssl.h"

struct uktls_tls13_secret {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    size_t len;
};

static inline void uktls_tls13_forget(void *parent, void *secret, CRYPTO_EX_DATA *data, int index, long argl,
                                      void *argp)
{
    (void)parent, (void)data, (void)index, (void)argl, (void)argp;
    OPENSSL_clear_free(secret, secret != NULL ? sizeof(struct uktls_tls13_secret) : 0);
}

static inline int uktls_tls13_index(void)
{
    /* The first call is uktls_tls13_setup()'s, before there are connections. */
    static int index = -1;

    if (index < 0)
        index = SSL_get_ex_new_index(0, NULL, NULL, NULL, uktls_tls13_forget);
    return index;
}

/* "CLIENT_TRAFFIC_SECRET_0 <client random> <secret>", in hex. */
static inline void uktls_tls13_keylog(const SSL *ssl, const char *line)
{
    static const char label[] = "CLIENT_TRAFFIC_SECRET_0 ";
    struct uktls_tls13_secret *secret;
    const char *hex = strrchr(line, ' ');

    if (strncmp(line, label, sizeof(label) - 1) != 0 || hex == NULL)
        return;
    secret = (struct uktls_tls13_secret *)OPENSSL_zalloc(sizeof(*secret));
    if (secret == NULL)
        return;
    if (!OPENSSL_hexstr2buf_ex(secret->bytes, sizeof(secret->bytes), &secret->len, hex + 1, '\0')
        || !SSL_set_ex_data((SSL *)ssl, uktls_tls13_index(), secret))
        OPENSSL_clear_free(secret, sizeof(*secret));
}

static inline void uktls_tls13_setup(SSL_CTX *ctx)
{
    uktls_tls13_index();
    SSL_CTX_set_keylog_callback(ctx, uktls_tls13_keylog);
}

/* HKDF-Expand-Label of RFC 8446 section 7.1, without a context. */
static inline int uktls_tls13_expand(const EVP_MD *md, const struct uktls_tls13_secret *secret, const char *label,
                                     unsigned char *out, size_t len)
{
    unsigned char info[2 + 1 + 32 + 1];
    size_t label_len = strlen(label), n = 0;
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM params[5];
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, done = 0;

    info[n++] = (unsigned char)(len >> 8);
    info[n++] = (unsigned char)len;
    info[n++] = (unsigned char)(6 + label_len);
    memcpy(info + n, "tls13 ", 6);
    memcpy(info + n + 6, label, label_len);
    n += 6 + label_len;
    info[n++] = 0;
    if (ctx != NULL) {
        params[0] = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
        params[1] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)EVP_MD_get0_name(md), 0);
        params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret->bytes, secret->len);
        params[3] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, n);
        params[4] = OSSL_PARAM_construct_end();
        done = EVP_KDF_derive(ctx, out, len, params) > 0;
    }
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return done;
}

/* Sets the keys that follow from the secret, for the first record under them. */
static inline int uktls_tls13_set_keys(const SSL *ssl, int fd, const struct uktls_tls13_secret *secret)
{
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    const EVP_MD *md = SSL_CIPHER_get_handshake_digest(cipher);
    union uktls_crypto_info info;
    unsigned char iv[12];
    size_t len;
    int done = uktls_tls13_expand(md, secret, "iv", iv, sizeof(iv));

    memset(&info, 0, sizeof(info));
    info.info.version = TLS_1_3_VERSION;
    /* Salt and iv together are the twelve bytes. */
#define UKTLS_TLS13_FILL(member, cipher_type_)                                                                  \
    info.info.cipher_type = cipher_type_;                                                                       \
    len = sizeof(info.member);                                                                                  \
    memcpy(info.member.salt, iv, sizeof(info.member.salt));                                                     \
    memcpy(info.member.iv, iv + sizeof(info.member.salt), sizeof(info.member.iv));                              \
    done = done && uktls_tls13_expand(md, secret, "key", info.member.key, sizeof(info.member.key))
    switch (SSL_CIPHER_get_protocol_id(cipher)) {
    case 0x1301: UKTLS_TLS13_FILL(gcm128, TLS_CIPHER_AES_GCM_128); break;
    case 0x1302: UKTLS_TLS13_FILL(gcm256, TLS_CIPHER_AES_GCM_256); break;
    case 0x1304: UKTLS_TLS13_FILL(ccm128, TLS_CIPHER_AES_CCM_128); break;
    case 0x1303:
        /* Its salt is empty. */
        info.info.cipher_type = TLS_CIPHER_CHACHA20_POLY1305;
        len = sizeof(info.chacha20);
        memcpy(info.chacha20.iv, iv, sizeof(iv));
        done = done && uktls_tls13_expand(md, secret, "key", info.chacha20.key, sizeof(info.chacha20.key));
        break;
    default: return 0;
    }
#undef UKTLS_TLS13_FILL
    done = done && tls_rx_init(fd, &info, len) == 0;
    OPENSSL_cleanse(&info, sizeof(info));
    OPENSSL_cleanse(iv, sizeof(iv));
    return done;
}

/* After SSL_accept(), before the first SSL_read(): 1 if uktls receives on `fd` from now on, 0 if OpenSSL goes on. */
static inline int uktls_tls13_receive(SSL *ssl, int fd)
{
    struct uktls_tls13_secret *secret = (struct uktls_tls13_secret *)SSL_get_ex_data(ssl, uktls_tls13_index());

    /* What OpenSSL has read ahead would be lost. */
    return SSL_version(ssl) == TLS1_3_VERSION && secret != NULL && !SSL_has_pending(ssl)
        && uktls_tls13_set_keys(ssl, fd, secret);
}

/* A handshake record that tls_recvmsg() has brought: 1 if receiving goes on, 0 if not. */
static inline int uktls_tls13_handshake(SSL *ssl, int fd, const void *data, size_t len)
{
    struct uktls_tls13_secret *secret = (struct uktls_tls13_secret *)SSL_get_ex_data(ssl, uktls_tls13_index());
    struct uktls_tls13_secret next;
    int done;

    if (len != 5 || *(const unsigned char *)data != SSL3_MT_KEY_UPDATE || secret == NULL)
        return 0;
    next.len = secret->len;
    done = uktls_tls13_expand(SSL_CIPHER_get_handshake_digest(SSL_get_current_cipher(ssl)), secret, "traffic upd",
                              next.bytes, next.len);
    if (done)
        *secret = next;
    OPENSSL_cleanse(&next, sizeof(next));
    return done && uktls_tls13_set_keys(ssl, fd, secret);
}

#endif
