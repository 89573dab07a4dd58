/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The first and only program of the referee's machine: mounts what the probe needs, loads the
 * modules that /modules lists, runs /run's lines and ends the machine. What is to be compared goes to
 * the second serial port, so that no message of the kernel comes between.
 *
 * A line of /run: FILE [NAME=VALUE]... -- PROGRAM [ARGUMENT]...
 * It is announced as "=== FILE", and its output follows; then "=== end STATUS". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int out = -1;

/* Never returns: without this program the kernel would panic anyway. */
static void end(void)
{
    sync();
    if (out >= 0)
        tcdrain(out);
    reboot(RB_AUTOBOOT); /* qemu -no-reboot ends at that */
    _exit(1);
}

static void must(int good, const char *what)
{
    if (good)
        return;
    printf("init: %s: %s\n", what, strerror(errno));
    end();
}

static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(out, format, arguments);
    va_end(arguments);
}

static void loopback(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    must(fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0, "lo");
    request.ifr_flags |= IFF_UP;
    must(ioctl(fd, SIOCSIFFLAGS, &request) == 0, "lo up");
    close(fd);
}

static void load_modules(void)
{
    char path[512];
    FILE *list = fopen("/modules", "r");
    must(list != NULL, "/modules");
    while (fscanf(list, "%511s", path) == 1) {
        int fd = open(path, O_RDONLY);
        must(fd >= 0, path);
        must(syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST, path);
        close(fd);
    }
    fclose(list);
}

static void run(char *text)
{
    char *words[32], *environment[16] = {NULL}, *save = NULL;
    int count = 0, variables = 0, status = 0;
    for (char *w = strtok_r(text, " \n", &save); w && count < 31; w = strtok_r(NULL, " \n", &save))
        words[count++] = w;
    words[count] = NULL;
    if (count == 0)
        return;
    char **program = words + 1;
    for (; *program && strcmp(*program, "--") != 0 && variables < 15; program++)
        environment[variables++] = *program;
    must(*program != NULL && program[1] != NULL, words[0]);
    program++;
    say("=== %s\n", words[0]);
    pid_t child = fork();
    if (child == 0) {
        dup2(out, STDOUT_FILENO);
        execve(*program, program, environment);
        _exit(127);
    }
    waitpid(child, &status, 0);
    say("=== end %d\n", status);
}

int main(void)
{
    char text[1024];
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/tmp", 01777);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    must(mount("proc", "/proc", "proc", 0, NULL) == 0, "/proc");
    must(mount("tmpfs", "/tmp", "tmpfs", 0, NULL) == 0, "/tmp");
    out = open("/dev/ttyS1", O_WRONLY | O_NOCTTY);
    must(out >= 0, "/dev/ttyS1");
    struct termios raw;
    must(tcgetattr(out, &raw) == 0, "ttyS1");
    cfmakeraw(&raw);
    tcsetattr(out, TCSANOW, &raw);
    loopback();
    load_modules();
    FILE *list = fopen("/run", "r");
    must(list != NULL, "/run");
    while (fgets(text, sizeof text, list))
        run(text);
    say("=== all\n");
    end();
}
