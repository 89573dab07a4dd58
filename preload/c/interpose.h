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
enum {
    MARK_TLS = 1,
    MARK_OWN = 2,
    MARK_BUSY = 4,
    MARK_WATCHED = 8,
    MARK_SOLE = 16,
    MARK_TWIN = 32,
    MARK_REFUSED = 64,
    MARK_TX = 128,
    /* A call that writes, or reads, does not simply go to the kernel. */
    SLOW_OUT = MARK_TX | MARK_BUSY | MARK_WATCHED | MARK_REFUSED,
    SLOW_IN = MARK_TLS | MARK_WATCHED | MARK_REFUSED,
    /* What the number means may not be changed by the kernel's call alone. */
    SLOW_CHANGE = MARK_TLS | MARK_OWN | MARK_BUSY,
    MARKS = 1 << 20
};
extern _Atomic uint8_t *const uktls_preload_marks;

/* uktls::sys::marks::FLOOR: what every number is marked with at least. */
extern _Atomic uint8_t *const uktls_preload_floor;

static inline uint8_t mark_of(int fd)
{
    return (unsigned)fd < MARKS ? atomic_load_explicit(&uktls_preload_marks[fd], memory_order_relaxed) : 0;
}

static inline uint8_t uktls_floor(void)
{
    return atomic_load_explicit(uktls_preload_floor, memory_order_relaxed);
}

/* Whether calls that read, and those about the socket itself, go to the library. */
static inline bool is_tls(int fd)
{
    return UNLIKELY(mark_of(fd) & MARK_TLS);
}

/* uktls::sys::in_flight: the calls of a thread that have looked at a mark and are not over. */
enum { CALLS = 6 };
struct uktls_slot {
    /* The descriptor, plus one; 0: free. */
    _Atomic int numbers[CALLS];
    void *_Atomic frames[CALLS];
    _Atomic uint32_t taken;
} __attribute__((aligned(128)));
extern __thread struct uktls_slot *uktls_slot __attribute__((tls_model("initial-exec")));

static inline __attribute__((always_inline)) void put_note(struct uktls_slot *slot, unsigned at, int fd)
{
    atomic_store_explicit(&slot->frames[at], __builtin_frame_address(0), memory_order_relaxed);
    atomic_store_explicit(&slot->numbers[at], fd + 1, memory_order_relaxed);
    /* Whoever changes marks makes every thread pass a barrier (uktls::sys::barrier): here the order in the
     * program is enough. */
    atomic_signal_fence(memory_order_seq_cst);
}

/* The usual call by a number: the thread has a slot, no call of its is under way, and the number has none of the marks
 * `slow`. Returns the slot, in which the call is noted; NULL for all else. */
static inline __attribute__((always_inline)) struct uktls_slot *begin_fast(int fd, uint8_t slow)
{
    struct uktls_slot *slot = uktls_slot;

    if (UNLIKELY(slot == NULL || atomic_load_explicit(&slot->numbers[0], memory_order_relaxed) != 0))
        return NULL;
    put_note(slot, 0, fd);
    if (LIKELY(!(mark_of(fd) & slow)))
        return slot;
    atomic_store_explicit(&slot->numbers[0], 0, memory_order_release);
    return NULL;
}

static inline __attribute__((always_inline)) void end_fast(struct uktls_slot **slot)
{
    if (LIKELY(*slot != NULL))
        atomic_store_explicit(&(*slot)->numbers[0], 0, memory_order_release);
}

#define FAST(fd, slow, next)                                                                                           \
    do {                                                                                                               \
        struct uktls_slot *slot_ __attribute__((cleanup(end_fast))) = begin_fast(fd, slow);                            \
        if (LIKELY(slot_ != NULL))                                                                                     \
            return next;                                                                                               \
    } while (0)

/* Any call that moves bytes by a number or changes what it means, from its look at the mark to its end. */
struct noted {
    struct uktls_slot *slot;
    unsigned at;
    int cell;
    uint8_t way;
};
/* uktls::registry::Way, and that there is an error. */
enum { WAY_PLAIN, WAY_SERVED, WAY_WATCHED, WAY_REFUSED, WAY_FAILED };
/* No cell of uktls::sys::family. */
enum { NO_CELL = -3 };

/* From now on threads get slots. */
void uktls_give_slots(void);
void uktls_note_call(struct noted *call, int fd);
void uktls_end_note(struct noted *call);
/* A call by any number. */
struct noted uktls_note_all(void);
/* As uktls_end_note, and of what there is of another process as well. */
void uktls_end_call(struct noted *call);
/* Begins a call, and says what it does with the number. Reads are not waited for when keys are set (ATT-20), so they
 * leave no note. */
void uktls_begin_out(struct noted *call, int fd);
void uktls_begin_in(struct noted *call, int fd);

/* A call on `fd`: `next` for what carries no TLS, and `served` for what does. It looks again if the number has come to
 * mean something else in between, which the core says by ENOPROTOOPT. The cancellation points of the calls are kept: at
 * their begin, as nothing is lost there. */
#define SLOWLY(begin, fd, served, next)                                                                                \
    for (int errno_before_ = errno;; errno = errno_before_) {                                                          \
        struct noted call_ __attribute__((cleanup(uktls_end_call)));                                                   \
        begin(&call_, fd);                                                                                             \
        if (call_.way == WAY_PLAIN || call_.way == WAY_WATCHED)                                                        \
            return next;                                                                                               \
        if (call_.way != WAY_SERVED)                                                                                   \
            return -1;                                                                                                 \
        pthread_testcancel();                                                                                          \
        __typeof__(served) result_ = (served);                                                                         \
        if (result_ != -1 || errno != ENOPROTOOPT)                                                                     \
            return result_;                                                                                            \
    }
#define OUT(fd, served, next)                                                                                          \
    do {                                                                                                               \
        FAST(fd, SLOW_OUT, next);                                                                                      \
        SLOWLY(uktls_begin_out, fd, served, next)                                                                      \
    } while (0)
#define IN(fd, served, next)                                                                                           \
    do {                                                                                                               \
        if (LIKELY(!(mark_of(fd) & SLOW_IN)))                                                                          \
            return next;                                                                                               \
        SLOWLY(uktls_begin_in, fd, served, next)                                                                       \
    } while (0)

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
/* Within FAST: a thread has a slot when all names have been resolved only. */
#define RESOLVED(name)                                                                                                 \
    ((__typeof__(&name))atomic_load_explicit(&uktls_next[NEXT_##name], memory_order_relaxed))

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

/* Of a stream socket, which is marked. */
#define NOTE_WRITER(fd)                                                                                                \
    do {                                                                                                               \
        if (mark_of(fd))                                                                                               \
            note_writer(fd, __builtin_return_address(0));                                                              \
    } while (0)

/* A bit for each number: whether a thread of the C library may yet write to it (aio.c). */
extern _Atomic uint8_t uktls_queued[MARKS / 8];

static inline bool is_queued(int fd)
{
    return (unsigned)fd < MARKS && atomic_load_explicit(&uktls_queued[fd / 8], memory_order_relaxed) >> fd % 8 & 1;
}

/* What waits in streams over TLS sockets is written now: the C library would do it when we have drained. */
void uktls_flush_streams(void);

/* The core (preload/src). All return what the mirrored call does. */
ssize_t uktls_preload_send(int fd, const void *data, size_t len, int flags);
ssize_t uktls_preload_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t uktls_preload_sendfile(int out, int in, off_t *offset, size_t count);
ssize_t uktls_preload_splice(int in, off64_t *off_in, int out, off64_t *off_out, size_t len, unsigned flags);
ssize_t uktls_preload_recv(int fd, void *data, size_t len, int flags);
ssize_t uktls_preload_recvmsg(int fd, struct msghdr *msg, int flags);
/* Why a socket is left to its program. */
enum decline { DECLINE_NOT, DECLINE_OWN_BIO, DECLINE_STREAM, DECLINE_QUEUED };
int uktls_preload_setsockopt(int fd, int level, int name, const void *value, socklen_t len, enum decline decline);
int uktls_preload_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int uktls_preload_shutdown(int fd, int how);
/* Something that the program cannot read any more than the kernel's queue tells (FIONREAD). */
bool uktls_preload_holds_data(int fd);
int uktls_preload_close(int fd);
/* Takes a descriptor over, out of the program's way; returns its number now. */
int uktls_preload_keep(int fd);
/* What a call by a marked number does: WAY_PLAIN to WAY_REFUSED, or -1. Waits for whoever changes the number. */
int uktls_preload_way(int fd, bool writes);
/* Another process may have keys on the socket: a cell that keeps it from setting some, NO_CELL if none is needed, or
 * -1 if the number has to be looked at again. */
int uktls_preload_watch(int fd);
void uktls_preload_unwatch(int cell);
/* dup and F_DUPFD of a TLS socket (from `least` on, if that is not negative), dup2 and dup3 of or over one. */
int uktls_preload_duplicate(int old, int least);
int uktls_preload_replace(int old, int new_fd, int flags);
/* The kernel has just given the number out: for a stream socket, or something else. What it was is gone. */
void uktls_preload_fresh(int fd, bool is_stream);
/* `new_fd` has just been made a plain duplicate of `old`. */
void uktls_preload_inherit(int old, int new_fd);
/* The same, when that call is over. */
void uktls_preload_came_over(int new_fd);
/* Whether somebody has set keys on the number's socket, or can: it is a connection of the Internet's. */
bool uktls_preload_may_have_keys(int fd);
/* The number has come from another process, or may have. */
void uktls_number_came(int fd);
/* The same, from a process that does not know of that (pidfd_getfd). */
void uktls_number_was_taken(int fd);
/* The number's socket has been passed on: another process may have it. */
void uktls_preload_passed(int fd);
/* The lowest free number, from `least` on if that is not negative, as a descriptor that can do nothing. */
int uktls_preload_placeholder(int least);
/* Whether the TLS socket's number is that in the caller's own table, too: not where the child of a vfork has changed it. */
bool uktls_preload_is_here(int fd);
/* Whether the number is another socket's by system calls that no library sees. It is a plain one then. */
bool uktls_preload_has_been_replaced(int fd);
/* The child of a vfork has done something to a TLS socket's number in its own table. */
extern _Atomic bool uktls_vfork_changed;
/* The slot of notes for a thread that makes its first call; NULL if there is none left. */
struct uktls_slot *uktls_preload_take_slot(void);
void uktls_preload_give_slot(struct uktls_slot *slot);
/* A call for which there is no slot begins (1) or ends (-1). */
void uktls_preload_unnoted(int change);
void uktls_preload_before_fork(void);
/* Before a clone(2) that runs no handlers, and before a thread gets a table of numbers of its own: 0, or -1 and errno if
 * TLS sockets keep the process from that. `returns`: to the caller in both processes, who then says so by the third. */
int uktls_preload_before_clone(uint64_t flags, bool returns);
int uktls_preload_before_unshare(void);
void uktls_preload_after_clone(bool is_child);
/* Another program is about to be started by this process. */
void uktls_preload_before_spawn(void);
/* A child that shares this process's memory, and not its numbers, is about to come into being. */
void uktls_preload_before_vfork(void);
/* Somebody may have got a number of this process, in a way that does not tell of which. */
void uktls_preload_forget_sole(void);
/* The program may have asked for a sandbox, or a narrower one: keys that are set next find out. */
void uktls_preload_forget_sandbox(void);
void uktls_preload_start(void);
/* Whether there was one in this process. */
bool uktls_preload_had_connections(void);
/* Whether there is one now. */
bool uktls_preload_has_connections(void);
/* Every accepted byte goes out; at most for the linger time. */
void uktls_preload_drain(void);
/* The same, where the process may go on. */
void uktls_preload_drain_for_a_child(void);
/* Asked in a signal handler every so many milliseconds of that: whether it never ends. */
bool uktls_preload_drain_stalled(unsigned period_ms);
/* As above; what must not be inherited closes itself on exec. */
void uktls_preload_before_exec(void);
int uktls_preload_poll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
/* Whether that much can be read at the address, in a process that may have TLS sockets: others have nothing to be
 * looked for. */
bool uktls_preload_may_look(const void *start, size_t len);
bool uktls_preload_is_readable(const void *start, size_t len);
bool uktls_preload_is_writable(const void *start, size_t len);
/* What is known of these addresses is not so any more. */
void uktls_preload_forget(const void *start, size_t len);
/* Nor of any others. */
void uktls_preload_forget_memory(void);
/* What is mapped there now: whether it can go away without a call of this process. */
void uktls_preload_mapped(const void *start, size_t len, bool is_fleeting);
bool uktls_preload_is_fleeting(const void *start, size_t len);
void uktls_preload_all_is_fleeting(void);
/* What system calls by syscall(2) change of the memory; whether it is one of those, which has then been made. */
bool uktls_memory_call(long number, const long argument[6], long *result);
/* Whether this is the child of a vfork, which has its parent's memory but descriptors of its own. */
bool uktls_preload_in_vfork(void);

#endif
