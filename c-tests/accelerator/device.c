/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "device.h"

#include <openssl/async.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

struct operation {
    struct device_cipher *cipher;
    unsigned char *out;
    const unsigned char *in;
    int len, written, result;
    uint64_t finish; /* ns */
    bool fails;
    /* Last: the operation may be gone when it has been set. */
    atomic_bool done;
    ASYNC_callback_fn callback;
    void *argument;
    int fd;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed, finished;
    uint64_t latency_ns, jitter_ns, seed, operations, most;
    unsigned lanes, depth, fail, lose, gone_after;
    bool async, by_fd, has_thread;
    char log[256];
    uint64_t *lane_free;
    struct operation **heap; /* by the time of finishing */
    unsigned waiting;
    atomic_bool submitted;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static OSSL_LIB_CTX *library;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t chance(uint64_t below)
{
    device.seed ^= device.seed << 13;
    device.seed ^= device.seed >> 7;
    device.seed ^= device.seed << 17;
    return device.seed % below;
}

static void set(const char *name, const char *value)
{
    unsigned long number = strtoul(value, NULL, 10);
    if (strcmp(name, "latency_us") == 0)
        device.latency_ns = number * 1000;
    else if (strcmp(name, "jitter_us") == 0)
        device.jitter_ns = number * 1000;
    else if (strcmp(name, "lanes") == 0)
        device.lanes = number ? (unsigned)number : 1;
    else if (strcmp(name, "depth") == 0)
        device.depth = number ? (unsigned)number : 1;
    else if (strcmp(name, "fail") == 0)
        device.fail = (unsigned)number;
    else if (strcmp(name, "lose") == 0)
        device.lose = (unsigned)number;
    else if (strcmp(name, "gone_after") == 0)
        device.gone_after = (unsigned)number;
    else if (strcmp(name, "async") == 0)
        device.async = number != 0;
    else if (strcmp(name, "thread") == 0)
        device.has_thread = number != 0;
    else if (strcmp(name, "notify") == 0)
        device.by_fd = strcmp(value, "fd") == 0;
    else if (strcmp(name, "log") == 0)
        snprintf(device.log, sizeof device.log, "%s", value);
    else
        fprintf(stderr, "UKTLS_ACCELERATOR: %s?\n", name);
}

static void tell(void)
{
    FILE *log = device.log[0] ? fopen(device.log, "a") : NULL;
    if (!log)
        return;
    fprintf(log, "%ld operations %llu most %llu\n", (long)getpid(), (unsigned long long)device.operations,
            (unsigned long long)device.most);
    fclose(log);
}

static void sift_up(unsigned at)
{
    struct operation *moving = device.heap[at];
    for (; at && device.heap[(at - 1) / 2]->finish > moving->finish; at = (at - 1) / 2)
        device.heap[at] = device.heap[(at - 1) / 2];
    device.heap[at] = moving;
}

static struct operation *pop(void)
{
    struct operation *first = device.heap[0], *moving = device.heap[--device.waiting];
    unsigned at = 0, child;
    while ((child = 2 * at + 1) < device.waiting) {
        if (child + 1 < device.waiting && device.heap[child + 1]->finish < device.heap[child]->finish)
            child++;
        if (moving->finish <= device.heap[child]->finish)
            break;
        device.heap[at] = device.heap[child];
        at = child;
    }
    if (device.waiting)
        device.heap[at] = moving;
    return first;
}

static void finish(struct operation *o)
{
    ASYNC_callback_fn callback = o->callback;
    void *argument = o->argument;
    int fd = o->fd;
    uint64_t one = 1;

    o->result = !o->fails && EVP_CipherUpdate(o->cipher->context, o->out, &o->written, o->in, o->len);
    atomic_store(&o->done, true);
    if (callback)
        callback(argument);
    else if (fd >= 0 && write(fd, &one, sizeof one) < 0)
        perror("accelerator");
}

/* Sleeps until shortly before the time, as a sleep takes longer than it should; the rest of it, and a while after the last
 * operation, it is awake, for a device takes no time to begin. Whoever has work to do gets the processor meanwhile. */
enum { SPIN_NS = 60000 };

/* Until `until`, or until there is something to do. The lock is not held. */
static void stay_awake(uint64_t until, bool for_work)
{
    while (now() < until && !(for_work && atomic_load_explicit(&device.submitted, memory_order_relaxed)))
        sched_yield();
}

static void *work(void *unused)
{
    bool idle = false;
    (void)unused;
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_NAME, "accelerator");
    pthread_mutex_lock(&device.lock);
    for (;;) {
        atomic_store_explicit(&device.submitted, false, memory_order_relaxed);
        if (!device.waiting) {
            if (!idle) {
                idle = true;
                pthread_mutex_unlock(&device.lock);
                stay_awake(now() + SPIN_NS, true);
                pthread_mutex_lock(&device.lock);
            } else {
                pthread_cond_wait(&device.changed, &device.lock);
            }
            continue;
        }
        idle = false;
        uint64_t due = device.heap[0]->finish, t = now();
        if (t >= due) {
            struct operation *o = pop();
            pthread_mutex_unlock(&device.lock);
            finish(o);
            pthread_mutex_lock(&device.lock);
            pthread_cond_broadcast(&device.finished);
        } else if (due - t > SPIN_NS) {
            uint64_t until = due - SPIN_NS;
            struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
            pthread_cond_timedwait(&device.changed, &device.lock, &at);
        } else {
            pthread_mutex_unlock(&device.lock);
            stay_awake(due, false);
            pthread_mutex_lock(&device.lock);
        }
    }
    return NULL;
}

static void begin(void)
{
    char text[512];
    char *rest = text, *item;
    const char *settings = getenv("UKTLS_ACCELERATOR");
    pthread_condattr_t attributes;
    pthread_t thread;

    device.latency_ns = 100000;
    device.lanes = 4;
    device.depth = 1024;
    device.async = true;
    device.has_thread = true;
    device.seed = 88172645463325252u;
    snprintf(text, sizeof text, "%s", settings ? settings : "");
    while ((item = strsep(&rest, ",")) != NULL) {
        char *value = strchr(item, '=');
        if (value) {
            *value = 0;
            set(item, value + 1);
        }
    }
    device.lane_free = calloc(device.lanes, sizeof *device.lane_free);
    device.heap = calloc(device.depth, sizeof(struct operation *));
    library = OSSL_LIB_CTX_new();
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&device.changed, &attributes);
    bool begun = device.lane_free && device.heap && library;
    if (begun && device.has_thread) {
        begun = !pthread_create(&thread, NULL, work, NULL);
        if (begun)
            pthread_detach(thread);
    }
    if (!begun) {
        fputs("accelerator: cannot begin\n", stderr);
        abort();
    }
    atexit(tell);
}

int device_cipher_new(struct device_cipher *c, const char *name)
{
    pthread_once(&once, begin);
    c->context = EVP_CIPHER_CTX_new();
    c->cipher = EVP_CIPHER_fetch(library, name, NULL);
    return c->context && c->cipher;
}

void device_cipher_free(struct device_cipher *c)
{
    EVP_CIPHER_CTX_free(c->context);
    EVP_CIPHER_free((EVP_CIPHER *)c->cipher);
}

/* Whether there was room. */
static bool submit(struct operation *o)
{
    uint64_t t = now();
    unsigned lane = 0;
    bool taken = false;
    pthread_mutex_lock(&device.lock);
    if (device.waiting < device.depth) {
        taken = true;
        device.operations++;
        o->fails = chance(1000000) < device.fail || (device.gone_after && device.operations > device.gone_after);
        for (unsigned i = 1; i < device.lanes; i++)
            if (device.lane_free[i] < device.lane_free[lane])
                lane = i;
        uint64_t start = device.lane_free[lane] > t ? device.lane_free[lane] : t;
        uint64_t takes = device.latency_ns;
        if (device.jitter_ns)
            takes = takes - (device.jitter_ns < takes ? device.jitter_ns : takes) + chance(2 * device.jitter_ns);
        o->finish = device.lane_free[lane] = start + takes;
        if (chance(1000000) >= device.lose) {
            device.heap[device.waiting++] = o;
            sift_up(device.waiting - 1);
            if (device.waiting > device.most)
                device.most = device.waiting;
            atomic_store_explicit(&device.submitted, true, memory_order_relaxed);
            pthread_cond_signal(&device.changed);
        }
    }
    pthread_mutex_unlock(&device.lock);
    return taken;
}

static void close_fd(ASYNC_WAIT_CTX *context, const void *key, OSSL_ASYNC_FD fd, void *data)
{
    (void)context, (void)key, (void)data;
    close(fd);
}

/* How the job is told. */
static int prepare(struct operation *o, ASYNC_JOB *job)
{
    static const int key;
    ASYNC_WAIT_CTX *wait = ASYNC_get_wait_ctx(job);
    void *data;
    if (!device.by_fd && ASYNC_WAIT_CTX_get_callback(wait, &o->callback, &o->argument) && o->callback)
        return 1;
    o->callback = NULL;
    if (ASYNC_WAIT_CTX_get_fd(wait, &key, &o->fd, &data))
        return 1;
    o->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return o->fd >= 0 && ASYNC_WAIT_CTX_set_wait_fd(wait, &key, o->fd, NULL, close_fd);
}

int device_update(struct device_cipher *c, unsigned char *out, int *written, const unsigned char *in, int len)
{
    ASYNC_JOB *job = device.async ? ASYNC_get_current_job() : NULL;
    struct operation o = {.cipher = c, .out = out, .in = in, .len = len, .fd = -1};
    uint64_t count;

    /* As hardware that works while the driver's caller waits. */
    if (!device.has_thread) {
        pthread_mutex_lock(&device.lock);
        device.operations++;
        pthread_mutex_unlock(&device.lock);
        return EVP_CipherUpdate(c->context, out, written, in, len);
    }
    if (job && !prepare(&o, job))
        return 0;
    while (!submit(&o)) {
        if (job) {
            ASYNC_WAIT_CTX_set_status(ASYNC_get_wait_ctx(job), ASYNC_STATUS_EAGAIN);
            ASYNC_pause_job();
        } else {
            /* As a driver without async jobs does: asks again until there is room. */
            usleep(50);
        }
    }
    if (job) {
        ASYNC_WAIT_CTX_set_status(ASYNC_get_wait_ctx(job), ASYNC_STATUS_OK);
        /* A job may be resumed for no reason. */
        while (!atomic_load(&o.done))
            ASYNC_pause_job();
        if (o.fd >= 0 && read(o.fd, &count, sizeof count) < 0) {
            /* Has been read, or not been written yet: of no importance. */
        }
    } else {
        pthread_mutex_lock(&device.lock);
        while (!atomic_load(&o.done))
            pthread_cond_wait(&device.finished, &device.lock);
        pthread_mutex_unlock(&device.lock);
    }
    *written = o.written;
    return o.result;
}
