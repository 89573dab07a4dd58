/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A library that is preloaded before or behind the one that is tested, and does everything in its
 * constructor: plain input and output, and a TLS connection.
 */
#include <arpa/inet.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            perror("plugin_early: " #condition);                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The two ends, for the program to look at; two bytes have been sent over [0]. */
int early_pair[2];

int early_write(int fd, const void *data, int len);
int early_write(int fd, const void *data, int len)
{
    return (int)write(fd, data, (size_t)len);
}

__attribute__((constructor)) static void begin(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct tls12_crypto_info_aes_gcm_128 info = {.info = {TLS_1_2_VERSION, TLS_CIPHER_AES_GCM_128}};
    int ends[2], listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte;

    MUST(pipe(ends) == 0);
    struct pollfd p = {.fd = ends[0], .events = POLLIN};
    MUST(write(ends[1], "x", 1) == 1 && poll(&p, 1, 1000) == 1 && read(ends[0], &byte, 1) == 1);
    MUST(close(ends[0]) == 0 && close(ends[1]) == 0);
    MUST(bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
    MUST((early_pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(connect(early_pair[0], (struct sockaddr *)&address, len) == 0);
    MUST((early_pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
    MUST(close(listener) == 0);
    memset(info.key, 1, sizeof info.key);
    MUST(setsockopt(early_pair[0], SOL_TCP, TCP_ULP, "tls", sizeof "tls") == 0);
    MUST(setsockopt(early_pair[0], SOL_TLS, TLS_TX, &info, sizeof info) == 0);
    MUST(write(early_pair[0], "ab", 2) == 2);
}
