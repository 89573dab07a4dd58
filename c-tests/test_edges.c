/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Programs on edge-triggered epoll that take a short count or EAGAIN for "drained", as epoll(7) allows and tokio does: none
 * may wait for ever. preload/test_edges.c is the same for the preload library. */
#include "sealer.h"

#include <sys/epoll.h>
#include <sys/mman.h>

#ifndef EDGE_SPLICE
#define EDGE_SPLICE tls_splice
#define EDGE_RUN(tests) RUN_ENGINES("edges", tests)
#endif

static int edge_watch(int fd, uint32_t events)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = events | EPOLLET, .data.fd = fd};
    assert_true(epoll >= 0);
    assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    return epoll;
}

static int edges_now(int epoll)
{
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, 0);
}

/* RX-53: what stands behind a short count is told by one edge, whatever it is. */
static void test_rx53_behind_a_short_count(void **state)
{
    (void)state;
    static const struct {
        const char *first, *next, *results;
        bool spoil, splices, late;
    } cases[] = {
        {"23:4", "22:4", "22:4", false, false, false}, {"22:4", "23:4", "23:4", false, false, false},
        {"21:2", "22:4", "22:4", false, false, false}, {"23:4", "23:4", "EBADMSG", true, false, false},
        {"23:4", "23:4", "23:4", false, true, false},  {"23:4", "23:4", "23:8", false, false, true},
    };
    for (int tls13 = 0; tls13 < 2; tls13++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            int fd[2], pipes[2];
            unsigned char wire[200];
            struct sealer s;
            struct keys keys = tls13 ? tls13_keys() : tls12_keys();
            tcp_pair(fd);
            assert_ok(pipe(pipes));
            sealer_init(&s, fd[0], fd[1], &keys);
            if (!cases[i].late)
                assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
            set_nonblocking(fd[1], true);
            int epoll = edge_watch(fd[1], EPOLLIN);
            size_t len = seal_layout(&s, wire, cases[i].first);
            s.spoil = cases[i].spoil;
            len += seal_layout(&s, wire + len, cases[i].next);
            send_wire(&s, wire, len);
            assert_int_equal(edges_now(epoll), 1);
            assert_int_equal(edges_now(epoll), 0);
            if (cases[i].late)
                assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
            else if (cases[i].splices) {
                assert_returns(EDGE_SPLICE(fd[1], NULL, pipes[1], NULL, 100, SPLICE_F_NONBLOCK), 4);
                s.reader += 4;
            } else
                expect_calls(&s, 100, 0, cases[i].first);
            assert_int_equal(edges_now(epoll), 1);
            expect_calls(&s, 100, 0, cases[i].results);
            assert_int_equal(edges_now(epoll), 0);
            close(epoll);
            close(pipes[0]);
            close(pipes[1]);
            close_tls(fd);
        }
}

struct edge_writer {
    int fd;
    size_t total;
};

static void *edge_writer_main(void *argument)
{
    struct edge_writer *w = argument;
    for (size_t at = 0; at < w->total; at += RECORD_MAX)
        if (tls_send(w->fd, pattern(at, RECORD_MAX), RECORD_MAX, 0) != RECORD_MAX)
            abort();
    return NULL;
}

/* RX-6: the peer fills the receive buffer whenever nobody reads, so that windows shut over the beginnings of records. Read in
 * large pieces, and in small ones, which leaves parts of records behind. */
static void test_rx6_windows_that_shut(void **state)
{
    (void)state;
    enum { TOTAL = 48 * RECORD_MAX };
    static const int rooms[] = {0, 4096, 20000, 32768};
    static const size_t pieces[] = {1 << 20, 30000, 16384};
    static unsigned char data[1 << 20];
    for (size_t room = 0; room < 4; room++)
        for (size_t piece = 0; piece < 3; piece++)
            for (int splices = 0; splices < 2; splices++) {
                struct keys keys = piece == 1 ? tls12_keys() : tls13_keys();
                int fd[2], pipes[2];
                pthread_t thread;
                tcp_pair_sized(fd, 0, rooms[room]);
                assert_ok(pipe(pipes));
                assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
                assert_ok(tls_rx_init(fd[1], keys.info, keys.len));
                set_nonblocking(fd[1], true);
                int epoll = edge_watch(fd[1], EPOLLIN);
                struct edge_writer w = {fd[0], TOTAL};
                assert_int_equal(pthread_create(&thread, NULL, edge_writer_main, &w), 0);
                for (size_t got = 0; got < TOTAL;) {
                    struct epoll_event event;
                    if (epoll_wait(epoll, &event, 1, DEADLINE_MS) != 1)
                        fail_msg("room %d, pieces of %zu: no edge behind byte %zu", rooms[room], pieces[piece], got);
                    for (ssize_t n = (ssize_t)pieces[piece]; n == (ssize_t)pieces[piece];) {
                        /* So that the buffer most likely fills; nothing rests on it. */
                        usleep(500);
                        n = splices ? EDGE_SPLICE(fd[1], NULL, pipes[1], NULL, pieces[piece], SPLICE_F_NONBLOCK)
                                    : tls_recv(fd[1], data, pieces[piece], 0);
                        if (n < 0) {
                            assert_int_equal(errno, EAGAIN);
                            break;
                        }
                        if (splices)
                            assert_returns(read(pipes[0], data, sizeof data), n);
                        assert_memory_equal(data, pattern(got, (size_t)n), (size_t)n);
                        got += (size_t)n;
                    }
                }
                assert_int_equal(pthread_join(thread, NULL), 0);
                close(epoll);
                close(pipes[0]);
                close(pipes[1]);
                close_tls(fd);
            }
}

/* One end of a connection as tokio's AsyncFd has it: ready until a call comes short or says EAGAIN, and then not before
 * the next edge. */
struct edge_end {
    int fd;
    bool readable, writable;
    size_t sent, got;
};

static bool edge_turn(struct edge_end *end, size_t total, size_t piece)
{
    static unsigned char data[1 << 20];
    bool moved = false;
    if (end->writable && end->sent < total) {
        size_t len = total - end->sent < piece ? total - end->sent : piece;
        ssize_t n = tls_send(end->fd, pattern(end->sent, len), len, MSG_NOSIGNAL);
        if (n < 0)
            assert_int_equal(errno, EAGAIN);
        else
            end->sent += (size_t)n;
        end->writable = n == (ssize_t)len;
        moved = true;
    }
    if (end->readable && end->got < total) {
        ssize_t n = tls_recv(end->fd, data, piece, 0);
        if (n < 0)
            assert_int_equal(errno, EAGAIN);
        else {
            assert_true(n > 0);
            assert_memory_equal(data, pattern(end->got, (size_t)n), (size_t)n);
            end->got += (size_t)n;
        }
        end->readable = n == (ssize_t)piece;
        moved = true;
    }
    return moved;
}

/* Both ends send and receive at once, all buffers full; TX-51, RX-6, RX-53. */
static void test_rx53_full_duplex(void **state)
{
    (void)state;
    enum { TOTAL = 3 << 20 };
    static const int rooms[] = {0, 4096, 30000};
    static const size_t pieces[] = {1000, 16384, 100000, 1 << 20};
    for (size_t room = 0; room < 3; room++)
        for (size_t piece = 0; piece < 4; piece++) {
            struct keys keys = piece % 2 ? tls12_keys() : tls13_keys();
            int fd[2], epoll = epoll_create1(EPOLL_CLOEXEC);
            struct edge_end ends[2] = {0};
            size_t total = pieces[piece] == 1000 ? TOTAL / 10 : TOTAL;
            tcp_pair_sized(fd, rooms[room], rooms[room]);
            for (int i = 0; i < 2; i++) {
                struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = (uint32_t)i};
                assert_ok(tls_tx_init(fd[i], keys.info, keys.len));
                assert_ok(tls_rx_init(fd[i], keys.info, keys.len));
                set_nonblocking(fd[i], true);
                assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd[i], &event));
                ends[i].fd = fd[i];
            }
            while (ends[0].got < total || ends[1].got < total) {
                struct epoll_event events[2];
                bool moved = edge_turn(&ends[0], total, pieces[piece]) | edge_turn(&ends[1], total, pieces[piece]);
                int n = epoll_wait(epoll, events, 2, moved ? 0 : DEADLINE_MS);
                if (!moved && n == 0)
                    fail_msg("room %d, pieces of %zu: no edge; %zu and %zu sent, %zu and %zu received", rooms[room],
                             pieces[piece], ends[0].sent, ends[1].sent, ends[0].got, ends[1].got);
                for (int i = 0; i < n; i++) {
                    struct edge_end *end = &ends[events[i].data.u32];
                    end->readable |= (events[i].events & EPOLLIN) != 0;
                    end->writable |= (events[i].events & EPOLLOUT) != 0;
                }
            }
            close(epoll);
            close_tls(fd);
        }
}

/* A sender that sleeps, in another thread or process, and one that does not wait. */
struct edge_rivals {
    _Atomic int round, done, reading, stop;
};

struct edge_sleeper {
    struct edge_rivals *rivals;
    int fd;
};

static void *edge_sleeper_main(void *argument)
{
    struct edge_sleeper *w = argument;
    for (int round = 1; !w->rivals->stop; usleep(50)) {
        if (w->rivals->round != round)
            continue;
        for (size_t at = 0; at < 200000;) {
            ssize_t n = tls_send(w->fd, pattern(at, 200000 - at), 200000 - at, 0);
            if (n <= 0)
                abort();
            at += (size_t)n;
        }
        w->rivals->done = round++;
    }
    return NULL;
}

static void *edge_reader_main(void *argument)
{
    struct edge_sleeper *w = argument;
    static unsigned char data[1 << 20];
    while (!w->rivals->stop)
        if (!w->rivals->reading || recv(w->fd, data, sizeof data, MSG_DONTWAIT) <= 0)
            usleep(20);
    return NULL;
}

/* TX-51: EAGAIN behind a sender that sleeps is the kernel's own: if room has come meanwhile, its edge may be spent,
 * and the sender may be done without being refused again. */
static void test_tx51_behind_a_sleeper(void **state)
{
    (void)state;
    for (int forks = 0; forks < 2; forks++) {
        int fd[2];
        pid_t child = 0;
        pthread_t sleeper, reader;
        struct keys keys = tls13_keys();
        struct edge_rivals *rivals =
            mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(rivals != MAP_FAILED);
        tcp_pair_sized(fd, 32768, 32768);
        assert_ok(tls_tx_init(fd[0], keys.info, keys.len));
        struct edge_sleeper at_one = {rivals, fd[0]}, at_other = {rivals, fd[1]};
        fflush(NULL);
        if (forks && (child = fork()) == 0) {
            alarm(under_valgrind() ? 200 : 60);
            edge_sleeper_main(&at_one);
            execl("/bin/true", "true", (char *)NULL);
        }
        if (!forks)
            assert_int_equal(pthread_create(&sleeper, NULL, edge_sleeper_main, &at_one), 0);
        assert_int_equal(pthread_create(&reader, NULL, edge_reader_main, &at_other), 0);
        int epoll = edge_watch(fd[0], EPOLLOUT), rounds = under_valgrind() ? 5 : 60;
        for (int round = 1; round <= rounds; round++) {
            rivals->reading = 0;
            while (edges_now(epoll) > 0)
                ;
            rivals->round = round;
            /* So that the other most likely sleeps; nothing rests on it. */
            usleep(3000);
            while (tls_send(fd[0], "b", 1, MSG_DONTWAIT) != 1) {
                struct epoll_event event;
                assert_int_equal(errno, EAGAIN);
                rivals->reading = 1;
                assert_returns(epoll_wait(epoll, &event, 1, DEADLINE_MS), 1);
            }
            rivals->reading = 1;
            for (int i = 0; rivals->done != round; i++, usleep(50))
                assert_true(i < DEADLINE_MS * 20);
        }
        rivals->stop = 1;
        if (forks)
            assert_int_equal(wait_child(child), 0);
        else
            assert_int_equal(pthread_join(sleeper, NULL), 0);
        assert_int_equal(pthread_join(reader, NULL), 0);
        assert_ok(munmap(rivals, 4096));
        close(epoll);
        close_both(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rx53_behind_a_short_count),
        cmocka_unit_test(test_rx6_windows_that_shut),
        cmocka_unit_test(test_rx53_full_duplex),
        cmocka_unit_test(test_tx51_behind_a_sleeper),
    };
    return EDGE_RUN(tests);
}
