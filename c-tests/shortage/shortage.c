/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A lack of memory is an answer (design rule 7): from the n-th allocation of the library on each one fails, and with `nothing` it
 * can map nothing either. Calls that say ENOMEM or ENOBUFS are made again once there is memory. All bytes arrive, in order, and
 * nothing is left behind. `many`: connections until there is no memory for another one.
 *
 *   shortage FIRST LAST STEP [nothing] [cold]; shortage many; shortage exhausted
 *
 * With -DPRELOAD for the preload library, else for libuktls.so.
 */
#define _GNU_SOURCE
#include "failing.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tls.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef PRELOAD
#define SOL_TLS 282
#define tls_send send
#define tls_recv recv
#define tls_sendfile sendfile
#define tls_splice splice
#define tls_poll poll
#define uktls_close close
static int tls_tx_init(int fd, const void *info, size_t len)
{
    if (setsockopt(fd, SOL_TCP, TCP_ULP, "tls", 4) != 0 && errno != EEXIST)
        return -1;
    return setsockopt(fd, SOL_TLS, TLS_TX, info, (socklen_t)len);
}
static int tls_rx_init(int fd, const void *info, size_t len)
{
    if (setsockopt(fd, SOL_TCP, TCP_ULP, "tls", 4) != 0 && errno != EEXIST)
        return -1;
    return setsockopt(fd, SOL_TLS, TLS_RX, info, (socklen_t)len);
}
#else
#include <uktls.h>
#endif

enum { DATA_LEN = 200000 };

static unsigned char data[DATA_LEN];
static unsigned long now; /* the n of this turn */
static unsigned long refused;
static bool is_nothing; /* can be mapped */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "shortage: n = %lu, line %d: %s: %s\n", now, __LINE__, #condition,     \
                    strerror(errno));                                                              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void no_mapping(bool on)
{
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    is_nothing = on;
    limit.rlim_cur = on ? 1 << 20 : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void memory_is_back(void)
{
    fail_every(0);
    no_mapping(false);
}

static bool is_shortage(long result)
{
    if (result != -1 || (errno != ENOMEM && errno != ENOBUFS))
        return false;
    refused++;
    memory_is_back();
    return true;
}

/* The result of a call that is made again if there was no memory for it. */
#define TRY(call)                                                                                  \
    ({                                                                                             \
        long result_;                                                                              \
        while (is_shortage(result_ = (long)(call)))                                                \
            ;                                                                                      \
        result_;                                                                                   \
    })

static void tcp_pair(int fd[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (void *)&at, sizeof at) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (void *)&at, &len) == 0);
    fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd[0], (void *)&at, sizeof at) == 0);
    CHECK((fd[1] = accept(listener, NULL, NULL)) >= 0);
    close(listener);
}

static const void *keys(unsigned char tag)
{
    static struct tls12_crypto_info_aes_gcm_128 info;
    memset(&info, tag, sizeof info);
    info.info.version = TLS_1_3_VERSION;
    info.info.cipher_type = TLS_CIPHER_AES_GCM_128;
    memset(info.rec_seq, 0, sizeof info.rec_seq);
    return &info;
}

enum { KEYS_LEN = sizeof(struct tls12_crypto_info_aes_gcm_128) };

static void send_all(int fd, size_t at, size_t len, int flags)
{
    while (len > 0) {
        long sent = TRY(tls_send(fd, data + at, len, flags));
        CHECK(sent > 0);
        at += (size_t)sent;
        len -= (size_t)sent;
    }
}

static void receive_all(int fd, size_t at, size_t len)
{
    static unsigned char got[DATA_LEN];
    for (size_t done = 0; done < len;) {
        long received = TRY(tls_recv(fd, got + done, len - done, 0));
        CHECK(received > 0);
        done += (size_t)received;
    }
    CHECK(memcmp(got, data + at, len) == 0);
}

static void send_file(int fd, int file, size_t at, size_t len)
{
    off_t offset = (off_t)at;
    while ((size_t)offset < at + len)
        CHECK(TRY(tls_sendfile(fd, file, &offset, at + len - (size_t)offset)) > 0);
}

static void send_pipe(int fd, int pipes[2], size_t at, size_t len)
{
    CHECK(write(pipes[1], data + at, len) == (ssize_t)len);
    while (len > 0) {
        long sent = TRY(tls_splice(pipes[0], NULL, fd, NULL, len, 0));
        CHECK(sent > 0);
        len -= (size_t)sent;
    }
}

static void receive_by_pipe(int fd, int pipes[2], size_t at, size_t len)
{
    static unsigned char got[65536];
    while (len > 0) {
        long moved = TRY(tls_splice(fd, NULL, pipes[1], NULL, len, 0));
        CHECK(moved > 0);
        CHECK(read(pipes[0], got, sizeof got) == moved);
        CHECK(memcmp(got, data + at, (size_t)moved) == 0);
        at += (size_t)moved;
        len -= (size_t)moved;
    }
}

static void both_ways(int fd[2], int file, int pipes[2])
{
    for (int way = 0; way < 2; way++) {
        int from = fd[way], to = fd[1 - way];
        struct pollfd wait = {.fd = to, .events = POLLIN};
        for (size_t i = 0; i < 3; i++)
            send_all(from, i * 100, 100, 0);
        CHECK(TRY(tls_poll(&wait, 1, 30000)) == 1 && wait.revents == POLLIN);
        receive_all(to, 0, 300);
        send_all(from, 1000, 60000, 0);
        receive_all(to, 1000, 30000);
        send_all(from, 61000, 500, MSG_MORE);
        send_file(from, file, 61500, 40000);
        receive_all(to, 31000, 70500);
        send_pipe(from, pipes, 5000, 30000);
        receive_by_pipe(to, pipes, 5000, 30000);
    }
}

/* Where nothing can be mapped, parent and child cannot have memory together: the child is refused, and nothing else. */
static void a_child_sends(int fd[2])
{
    enum { REFUSED = 3 };
    bool nothing = is_nothing;
    pid_t child = (pid_t)TRY(fork());
    int status;
    CHECK(child >= 0);
    if (child == 0) {
        if (nothing && tls_send(fd[0], data + 700, 1, 0) != 1) {
            CHECK(errno == ENOTRECOVERABLE);
            _exit(REFUSED);
        }
        send_all(fd[0], 700 + nothing, 5000 - nothing, 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    if (nothing && WEXITSTATUS(status) == REFUSED)
        return;
    CHECK(WEXITSTATUS(status) == 0);
    receive_all(fd[1], 700, 5000);
}

static void turn(unsigned long n, bool nothing, int file)
{
    int fd[2], pipes[2];
    now = n;
    tcp_pair(fd);
    CHECK(pipe(pipes) == 0);
    fail_from(n);
    no_mapping(nothing);
    CHECK(TRY(tls_tx_init(fd[0], keys(1), KEYS_LEN)) == 0);
    CHECK(TRY(tls_rx_init(fd[1], keys(1), KEYS_LEN)) == 0);
    CHECK(TRY(tls_tx_init(fd[1], keys(2), KEYS_LEN)) == 0);
    CHECK(TRY(tls_rx_init(fd[0], keys(2), KEYS_LEN)) == 0);
    both_ways(fd, file, pipes);
    CHECK(TRY(tls_tx_init(fd[0], keys(3), KEYS_LEN)) == 0);
    CHECK(TRY(tls_rx_init(fd[1], keys(3), KEYS_LEN)) == 0);
    both_ways(fd, file, pipes);
    if (n % 2 == 0) {
        a_child_sends(fd);
        both_ways(fd, file, pipes);
    }
    send_all(fd[0], 0, 10, 0);
    receive_all(fd[1], 0, 10);
    CHECK(uktls_close(fd[0]) == 0);
    CHECK(tls_recv(fd[1], pipes, 0, 0) == 0);
    CHECK(uktls_close(fd[1]) == 0);
    memory_is_back();
    close(pipes[0]);
    close(pipes[1]);
}

static int open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void turns(unsigned long first, unsigned long last, unsigned long step, bool nothing)
{
    int file = memfd_create("data", MFD_CLOEXEC), descriptors = 0;
    size_t held = 0;
    unsigned long before, middle = (first + last) / 2;
    CHECK(write(file, data, sizeof data) == DATA_LEN);
    /* Whatever a process has once is there before. */
    turn(1000000, false, file);
    turn(1000001, false, file);
    before = failures();
    for (unsigned long n = first; n <= last; n += step) {
        turn(n, nothing, file);
        if (n <= middle) {
            descriptors = open_descriptors();
            held = mallinfo2().uordblks;
        }
    }
    CHECK(failures() > before);
    CHECK(open_descriptors() <= descriptors);
    /* What is kept for the next connection has its bounds. */
    CHECK(mallinfo2().uordblks < held + 65536);
    printf("shortage: %lu to %lu: %lu allocations failed, %lu calls were refused\n", first, last,
           failures() - before, refused);
}

/* The same in a process that has not made use of the library yet. */
static void cold_turns(unsigned long first, unsigned long last, unsigned long step, bool nothing)
{
    int file = memfd_create("data", MFD_CLOEXEC), status, pipes[2];
    unsigned long sum[2] = {0}, one[2];
    CHECK(write(file, data, sizeof data) == DATA_LEN && pipe(pipes) == 0);
    for (unsigned long n = first; n <= last; n += step) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            turn(n, nothing, file);
            one[0] = failures();
            one[1] = refused;
            CHECK(write(pipes[1], one, sizeof one) == sizeof one);
            exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(read(pipes[0], one, sizeof one) == sizeof one);
        sum[0] += one[0];
        sum[1] += one[1];
    }
    /* Where nothing can be mapped the first call is refused before it allocates; else the library helps itself. */
    CHECK(nothing ? sum[1] > 0 : sum[0] > 0 && sum[1] == 0);
    printf("shortage: cold, %lu to %lu: %lu allocations failed, %lu calls were refused\n", first, last, sum[0],
           sum[1]);
}

/* New connections until they are refused, and then open records, each of which has memory of its own. What has been refused goes
 * on with memory, and what has been accepted arrives. */
static void many(void)
{
    enum { MOST = 1500 };
    static int fd[MOST][2];
    int made = 0, lost = 0, full = 0;
    static bool is_open[MOST];
    struct rlimit limit = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < MOST; i++)
        tcp_pair(fd[i]);
    CHECK(tls_tx_init(fd[0][0], keys(1), KEYS_LEN) == 0 && tls_rx_init(fd[0][1], keys(1), KEYS_LEN) == 0);
    CHECK(tls_tx_init(fd[1][0], keys(1), KEYS_LEN) == 0 && tls_rx_init(fd[1][1], keys(1), KEYS_LEN) == 0);
    send_all(fd[0][0], 0, 100, 0);
    receive_all(fd[0][1], 0, 100);
    send_all(fd[1][0], 0, 100, MSG_MORE);
    fail_from(1);
    no_mapping(true);
    for (int i = 2; i < MOST; i++) {
        int result = tls_tx_init(fd[i][0], keys(1), KEYS_LEN);
        CHECK(result == 0 || errno == ENOMEM);
        lost += result != 0;
        if (result == 0)
            made = i;
    }
    for (int i = 2; i <= made; i++) {
        long sent = tls_send(fd[i][0], data, 100, MSG_MORE);
        CHECK(sent == 100 || (sent == -1 && errno == ENOMEM));
        is_open[i] = sent == 100;
        full += sent != 100;
    }
    CHECK(uktls_close(fd[1][0]) == 0);
    memory_is_back();
    CHECK(lost > 0 && full > 0);
    receive_all(fd[1][1], 0, 100);
    CHECK(tls_recv(fd[1][1], &lost, 1, 0) == 0);
    for (int i = 2; i < MOST; i++) {
        CHECK(i <= made || tls_tx_init(fd[i][0], keys(1), KEYS_LEN) == 0);
        CHECK(tls_rx_init(fd[i][1], keys(1), KEYS_LEN) == 0);
        send_all(fd[i][0], is_open[i] ? 100 : 0, 50, 0);
        receive_all(fd[i][1], 0, is_open[i] ? 150 : 50);
        CHECK(uktls_close(fd[i][0]) == 0);
        CHECK(tls_recv(fd[i][1], &lost, 1, 0) == 0 && uktls_close(fd[i][1]) == 0);
    }
    printf("shortage: of %d connections %d were refused, and %d open records\n", MOST, lost, full);
}

/* The program itself has used up all memory. With some given back it goes on. */
static void exhausted(void)
{
    int fd[2], late[2];
    void **all = NULL, **block;
    long sent;
    tcp_pair(fd);
    tcp_pair(late);
    CHECK(tls_tx_init(fd[0], keys(1), KEYS_LEN) == 0);
    CHECK(tls_rx_init(fd[1], keys(1), KEYS_LEN) == 0);
    no_mapping(true);
    for (size_t size = 1 << 20; size >= 16; size /= 2)
        while ((block = malloc(size)) != NULL) {
            *block = all;
            all = block;
        }
    sent = tls_send(fd[0], data, 70000, 0);
    CHECK(sent > 0 || (sent == -1 && errno == ENOMEM));
    sent = sent < 0 ? 0 : sent;
    CHECK(tls_tx_init(late[0], keys(2), KEYS_LEN) == 0 || errno == ENOMEM);
    while ((block = all) != NULL) {
        all = *block;
        free(block);
    }
    memory_is_back();
    send_all(fd[0], (size_t)sent, (size_t)(70000 - sent), 0);
    receive_all(fd[1], 0, 70000);
    CHECK(tls_tx_init(late[0], keys(2), KEYS_LEN) == 0 && tls_rx_init(late[1], keys(2), KEYS_LEN) == 0);
    send_all(late[0], 0, 70000, 0);
    receive_all(late[1], 0, 70000);
    printf("shortage: exhausted, %ld bytes were accepted\n", sent);
}

int main(int argc, char **argv)
{
    bool nothing = false, cold = false;
    /* A call that never returns ends the program. */
    alarm(600);
    for (size_t i = 0; i < DATA_LEN; i++)
        data[i] = (unsigned char)(i * 2654435761u >> 13);
    if (argc > 1 && strcmp(argv[1], "many") == 0) {
        many();
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "exhausted") == 0) {
        exhausted();
        return 0;
    }
    if (argc < 4)
        return 2;
    for (int i = 4; i < argc; i++) {
        nothing |= strcmp(argv[i], "nothing") == 0;
        cold |= strcmp(argv[i], "cold") == 0;
    }
    (cold ? cold_turns : turns)(strtoul(argv[1], NULL, 10), strtoul(argv[2], NULL, 10),
                                strtoul(argv[3], NULL, 10), nothing);
    return 0;
}
