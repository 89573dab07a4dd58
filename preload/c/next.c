/* Finding the functions behind ours. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "interpose.h"

void *_Atomic uktls_next[NEXT_COUNT];
const void *uktls_last_writer[MARKS];

static const char *const names[NEXT_COUNT] = {
#define X(name) #name,
#include "names.h"
#undef X
};

/* For what the C library does not have. */
static long absent(void)
{
    errno = ENOSYS;
    return -1;
}

void *uktls_resolve(enum next_name name)
{
    void *next = dlsym(RTLD_NEXT, names[name]);

    if (next == NULL)
        next = (void *)absent;
    atomic_store_explicit(&uktls_next[name], next, memory_order_relaxed);
    return next;
}

static void drain_quickly(void)
{
    uktls_preload_drain();
}

/* All at once: dlsym is not safe in a signal handler, where many of these are. Whoever calls us before
 * (constructors of other libraries) finds them one by one. */
__attribute__((constructor(101))) static void resolve_all(void)
{
    for (int name = 0; name < NEXT_COUNT; name++)
        if (atomic_load_explicit(&uktls_next[name], memory_order_relaxed) == NULL)
            uktls_resolve((enum next_name)name);
    uktls_give_slots();
    /* The first is the last that quick_exit calls: the program's own may send. */
    at_quick_exit(drain_quickly);
    uktls_preload_start();
}

/* Behind the handlers of atexit, which may have sent something. */
__attribute__((destructor(101))) static void drain(void)
{
    uktls_flush_streams();
    uktls_preload_drain();
}
