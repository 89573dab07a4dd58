/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The calls of the worker: those of the C library uktls, or of the system under the preload library. */
#ifndef UKTLS_STRESS_CALLS_H
#define UKTLS_STRESS_CALLS_H

#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif

#ifdef LIBRARY
#include <uktls.h>

static inline int set_tx(int fd, const void *info, size_t len) { return tls_tx_init(fd, info, len); }
static inline int set_rx(int fd, const void *info, size_t len) { return tls_rx_init(fd, info, len); }
#define do_send tls_send
#define do_sendmsg tls_sendmsg
#define do_sendfile tls_sendfile
#define do_splice tls_splice
#define do_recv tls_recv
#define do_poll tls_poll
#define do_close uktls_close
#define do_shutdown tls_shutdown
enum { IS_LIBRARY = 1 };

#else

static inline int set_tx(int fd, const void *info, size_t len)
{
    setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4); /* EEXIST for the second direction, and for a rekey */
    return setsockopt(fd, SOL_TLS, TLS_TX, info, (socklen_t)len);
}

static inline int set_rx(int fd, const void *info, size_t len)
{
    setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4);
    return setsockopt(fd, SOL_TLS, TLS_RX, info, (socklen_t)len);
}
#define do_send send
#define do_sendmsg sendmsg
#define do_sendfile sendfile
#define do_splice splice
#define do_recv recv
#define do_poll poll
#define do_close close
#define do_shutdown shutdown
enum { IS_LIBRARY = 0 };
#endif

#endif
