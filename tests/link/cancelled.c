/* The same library's frame in C, which a cancelled thread leaves by its clean-up. */
#include <unistd.h>

int cleaned_up;

static void clean_up(int *fd)
{
    (void)fd;
    cleaned_up++;
}

void wait_in_library(int fd)
{
    int kept __attribute__((cleanup(clean_up))) = fd;
    char byte;

    (void)!read(kept, &byte, 1);
}
