/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A server for inetd, in C. Usage: inetd_c WAY.
 */
#include "inetd.h"

int main(int argc, char **argv)
{
    char name[100], answer[200];
    int result;
    if (argc != 2)
        return 100;
    /* This waits in the buffer when the keys are set. */
    printf("hello, ");
    result = set_keys_by(argv[1]);
    if (result != 0)
        return result;
    puts("who is there?");
    fflush(stdout);
    if (!fgets(name, sizeof name, stdin))
        return 5;
    name[strcspn(name, "\n")] = '\0';
    snprintf(answer, sizeof answer, "good day, %s\n", name);
    for (const char *c = answer; *c; c++)
        putchar_unlocked(*c);
    fflush(stdout);
    if (scanf("%99s", name) != 1)
        return 6;
    printf("bye, %s\n", name);
    /* exit writes it. */
    return 0;
}
