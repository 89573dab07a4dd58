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

/* A system call behind the back of the library, by the instruction: syscall(2) is interposed. As syscall(2). Without a
 * function of its own: the child of a vfork must not overwrite where its parent returns to. */
static inline __attribute__((always_inline)) long raw_call(long number, long a, long b, long c)
{
    long result;
#if defined(__x86_64__)
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    result = x0;
#else
#error "which instruction?"
#endif
    if (result < 0 && result >= -4095) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

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
            raw_call(SYS_exit_group, 99, 0, 0);                                                    \
        }                                                                                          \
    } while (0)

/* As RUN_ONCE, if the library is there. */
int run_preloaded(const char *file, const struct CMUnitTest *tests, size_t count);
#define RUN_PRELOADED(file, tests) run_preloaded(file, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
