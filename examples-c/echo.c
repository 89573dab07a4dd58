/* echo.c: a client and a server that send each other everything that a TLS record layer can carry.
 *
 *     cc -std=c99 -O2 -o echo echo.c $(pkg-config --cflags --libs uktls)
 *     ./echo server 7777 &  ./echo client 7777
 *
 * There is no handshake: both ends have the keys that a TLS 1.3 handshake would have left behind, so that this
 * file is about nothing but uktls. The client sends data in many ways and an alert, changes keys, and compares
 * what comes back; the server sends back what it gets, record types and changes of keys included.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <linux/tls.h>
#include <uktls.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum { ALERT = 21, HANDSHAKE = 22, DATA = 23, KEY_UPDATE = 24, RECORD_MAX = 16384 };

static void check(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* The keys of one direction (1: client to server, 2: back) after so many changes. A real program has them from
 * its handshake, and never uses fixed ones. */
static struct tls12_crypto_info_aes_gcm_256 keys(int direction, int changes)
{
    struct tls12_crypto_info_aes_gcm_256 info;

    memset(&info, 0, sizeof(info));
    info.info.version = TLS_1_3_VERSION;
    info.info.cipher_type = TLS_CIPHER_AES_GCM_256;
    memset(info.key, 16 * direction + changes, sizeof(info.key));
    memset(info.salt, direction, sizeof(info.salt));
    memset(info.iv, changes, sizeof(info.iv));
    return info;
}

struct end {
    int fd;
    int out, in;                    /* directions */
    int out_changes, in_changes;
};

static void set_keys(struct end *e, int sending)
{
    struct tls12_crypto_info_aes_gcm_256 info =
        keys(sending ? e->out : e->in, sending ? e->out_changes : e->in_changes);

    check((sending ? tls_tx_init : tls_rx_init)(e->fd, &info, sizeof(info)) == 0, "keys");
}

/* Sends one record of a type other than application data. */
static void send_record(struct end *e, unsigned char type, const void *data, size_t len)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(1)]; } control;
    struct iovec iov = {(void *)data, len};
    struct msghdr msg;

    memset(&msg, 0, sizeof(msg));
    memset(&control, 0, sizeof(control));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control.space);
    control.header.cmsg_level = SOL_TLS;
    control.header.cmsg_type = TLS_SET_RECORD_TYPE;
    control.header.cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(&control.header) = type;
    check(tls_sendmsg(e->fd, &msg, 0) == (ssize_t)len, "tls_sendmsg");
}

/* Receives what comes next, of whatever type; -1 at the end of the stream. */
static ssize_t receive(struct end *e, void *data, size_t len, int flags, unsigned char *type)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(1)]; } control;
    struct iovec iov = {data, len};
    struct msghdr msg;
    ssize_t n;

    memset(&msg, 0, sizeof(msg));
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = &control;
    msg.msg_controllen = sizeof(control.space);
    n = tls_recvmsg(e->fd, &msg, flags);
    check(n >= 0, "tls_recvmsg");
    if (msg.msg_controllen == 0)
        return -1;
    *type = *CMSG_DATA(&control.header);
    return n;
}

/* Tells the peer that new keys follow, and uses them from the next record on. */
static void change_keys(struct end *e)
{
    static const unsigned char message[] = {KEY_UPDATE, 0, 0, 1, 0};

    send_record(e, HANDSHAKE, message, sizeof(message));
    e->out_changes++;
    set_keys(e, 1);
}

/* --- the server: all comes back --- */

static void serve(struct end *e)
{
    static unsigned char data[2 * RECORD_MAX];
    unsigned char type;
    ssize_t n;

    while ((n = receive(e, data, sizeof(data), 0, &type)) >= 0) {
        if (type == HANDSHAKE && n > 0 && data[0] == KEY_UPDATE) {
            /* Until this is done a receive fails with EKEYEXPIRED. */
            e->in_changes++;
            set_keys(e, 0);
            change_keys(e);
        } else if (type == DATA) {
            check(tls_send(e->fd, data, (size_t)n, 0) == n, "tls_send");
        } else {
            send_record(e, type, data, (size_t)n);
        }
    }
    check(tls_shutdown(e->fd, SHUT_WR) == 0, "tls_shutdown");
}

/* --- the client: sends, and compares --- */

static const unsigned char *pattern(size_t len)
{
    static unsigned char all[1 << 20];
    size_t i;

    for (i = 0; i < sizeof(all); i++)
        all[i] = (unsigned char)(i * 7 + i / 251);
    check(len <= sizeof(all), "pattern");
    return all;
}

/* What was sent comes back, in as many records as the server likes. */
static void expect(struct end *e, unsigned char wanted, const void *sent, size_t len, const char *what)
{
    static unsigned char data[RECORD_MAX], peeked[RECORD_MAX];
    unsigned char type;
    size_t done = 0;

    while (done < len) {
        /* A look first: the same bytes come again. */
        ssize_t n, look = receive(e, peeked, sizeof(peeked), MSG_PEEK, &type);

        n = receive(e, data, look > 0 ? (size_t)look : 1, 0, &type);
        if (n != look || type != wanted || (size_t)n > len - done || memcmp(data, peeked, (size_t)n) != 0
            || memcmp(data, (const char *)sent + done, (size_t)n) != 0) {
            fprintf(stderr, "echo: %s: not what was sent\n", what);
            exit(1);
        }
        done += (size_t)n;
    }
    printf("echo: %s: %zu bytes\n", what, len);
}

static void ask(struct end *e)
{
    const unsigned char *data = pattern(1 << 20);
    char name[] = "/tmp/echo-XXXXXX";
    int file = mkstemp(name), pipes[2];
    unsigned char rest[8], type;
    off_t offset = 0;
    ssize_t n;

    check(tls_send(e->fd, data, 100, 0) == 100, "tls_send");
    expect(e, DATA, data, 100, "a message");

    /* Three calls, one record. */
    check(tls_send(e->fd, data, 10, MSG_MORE) == 10, "tls_send");
    check(tls_send(e->fd, data + 10, 10, MSG_MORE) == 10, "tls_send");
    check(tls_send(e->fd, data + 20, 10, 0) == 10, "tls_send");
    expect(e, DATA, data, 30, "MSG_MORE");

    send_record(e, ALERT, "\1\132", 2);
    expect(e, ALERT, "\1\132", 2, "an alert");

    check(file >= 0 && unlink(name) == 0 && write(file, data, 300000) == 300000, "a file");
    check(tls_sendfile(e->fd, file, &offset, 300000) == 300000, "tls_sendfile");
    expect(e, DATA, data, 300000, "a file");

    check(pipe(pipes) == 0 && write(pipes[1], data, 5000) == 5000, "a pipe");
    check(tls_splice(pipes[0], NULL, e->fd, NULL, 5000, 0) == 5000, "tls_splice");
    expect(e, DATA, data, 5000, "a pipe");

    change_keys(e);
    check(tls_send(e->fd, data, 70000, 0) == 70000, "tls_send");
    /* The server's own KeyUpdate comes first. */
    n = receive(e, rest, sizeof(rest), 0, &type);
    check(n == 5 && type == HANDSHAKE && rest[0] == KEY_UPDATE, "KeyUpdate");
    check(tls_recv(e->fd, rest, 1, 0) == -1 && errno == EKEYEXPIRED, "EKEYEXPIRED");
    e->in_changes++;
    set_keys(e, 0);
    expect(e, DATA, data, 70000, "new keys");

    check(tls_shutdown(e->fd, SHUT_WR) == 0, "tls_shutdown");
    check(receive(e, rest, sizeof(rest), 0, &type) == -1, "the end");
    close(file);
    close(pipes[0]);
    close(pipes[1]);
}

int main(int argc, char **argv)
{
    int server = argc == 3 && strcmp(argv[1], "server") == 0, listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address;
    struct end e = {-1, 1, 2, 0, 0};

    if (argc != 3 || (!server && strcmp(argv[1], "client") != 0)) {
        fputs("usage: echo server|client PORT\n", stderr);
        return 2;
    }
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (server) {
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        check(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 && listen(listener, 1) == 0, "listen");
        printf("listening\n");
        fflush(stdout);
        e.fd = accept(listener, NULL, NULL);
        e.out = 2;
        e.in = 1;
        close(listener);
    } else {
        e.fd = listener;
        check(connect(e.fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    }
    check(e.fd >= 0, "accept");
    set_keys(&e, 1);
    set_keys(&e, 0);
    if (server)
        serve(&e);
    else
        ask(&e);
    check(uktls_close(e.fd) == 0, "uktls_close");
    return 0;
}
