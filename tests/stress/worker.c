/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The process under the library: threads, each with connections one after the other, until the judge says stop. */
#include "worker.h"

#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "calls.h"

/* OWN: descriptors that the library makes when it needs them first, after the warming up. */
enum { THREADS = 5, OWN = 4 };

struct shared *sh;
const char *own_path;
static struct actor actors[THREADS];
static pthread_t threads[THREADS];

uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint64_t draw(struct actor *actor, uint64_t below)
{
    actor->random = mix(actor->random);
    return actor->random % below;
}

void at_step(struct actor *actor, const char *step)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(actor->beat->step, sizeof actor->beat->step, "%s%s", actor->depth ? "child: " : "", step);
    atomic_store(&actor->beat->since, now.tv_sec);
}

void fault(const struct slot *slot, const char *format, ...)
{
    char text[400];
    int len = 0;
    va_list arguments;

    if (slot != NULL)
        len = snprintf(text, sizeof text, "stress: worker, connection %td (%s, pace %d, excuses %d, accepted %llu): ", slot - sh->slots,
                       suites[slot->suite].name, slot->pace, slot->excuses, (unsigned long long)slot->accepted);
    else
        len = snprintf(text, sizeof text, "stress: worker: ");
    va_start(arguments, format);
    len += vsnprintf(text + len, sizeof text - (size_t)len - 1, format, arguments);
    va_end(arguments);
    if (len > (int)sizeof text - 2)
        len = sizeof text - 2;
    text[len] = '\n';
    if (write(2, text, (size_t)len + 1) > 0)
        atomic_fetch_add(&sh->faults, 1);
}

static void use(struct actor *actor, struct connection *connection)
{
    for (uint64_t i = 1 + draw(actor, 8); i > 0 && connection->fd >= 0; i--) {
        switch (draw(actor, 14)) {
        case 0: update_keys(actor, connection); break;
        case 1:
        case 2: receive_some(actor, connection, draw(actor, 60000)); break;
        case 3: usleep((unsigned)draw(actor, 2000)); break;
        case 4:
            if (actor->depth < 2)
                have_a_child(actor, connection);
            break;
        default: send_some(actor, connection, 1 + draw(actor, draw(actor, 4) ? 5000 : 70000)); break;
        }
    }
}

void work(struct actor *actor, int count)
{
    struct connection connection;

    for (int i = 0; i < count && !sh->stops; i++) {
        if (!open_connection(actor, &connection)) {
            usleep(1000);
            continue;
        }
        use(actor, &connection);
        if (connection.fd >= 0)
            close_connection(actor, &connection);
    }
}

static void *act(void *arg)
{
    struct actor *actor = arg;

    work(actor, 1 << 30);
    atomic_store(&actor->beat->since, 0);
    return NULL;
}

static int numbers(void)
{
    DIR *all = opendir("/proc/self/fd");
    int count = 0;

    while (all != NULL && readdir(all) != NULL)
        count++;
    closedir(all);
    return count;
}

/* Hundreds of connections have come and gone: what stays of each would be many. */
static void look_for_leaks(int before)
{
    int now = 0;

    for (int i = 0; i < PATIENCE_S * 10 && (now = numbers()) > before + OWN; i++)
        usleep(100000);
    if (now > before + OWN)
        fault(NULL, "%d numbers are open, %d were", now, before);
}

void equip(struct actor *actor)
{
    actor->file = memfd_create("stress", MFD_CLOEXEC);
    if (actor->file < 0 || pipe2(actor->pipe, O_CLOEXEC) != 0 || fcntl(actor->pipe[0], F_SETFL, O_NONBLOCK) != 0) {
        fault(NULL, "no descriptors");
        exit(2);
    }
}

static void make_actor(struct actor *actor, int index, uint64_t seed)
{
    actor->beat = &sh->beats[index];
    actor->random = mix(seed + (uint64_t)index);
    equip(actor);
}

/* Some connections, so that the library has most of what it wants for itself; returns the numbers then open. */
static int warm_up(struct actor *actor)
{
    struct connection connection;

    for (int i = 0; i < 40; i++)
        if (open_connection(actor, &connection)) {
            connection.slot->excuses = 0;
            send_some(actor, &connection, 70000);
            close_connection(actor, &connection);
        }
    usleep(500000);
    return numbers();
}

static void crash(int number)
{
    void *frames[40];

    fault(NULL, "signal %d", number);
    backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
    signal(number, SIG_DFL);
    raise(number);
}

int main(int argc, char **argv)
{
    int before;
    enum ending ending;

    own_path = argv[0];
    if (argc == 3 && strcmp(argv[1], "program") == 0)
        return be_a_program(atoi(argv[2]));
    if (argc != 5)
        return 2;
    sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    if (sh == MAP_FAILED)
        return 2;
    fcntl(atoi(argv[2]), F_SETFD, FD_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGSEGV, crash);
    signal(SIGABRT, crash);
    ending = (enum ending)atoi(argv[4]);
    for (int i = 0; i < THREADS; i++)
        make_actor(&actors[i], i, strtoull(argv[3], NULL, 0));
    before = warm_up(&actors[0]);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, act, &actors[i]) != 0)
            return 2;
    if (ending != RETURNS) {
        while (!sh->stops && ending != IS_KILLED)
            usleep(10000);
        while (ending == IS_KILLED)
            pause();
        /* Threads are in the middle of calls, and children of theirs live. What was accepted has to arrive. */
        atomic_store(&sh->excuses, IN_FLIGHT | RESET);
        if (ending == QUICKLY)
            _exit(0);
        exit(0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    look_for_leaks(before);
    return 0;
}
