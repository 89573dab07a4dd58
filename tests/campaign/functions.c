/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The functions that can write to a descriptor. */
#include "campaign.h"

#include <aio.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/tls.h>
#include <stdarg.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <wchar.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

ssize_t __write(int fd, const void *data, size_t len);
ssize_t __send(int fd, const void *data, size_t len, int flags);
int __dprintf_chk(int fd, int flag, const char *format, ...);
int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments);
int __fprintf_chk(FILE *stream, int flag, const char *format, ...);
ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags);

void start_writer(struct writer *w)
{
    w->pipe[0] = w->pipe[1] = w->memory = -1;
}

static struct iovec *halves(struct iovec iov[2], const char *data, size_t len)
{
    iov[0] = (struct iovec){(void *)(uintptr_t)data, len / 2};
    iov[1] = (struct iovec){(void *)(uintptr_t)(data + len / 2), len - len / 2};
    return iov;
}

/* --- system calls by their functions ------------------------------------------------------------- */

static ssize_t by_write(struct writer *w, const char *data, size_t len) { return write(w->fd, data, len); }
static ssize_t by_write_twin(struct writer *w, const char *data, size_t len) { return __write(w->fd, data, len); }
static ssize_t by_send(struct writer *w, const char *data, size_t len)
{
    return send(w->fd, data, len, MSG_NOSIGNAL);
}

static ssize_t by_send_twin(struct writer *w, const char *data, size_t len)
{
    return __send(w->fd, data, len, MSG_NOSIGNAL);
}

/* The first message of a pair leaves its record open for the second. */
static ssize_t by_send_more(struct writer *w, const char *data, size_t len)
{
    size_t head = length_of(data);
    ssize_t first = send(w->fd, data, head, head < len ? MSG_MORE : 0), second;

    if (first < (ssize_t)head || head == len)
        return first;
    second = send(w->fd, data + head, len - head, 0);
    return second < 0 ? first : first + second;
}

static ssize_t by_sendto(struct writer *w, const char *data, size_t len)
{
    return sendto(w->fd, data, len, MSG_NOSIGNAL, NULL, 0);
}

static ssize_t by_sendmsg(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];
    struct msghdr msg = {.msg_iov = halves(iov, data, len), .msg_iovlen = 2};

    return sendmsg(w->fd, &msg, 0);
}

static struct msghdr typed(struct iovec *iov, size_t n, char control[CMSG_SPACE(1)])
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n, .msg_control = control, .msg_controllen = CMSG_SPACE(1)};
    struct cmsghdr *c;

    memset(control, 0, CMSG_SPACE(1));
    c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_TLS;
    c->cmsg_type = TLS_SET_RECORD_TYPE;
    c->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(c) = 22;
    return msg;
}

static ssize_t by_sendmsg_typed(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(1)];
    struct msghdr msg = typed(halves(iov, data, len), 2, control);

    return sendmsg(w->fd, &msg, 0);
}

static ssize_t by_sendmmsg(struct writer *w, const char *data, size_t len)
{
    size_t head = length_of(data);
    struct iovec iov[2] = {{(void *)(uintptr_t)data, head}, {(void *)(uintptr_t)(data + head), len - head}};
    struct mmsghdr messages[2] = {{.msg_hdr.msg_iov = iov, .msg_hdr.msg_iovlen = 1},
                                  {.msg_hdr.msg_iov = iov + 1, .msg_hdr.msg_iovlen = 1}};
    int n = sendmmsg(w->fd, messages, head < len ? 2 : 1, 0);

    if (n < 0)
        return -1;
    return (ssize_t)(n > 1 ? messages[0].msg_len + messages[1].msg_len : messages[0].msg_len);
}

static ssize_t by_writev(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];

    return writev(w->fd, halves(iov, data, len), 2);
}

static ssize_t by_pwritev2(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];

    return pwritev2(w->fd, halves(iov, data, len), 2, -1, 0);
}

static ssize_t by_pwritev64v2(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];

    return pwritev64v2(w->fd, halves(iov, data, len), 2, -1, 0);
}

/* Into a file in memory, from the place where the last message ended. */
static bool to_memory(struct writer *w, const char *data, size_t len)
{
    if (w->memory < 0) {
        w->memory = memfd_create("campaign", 0);
        w->offset = 0;
    }
    return w->memory >= 0 && pwrite(w->memory, data, len, w->offset) == (ssize_t)len;
}

static ssize_t by_sendfile(struct writer *w, const char *data, size_t len)
{
    return to_memory(w, data, len) ? sendfile(w->fd, w->memory, &w->offset, len) : -1;
}

static ssize_t by_sendfile64(struct writer *w, const char *data, size_t len)
{
    return to_memory(w, data, len) ? sendfile64(w->fd, w->memory, &w->offset, len) : -1;
}

/* What was not taken out of the pipe comes back in the next call: it is thrown away with the pipe. */
static bool to_pipe(struct writer *w, const char *data, size_t len)
{
    if (w->pipe[0] < 0 && pipe(w->pipe) < 0)
        return false;
    return write(w->pipe[1], data, len) == (ssize_t)len;
}

static ssize_t from_pipe(struct writer *w, ssize_t taken, size_t len)
{
    int saved = errno;

    if (taken < (ssize_t)len) {
        close(w->pipe[0]);
        close(w->pipe[1]);
        w->pipe[0] = w->pipe[1] = -1;
    }
    errno = saved;
    return taken;
}

static ssize_t by_splice(struct writer *w, const char *data, size_t len)
{
    return to_pipe(w, data, len) ? from_pipe(w, splice(w->pipe[0], NULL, w->fd, NULL, len, 0), len) : -1;
}

/* Always refused by the kernel, as a socket has no place. */
static ssize_t by_pwrite(struct writer *w, const char *data, size_t len) { return pwrite(w->fd, data, len, 0); }

/* --- the function syscall(2) ----------------------------------------------------------------------- */

static ssize_t by_syscall_write(struct writer *w, const char *data, size_t len)
{
    return syscall(SYS_write, w->fd, data, len);
}

static ssize_t by_syscall_writev(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];

    return syscall(SYS_writev, w->fd, halves(iov, data, len), 2);
}

static ssize_t by_syscall_pwritev2(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];

    return syscall(SYS_pwritev2, w->fd, halves(iov, data, len), 2L, -1L, -1L, 0L);
}

static ssize_t by_syscall_sendto(struct writer *w, const char *data, size_t len)
{
    return syscall(SYS_sendto, w->fd, data, len, 0L, NULL, 0L);
}

static ssize_t by_syscall_sendmsg(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];
    struct msghdr msg = {.msg_iov = halves(iov, data, len), .msg_iovlen = 2};

    return syscall(SYS_sendmsg, w->fd, &msg, 0L);
}

static ssize_t by_syscall_sendmmsg(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[1] = {{(void *)(uintptr_t)data, len}};
    struct mmsghdr messages[1] = {{.msg_hdr.msg_iov = iov, .msg_hdr.msg_iovlen = 1}};

    return syscall(SYS_sendmmsg, w->fd, messages, 1L, 0L) < 0 ? -1 : (ssize_t)messages[0].msg_len;
}

static ssize_t by_syscall_sendfile(struct writer *w, const char *data, size_t len)
{
    return to_memory(w, data, len) ? syscall(SYS_sendfile, w->fd, w->memory, &w->offset, len) : -1;
}

static ssize_t by_syscall_splice(struct writer *w, const char *data, size_t len)
{
    return to_pipe(w, data, len)
               ? from_pipe(w, syscall(SYS_splice, w->pipe[0], NULL, w->fd, NULL, len, 0L), len)
               : -1;
}

/* --- formatted ------------------------------------------------------------------------------------- */

static ssize_t by_dprintf(struct writer *w, const char *data, size_t len)
{
    return dprintf(w->fd, "%.*s", (int)len, data);
}

static ssize_t by_dprintf_chk(struct writer *w, const char *data, size_t len)
{
    return __dprintf_chk(w->fd, 1, "%.*s", (int)len, data);
}

static ssize_t variadic(int (*print)(int, const char *, va_list), int fd, const char *format, ...)
{
    va_list arguments;
    int n;

    va_start(arguments, format);
    n = print(fd, format, arguments);
    va_end(arguments);
    return n;
}

static int vdprintf_chk(int fd, const char *format, va_list arguments)
{
    return __vdprintf_chk(fd, 1, format, arguments);
}

static ssize_t by_vdprintf(struct writer *w, const char *data, size_t len)
{
    return variadic(vdprintf, w->fd, "%.*s", (int)len, data);
}

static ssize_t by_vdprintf_chk(struct writer *w, const char *data, size_t len)
{
    return variadic(vdprintf_chk, w->fd, "%.*s", (int)len, data);
}

/* --- streams --------------------------------------------------------------------------------------- */

static bool open_stream(struct writer *w)
{
    w->file = fdopen(w->fd, "w");
    return w->file != NULL;
}

/* What a failed flush has left is thrown away: it would go out with the next message. */
static ssize_t flushed(FILE *file, bool good, size_t len)
{
    int saved;

    if (good && fflush(file) == 0)
        return (ssize_t)len;
    saved = errno;
    __fpurge(file);
    clearerr(file);
    errno = saved ? saved : EIO;
    return -1;
}

static ssize_t by_fwrite(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, fwrite(data, 1, len, w->file) == len, len);
}

static ssize_t by_fwrite_unlocked(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, fwrite_unlocked(data, 1, len, w->file) == len, len);
}

static const char *text(const char *data, size_t len)
{
    static __thread char copy[MESSAGE_MAX + 1];

    memcpy(copy, data, len);
    copy[len] = 0;
    return copy;
}

static ssize_t by_fputs(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, fputs(text(data, len), w->file) >= 0, len);
}

static ssize_t by_fprintf(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, fprintf(w->file, "%.*s", (int)len, data) == (int)len, len);
}

static ssize_t by_fprintf_chk(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, __fprintf_chk(w->file, 1, "%.*s", (int)len, data) == (int)len, len);
}

/* A message is one piece of the stream, whoever else writes to it. */
static ssize_t by_putc(struct writer *w, const char *data, size_t len)
{
    bool good = true;
    ssize_t n;

    flockfile(w->file);
    for (size_t i = 0; i < len && good; i++)
        good = putc(data[i], w->file) != EOF;
    n = flushed(w->file, good, len);
    funlockfile(w->file);
    return n;
}

static ssize_t by_putc_unlocked(struct writer *w, const char *data, size_t len)
{
    bool good = true;
    ssize_t n;

    flockfile(w->file);
    for (size_t i = 0; i < len && good; i++)
        good = putc_unlocked(data[i], w->file) != EOF;
    n = flushed(w->file, good, len);
    funlockfile(w->file);
    return n;
}

static ssize_t wide(FILE *file, const char *data, size_t len)
{
    static __thread wchar_t copy[MESSAGE_MAX + 1];

    for (size_t i = 0; i < len; i++)
        copy[i] = (wchar_t)data[i];
    copy[len] = 0;
    return flushed(file, fputws(copy, file) >= 0, len);
}

static ssize_t by_fputws(struct writer *w, const char *data, size_t len) { return wide(w->file, data, len); }

static ssize_t by_fwprintf(struct writer *w, const char *data, size_t len)
{
    return flushed(w->file, fwprintf(w->file, L"%s", text(data, len)) == (int)len, len);
}

/* Streams that were there before: standard output, and one over a file whose number becomes the socket. */
static bool onto_stdout(struct writer *w)
{
    w->file = stdout;
    return w->fd == STDOUT_FILENO || dup2(w->fd, STDOUT_FILENO) == STDOUT_FILENO;
}

static bool onto_stderr(struct writer *w)
{
    w->file = stderr;
    return dup2(w->fd, STDERR_FILENO) == STDERR_FILENO;
}

static bool onto_file(struct writer *w)
{
    w->file = fopen("/dev/null", "w");
    return w->file != NULL && dup2(w->fd, fileno(w->file)) == fileno(w->file);
}

/* Unbuffered: the message goes out in the call. */
static ssize_t by_stderr(struct writer *w, const char *data, size_t len)
{
    return fprintf(w->file, "%.*s", (int)len, data) == (int)len ? (ssize_t)len : -1;
}

static ssize_t by_printf(struct writer *w, const char *data, size_t len)
{
    ssize_t n;

    (void)w;
    flockfile(stdout);
    n = flushed(stdout, printf("%.*s", (int)len, data) == (int)len, len);
    funlockfile(stdout);
    return n;
}

static ssize_t by_stdout_wide(struct writer *w, const char *data, size_t len)
{
    ssize_t n;

    (void)w;
    flockfile(stdout);
    n = wide(stdout, data, len);
    funlockfile(stdout);
    return n;
}

/* What waits goes out with the next message, or when the process ends. */
static ssize_t lazily(FILE *file, const char *data, size_t len)
{
    ssize_t n;

    flockfile(file);
    n = flushed(file, true, len);
    if (n >= 0 && fputs(text(data, len), file) < 0)
        n = -1;
    funlockfile(file);
    return n;
}

static ssize_t by_lazy_stream(struct writer *w, const char *data, size_t len) { return lazily(w->file, data, len); }

/* --- others ---------------------------------------------------------------------------------------- */

static ssize_t by_eventfd_write(struct writer *w, const char *data, size_t len)
{
    eventfd_t value;

    if (len != sizeof value) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&value, data, sizeof value);
    return eventfd_write(w->fd, value) == 0 ? (ssize_t)len : -1;
}

static ssize_t by_aio_write(struct writer *w, const char *data, size_t len)
{
    struct aiocb request = {.aio_fildes = w->fd, .aio_buf = (void *)(uintptr_t)data, .aio_nbytes = len};
    const struct aiocb *list[] = {&request};

    if (aio_write(&request) < 0)
        return -1;
    while (aio_error(&request) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    errno = aio_error(&request);
    return aio_return(&request);
}

static ssize_t by_lio_listio(struct writer *w, const char *data, size_t len)
{
    struct aiocb request = {.aio_fildes = w->fd, .aio_buf = (void *)(uintptr_t)data, .aio_nbytes = len,
                            .aio_lio_opcode = LIO_WRITE};
    struct aiocb *list[] = {&request};

    if (lio_listio(LIO_WAIT, list, 1, NULL) < 0)
        return -1;
    return aio_return(&request);
}

/* Ahead of all threads, as it loads a library (open_plugin). */
static bool begin_backtrace(struct writer *w)
{
    void *frame;

    (void)w;
    return backtrace(&frame, 1) >= 0;
}

static ssize_t by_backtrace(struct writer *w, const char *data, size_t len)
{
    void *frames[2];

    (void)data;
    backtrace_symbols_fd(frames, backtrace(frames, 2), w->fd);
    return (ssize_t)len;
}

const char *plugin_path;

static _Atomic(void *) plugin_write;

/* Ahead of all threads: a process that is forked while one is in dlopen cannot use that (glibc). */
static bool open_plugin(struct writer *w)
{
    void *plugin;

    (void)w;
    if (atomic_load(&plugin_write) != NULL)
        return true;
    plugin = dlopen(plugin_path, RTLD_NOW | RTLD_DEEPBIND);
    atomic_store(&plugin_write, plugin ? dlsym(plugin, "campaign_plugin_write") : NULL);
    return atomic_load(&plugin_write) != NULL;
}

static ssize_t by_plugin(struct writer *w, const char *data, size_t len)
{
    return ((ssize_t(*)(int, const void *, size_t))atomic_load(&plugin_write))(w->fd, data, len);
}

/* --- the C library ----------------------------------------------------------------------------------- */

struct uktls uktls;

bool load_library(const char *path)
{
    static const struct { const char *name; size_t place; } names[] = {
        {"tls_tx_init", offsetof(struct uktls, tls_tx_init)},   {"tls_send", offsetof(struct uktls, tls_send)},
        {"tls_sendmsg", offsetof(struct uktls, tls_sendmsg)},   {"tls_sendpage", offsetof(struct uktls, tls_sendpage)},
        {"tls_sendfile", offsetof(struct uktls, tls_sendfile)}, {"tls_splice", offsetof(struct uktls, tls_splice)},
        {"uktls_flush", offsetof(struct uktls, uktls_flush)},   {"uktls_close", offsetof(struct uktls, uktls_close)},
    };
    void *library = dlopen(path, RTLD_NOW);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *symbol = library ? dlsym(library, names[i].name) : NULL;

        if (symbol == NULL)
            return false;
        memcpy((char *)&uktls + names[i].place, &symbol, sizeof symbol);
    }
    return true;
}

static ssize_t by_tls_send(struct writer *w, const char *data, size_t len)
{
    return uktls.tls_send(w->fd, data, len, 0);
}

static ssize_t by_tls_send_more(struct writer *w, const char *data, size_t len)
{
    size_t head = length_of(data);
    ssize_t first = uktls.tls_send(w->fd, data, head, head < len ? MSG_MORE : 0), second;

    if (first < (ssize_t)head || head == len)
        return first;
    second = uktls.tls_send(w->fd, data + head, len - head, 0);
    return second < 0 ? first : first + second;
}

static ssize_t by_tls_sendmsg(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];
    struct msghdr msg = {.msg_iov = halves(iov, data, len), .msg_iovlen = 2};

    return uktls.tls_sendmsg(w->fd, &msg, 0);
}

static ssize_t by_tls_sendmsg_typed(struct writer *w, const char *data, size_t len)
{
    struct iovec iov[2];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(1)];
    struct msghdr msg = typed(halves(iov, data, len), 2, control);

    return uktls.tls_sendmsg(w->fd, &msg, 0);
}

/* The page is the message's until it is with the kernel. */
static ssize_t by_tls_sendpage(struct writer *w, const char *data, size_t len)
{
    ssize_t n = uktls.tls_sendpage(w->fd, data, 0, len, 0);

    return n < 0 || uktls.uktls_flush(w->fd, -1) == 0 ? n : -1;
}

static ssize_t by_tls_sendfile(struct writer *w, const char *data, size_t len)
{
    return to_memory(w, data, len) ? uktls.tls_sendfile(w->fd, w->memory, &w->offset, len) : -1;
}

static ssize_t by_tls_splice(struct writer *w, const char *data, size_t len)
{
    return to_pipe(w, data, len) ? from_pipe(w, uktls.tls_splice(w->pipe[0], NULL, w->fd, NULL, len, 0), len) : -1;
}

const struct function functions[] = {
    {"write", 0, NULL, by_write},
    {"write-big", BIG, NULL, by_write},
    {"__write", 0, NULL, by_write_twin},
    {"send", 0, NULL, by_send},
    {"__send", 0, NULL, by_send_twin},
    {"send-more", PAIR, NULL, by_send_more},
    {"sendto", 0, NULL, by_sendto},
    {"sendmsg", 0, NULL, by_sendmsg},
    {"sendmsg-typed", TYPED, NULL, by_sendmsg_typed},
    {"sendmmsg", PAIR, NULL, by_sendmmsg},
    {"writev", 0, NULL, by_writev},
    {"pwritev2", 0, NULL, by_pwritev2},
    {"pwritev64v2", 0, NULL, by_pwritev64v2},
    {"pwrite", 0, NULL, by_pwrite},
    {"sendfile", 0, NULL, by_sendfile},
    {"sendfile64", 0, NULL, by_sendfile64},
    {"splice", 0, NULL, by_splice},
    {"dprintf", 0, NULL, by_dprintf},
    {"__dprintf_chk", 0, NULL, by_dprintf_chk},
    {"vdprintf", 0, NULL, by_vdprintf},
    {"__vdprintf_chk", 0, NULL, by_vdprintf_chk},
    {"fdopen-fwrite", STREAM, open_stream, by_fwrite},
    {"fdopen-fwrite_unlocked", STREAM, open_stream, by_fwrite_unlocked},
    {"fdopen-fputs", STREAM, open_stream, by_fputs},
    {"fdopen-fprintf", STREAM, open_stream, by_fprintf},
    {"fdopen-__fprintf_chk", STREAM, open_stream, by_fprintf_chk},
    {"fdopen-putc", STREAM, open_stream, by_putc},
    {"fdopen-putc_unlocked", STREAM, open_stream, by_putc_unlocked},
    {"fdopen-fputws", STREAM | WIDE, open_stream, by_fputws},
    {"fdopen-fwprintf", STREAM | WIDE, open_stream, by_fwprintf},
    {"fdopen-at-exit", STREAM | LAZY, open_stream, by_lazy_stream},
    {"stdout-at-exit", STREAM | OWN_NUMBER | LAZY, onto_stdout, by_lazy_stream},
    {"stdout-printf", STREAM | OWN_NUMBER, onto_stdout, by_printf},
    {"stdout-putc", STREAM | OWN_NUMBER, onto_stdout, by_putc},
    {"stdout-fputws", STREAM | OWN_NUMBER, onto_stdout, by_stdout_wide},
    {"stderr-fprintf", STREAM | OWN_NUMBER, onto_stderr, by_stderr},
    {"fopen-fwrite", STREAM | OWN_NUMBER, onto_file, by_fwrite},
    {"fopen-fprintf", STREAM | OWN_NUMBER, onto_file, by_fprintf},
    {"eventfd_write", ONLY_HEAD, NULL, by_eventfd_write},
    {"aio_write", HAS_THREADS, NULL, by_aio_write},
    {"lio_listio", HAS_THREADS, NULL, by_lio_listio},
    {"backtrace_symbols_fd", FREE_FORM, begin_backtrace, by_backtrace},
    {"deepbind-write", 0, open_plugin, by_plugin},
    {"syscall-write", 0, NULL, by_syscall_write},
    {"syscall-writev", 0, NULL, by_syscall_writev},
    {"syscall-pwritev2", 0, NULL, by_syscall_pwritev2},
    {"syscall-sendto", 0, NULL, by_syscall_sendto},
    {"syscall-sendmsg", 0, NULL, by_syscall_sendmsg},
    {"syscall-sendmmsg", 0, NULL, by_syscall_sendmmsg},
    {"syscall-sendfile", 0, NULL, by_syscall_sendfile},
    {"syscall-splice", 0, NULL, by_syscall_splice},
    {"tls_send", LIBRARY, NULL, by_tls_send},
    {"tls_send-big", LIBRARY | BIG, NULL, by_tls_send},
    {"tls_send-more", LIBRARY | PAIR, NULL, by_tls_send_more},
    {"tls_sendmsg", LIBRARY, NULL, by_tls_sendmsg},
    {"tls_sendmsg-typed", LIBRARY | TYPED, NULL, by_tls_sendmsg_typed},
    {"tls_sendpage", LIBRARY, NULL, by_tls_sendpage},
    {"tls_sendfile", LIBRARY, NULL, by_tls_sendfile},
    {"tls_splice", LIBRARY, NULL, by_tls_splice},
};
const int function_count = sizeof functions / sizeof *functions;
