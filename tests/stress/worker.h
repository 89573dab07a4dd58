/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the worker. */
#ifndef UKTLS_STRESS_WORKER_H
#define UKTLS_STRESS_WORKER_H

#include "stress.h"

struct actor {
    struct beat *beat;
    uint64_t random;
    int depth; /* of forks */
    int file, pipe[2];
    unsigned char buffer[70000];
};

struct connection {
    int fd;
    struct slot *slot;
    bool waits; /* O_NONBLOCK is not set */
    bool is_lent; /* the parent process sees to the slot */
};

extern struct shared *sh;
extern const char *own_path;

uint64_t draw(struct actor *actor, uint64_t below);
void at_step(struct actor *actor, const char *step);
/* Says so, and that this is a fault. Goes on. */
__attribute__((format(printf, 2, 3))) void fault(const struct slot *slot, const char *format, ...);

/* --- calls.c: one connection --- */

/* False: nothing was to be had. */
bool open_connection(struct actor *actor, struct connection *connection);
void send_some(struct actor *actor, struct connection *connection, size_t len);
void receive_some(struct actor *actor, struct connection *connection, uint64_t len);
void update_keys(struct actor *actor, struct connection *connection);
/* Closes the number, in one of the ways. */
void close_connection(struct actor *actor, struct connection *connection);
/* Only the number: others have the connection. */
void let_go(struct connection *connection);

/* --- children.c --- */

/* The process forks, or starts a program, and the child ends in one of the ways. May close the connection. */
void have_a_child(struct actor *actor, struct connection *connection);
/* A program that was started with a number of a TLS socket. */
int be_a_program(int fd);

/* --- worker.c --- */

/* Connections, one after the other. */
void work(struct actor *actor, int count);
/* A file and a pipe, which an actor has alone. */
void equip(struct actor *actor);

#endif
