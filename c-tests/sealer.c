/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "sealer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <sys/ioctl.h>

void sealer_init(struct sealer *s, int fd, int rx, const struct keys *keys)
{
    int on = 1;
    memset(s, 0, sizeof *s);
    s->fd = fd;
    s->rx = rx;
    /* Fails for what is not TCP. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sealer_rekey(s, keys);
}

void sealer_rekey(struct sealer *s, const struct keys *keys)
{
    const unsigned char *iv = keys->info + 4, *seq = keys->info + keys->len - 8;
    s->keys = *keys;
    s->seq = s->iv = 0;
    for (int i = 0; i < 8; i++) {
        s->seq = s->seq << 8 | seq[i];
        s->iv = s->iv << 8 | iv[i];
    }
}

static void must(bool good)
{
    if (!good)
        fail_msg("OpenSSL does not seal");
}

size_t seal(struct sealer *s, unsigned char *out, unsigned char type, const void *content,
            size_t len)
{
    const struct suite *suite = s->keys.suite;
    bool tls13 = suite->version == 0x0304, ccm = suite->cipher == 53;
    size_t nonce_len = explicit_nonce_len(suite);
    size_t inner = tls13 ? len + 1 + s->padding : len, field = nonce_len + inner + 16;
    unsigned char nonce[12], aad[13], *plain = malloc(inner + 1), *sealed = out + 5 + nonce_len;
    int n = 0, more = 0;
    assert_non_null(plain);
    assert_non_null(suite_evp(suite));
    memcpy(plain, content, len);
    if (tls13) {
        plain[len] = type;
        memset(plain + len + 1, 0, s->padding);
    }
    out[0] = s->outer ? (unsigned char)s->outer : tls13 ? DATA : type;
    out[1] = out[2] = 3;
    out[3] = (unsigned char)(field >> 8);
    out[4] = (unsigned char)field;
    for (size_t i = 0; i < nonce_len; i++)
        out[5 + i] = (unsigned char)(s->iv >> (8 * (7 - i)));
    int aad_len = record_inputs(&s->keys, s->seq, s->iv, out, len, nonce, aad);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    must(ctx && EVP_EncryptInit_ex(ctx, suite_evp(suite), NULL, NULL, NULL) == 1);
    must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL) == 1);
    if (ccm)
        must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, NULL) == 1);
    must(EVP_EncryptInit_ex(ctx, NULL, NULL, s->keys.info + 4 + suite->iv, nonce) == 1);
    if (ccm)
        must(EVP_EncryptUpdate(ctx, NULL, &n, NULL, (int)inner) == 1);
    must(EVP_EncryptUpdate(ctx, NULL, &n, aad, aad_len) == 1);
    n = 0;
    /* CCM wants its one call, for nothing too. */
    if (inner || ccm)
        must(EVP_EncryptUpdate(ctx, sealed, &n, plain, (int)inner) == 1);
    must(EVP_EncryptFinal_ex(ctx, sealed + n, &more) == 1);
    must(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, sealed + inner) == 1);
    EVP_CIPHER_CTX_free(ctx);
    free(plain);
    if (s->spoil)
        sealed[inner] ^= 1;
    s->seq++;
    s->iv++;
    return 5 + field;
}

/* The next of "23:11+3 22:0"; `*at` moves on. */
static void parse(const char **at, unsigned long *type, unsigned long *len, unsigned long *padding)
{
    char *end;
    *type = strtoul(*at, &end, 10);
    assert_int_equal(*end, ':');
    *len = strtoul(end + 1, &end, 10);
    *padding = *end == '+' ? strtoul(end + 1, &end, 10) : 0;
    *at = end + strspn(end, " ");
}

size_t seal_layout(struct sealer *s, unsigned char *out, const char *layout)
{
    size_t total = 0;
    while (*layout) {
        unsigned long type, len, padding;
        parse(&layout, &type, &len, &padding);
        s->padding = padding;
        total += seal(s, out + total, (unsigned char)type, pattern(s->position, len), len);
        s->position += len;
    }
    s->padding = 0;
    return total;
}

void send_sealed(struct sealer *s, const char *layout)
{
    if (suite_evp(s->keys.suite)) {
        unsigned char *wire = malloc(1 << 20);
        assert_non_null(wire);
        size_t len = seal_layout(s, wire, layout);
        assert_true(len <= 1 << 20);
        send_wire(s, wire, len);
        free(wire);
        return;
    }
    /* Without an implementation of its own the other end is uktls, too. */
    if (s->seq == 0 || tls_send(s->fd, "", 0, 0) != 0)
        assert_ok(tls_tx_init(s->fd, s->keys.info, s->keys.len));
    while (*layout) {
        unsigned long type, len, padding;
        parse(&layout, &type, &len, &padding);
        assert_int_equal(padding, 0);
        assert_returns(send_typed(s->fd, (unsigned char)type, pattern(s->position, len), len, 0), len);
        s->position += len;
        s->seq++;
    }
    assert_ok(uktls_flush(s->fd, DEADLINE_MS));
}

static int queued(int fd)
{
    int n = 0;
    assert_ok(ioctl(fd, FIONREAD, &n));
    return n;
}

void send_wire(struct sealer *s, const void *bytes, size_t len)
{
    send_segments(s, bytes, len, len);
}

void send_segments(struct sealer *s, const void *bytes, size_t len, size_t step)
{
    const unsigned char *at = bytes;
    struct timespec pause = {.tv_nsec = 100000};
    for (size_t done = 0; done < len;) {
        size_t now = len - done < step ? len - done : step;
        int before = s->rx < 0 ? 0 : queued(s->rx);
        ssize_t n = send(s->fd, at + done, now, MSG_NOSIGNAL);
        if (n <= 0)
            fail_msg("send: %s", strerror(errno));
        done += (size_t)n;
        for (int i = 0; s->rx >= 0 && queued(s->rx) < before + n; i++) {
            if (i > DEADLINE_MS * 10)
                fail_msg("%zd bytes have not arrived", n);
            nanosleep(&pause, NULL);
        }
    }
}

void send_key_update(struct sealer *s)
{
    static const unsigned char message[] = {24, 0, 0, 1, 0};
    unsigned char wire[128];
    send_wire(s, wire, seal(s, wire, HANDSHAKE, message, sizeof message));
}

void rx_pair(int fd[2], const struct keys *keys, struct sealer *s)
{
    tcp_pair(fd);
    assert_ok(tls_rx_init(fd[1], keys->info, keys->len));
    sealer_init(s, fd[0], fd[1], keys);
}

void small_rx_pair(int fd[2], const struct keys *keys, struct sealer *s)
{
    tcp_pair_sized(fd, 0, 4096);
    assert_ok(tls_rx_init(fd[1], keys->info, keys->len));
    sealer_init(s, fd[0], -1, keys);
}

void close_tls(int fd[2])
{
    assert_ok(uktls_close(fd[0]));
    assert_ok(uktls_close(fd[1]));
}

struct got *receive(int fd, size_t len, int flags)
{
    static struct got got;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(1)];
    } control;
    struct iovec iov = {got.data, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                         .msg_controllen = sizeof control};
    assert_true(len <= sizeof got.data);
    memset(&control, 0, sizeof control);
    errno = 0;
    got.n = tls_recvmsg(fd, &msg, flags);
    got.error = errno;
    got.flags = msg.msg_flags;
    got.controllen = msg.msg_controllen;
    got.type = -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    if (got.n >= 0 && header && header->cmsg_level == SOL_TLS &&
        header->cmsg_type == TLS_GET_RECORD_TYPE && header->cmsg_len == CMSG_LEN(1))
        got.type = *CMSG_DATA(header);
    return &got;
}

static const struct { const char *name; int number; } errors[] = {
    {"EAGAIN", EAGAIN}, {"EBADMSG", EBADMSG}, {"EMSGSIZE", EMSGSIZE}, {"EINVAL", EINVAL},
    {"EIO", EIO}, {"EKEYEXPIRED", EKEYEXPIRED}, {"ECONNRESET", ECONNRESET}, {"EPIPE", EPIPE},
};

void expect_calls(struct sealer *s, size_t len, int flags, const char *results)
{
    int fd = s->rx;
    assert_true(fd >= 0);
    for (const char *at = results; *at; at += strcspn(at, " "), at += strspn(at, " ")) {
        struct got *got = receive(fd, len, flags);
        size_t word = strcspn(at, " ");
        char found[64];
        snprintf(found, sizeof found, "%d:%zd", got->type, got->n);
        if (got->n == 0 && got->type < 0)
            strcpy(found, "EOF");
        if (got->n < 0)
            snprintf(found, sizeof found, "%s", strerror(got->error));
        for (size_t i = 0; got->n < 0 && i < sizeof errors / sizeof *errors; i++)
            if (errors[i].number == got->error)
                strcpy(found, errors[i].name);
        if (strlen(found) != word || strncmp(found, at, word))
            fail_msg("%s instead of \"%s\" in \"%s\"", found, at, results);
        if (got->n > 0) {
            if (memcmp(got->data, pattern(s->reader, (size_t)got->n), (size_t)got->n))
                fail_msg("wrong plaintext at \"%s\" in \"%s\"", at, results);
            if (!(flags & MSG_PEEK))
                s->reader += (uint64_t)got->n;
        }
    }
}

void expect_stream(struct sealer *s, size_t total, size_t step)
{
    unsigned char *data = malloc(step);
    assert_non_null(data);
    while (total) {
        ssize_t n = tls_recv(s->rx, data, step < total ? step : total, 0);
        if (n <= 0)
            fail_msg("%zd (%s) with %zu bytes to come", n, strerror(errno), total);
        if (memcmp(data, pattern(s->reader, (size_t)n), (size_t)n))
            fail_msg("wrong plaintext with %zu bytes to come", total);
        s->reader += (uint64_t)n;
        total -= (size_t)n;
    }
    free(data);
}

short tls_events(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n = tls_poll(&p, 1, 0);
    assert_int_equal(n, p.revents != 0);
    return p.revents;
}

short kernel_events(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    assert_true(poll(&p, 1, 0) >= 0);
    return p.revents;
}

struct uktls_stats statistics(void)
{
    struct uktls_stats stats = {.size = sizeof stats};
    assert_ok(uktls_get_stats(&stats));
    return stats;
}
