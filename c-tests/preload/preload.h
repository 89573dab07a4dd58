/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the tests of the preload library share. They call the C library only: the harness of the other
 * C tests gets its tls_* functions from names.c, where they are setsockopt, send, recv and so on.
 */
#ifndef UKTLS_TEST_PRELOAD_H
#define UKTLS_TEST_PRELOAD_H

#include "sealer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>

/* A connected pair with TX and RX keys (TLS 1.2) on [0], and the plain socket's receiver and sealer. */
struct peer {
    struct receiver in;
    struct sealer out;
};
void both_pair(int fd[2], struct peer *peer);

/* Whether calls on the socket go to the library: the kernel without TLS does not know the option. */
bool is_tls_socket(int fd);

/* Closes behind the back of the library. */
void raw_close(int fd);

/* Runs `body` in a forked child, which ends with its result; returns its wait status. */
int in_child(int (*body)(void *), void *argument);
#define assert_exited(status, code)                                                                \
    do {                                                                                           \
        int status_ = (status);                                                                    \
        if (!WIFEXITED(status_) || WEXITSTATUS(status_) != (code))                                 \
            fail_msg("wait status %#x, not exit %d", status_, (code));                             \
    } while (0)
/* In a child, where cmocka's asserts would go on with the parent's tests. */
#define CHILD_CHECK(condition)                                                                     \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: child: %s (%s)\n", __FILE__, __LINE__, #condition,             \
                    strerror(errno));                                                              \
            syscall(SYS_exit_group, 99);                                                           \
        }                                                                                          \
    } while (0)

/* As RUN_ONCE, if the library is there. */
int run_preloaded(const char *file, const struct CMUnitTest *tests, size_t count);
#define RUN_PRELOADED(file, tests) run_preloaded(file, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
