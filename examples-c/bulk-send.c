/* bulk-send.c: the smallest use of uktls. Sends 256 MiB of TLS records over TCP.
 *
 *     cc -std=c99 -O2 -o bulk-send bulk-send.c $(pkg-config --cflags --libs uktls)
 *
 * The keys are constants here, so this is no way to keep a secret: a real program takes them from its
 * handshake (uktls_openssl.h shows how). The receiver is a child that drops what it gets.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <uktls.h>

enum { TOTAL = 256 * 1024 * 1024 };

static char data[64 * 1024];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* A TCP connection to a child process that reads until the end. */
static int connect_to_sink(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    pid_t child;

    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1) < 0
        || getsockname(listener, (struct sockaddr *)&address, &len) < 0
        || connect(fd, (struct sockaddr *)&address, len) < 0)
        die("connect");
    child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        close(fd);
        fd = accept(listener, NULL, NULL);
        while (read(fd, data, sizeof(data)) > 0)
            ;
        _exit(0);
    }
    close(listener);
    return fd;
}

int main(void)
{
    struct tls12_crypto_info_aes_gcm_128 keys = {
        .info = { .version = TLS_1_3_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128 },
        .key = { 1, 2, 3 }, .salt = { 4, 5, 6 }, .iv = { 7, 8, 9 }, .rec_seq = { 0 },
    };
    struct uktls_info info = { .size = sizeof(info) };
    int fd = connect_to_sink();
    size_t sent = 0;

    if (tls_tx_init(fd, &keys, sizeof(keys)) < 0)
        die("tls_tx_init");
    memset(&keys, 0, sizeof(keys));

    while (sent < TOTAL) {
        /* Returns when the bytes are accepted; records are sealed and sent behind it. */
        ssize_t n = tls_send(fd, data, sizeof(data), 0);

        if (n < 0)
            die("tls_send");
        sent += (size_t)n;
    }
    if (uktls_flush(fd, -1) < 0)
        die("uktls_flush");
    if (uktls_get_info(fd, &info) < 0)
        die("uktls_get_info");
    printf("%zu bytes sent in %" PRIu64 " records\n", sent, info.tx_records);
    if (uktls_close(fd) < 0)
        die("uktls_close");
    return 0;
}
