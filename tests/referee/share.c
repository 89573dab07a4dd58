/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Copies of descriptors, processes and threads: MT. */
#include "probe.h"

#include <pthread.h>

/* Runs `body` in a child that shares the sockets, to its end. */
static void in_child(void (*body)(const int *), const int *fd)
{
    pid_t child = fork();
    int status;
    if (child == 0) {
        body(fd);
        _exit(0);
    }
    waitpid(child, &status, 0);
    put("child=%s", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "ok" : "failed");
}

static void send_one(const int *fd)
{
    if (send(fd[0], "child", 5, 0) != 5)
        _exit(1);
}

static void send_open(const int *fd)
{
    if (send(fd[0], "child", 5, MSG_MORE) != 5)
        _exit(1);
}

static void receive_five(const int *fd)
{
    char bytes[5];
    if (recv(fd[1], bytes, 5, 0) != 5)
        _exit(1);
}

static void forked(void)
{
    for (int version = TLS12; version <= TLS13; version++) {
        struct keys keys = keys_of(version, AES128_GCM, 5, 0);
        struct sealer s;
        int fd[2];
        tx_pair(fd, &keys);
        line("MT-7", "%x, both processes send", version);
        put_result(send(fd[0], "parent", 6, 0));
        in_child(send_one, fd);
        put_result(send(fd[0], "parent", 6, 0));
        in_child(send_one, fd);
        put_wire(fd[1]);
        line("MT-6", "%x, one open record", version);
        in_child(send_open, fd);
        put_result(send(fd[0], "parent", 6, 0));
        put_wire(fd[1]);
        close_both(fd);
        rx_pair(fd, &keys);
        sealer_open(&s, &keys);
        line("MT-7", "%x, both processes receive", version);
        relay(&s, fd[0], "23:10 23:20");
        put_recv(fd[1], 7, 0);
        in_child(receive_five, fd);
        put_recv(fd[1], 99, 0);
        relay(&s, fd[0], "23:5");
        put_ready(fd[1], 0);
        in_child(receive_five, fd);
        put_ready(fd[1], 0);
        put_recv(fd[1], 99, MSG_DONTWAIT);
        sealer_close(&s);
        close_both(fd);
    }
}

static void copies(void)
{
    struct keys keys = keys12();
    struct sealer s;
    int fd[2];
    tx_pair(fd, &keys);
    line("MT-7", "copies by dup, dup2, dup3, F_DUPFD");
    int copy[4] = {dup(fd[0]), dup2(fd[0], 200), dup3(fd[0], 201, O_CLOEXEC), fcntl(fd[0], F_DUPFD, 300)};
    for (int i = 0; i < 4; i++)
        put_result(send(copy[i], "copy", 4, 0));
    close(fd[0]);
    put_wire(fd[1]);
    line("MT-7", "dup2 over a copy closes it");
    put_result(dup2(STDOUT_FILENO, copy[0]) >= 0 ? 0 : -1);
    put_result(send(copy[1], "copy", 4, 0));
    put_wire(fd[1]);
    for (int i = 1; i < 4; i++)
        close(copy[i]);
    put_wire(fd[1]);
    close(fd[1]);
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
    line("MT-7", "copies share what was received");
    relay(&s, fd[0], "23:10");
    copy[0] = dup(fd[1]);
    put_recv(fd[1], 4, 0);
    put_recv(copy[0], 4, 0);
    close(fd[1]);
    put_ready(copy[0], 0);
    put_recv(copy[0], 4, MSG_DONTWAIT);
}

struct reader {
    int fd;
    ssize_t n;
};

static void *read_two(void *argument)
{
    struct reader *reader = argument;
    char bytes[2];
    reader->n = recv(reader->fd, bytes, 2, MSG_WAITALL);
    return NULL;
}

static void threads(void)
{
    struct keys keys = keys12();
    struct reader reader;
    struct sealer s;
    pthread_t thread;
    int fd[2];
    rx_pair(fd, &keys);
    set_keys(fd[1], TX, &keys);
    sealer_open(&s, &keys);
    reader.fd = fd[1];
    pthread_create(&thread, NULL, read_two, &reader);
    sleep_ms(100);
    line("MT-4", "a second reader while one sleeps");
    put_recv(fd[1], 1, MSG_DONTWAIT);
    set_timeout(fd[1], SO_RCVTIMEO, 200);
    put_recv(fd[1], 1, 0);
    line("MT-1", "send, options and poll while a reader sleeps");
    put_result(send(fd[1], "hello", 5, 0));
    put_ready(fd[1], 0);
    char info[64];
    socklen_t len = keys.len;
    put_result(getsockopt(fd[1], SOL_TLS, TX, info, &len));
    put_wire(fd[0]);
    relay(&s, fd[0], "23:1 23:1");
    pthread_join(thread, NULL);
    line("MT-5", "what the first reader got");
    put_result(reader.n);
    put_recv(fd[1], 9, MSG_DONTWAIT);
    sealer_close(&s);
    close_both(fd);
}

enum { LONG_SEND = 400000 };

struct writer {
    int fd;
    char letter;
    ssize_t n;
};

static void *send_long(void *argument)
{
    struct writer *writer = argument;
    char *bytes = malloc(LONG_SEND);
    memset(bytes, writer->letter, LONG_SEND);
    writer->n = send(writer->fd, bytes, LONG_SEND, 0);
    free(bytes);
    return NULL;
}

static void long_sends(void)
{
    struct keys keys = keys12();
    struct writer writers[3];
    pthread_t threads[3];
    static char bytes[3 * LONG_SEND];
    size_t sum = 0, runs = 1;
    ssize_t n;
    int fd[2];
    tls_pair(fd, &keys);
    line("MT-2", "three threads send 400000 bytes each");
    for (int i = 0; i < 3; i++) {
        writers[i] = (struct writer){fd[0], (char)('a' + i), 0};
        pthread_create(&threads[i], NULL, send_long, &writers[i]);
    }
    while (sum < sizeof bytes && (n = recv(fd[1], bytes + sum, sizeof bytes - sum, 0)) > 0)
        sum += (size_t)n;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        put_result(writers[i].n);
    }
    for (size_t i = 1; i < sum; i++)
        runs += bytes[i] != bytes[i - 1];
    put("in all %zu, runs %zu", sum, runs);
}

static void closed_under_reader(void)
{
    struct keys keys = keys12();
    struct reader reader;
    struct sealer s;
    pthread_t thread;
    int fd[2];
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
    reader.fd = fd[1];
    pthread_create(&thread, NULL, read_two, &reader);
    sleep_ms(100);
    line("MT-11", "closed under a sleeping reader, then a record comes");
    put_result(close(fd[1]));
    sleep_ms(1500);
    relay(&s, fd[0], "23:2");
    pthread_join(thread, NULL);
    put("%s", reader.n < 0 ? "failed" : "received");
    put_wire(fd[0]);
}

/* The descriptor goes to a new program, which is this one with --send. */
static void executed(void)
{
    struct keys keys = keys12();
    int fd[2], status;
    char number[16];
    tx_pair(fd, &keys);
    fcntl(fd[0], F_SETFD, 0);
    fcntl(fd[1], F_SETFD, FD_CLOEXEC);
    line("MT-9", "a program started by exec sends");
    put_result(send(fd[0], "before", 6, 0));
    snprintf(number, sizeof number, "%d", fd[0]);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "probe", "--send", number, (char *)NULL);
        _exit(127);
    }
    waitpid(child, &status, 0);
    put("sent=%s", WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "yes" : "no");
    put_wire(fd[1]);
    put_result(send(fd[0], "after", 5, 0));
    put_wire(fd[1]);
}

const struct probe_case share_cases[] = {
    {"share fork", forked},         {"share copies", copies}, {"share threads", threads},
    {"share long sends", long_sends}, {"share closed", closed_under_reader}, {"share exec", executed},
    {NULL, NULL},
};
