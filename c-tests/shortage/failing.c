/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Stands in front of the C library's allocator, in a program or by LD_PRELOAD; there UKTLS_TEST_FAIL_EVERY says how often. Who
 * asks is told by the return address. So the program and the other libraries always have memory.
 */
#define _GNU_SOURCE
#include "failing.h"

#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t align, size_t size);

static uintptr_t first, end;
static _Atomic unsigned long every, nth, calls, failed;

static int find(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (strstr(object->dlpi_name, "/libuktls") == NULL)
        return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && part->p_flags & PF_X) {
            first = object->dlpi_addr + part->p_vaddr;
            end = first + part->p_memsz;
        }
    }
    return 1;
}

__attribute__((constructor)) static void start(void)
{
    const char *setting = getenv("UKTLS_TEST_FAIL_EVERY");
    dl_iterate_phdr(find, NULL);
    if (setting != NULL)
        fail_every(strtoul(setting, NULL, 10));
}

/* So that a run in which nothing failed is no success. */
__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("UKTLS_TEST_FAIL_REPORT");
    FILE *file = path == NULL ? NULL : fopen(path, "ae");
    if (file != NULL) {
        fprintf(file, "%lu\n", failures());
        fclose(file);
    }
}

void fail_every(unsigned long count)
{
    nth = 0;
    calls = 0;
    every = count;
}

void fail_from(unsigned long count)
{
    every = 0;
    calls = 0;
    nth = count;
}

unsigned long failures(void)
{
    return failed;
}

/* Rust's standard library takes the name of a new thread from malloc directly, past any allocator of the library's, and ends the
 * process if it is not to be had. The library looks first whether malloc has some; what it has seen stays so in a real shortage, but
 * not here. */
enum { NAME_OF_THREAD = 48 };

static int fails(const void *caller, size_t size)
{
    unsigned long call;
    if (size == NAME_OF_THREAD)
        return 0;
    if ((every == 0 && nth == 0) || (uintptr_t)caller < first || (uintptr_t)caller >= end)
        return 0;
    call = ++calls;
    if (every != 0 ? call % every != 0 : call < nth)
        return 0;
    failed++;
    errno = ENOMEM;
    return 1;
}

#define FAILS(size) fails(__builtin_return_address(0), size)

void *malloc(size_t size)
{
    return FAILS(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return FAILS(count * size) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    return FAILS(size) ? NULL : __libc_realloc(block, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return FAILS(size) ? NULL : __libc_memalign(align, size);
}

int posix_memalign(void **block, size_t align, size_t size)
{
    *block = FAILS(size) ? NULL : __libc_memalign(align, size);
    return *block == NULL ? ENOMEM : 0;
}
