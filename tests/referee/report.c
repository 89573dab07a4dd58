/* SPDX-License-Identifier: MIT OR Apache-2.0
 * The lines of the probe. A line is written as a whole; one that never ends is written by the signal
 * that ends it. */
#include "probe.h"

#include <stdarg.h>
#include <sys/syscall.h>

static char text[8192];
static size_t used;
static volatile sig_atomic_t broken_pipes;

static void append(const char *format, va_list arguments)
{
    int len = vsnprintf(text + used, sizeof text - used - 1, format, arguments);
    if (len > 0)
        used += (size_t)len < sizeof text - used - 1 ? (size_t)len : sizeof text - used - 2;
}

static void write_line(void)
{
    text[used++] = '\n';
    for (size_t done = 0; done < used;) {
        ssize_t n = write(STDOUT_FILENO, text + done, used - done);
        if (n < 0)
            _exit(3);
        done += (size_t)n;
    }
    used = 0;
}

void line_end(void)
{
    if (used)
        write_line();
}

void line(const char *statement, const char *format, ...)
{
    va_list arguments;
    line_end();
    broken_pipes = 0;
    used = (size_t)snprintf(text, sizeof text, "%s ", statement);
    va_start(arguments, format);
    append(format, arguments);
    va_end(arguments);
    text[used++] = ':';
}

void put(const char *format, ...)
{
    va_list arguments;
    text[used++] = ' ';
    va_start(arguments, format);
    append(format, arguments);
    va_end(arguments);
}

void put_result(long long returned)
{
    int error = errno;
    if (returned >= 0)
        put("%lld", returned);
    else
        put("%s", strerrorname_np(error) ? strerrorname_np(error) : "?");
    if (broken_pipes) {
        broken_pipes = 0;
        put("SIGPIPE");
    }
}

void put_hash(const void *bytes, size_t len)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    put("#%08x", (unsigned)(hash ^ hash >> 32));
}

void put_hex(const void *bytes, size_t len)
{
    text[used++] = ' ';
    for (size_t i = 0; i < len && used < sizeof text - 4; i++)
        used += (size_t)sprintf(text + used, "%02x", ((const unsigned char *)bytes)[i]);
}

void put_ready(int fd, int ms)
{
    static const struct { short bit; const char *name; } names[] = {
        {POLLIN, "IN"}, {POLLOUT, "OUT"}, {POLLERR, "ERR"}, {POLLHUP, "HUP"}, {POLLRDHUP, "RDHUP"},
    };
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
    char all[64] = "";
    /* What is awaited is input; that output is possible is asked beside it. */
    if (ms && poll(&p, 1, ms) < 0)
        put("poll:%s", strerrorname_np(errno));
    p.events |= POLLOUT;
    if (poll(&p, 1, 0) < 0)
        put("poll:%s", strerrorname_np(errno));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (p.revents & names[i].bit) {
            if (*all)
                strcat(all, "|");
            strcat(all, names[i].name);
        }
    put("[%s]", all);
}

void put_so_error(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        put_result(-1);
    else
        put("so_error=%s", error ? strerrorname_np(error) : "0");
}

static void count_pipe(int number)
{
    (void)number;
    broken_pipes++;
}

static void give_up(int number)
{
    const char *words = number == SIGTERM ? " hangs" : " crashes";
    memcpy(text + used, words, strlen(words));
    used += strlen(words);
    write_line();
    /* By the system call: _exit of a preload library may wait for what has just crashed or hung. */
    syscall(SYS_exit_group, number == SIGTERM ? 2 : 0);
}

bool apart(void)
{
    line_end();
    pid_t child = fork();
    if (child > 0)
        waitpid(child, NULL, 0);
    return child == 0;
}

void apart_end(void)
{
    line_end();
    _exit(0);
}

void catch_signals(void)
{
    struct sigaction pipe_action = {.sa_handler = count_pipe};
    struct sigaction end_action = {.sa_handler = give_up};
    sigaction(SIGPIPE, &pipe_action, NULL);
    sigaction(SIGTERM, &end_action, NULL);
    sigaction(SIGSEGV, &end_action, NULL);
    sigaction(SIGBUS, &end_action, NULL);
}
