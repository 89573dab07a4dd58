/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What comes on the other ends of a worker's connections: records are opened, messages accounted for. */
#include "driver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint32_t digest(const unsigned char *data, size_t len)
{
    uint64_t x = len;

    for (size_t i = 0; i < len; i++)
        x = (x ^ data[i]) * 0x100000001b3;
    x = mix(x);
    return (uint32_t)x ? (uint32_t)x : 1;
}

static struct connection *added(struct lane *lane, int fd, int index)
{
    struct connection *c;

    if (fd < 0)
        fail("a connection: %s", strerror(errno));
    if (lane->count == 2 * CONNECTIONS_MAX)
        fail("too many connections");
    c = &lane->connections[lane->count++];
    *c = (struct connection){.fd = fd, .index = -1};
    c->wire = zeroed(BUFFER, 1);
    if (index >= 0)
        c->index = index;
    for (int i = 0; i < WRITERS_MAX; i++)
        c->last[i] = -1;
    return c;
}

void add_connection(struct lane *lane, int fd, int index)
{
    added(lane, fd, index);
}

void drop_connection(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->wire);
    free(c->plain);
    free(c->types);
    free(c->seen);
    free(c->nonces);
}

static void begin_records(struct lane *lane, struct connection *c)
{
    c->keys = make_keys(lane->shared->suite, connection_seed(lane->shared, c->index));
    c->plain = zeroed(BUFFER, 1);
    c->types = zeroed(BUFFER, 1);
    c->seen = zeroed(NUMBERS_MAX, sizeof *c->seen);
    c->nonces = zeroed(NUMBERS_MAX, sizeof *c->nonces);
}

/* The text of a message, or the mark in its body, anywhere. */
static bool shows_plaintext(const unsigned char *data, size_t len)
{
    if (memmem(data, len, "plaintext:", 10) != NULL)
        return true;
    for (size_t i = 0; i + HEAD <= len; i++)
        if (is_head((const char *)data + i, len - i))
            return true;
    return false;
}

/* What the C library writes by itself is no message. */
static bool is_text(const unsigned char *data, size_t len)
{
    size_t i = 0;

    while (i < len && i < 8 && ((data[i] >= ' ' && data[i] <= '~') || data[i] == '\n'))
        i++;
    return i == 8;
}

/* After this nothing of the connection can be made out any more, but whether plaintext follows. */
static void break_connection(struct connection *c, struct result *r, const char *what)
{
    bool plain = shows_plaintext(c->wire, c->wire_len) || is_text(c->wire, c->wire_len);

    if (!c->broken || plain)
        found(r, plain ? PLAIN : UNOPENED, "%s%s behind record %llu: %02x %02x %02x %02x %02x, %zu bytes", what,
              plain ? " (plaintext)" : "", (unsigned long long)c->next, c->wire[0], c->wire[1], c->wire[2], c->wire[3],
              c->wire[4], c->wire_len);
    c->broken = true;
    c->wire_len = 0;
}

static void take_message(struct lane *lane, struct connection *c, struct result *r, const unsigned char *at, size_t len)
{
    const char *text = (const char *)at;
    int writer = digit(text[2]);
    unsigned counter = (unsigned)(digit(text[3]) << 12 | digit(text[4]) << 6 | digit(text[5]));
    char expected[MESSAGE_MAX];
    int state;

    if (counter >= MESSAGES_MAX ||
        message(expected, lane->shared->seed, writer, counter, writer == AUXILIARY ? 0 : lane->shared->cell.function) !=
            len ||
        memcmp(expected, text, len) != 0) {
        found(r, CONTENT, "message %u of writer %d is not as it was written", counter, writer);
        return;
    }
    state = atomic_load(&lane->shared->writers[writer].state[counter]);
    if (lane->delivered[writer][counter]++)
        found(r, DOUBLE, "message %u of writer %d has come twice", counter, writer);
    else if (state == NOT_TRIED)
        found(r, GHOST, "message %u of writer %d has come and was not written", counter, writer);
    if ((int)counter < c->last[writer])
        found(r, ORDER, "message %u of writer %d has come behind %d", counter, writer, c->last[writer]);
    c->last[writer] = (int)counter;
}

static void take_content(struct lane *lane, struct connection *c, struct result *r)
{
    size_t at = 0;

    while (c->plain_len - at >= HEAD) {
        const char *text = (const char *)c->plain + at;
        size_t len;
        int type;

        if (!is_head(text, c->plain_len - at)) {
            found(r, CONTENT, "what was sealed is no message: %.12s", text);
            at = c->plain_len;
            break;
        }
        len = length_of(text);
        if (len < HEAD) {
            found(r, CONTENT, "a message of %zu bytes", len);
            at = c->plain_len;
            break;
        }
        if (c->plain_len - at < len)
            break;
        type = text[1] == 'H' ? 22 : 23;
        for (size_t i = 0; i < len; i++)
            if (c->types[at + i] != type && !c->plainly) {
                found(r, TYPE, "a message has come in a record of type %d, not %d", c->types[at + i], type);
                break;
            }
        take_message(lane, c, r, (const unsigned char *)text, len);
        at += len;
    }
    memmove(c->plain, c->plain + at, c->plain_len - at);
    memmove(c->types, c->types + at, c->plain_len - at);
    c->plain_len -= at;
}

/* A number that has not been there yet. */
static void note_number(struct connection *c, struct result *r, uint64_t number, const unsigned char *record)
{
    uint64_t nonce = 0, first = 0;

    for (size_t i = 0; i < explicit_nonce_len(c->keys.suite); i++) {
        nonce = nonce << 8 | record[5 + i];
        first = first << 8 | c->keys.info[4 + i];
    }
    nonce -= first;
    if (explicit_nonce_len(c->keys.suite) && nonce >= NUMBERS_MAX)
        found(r, OTHER, "an explicit nonce far from the first");
    else if (explicit_nonce_len(c->keys.suite) && c->nonces[nonce]++)
        found(r, REUSE, "explicit nonce %llu twice", (unsigned long long)nonce);
    if (number != c->next)
        found(r, number > c->next ? SKIPPED : ORDER, "number %llu where %llu was next", (unsigned long long)number,
              (unsigned long long)c->next);
    if (number >= c->next)
        c->next = number + 1;
}

static void take_record(struct lane *lane, struct connection *c, struct result *r, const unsigned char *record,
                        size_t len)
{
    unsigned char *out = c->plain + c->plain_len;
    uint64_t number = c->next;
    uint32_t mine = digest(record, len);
    int type = 0;
    ssize_t n = open_record(&c->keys, number, record, len, out, &type);

    if (n < 0)
        for (uint64_t other = 0; other < c->next + WINDOW && n < 0; other++)
            n = open_record(&c->keys, number = other, record, len, out, &type);
    if (n < 0) {
        bool plain = shows_plaintext(record, len);

        found(r, plain ? PLAIN : UNOPENED, "the record behind record %llu does not open%s",
              (unsigned long long)c->next, plain ? " and is plaintext" : "");
        return;
    }
    r->records++;
    if (number >= NUMBERS_MAX)
        fail("a number beyond %d", NUMBERS_MAX);
    if (c->seen[number])
        found(r, REUSE, "number %llu twice, %s", (unsigned long long)number,
              c->seen[number] == mine ? "with the same bytes" : "with OTHER BYTES");
    else
        note_number(c, r, number, record);
    c->seen[number] = mine;
    memset(c->types + c->plain_len, type, (size_t)n);
    c->plain_len += (size_t)n;
    if (functions[lane->shared->cell.function].flags & FREE_FORM &&
        c->index == atomic_load(&lane->shared->main_connection))
        c->plain_len = 0;
    else
        take_content(lane, c, r);
}

static void greeted(struct lane *lane, struct connection *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd;

    if (!memcmp(c->wire, "HELO", 4)) {
        c->index = c->wire[4];
        c->plainly = c->wire[6] == 1;
        begin_records(lane, c);
        return;
    }
    if (memcmp(c->wire, "CONN", 4) != 0)
        fail("an unknown greeting");
    c->control = true;
    address.sin_port = htons((uint16_t)(c->wire[5] << 8 | c->wire[6]));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect: %s", strerror(errno));
    begin_records(lane, added(lane, fd, c->wire[4]));
}

static void take_wire(struct lane *lane, struct connection *c, struct result *r)
{
    size_t at = 0;

    if (c->index < 0 && !c->control) {
        if (c->wire_len < 8)
            return;
        greeted(lane, c);
        c->wire_len -= 8;
        memmove(c->wire, c->wire + 8, c->wire_len);
    }
    if (c->control)
        return;
    if (c->plainly) {
        memcpy(c->plain + c->plain_len, c->wire, c->wire_len);
        c->plain_len += c->wire_len;
        c->wire_len = 0;
        take_content(lane, c, r);
        return;
    }
    if (c->broken) {
        if (shows_plaintext(c->wire, c->wire_len))
            found(r, PLAIN, "more plaintext");
        c->wire_len = 0;
        return;
    }
    while (c->wire_len - at >= 5) {
        size_t len = 5 + ((size_t)c->wire[at + 3] << 8 | c->wire[at + 4]);
        const char *text = (const char *)c->wire + at;

        /* A message in the clear; what follows it may show more. */
        if (c->wire_len - at < HEAD && (!memcmp(text, "KT", 2) || !memcmp(text, "KH", 2)))
            break;
        if (is_head(text, c->wire_len - at) && length_of(text) >= HEAD) {
            len = length_of(text);
            if (c->wire_len - at < len)
                break;
            found(r, PLAIN, "PLAINTEXT behind record %llu: message %.8s", (unsigned long long)c->next, text);
            take_message(lane, c, r, c->wire + at, len);
            at += len;
            continue;
        }
        if (!header_is_possible(c->keys.suite, c->wire + at)) {
            memmove(c->wire, c->wire + at, c->wire_len - at);
            c->wire_len -= at;
            break_connection(c, r, "no header of a record");
            return;
        }
        if (c->wire_len - at < len)
            break;
        take_record(lane, c, r, c->wire + at, len);
        at += len;
    }
    memmove(c->wire, c->wire + at, c->wire_len - at);
    c->wire_len -= at;
}

void read_connection(struct lane *lane, struct connection *c, struct result *r)
{
    ssize_t n = read(c->fd, c->wire + c->wire_len, BUFFER / 2 - c->wire_len);

    if (n > 0) {
        c->wire_len += (size_t)n;
        take_wire(lane, c, r);
        return;
    }
    if (n < 0 && errno != ECONNRESET)
        fail("read: %s", strerror(errno));
    c->ended = true;
    if (c->wire_len > 0 && !c->control)
        break_connection(c, r, "the stream ends inside a record,");
    close(c->fd);
    c->fd = -1;
}

void account(struct lane *lane, struct result *r)
{
    bool lazy = functions[lane->shared->cell.function].flags & LAZY;
    bool broken = false, free_form = functions[lane->shared->cell.function].flags & FREE_FORM;

    for (int i = 0; i < lane->count; i++)
        broken |= lane->connections[i].broken || lane->connections[i].plain_len > 0;
    for (int w = 0; w < WRITERS_MAX; w++) {
        int first_refused = MESSAGES_MAX;

        /* A stream tells of what it could not write when the next message comes, of whichever of its writers. */
        for (int m = MESSAGES_MAX - 1; lazy && m >= 0; m--)
            for (int other = w / THREADS_MAX * THREADS_MAX; other < (w / THREADS_MAX + 1) * THREADS_MAX; other++)
                if (atomic_load(&lane->shared->writers[other].state[m]) == REFUSED)
                    first_refused = thread_counts[lane->shared->cell.threads] == 1 ? m : 0;
        for (int m = 0; m < MESSAGES_MAX; m++) {
            int state = atomic_load(&lane->shared->writers[w].state[m]), there = lane->delivered[w][m];

            r->taken += state == TAKEN;
            r->refused += state == REFUSED;
            if (free_form && w != AUXILIARY)
                continue;
            if (state == TAKEN && !there && m + 1 < first_refused && !(r->faults & (1u << PLAIN | 1u << UNOPENED)))
                found(r, LOST, "message %d of writer %d was taken and has not come", m, w);
            else if (state == REFUSED && there)
                found(r, GHOST, "message %d of writer %d was refused and has come", m, w);
        }
        if (r->write_errno == 0)
            r->write_errno = atomic_load(&lane->shared->writers[w].first_errno);
    }
    if (broken && !(r->faults & (1u << PLAIN | 1u << UNOPENED)))
        found(r, CONTENT, "the stream ends inside a message");
    r->keys_errno = atomic_load(&lane->shared->keys_errno);
    r->number_errno = atomic_load(&lane->shared->number_errno);
    if (atomic_load(&lane->shared->complained))
        found(r, OTHER, "%.110s", lane->shared->complaint);
    /* Other connections of the cell have a record each, which say nothing of the cell. */
    if (r->records >= (unsigned)atomic_load(&lane->shared->auxiliaries))
        r->records -= (unsigned)atomic_load(&lane->shared->auxiliaries);
}
