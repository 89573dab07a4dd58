/* The end of a process, and of its program: what was accepted goes out first (design rule 3). */
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "interpose.h"

void _exit(int status)
{
    if (!uktls_preload_in_vfork())
        uktls_preload_drain();
    NEXT(_exit)(status);
    __builtin_unreachable();
}

void _Exit(int status)
{
    _exit(status);
}

void quick_exit(int status)
{
    uktls_preload_drain();
    NEXT(quick_exit)(status);
    __builtin_unreachable();
}

/* The parent ends in it, by a hidden _exit. */
int daemon(int no_chdir, int no_close)
{
    uktls_preload_drain();
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

/* Its dup2 is one of the C library's own, and takes the flag off by which a TLS socket is closed to the next
 * program. */
int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int new_fd)
{
    return is_tls(fd) ? EOPNOTSUPP : NEXT(posix_spawn_file_actions_adddup2)(actions, fd, new_fd);
}
