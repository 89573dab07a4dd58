/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Starts a worker for each cell, and runs cells side by side. */
#include "driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* A hundred records in every cell. */
struct options options = {.limit = 30, .least = 100};

struct cell *cells;
int cell_count;
struct result *results;

void fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("campaign: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

void found(struct result *r, enum fault fault, const char *format, ...)
{
    va_list arguments;

    if (r->faults == 0) {
        va_start(arguments, format);
        vsnprintf(r->detail, sizeof r->detail, format, arguments);
        va_end(arguments);
    }
    r->faults |= 1u << fault;
    r->fault_counts[fault]++;
}

void name_cell(const struct cell *c, char out[128])
{
    snprintf(out, 128, "%s %s %s %d %s", functions[c->function].name, how_names[c->how], when_names[c->when],
             thread_counts[c->threads], forks_names[c->forks]);
}

double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void *zeroed(size_t n, size_t size)
{
    void *memory = calloc(n, size);

    if (memory == NULL)
        fail("no memory");
    return memory;
}

void open_lane(struct lane *lane)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;

    memset(lane, 0, sizeof *lane);
    lane->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (lane->listener < 0 || bind(lane->listener, (struct sockaddr *)&address, len) < 0 ||
        listen(lane->listener, 64) < 0 || getsockname(lane->listener, (struct sockaddr *)&address, &len) < 0)
        fail("listen: %s", strerror(errno));
    lane->port = ntohs(address.sin_port);
    lane->shared_fd = memfd_create("campaign", MFD_CLOEXEC);
    if (lane->shared_fd < 0 || ftruncate(lane->shared_fd, sizeof(struct shared)) < 0)
        fail("shared memory: %s", strerror(errno));
    lane->shared = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, lane->shared_fd, 0);
    if (lane->shared == MAP_FAILED)
        fail("shared memory: %s", strerror(errno));
}

static pid_t start_worker(const struct lane *lane, uint64_t seed)
{
    static const char *const engines[] = {"UKTLS_ENGINE=auto", "UKTLS_ENGINE=inline", "UKTLS_ENGINE=threads"};
    char preload[4200], *arguments[] = {NULL, "--worker", (char *)(uintptr_t)options.plugin,
                                        (char *)(uintptr_t)options.library, NULL};
    char *environment[] = {preload, "UKTLS_MODE=always", (char *)(uintptr_t)engines[mix(seed ^ 5) % 3], NULL};
    char own[4096];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    pid_t pid;
    int error;

    if (n < 0)
        fail("/proc/self/exe: %s", strerror(errno));
    own[n] = 0;
    arguments[0] = own;
    if (functions[lane->shared->cell.function].flags & LIBRARY)
        strcpy(preload, "LANG=C");
    else
        snprintf(preload, sizeof preload, "LD_PRELOAD=%s", options.preload);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, lane->shared_fd, SHARED_FD);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    if (!options.verbose)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    error = posix_spawn(&pid, own, &actions, &attributes, arguments, environment);
    if (error)
        fail("a worker: %s", strerror(error));
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return pid;
}

static bool all_ended(const struct lane *lane)
{
    for (int i = 0; i < lane->count; i++)
        if (!lane->connections[i].ended)
            return false;
    return true;
}

static void accept_connection(struct lane *lane)
{
    add_connection(lane, accept4(lane->listener, NULL, NULL, SOCK_CLOEXEC), -1);
}

static void watch(struct lane *lane, struct result *r, pid_t worker)
{
    double end = seconds() + options.limit;
    int pidfd = pidfd_open(worker, 0), status = 0;
    bool ended = false;

    if (pidfd < 0)
        fail("pidfd_open: %s", strerror(errno));
    for (;;) {
        struct pollfd polled[2 + 2 * CONNECTIONS_MAX] = {{lane->listener, POLLIN, 0},
                                                         {ended ? -1 : pidfd, POLLIN, 0}};
        int count = lane->count;

        for (int i = 0; i < count; i++)
            polled[2 + i] = (struct pollfd){lane->connections[i].fd, POLLIN, 0};
        /* What is waiting in the listener's queue when the worker has ended is still taken. */
        int ready = poll(polled, (nfds_t)count + 2, ended && all_ended(lane) ? 0 : 500);
        if (ready < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
        if (ready == 0 && ended && all_ended(lane))
            break;
        if (seconds() > end) {
            found(r, HANG, "%s after %d seconds, at step %d", ended ? "a connection is open" : "still running",
                  options.limit, atomic_load(&lane->shared->step));
            break;
        }
        if (ready <= 0)
            continue;
        for (int i = 0; i < count; i++)
            if (polled[2 + i].revents)
                read_connection(lane, &lane->connections[i], r);
        if (polled[0].revents)
            accept_connection(lane);
        if (polled[1].revents) {
            siginfo_t info;

            /* Not reaped: its number, which is its group's, stays its own. */
            if (waitid(P_PID, (id_t)worker, &info, WEXITED | WNOWAIT) == 0)
                ended = true;
        }
    }
    close(pidfd);
    /* The worker is our child and not reaped yet: the group is its. */
    if (worker > 1)
        kill(-worker, SIGKILL);
    if (waitpid(worker, &status, 0) != worker)
        fail("waitpid: %s", strerror(errno));
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    if (ended && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        found(r, CRASH, "the worker ended with status %#x", (unsigned)status);
}

void run_cell(struct lane *lane, const struct cell *cell, uint64_t seed, int suite, int plant, int writer,
                     unsigned counter, struct result *r)
{
    memset(r, 0, sizeof *r);
    memset(lane->shared, 0, sizeof *lane->shared);
    memset(lane->delivered, 0, sizeof lane->delivered);
    lane->shared->cell = *cell;
    lane->shared->seed = seed;
    lane->shared->suite = suite;
    lane->shared->port = lane->port;
    lane->shared->plant = plant;
    lane->shared->plant_writer = writer;
    lane->shared->plant_counter = counter;
    lane->count = 0;
    r->suite = suite;
    double start = seconds();
    watch(lane, r, start_worker(lane, seed));
    r->seconds = (float)(seconds() - start);
    account(lane, r);
    for (int i = 0; i < lane->count; i++)
        drop_connection(&lane->connections[i]);
    r->done = true;
}

static void make_cells(void)
{
    char only[5][128] = {"*", "*", "*", "*", "*"};
    int impossible_count = 0, reason_count = 0;
    struct { const char *why; int count; } reasons[16] = {{0}};

    if (options.only &&
        sscanf(options.only, "%127s %127s %127s %127s %127s", only[0], only[1], only[2], only[3], only[4]) < 1)
        fail("--only 'FUNCTION HOW WHEN THREADS FORKS'");
    cells = zeroed((size_t)function_count * HOW_COUNT * WHEN_COUNT * THREADS_COUNT * FORKS_COUNT, sizeof *cells);
    for (int f = 0; f < function_count; f++)
        for (int h = 0; h < HOW_COUNT; h++)
            for (int w = 0; w < WHEN_COUNT; w++)
                for (int t = 0; t < THREADS_COUNT; t++)
                    for (int k = 0; k < FORKS_COUNT; k++) {
                        struct cell c = {f, h, w, t, k};
                        const char *why = impossible(&c);
                        int i;

                        if (!matches_cell(only, &c))
                            continue;
                        if (why == NULL) {
                            cells[cell_count++] = c;
                            continue;
                        }
                        impossible_count++;
                        for (i = 0; i < reason_count && reasons[i].why != why; i++)
                            ;
                        if (i == reason_count) {
                            if (reason_count++ == sizeof reasons / sizeof *reasons)
                                fail("too many reasons");
                            reasons[i].why = why;
                        }
                        reasons[i].count++;
                    }
    if (cell_count == 0)
        fail("no cell matches %s", options.only);
    /* Shuffled, so that a sample is one of all and slow cells are not all at the end. */
    for (int i = cell_count - 1; i > 0; i--) {
        int other = (int)(mix(options.seed + (uint64_t)i) % (uint64_t)(i + 1));
        struct cell it = cells[i];

        cells[i] = cells[other];
        cells[other] = it;
    }
    printf("%d functions x %d ways to a number x %d times of the keys x %d numbers of threads x %d kinds of fork\n",
           function_count, HOW_COUNT, WHEN_COUNT, THREADS_COUNT, FORKS_COUNT);
    printf("%d cells; %d that there cannot be:\n", cell_count, impossible_count);
    for (int i = 0; i < reason_count; i++)
        printf("  %6d  %s\n", reasons[i].count, reasons[i].why);
    if (options.sample && options.sample < cell_count) {
        cell_count = options.sample;
        printf("a sample of %d\n", cell_count);
    }
}

static void run_lanes(void)
{
    _Atomic int *next = mmap(NULL, sizeof *next, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t lanes[64];

    results = mmap(NULL, ((size_t)cell_count + 1) * sizeof *results, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (next == MAP_FAILED || results == MAP_FAILED)
        fail("memory: %s", strerror(errno));
    fflush(NULL);
    for (int j = 0; j < options.jobs; j++) {
        lanes[j] = fork();
        if (lanes[j] < 0)
            fail("fork: %s", strerror(errno));
        if (lanes[j] == 0) {
            static struct lane lane;
            int i;

            prctl(PR_SET_PDEATHSIG, SIGTERM);
            prctl(PR_SET_CHILD_SUBREAPER, 1);
            open_lane(&lane);
            while ((i = atomic_fetch_add(next, 1)) < cell_count) {
                run_cell(&lane, &cells[i], mix(options.seed ^ mix((uint64_t)i)), i % suite_count, NO_PLANT, 0, 0,
                         &results[i]);
                if ((i + 1) % 5000 == 0)
                    fprintf(stderr, "%d of %d cells\n", i + 1, cell_count);
                if (options.verbose && results[i].faults) {
                    char name[128];

                    name_cell(&cells[i], name);
                    fprintf(stderr, "%s: %s\n", name, results[i].detail);
                }
            }
            exit(0);
        }
    }
    for (int j = 0; j < options.jobs; j++) {
        int status;

        if (waitpid(lanes[j], &status, 0) != lanes[j] || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail("a lane ended with status %#x", (unsigned)status);
    }
}

static void usage(void)
{
    fail("--preload LIBRARY --library LIBRARY --plugin LIBRARY --refusals FILE [--seed N] [--cells N]\n"
         "    [--plants N] [--jobs N] [--limit SECONDS] [--table FILE] [--only 'FUNCTION HOW WHEN THREADS FORKS'] [--verbose]");
}

int main(int argc, char **argv)
{
    int failed = 0;
    double start = seconds();
    struct timespec now;

    if (argc > 1 && (!strcmp(argv[1], "--worker") || !strcmp(argv[1], "--writer")))
        return worker_main(argc, argv);
    clock_gettime(CLOCK_REALTIME, &now);
    options.seed = mix((uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 32) % 1000000000;
    options.plants = 20;
    options.jobs = (int)sysconf(_SC_NPROCESSORS_ONLN);
    options.jobs = options.jobs < 2 ? 2 : options.jobs > 16 ? 16 : options.jobs;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = argv[i + 1];

        if (!strcmp(name, "--verbose")) {
            options.verbose = 1;
            continue;
        }
        if (value == NULL)
            usage();
        i++;
        if (!strcmp(name, "--preload"))
            options.preload = value;
        else if (!strcmp(name, "--library"))
            options.library = value;
        else if (!strcmp(name, "--plugin"))
            options.plugin = value;
        else if (!strcmp(name, "--refusals"))
            options.refusals = value;
        else if (!strcmp(name, "--table"))
            options.table = value;
        else if (!strcmp(name, "--only"))
            options.only = value;
        else if (!strcmp(name, "--seed"))
            options.seed = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--cells"))
            options.sample = atoi(value);
        else if (!strcmp(name, "--plants"))
            options.plants = atoi(value);
        else if (!strcmp(name, "--jobs"))
            options.jobs = atoi(value);
        else if (!strcmp(name, "--limit"))
            options.limit = atoi(value);
        else
            usage();
    }
    if (!options.preload || !options.library || !options.plugin || !options.refusals || options.jobs < 1 ||
        options.jobs > 64)
        usage();
    if (access(options.preload, R_OK) < 0 || access(options.library, R_OK) < 0 || access(options.plugin, R_OK) < 0)
        fail("%s, %s or %s: %s", options.preload, options.library, options.plugin, strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    printf("seed %llu\n", (unsigned long long)options.seed);
    read_refusals();
    make_cells();
    run_lanes();
    failed = judge();
    if (options.plants)
        failed += run_plants();
    printf("%.0f seconds; %s\n", seconds() - start, failed ? "FAILED" : "passed");
    return failed != 0;
}
