/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Processes that the worker makes, and their ends. */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "calls.h"

extern char **environ;

/* The end of a child. By the C library's own end what was sent is seen to; `_exit` goes past uktls as a library. */
static _Noreturn void end_child(struct actor *actor, struct connection *used)
{
    at_step(actor, "child ends");
    switch (draw(actor, 4)) {
    case 0: exit(0);
    case 1:
        if (IS_LIBRARY && used != NULL)
            exit(0);
        _exit(0);
    case 2:
        if (used != NULL)
            let_go(used);
        _exit(0);
    default:
        if (IS_LIBRARY && used != NULL)
            exit(0);
        execl("/bin/true", "true", (char *)NULL);
        _exit(0);
    }
}

/* Waits for a child, which has to end. */
static void wait_for(struct actor *actor, pid_t child, bool is_killed, const char *what)
{
    int status = 0;
    pid_t got;

    for (int i = 0; (got = waitpid(child, &status, WNOHANG)) == 0; i++) {
        if (i == PATIENCE_S * 1000) {
            char command[160];
            fault(NULL, "child %d (%s) does not end; at '%s'", (int)child, what, actor->beat->step);
            snprintf(command, sizeof command,
                     "cat /proc/%d/wchan /proc/%d/syscall >&2; command -v gdb >/dev/null && gdb -batch -p %d -ex 'bt 20' >&2",
                     (int)child, (int)child, (int)child);
            unsetenv("LD_PRELOAD");
            if (system(command) != 0)
                fputs("stress: no stack\n", stderr);
            kill(child, SIGKILL);
            is_killed = true;
        }
        usleep(i < 20 ? 100 : 1000);
    }
    if (got != child)
        fault(NULL, "waitpid (%s): %s", what, strerror(errno));
    else if (status != 0 && !(is_killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) && !sh->excuses)
        fault(NULL, "child (%s) ended with status %x; at '%s'", what, status, actor->beat->step);
}

enum deed {
    NOTHING, SENDS, OWNS, BOTH_SEND, DIES_BESIDE, DIES_WHILE_SENDING, WORKS, GRANDCHILD_OWNS, RUNS_A_PROGRAM, PROGRAM_WITH_NUMBER,
    SPAWNS, VFORKS, SYSTEM, DEEDS
};
static const char *const deed_names[DEEDS] = {
    "nothing", "sends", "owns", "both send", "dies beside", "dies while it sends", "works", "grandchild owns", "runs a program",
    "a program with the number", "posix_spawn", "vfork", "system",
};

/* The connection is this process's from here on. */
static _Noreturn void own(struct actor *actor, struct connection *connection)
{
    for (uint64_t i = draw(actor, 6); i > 0; i--)
        send_some(actor, connection, 1 + draw(actor, 40000));
    if (draw(actor, 2))
        receive_some(actor, connection, draw(actor, 20000));
    close_connection(actor, connection);
    end_child(actor, NULL);
}

static _Noreturn void child(struct actor *actor, struct connection *connection, enum deed deed)
{
    struct connection *used = NULL;

    actor->depth++;
    actor->random = mix(actor->random + 1);
    connection->is_lent = true;
    close(actor->file);
    close(actor->pipe[0]);
    close(actor->pipe[1]);
    equip(actor);
    switch (deed) {
    case OWNS: own(actor, connection);
    case SENDS:
    case BOTH_SEND:
        used = connection;
        for (uint64_t i = draw(actor, 6); i > 0; i--)
            send_some(actor, connection, 1 + draw(actor, 40000));
        if (draw(actor, 2))
            receive_some(actor, connection, draw(actor, 20000));
        break;
    case DIES_BESIDE:
        usleep((unsigned)draw(actor, 3000));
        raise(SIGKILL);
        break;
    case DIES_WHILE_SENDING:
        while (true)
            send_some(actor, connection, 1 + draw(actor, 60000));
    case WORKS: work(actor, 2); break;
    case GRANDCHILD_OWNS: {
        pid_t grandchild = fork();
        if (grandchild == 0)
            own(actor, connection);
        if (grandchild > 0)
            wait_for(actor, grandchild, false, "grandchild");
        break;
    }
    case RUNS_A_PROGRAM:
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    case PROGRAM_WITH_NUMBER: {
        char number[16];
        snprintf(number, sizeof number, "%d", connection->fd);
        fcntl(connection->fd, F_SETFD, 0);
        execl(own_path, own_path, "program", number, (char *)NULL);
        _exit(1);
    }
    default: break;
    }
    end_child(actor, used);
}

/* The number is a TLS socket's, whose keys another program has: plain bytes must not go out on it. Whatever the call says, the
 * judge sees. With the C library nothing is there that could refuse. */
int be_a_program(int fd)
{
    if (!IS_LIBRARY && write(fd, "PLAIN TEXT", 10) > 0)
        fputs("stress: a program without keys has written\n", stderr);
    usleep(1000);
    return 0;
}

static void run_program(struct actor *actor, enum deed deed)
{
    char *arguments[] = {"true", NULL};
    pid_t pid = -1;

    if (deed == SYSTEM) {
        if (system("exec true") != 0 && !sh->excuses)
            fault(NULL, "system: %s", strerror(errno));
        return;
    }
    if (deed == SPAWNS) {
        if (posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ) != 0)
            pid = -1;
    } else {
        pid = vfork();
        if (pid == 0) {
            execve("/bin/true", arguments, environ);
            _exit(1);
        }
    }
    if (pid < 0)
        fault(NULL, "%s: %s", deed_names[deed], strerror(errno));
    else
        wait_for(actor, pid, false, deed_names[deed]);
}

void have_a_child(struct actor *actor, struct connection *connection)
{
    enum deed deed = (enum deed)draw(actor, DEEDS);
    struct slot *slot = connection->slot;
    bool kills = deed == DIES_WHILE_SENDING, gives = deed == OWNS || deed == GRANDCHILD_OWNS;
    pid_t pid;

    if (deed >= RUNS_A_PROGRAM)
        atomic_fetch_add(&sh->tallies[PROGRAMS], 1);
    at_step(actor, deed_names[deed]);
    if (deed >= SPAWNS)
        return run_program(actor, deed);
    if (deed == WORKS && actor->depth > 0)
        deed = NOTHING;
    if (kills)
        atomic_fetch_or(&slot->excuses, IN_FLIGHT | LOST | RESET);
    atomic_fetch_add(&sh->tallies[FORKS], 1);
    pid = fork();
    if (pid == 0)
        child(actor, connection, deed);
    if (pid < 0) {
        fault(NULL, "fork: %s", strerror(errno));
        return;
    }
    if (gives) {
        let_go(connection);
    } else if (deed == BOTH_SEND) {
        for (uint64_t i = draw(actor, 6); i > 0; i--)
            send_some(actor, connection, 1 + draw(actor, 20000));
    } else if (kills) {
        usleep((unsigned)draw(actor, 20000));
        kill(pid, SIGKILL);
    }
    if (kills || deed == DIES_BESIDE)
        atomic_fetch_add(&sh->tallies[KILLED], 1);
    at_step(actor, deed_names[deed]);
    wait_for(actor, pid, kills || deed == DIES_BESIDE, deed_names[deed]);
    /* How far the stream is nobody knows then. */
    if (kills)
        atomic_store(&slot->broken, 1);
    if (gives)
        atomic_store(&slot->released, 1);
}
