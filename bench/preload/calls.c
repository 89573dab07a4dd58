/* What a call on a descriptor without TLS costs: nanoseconds, the fastest of many rounds, one line
 * `name ns` each. The kernel does as little as it can in these calls, so that what stands in front of it shows. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 2000, ROUNDS = 400 };

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int null_fd, pipe_fds[2];
static struct pollfd ready;
static char byte;

static void do_write(void) { (void)!write(null_fd, &byte, 0); }
static void do_read(void) { (void)!read(null_fd, &byte, 0); }
/* ENOTSOCK. */
static void do_send(void) { (void)!send(null_fd, &byte, 0, 0); }
static void do_recv(void) { (void)!recv(null_fd, &byte, 0, 0); }
static void do_fcntl(void) { (void)fcntl(null_fd, F_GETFD); }
static void do_poll(void) { (void)poll(&ready, 1, 0); }
/* EBADF. */
static void do_close(void) { (void)close(1000000); }

static const struct {
    const char *name;
    void (*call)(void);
} calls[] = {
    {"write", do_write}, {"read", do_read}, {"send", do_send},   {"recv", do_recv},
    {"fcntl", do_fcntl}, {"poll", do_poll}, {"close", do_close},
};

int main(void)
{
    null_fd = open("/dev/null", O_RDWR);
    if (null_fd < 0 || pipe(pipe_fds) < 0)
        return 1;
    ready = (struct pollfd){.fd = pipe_fds[0], .events = POLLIN};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        double best = 1e9;

        for (int round = 0; round < ROUNDS; round++) {
            double begin = now();

            for (int n = 0; n < CALLS; n++)
                calls[i].call();
            double each = (now() - begin) / CALLS;
            best = each < best ? each : best;
        }
        printf("%s %.2f\n", calls[i].name, best);
    }
    return 0;
}
