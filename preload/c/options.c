/* Options of sockets and of descriptors. */
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "around.h"

#ifndef SOL_TCP
#define SOL_TCP 6
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* OpenSSL hands keys over by the control function of its socket BIO. A program may have a BIO of its own that
 * has this function but writes by itself (PostgreSQL up to 16): it would send alerts as data. Its writes, the
 * last of which was the end of the handshake, come from the program; those of the socket BIO from libcrypto. */
static bool has_own_bio(int fd, const void *caller)
{
    const void *writer = (unsigned)fd < MARKS ? uktls_last_writer[fd] : NULL;
    Dl_info of_caller, of_writer;

    if (writer == NULL || !dladdr(caller, &of_caller) || strstr(of_caller.dli_fname, "libcrypto") == NULL)
        return false;
    return dladdr(writer, &of_writer) && of_writer.dli_fbase != of_caller.dli_fbase;
}

static enum decline decline(int fd, const void *caller)
{
    /* What the C library writes to standard error by itself (assert, malloc) cannot be sealed. */
    if (fd == STDERR_FILENO)
        return DECLINE_STREAM;
    if (is_queued(fd))
        return DECLINE_QUEUED;
    return has_own_bio(fd, caller) ? DECLINE_OWN_BIO : DECLINE_NOT;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    bool asks_for_tls = level == SOL_TLS || (level == SOL_TCP && name == TCP_ULP);

    if (LIKELY(!is_tls(fd) && !asks_for_tls))
        return NEXT(setsockopt)(fd, level, name, value, len);
    return uktls_preload_setsockopt(fd, level, name, value, len,
                                    asks_for_tls ? decline(fd, __builtin_return_address(0)) : DECLINE_NOT);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    if (is_tls(fd))
        return uktls_preload_getsockopt(fd, level, name, value, len);
    return NEXT(getsockopt)(fd, level, name, value, len);
}

int uktls_control(int fd, int command, void *argument, int (*next)(int, int, ...))
{
    /* Another program would send in the clear: the socket stays closed to it. */
    if (command == F_SETFD && is_tls(fd) && uktls_preload_is_here(fd))
        argument = (void *)((uintptr_t)argument | FD_CLOEXEC);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        return uktls_duplicate(fd, command, (int)(uintptr_t)argument, next);
    return next(fd, command, argument);
}

/* The third argument is an int, a long or a pointer, and one register for all of them. */
int fcntl(int fd, int command, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return uktls_control(fd, command, argument, NEXT(fcntl));
}

TWIN(__fcntl, fcntl);

int fcntl64(int fd, int command, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return uktls_control(fd, command, argument, NEXT(fcntl64));
}

int shutdown(int fd, int how)
{
    return is_tls(fd) ? uktls_preload_shutdown(fd, how) : NEXT(shutdown)(fd, how);
}
