/* What changes whether memory can be read or written. What is known of it is forgotten: an address that was
 * good once is asked about again. By system calls: a memory allocator may be who calls, in the middle of
 * looking up the next function.
 *
 * What the C library takes away for itself (free, dlclose, the stack of a thread that has ended) is not seen. */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "interpose.h"
#include "raw.h"

enum { READ_WRITE = PROT_READ | PROT_WRITE };

static void *map(void *start, size_t len, int protection, int flags, int fd, off64_t offset)
{
    /* mmap(2): the offset of SYS_mmap is in bytes on all 64-bit machines. */
    void *mapped = (void *)uktls_syscall(SYS_mmap, start, len, protection, flags, fd, offset);
    bool is_file = !(flags & MAP_ANONYMOUS);

    if (mapped == MAP_FAILED)
        return mapped;
    /* A file is cut short by whoever may write to it. */
    uktls_preload_mapped(mapped, len, is_file);
    /* New memory is as good as what was there; a file may be shorter. */
    if (is_file || (protection & READ_WRITE) != READ_WRITE)
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

    if (result == 0)
        uktls_preload_mapped(start, len, false);
    uktls_preload_forget(start, len);
    return result;
}

static void *move(void *start, size_t len, size_t new_len, int flags, void *target)
{
    bool is_fleeting = uktls_preload_is_fleeting(start, len);
    void *moved = (void *)uktls_syscall(SYS_mremap, start, len, new_len, flags, target);

    if (moved != MAP_FAILED) {
        uktls_preload_mapped(moved, new_len, is_fleeting);
        uktls_preload_forget(moved, new_len);
    }
    uktls_preload_forget(start, len);
    return moved;
}

void *mremap(void *start, size_t len, size_t new_len, int flags, ...)
{
    va_list arguments;
    void *target;

    va_start(arguments, flags);
    target = va_arg(arguments, void *);
    va_end(arguments);
    return move(start, len, new_len, flags, target);
}

int mprotect(void *start, size_t len, int protection)
{
    int result = (int)uktls_syscall(SYS_mprotect, start, len, protection);

    uktls_preload_forget(start, len);
    return result;
}

/* What a key allows, each thread says for itself, by an instruction. */
int pkey_mprotect(void *start, size_t len, int protection, int key)
{
    int result = key == -1 ? (int)uktls_syscall(SYS_mprotect, start, len, protection)
                           : (int)uktls_syscall(SYS_pkey_mprotect, start, len, protection, key);

    if (result == 0 && key > 0 && !uktls_preload_is_fleeting(start, len))
        uktls_preload_mapped(start, len, true);
    uktls_preload_forget(start, len);
    return result;
}

/* Neither says how long it is. */
void *shmat(int id, const void *start, int flags)
{
    void *attached = (void *)uktls_syscall(SYS_shmat, id, start, flags);

    uktls_preload_forget_memory();
    return attached;
}

int shmdt(const void *start)
{
    int result = (int)uktls_syscall(SYS_shmdt, start);

    uktls_preload_forget_memory();
    return result;
}

/* The C library keeps where the end is, and has this name of sbrk(2) as well. It may be called before anything else. */
void *__sbrk(intptr_t change);

void *sbrk(intptr_t change)
{
    void *before = __sbrk(change);

    if (change < 0 && before != (void *)-1)
        uktls_preload_forget((char *)before + change, (size_t)-change);
    return before;
}

int brk(void *end)
{
    char *before = __sbrk(0);

    /* An end below the beginning is refused by the kernel, which the C library tells by ENOMEM. */
    return sbrk((char *)end - before) == (void *)-1 ? -1 : 0;
}

int remap_file_pages(void *start, size_t len, int protection, size_t offset, int flags)
{
    int result = (int)uktls_syscall(SYS_remap_file_pages, start, len, protection, offset, flags);

    uktls_preload_forget(start, len);
    return result;
}

/* Guard pages (Linux 6.13), poisoned ones: all others of these numbers are for memory as it is to be used. */
enum { FIRST_THAT_HARMS = 100 };

int madvise(void *start, size_t len, int advice)
{
    int result = (int)uktls_syscall(SYS_madvise, start, len, advice);

    if (advice >= FIRST_THAT_HARMS)
        uktls_preload_forget(start, len);
    return result;
}

ssize_t process_madvise(int pidfd, const struct iovec *pieces, size_t count, int advice, unsigned flags)
{
    ssize_t result = uktls_syscall(SYS_process_madvise, pidfd, pieces, count, advice, flags);

    if (advice >= FIRST_THAT_HARMS)
        uktls_preload_forget_memory();
    return result;
}

bool uktls_memory_call(long number, const long a[6], long *result)
{
    switch (number) {
    case SYS_mmap:
        *result = (long)map((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]);
        return true;
    case SYS_munmap:
        *result = munmap((void *)a[0], (size_t)a[1]);
        return true;
    case SYS_mremap:
        *result = (long)move((void *)a[0], (size_t)a[1], (size_t)a[2], (int)a[3], (void *)a[4]);
        return true;
    case SYS_mprotect:
        *result = mprotect((void *)a[0], (size_t)a[1], (int)a[2]);
        return true;
    case SYS_pkey_mprotect:
        *result = pkey_mprotect((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3]);
        return true;
    case SYS_shmat:
        *result = (long)shmat((int)a[0], (void *)a[1], (int)a[2]);
        return true;
    case SYS_shmdt:
        *result = shmdt((void *)a[0]);
        return true;
    case SYS_brk:
        *result = uktls_syscall(SYS_brk, a[0]);
        uktls_preload_forget_memory();
        return true;
    case SYS_remap_file_pages:
        *result = remap_file_pages((void *)a[0], (size_t)a[1], (int)a[2], (size_t)a[3], (int)a[4]);
        return true;
    case SYS_madvise:
        *result = madvise((void *)a[0], (size_t)a[1], (int)a[2]);
        return true;
    case SYS_process_madvise:
        *result = process_madvise((int)a[0], (void *)a[1], (size_t)a[2], (int)a[3], (unsigned)a[4]);
        return true;
    case SYS_userfaultfd:
        /* What is missing may then be the kernel's EFAULT and the program's SIGBUS, whenever it was there last. */
        *result = uktls_syscall(SYS_userfaultfd, a[0]);
        uktls_preload_all_is_fleeting();
        return true;
    }
    return false;
}
