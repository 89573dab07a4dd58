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

const struct probe_case share_cases[] = {
    {"share fork", forked}, {"share copies", copies}, {"share threads", threads}, {NULL, NULL},
};
