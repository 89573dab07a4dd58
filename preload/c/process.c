/* The end of a process, and of its program: what was accepted goes out first (design rule 3). */
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "around.h"

/* _exit may be called in a handler of a signal that came inside malloc(3): then sealing the rest may wait for a
 * lock that this very thread holds. A process that ends ends, so the last seconds are watched over. By system
 * calls: the C library's timer_create takes memory. */
enum { WATCH_SIGNAL = SIGALRM, PERIOD_MS = 500 };

static volatile int end_status;

static void on_watch(int number)
{
    (void)number;
    if (uktls_preload_drain_stalled(PERIOD_MS))
        uktls_syscall(SYS_exit_group, end_status);
}

static void watch_over_the_end(int status)
{
    struct sigaction action = {.sa_handler = on_watch, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WATCH_SIGNAL};
    struct itimerspec every = {{0, PERIOD_MS * 1000000L}, {0, PERIOD_MS * 1000000L}};
    sigset_t watched;
    int timer;

    end_status = status;
    event._sigev_un._tid = (pid_t)uktls_syscall(SYS_gettid);
    sigemptyset(&watched);
    sigaddset(&watched, WATCH_SIGNAL);
    if (uktls_syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0 &&
        sigaction(WATCH_SIGNAL, &action, NULL) == 0 && sigprocmask(SIG_UNBLOCK, &watched, NULL) == 0)
        uktls_syscall(SYS_timer_settime, timer, 0, &every, NULL);
}

void uktls_before_exit(int status)
{
    if (uktls_preload_had_connections()) {
        watch_over_the_end(status);
        uktls_preload_drain();
    }
}

void _exit(int status)
{
    uktls_before_exit(status);
    NEXT(_exit)(status);
    __builtin_unreachable();
}

void _Exit(int status)
{
    _exit(status);
}

/* The parent ends in it, by a hidden _exit. */
int daemon(int no_chdir, int no_close)
{
    uktls_preload_drain_for_a_child();
    return NEXT(daemon)(no_chdir, no_close);
}

int execve(const char *path, char *const arguments[], char *const environment[])
{
    uktls_preload_before_exec();
    return NEXT(execve)(path, arguments, environment);
}

int execv(const char *path, char *const arguments[])
{
    uktls_preload_before_exec();
    return NEXT(execv)(path, arguments);
}

int execvp(const char *file, char *const arguments[])
{
    uktls_preload_before_exec();
    return NEXT(execvp)(file, arguments);
}

int execvpe(const char *file, char *const arguments[], char *const environment[])
{
    uktls_preload_before_exec();
    return NEXT(execvpe)(file, arguments, environment);
}

int execveat(int directory, const char *path, char *const arguments[], char *const environment[], int flags)
{
    uktls_preload_before_exec();
    return NEXT(execveat)(directory, path, arguments, environment, flags);
}

int fexecve(int fd, char *const arguments[], char *const environment[])
{
    uktls_preload_before_exec();
    return NEXT(fexecve)(fd, arguments, environment);
}

/* The arguments of a call with a list of them, as an array: on the stack, as a child of a vfork may do this. */
#define COLLECT(first, last)                                                                                           \
    size_t n_ = 1;                                                                                                     \
    va_list list_;                                                                                                     \
    va_start(list_, first);                                                                                            \
    while (va_arg(list_, char *) != NULL)                                                                              \
        n_++;                                                                                                          \
    va_end(list_);                                                                                                     \
    char *arguments[n_ + 1];                                                                                           \
    va_start(list_, first);                                                                                            \
    arguments[0] = (char *)first;                                                                                      \
    for (size_t i = 1; i <= n_; i++)                                                                                   \
        arguments[i] = va_arg(list_, char *);                                                                          \
    last va_end(list_)

int execl(const char *path, const char *first, ...)
{
    COLLECT(first, );
    return execv(path, arguments);
}

int execlp(const char *file, const char *first, ...)
{
    COLLECT(first, );
    return execvp(file, arguments);
}

int execle(const char *path, const char *first, ...)
{
    char *const *environment;

    COLLECT(first, environment = va_arg(list_, char *const *););
    return execve(path, arguments, environment);
}

/* The program that it starts may have sockets of this process (spawn.c). */
int system(const char *command)
{
    uktls_preload_before_spawn();
    return NEXT(system)(command);
}

/* Before the vfork of vfork.S; returns the next one. */
void *uktls_before_vfork(void);
void *uktls_before_vfork(void)
{
    if (!uktls_preload_in_vfork())
        uktls_preload_before_vfork();
    return next_of(NEXT_vfork);
}

/* Runs no handlers (pthread_atfork): the child has the marks of its parent, and is refused its connections. */
pid_t _Fork(void);
pid_t _Fork(void)
{
    pid_t child;

    if (uktls_preload_before_clone(SIGCHLD, true) < 0)
        return -1;
    child = NEXT(_Fork)();
    uktls_after_clone(child);
    return child;
}

/* Where the child of a clone begins. What it has of its parent's stack is a copy. */
struct beginning {
    int (*body)(void *);
    void *argument;
};

static int begin(void *argument)
{
    struct beginning beginning = *(struct beginning *)argument;

    uktls_after_clone(0);
    return beginning.body(beginning.argument);
}

int clone(int (*body)(void *), void *stack, int flags, void *argument, ...)
{
    /* With storage of its own for threads the child knows nothing of what is held here. */
    bool returns = !(flags & (CLONE_VM | CLONE_SETTLS));
    struct beginning beginning = {body, argument};
    va_list list;
    void *parent, *area, *child;
    int result;

    va_start(list, argument);
    parent = va_arg(list, void *);
    area = va_arg(list, void *);
    child = va_arg(list, void *);
    va_end(list);
    if (uktls_preload_before_clone((unsigned)flags, returns) < 0)
        return -1;
    if (!returns || body == NULL || stack == NULL) {
        result = NEXT(clone)(body, stack, flags, argument, parent, area, child);
    } else {
        result = NEXT(clone)(begin, stack, flags, &beginning, parent, area, child);
    }
    if (returns)
        uktls_after_clone(result < 0 ? -1 : 1);
    return result;
}

int unshare(int flags)
{
    if (flags & CLONE_FILES && uktls_preload_before_unshare() < 0)
        return -1;
    return NEXT(unshare)(flags);
}
