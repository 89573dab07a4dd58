/* The version composed from the header's macros is the one that the library linked reports. */
#include <stdio.h>
#include <string.h>
#include <uktls.h>

int main(void)
{
    char composed[32];

    snprintf(composed, sizeof composed, "%d.%d.%d", UKTLS_VERSION_MAJOR, UKTLS_VERSION_MINOR,
             UKTLS_VERSION_PATCH);
    if (strcmp(composed, uktls_version()) != 0) {
        fprintf(stderr, "uktls.h says %s, the library %s\n", composed, uktls_version());
        return 1;
    }
    puts(composed);
    return 0;
}
