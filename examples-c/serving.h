/* serving.h: what any server needs around its connections: a listening socket, signals, counters.
 * Nothing here concerns TLS. */
#ifndef EXAMPLE_SERVING_H
#define EXAMPLE_SERVING_H

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <uktls.h>

static inline void die(const char *what)
{
    fprintf(stderr, "https-server: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* Listens on `host` and says on which port; 0 is any free one. */
static inline int listener_open(const char *host, uint16_t port)
{
    struct sockaddr_in address;
    socklen_t len = sizeof(address);
    int listener, one = 1;

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        die(host);
    }
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0
        || listen(listener, 1024) < 0
        || getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        die("listen");
    printf("listening on %s port %d\n", host, ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

/* A descriptor that SIGINT, SIGTERM and SIGUSR1 can be read from. */
static inline int signals_open(void)
{
    sigset_t signals;
    int fd;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        die("signalfd");
    return fd;
}

/* The counters of uktls, as the rest of a JSON object. */
static inline void print_counters(void)
{
    struct uktls_stats s;

    memset(&s, 0, sizeof(s));
    s.size = sizeof(s);
    uktls_get_stats(&s);
#define COUNTER(name) printf(",\"" #name "\":%" PRIu64, s.name)
    COUNTER(tls_curr_tx_sw);
    COUNTER(tls_tx_sw);
    COUNTER(tls_rx_sw);
    COUNTER(rx_records);
    COUNTER(rx_bytes);
    COUNTER(tls_decrypt_error);
    COUNTER(tx_records);
    COUNTER(tx_bytes);
    COUNTER(tx_wire_bytes);
    COUNTER(deferred_scheduled);
    COUNTER(deferred_cancelled);
    COUNTER(records_from_caller);
    COUNTER(records_from_worker);
    COUNTER(transmit_calls);
    COUNTER(transmit_records_max);
    COUNTER(queue_bytes_max);
    COUNTER(queue_records_max);
    COUNTER(sealed_inline);
    COUNTER(sealed_threads);
    COUNTER(errors);
#undef COUNTER
}

#endif
