/* bio.c: examples-c/uktls_openssl.h against OpenSSL itself, both ends in this process.
 *
 * Covers what the example server does not do: SSL_write() through the BIO, uktls at the client's end,
 * SSL_sendfile(), KeyUpdate, and the nonces that OpenSSL hands over. Prints `ok NAME` or `FAIL NAME` lines.
 *
 * Usage: bio CERT KEY, of an EC key.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <openssl/err.h>

#include "../../examples-c/uktls_openssl.h"

enum { BULK = 3 * 1024 * 1024 + 17, TURNS = 100000 };

struct end {
    int fd;
    SSL *ssl;
    BIO *bio; /* uktls's, or NULL */
};

static const char marker[] = "a line that must never be seen on the wire";
static unsigned char bulk[BULK], received[BULK];
static const char *scenario;
static bool failed;

#define CHECK(what)                                                                      \
    do {                                                                                 \
        if (!(what)) {                                                                   \
            printf("  %s:%d: %s: not true: %s\n", __FILE__, __LINE__, scenario, #what);  \
            failed = true;                                                               \
        }                                                                                \
    } while (0)

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stdout);
    exit(1);
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in address;
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, 1) < 0
        || getsockname(listener, (struct sockaddr *)&address, &len) < 0
        || connect(fds[0], (struct sockaddr *)&address, len) < 0
        || (fds[1] = accept(listener, NULL, NULL)) < 0)
        die("tcp_pair");
    close(listener);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    setsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fds[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void attach(struct end *end, SSL_CTX *ctx, int fd, bool uktls)
{
    end->fd = fd;
    end->ssl = SSL_new(ctx);
    end->bio = NULL;
    if (uktls) {
        end->bio = uktls_bio_new(fd, BIO_NOCLOSE);
        SSL_set_options(end->ssl, SSL_OP_ENABLE_KTLS);
        SSL_set_bio(end->ssl, end->bio, end->bio);
    } else {
        SSL_set_fd(end->ssl, fd);
    }
}

/* Waits until something may go on; false if `result` is an error and not a wait. */
static bool may_retry(SSL *ssl, int result)
{
    int error = SSL_get_error(ssl, result);

    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

static bool handshake(struct end *client, struct end *server)
{
    int turn, c = 0, s = 0;

    SSL_set_connect_state(client->ssl);
    SSL_set_accept_state(server->ssl);
    for (turn = 0; turn < TURNS && (c != 1 || s != 1); turn++) {
        if (c != 1 && (c = SSL_do_handshake(client->ssl)) != 1 && !may_retry(client->ssl, c))
            return false;
        if (s != 1 && (s = SSL_do_handshake(server->ssl)) != 1 && !may_retry(server->ssl, s))
            return false;
    }
    return c == 1 && s == 1;
}

/* SSL_write of the whole of `bulk` while the other end reads: full sockets, retries, partial writes. */
static bool transfer(struct end *from, struct end *to)
{
    size_t written = 0, got = 0;
    int turn, n;

    memset(received, 0, sizeof(received));
    for (turn = 0; turn < TURNS && got < BULK; turn++) {
        if (written < BULK) {
            n = SSL_write(from->ssl, bulk + written, (int)(BULK - written));
            if (n > 0)
                written += (size_t)n;
            else if (!may_retry(from->ssl, n))
                return false;
        }
        n = SSL_read(to->ssl, received + got, (int)(BULK - got));
        if (n > 0) {
            got += (size_t)n;
        } else if (!may_retry(to->ssl, n)) {
            return false;
        } else {
            struct pollfd wait = { .fd = to->fd, .events = POLLIN };
            if (poll(&wait, 1, 5000) != 1)
                return false;
        }
    }
    return got == BULK && memcmp(bulk, received, BULK) == 0;
}

static bool receive_exactly(struct end *end, const char *wanted, size_t len)
{
    char buffer[256];
    size_t got = 0;
    int n;

    while (got < len) {
        struct pollfd wait = { .fd = end->fd, .events = POLLIN };

        n = SSL_read(end->ssl, buffer + got, (int)(sizeof(buffer) - got));
        if (n > 0)
            got += (size_t)n;
        else if (!may_retry(end->ssl, n) || poll(&wait, 1, 5000) != 1)
            return false;
    }
    return got == len && memcmp(buffer, wanted, len) == 0;
}

/* What lies in the socket's receive queue, still encrypted. */
static size_t peek(int fd, unsigned char *wire, size_t max)
{
    struct pollfd wait = { .fd = fd, .events = POLLIN };
    ssize_t n;

    poll(&wait, 1, 5000);
    n = recv(fd, wire, max, MSG_PEEK);
    return n > 0 ? (size_t)n : 0;
}

static void check_sends(struct end *from, struct end *to, int version, int cipher)
{
    struct uktls_info info;
    unsigned char wire[1024];
    size_t len;

    memset(&info, 0, sizeof(info));
    info.size = sizeof(info);
    CHECK(uktls_get_info(from->fd, &info) == 0 && info.version == version && info.cipher == cipher);

    CHECK(transfer(from, to));

    CHECK(tls_send(from->fd, marker, 10, MSG_MORE) == 10);
    CHECK(tls_send(from->fd, marker + 10, sizeof(marker) - 10, 0) == (ssize_t)sizeof(marker) - 10);
    len = peek(to->fd, wire, sizeof(wire));
    CHECK(len > sizeof(marker) && memmem(wire, len, marker, 16) == NULL);
    /* The explicit nonce of TLS 1.2 with CCM is the record's number, and nobody's memory. */
    if (cipher == TLS_CIPHER_AES_CCM_128 && len > 13)
        CHECK(wire[0] == SSL3_RT_APPLICATION_DATA && memcmp(wire + 5, "\0\0\0\0\0\0", 6) == 0);
    CHECK(receive_exactly(to, marker, sizeof(marker)));
}

/* Behind a transfer of `bulk` to `end`. OpenSSL before 3.2 keeps the receiving keys of TLS 1.3 to itself. */
static void check_receives(struct end *end, int version, int cipher)
{
    bool by_uktls = cipher && (version == TLS1_2_VERSION || OpenSSL_version_num() >= 0x30200000L);
    struct uktls_info info;

    CHECK(uktls_bio_receives(end->bio) == by_uktls);
    memset(&info, 0, sizeof(info));
    info.size = sizeof(info);
    if (by_uktls)
        CHECK(uktls_get_info(end->fd, &info) == 0 && info.rx_bytes >= BULK && info.rx_records >= BULK / 16384);
}

static void check_sendfile_refused(struct end *from, struct end *to)
{
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    char byte;

    CHECK(SSL_get_fd(from->ssl) == -1);
    CHECK(SSL_sendfile(from->ssl, file, 0, 4096, 0) < 0);
    ERR_clear_error();
    CHECK(recv(to->fd, &byte, 1, MSG_PEEK) == -1 && errno == EAGAIN);
    close(file);
}

/* The peer asks for new keys in both directions. */
static void check_key_update(struct end *from, struct end *to)
{
    char byte;
    int n;

    CHECK(SSL_key_update(to->ssl, SSL_KEY_UPDATE_REQUESTED) == 1 && SSL_do_handshake(to->ssl) == 1);
    CHECK(SSL_write(to->ssl, "x", 1) == 1);
    CHECK(receive_exactly(from, "x", 1));
    /* The answer goes out before what is written next. */
    if (OpenSSL_version_num() >= 0x30200000L) {
        CHECK(transfer(from, to));
    } else {
        n = SSL_write(from->ssl, "x", 1);
        CHECK(n < 0 && !may_retry(from->ssl, n));
        CHECK(recv(to->fd, &byte, 1, MSG_PEEK) == -1 && errno == EAGAIN);
    }
}

static void check_close_notify(struct end *from, struct end *to)
{
    unsigned char wire[64];
    char byte;
    int n;

    CHECK(SSL_shutdown(from->ssl) == 0);
    CHECK(peek(to->fd, wire, sizeof(wire)) > 0);
    n = SSL_read(to->ssl, &byte, 1);
    CHECK(n <= 0 && SSL_get_error(to->ssl, n) == SSL_ERROR_ZERO_RETURN);
}

/* `cipher`: kTLS's number, or 0 where OpenSSL is expected to keep the records. */
static void run(const char *name, SSL_CTX *client_ctx, SSL_CTX *server_ctx, int version, const char *suite, int cipher,
                bool at_server)
{
    struct end client, server, *from = at_server ? &server : &client, *to = at_server ? &client : &server;
    char title[160];
    int fds[2];

    snprintf(title, sizeof(title), "bio: TLS %s %s, uktls at the %s", version == TLS1_3_VERSION ? "1.3" : "1.2", name,
             at_server ? "server" : "client");
    scenario = title;
    failed = false;
    tcp_pair(fds);
    attach(&client, client_ctx, fds[0], !at_server);
    attach(&server, server_ctx, fds[1], at_server);
    SSL_set_min_proto_version(client.ssl, version);
    SSL_set_max_proto_version(client.ssl, version);
    CHECK(version == TLS1_3_VERSION ? SSL_set_ciphersuites(client.ssl, suite) : SSL_set_cipher_list(client.ssl, suite));

    if (handshake(&client, &server)) {
        CHECK(uktls_bio_active(from->bio) == (cipher != 0));
        CHECK(transfer(to, from));
        check_receives(from, version, cipher);
        if (cipher) {
            check_sends(from, to, version, cipher);
            check_sendfile_refused(from, to);
        } else {
            CHECK(transfer(from, to));
        }
        if (cipher && version == TLS1_3_VERSION)
            check_key_update(from, to);
        else
            check_close_notify(from, to);
    } else {
        CHECK(!"handshake");
        ERR_print_errors_fp(stdout);
    }
    SSL_free(client.ssl);
    SSL_free(server.ssl);
    CHECK(uktls_close(fds[0]) == 0 && uktls_close(fds[1]) == 0);
    printf("%s %s\n", failed ? "FAIL" : "ok", title);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name, *suite;
        int version, cipher;
    } suites[] = {
        { "AES-128-GCM", "ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION, TLS_CIPHER_AES_GCM_128 },
        { "AES-256-GCM", "ECDHE-ECDSA-AES256-GCM-SHA384", TLS1_2_VERSION, TLS_CIPHER_AES_GCM_256 },
        { "ChaCha20", "ECDHE-ECDSA-CHACHA20-POLY1305", TLS1_2_VERSION, TLS_CIPHER_CHACHA20_POLY1305 },
        { "AES-128-CCM", "ECDHE-ECDSA-AES128-CCM", TLS1_2_VERSION, TLS_CIPHER_AES_CCM_128 },
        { "AES-128-CBC", "ECDHE-ECDSA-AES128-SHA256", TLS1_2_VERSION, 0 },
        { "AES-128-GCM", "TLS_AES_128_GCM_SHA256", TLS1_3_VERSION, TLS_CIPHER_AES_GCM_128 },
        { "AES-256-GCM", "TLS_AES_256_GCM_SHA384", TLS1_3_VERSION, TLS_CIPHER_AES_GCM_256 },
        { "ChaCha20", "TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION, TLS_CIPHER_CHACHA20_POLY1305 },
        { "AES-128-CCM-8", "TLS_AES_128_CCM_8_SHA256", TLS1_3_VERSION, 0 },
    };
    SSL_CTX *client = SSL_CTX_new(TLS_client_method()), *server = SSL_CTX_new(TLS_server_method());
    bool all_passed = true;
    size_t i;

    if (argc != 3 || SSL_CTX_use_certificate_chain_file(server, argv[1]) != 1
        || SSL_CTX_use_PrivateKey_file(server, argv[2], SSL_FILETYPE_PEM) != 1)
        die("usage: bio CERT KEY");
    SSL_CTX_set_cipher_list(server, "ALL:@SECLEVEL=0");
    SSL_CTX_set_ciphersuites(server, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:"
                                     "TLS_AES_128_CCM_8_SHA256");
    SSL_CTX_set_mode(client, SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_mode(server, SSL_MODE_ENABLE_PARTIAL_WRITE);
    for (i = 0; i < BULK; i++)
        bulk[i] = (unsigned char)(i * 2654435761u >> 13);

    for (i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
        int at_server;

        for (at_server = 1; at_server >= 0; at_server--) {
            run(suites[i].name, client, server, suites[i].version, suites[i].suite, suites[i].cipher, at_server);
            all_passed &= !failed;
        }
    }
    SSL_CTX_free(client);
    SSL_CTX_free(server);
    return all_passed ? 0 : 1;
}
