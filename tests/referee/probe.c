/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Runs every case in a process of its own, so that none sees what another has left.
 * Usage: probe [PREFIX]: only the cases whose names begin so
 *        probe --file FILE: print it (the machine has no other programs)
 *        probe --walk FIRST COUNT: these walks
 *        probe --send FD: send on it, for the case that starts a program */
#include "probe.h"

/* Far longer than any case takes, emulated too. */
enum { CASE_MS = 30000, STEP_MS = 20 };

static bool run_case(const struct probe_case *c)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        catch_signals();
        c->run();
        line_end();
        exit(0);
    }
    for (int waited = 0; waitpid(child, &status, WNOHANG) == 0; waited += STEP_MS) {
        sleep_ms(STEP_MS);
        if (waited >= CASE_MS) {
            kill(child, waited < CASE_MS + 2000 ? SIGTERM : SIGKILL);
            sleep_ms(500);
            waited += 500;
        }
    }
    if (WIFSIGNALED(status)) {
        line("CASE", "%s", c->name);
        put("%s", strsignal(WTERMSIG(status)));
    } else if (WEXITSTATUS(status) != 0) {
        line("CASE", "%s", c->name);
        put("exit %d", WEXITSTATUS(status));
    }
    line_end();
    return status == 0;
}

static int print(const char *name)
{
    char bytes[4096];
    int fd = open(name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : 0;
    while (fd >= 0 && (n = read(fd, bytes, sizeof bytes)) > 0)
        if (write(STDOUT_FILENO, bytes, (size_t)n) != n)
            return 1;
    if (n < 0)
        perror(name);
    return n < 0;
}

int main(int argc, char **argv)
{
    static const struct probe_case *const groups[] = {
        attach_cases,   key_cases,       record_cases, tx_cases,    tx_file_cases, tx_end_cases, rx_cases,
        rx_error_cases, rx_splice_cases, ready_cases,  share_cases, rekey_cases,
    };
    if (argc == 3 && strcmp(argv[1], "--file") == 0)
        return print(argv[2]);
    if (argc == 3 && strcmp(argv[1], "--send") == 0)
        return send(atoi(argv[2]), "exec", 4, 0) != 4;
    if (argc == 4 && strcmp(argv[1], "--walk") == 0) {
        walk((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]));
        return 0;
    }
    const char *prefix = argc > 1 ? argv[1] : "";
    bool good = true;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct probe_case *c = groups[g]; c->name; c++)
            if (strncmp(c->name, prefix, strlen(prefix)) == 0)
                good &= run_case(c);
    return good ? 0 : 1;
}
