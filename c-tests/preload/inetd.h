/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the servers of test_inetd.c share, in C and C++: programs whose connection is descriptors 0 and 1 when they
 * start. They set keys as a TLS library does it behind a handshake, and talk by standard input and output.
 */
#ifndef UKTLS_TEST_INETD_H
#define UKTLS_TEST_INETD_H

#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* The keys are in UKTLS_TEST_KEYS, in hex; how they are set in `way`: "10" is the writing ones on 1, the reading
 * ones on 0; "00" both on 0. */
static inline int set_keys_by(const char *way)
{
    unsigned char info[64];
    const char *hex = getenv("UKTLS_TEST_KEYS");
    socklen_t len = 0;
    int tx = way[0] - '0', rx = way[1] - '0';

    for (; hex && hex[0] && hex[1] && len < sizeof info; hex += 2) {
        unsigned byte;
        if (sscanf(hex, "%2x", &byte) != 1)
            return 1;
        info[len++] = (unsigned char)byte;
    }
    if (setsockopt(tx, SOL_TCP, TCP_ULP, "tls", sizeof "tls") != 0)
        return 2;
    if (setsockopt(tx, SOL_TLS, TLS_TX, info, len) != 0)
        return 3;
    return setsockopt(rx, SOL_TLS, TLS_RX, info, len) != 0 ? 4 : 0;
}

#endif
