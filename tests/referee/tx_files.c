/* SPDX-License-Identifier: MIT OR Apache-2.0
 * sendfile and splice to a sending socket: TX-41 to TX-47. */
#include "probe.h"

#include <sys/mman.h>
#include <sys/sendfile.h>

static int file_of(size_t len)
{
    int fd = memfd_create("probe", 0);
    if (write(fd, pattern(0, len), len) != (ssize_t)len)
        put("(file)");
    return fd;
}

static void files(void)
{
    struct keys keys = keys12();
    int fd[2], file = file_of(100000);
    off_t offset = 0;
    tx_pair(fd, &keys);
    line("TX-41", "100000 bytes");
    put_result(sendfile(fd[0], file, &offset, 100000));
    put("offset=%lld", (long long)offset);
    put_wire(fd[1]);
    line("TX-41", "more than there is");
    offset = 90000;
    put_result(sendfile(fd[0], file, &offset, 50000));
    put("offset=%lld", (long long)offset);
    put_wire(fd[1]);
    line("TX-41", "from the file's own offset");
    lseek(file, 99990, SEEK_SET);
    put_result(sendfile(fd[0], file, NULL, 5));
    put("offset=%lld", (long long)lseek(file, 0, SEEK_CUR));
    put_wire(fd[1]);
    line("TX-42", "joins the open record");
    offset = 0;
    put_result(send(fd[0], "abc", 3, MSG_MORE));
    put_result(sendfile(fd[0], file, &offset, 10));
    put_wire(fd[1]);
    line("TX-43", "at the end, with an open record");
    offset = 100000;
    put_result(send(fd[0], "abc", 3, MSG_MORE));
    put_result(sendfile(fd[0], file, &offset, 10));
    put_result(sendfile(fd[0], file, &offset, 0));
    put_wire_late(fd[1]);
    put_result(send(fd[0], "x", 1, 0));
    put_wire(fd[1]);
    line("TX-41", "bad arguments");
    offset = -1;
    put_result(sendfile(fd[0], file, &offset, 10));
    put_result(sendfile(fd[0], -1, NULL, 10));
    put_wire(fd[1]);
    if (apart()) {
        line("TX-41", "a bad address for the offset");
        put_result(sendfile(fd[0], file, bad_address(), 10));
        apart_end();
    }
    line("TX-38", "sendfile after SHUT_WR");
    shutdown(fd[0], SHUT_WR);
    offset = 0;
    put_result(sendfile(fd[0], file, &offset, 10));
    put("offset=%lld", (long long)offset);
}

static void full(void)
{
    struct keys keys = keys12();
    int fd[2], file = file_of(600000);
    off_t offset = 0;
    tcp_pair_sized(fd, 4608, 4608);
    attach(fd[0]);
    set_keys(fd[0], TX, &keys);
    nonblocking(fd[0], true);
    line("TX-44", "300000 into a small socket");
    for (int i = 0; i < 60; i++) {
        /* How many records fit is TCP's matter: what shows is the kind of the end. */
        ssize_t n = sendfile(fd[0], file, &offset, 300000);
        if (n < 0 || i == 59) {
            put_result(n);
            break;
        }
        if (n % RECORD_MAX)
            put("part of a record: %zd", n);
    }
    put_ready(fd[0], 0);
    put("whole records=%d", offset % RECORD_MAX == 0);
    /* Nobody reads: what waits must have no hope when the process ends. */
    reset(fd[1]);
    close(fd[0]);
}

static void spliced(void)
{
    struct keys keys = keys12();
    int fd[2], p[2];
    tx_pair(fd, &keys);
    if (pipe(p) != 0)
        return;
    line("TX-45", "splice");
    write_all(p[1], "", 0);
    put_result(write(p[1], "sixsix", 6));
    put_result(splice(p[0], NULL, fd[0], NULL, 100, 0));
    put_wire(fd[1]);
    line("TX-45", "splice with MORE, then without");
    put_result(write(p[1], "sixsix", 6));
    put_result(splice(p[0], NULL, fd[0], NULL, 6, SPLICE_F_MORE));
    put_wire_late(fd[1]);
    put_result(write(p[1], "four", 4));
    put_result(splice(p[0], NULL, fd[0], NULL, 4, 0));
    put_wire(fd[1]);
    line("TX-45", "splice of 40000 with MORE");
    fcntl(p[1], F_SETPIPE_SZ, 65536);
    put_result(write(p[1], pattern(0, 40000), 40000));
    put_result(splice(p[0], NULL, fd[0], NULL, 40000, SPLICE_F_MORE));
    put_result(send(fd[0], "x", 1, 0));
    put_wire_late(fd[1]);
    line("TX-45", "splice of no bytes");
    put_result(splice(p[0], NULL, fd[0], NULL, 0, 0));
    line("TX-45", "splice from an empty pipe");
    put_result(splice(p[0], NULL, fd[0], NULL, 5, SPLICE_F_NONBLOCK));
    line("TX-45", "splice at an offset");
    loff_t offset = 0;
    put_result(splice(p[0], NULL, fd[0], &offset, 5, SPLICE_F_NONBLOCK));
    put_wire(fd[1]);
    line("TX-45", "vmsplice, tee");
    struct iovec iov = {(void *)"vmsplice", 8};
    put_result(vmsplice(p[1], &iov, 1, 0));
    put_result(splice(p[0], NULL, fd[0], NULL, 8, 0));
    put_wire(fd[1]);
    line("TX-46", "splice with MORE, then the end of the pipe");
    put_result(write(p[1], "sixsix", 6));
    put_result(splice(p[0], NULL, fd[0], NULL, 6, SPLICE_F_MORE));
    close(p[1]);
    put_result(splice(p[0], NULL, fd[0], NULL, 6, 0));
    put_wire_late(fd[1]);
}

const struct probe_case tx_file_cases[] = {
    {"txfile sendfile", files}, {"txfile full", full}, {"txfile splice", spliced}, {NULL, NULL},
};
