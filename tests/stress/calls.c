/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One connection, from its beginning to its end. */
#include "worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "calls.h"

/* Errors by which a connection ends whose peer has gone. */
static bool is_end(int error)
{
    return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == ETIMEDOUT;
}

/* The call `what` has failed. False: not the connection. */
static bool is_broken(struct connection *connection, const char *what)
{
    struct slot *slot = connection->slot;

    if (is_end(errno) && (slot->pace == VANISHES || slot->pace == STUCK || atomic_load(&sh->excuses))) {
        atomic_store(&slot->broken, 1);
        return true;
    }
    fault(slot, "%s: %s", what, strerror(errno));
    atomic_store(&slot->broken, 1);
    return true;
}

static void lock(pthread_mutex_t *mutex)
{
    /* Its owner was killed, and that is excused. */
    if (pthread_mutex_lock(mutex) == EOWNERDEAD)
        pthread_mutex_consistent(mutex);
}

static struct slot *take_slot(struct actor *actor)
{
    for (int i = 0; i < 2 * SLOTS; i++) {
        struct slot *slot = &sh->slots[draw(actor, SLOTS)];
        int state = FREE, judged = JUDGED;

        if (atomic_compare_exchange_strong(&slot->state, &state, TAKEN) ||
            (atomic_load(&slot->released) && atomic_compare_exchange_strong(&slot->state, &judged, TAKEN)))
            return slot;
    }
    return NULL;
}

static void new_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
}

static void fill_slot(struct actor *actor, struct slot *slot)
{
    static const unsigned char paces[] = {FAST, FAST, FAST, FAST, FAST, FAST, LATE, LATE, TRICKLE, VANISHES};
    /* The common ciphers more often. */
    static const unsigned char common[] = {0, 1, 1, 2, 3, 3, 6, 7};

    slot->seed = mix(draw(actor, UINT64_MAX));
    slot->suite = draw(actor, 4) ? common[draw(actor, sizeof common)] : (int)draw(actor, (uint64_t)suite_count);
    slot->pace = draw(actor, 300) == 0 ? STUCK : paces[draw(actor, sizeof paces)];
    slot->to_receive = draw(actor, 3) == 0 && slot->pace < TRICKLE ? draw(actor, 200000) : 0;
    slot->accepted = slot->offered = slot->open = slot->received = 0;
    slot->updates = slot->excuses = slot->broken = slot->released = 0;
    new_mutex(&slot->turn);
    new_mutex(&slot->reading);
}

bool open_connection(struct actor *actor, struct connection *connection)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)sh->port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct slot *slot = take_slot(actor);
    struct hello hello = {.magic = "stress:\n"};
    struct keys keys;
    int size;

    if (slot == NULL)
        return false;
    fill_slot(actor, slot);
    hello.slot = (uint32_t)(slot - sh->slots);
    at_step(actor, "connect");
    connection->slot = slot;
    connection->is_lent = false;
    connection->fd = socket(AF_INET, SOCK_STREAM | (draw(actor, 2) ? SOCK_CLOEXEC : 0), 0);
    size = 1 << (12 + draw(actor, 7));
    if (draw(actor, 2))
        setsockopt(connection->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (connect(connection->fd, (void *)&at, sizeof at) != 0 || write(connection->fd, &hello, sizeof hello) != sizeof hello) {
        fault(slot, "connect: %s", strerror(errno));
        close(connection->fd);
        atomic_store(&slot->state, FREE);
        return false;
    }
    at_step(actor, "keys");
    keys = keys_of(slot, false, 0);
    if (set_tx(connection->fd, keys.info, keys.len) != 0)
        fault(slot, "keys: %s", strerror(errno));
    keys = keys_of(slot, true, 0);
    if (slot->to_receive > 0 && set_rx(connection->fd, keys.info, keys.len) != 0)
        fault(slot, "keys of the other direction: %s", strerror(errno));
    connection->waits = slot->pace != STUCK && draw(actor, 2);
    if (!connection->waits)
        fcntl(connection->fd, F_SETFL, O_RDWR | O_NONBLOCK);
    return true;
}

/* --- sending ---------------------------------------------------------------------------------------- */

enum way {
    BY_SEND, BY_SENDMSG, BY_MORE, BY_SENDFILE, BY_SPLICE,
#ifndef LIBRARY
    BY_WRITE, BY_WRITEV, BY_SENDTO, BY_SENDMMSG,
#endif
    WAYS
};

static ssize_t by_splice(struct actor *actor, struct connection *connection, const unsigned char *data, size_t len)
{
    unsigned char rest[4096];
    ssize_t n = write(actor->pipe[1], data, len < 60000 ? len : 60000), sent, left;
    int error;

    sent = do_splice(actor->pipe[0], NULL, connection->fd, NULL, (size_t)n, 0);
    error = errno;
    for (left = n - (sent > 0 ? sent : 0); left > 0;) {
        ssize_t got = read(actor->pipe[0], rest, left < (ssize_t)sizeof rest ? (size_t)left : sizeof rest);
        if (got <= 0) {
            /* As over a kernel, a pipe's bytes may go down with a connection that breaks. */
            if (sent >= 0 || (error != EPIPE && error != ECONNRESET))
                fault(connection->slot, "%zd bytes of a pipe are gone; splice said %zd, errno %d", left, sent, error);
            break;
        }
        left -= got;
    }
    errno = error;
    return sent;
}

static ssize_t by(struct actor *actor, enum way way, struct connection *connection, const unsigned char *data, size_t len)
{
    int fd = connection->fd;
    struct iovec parts[2] = {{(void *)(uintptr_t)data, len / 3}, {(void *)(uintptr_t)(data + len / 3), len - len / 3}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    off_t start = 0;

    switch (way) {
    case BY_SENDMSG: return do_sendmsg(fd, &message, MSG_NOSIGNAL);
    case BY_MORE: return do_send(fd, data, len, MSG_NOSIGNAL | MSG_MORE);
    case BY_SENDFILE:
        if (pwrite(actor->file, data, len, 0) != (ssize_t)len)
            return -1;
        return do_sendfile(fd, actor->file, &start, len);
    case BY_SPLICE: return by_splice(actor, connection, data, len);
#ifndef LIBRARY
    case BY_WRITE: return write(fd, data, len);
    case BY_WRITEV: return writev(fd, parts, 2);
    case BY_SENDTO: return sendto(fd, data, len, MSG_NOSIGNAL, NULL, 0);
    case BY_SENDMMSG: {
        struct mmsghdr two[2] = {{.msg_hdr = {.msg_iov = parts, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = parts + 1, .msg_iovlen = 1}}};
        int n = sendmmsg(fd, two, 2, MSG_NOSIGNAL);
        /* A short first one ends the matter: what comes behind it would not be the pattern. */
        return n < 0 ? -1 : (ssize_t)two[0].msg_len + (n > 1 ? (ssize_t)two[1].msg_len : 0);
    }
#endif
    default: return do_send(fd, data, len, MSG_NOSIGNAL);
    }
}

/* Until there is room again, or a moment has passed. */
static void wait_for(struct actor *actor, struct connection *connection, short what)
{
    struct pollfd ready = {connection->fd, what, 0};

    at_step(actor, what == POLLIN ? "poll for bytes" : "poll for room");
    do_poll(&ready, 1, 100);
}

void send_some(struct actor *actor, struct connection *connection, size_t len)
{
    struct slot *slot = connection->slot;
    size_t done = 0;
    int stalls = 0;

    if (slot->broken)
        return;
    lock(&slot->turn);
    uint64_t position = atomic_load(&slot->accepted);
    if (len > sizeof actor->buffer)
        len = sizeof actor->buffer;
    pattern(slot->seed, position, actor->buffer, len);
    atomic_store(&slot->offered, position + len);
    while (done < len && !slot->broken) {
        enum way way = (enum way)draw(actor, WAYS);
#ifndef LIBRARY
        if (way == BY_SENDMMSG && !connection->waits)
            way = BY_WRITE; /* the second of two may find room that the first did not */
#endif
        at_step(actor, "send");
        ssize_t n = by(actor, way, connection, actor->buffer + done, len - done);
        if (n > 0) {
            done += (size_t)n;
            atomic_store(&slot->open, way == BY_MORE ? slot->open + (uint64_t)n : 0);
            atomic_store(&slot->accepted, position + done);
        } else if (n == 0) {
            fault(slot, "way %d: nothing of %zu bytes", (int)way, len - done);
            break;
        } else if (errno == EAGAIN) {
            if (slot->pace == STUCK && ++stalls > 3)
                break;
            if (connection->waits)
                fault(slot, "way %d: EAGAIN of a socket that waits", (int)way);
            wait_for(actor, connection, POLLOUT);
        } else if (errno != EINTR && is_broken(connection, "send")) {
            break;
        }
    }
    if (done < len)
        atomic_store(&slot->offered, position + done);
    pthread_mutex_unlock(&slot->turn);
}

/* TLS 1.3: a record of a handshake, and new keys behind it. */
void update_keys(struct actor *actor, struct connection *connection)
{
    struct slot *slot = connection->slot;
    unsigned char update[5] = {24, 0, 0, 1, 0};
    char control[CMSG_SPACE(1)] = {0};
    struct iovec part = {update, sizeof update};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *type = CMSG_FIRSTHDR(&message);
    ssize_t n;

    if (suites[slot->suite].version != 0x0304 || slot->broken)
        return;
    type->cmsg_level = SOL_TLS;
    type->cmsg_type = TLS_SET_RECORD_TYPE;
    type->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(type) = 22;
    lock(&slot->turn);
    at_step(actor, "key update");
    /* An open record goes first (RT-2). */
    while ((n = do_sendmsg(connection->fd, &message, MSG_NOSIGNAL)) < 0 && (errno == EAGAIN || errno == EINTR) &&
           slot->pace != STUCK)
        wait_for(actor, connection, POLLOUT);
    if (n == sizeof update) {
        struct keys keys = keys_of(slot, false, slot->updates + 1);
        atomic_store(&slot->open, 0);
        at_step(actor, "new keys");
        while ((n = set_tx(connection->fd, keys.info, keys.len)) != 0 && (errno == EAGAIN || errno == EINTR))
            wait_for(actor, connection, POLLOUT);
        if (n == 0) {
            atomic_fetch_add(&slot->updates, 1);
            atomic_fetch_add(&sh->tallies[UPDATES], 1);
        } else {
            is_broken(connection, "new keys");
        }
    } else if (slot->pace != STUCK) {
        is_broken(connection, "key update");
    }
    pthread_mutex_unlock(&slot->turn);
}

/* --- receiving -------------------------------------------------------------------------------------- */

void receive_some(struct actor *actor, struct connection *connection, uint64_t len)
{
    struct slot *slot = connection->slot;
    static __thread unsigned char want[sizeof actor->buffer];
    uint64_t done = 0;

    lock(&slot->reading);
    if (len > slot->to_receive - slot->received)
        len = slot->to_receive - slot->received;
    while (done < len && !slot->broken) {
        size_t most = 1 + draw(actor, sizeof actor->buffer);
        at_step(actor, "receive");
        ssize_t n = do_recv(connection->fd, actor->buffer, most, 0);
        if (n > 0) {
            pattern(received_seed(slot), slot->received, want, (size_t)n);
            if (slot->received + (uint64_t)n > slot->to_receive || memcmp(want, actor->buffer, (size_t)n) != 0) {
                fault(slot, "received other bytes than were sent, after %llu", (unsigned long long)slot->received);
                break;
            }
            atomic_fetch_add(&slot->received, (uint64_t)n);
            atomic_fetch_add(&sh->tallies[RECEIVED], (uint64_t)n);
            done += (uint64_t)n;
        } else if (n == 0) {
            fault(slot, "the judge's stream ends after %llu bytes", (unsigned long long)slot->received);
            break;
        } else if (errno == EAGAIN && !connection->waits) {
            wait_for(actor, connection, POLLIN);
        } else if (errno != EINTR && is_broken(connection, "receive")) {
            break;
        }
    }
    pthread_mutex_unlock(&slot->reading);
}

/* --- the end ------------------------------------------------------------------------------------------ */

void let_go(struct connection *connection)
{
    if (do_close(connection->fd) != 0 && !atomic_load(&sh->excuses))
        fault(connection->slot, "close: %s", strerror(errno));
    connection->fd = -1;
}

static void linger(int fd, int seconds)
{
    struct linger linger = {1, seconds};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

static void send_alert(struct connection *connection)
{
    unsigned char alert[2] = {1, 0};
    char control[CMSG_SPACE(1)] = {0};
    struct iovec part = {alert, sizeof alert};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *type = CMSG_FIRSTHDR(&message);

    type->cmsg_level = SOL_TLS;
    type->cmsg_type = TLS_SET_RECORD_TYPE;
    type->cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(type) = 21;
    /* A full buffer has none, as with any program. */
    do_sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void close_connection(struct actor *actor, struct connection *connection)
{
    struct slot *slot = connection->slot;
    int way = (int)draw(actor, 12);

    /* What is unread at a close resets the connection. */
    receive_some(actor, connection, UINT64_MAX);
    if (slot->broken)
        atomic_fetch_or(&slot->excuses, RESET | LOST);
    at_step(actor, "close");
    switch (way) {
    case 0:
        atomic_fetch_or(&slot->excuses, RESET | LOST);
        linger(connection->fd, 0);
        break;
    case 1: linger(connection->fd, 1 + (int)draw(actor, 2)); break;
    case 2: do_shutdown(connection->fd, SHUT_WR); break;
    case 3: send_alert(connection); break;
    case 4: do_shutdown(connection->fd, SHUT_RDWR); break;
#ifndef LIBRARY
    case 5: { /* another file comes to be under the number */
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, connection->fd);
        close(null);
        break;
    }
    case 6: { /* the other number is closed later */
        int other = dup(connection->fd);
        let_go(connection);
        connection->fd = other;
        break;
    }
    case 7: { /* and first */
        int other = fcntl(connection->fd, F_DUPFD_CLOEXEC, (int)draw(actor, 200));
        close(other);
        break;
    }
    case 8:
        if (close_range((unsigned)connection->fd, (unsigned)connection->fd, 0) != 0)
            fault(slot, "close_range: %s", strerror(errno));
        connection->fd = -1;
        break;
#endif
    default: break;
    }
    if (connection->fd >= 0)
        let_go(connection);
    if (!connection->is_lent)
        atomic_store(&slot->released, 1);
}
