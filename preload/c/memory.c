/* What changes whether memory can be read or written. What is known of it is forgotten: an address that was
 * good once is asked about again. By system calls: a memory allocator may be who calls, in the middle of
 * looking up the next function. */
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include "interpose.h"
#include "raw.h"

static void *map(void *start, size_t len, int protection, int flags, int fd, off64_t offset)
{
    /* mmap(2): the offset of SYS_mmap is in bytes on all 64-bit machines. */
    void *mapped = (void *)uktls_syscall(SYS_mmap, start, len, protection, flags, fd, offset);

    /* New memory is as good as what was there; a file may be shorter. */
    if (mapped != MAP_FAILED &&
        (!(flags & MAP_ANONYMOUS) || (protection & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE)))
        uktls_preload_forget(mapped, len);
    return mapped;
}

void *mmap(void *start, size_t len, int protection, int flags, int fd, off_t offset)
{
    return map(start, len, protection, flags, fd, offset);
}

void *mmap64(void *start, size_t len, int protection, int flags, int fd, off64_t offset)
{
    return map(start, len, protection, flags, fd, offset);
}

/* Behind the call: before it, another thread could ask in between. */
int munmap(void *start, size_t len)
{
    int result = (int)uktls_syscall(SYS_munmap, start, len);

    uktls_preload_forget(start, len);
    return result;
}

void *mremap(void *start, size_t len, size_t new_len, int flags, ...)
{
    va_list arguments;
    void *target, *moved;

    va_start(arguments, flags);
    target = va_arg(arguments, void *);
    va_end(arguments);
    moved = (void *)uktls_syscall(SYS_mremap, start, len, new_len, flags, target);
    uktls_preload_forget(start, len);
    return moved;
}

int mprotect(void *start, size_t len, int protection)
{
    int result = (int)uktls_syscall(SYS_mprotect, start, len, protection);

    uktls_preload_forget(start, len);
    return result;
}
