/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Walks: calls in random order with random arguments, the same for the same seed. Left out is what the
 * lists of differences have: what may differ once makes all that follows differ. */
#include "probe.h"

#include <sys/epoll.h>
#include <sys/sendfile.h>

static uint64_t state;

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 33) % n);
}

#define ONE_OF(array) (array)[below(sizeof(array) / sizeof *(array))]

static struct keys random_keys(int *version)
{
    static const int ciphers[] = {AES128_GCM, AES256_GCM, CHACHA20, AES128_CCM};
    *version = below(2) ? TLS13 : TLS12;
    return keys_of(*version, ONE_OF(ciphers), below(1000), 0);
}

/* What is sent is there, whatever was sent before. */
static void no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* --- sending ---------------------------------------------------------------------------------- */

static const int lens[] = {0, 1, 5, 100, 1000, 4096, 16000, 16383, 16384, 16385, 20000, 33000};
static unsigned char wire[8 * BIG];
static size_t wired;

static void drain(int fd)
{
    ssize_t n;
    while (wired < sizeof wire && (n = recv(fd, wire + wired, sizeof wire - wired, MSG_DONTWAIT)) > 0)
        wired += (size_t)n;
}

static void send_vector(int fd)
{
    struct iovec iov[6];
    int n = (int)below(6), more = below(3) == 0 ? MSG_MORE : 0;
    put("writev");
    for (int i = 0; i < n; i++) {
        int len = ONE_OF(lens);
        iov[i] = (struct iovec){(void *)(uintptr_t)pattern(below(99), (size_t)len), (size_t)len};
        put("%d", len);
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)n};
    put(more ? "MORE =" : "=");
    put_result(below(2) && !more ? writev(fd, iov, n) : sendmsg(fd, &msg, more));
}

static void send_control(int fd)
{
    static const int types[] = {0, 20, 21, 21, 22, 22, 23, 24, 255}, sizes[] = {0, 1, 2, 40, 16384, 16385, 20000};
    int type = ONE_OF(types), len = ONE_OF(sizes), flags = below(6) ? 0 : MSG_MORE;
    put("type %d %d%s =", type, len, flags ? " MORE" : "");
    put_result(send_type(fd, type, pattern(7, (size_t)len), (size_t)len, flags));
}

static void send_odd_control(int fd)
{
    static const int levels[] = {SOL_TLS, SOL_TLS, SOL_SOCKET, 0}, kinds[] = {SET_RECORD_TYPE, GET_RECORD_TYPE, 0, 3};
    static const size_t sizes[] = {0, 1, 15, 16, 17, 18, 20, 24, 25, 32, 48};
    union { char bytes[64]; struct cmsghdr align; } control = {{0}};
    struct iovec iov = {.iov_base = "odd", .iov_len = 3};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = ONE_OF(sizes)};
    struct cmsghdr *c = &control.align;
    c->cmsg_level = ONE_OF(levels);
    c->cmsg_type = ONE_OF(kinds);
    c->cmsg_len = ONE_OF(sizes);
    *CMSG_DATA(c) = ALERT;
    put("control %zu %d %d %zu =", msg.msg_controllen, c->cmsg_level, c->cmsg_type, (size_t)c->cmsg_len);
    put_result(sendmsg(fd, &msg, 0));
}

static void send_flags(int fd)
{
    static const int flags[] = {0, 0, 0, 0, MSG_MORE, MSG_MORE, MSG_MORE, MSG_DONTWAIT, MSG_EOR, MSG_NOSIGNAL,
                                MSG_OOB, MSG_MORE | MSG_EOR, MSG_DONTROUTE, MSG_CONFIRM, MSG_FASTOPEN, MSG_ZEROCOPY};
    int flag = ONE_OF(flags), len = ONE_OF(lens);
    put("send %d %x =", len, flag);
    put_result(send(fd, pattern(below(50), (size_t)len), (size_t)len, flag));
}

static void send_file(int fd, int file)
{
    static const long offsets[] = {0, 1, 100, 49990, 50000, 60000, -1};
    off_t offset = ONE_OF(offsets);
    int len = ONE_OF(lens), own = below(3) == 0;
    put("sendfile %s%d %d =", own ? "own " : "", own ? 0 : (int)offset, len);
    put_result(sendfile(fd, file, own ? NULL : &offset, (size_t)len));
    put("at %d", own ? (int)lseek(file, 0, SEEK_CUR) : (int)offset);
    if (own && below(3) == 0)
        lseek(file, 0, SEEK_SET);
}

static void splice_in(int fd, int pipes[2])
{
    static const int sizes[] = {0, 1, 100, 4096, 5000, 20000};
    int len = ONE_OF(sizes), wanted = ONE_OF(sizes), flags = SPLICE_F_NONBLOCK | (below(3) ? 0 : SPLICE_F_MORE);
    char rest[65536];
    put("splice %d of %d %x =", wanted, len, flags);
    if (len && write(pipes[1], pattern(3, (size_t)len), (size_t)len) != len)
        put("(pipe)");
    put_result(splice(pipes[0], NULL, fd, NULL, (size_t)wanted, (unsigned)flags));
    ssize_t n = read(pipes[0], rest, sizeof rest);
    put("left %zd", n < 0 ? 0 : n);
}

static void put_option(int fd, int direction, int version)
{
    static const socklen_t sizes[] = {40, 56, 4, 0, 3, 5, 64};
    unsigned char info[64] = {0};
    socklen_t len = ONE_OF(sizes);
    int value = (int)below(3), r;
    switch (below(version == TLS12 ? 4 : 3)) {
    case 0:
    case 1:
        put("getsockopt %d %u =", direction, len);
        r = getsockopt(fd, SOL_TLS, direction, info, &len);
        put_result(r);
        put("%u", len);
        if (r == 0)
            put_hex(info, len < 60 ? len : 60);
        break;
    case 2:
        put("option %d of %d =", direction == TX ? ZEROCOPY_RO : NO_PAD, value);
        put_result(set_tls(fd, direction == TX ? ZEROCOPY_RO : NO_PAD, &value, below(5) ? 4 : 3));
        break;
    default:
        put("keys again =");
        put_result(set_tls(fd, direction, info, 40));
    }
}

static void walk_out(unsigned seed, unsigned steps)
{
    int fd[2], pipes[2], version;
    struct keys keys = random_keys(&version);
    FILE *file = tmpfile();
    for (int i = 0; i < 50000; i++)
        fputc(i * 7 + i / 256, file);
    fflush(file);
    rewind(file);
    lseek(fileno(file), 0, SEEK_SET);
    tx_pair(fd, &keys);
    nonblocking(fd[0], below(2));
    no_delay(fd[0]);
    int copy = dup(fd[0]);
    if (pipe2(pipes, O_NONBLOCK) != 0)
        return;
    for (unsigned step = 0; step < steps; step++) {
        line("WALK", "out %u.%02u", seed, step);
        int end_of = below(4) ? fd[0] : copy;
        switch (below(16)) {
        case 0: case 1: case 2: case 3: case 4: send_flags(end_of); break;
        case 5: case 6: send_vector(end_of); break;
        case 7: case 8: send_control(end_of); break;
        case 9: send_odd_control(end_of); break;
        case 10: case 11: send_file(end_of, fileno(file)); break;
        case 12: splice_in(end_of, pipes); break;
        case 13: case 14: put_option(end_of, TX, version); break;
        default: put("ready"); put_ready(end_of, 0);
        }
        sleep_ms(1);
        drain(fd[1]);
        if (step == steps / 2 && below(2)) {
            close(fd[0]);
            fd[0] = copy;
        }
    }
    /* Behind what TCP may hold back; the open record, if there is one, by a call without MORE. */
    line("WALK", "out %u.end", seed);
    put_result(send(fd[0], "end", 3, 0));
    for (int quiet = 0; quiet < 45; quiet++) {
        size_t before = wired;
        sleep_ms(10);
        drain(fd[1]);
        if (wired != before)
            quiet = 0;
    }
    put("wire");
    for (size_t at = 0; wired - at >= 5; at += 5 + ((size_t)wire[at + 3] << 8 | wire[at + 4]))
        put("%u/%u", wire[at], wire[at + 3] << 8 | wire[at + 4]);
    put_hash(wire, wired);
    line_end();
}

/* --- receiving -------------------------------------------------------------------------------- */

static void come(struct sealer *s, int fd, int version, int spoil, bool in_parts, unsigned char *held, size_t *held_len)
{
    static const int types[] = {23, 23, 23, 23, 23, 23, 21, 22, 22, 24}, sizes[] = {1, 5, 100, 1000, 5000, 16384};
    static unsigned char record[SEALED_MAX], plain[RECORD_MAX + 1];
    int type = ONE_OF(types), len = ONE_OF(sizes), pad = 0;
    if (*held_len) {
        put("the rest comes");
        write_all(fd, held, *held_len);
        *held_len = 0;
        sleep_ms(5);
        return;
    }
    size_t sealed;
    memcpy(plain, pattern(below(99), (size_t)len), (size_t)len);
    if (version == TLS13 && below(4) == 0) {
        if (below(3) == 0)
            len = type == DATA ? 1 : 0;
        pad = 1 + (int)below(50);
        if (len + pad > RECORD_MAX + 1)
            pad = 1;
        plain[len] = (unsigned char)type;
        memset(plain + len + 1, 0, (size_t)pad - 1);
        sealed = len + pad > RECORD_MAX ? seal(s, type, plain, (size_t)len, record)
                                        : seal(s, 0, plain, (size_t)(len + pad), record);
    } else {
        sealed = seal(s, type, plain, (size_t)len, record);
    }
    put("comes %d:%d+%d", type, len, pad);
    switch (spoil) {
    case 1: record[sealed - 1] ^= 1; put("spoilt"); break;
    case 2: record[1 + below(2)] ^= 2; put("of no version"); break;
    case 3: record[3] = 0x41; put("too long"); break;
    case 4: record[3] = 0; record[4] = (unsigned char)below(20); put("too short"); break;
    default: break;
    }
    if (in_parts && below(5) == 0) {
        size_t part = 1 + below((unsigned)sealed - 1);
        put("in part: %zu", part);
        memcpy(held, record + part, sealed - part);
        *held_len = sealed - part;
        sealed = part;
    }
    write_all(fd, record, sealed);
    sleep_ms(5);
}

static const size_t rooms[] = {0, 1, 3, 5, 50, 100, 1000, 5000, 16384, 20000, 50000};

static void take(int fd)
{
    static const int flags[] = {0, 0, 0, 0, MSG_PEEK, MSG_PEEK, MSG_WAITALL, MSG_WAITALL | MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT,
                                MSG_OOB, MSG_CMSG_CLOEXEC, MSG_NOSIGNAL};
    static const size_t controls[] = {64, 64, 64, 24, 17, 16, 15, 0};
    static char bytes[3][65536];
    union { char bytes[64]; struct cmsghdr align; } control = {{0}};
    int flag = ONE_OF(flags);
    size_t n = 1 + below(3), controllen = ONE_OF(controls);
    struct iovec iov[3];
    put("recvmsg");
    for (size_t i = 0; i < n; i++) {
        iov[i] = (struct iovec){bytes[i], ONE_OF(rooms)};
        put("%zu", iov[i].iov_len);
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n, .msg_control = &control, .msg_controllen = controllen};
    put("%x control %zu =", flag, controllen);
    ssize_t got = recvmsg(fd, &msg, flag);
    put_result(got);
    if (got < 0)
        return;
    put("flags %x control %zu", msg.msg_flags, (size_t)msg.msg_controllen);
    if (msg.msg_controllen >= 16)
        put("%d/%d/%zu", control.align.cmsg_level, control.align.cmsg_type, (size_t)control.align.cmsg_len);
    if (msg.msg_controllen > 16)
        put("type %d", *CMSG_DATA(&control.align));
    for (size_t i = 0, left = (size_t)got; i < n && left; i++) {
        size_t here = left < iov[i].iov_len ? left : iov[i].iov_len;
        put_hash(bytes[i], here);
        left -= here;
    }
}

static void splice_out(int fd, int pipes[2])
{
    static char bytes[65536];
    size_t room = ONE_OF(rooms);
    if (room == 0)
        room = 7;
    put("splice %zu =", room);
    put_result(splice(fd, NULL, pipes[1], NULL, room, SPLICE_F_NONBLOCK));
    ssize_t n = read(pipes[0], bytes, sizeof bytes);
    if (n > 0)
        put_hash(bytes, (size_t)n);
}

static void put_events(int instance)
{
    struct epoll_event event = {0};
    put("epoll =");
    int n = epoll_wait(instance, &event, 1, 0);
    put_result(n);
    if (n > 0)
        put("%x", event.events);
}

static void walk_in(unsigned seed, unsigned steps)
{
    static unsigned char held[SEALED_MAX];
    size_t held_len = 0;
    int fd[2], pipes[2], version;
    struct keys keys = random_keys(&version);
    struct sealer s;
    unsigned end = below(6);
    /* epoll may tell of a record's first bytes (RX-48). */
    bool blocks = below(3) == 0, in_parts = below(2);
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP | (below(2) ? EPOLLET : 0)};
    rx_pair(fd, &keys);
    sealer_open(&s, &keys);
    nonblocking(fd[1], !blocks);
    set_timeout(fd[1], SO_RCVTIMEO, 20);
    no_delay(fd[0]);
    int copy = dup(fd[1]), instance = epoll_create1(0);
    epoll_ctl(instance, EPOLL_CTL_ADD, fd[1], &wanted);
    if (pipe2(pipes, O_NONBLOCK) != 0)
        return;
    for (unsigned step = 0; step < steps; step++) {
        line("WALK", "in %u.%02u", seed, step);
        int end_of = below(4) ? fd[1] : copy;
        if (step + 6 == steps && end != 0) {
            switch (end) {
            case 1: put("the end comes"); shutdown(fd[0], SHUT_WR); break;
            case 2: put("no more is read"); put_result(shutdown(fd[1], SHUT_RD)); break;
            case 3: put("a reset comes"); reset(fd[0]); break;
            default:
                /* RX-4: behind a bad header the kernel lets a call that waits wait. */
                nonblocking(fd[1], true);
                come(&s, fd[0], version, 1 + (int)below(4), in_parts, held, &held_len);
            }
            sleep_ms(5);
            continue;
        }
        bool may_come = step + 6 < steps || end == 0 || end > 3;
        switch (below(17)) {
        case 14: case 15: case 16:
            if (!in_parts)
                put_events(instance);
            break;
        case 0: case 1: case 2: case 3: case 4:
            if (may_come)
                come(&s, fd[0], version, 0, in_parts, held, &held_len);
            break;
        case 5: case 6: case 7: case 8: case 9: take(end_of); break;
        case 10: splice_out(end_of, pipes); break;
        case 11: put_option(end_of, RX, version); break;
        case 12: put("ready"); put_ready(end_of, 0); break;
        default: put_so_error(end_of);
        }
    }
    line("WALK", "in %u.end", seed);
    nonblocking(fd[1], true);
    put_ready(fd[1], 0);
    for (int i = 0; i < 40 && put_receive(fd[1], 70000, 0) > 0; i++)
        ;
    put_so_error(fd[1]);
    line_end();
}

/* --- keys ------------------------------------------------------------------------------------- */

static void walk_keys(unsigned seed, unsigned steps)
{
    static const int versions[] = {TLS12, TLS12, TLS12, TLS13, TLS13, TLS13, 0x0302, 0x0305, 0},
                     ciphers[] = {AES128_GCM, AES128_GCM, AES128_GCM, AES256_GCM, AES128_CCM, CHACHA20, 0, 50, 59, 0xffff},
                     wrong[] = {-40, -1, 1, 8, 100}, sizes[] = {0, 1, 3, 4, 5, 40, 56, 64};
    int fd[2], usual = below(2) ? TLS12 : TLS13, usual_cipher = ciphers[below(6)];
    tcp_pair(fd);
    no_delay(fd[1]);
    if (below(5))
        attach(fd[0]);
    for (unsigned step = 0; step < steps; step++) {
        int direction = below(2) ? TX : RX;
        line("WALK", "keys %u.%02u", seed, step);
        switch (below(9)) {
        case 0:
            put("attach =");
            put_result(attach(fd[0]));
            break;
        case 1: case 2: case 3: {
            struct keys keys;
            unsigned char info[256] = {0};
            int version = below(3) ? usual : ONE_OF(versions), cipher = below(3) ? usual_cipher : ONE_OF(ciphers);
            keys = keys_of(version, cipher, below(10), 0);
            memcpy(info, keys.info, sizeof keys.info);
            int len = (int)keys.len + (below(3) ? 0 : ONE_OF(wrong));
            /* New keys are for newer kernels: once there are some of 1.3, none are tried again. */
            uint16_t there[2] = {0};
            socklen_t four = 4;
            if (getsockopt(fd[0], SOL_TLS, direction, there, &four) == 0 && there[0] == TLS13)
                break;
            put("keys %d %x/%d of %d =", direction, version, cipher, len);
            put_result(setsockopt(fd[0], SOL_TLS, direction, info, (socklen_t)(len < 0 ? 0 : len)));
            break;
        }
        case 4: case 5: {
            unsigned char info[64] = {0};
            socklen_t len = (socklen_t)ONE_OF(sizes);
            put("getsockopt %d %u =", direction, len);
            put_result(getsockopt(fd[0], SOL_TLS, direction, info, &len));
            put("%u", len);
            put_hash(info, sizeof info);
            break;
        }
        case 6: {
            int option = 3 + (int)below(2), value = (int)below(3), got = 7;
            socklen_t len = below(4) ? 4 : (socklen_t)below(9);
            put("option %d of %d, %u =", option, value, len);
            put_result(setsockopt(fd[0], SOL_TLS, option, &value, below(4) ? 4 : below(9)));
            put_result(getsockopt(fd[0], SOL_TLS, option, &got, &len));
            put("%d %u", got, len);
            break;
        }
        case 7: {
            char name[32] = "";
            socklen_t len = (socklen_t)below(20);
            put("name of %u =", len);
            put_result(getsockopt(fd[0], IPPROTO_TCP, TCP_ULP, name, &len));
            put("%u %s", len, name);
            break;
        }
        default:
            put("send =");
            put_result(send(fd[0], pattern(0, 50), 50, 0));
            put_ready(fd[0], 0);
        }
    }
    line("WALK", "keys %u.end", seed);
    put_wire(fd[1]);
}

void walk(unsigned first, unsigned count)
{
    enum { STEPS = 24 };
    for (unsigned seed = first; seed < first + count; seed++)
        for (int kind = 0; kind < 3; kind++) {
            if (!apart())
                continue;
            catch_signals();
            signal(SIGALRM, SIG_DFL);
            alarm(20);
            state = (seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)kind;
            for (int i = 0; i < 8; i++)
                below(2);
            if (kind == 0)
                walk_out(seed, STEPS);
            else if (kind == 1)
                walk_in(seed, STEPS);
            else
                walk_keys(seed, STEPS);
            apart_end();
        }
}
