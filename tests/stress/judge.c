/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The other ends of the connections, and the rounds. */
#include "stress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WIRE = 1 << 18, RECORD = 5 + 8 + 16384 + 17 };

static struct shared *sh;

uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

__attribute__((format(printf, 2, 3))) static void fault(const struct slot *slot, const char *format, ...)
{
    va_list arguments;

    flockfile(stderr);
    fprintf(stderr, "stress: ");
    if (slot != NULL)
        fprintf(stderr, "connection %td (%s, pace %d, excuses %d, %d updates, accepted %llu, offered %llu): ", slot - sh->slots,
                suites[slot->suite].name, slot->pace, slot->excuses, slot->updates,
                (unsigned long long)slot->accepted, (unsigned long long)slot->offered);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    funlockfile(stderr);
    atomic_fetch_add(&sh->faults, 1);
}

/* --- one connection ------------------------------------------------------------------------------ */

struct end {
    int fd;
    struct slot *slot;
    /* Wire bytes that do not make a record yet. */
    unsigned char *in;
    size_t len;
    struct keys keys;
    uint64_t number, received;
    int updates;
    bool is_bad;
    /* The way back. */
    struct keys own;
    uint64_t own_number, sent;
    unsigned char out[RECORD];
    size_t out_len, out_at;
};

static void take_record(struct end *end, const unsigned char *record, size_t len)
{
    static __thread unsigned char plain[RECORD], want[RECORD];
    int type = 0;
    ssize_t n = open_record(&end->keys, end->number, record, len, plain, &type);

    if (n < 0) {
        fault(end->slot, "record %llu, after %llu bytes, does not open: %02x %02x %02x %02x %02x", (unsigned long long)end->number,
              (unsigned long long)end->received, record[0], record[1], record[2], record[3], record[4]);
        end->is_bad = true;
        return;
    }
    end->number++;
    if (type == 22) {
        end->keys = keys_of(end->slot, false, ++end->updates);
        end->number = 0;
    } else if (type == 23) {
        pattern(end->slot->seed, end->received, want, (size_t)n);
        if (memcmp(plain, want, (size_t)n) != 0) {
            fault(end->slot, "other bytes than were sent, after %llu", (unsigned long long)end->received);
            end->is_bad = true;
        }
        end->received += (uint64_t)n;
        if (end->received > end->slot->offered) {
            fault(end->slot, "%llu bytes came", (unsigned long long)end->received);
            end->is_bad = true;
        }
    } else if (type != 21) {
        fault(end->slot, "a record of type %d", type);
        end->is_bad = true;
    }
}

static void take_records(struct end *end)
{
    size_t at = 0;

    while (!end->is_bad && end->len - at >= 5) {
        size_t len = 5 + ((size_t)end->in[at + 3] << 8 | end->in[at + 4]);
        if (!header_is_possible(end->keys.suite, end->in + at)) {
            fault(end->slot, "no record after %llu bytes: %.16s", (unsigned long long)end->received, end->in + at);
            end->is_bad = true;
            return;
        }
        if (end->len - at < len)
            break;
        take_record(end, end->in + at, len);
        at += len;
    }
    memmove(end->in, end->in + at, end->len - at);
    end->len -= at;
}

/* False: the connection is gone. */
static bool send_some(struct end *end)
{
    if (end->out_at == end->out_len) {
        unsigned char plain[16384];
        uint64_t left = end->slot->to_receive - end->sent, most = 1 + mix(end->slot->seed + end->sent) % sizeof plain;
        size_t len = (size_t)(left < most ? left : most);
        pattern(received_seed(end->slot), end->sent, plain, len);
        end->out_len = seal_record(&end->own, end->own_number++, 23, plain, len, end->out);
        end->out_at = 0;
        end->sent += len;
    }
    ssize_t n = send(end->fd, end->out + end->out_at, end->out_len - end->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        end->out_at += (size_t)n;
    return n >= 0 || errno == EAGAIN;
}

/* Whether all that was to come has come, once the stream is at an end. */
static void judge_end(struct end *end, int error)
{
    struct slot *slot = end->slot;
    int excuses = slot->excuses | sh->excuses;
    uint64_t accepted = slot->accepted, least = accepted - slot->open;

    if (end->is_bad)
        return;
    if (slot->pace == STUCK || slot->pace == TRICKLE)
        excuses |= RESET;
    if (error != 0) {
        atomic_fetch_add(&sh->tallies[CUT], 1);
        if (!(excuses & (RESET | LOST)))
            fault(slot, "ends by errno %d after %llu bytes", error, (unsigned long long)end->received);
        return;
    }
    if (excuses & LOST)
        return;
    if (end->len != 0)
        fault(slot, "ends in the middle of a record, %zu bytes", end->len);
    else if (end->received < least)
        fault(slot, "ends after %llu bytes", (unsigned long long)end->received);
    else if (end->received > accepted && !(excuses & IN_FLIGHT))
        fault(slot, "more than was accepted: %llu", (unsigned long long)end->received);
    else if (end->updates != slot->updates && !(excuses & IN_FLIGHT))
        fault(slot, "%d key updates came", end->updates);
}

static void nap(unsigned ms)
{
    usleep(ms * 1000);
}

static bool read_hello(struct end *end)
{
    struct hello hello;

    for (size_t at = 0; at < sizeof hello;) {
        ssize_t n = recv(end->fd, (char *)&hello + at, sizeof hello - at, 0);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    if (memcmp(hello.magic, "stress:\n", 8) != 0 || hello.slot >= SLOTS) {
        fault(NULL, "a connection that begins with %.8s", hello.magic);
        return false;
    }
    end->slot = &sh->slots[hello.slot];
    end->keys = keys_of(end->slot, false, 0);
    end->own = keys_of(end->slot, true, 0);
    return true;
}

static void serve(struct end *end)
{
    struct slot *slot = end->slot;
    uint64_t vanish_after = mix(slot->seed + 1) % 200000;
    int64_t moved = now_ms();

    if (slot->pace == LATE)
        nap(1 + (unsigned)(mix(slot->seed + 2) % 200));
    if (slot->pace == STUCK)
        nap(LINGER_MS + 500);
    for (;;) {
        bool sends = end->sent < slot->to_receive || end->out_at < end->out_len;
        struct pollfd ready = {end->fd, (short)(POLLIN | (sends ? POLLOUT : 0)), 0};

        if (poll(&ready, 1, 1000) == 0) {
            bool waits = slot->released || sh->is_over;
            if (!waits)
                moved = now_ms();
            if (now_ms() - moved > PATIENCE_S * 1000) {
                fault(slot, "has not ended; %llu bytes came", (unsigned long long)end->received);
                return;
            }
            continue;
        }
        moved = now_ms();
        if (ready.revents & POLLOUT && !send_some(end)) {
            /* The program has closed without reading: excused there. */
            end->sent = slot->to_receive;
            end->out_at = end->out_len;
        }
        if (!(ready.revents & (POLLIN | POLLHUP | POLLERR)))
            continue;
        size_t most = slot->pace == TRICKLE ? 2000 : WIRE - end->len;
        ssize_t n = recv(end->fd, end->in + end->len, most, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0)
            return judge_end(end, n < 0 ? errno : 0);
        end->len += (size_t)n;
        take_records(end);
        if (end->is_bad || (slot->pace == VANISHES && end->received >= vanish_after))
            return;
        if (slot->pace == TRICKLE)
            nap(1);
    }
}

static void *judge(void *arg)
{
    struct end *end = arg;

    if (read_hello(end)) {
        serve(end);
        atomic_fetch_add(&sh->tallies[CONNECTIONS], 1);
        atomic_fetch_add(&sh->tallies[BYTES], end->received);
        close(end->fd);
        atomic_store(&end->slot->state, JUDGED);
    } else {
        close(end->fd);
    }
    atomic_fetch_sub(&sh->open, 1);
    free(end->in);
    free(end);
    return NULL;
}

static void *accept_all(void *arg)
{
    int listener = *(int *)arg;
    pthread_attr_t attributes;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    for (;;) {
        pthread_t thread;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        struct end *end = calloc(1, sizeof *end);

        if (fd < 0 || end == NULL || (end->in = malloc(WIRE)) == NULL) {
            fprintf(stderr, "stress: the judge cannot go on: %s\n", strerror(errno));
            exit(2);
        }
        end->fd = fd;
        atomic_fetch_add(&sh->open, 1);
        while (pthread_create(&thread, &attributes, judge, end) != 0)
            nap(10);
    }
    return NULL;
}

/* --- rounds -------------------------------------------------------------------------------------- */

struct round {
    const char *program, *preload, *engine;
    enum ending ending;
    uint64_t seed;
    int ms;
};

static pid_t start(const struct round *round, int memory)
{
    char number[16], seed[24], ending[16];
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    snprintf(number, sizeof number, "%d", memory);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)round->seed);
    snprintf(ending, sizeof ending, "%d", (int)round->ending);
    fcntl(memory, F_SETFD, 0);
    setpgid(0, 0);
    setenv("UKTLS_ENGINE", round->engine, 1);
    setenv("UKTLS_MODE", "always", 1);
    if (round->preload != NULL)
        setenv("LD_PRELOAD", round->preload, 1);
    execl(round->program, round->program, "work", number, seed, ending, (char *)NULL);
    _exit(127);
}

static void show_stacks(pid_t pid)
{
    char command[200];

    snprintf(command, sizeof command,
             "for t in /proc/%d/task/*; do echo \"$t $(cat $t/comm) $(cat $t/wchan) $(cat $t/syscall)\"; done >&2;"
             "command -v gdb >/dev/null && gdb -batch -p %d -ex 'thread apply all bt 12' >&2", pid, pid);
    if (system(command) != 0)
        fputs("stress: no stacks\n", stderr);
}

/* Whether all actors go on. */
static bool is_alive(void)
{
    int64_t now = now_ms() / 1000;

    for (int i = 0; i < BEATS; i++) {
        int64_t since = sh->beats[i].since;
        if (since != 0 && now - since > PATIENCE_S) {
            fault(NULL, "actor %d has been at '%.40s' for %d seconds", i, sh->beats[i].step, PATIENCE_S);
            return false;
        }
    }
    return true;
}

static void run_round(const struct round *round, int memory)
{
    int64_t stop = now_ms() + round->ms, give_up;
    int status = 0;
    pid_t pid, got = 0;

    sh->stops = sh->excuses = sh->is_over = 0;
    memset(sh->beats, 0, sizeof sh->beats);
    for (int i = 0; i < SLOTS; i++)
        sh->slots[i].state = FREE;
    fflush(NULL);
    pid = start(round, memory);
    if (pid < 0) {
        perror("stress: fork");
        exit(2);
    }
    while (got == 0 && now_ms() < stop && is_alive()) {
        nap(50);
        got = waitpid(pid, &status, WNOHANG);
    }
    if (round->ending == IS_KILLED && got == 0) {
        sh->excuses = LOST | RESET;
        kill(-pid, SIGKILL);
    }
    sh->stops = 1;
    give_up = now_ms() + 2 * PATIENCE_S * 1000;
    while (got == 0 && now_ms() < give_up) {
        nap(10);
        got = waitpid(pid, &status, WNOHANG);
    }
    if (got == 0) {
        fault(NULL, "process %d does not end", (int)pid);
        show_stacks(pid);
        sh->excuses = LOST | RESET;
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    } else if (round->ending == IS_KILLED ? !WIFSIGNALED(status) : status != 0) {
        fault(NULL, "process %d ended with status %x", (int)pid, status);
        sh->excuses = LOST | RESET;
    }
    sh->is_over = 1;
    for (give_up = now_ms() + 2 * PATIENCE_S * 1000; sh->open > 0 && now_ms() < give_up;)
        nap(10);
    if (sh->open > 0)
        fault(NULL, "%d connections are left over", sh->open);
    /* What the round's processes have left behind, if anything, is not to disturb the next. */
    kill(-pid, SIGKILL);
}

static int listen_on(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || bind(listener, (void *)&at, sizeof at) != 0 || listen(listener, 1000) != 0 ||
        getsockname(listener, (void *)&at, &len) != 0) {
        perror("stress: listen");
        exit(2);
    }
    *port = ntohs(at.sin_port);
    return listener;
}

int main(int argc, char **argv)
{
    static const char *const engines[] = {"auto", "threads", "inline"};
    const char *preload = NULL, *with_preload = NULL, *with_library = NULL;
    uint64_t seed = (uint64_t)now_ms();
    int seconds = 20, memory, listener, only = -1;
    struct rlimit none = {0, 0};
    pthread_t thread;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--preload") == 0) preload = argv[i + 1];
        else if (strcmp(argv[i], "--with-preload") == 0) with_preload = argv[i + 1];
        else if (strcmp(argv[i], "--with-library") == 0) with_library = argv[i + 1];
        else if (strcmp(argv[i], "--seed") == 0) seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seconds") == 0) seconds = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--round") == 0) only = atoi(argv[i + 1]);
        else fprintf(stderr, "stress: %s?\n", argv[i]);
    }
    if (preload == NULL || with_preload == NULL || with_library == NULL) {
        fputs("usage: judge --preload LIB --with-preload WORKER --with-library WORKER [--seconds N] [--seed N]\n", stderr);
        return 2;
    }
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGPIPE, SIG_IGN);
    memory = memfd_create("stress", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, sizeof *sh) != 0 ||
        (sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0)) == MAP_FAILED) {
        perror("stress: memory");
        return 2;
    }
    listener = listen_on(&sh->port);
    pthread_create(&thread, NULL, accept_all, &listener);
    printf("stress: seed %llu, %d seconds\n", (unsigned long long)seed, seconds);
    int64_t end = now_ms() + seconds * 1000;
    for (int i = only < 0 ? 0 : only; now_ms() < end; i += only < 0) {
        bool library = i % 2;
        struct round round = {
            .program = library ? with_library : with_preload,
            .preload = library ? NULL : preload,
            .engine = engines[i / 2 % 3],
            .ending = (enum ending)(i % 5 < 2 ? RETURNS : mix(seed + (uint64_t)i) % ENDINGS),
            .seed = mix(seed) + (uint64_t)i,
            .ms = 2000 + (int)(mix(seed + 77 + (uint64_t)i) % 6000),
        };
        int before = sh->faults;

        if (library && round.ending == QUICKLY)
            round.ending = EXITS; /* _exit goes past the C library, as it says */
        run_round(&round, memory);
        if (sh->faults != before)
            fprintf(stderr, "stress: round %d (%s, engine %s, ending %d) has %d faults\n", i, library ? "library" : "preload",
                    round.engine, (int)round.ending, sh->faults - before);
    }
    printf("stress: %llu connections, %llu MB sealed, %llu MB opened, %llu forks, %llu programs, %llu killed, %llu key updates, "
           "%llu cut as they were to: %d faults\n",
           (unsigned long long)sh->tallies[CONNECTIONS], (unsigned long long)sh->tallies[BYTES] / 1000000,
           (unsigned long long)sh->tallies[RECEIVED] / 1000000, (unsigned long long)sh->tallies[FORKS],
           (unsigned long long)sh->tallies[PROGRAMS], (unsigned long long)sh->tallies[KILLED],
           (unsigned long long)sh->tallies[UPDATES], (unsigned long long)sh->tallies[CUT], sh->faults);
    fflush(stdout);
    _exit(sh->faults != 0);
}
