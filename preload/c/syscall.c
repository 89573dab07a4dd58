/* What of syscall(2) is about TLS sockets or changes what a number is: the same as by the functions of these names.
 * All else is the kernel's, by whoever is next (syscall.S).
 *
 * The next function of a name may make its call by syscall(2) itself, so none is called here: that would never end. */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <time.h>
#include <unistd.h>

#include <netinet/tcp.h>

#include "around.h"

#ifndef SOL_TCP
#define SOL_TCP 6
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* Of syscall.S. */
struct call {
    long number;
    long a[6];
    const void *caller;
    long result;
};
_Static_assert(sizeof(struct call) == 72, "syscall.S lays it out");

/* As syscall.S has it. */
enum { NUMBERS = 512 };

const uint8_t uktls_served[NUMBERS] = {
    [SYS_read] = 1, [SYS_write] = 1, [SYS_readv] = 1, [SYS_writev] = 1, [SYS_preadv2] = 1, [SYS_pwritev2] = 1,
    [SYS_sendto] = 1, [SYS_recvfrom] = 1, [SYS_sendmsg] = 1, [SYS_recvmsg] = 1, [SYS_sendmmsg] = 1, [SYS_recvmmsg] = 1,
    [SYS_sendfile] = 1, [SYS_splice] = 1, [SYS_io_submit] = 1,
    [SYS_dup] = 1, [SYS_dup3] = 1, [SYS_fcntl] = 1, [SYS_close] = 1, [SYS_close_range] = 1,
    [SYS_shutdown] = 1, [SYS_setsockopt] = 1, [SYS_getsockopt] = 1, [SYS_ioctl] = 1,
    [SYS_ppoll] = 1, [SYS_pselect6] = 1,
    [SYS_accept] = 1, [SYS_accept4] = 1, [SYS_socket] = 1, [SYS_socketpair] = 1, [SYS_connect] = 1,
    [SYS_execve] = 1, [SYS_execveat] = 1, [SYS_exit_group] = 1, [SYS_pidfd_getfd] = 1,
    [SYS_clone] = 1, [SYS_clone3] = 1, [SYS_unshare] = 1,
    [SYS_mmap] = 1, [SYS_munmap] = 1, [SYS_mremap] = 1, [SYS_mprotect] = 1, [SYS_pkey_mprotect] = 1, [SYS_brk] = 1,
    [SYS_shmat] = 1, [SYS_shmdt] = 1, [SYS_remap_file_pages] = 1, [SYS_madvise] = 1, [SYS_process_madvise] = 1,
    [SYS_userfaultfd] = 1, [SYS_prctl] = 1, [SYS_seccomp] = 1,
#ifdef SYS_dup2
    [SYS_dup2] = 1,
#endif
#ifdef SYS_poll
    [SYS_poll] = 1,
#endif
#ifdef SYS_select
    [SYS_select] = 1,
#endif
#ifdef SYS_fork
    [SYS_fork] = 1,
#endif
#ifdef SYS_vfork
    [SYS_vfork] = 1,
#endif
};

/* Whether a call on the number is not the kernel's alone. */
static bool concerns(int fd)
{
    return UNLIKELY(mark_of(fd) & (SLOW_IN | SLOW_OUT | MARK_OWN));
}

#define POINTER(i) ((void *)call->a[i])
#define INT(i) ((int)call->a[i])

/* By an interposed function, less its cancellation point: syscall(2) is none. */
#define SERVE(expression)                                                                                              \
    do {                                                                                                               \
        int state_;                                                                                                    \
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_);                                                       \
        call->result = (expression);                                                                                   \
        pthread_setcancelstate(state_, NULL);                                                                          \
        return true;                                                                                                   \
    } while (0)

/* Behind the end of what the call takes as well. */
static int vector_len(long n)
{
    return n < 0 || n > 1024 ? -1 : (int)n;
}

/* The call as it came. */
static long as_it_came(const struct call *call)
{
    return uktls_next_syscall(call->number, call->a[0], call->a[1], call->a[2], call->a[3], call->a[4], call->a[5]);
}

/* The number by which bytes leave, or -1 for a call that reads. */
static int written_by(const struct call *call)
{
    switch (call->number) {
    case SYS_write:
    case SYS_writev:
    case SYS_pwritev2:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_sendmmsg:
    case SYS_sendfile:
        return (int)call->a[0];
    case SYS_splice:
        return (int)call->a[2];
    }
    return -1;
}

/* A message that passes a TLS socket on is refused. */
static bool is_refused(const struct call *call)
{
    return (call->number == SYS_sendmsg && uktls_passes_tls((void *)call->a[1])) ||
           (call->number == SYS_sendmmsg && uktls_any_passes_tls((void *)call->a[1], (unsigned)call->a[2]));
}

/* What has gone out with descriptors or come with some. The kernel has read and written the messages. */
static void tell_of_messages(const struct call *call)
{
    struct msghdr *msg = (void *)call->a[1];
    struct mmsghdr *messages = (void *)call->a[1];

    if (call->number == SYS_sendmsg && call->result >= 0)
        uktls_note_passed(msg);
    if (call->number == SYS_recvmsg && call->result >= 0 && msg->msg_controllen > 0)
        uktls_numbers_came(msg);
    for (long i = 0; i < call->result && call->number == SYS_sendmmsg; i++)
        uktls_note_passed(&messages[i].msg_hdr);
    for (long i = 0; i < call->result && call->number == SYS_recvmmsg; i++)
        if (messages[i].msg_hdr.msg_controllen > 0)
            uktls_numbers_came(&messages[i].msg_hdr);
}

/* What moves bytes. By numbers that are not served it is the kernel's, noted until it is over, as by the functions. */
static bool transfer(struct call *call)
{
    int fd = INT(0), out = written_by(call);
    /* The kernel has the offset in two arguments; on 64-bit machines the second has nothing of it. With one it fails
     * on any socket. */
    bool is_kernels = (call->number == SYS_preadv2 || call->number == SYS_pwritev2) && call->a[3] != -1;

    if (out >= 0)
        note_writer(out, call->caller);
    {
        struct noted noted __attribute__((cleanup(uktls_end_call)));

        if (out >= 0)
            uktls_begin_out(&noted, out);
        else
            uktls_begin_in(&noted, fd);
        if (call->number == SYS_splice && is_tls(fd))
            noted.way = WAY_SERVED;
        if (LIKELY(noted.way == WAY_PLAIN || noted.way == WAY_WATCHED) || is_kernels) {
            if (is_refused(call)) {
                errno = EOPNOTSUPP;
                call->result = -1;
                return true;
            }
            call->result = as_it_came(call);
            tell_of_messages(call);
            return true;
        }
        if (noted.way != WAY_SERVED) {
            call->result = -1;
            return true;
        }
    }
    switch (call->number) {
    case SYS_sendfile:
        SERVE(sendfile(fd, INT(1), POINTER(2), (size_t)call->a[3]));
    case SYS_splice:
        SERVE(splice(fd, POINTER(1), INT(2), POINTER(3), (size_t)call->a[4], (unsigned)call->a[5]));
    case SYS_sendmsg:
        SERVE(sendmsg(fd, POINTER(1), INT(2)));
    case SYS_sendmmsg:
        SERVE(sendmmsg(fd, POINTER(1), (unsigned)call->a[2], INT(3)));
    case SYS_recvmsg:
        SERVE(recvmsg(fd, POINTER(1), INT(2)));
    case SYS_recvmmsg:
        SERVE(recvmmsg(fd, POINTER(1), (unsigned)call->a[2], INT(3), POINTER(4)));
    case SYS_read:
        SERVE(read(fd, POINTER(1), (size_t)call->a[2]));
    case SYS_write:
        SERVE(write(fd, POINTER(1), (size_t)call->a[2]));
    case SYS_readv:
        SERVE(readv(fd, POINTER(1), vector_len(call->a[2])));
    case SYS_writev:
        SERVE(writev(fd, POINTER(1), vector_len(call->a[2])));
    case SYS_preadv2:
        SERVE(preadv2(fd, POINTER(1), vector_len(call->a[2]), -1, INT(5)));
    case SYS_pwritev2:
        SERVE(pwritev2(fd, POINTER(1), vector_len(call->a[2]), -1, INT(5)));
    case SYS_sendto:
        SERVE(sendto(fd, POINTER(1), (size_t)call->a[2], INT(3), POINTER(4), (socklen_t)call->a[5]));
    case SYS_recvfrom:
        SERVE(recvfrom(fd, POINTER(1), (size_t)call->a[2], INT(3), POINTER(4), POINTER(5)));
    }
    return false;
}

/* The kernel's asynchronous I/O: as by aio_write(3). */
static bool submit(struct call *call)
{
    struct iocb **list = POINTER(2);

    for (long i = 0; i < call->a[1]; i++) {
        if (LIKELY(!uktls_preload_may_look(&list[i], sizeof(*list)) ||
                   !uktls_preload_may_look(list[i], sizeof(**list))))
            return false;
        if (list[i]->aio_lio_opcode != IOCB_CMD_POLL && concerns((int)list[i]->aio_fildes)) {
            errno = EOPNOTSUPP;
            call->result = -1;
            return true;
        }
    }
    return false;
}

static int next_close(int fd)
{
    return (int)uktls_next_syscall(SYS_close, fd);
}

static int next_dup(int old, int command, ...)
{
    (void)command;
    return (int)uktls_next_syscall(SYS_dup, old);
}

static int next_fcntl(int fd, int command, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return (int)uktls_next_syscall(SYS_fcntl, fd, command, argument);
}

static int next_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return (int)uktls_next_syscall(SYS_ioctl, fd, request, argument);
}

#ifdef SYS_dup2
static int next_dup2(int old, int new_fd, int flags)
{
    (void)flags;
    return (int)uktls_next_syscall(SYS_dup2, old, new_fd);
}
#endif

static int next_dup3(int old, int new_fd, int flags)
{
    return (int)uktls_next_syscall(SYS_dup3, old, new_fd, flags);
}

static int next_close_range(unsigned first, unsigned last, int flags)
{
    return (int)uktls_next_syscall(SYS_close_range, first, last, flags);
}

static bool is_marked(unsigned first, unsigned last)
{
    for (unsigned fd = first; fd <= last && fd < MARKS; fd++)
        if (mark_of((int)fd) & ~uktls_floor())
            return true;
    return false;
}

/* What makes, changes and takes away numbers. */
static bool number(struct call *call)
{
    switch (call->number) {
    case SYS_dup:
        call->result = uktls_duplicate(INT(0), -1, 0, next_dup);
        return true;
#ifdef SYS_dup2
    case SYS_dup2:
        call->result = uktls_dup_over(INT(0), INT(1), 0, next_dup2);
        return true;
#endif
    case SYS_dup3:
        if (INT(0) == INT(1))
            return false;
        call->result = uktls_dup_over(INT(0), INT(1), INT(2), next_dup3);
        return true;
    case SYS_fcntl:
        if (!concerns(INT(0)) && INT(1) != F_DUPFD && INT(1) != F_DUPFD_CLOEXEC)
            return false;
        call->result = uktls_control(INT(0), INT(1), POINTER(2), next_fcntl);
        return true;
    case SYS_ioctl:
        if (!concerns(INT(0)))
            return false;
        call->result = uktls_ioctl(INT(0), (unsigned long)call->a[1], POINTER(2), next_ioctl);
        return true;
    case SYS_close:
        call->result = uktls_close_by(INT(0), next_close);
        return true;
    case SYS_close_range:
        if (uktls_unshare_range((unsigned)call->a[0], (unsigned)call->a[1], INT(2), next_close_range) < 0) {
            call->result = -1;
            return true;
        }
        call->a[2] &= ~CLOSE_RANGE_UNSHARE;
        /* It closes what is marked itself, and nothing is by then; with CLOSE_RANGE_CLOEXEC it closes nothing. */
        if (INT(2) != 0 || !is_marked((unsigned)call->a[0], (unsigned)call->a[1]) ||
            uktls_preload_in_vfork())
            return false;
        SERVE(close_range((unsigned)call->a[0], (unsigned)call->a[1], INT(2)));
    case SYS_socket:
        call->result = uktls_fresh((int)uktls_next_syscall(SYS_socket, call->a[0], call->a[1], call->a[2]), INT(1));
        return true;
    case SYS_socketpair: {
        int *pair = POINTER(3);

        call->result = uktls_next_syscall(SYS_socketpair, call->a[0], call->a[1], call->a[2], pair);
        if (call->result == 0) {
            uktls_fresh(pair[0], INT(1));
            uktls_fresh(pair[1], INT(1));
        }
        return true;
    }
    case SYS_accept:
        call->result = uktls_fresh((int)uktls_next_syscall(SYS_accept, call->a[0], call->a[1], call->a[2]), SOCK_STREAM);
        return true;
    case SYS_accept4:
        call->result =
            uktls_fresh((int)uktls_next_syscall(SYS_accept4, call->a[0], call->a[1], call->a[2], call->a[3]), SOCK_STREAM);
        return true;
    case SYS_pidfd_getfd:
        uktls_preload_forget_sole();
        call->result = uktls_next_syscall(SYS_pidfd_getfd, call->a[0], call->a[1], call->a[2]);
        if (call->result >= 0)
            uktls_number_was_taken((int)call->result);
        return true;
    case SYS_connect:
        if (!uktls_disconnects(INT(0), POINTER(1), (socklen_t)call->a[2]))
            return false;
        errno = EOPNOTSUPP;
        call->result = -1;
        return true;
    case SYS_shutdown:
        if (!concerns(INT(0)))
            return false;
        SERVE(shutdown(INT(0), INT(1)));
    case SYS_getsockopt:
        if (!concerns(INT(0)))
            return false;
        SERVE(getsockopt(INT(0), INT(1), INT(2), POINTER(3), POINTER(4)));
    case SYS_setsockopt:
        if (!concerns(INT(0)) && INT(1) != SOL_TLS && !(INT(1) == SOL_TCP && INT(2) == TCP_ULP))
            return false;
        SERVE(setsockopt(INT(0), INT(1), INT(2), POINTER(3), (socklen_t)call->a[4]));
    }
    return false;
}

/* The kernel tells by the program's own timeout how much of it is left; the functions of the C library do not. */
static struct timespec now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static void tell_what_is_left(struct timespec *timeout, struct timespec begin)
{
    struct timespec end = now();
    struct timespec left = {timeout->tv_sec - (end.tv_sec - begin.tv_sec),
                            timeout->tv_nsec - (end.tv_nsec - begin.tv_nsec)};

    if (left.tv_nsec < 0)
        left = (struct timespec){left.tv_sec - 1, left.tv_nsec + 1000000000};
    if (left.tv_nsec >= 1000000000)
        left = (struct timespec){left.tv_sec + 1, left.tv_nsec - 1000000000};
    *timeout = left.tv_sec < 0 ? (struct timespec){0, 0} : left;
}

/* The kernel's signal mask, of which the C library's is longer. */
enum { MASK_LEN = 8 };

/* What `wait` returns; `timeout` is told what is left of it. */
#define SERVE_WITHIN(timeout, wait)                                                                                    \
    do {                                                                                                               \
        struct timespec begin_ = now(), *timeout_ = (timeout);                                                         \
        int state_;                                                                                                    \
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state_);                                                       \
        call->result = (wait);                                                                                         \
        pthread_setcancelstate(state_, NULL);                                                                          \
        if (timeout_ != NULL && (call->result >= 0 || errno == EINTR) &&                                               \
            uktls_preload_is_writable(timeout_, sizeof(*timeout_)))                                                    \
            tell_what_is_left(timeout_, begin_);                                                                       \
        return true;                                                                                                   \
    } while (0)

static bool ready(struct call *call)
{
    switch (call->number) {
#ifdef SYS_poll
    case SYS_poll:
        if (!uktls_polls_tls(POINTER(0), (nfds_t)call->a[1]))
            return false;
        SERVE(poll(POINTER(0), (nfds_t)call->a[1], INT(2)));
#endif
#ifdef SYS_select
    case SYS_select:
        if (!uktls_selects_tls(INT(0), POINTER(1), POINTER(2), POINTER(3)))
            return false;
        SERVE(select(INT(0), POINTER(1), POINTER(2), POINTER(3), POINTER(4)));
#endif
    case SYS_ppoll:
        if (!uktls_polls_tls(POINTER(0), (nfds_t)call->a[1]) || (call->a[3] != 0 && call->a[4] != MASK_LEN))
            return false;
        SERVE_WITHIN(POINTER(2), ppoll(POINTER(0), (nfds_t)call->a[1], POINTER(2), POINTER(3)));
    case SYS_pselect6: {
        const struct {
            const sigset_t *mask;
            size_t len;
        } *with = POINTER(5);

        if (!uktls_selects_tls(INT(0), POINTER(1), POINTER(2), POINTER(3)) ||
            (with != NULL && (!uktls_preload_may_look(with, sizeof(*with)) ||
                              (with->mask != NULL && with->len != MASK_LEN))))
            return false;
        SERVE_WITHIN(POINTER(4), pselect(INT(0), POINTER(1), POINTER(2), POINTER(3), POINTER(4),
                                         with != NULL ? with->mask : NULL));
    }
    }
    return false;
}

/* What of struct clone_args is looked at, by eight bytes each. */
enum { CLONE3_FLAGS = 0, CLONE3_STACK = 5 };
#ifndef CLONE_ARGS_SIZE_VER0
#define CLONE_ARGS_SIZE_VER0 64
#endif

/* A call that makes a task. One with memory of its own that goes on at the same place is made from here; any other must
 * find the stack as it came. */
static bool clone_by(struct call *call, uint64_t flags, bool has_stack)
{
    bool returns = !(flags & (CLONE_VM | CLONE_SETTLS)) && !has_stack;

    if (uktls_preload_before_clone(flags, returns) < 0) {
        call->result = -1;
        return true;
    }
    if (!returns)
        return false;
    call->result = as_it_came(call);
    uktls_after_clone(call->result);
    return true;
}

static bool serve(struct call *call)
{
    switch (call->number) {
    case SYS_read:
    case SYS_write:
    case SYS_readv:
    case SYS_writev:
    case SYS_preadv2:
    case SYS_pwritev2:
    case SYS_sendto:
    case SYS_recvfrom:
    case SYS_sendmsg:
    case SYS_recvmsg:
    case SYS_sendmmsg:
    case SYS_recvmmsg:
    case SYS_sendfile:
    case SYS_splice:
        return transfer(call);
    case SYS_io_submit:
        return submit(call);
#ifdef SYS_poll
    case SYS_poll:
#endif
#ifdef SYS_select
    case SYS_select:
#endif
    case SYS_ppoll:
    case SYS_pselect6:
        return ready(call);
    case SYS_execve:
    case SYS_execveat:
        uktls_preload_before_exec();
        return false;
    case SYS_prctl:
    case SYS_seccomp:
        uktls_preload_forget_sandbox();
        return false;
    case SYS_exit_group:
        uktls_before_exit(INT(0));
        return false;
    case SYS_unshare:
        if (!(call->a[0] & CLONE_FILES) || uktls_preload_before_unshare() == 0)
            return false;
        call->result = -1;
        return true;
    case SYS_clone:
        return clone_by(call, (unsigned long)call->a[0], call->a[1] != 0);
    case SYS_clone3: {
        const uint64_t *arguments = POINTER(0);

        /* Otherwise the kernel says what is wrong. */
        if ((size_t)call->a[1] < CLONE_ARGS_SIZE_VER0 || !uktls_preload_is_readable(arguments, CLONE_ARGS_SIZE_VER0))
            return false;
        return clone_by(call, arguments[CLONE3_FLAGS], arguments[CLONE3_STACK] != 0);
    }
#ifdef SYS_fork
    case SYS_fork:
        return clone_by(call, SIGCHLD, false);
#endif
#ifdef SYS_vfork
    case SYS_vfork:
        return clone_by(call, CLONE_VM | CLONE_VFORK | SIGCHLD, true);
#endif
    default:
        return uktls_memory_call(call->number, call->a, &call->result) || number(call);
    }
}

/* Whether the call is made, and its result there; otherwise the kernel is asked with the arguments as they are now. */
bool uktls_serve(struct call *call);
bool uktls_serve(struct call *call)
{
    /* The kernel looks at so much of it. */
    call->number = (int)call->number;
    return serve(call);
}
