/* Functions of the C library that read, write or bring a number by names that cannot be interposed. */
#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "around.h"

void uktls_after_clone(long result)
{
    int saved = errno;

    uktls_preload_after_clone(result == 0);
    errno = saved;
}

void uktls_numbers_came(const struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR((struct msghdr *)msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int came;

            memcpy(&came, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            uktls_number_came(came);
        }
    }
}

/* Since glibc 2.36; the header of an older one has no prototype. */
int pidfd_getfd(int pidfd, int target, unsigned flags);
int pidfd_getfd(int pidfd, int target, unsigned flags)
{
    int fd;

    uktls_preload_forget_sole();
    fd = NEXT(pidfd_getfd)(pidfd, target, flags);
    if (fd >= 0)
        uktls_number_was_taken(fd);
    return fd;
}

/* Its other calls look at nothing but what they are told. */
int prctl(int option, ...)
{
    unsigned long arguments[4];
    va_list list;
    int result;

    va_start(list, option);
    for (int i = 0; i < 4; i++)
        arguments[i] = va_arg(list, unsigned long);
    va_end(list);
    result = NEXT(prctl)(option, arguments[0], arguments[1], arguments[2], arguments[3]);
    if (option == PR_SET_SECCOMP)
        uktls_preload_forget_sandbox();
    return result;
}

int eventfd_write(int fd, eventfd_t value)
{
    if (UNLIKELY(mark_of(fd) & SLOW_OUT))
        return write(fd, &value, sizeof(value)) == sizeof(value) ? 0 : -1;
    OUT(fd, write(fd, &value, sizeof(value)) == sizeof(value) ? 0 : -1, NEXT(eventfd_write)(fd, value));
}

int eventfd_read(int fd, eventfd_t *value)
{
    if (is_tls(fd))
        return read(fd, value, sizeof(*value)) == sizeof(*value) ? 0 : -1;
    return NEXT(eventfd_read)(fd, value);
}

static size_t put(struct iovec *iov, size_t n, const char *text)
{
    iov[n] = (struct iovec){(void *)(uintptr_t)text, strlen(text)};
    return n + 1;
}

/* The end of `room`, with the number in front of it. */
static const char *hexadecimal(uintptr_t number, char room[2 * sizeof(number) + 1])
{
    char *at = room + 2 * sizeof(number);

    *at = '\0';
    do {
        *--at = "0123456789abcdef"[number & 15];
        number >>= 4;
    } while (number != 0);
    return at;
}

/* Lines as the C library's. No memory is taken: a handler of SIGSEGV may ask. */
void backtrace_symbols_fd(void *const *array, int size, int fd)
{
    {
        struct noted call __attribute__((cleanup(uktls_end_call)));

        uktls_begin_out(&call, fd);
        if (LIKELY(call.way == WAY_PLAIN || call.way == WAY_WATCHED)) {
            NEXT(backtrace_symbols_fd)(array, size, fd);
            return;
        }
    }
    for (int i = 0; i < size; i++) {
        char offset_room[2 * sizeof(uintptr_t) + 1], address_room[2 * sizeof(uintptr_t) + 1];
        uintptr_t address = (uintptr_t)array[i];
        struct link_map *map = NULL;
        struct iovec iov[9];
        Dl_info info;
        size_t n = 0;

        if (dladdr1(array[i], &info, (void **)&map, RTLD_DL_LINKMAP) && info.dli_fname != NULL && *info.dli_fname) {
            n = put(iov, n, info.dli_fname);
            if (info.dli_sname != NULL || map->l_addr != 0) {
                uintptr_t start = info.dli_sname != NULL ? (uintptr_t)info.dli_saddr : (uintptr_t)map->l_addr;

                n = put(iov, n, "(");
                if (info.dli_sname != NULL)
                    n = put(iov, n, info.dli_sname);
                n = put(iov, n, address >= start ? "+0x" : "-0x");
                n = put(iov, n, hexadecimal(address >= start ? address - start : start - address, offset_room));
                n = put(iov, n, ")");
            }
        }
        n = put(iov, n, "[0x");
        n = put(iov, n, hexadecimal(address, address_room));
        n = put(iov, n, "]\n");
        (void)writev(fd, iov, (int)n);
    }
}

TWIN(__backtrace_symbols_fd, backtrace_symbols_fd);

/* Its text is the C library's own affair: nothing is said at all. */
void psiginfo(const siginfo_t *info, const char *text)
{
    if (!is_tls(STDERR_FILENO))
        NEXT(psiginfo)(info, text);
}
