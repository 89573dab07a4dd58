/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A library that opens another one, which only its own run path leads to.
 */
#include <dlfcn.h>
#include <stddef.h>

void *find(const char *name, int flags);
void *find(const char *name, int flags)
{
    void *found = dlopen(name, flags);

    /* A call that is not the last: a jump would have the program as its caller. */
    return dlerror() == NULL ? found : NULL;
}
