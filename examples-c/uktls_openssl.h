/* uktls_openssl.h: OpenSSL 3 does the handshake, uktls does the records.
 *
 * A BIO over a connected socket that answers the questions OpenSSL asks of a kernel with TLS (kTLS).
 * OpenSSL hands its sending keys to the BIO by itself, at the right record, so a program adopts uktls
 * with three lines where it had SSL_set_fd():
 *
 *     BIO *bio = uktls_bio_new(fd, BIO_NOCLOSE);
 *     SSL_set_options(ssl, SSL_OP_ENABLE_KTLS);
 *     SSL_set_bio(ssl, bio, bio);                      (takes over the only reference)
 *
 * From then on SSL_write() is sealed by uktls. Once the handshake is done and uktls_bio_active(bio)
 * says 1, the program may also call tls_send(), tls_sendfile() and so on on the descriptor; it should
 * do that in place of SSL_write(), which copies less and sends asynchronously. SSL_read(),
 * SSL_shutdown() and alerts stay OpenSSL's. uktls_bio_active() says 0 if this connection is not
 * uktls's to seal (a cipher such as AES-CBC, a library built without kTLS): SSL_write() still works.
 *
 * To know before copying this file:
 * - The BIO hides its descriptor from OpenSSL: SSL_get_fd() returns -1, and SSL_sendfile() fails
 *   (it would call sendfile(2) and put plain text on the wire). Use tls_sendfile().
 * - Never write to the descriptor by write(2) or send(2) once the handshake has begun.
 * - Close it by uktls_close(), or give BIO_CLOSE and let SSL_free() do so.
 * - Receiving: OpenSSL hands its receiving keys over as well for TLS 1.2 (from 3.2 on for 1.3, too), and
 *   SSL_read() gets its records from uktls then. With uktls_bio_receives() saying 1 the program may call
 *   tls_recvmsg() itself instead of SSL_read(), but not both. For TLS 1.3 with 3.0 and 3.1: uktls_tls13.h.
 * - OpenSSL 3.0 and 3.1 cannot change keys that were handed over. When a TLS 1.3 peer asks for new ones
 *   (KeyUpdate), the next SSL_write() fails there; from OpenSSL 3.2 on the keys are changed.
 * - Link with: $(pkg-config --cflags --libs uktls openssl). C99; needs linux/tls.h.
 */
#ifndef UKTLS_OPENSSL_H
#define UKTLS_OPENSSL_H

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/tls.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <uktls.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* <openssl/bio.h> publishes the two questions but only lists these three commands, in a comment, as taken.
 * They have been the same from 3.0 to 4.0 (OpenSSL include/internal/bio.h). */
enum {
    UKTLS_BIO_SET_KTLS = 72,       /* num: is it for sending; ptr: the crypto_info */
    UKTLS_BIO_SET_CTRL_MSG = 74,   /* num: the content type of what is written next */
    UKTLS_BIO_CLEAR_CTRL_MSG = 75
};

struct uktls_bio_state {
    int fd;
    int version;     /* of TLS once the keys are set, else 0: what is written then is OpenSSL's own records */
    int receives;    /* the same for receiving: 1 or 0 */
    int broken;      /* an errno: nothing may be written any more */
    int record_type; /* of the next write; -1 for application data */
    int eof;
};

union uktls_crypto_info {
    struct tls_crypto_info info;
    struct tls12_crypto_info_aes_gcm_128 gcm128;
    struct tls12_crypto_info_aes_gcm_256 gcm256;
    struct tls12_crypto_info_aes_ccm_128 ccm128;
    struct tls12_crypto_info_chacha20_poly1305 chacha20;
};

/* Returns 1 if the keys are uktls's. The size comes from the cipher, as OpenSSL keeps its own behind
 * a union whose size depends on the kernel headers that it was built with. */
static inline int uktls_bio_set_keys(struct uktls_bio_state *state, int sending, const void *keys)
{
    union uktls_crypto_info copy;
    size_t len;
    int set;

    memcpy(&copy.info, keys, sizeof(copy.info));
    switch (copy.info.cipher_type) {
    case TLS_CIPHER_AES_GCM_128:       len = sizeof(copy.gcm128); break;
    case TLS_CIPHER_AES_GCM_256:       len = sizeof(copy.gcm256); break;
    case TLS_CIPHER_AES_CCM_128:       len = sizeof(copy.ccm128); break;
    case TLS_CIPHER_CHACHA20_POLY1305: len = sizeof(copy.chacha20); break;
    default: return 0;
    }
    memcpy(&copy, keys, len);
    /* OpenSSL 3.0 fills this nonce from beyond the end of its key block. It would be sent in each record,
     * so it is replaced by the number that OpenSSL's own CCM uses. */
    if (copy.info.cipher_type == TLS_CIPHER_AES_CCM_128 && copy.info.version == TLS_1_2_VERSION)
        memcpy(copy.ccm128.iv, copy.ccm128.rec_seq, sizeof(copy.ccm128.iv));

    set = (sending ? tls_tx_init : tls_rx_init)(state->fd, &copy, len) == 0;
    if (!sending)
        state->receives |= set;
    else if (set)
        state->version = copy.info.version;
    else if (state->version)
        /* OpenSSL would go on to write records of its own into ours. */
        state->broken = EIO;
    OPENSSL_cleanse(&copy, sizeof(copy));
    return set;
}

static inline ssize_t uktls_bio_send_record(int fd, unsigned char type, const void *data, size_t len)
{
    struct iovec iov;
    struct msghdr msg;
    struct cmsghdr *cmsg;
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(1)];
    } control;

    iov.iov_base = (void *)data;
    iov.iov_len = len;
    memset(&control, 0, sizeof(control));
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.space;
    msg.msg_controllen = sizeof(control.space);
    cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_TLS;
    cmsg->cmsg_type = TLS_SET_RECORD_TYPE;
    cmsg->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(cmsg) = type;
    return tls_sendmsg(fd, &msg, MSG_NOSIGNAL);
}

/* A KeyUpdate that OpenSSL before 3.2 would send without changing our keys behind it. */
static inline int uktls_bio_stale_key_update(const struct uktls_bio_state *state, const char *data, int len)
{
    return state->version == TLS_1_3_VERSION && state->record_type == SSL3_RT_HANDSHAKE
        && len > 0 && data[0] == SSL3_MT_KEY_UPDATE && OpenSSL_version_num() < 0x30200000L;
}

static inline int uktls_bio_write(BIO *bio, const char *data, int len)
{
    struct uktls_bio_state *state = (struct uktls_bio_state *)BIO_get_data(bio);
    ssize_t n;

    BIO_clear_retry_flags(bio);
    if (len < 0)
        return 0;
    if (state->broken || uktls_bio_stale_key_update(state, data, len)) {
        if (!state->broken)
            state->broken = EOPNOTSUPP;
        errno = state->broken;
        return -1;
    }
    if (!state->version)
        n = send(state->fd, data, (size_t)len, MSG_NOSIGNAL);
    else if (state->record_type < 0)
        n = tls_send(state->fd, data, (size_t)len, MSG_NOSIGNAL);
    else
        n = uktls_bio_send_record(state->fd, (unsigned char)state->record_type, data, (size_t)len);

    /* What is left of a control record must not go out as application data. */
    if (n == len)
        state->record_type = -1;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)n;
}

/* One record, as OpenSSL wants it from a kernel with TLS: with a header in front that tells its type. */
static inline ssize_t uktls_bio_read_record(int fd, char *data, size_t len)
{
    const size_t header = 5, record_max = 16384;
    struct iovec iov;
    struct msghdr msg;
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(1)];
    } control;
    ssize_t n;

    if (len <= header) {
        errno = EINVAL;
        return -1;
    }
    iov.iov_base = data + header;
    /* tls_recvmsg() joins records of application data; OpenSSL is to see none that TLS does not have. */
    iov.iov_len = len - header < record_max ? len - header : record_max;
    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.space;
    msg.msg_controllen = sizeof(control.space);
    n = tls_recvmsg(fd, &msg, 0);
    /* The end of the stream comes without a type; an empty record has one. */
    if (n < 0 || msg.msg_controllen == 0)
        return n;
    data[0] = (char)*CMSG_DATA(CMSG_FIRSTHDR(&msg));
    data[1] = data[2] = 3;
    data[3] = (char)(n >> 8);
    data[4] = (char)n;
    return n + (ssize_t)header;
}

static inline int uktls_bio_read(BIO *bio, char *data, int len)
{
    struct uktls_bio_state *state = (struct uktls_bio_state *)BIO_get_data(bio);
    ssize_t n;

    BIO_clear_retry_flags(bio);
    if (len <= 0)
        return 0;
    n = state->receives ? uktls_bio_read_record(state->fd, data, (size_t)len)
                        : recv(state->fd, data, (size_t)len, 0);
    if (n == 0)
        state->eof = 1;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_read(bio);
    return (int)n;
}

static inline long uktls_bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    struct uktls_bio_state *state = (struct uktls_bio_state *)BIO_get_data(bio);

    switch (cmd) {
    case UKTLS_BIO_SET_KTLS:
        return ptr != NULL && uktls_bio_set_keys(state, num != 0, ptr);
    case BIO_CTRL_GET_KTLS_SEND:
        return state->version != 0;
    case BIO_CTRL_GET_KTLS_RECV:
        return state->receives;
    case UKTLS_BIO_SET_CTRL_MSG:
        state->record_type = (int)(num & 0xff);
        return 0;
    case UKTLS_BIO_CLEAR_CTRL_MSG:
        state->record_type = -1;
        return 0;
    case BIO_CTRL_FLUSH:
        /* Nothing is kept here; what uktls has accepted is on its way. */
        return 1;
    case BIO_CTRL_EOF:
        return state->eof;
    case BIO_CTRL_GET_CLOSE:
        return BIO_get_shutdown(bio);
    case BIO_CTRL_SET_CLOSE:
        BIO_set_shutdown(bio, (int)num);
        return 1;
    default:
        /* BIO_C_GET_FD is among these: no. */
        return 0;
    }
}

static inline int uktls_bio_destroy(BIO *bio)
{
    struct uktls_bio_state *state = (struct uktls_bio_state *)BIO_get_data(bio);

    if (state != NULL && BIO_get_shutdown(bio))
        uktls_close(state->fd);
    OPENSSL_free(state);
    BIO_set_data(bio, NULL);
    return 1;
}

/* One method per process, or per file that includes this header; made by the first BIO, never freed. */
static inline BIO_METHOD **uktls_bio_method_slot(void)
{
    static BIO_METHOD *method;
    return &method;
}

static inline void uktls_bio_method_init(void)
{
    /* Neither BIO_TYPE_DESCRIPTOR nor BIO_TYPE_SOCKET: those are what SSL_sendfile() looks for. */
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "uktls");

    if (method != NULL
        && BIO_meth_set_write(method, uktls_bio_write) && BIO_meth_set_read(method, uktls_bio_read)
        && BIO_meth_set_ctrl(method, uktls_bio_ctrl) && BIO_meth_set_destroy(method, uktls_bio_destroy))
        *uktls_bio_method_slot() = method;
    else
        BIO_meth_free(method);
}

/* Returns a BIO over the connected stream socket `fd`, or NULL if memory is short. With BIO_CLOSE
 * `fd` is closed by uktls_close() together with the BIO. Blocking and non-blocking sockets both work. */
static inline BIO *uktls_bio_new(int fd, int close_flag)
{
    static CRYPTO_ONCE once = CRYPTO_ONCE_STATIC_INIT;
    struct uktls_bio_state *state;
    BIO *bio;

    if (!CRYPTO_THREAD_run_once(&once, uktls_bio_method_init) || *uktls_bio_method_slot() == NULL)
        return NULL;
    state = (struct uktls_bio_state *)OPENSSL_zalloc(sizeof(*state));
    bio = BIO_new(*uktls_bio_method_slot());
    if (state == NULL || bio == NULL) {
        OPENSSL_free(state);
        BIO_free(bio);
        return NULL;
    }
    state->fd = fd;
    state->record_type = -1;
    BIO_set_data(bio, state);
    BIO_set_shutdown(bio, close_flag);
    BIO_set_init(bio, 1);
    return bio;
}

/* 1 if what is sent on `bio` is sealed by uktls, so that tls_send() and tls_sendfile() may be used on its
 * descriptor; 0 if OpenSSL seals it. Settled when the handshake is done. */
static inline int uktls_bio_active(BIO *bio)
{
    return BIO_ctrl(bio, BIO_CTRL_GET_KTLS_SEND, 0, NULL) > 0;
}

/* 1 if what is received on `bio` is opened by uktls, so that tls_recvmsg() may be used in place of SSL_read();
 * 0 if OpenSSL opens it. Settled when the handshake is done. */
static inline int uktls_bio_receives(BIO *bio)
{
    return BIO_ctrl(bio, BIO_CTRL_GET_KTLS_RECV, 0, NULL) > 0;
}

#endif
