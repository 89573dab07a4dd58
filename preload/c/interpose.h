/* What the interposed functions share: is it TLS, who is next, and the calls into the core. */
#ifndef UKTLS_INTERPOSE_H
#define UKTLS_INTERPOSE_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* uktls::sys::marks: a byte for each descriptor number. */
enum { MARK_TLS = 1, MARK_OWN = 2, MARK_CLOSING = 3, MARKS = 1 << 20 };
extern const _Atomic uint8_t *const uktls_preload_marks;

static inline uint8_t mark_of(int fd)
{
    return (unsigned)fd < MARKS ? atomic_load_explicit(&uktls_preload_marks[fd], memory_order_relaxed) : 0;
}

static inline bool is_tls(int fd)
{
    /* MARK_TLS, MARK_CLOSING: of the latter nothing may go out plain. */
    return UNLIKELY(mark_of(fd) & MARK_TLS);
}

/* The function that would have been called without us: of the next library that has the name. */
enum next_name {
#define X(name) NEXT_##name,
#include "names.h"
#undef X
    NEXT_COUNT
};
extern void *_Atomic uktls_next[NEXT_COUNT];
void *uktls_resolve(enum next_name name);

static inline void *next_of(enum next_name name)
{
    void *next = atomic_load_explicit(&uktls_next[name], memory_order_relaxed);
    return LIKELY(next != NULL) ? next : uktls_resolve(name);
}

#define NEXT(name) ((__typeof__(&name))next_of(NEXT_##name))

/* Another name of the same function: the C library has a few, and each would be a way around the keys. */
#if __has_attribute(copy)
#define TWIN(name, of) extern __typeof__(of) name __attribute__((copy(of), alias(#of)))
#else
#define TWIN(name, of) extern __typeof__(of) name __attribute__((alias(#of)))
#endif

/* Where the last bytes of a descriptor were written from: tells whether a TLS library writes by itself
 * or through functions of the program, which the library's own kTLS calls would not go through. */
extern const void *uktls_last_writer[MARKS];

static inline __attribute__((always_inline)) void note_writer(int fd, const void *from)
{
    if (LIKELY((unsigned)fd < MARKS))
        uktls_last_writer[fd] = from;
}

#define NOTE_WRITER(fd) note_writer(fd, __builtin_return_address(0))

/* What waits in streams over TLS sockets is written now: the C library would do it when we have drained. */
void uktls_flush_streams(void);
/* Keeps the list of them whole across a fork. */
void uktls_watch_streams(void);

/* The core (preload/src). All return what the mirrored call does. */
ssize_t uktls_preload_send(int fd, const void *data, size_t len, int flags);
ssize_t uktls_preload_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t uktls_preload_sendfile(int out, int in, off_t *offset, size_t count);
ssize_t uktls_preload_splice(int in, off64_t *off_in, int out, off64_t *off_out, size_t len, unsigned flags);
ssize_t uktls_preload_recv(int fd, void *data, size_t len, int flags);
ssize_t uktls_preload_recvmsg(int fd, struct msghdr *msg, int flags);
/* Why a socket is left to its program. */
enum decline { DECLINE_NOT, DECLINE_OWN_BIO, DECLINE_STREAM };
int uktls_preload_setsockopt(int fd, int level, int name, const void *value, socklen_t len, enum decline decline);
int uktls_preload_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int uktls_preload_shutdown(int fd, int how);
/* Something that the program cannot read any more than the kernel's queue tells (FIONREAD). */
bool uktls_preload_holds_data(int fd);
int uktls_preload_close(int fd);
/* Takes a descriptor over, out of the program's way; returns its number now. */
int uktls_preload_keep(int fd);
/* Closes by `closing(closure)`: of the socket `fd` the last bytes are looked after. */
int uktls_preload_close_by(int fd, int (*closing)(void *), void *closure);
void uktls_preload_duplicated(int old, int new_fd);
/* The kernel has just made `new_fd` of `old`, one of which is known: returns it, or closes it and fails. */
int uktls_follow(int old, int new_fd);
/* The kernel has just given the number out: what it carried is gone. */
void uktls_preload_reused(int fd);
/* Whether the number still is the TLS socket that we know. */
bool uktls_preload_verify(int fd);
void uktls_preload_start(void);
/* Whether there was one in this process. */
bool uktls_preload_had_connections(void);
/* Every accepted byte goes out; at most for the linger time. */
void uktls_preload_drain(void);
/* Asked in a signal handler every so many milliseconds of that: whether it never ends. */
bool uktls_preload_drain_stalled(unsigned period_ms);
/* As above; what must not be inherited closes itself on exec. */
void uktls_preload_before_exec(void);
int uktls_preload_poll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
/* Whether that much can be read at the address, in a process that may have TLS sockets: others have nothing to be
 * looked for. */
bool uktls_preload_may_look(const void *start, size_t len);
bool uktls_preload_is_writable(const void *start, size_t len);
/* What is known of these addresses is not so any more. */
void uktls_preload_forget(const void *start, size_t len);
/* Whether this is the child of a vfork, which has its parent's memory but descriptors of its own. */
bool uktls_preload_in_vfork(void);

/* The number may have become something else behind our back (a system call that we do not see): then the
 * call is the kernel's after all. */
static inline bool is_stale(int fd, ssize_t result)
{
    return UNLIKELY(result < 0) && (errno == ENOTSOCK || errno == EBADF) && !uktls_preload_verify(fd);
}

/* The cancellation points of the calls are kept: at their begin, as nothing is lost there. */
#define TLS_CALL(fd, call, next)                                                                                       \
    do {                                                                                                               \
        pthread_testcancel();                                                                                          \
        __typeof__(call) result_ = (call);                                                                             \
        return is_stale(fd, (ssize_t)result_) ? (next) : result_;                                                      \
    } while (0)

#endif
