/* https-server.c: serves a directory over HTTPS. OpenSSL does the handshakes, uktls the records.
 *
 *     cc -std=c99 -O2 -o https-server https-server.c $(pkg-config --cflags --libs uktls openssl)
 *     ./https-server --cert cert.pem --key key.pem --dir /srv/www --port 8443
 *
 * One thread, one epoll, non-blocking sockets, HTTP/1.1 GET and HEAD with keep-alive and Range, PUT with --put.
 * What concerns uktls is in connection_new(), handshake(), read_plain(), send_head(), send_body(),
 * send_close_notify() and connection_free(); the rest is what any server has.
 *
 * SIGUSR1 prints the counters as one line of JSON; SIGTERM and SIGINT end the server.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <openssl/err.h>

#include "http.h"
#include "serving.h"
#include "uktls_openssl.h"
#include "uktls_tls13.h"
#include "upload.h"

enum {
    REQUEST_MAX = 8192,
    HEAD_MAX = 512,
    IDLE_SECONDS = 60,         /* without a request, or a byte of the answer taken */
    TURN_BYTES = 1024 * 1024,  /* sent for one connection before the others get their turn; whole records */
    RECORD_BYTES = 16384
};

enum state {
    HANDSHAKE,
    REQUEST,  /* reading one, or waiting for it */
    HEAD,     /* sending the answer's head */
    BODY,     /* sending the file behind it */
    UPLOAD,   /* receiving a file */
    NOTIFY,   /* sending close_notify */
    DRAIN     /* reading until the peer closes, as closing with bytes unread would reset the connection */
};

/* What a connection needs before it can go on. */
enum next { AGAIN, WANT_READ, WANT_WRITE, FINISHED };

struct connection {
    struct connection *previous, *following;
    int fd;
    SSL *ssl;
    BIO *bio; /* NULL with --ssl-write */
    enum state state;
    uint32_t events;
    time_t deadline;
    char request[REQUEST_MAX + 1];
    size_t request_len;
    char head[HEAD_MAX];
    size_t head_len, head_sent;
    int file; /* -1 if the answer has no body, or has it in `head` */
    off_t offset, end;
    bool keep_alive;
    bool receives; /* uktls opens what comes */
    struct upload upload;
};

static struct {
    int root;
    int epoll, listener, signals;
    SSL_CTX *ctx;
    bool ssl_write, put;
    struct connection *connections;
    uint64_t now, max, accepted, requests;
} server;

static time_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* --- connections --- */

static void connection_new(int fd)
{
    struct connection *c = calloc(1, sizeof(*c));
    struct epoll_event event;
    int one = 1;
    bool ready = false;

    if (c == NULL) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->file = -1;
    c->upload.file = -1;
    c->events = EPOLLIN;
    c->deadline = seconds() + IDLE_SECONDS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

    c->ssl = SSL_new(server.ctx);
    if (c->ssl != NULL && server.ssl_write) {
        ready = SSL_set_fd(c->ssl, fd) == 1;
    } else if (c->ssl != NULL) {
        /* All that it takes to have uktls seal what this connection sends. */
        c->bio = uktls_bio_new(fd, BIO_NOCLOSE);
        if (c->bio != NULL) {
            SSL_set_options(c->ssl, SSL_OP_ENABLE_KTLS);
            SSL_set_bio(c->ssl, c->bio, c->bio);
            ready = true;
        }
    }
    event.events = c->events;
    event.data.ptr = c;
    if (!ready || epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        SSL_free(c->ssl);
        free(c);
        close(fd);
        return;
    }
    SSL_set_accept_state(c->ssl);

    c->following = server.connections;
    if (c->following != NULL)
        c->following->previous = c;
    server.connections = c;
    server.accepted++;
    if (++server.now > server.max)
        server.max = server.now;
}

static void connection_free(struct connection *c)
{
    if (c->previous != NULL)
        c->previous->following = c->following;
    else
        server.connections = c->following;
    if (c->following != NULL)
        c->following->previous = c->previous;
    server.now--;

    if (c->file >= 0)
        close(c->file);
    upload_close(&c->upload, server.root);
    SSL_free(c->ssl);
    /* What uktls has accepted still goes out, in the background. Also right without keys. */
    uktls_close(c->fd);
    free(c);
}

static void got_on(struct connection *c)
{
    c->deadline = seconds() + IDLE_SECONDS;
}

static bool sealed_by_uktls(const struct connection *c)
{
    return c->bio != NULL && uktls_bio_active(c->bio);
}

static enum next after_ssl(struct connection *c, int result)
{
    int error = SSL_get_error(c->ssl, result);

    ERR_clear_error();
    switch (error) {
    case SSL_ERROR_WANT_READ:  return WANT_READ;
    case SSL_ERROR_WANT_WRITE: return WANT_WRITE;
    default:                   return FINISHED;
    }
}

static enum next after_send(void)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return WANT_WRITE;
    return errno == EINTR ? AGAIN : FINISHED;
}

/* Receives up to `len` bytes of plaintext; 0 at the end of the stream. Otherwise -1, and *next says why. */
static ssize_t read_plain(struct connection *c, char *data, size_t len, enum next *next)
{
    struct iovec iov = {data, len};
    struct msghdr msg = {0};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(1)];
    } control;
    ssize_t n;

    if (!c->receives) {
        n = SSL_read(c->ssl, data, (int)len);
        if (n <= 0 && SSL_get_error(c->ssl, (int)n) == SSL_ERROR_ZERO_RETURN)
            return 0;
        *next = n <= 0 ? after_ssl(c, (int)n) : AGAIN;
        return n > 0 ? n : -1;
    }
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.space;
    msg.msg_controllen = sizeof(control.space);
    n = tls_recvmsg(c->fd, &msg, 0);
    if (n < 0) {
        *next = errno == EAGAIN ? WANT_READ : errno == EINTR ? AGAIN : FINISHED;
        return -1;
    }
    /* Without a type it is the end of the stream; an alert is close_notify, or the end in anger. */
    if (msg.msg_controllen == 0 || *CMSG_DATA(CMSG_FIRSTHDR(&msg)) == SSL3_RT_ALERT)
        return 0;
    if (*CMSG_DATA(CMSG_FIRSTHDR(&msg)) == SSL3_RT_APPLICATION_DATA)
        return n;
    *next = uktls_tls13_handshake(c->ssl, c->fd, data, (size_t)n) ? AGAIN : FINISHED;
    return -1;
}

/* --- HTTP --- */

static void answer(struct connection *c, const char *status, const char *more, off_t len, const char *body)
{
    /* `more` is ours and short: HEAD_MAX suffices for every caller. */
    int n = snprintf(c->head, sizeof(c->head),
                     "HTTP/1.1 %s\r\nContent-Length: %jd\r\nAccept-Ranges: bytes\r\n%s%s\r\n%s", status,
                     (intmax_t)len, more, c->keep_alive ? "" : "Connection: close\r\n", body);

    c->head_len = (size_t)n;
    c->head_sent = 0;
    c->state = HEAD;
}

static void answer_error(struct connection *c, const char *status, const char *more, bool with_body)
{
    char body[64];
    int n = snprintf(body, sizeof(body), "%s\n", status);

    answer(c, status, more, n, with_body ? body : "");
}

/* Gets ready for the file of a PUT request; ends in state UPLOAD, or HEAD if a word has to be said first. */
static void begin_upload(struct connection *c, const char *lines, const char *target)
{
    off_t len = upload_length(http_header(lines, "Content-Length"));

    if (len < 0 || http_header(lines, "Transfer-Encoding") != NULL) {
        c->keep_alive = false;
        answer_error(c, "411 Length Required", "", true);
    } else if (!upload_open(&c->upload, server.root, target, len)) {
        c->keep_alive = false;
        answer_error(c, "403 Forbidden", "", true);
    } else if (http_value_is(http_header(lines, "Expect"), "100-continue")) {
        c->head_len = (size_t)snprintf(c->head, sizeof(c->head), "HTTP/1.1 100 Continue\r\n\r\n");
        c->head_sent = 0;
        c->state = HEAD;
    } else {
        c->state = UPLOAD;
    }
}

/* Answers the request whose head is in `text`; ends in state HEAD, or UPLOAD. */
static void handle_request(struct connection *c, char *text)
{
    char more[128] = "", *target, *version;
    const char *lines, *value;
    off_t first, last;
    struct stat status;
    bool get, head, put;
    int range;

    server.requests++;
    got_on(c);
    c->keep_alive = false;
    lines = strstr(text, "\r\n");
    target = strchr(text, ' ');
    version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || version > lines || strncmp(version, " HTTP/1.", 8) != 0) {
        answer_error(c, "400 Bad Request", "", true);
        return;
    }
    get = strncmp(text, "GET ", 4) == 0;
    head = strncmp(text, "HEAD ", 5) == 0;
    put = server.put && strncmp(text, "PUT ", 4) == 0;
    if (!get && !head && !put) {
        answer_error(c, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", true);
        return;
    }
    value = http_header(lines, "Content-Length");
    if (!put && (http_header(lines, "Transfer-Encoding") != NULL || (value != NULL && !http_value_is(value, "0")))) {
        answer_error(c, "413 Content Too Large", "", get);
        return;
    }
    value = http_header(lines, "Connection");
    if (version[8] == '0')
        c->keep_alive = http_value_is(value, "keep-alive");
    else
        c->keep_alive = !http_value_is(value, "close");

    *version = '\0';
    if (!http_decode_path(target + 1)) {
        answer_error(c, "400 Bad Request", "", get);
        return;
    }
    if (put) {
        begin_upload(c, lines, target + 1);
        return;
    }
    c->file = http_open_below(server.root, target + 1, &status);
    if (c->file < 0) {
        answer_error(c, "404 Not Found", "", get);
        return;
    }
    c->offset = 0;
    c->end = status.st_size;
    /* Without a validator of ours, If-Range cannot match: the whole file. */
    range = get && http_header(lines, "If-Range") == NULL
        ? http_parse_range(http_header(lines, "Range"), status.st_size, &first, &last) : 0;
    if (range < 0) {
        snprintf(more, sizeof(more), "Content-Range: bytes */%jd\r\n", (intmax_t)status.st_size);
        answer_error(c, "416 Range Not Satisfiable", more, true);
    } else if (range > 0) {
        snprintf(more, sizeof(more), "Content-Range: bytes %jd-%jd/%jd\r\n", (intmax_t)first, (intmax_t)last,
                 (intmax_t)status.st_size);
        c->offset = first;
        c->end = last + 1;
        answer(c, "206 Partial Content", more, c->end - c->offset, "");
    } else {
        answer(c, "200 OK", "Content-Type: application/octet-stream\r\n", status.st_size, "");
    }
    if (head || range < 0 || c->offset == c->end) {
        close(c->file);
        c->file = -1;
    }
}

/* --- one step of each state --- */

static enum next read_request(struct connection *c)
{
    char *end = memmem(c->request, c->request_len, "\r\n\r\n", 4);
    enum next next = AGAIN;
    size_t len;
    ssize_t n;

    /* The head is text; a file that comes right behind it need not be. */
    if (memchr(c->request, '\0', end != NULL ? (size_t)(end - c->request) : c->request_len) != NULL)
        return FINISHED;
    if (end != NULL) {
        len = (size_t)(end - c->request) + 4;
        end[2] = '\0';
        handle_request(c, c->request);
        /* What follows is the next request, sent without waiting. */
        c->request_len -= len;
        memmove(c->request, c->request + len, c->request_len + 1);
        return AGAIN;
    }
    if (c->request_len == REQUEST_MAX) {
        c->keep_alive = false;
        answer_error(c, "431 Request Header Fields Too Large", "", true);
        return AGAIN;
    }
    n = read_plain(c, c->request + c->request_len, REQUEST_MAX - c->request_len, &next);
    if (n == 0)
        c->state = NOTIFY;
    if (n <= 0)
        return n == 0 ? AGAIN : next;
    c->request_len += (size_t)n;
    c->request[c->request_len] = '\0';
    return AGAIN;
}

static enum next send_head(struct connection *c)
{
    const char *data = c->head + c->head_sent;
    size_t len = c->head_len - c->head_sent;
    ssize_t n;

    if (sealed_by_uktls(c)) {
        /* MSG_MORE: the first bytes of the file go into the same record. */
        n = tls_send(c->fd, data, len, MSG_NOSIGNAL | (c->file >= 0 ? MSG_MORE : 0));
        if (n < 0)
            return after_send();
    } else {
        n = SSL_write(c->ssl, data, (int)len);
        if (n <= 0)
            return after_ssl(c, (int)n);
    }
    c->head_sent += (size_t)n;
    if (c->head_sent == c->head_len)
        c->state = c->upload.file >= 0 ? UPLOAD : BODY;
    return AGAIN;
}

/* Sends up to `max` bytes of the file the old way: read, then SSL_write. Returns like SSL_write. */
static int ssl_write_file(struct connection *c, size_t max)
{
    /* One for all: a retry reads the same bytes again, and SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER is set. */
    static char buffer[RECORD_BYTES];
    ssize_t n = pread(c->file, buffer, max < sizeof(buffer) ? max : sizeof(buffer), c->offset);
    int written;

    if (n <= 0)
        return 0;
    written = SSL_write(c->ssl, buffer, (int)n);
    if (written > 0)
        c->offset += written;
    return written;
}

static enum next send_body(struct connection *c)
{
    size_t budget = TURN_BYTES;

    while (c->file >= 0 && c->offset < c->end) {
        size_t max = c->end - c->offset < (off_t)budget ? (size_t)(c->end - c->offset) : budget;
        ssize_t n;

        if (budget == 0)
            return WANT_WRITE;
        if (sealed_by_uktls(c)) {
            n = tls_sendfile(c->fd, c->file, &c->offset, max);
            if (n < 0)
                return after_send();
        } else {
            n = ssl_write_file(c, max);
            if (n < 0)
                return after_ssl(c, (int)n);
        }
        if (n == 0) /* The file has become shorter than what was announced. */
            return FINISHED;
        budget -= (size_t)n;
        got_on(c);
    }
    if (c->file >= 0)
        close(c->file);
    c->file = -1;
    c->state = c->keep_alive ? REQUEST : NOTIFY;
    /* Pipelined requests must not keep the others waiting either; a writable socket comes back at once. */
    return c->request_len ? WANT_WRITE : AGAIN;
}

static enum next receive_upload(struct connection *c)
{
    static char buffer[4 * RECORD_BYTES];
    size_t budget = TURN_BYTES;

    while (c->upload.left > 0) {
        enum next next = AGAIN;
        ssize_t n = (ssize_t)c->request_len;

        if (budget < sizeof(buffer))
            return WANT_READ;
        if (n > 0) {
            /* What came together with the head, and perhaps the next request behind it. */
            n = upload_write(&c->upload, c->request, c->request_len);
            if (n < 0)
                return FINISHED;
            c->request_len -= (size_t)n;
            memmove(c->request, c->request + n, c->request_len + 1);
            continue;
        }
        /* No more than belongs to the file. */
        n = read_plain(c, buffer, c->upload.left < (off_t)sizeof(buffer) ? (size_t)c->upload.left : sizeof(buffer),
                       &next);
        if (n == 0)
            return FINISHED;
        if (n < 0 && next != AGAIN)
            return next;
        if (n > 0 && upload_write(&c->upload, buffer, (size_t)n) < 0)
            return FINISHED;
        budget -= n > 0 ? (size_t)n : 0;
        got_on(c);
    }
    if (upload_close(&c->upload, server.root))
        answer(c, "201 Created", "", 0, "");
    else
        answer_error(c, "500 Internal Server Error", "", true);
    return AGAIN;
}

static enum next send_close_notify(struct connection *c)
{
    int result = SSL_shutdown(c->ssl);

    if (result < 0)
        return after_ssl(c, result);
    /* Ends our half behind all that was accepted. */
    if ((sealed_by_uktls(c) ? tls_shutdown(c->fd, SHUT_WR) : shutdown(c->fd, SHUT_WR)) < 0)
        return FINISHED;
    c->state = DRAIN;
    got_on(c);
    return AGAIN;
}

static enum next drain(struct connection *c)
{
    static char sink[4 * RECORD_BYTES];
    enum next next = WANT_READ;
    ssize_t n;

    /* One read in a turn: the peer may send without end, until its time is over. What uktls receives is read by
     * uktls only, be it to throw it away: it knows when the socket has to wake us. */
    if (c->receives)
        n = read_plain(c, sink, sizeof(sink), &next);
    else
        n = recv(c->fd, sink, sizeof(sink), 0);
    if (n < 0)
        return c->receives ? next : errno == EAGAIN || errno == EINTR ? WANT_READ : FINISHED;
    return n > 0 ? WANT_READ : FINISHED;
}

static enum next handshake(struct connection *c)
{
    int result = SSL_accept(c->ssl);

    if (result <= 0)
        return after_ssl(c, result);
    /* From here on the program sends and receives by uktls, where that has the keys. */
    if (c->bio != NULL)
        c->receives = uktls_bio_receives(c->bio) || uktls_tls13_receive(c->ssl, c->fd);
    c->state = REQUEST;
    got_on(c);
    return AGAIN;
}

static void connection_run(struct connection *c)
{
    static enum next (*const steps[])(struct connection *) = {
        handshake, read_request, send_head, send_body, receive_upload, send_close_notify, drain
    };
    struct epoll_event event;
    enum next next;

    do {
        ERR_clear_error();
        next = steps[c->state](c);
    } while (next == AGAIN);
    if (next == FINISHED) {
        connection_free(c);
        return;
    }
    event.events = next == WANT_READ ? EPOLLIN : EPOLLOUT;
    event.data.ptr = c;
    if (event.events != c->events && epoll_ctl(server.epoll, EPOLL_CTL_MOD, c->fd, &event) == 0)
        c->events = event.events;
}

/* --- the server --- */

static void print_stats(void)
{
    printf("{\"connections\":%" PRIu64 ",\"connections_max\":%" PRIu64 ",\"accepted\":%" PRIu64
           ",\"requests\":%" PRIu64, server.now, server.max, server.accepted, server.requests);
    print_counters();
    printf("}\n");
    fflush(stdout);
}

static void close_idle(void)
{
    struct connection *c, *following;
    time_t now = seconds();

    for (c = server.connections; c != NULL; c = following) {
        following = c->following;
        if (c->deadline < now)
            connection_free(c);
    }
}

/* Returns false when the server is to end. */
static bool take_signal(void)
{
    struct signalfd_siginfo info;

    if (read(server.signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return true;
    if (info.ssi_signo == SIGUSR1)
        print_stats();
    return info.ssi_signo == SIGUSR1;
}

static void serve(void)
{
    struct epoll_event events[64];
    time_t swept = seconds();
    int i, n, fd;

    for (;;) {
        n = epoll_wait(server.epoll, events, 64, 1000);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        /* Each connection is in `events` once at most, so freeing one leaves the others valid. */
        for (i = 0; i < n; i++) {
            if (events[i].data.ptr == &server.listener)
                while ((fd = accept4(server.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
                    connection_new(fd);
            else if (events[i].data.ptr != &server.signals)
                connection_run(events[i].data.ptr);
            else if (!take_signal())
                return;
        }
        if (seconds() != swept) {
            swept = seconds();
            close_idle();
        }
    }
}

static void watch(int fd, void *what)
{
    struct epoll_event event;

    event.events = EPOLLIN;
    event.data.ptr = what;
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void usage(void)
{
    fputs("usage: https-server --cert FILE --key FILE [--dir DIR] [--host ADDRESS] [--port N]\n"
          "                    [--tls 1.2|1.3|both] [--ciphers LIST]... [--put] [--ssl-write] [--stats]\n"
          "  --port N       0 (default): any free port; it is printed\n"
          "  --ciphers LIST in OpenSSL's words; a list that begins with TLS_ is for TLS 1.3\n"
          "  --put          accept PUT of files into DIR\n"
          "  --ssl-write    without uktls: read() and SSL_write(), to compare with\n"
          "  --stats        print the counters at the end\n",
          stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"cert", required_argument, NULL, 'c'}, {"key", required_argument, NULL, 'k'},
        {"dir", required_argument, NULL, 'd'},  {"host", required_argument, NULL, 'h'},
        {"port", required_argument, NULL, 'p'}, {"tls", required_argument, NULL, 't'},
        {"ciphers", required_argument, NULL, 'C'}, {"ssl-write", no_argument, NULL, 'w'},
        {"stats", no_argument, NULL, 's'},      {"put", no_argument, NULL, 'P'},
        {NULL, 0, NULL, 0}
    };
    const char *cert = NULL, *key = NULL, *dir = ".", *host = "127.0.0.1", *tls = "both";
    bool stats = false;
    int option, port = 0;

    server.ctx = SSL_CTX_new(TLS_server_method());
    if (server.ctx == NULL)
        die("SSL_CTX_new");
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c': cert = optarg; break;
        case 'k': key = optarg; break;
        case 'd': dir = optarg; break;
        case 'h': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 't': tls = optarg; break;
        case 'C':
            if (!(strncmp(optarg, "TLS_", 4) == 0 ? SSL_CTX_set_ciphersuites(server.ctx, optarg)
                                                  : SSL_CTX_set_cipher_list(server.ctx, optarg)))
                die(optarg);
            break;
        case 'w': server.ssl_write = true; break;
        case 's': stats = true; break;
        case 'P': server.put = true; break;
        default: usage();
        }
    }
    if (optind != argc || cert == NULL || key == NULL || port < 0 || port > 65535
        || (strcmp(tls, "1.2") != 0 && strcmp(tls, "1.3") != 0 && strcmp(tls, "both") != 0))
        usage();

    SSL_CTX_set_min_proto_version(server.ctx, strcmp(tls, "1.3") == 0 ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(server.ctx, strcmp(tls, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION);
    if (!server.ssl_write)
        uktls_tls13_setup(server.ctx);
    SSL_CTX_set_options(server.ctx, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(server.ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                                     | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(server.ctx, cert) != 1
        || SSL_CTX_use_PrivateKey_file(server.ctx, key, SSL_FILETYPE_PEM) != 1)
        die("certificate or key");

    server.root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (server.root < 0)
        die(dir);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server.epoll < 0)
        die("epoll_create1");

    /* OpenSSL's own socket writes would raise SIGPIPE when a reader has gone. */
    signal(SIGPIPE, SIG_IGN);
    server.signals = signals_open();
    server.listener = listener_open(host, (uint16_t)port);
    watch(server.signals, &server.signals);
    watch(server.listener, &server.listener);

    serve();

    close(server.listener);
    while (server.connections != NULL)
        connection_free(server.connections);
    if (stats)
        print_stats();
    SSL_CTX_free(server.ctx);
    return 0;
}
