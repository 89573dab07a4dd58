/* Panics are caught in a process without libgcc_s.so.1; a thread of it can be cancelled in the library; panics are caught
 * beside the libgcc_s.so.1 that this has brought. Says what failed. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

extern int cleaned_up;
int panic_and_catch(void);
void wait_in_library(int fd);

static int has_shared_libgcc(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    int found = 0;

    while (maps && fgets(line, sizeof line, maps))
        found |= strstr(line, "libgcc_s") != NULL;
    fclose(maps);
    return found;
}

static void *waits(void *fd)
{
    wait_in_library(*(int *)fd);
    return NULL;
}

int main(void)
{
    int ends[2];
    pthread_t thread;
    void *result;

    if (has_shared_libgcc())
        return puts("libgcc_s.so.1 is loaded"), 1;
    if (panic_and_catch() != 2)
        return puts("a panic was not caught"), 1;
    if (pipe(ends) != 0 || pthread_create(&thread, NULL, waits, &ends[0]) != 0 || pthread_cancel(thread) != 0 ||
        pthread_join(thread, &result) != 0 || result != PTHREAD_CANCELED)
        return puts("the thread was not cancelled"), 1;
    if (cleaned_up != 1 || !has_shared_libgcc())
        return puts("the thread did not clean up, or not by libgcc_s.so.1"), 1;
    if (panic_and_catch() != 2)
        return puts("a panic was not caught beside libgcc_s.so.1"), 1;
    return 0;
}
