/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One cell, under the library: makes the connection and the numbers, sets the keys, writes. */
#include "campaign.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

extern char **environ;

static struct shared *sh;
static const char *own_path, *library_path;

enum step { STARTED, CONNECTING, NUMBERS, KEYS, WAITING_FOR_KEYS, WRITING, WAITING_FOR_CHILD, ENDING };

static void at_step(enum step step)
{
    atomic_store(&sh->step, (int)step);
}

/* What no cell may come to, whatever the library does. */
__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...)
{
    va_list arguments;

    if (atomic_exchange(&sh->complained, 1))
        return;
    va_start(arguments, format);
    vsnprintf(sh->complaint, sizeof sh->complaint, format, arguments);
    va_end(arguments);
}

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;

    if (!atomic_exchange(&sh->complained, 1)) {
        va_start(arguments, format);
        vsnprintf(sh->complaint, sizeof sh->complaint, format, arguments);
        va_end(arguments);
    }
    raw_call(SYS_exit_group, 3, 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

static void note_errno(_Atomic int *place)
{
    int none = 0;

    atomic_compare_exchange_strong(place, &none, errno ? errno : EIO);
}

static void wait_for(_Atomic int *flag)
{
    for (unsigned i = 0; atomic_load(flag) == 0; i++) {
        if (i < 20)
            sched_yield();
        else
            usleep(200);
    }
}

static void reap(pid_t child)
{
    int status;

    at_step(WAITING_FOR_CHILD);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid: %s", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        complain("a child ended with status %#x", (unsigned)status);
}

/* --- connections ----------------------------------------------------------------------------------- */

static int connect_to_driver(const char *hello, int a, int b, int c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)sh->port)};
    unsigned char greeting[8] = {0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("connect: %s", strerror(errno));
    memcpy(greeting, hello, 4);
    greeting[4] = (unsigned char)a;
    greeting[5] = (unsigned char)b;
    greeting[6] = (unsigned char)c;
    /* In the clear, as a handshake is. */
    if (write(fd, greeting, sizeof greeting) != sizeof greeting)
        die("greeting: %s", strerror(errno));
    return fd;
}

static int next_connection(void)
{
    int index = atomic_fetch_add(&sh->connections, 1);

    if (index >= CONNECTIONS_MAX)
        die("too many connections");
    return index;
}

static int connected(int *index)
{
    *index = next_connection();
    return connect_to_driver("HELO", *index, 0, 0);
}

/* One that stays plain: the driver reads its messages as they are. */
static int plainly_connected(void)
{
    return connect_to_driver("HELO", next_connection(), 0, 1);
}

static int accepted(int *index)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), control, fd;

    *index = next_connection();
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        die("listen: %s", strerror(errno));
    control = connect_to_driver("CONN", *index, ntohs(address.sin_port) >> 8, ntohs(address.sin_port) & 255);
    fd = accept(listener, NULL, NULL);
    if (fd < 0)
        die("accept: %s", strerror(errno));
    close(control);
    close(listener);
    return fd;
}

static bool of_library(void)
{
    return functions[sh->cell.function].flags & LIBRARY;
}

static bool set_keys(int fd, int connection)
{
    struct keys keys = make_keys(sh->suite, connection_seed(sh, connection));

    if (of_library()) {
        if (uktls.tls_tx_init(fd, keys.info, keys.len) == 0)
            return true;
        note_errno(&sh->keys_errno);
        return false;
    }
    /* The second of two callers finds it attached. */
    (void)setsockopt(fd, SOL_TCP, TCP_ULP, "tls", sizeof "tls");
    if (setsockopt(fd, SOL_TLS, TLS_TX, keys.info, (socklen_t)keys.len) == 0)
        return true;
    note_errno(&sh->keys_errno);
    return false;
}

/* A message on another connection than the one that is tested. */
static void write_auxiliary(int fd)
{
    char text[MESSAGE_MAX];
    int counter = atomic_fetch_add(&sh->auxiliaries, 1);
    size_t len = message(text, sh->seed, AUXILIARY, (unsigned)counter, 0);

    atomic_store(&sh->writers[AUXILIARY].state[counter], TRYING);
    if ((of_library() ? uktls.tls_send(fd, text, len, 0) : write(fd, text, len)) == (ssize_t)len)
        atomic_store(&sh->writers[AUXILIARY].state[counter], TAKEN);
    else
        complain("another connection does not take a message: %s", strerror(errno));
}

static int auxiliary(void)
{
    int index, fd = connected(&index);

    if (set_keys(fd, index))
        write_auxiliary(fd);
    else
        complain("the keys of another connection are declined: %s", strerror(errno));
    return fd;
}

static int reused(enum how how, int *index)
{
    int other[2], number, fd;

    if (how == REUSED_PLAIN) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, other) < 0)
            die("socketpair: %s", strerror(errno));
        number = other[0];
        if (write(number, "plain", 5) != 5)
            die("a plain socket: %s", strerror(errno));
        close(number);
    } else {
        number = auxiliary();
        if (how == REUSED_RANGE)
            close_range((unsigned)number, (unsigned)number, 0);
        else if (how == REUSED_SYSCALL)
            syscall(SYS_close, number);
        else
            close(number);
    }
    if (how != REUSED_DUP) {
        fd = connected(index);
    } else {
        int first = open("/dev/null", O_RDWR), second = connected(index);

        close(first);
        fd = dup(second);
        close(second);
    }
    if (fd != number)
        complain("number %d is not given out again but %d", number, fd);
    return fd;
}

/* --- numbers --------------------------------------------------------------------------------------- */

static int send_number(int over, int fd)
{
    char byte = 'n';
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(over, &msg, 0) < 0 ? errno : 0;
}

static int receive_number(int over)
{
    char byte;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c;
    int fd;

    if (recvmsg(over, &msg, 0) < 1)
        return -1;
    c = CMSG_FIRSTHDR(&msg);
    if (c == NULL || c->cmsg_type != SCM_RIGHTS) {
        errno = EOPNOTSUPP;
        return -1;
    }
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

static int by_rights(int fd, bool child)
{
    int pair[2], error = 0, number = -1;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair: %s", strerror(errno));
    if (child) {
        pid_t pid = fork();

        if (pid == 0) {
            if (send_number(pair[1], fd) != 0 && send(pair[1], "refused", 7, 0) < 0)
                _exit(5);
            _exit(0);
        }
        if (pid < 0)
            die("fork: %s", strerror(errno));
        number = receive_number(pair[0]);
        error = errno;
        reap(pid);
    } else {
        error = send_number(pair[1], fd);
        if (error == 0) {
            number = receive_number(pair[0]);
            error = errno;
        }
    }
    close(pair[0]);
    close(pair[1]);
    errno = error;
    return number;
}

static int by_pidfd(int fd, bool child)
{
    int gate[2], pidfd, number, error;
    pid_t pid = getpid();
    char byte;

    if (child) {
        if (pipe(gate) < 0)
            die("pipe: %s", strerror(errno));
        pid = fork();
        if (pid < 0)
            die("fork: %s", strerror(errno));
        if (pid == 0) {
            close(gate[1]);
            _exit(read(gate[0], &byte, 1) == 0 ? 0 : 6);
        }
    }
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    number = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    error = errno;
    if (pidfd >= 0)
        close(pidfd);
    if (child) {
        close(gate[0]);
        close(gate[1]);
        reap(pid);
    }
    errno = error;
    return number;
}

/* A number for writer `i`, which was `other` before. */
static int over(int fd, int i, int other)
{
    int number = 400 + i;

    if (other < 0 || dup2(other, number) != number)
        die("a number to be put over: %s", strerror(errno));
    close(other);
    return dup2(fd, number);
}

static int plain_socket(void)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return -1;
    close(pair[1]);
    return pair[0];
}

static int neighbour_free(int fd, int i)
{
    int number = 420 + 3 * i;

    if (dup2(fd, number - 1) < 0 || dup2(fd, number) < 0 || dup2(fd, number + 1) < 0)
        return -1;
    close_range((unsigned)number - 1, (unsigned)number - 1, 0);
    close_range((unsigned)number + 1, (unsigned)number + 1, 0);
    return number;
}

static int derive(enum how how, int fd, int i)
{
    switch (how) {
    case DUP: return dup(fd);
    case DUP2_FREE: return dup2(fd, 300 + i);
    case DUP2_PLAIN: return over(fd, i, plain_socket());
    case DUP2_FILE: return over(fd, i, open("/dev/null", O_WRONLY));
    case DUP2_TLS: return over(fd, i, auxiliary());
    case DUP3: return dup3(fd, 310 + i, O_CLOEXEC);
    case F_DUP: return fcntl(fd, F_DUPFD, 200);
    case F_DUP_CLOEXEC: return fcntl(fd, F_DUPFD_CLOEXEC, 210);
    case RIGHTS_SELF: return by_rights(fd, false);
    case RIGHTS_CHILD: return by_rights(fd, true);
    case PIDFD_SELF: return by_pidfd(fd, false);
    case PIDFD_CHILD: return by_pidfd(fd, true);
    case SYSCALL_DUP: return (int)syscall(SYS_dup, fd);
    case SYSCALL_DUP2: return (int)syscall(SYS_dup3, fd, 320 + i, 0);
    case ONTO_STDOUT: return dup2(fd, STDOUT_FILENO);
    case NEIGHBOURS: return neighbour_free(fd, i);
    default: return fd;
    }
}

/* --- messages -------------------------------------------------------------------------------------- */

/* Returns how much is taken, all but after an error. */
static size_t write_all(struct writer *w, const struct function *f, const char *data, size_t len)
{
    size_t done = 0;

    while (done < len) {
        errno = 0;
        ssize_t n = w->fd < 0 ? -1 : f->write(w, data + done, len - done);

        if (n <= 0) {
            note_errno(&sh->writers[w->id].first_errno);
            break;
        }
        done += (size_t)n;
    }
    return done;
}

static void mark(const struct writer *w, unsigned counter, int state)
{
    atomic_store(&sh->writers[w->id].state[counter], (unsigned char)state);
}

/* Streams are written at the end of a process, but not by _exit. */
__attribute__((noreturn)) static void leave(void)
{
    if (functions[sh->cell.function].flags & LAZY)
        exit(0);
    _exit(0);
}

/* Some messages in one call. */
static void batch(struct writer *w, const struct function *f, unsigned counter, unsigned n)
{
    static __thread char text[5 * MESSAGE_MAX];
    size_t len = 0, taken;

    for (unsigned i = 0; i < n; i++) {
        mark(w, counter + i, TRYING);
        len += message(text + len, sh->seed, w->id, counter + i, sh->cell.function);
    }
    taken = write_all(w, f, text, len);
    for (size_t at = 0; n > 0; n--, at += len) {
        len = length_of(text + at);
        if (taken > at && taken < at + len)
            complain("writer %d: %zu bytes of a message of %zu are taken, then %s", w->id, taken - at, len,
                     strerror(atomic_load(&sh->writers[w->id].first_errno)));
        mark(w, counter++, taken >= at + len ? TAKEN : REFUSED);
    }
}

static void one(struct writer *w, const struct function *f, unsigned counter)
{
    batch(w, f, counter, 1);
}

/* Returns how many messages it has seen to. */
static unsigned planted(struct writer *w, const struct function *f, unsigned counter, unsigned count)
{
    char text[MESSAGE_MAX];
    size_t len = message(text, sh->seed, w->id, counter, sh->cell.function);
    static __thread bool done;

    if (!sh->plant || done || w->id != sh->plant_writer || counter < sh->plant_counter || len == HEAD)
        return 0;
    done = true;
    switch (sh->plant) {
    case SWALLOWED:
        mark(w, counter, TAKEN);
        return 1;
    case DOUBLED:
        one(w, f, counter);
        one(w, f, counter);
        return 1;
    case ALTERED:
        text[len - 1] ^= 1;
        mark(w, counter, write_all(w, f, text, len) == len ? TAKEN : REFUSED);
        return 1;
    case WRONG_TYPE:
        for (f = functions; !(f->flags & TYPED); f++)
            ;
        one(w, f, counter);
        return 1;
    case SENT_AND_REFUSED:
        one(w, f, counter);
        mark(w, counter, REFUSED);
        return 1;
    case SWAPPED:
        if (counter + 1 == count) {
            complain("nothing to swap with");
            return 0;
        }
        one(w, f, counter + 1);
        one(w, f, counter);
        return 2;
    default:
        plant_now(sh, w, counter);
        return 0;
    }
}

void plant_now(struct shared *shared, struct writer *w, unsigned counter)
{
    struct keys keys = make_keys(shared->suite, connection_seed(shared, 0));
    char text[MESSAGE_MAX];
    unsigned char record[MESSAGE_MAX + 64];
    size_t len = message(text, shared->seed, AUXILIARY - 1, counter, 0), n = 0;
    uint64_t old = mix(shared->seed) % counter;

    switch (shared->plant) {
    case PLAIN_MESSAGE:
        memcpy(record, text, n = len);
        break;
    case PLAIN_BYTE:
        record[n++] = 'x';
        break;
    case DRESSED:
        memcpy(record + 5, text, len);
        memset(record + 5 + len, ' ', 40);
        n = len + 45;
        memcpy(record, (unsigned char[]){23, 3, 3, (unsigned char)((n - 5) >> 8), (unsigned char)(n - 5)}, 5);
        break;
    case OLD_NUMBER:
        n = seal_record(&keys, old, 23, text, len, record);
        break;
    case REPEAT:
        len = message(text, shared->seed, w->id, (unsigned)old, shared->cell.function);
        n = seal_record(&keys, old, 23, text, len, record);
        break;
    case AHEAD:
        n = seal_record(&keys, 300 + old, 23, text, len, record);
        break;
    case TRUNCATED:
        n = seal_record(&keys, counter, 23, text, len, record) / 2;
        break;
    case WRONG_KEY:
        keys = make_keys(shared->suite, connection_seed(shared, 1));
        n = seal_record(&keys, counter, 23, text, len, record);
        break;
    case SPOILED_TAG:
        n = seal_record(&keys, counter, 23, text, len, record);
        record[n - 1] ^= 1;
        break;
    default: /* NEXT_NUMBER */
        n = seal_record(&keys, counter, 23, text, len, record);
        break;
    }
    if (raw_call(SYS_write, w->fd, (long)record, (long)n, 0, 0, 0) != (long)n)
        complain("the leak is not planted");
}

/* --- a number that changes ------------------------------------------------------------------------- */

static _Atomic int churning, churn_ends, churn_turns, churn_messages;
static int churned[2], churn_number = 330;

static void *churn(void *argument)
{
    for (unsigned i = 1; !atomic_load(&churn_ends); i++) {
        if (dup2(churned[i & 1], churn_number) != churn_number) {
            complain("dup2 over the number: %s", strerror(errno));
            break;
        }
        atomic_fetch_add(&churn_turns, 1);
        /* Each of the two gets messages, and some find the number in the midst of a change: every third turn is short. */
        for (int before = atomic_load(&churn_messages), k = 0;
             i % 3 && k < 100 && atomic_load(&churn_messages) == before && !atomic_load(&churn_ends); k++)
            sched_yield();
    }
    return argument;
}

/* Between a few messages the number changes, however slow the other thread is. */
static void churn_once_more(unsigned counter)
{
    if (!atomic_load(&churning))
        return;
    atomic_fetch_add(&churn_messages, 1);
    if (counter % 3 == 0)
        for (int turns = atomic_load(&churn_turns), i = 0; atomic_load(&churn_turns) == turns && i < 1000; i++)
            sched_yield();
}

static void write_messages(struct writer *w, unsigned count)
{
    const struct function *f = &functions[sh->cell.function];
    bool declined = atomic_load(&sh->go) == KEYS_DECLINED;
    unsigned each = batch_of(sh->cell.function);

    start_writer(w);
    at_step(WRITING);
    for (unsigned counter = 0; counter < count;) {
        /* While processes are forked there is always something being written. */
        if (sh->cell.forks == FORK_WHILE_WRITING && w->id < 4 && counter % 8 == 7)
            for (int i = 0; atomic_load(&sh->forks_begun) < (int)(counter * 4 / count) && i < 100000; i++)
                sched_yield();
        churn_once_more(counter);
        if (declined) {
            /* What was written would be plain, and rightly so. */
            mark(w, counter++, REFUSED);
        } else if (each > 1) {
            batch(w, f, counter, each);
            counter += each;
        } else {
            unsigned n = planted(w, f, counter, count);

            if (n == 0) {
                one(w, f, counter);
                n = 1;
            }
            counter += n;
        }
    }
    /* With the C library, _exit loses what is queued. */
    if (of_library() && !declined && w->fd >= 0)
        uktls.uktls_flush(w->fd, -1);
}

static void prepare(struct writer *w, int fd, int id)
{
    const struct function *f = &functions[sh->cell.function];

    *w = (struct writer){.fd = fd, .id = id};
    if (fd < 0)
        note_errno(&sh->number_errno);
    errno = 0;
    if (fd >= 0 && f->prepare != NULL && !f->prepare(w)) {
        note_errno(&sh->number_errno);
        w->fd = -1;
    }
}

static void *writer_thread(void *argument)
{
    write_messages(argument, messages_of(&sh->cell));
    return NULL;
}

static void start_thread(pthread_t *thread, void *(*body)(void *), void *argument)
{
    int error = pthread_create(thread, NULL, body, argument);

    if (error)
        die("pthread_create: %s", strerror(error));
}

static void start_threads(struct writer *writers, pthread_t *threads, int n)
{
    for (int i = 0; i < n; i++)
        start_thread(&threads[i], writer_thread, &writers[i]);
}

static void join_threads(pthread_t *threads, int n)
{
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void write_by_threads(struct writer *writers, int shift)
{
    int n = thread_counts[sh->cell.threads];
    pthread_t threads[THREADS_MAX];

    for (int i = 0; i < n; i++)
        writers[i].id += shift;
    if (n == 1) {
        writer_thread(writers);
        return;
    }
    start_threads(writers, threads, n);
    join_threads(threads, n);
}

static pid_t fork_or_die(void)
{
    pid_t pid = fork();

    if (pid < 0)
        die("fork: %s", strerror(errno));
    return pid;
}

static void fork_while_writing(struct writer *writers)
{
    int n = thread_counts[sh->cell.threads];
    pthread_t threads[THREADS_MAX];
    pid_t children[3];

    start_threads(writers, threads, n);
    for (int k = 0; k < 3; k++) {
        atomic_fetch_add(&sh->forks_begun, 1);
        children[k] = fork_or_die();
        if (children[k] == 0) {
            struct writer own;
            /* What a thread had in a stream when it was copied is not this process's to send. */
            if (writers[0].file != NULL)
                __fpurge(stdout);
            prepare(&own, writers[0].fd, writers[0].id + 16 + k);
            write_messages(&own, functions[sh->cell.function].flags & BIG ? 10 : 12);
            _exit(0);
        }
    }
    /* Whatever has come of the children, the threads go on. */
    atomic_store(&sh->forks_begun, 4);
    join_threads(threads, n);
    for (int k = 0; k < 3; k++)
        reap(children[k]);
}

static void run_writers(struct writer *writers)
{
    pid_t child;

    at_step(WAITING_FOR_KEYS);
    wait_for(&sh->go);
    switch (sh->cell.forks) {
    case NO_FORK:
        write_by_threads(writers, 0);
        break;
    case CHILD:
    case BOTH:
        child = fork_or_die();
        if (child == 0) {
            write_by_threads(writers, 4);
            leave();
        }
        if (sh->cell.forks == BOTH)
            write_by_threads(writers, 0);
        reap(child);
        break;
    case GRANDCHILD:
        child = fork_or_die();
        if (child == 0) {
            child = fork_or_die();
            if (child == 0) {
                write_by_threads(writers, 8);
                leave();
            }
            reap(child);
            _exit(0);
        }
        reap(child);
        break;
    default:
        fork_while_writing(writers);
        break;
    }
}

/* --- keys ------------------------------------------------------------------------------------------ */

/* Those who set keys, and the last of them says how it went. */
static int base_fd, base_connection, second_number;
static _Atomic int setters_left, setters_good;

static void set_and_say(int fd)
{
    at_step(KEYS);
    if (set_keys(fd, base_connection))
        atomic_store(&setters_good, 1);
    if (atomic_fetch_sub(&setters_left, 1) == 1)
        atomic_store(&sh->go, atomic_load(&setters_good) ? KEYS_SET : KEYS_DECLINED);
}

static _Atomic int setters_ready;

static void *set_when_made(void *argument)
{
    wait_for(&sh->made);
    /* Two of them at the same moment, as far as there are processors. */
    atomic_fetch_add(&setters_ready, 1);
    for (int i = 0; sh->cell.when == TWICE && atomic_load(&setters_ready) < 2; i++)
        if (i > 100000)
            sched_yield();
    set_and_say(argument == NULL ? base_fd : second_number);
    return NULL;
}

static void *set_at_once(void *argument)
{
    set_and_say(base_fd);
    return argument;
}

static pid_t set_in_process(void)
{
    pid_t child = fork_or_die();

    if (child == 0) {
        struct writer writers[THREADS_MAX];

        wait_for(&sh->made);
        set_and_say(base_fd);
        for (int i = 0; i < thread_counts[sh->cell.threads]; i++)
            prepare(&writers[i], base_fd, 32 + i);
        write_by_threads(writers, 0);
        leave();
    }
    return child;
}

/* Two threads set the same keys at the same moment, by two numbers of a socket, and each number is written to: with two
 * states, number 0 comes twice. The moment is short, so it is tried a few times. */
enum { RACES = 8 };

struct racer {
    int fd, connection;
    bool good;
};

static _Atomic int racers_ready;

static void *race(void *argument)
{
    struct racer *it = argument;

    atomic_fetch_add(&racers_ready, 1);
    for (int i = 0; atomic_load(&racers_ready) < 2; i++)
        if (i > 100000)
            sched_yield();
    it->good = set_keys(it->fd, it->connection);
    return NULL;
}

static void race_for_keys(void)
{
    for (int i = 0; i < RACES; i++) {
        struct racer racers[2];
        pthread_t other;

        racers[0].fd = connected(&racers[0].connection);
        racers[1] = (struct racer){.fd = dup(racers[0].fd), .connection = racers[0].connection};
        if (racers[1].fd < 0)
            die("dup: %s", strerror(errno));
        atomic_store(&racers_ready, 0);
        start_thread(&other, race, &racers[1]);
        race(&racers[0]);
        pthread_join(other, NULL);
        for (int k = 0; k < 2 && (racers[0].good || racers[1].good); k++)
            write_auxiliary(racers[k].fd);
        for (int k = 0; k < 2; k++)
            if (of_library())
                uktls.uktls_close(racers[k].fd);
            else
                close(racers[k].fd);
    }
}

/* --- the other places where a number is ------------------------------------------------------------ */

/* In the process, thread or table that has it. */
static void write_elsewhere(int fd)
{
    struct writer writers[THREADS_MAX];

    for (int i = 0; i < thread_counts[sh->cell.threads]; i++)
        prepare(&writers[i], fd, i);
    atomic_store(&sh->made, 1);
    if (sh->cell.when == AFTER_BY_NEW)
        set_and_say(fd);
    run_writers(writers);
}

/* The process, thread or table of the writers was refused, with errno. */
static void nobody_writes(void)
{
    note_errno(&sh->number_errno);
    for (int i = 0; i < thread_counts[sh->cell.threads]; i++)
        for (unsigned m = 0; m < messages_of(&sh->cell); m++)
            atomic_store(&sh->writers[i].state[m], REFUSED);
    atomic_store(&sh->made, 1);
    if (sh->cell.when == AFTER_BY_NEW)
        atomic_store(&sh->go, KEYS_DECLINED);
}

static void *write_unshared(void *argument)
{
    if (unshare(CLONE_FILES) < 0) {
        nobody_writes();
        return argument;
    }
    write_elsewhere(base_fd);
    return argument;
}

static void command(char **arguments, char number[16], char connection[16], int fd)
{
    snprintf(number, 16, "%d", fd);
    snprintf(connection, 16, "%d", base_connection);
    memcpy(arguments, (char *[]){(char *)(uintptr_t)own_path, "--writer", number, connection,
                                 (char *)(uintptr_t)plugin_path, (char *)(uintptr_t)library_path, NULL},
           7 * sizeof *arguments);
}

static pid_t start_elsewhere(enum how how)
{
    char *arguments[7], number[16], connection[16];
    posix_spawn_file_actions_t actions;
    pid_t child = -1;
    int error, fd = base_fd;

    switch (how) {
    case FORKED:
        child = fork_or_die();
        if (child == 0) {
            write_elsewhere(fd);
            leave();
        }
        return child;
    case RAW_CLONE:
    case RAW_CLONE_FILES:
        child = (pid_t)syscall(SYS_clone, SIGCHLD | (how == RAW_CLONE_FILES ? CLONE_FILES : 0), 0L, 0L, 0L, 0L);
        if (child < 0)
            nobody_writes();
        if (child == 0) {
            write_elsewhere(fd);
            _exit(0);
        }
        return child;
    case EXECED:
        child = fork_or_die();
        if (child == 0) {
            fcntl(fd, F_SETFD, 0);
            command(arguments, number, connection, fd);
            execve(own_path, arguments, environ);
            _exit(7);
        }
        return child;
    case SPAWNED:
        posix_spawn_file_actions_init(&actions);
        error = posix_spawn_file_actions_adddup2(&actions, fd, 350);
        command(arguments, number, connection, 350);
        if (error == 0)
            error = posix_spawn(&child, own_path, &actions, NULL, arguments, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (error == 0)
            return child;
        /* There is nobody to write. */
        errno = error;
        nobody_writes();
        return -1;
    default: /* VFORKED; the parent sleeps until it ends. */
        child = vfork();
        if (child == 0) {
            write_elsewhere(base_fd);
            _exit(0);
        }
        if (child < 0)
            die("vfork: %s", strerror(errno));
        return child;
    }
}

/* --- the cell -------------------------------------------------------------------------------------- */

static void run_cell(void)
{
    const struct cell *cell = &sh->cell;
    enum how how = (enum how)cell->how;
    bool elsewhere = how >= FORKED, threaded = false;
    struct writer writers[THREADS_MAX];
    pthread_t setters[2], churner, unshared;
    int setter_count = 0;
    pid_t setter = -1, child = -1;

    at_step(CONNECTING);
    /* Not known yet: it may be the second. */
    atomic_store(&sh->main_connection, -1);
    if (how >= REUSED_TLS && how <= REUSED_DUP)
        base_fd = reused(how, &base_connection);
    else
        base_fd = how == ACCEPTED ? accepted(&base_connection) : connected(&base_connection);
    second_number = base_fd;
    atomic_store(&sh->main_connection, base_connection);
    atomic_store(&setters_left, cell->when == TWICE ? 2 : 1);
    if (cell->when == BEFORE)
        set_and_say(base_fd);
    if (cell->when == OTHER_PROCESS)
        setter = set_in_process();
    /* The parent of a vfork sets no keys while the child lives: another thread does. */
    if (cell->when == TWICE || (how == VFORKED && cell->when == AFTER))
        for (; setter_count < atomic_load(&setters_left) && setter_count < 2; setter_count++)
            start_thread(&setters[setter_count], set_when_made, setter_count ? &second_number : NULL);
    if (cell->when == OTHER_THREAD)
        start_thread(&setters[setter_count++], set_at_once, NULL);

    at_step(NUMBERS);
    if (how == UNSHARED) {
        threaded = true;
        start_thread(&unshared, write_unshared, NULL);
    } else if (elsewhere) {
        child = start_elsewhere(how);
    } else {
        for (int i = 0; i < thread_counts[cell->threads]; i++) {
            int fd;

            errno = 0;
            if (how == CHURN || how == CHURN_PLAIN) {
                if (i == 0) {
                    churned[0] = base_fd;
                    churned[1] = how == CHURN ? auxiliary() : plainly_connected();
                    dup2(base_fd, churn_number);
                    atomic_store(&churning, 1);
                    start_thread(&churner, churn, NULL);
                }
                fd = churn_number;
            } else {
                fd = derive(how, base_fd, i);
            }
            prepare(&writers[i], fd, i);
            if (i == 0 && fd >= 0)
                second_number = fd;
        }
        /* Keys by the new number: the old one is the writer's then. Of four writers one has the old number in any case:
         * two numbers with a state each would use the same records. */
        if (writers[0].fd >= 0 && how != CHURN && how != CHURN_PLAIN &&
            (cell->when == AFTER_BY_NEW || cell->threads > 0))
            prepare(&writers[0], base_fd, 0);
        atomic_store(&sh->made, 1);
    }

    if (cell->when == AFTER && how != VFORKED) {
        wait_for(&sh->made);
        set_and_say(base_fd);
    } else if (cell->when == AFTER_BY_NEW && !elsewhere) {
        set_and_say(second_number);
    }
    if (!elsewhere)
        run_writers(writers);
    if (atomic_load(&churning)) {
        atomic_store(&churn_ends, 1);
        pthread_join(churner, NULL);
    }
    if (threaded)
        pthread_join(unshared, NULL);
    if (child > 0)
        reap(child);
    join_threads(setters, setter_count);
    if (setter > 0)
        reap(setter);
    if (cell->when == TWICE)
        race_for_keys();
    at_step(ENDING);
}

static void map_shared(void)
{
    sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
    if (sh == MAP_FAILED) {
        fputs("campaign: no shared memory\n", stderr);
        exit(3);
    }
    signal(SIGPIPE, SIG_IGN);
}

/* `--worker PLUGIN LIBRARY`, or, after an exec in a cell, `--writer NUMBER CONNECTION PLUGIN LIBRARY`. */
int worker_main(int argc, char **argv)
{
    bool writer = !strcmp(argv[1], "--writer");
    struct stat status;

    own_path = argv[0];
    plugin_path = argv[argc - 2];
    library_path = argv[argc - 1];
    map_shared();
    if (of_library() && !load_library(library_path))
        die("%s does not load", library_path);
    if (!writer) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_cell();
        return 0;
    }
    base_fd = atoi(argv[2]);
    base_connection = atoi(argv[3]);
    atomic_store(&setters_left, 1);
    if (fstat(base_fd, &status) < 0 || !S_ISSOCK(status.st_mode)) {
        errno = EBADF;
        note_errno(&sh->number_errno);
        base_fd = -1;
    }
    write_elsewhere(base_fd);
    return 0;
}
