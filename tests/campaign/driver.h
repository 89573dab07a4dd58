/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The parts of the driver: wire.c reads connections, driver.c runs cells, report.c judges, plants.c plants leaks. */
#ifndef UKTLS_CAMPAIGN_DRIVER_H
#define UKTLS_CAMPAIGN_DRIVER_H

#include "campaign.h"

enum fault {
    PLAIN, REUSE, UNOPENED, SKIPPED, LOST, DOUBLE, GHOST, ORDER, CONTENT, TYPE, HANG, CRASH, OTHER, UNLISTED,
    FAULT_COUNT
};

/* Of a cell. */
struct result {
    bool done;
    unsigned records, taken, refused, faults, fault_counts[FAULT_COUNT];
    int keys_errno, number_errno, write_errno, suite;
    float seconds;
    char detail[120];
};

struct options {
    int jobs, limit, sample, plants, verbose, least;
    uint64_t seed;
    const char *preload, *library, *plugin, *refusals, *table, *only;
};
extern struct options options;

extern struct cell *cells;
extern int cell_count;
extern struct result *results;

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
__attribute__((format(printf, 3, 4))) void found(struct result *r, enum fault fault, const char *format, ...);
void name_cell(const struct cell *c, char out[128]);
double seconds(void);
void *zeroed(size_t n, size_t size);

/* --- wire.c --------------------------------------------------------------------------------------- */

enum { NUMBERS_MAX = 1 << 14, WINDOW = 1024, BUFFER = 1 << 17 };

struct connection {
    int fd, index; /* index -1: its greeting has not come */
    bool control, plainly, broken, ended;
    struct keys keys;
    uint64_t next;
    unsigned char *wire, *plain, *types;
    size_t wire_len, plain_len;
    uint32_t *seen;      /* by number: a digest of the record, 0 if there was none */
    uint32_t *nonces;    /* by explicit nonce less the first one */
    int last[WRITERS_MAX];
};

struct lane {
    int listener, port, shared_fd;
    struct shared *shared;
    struct connection connections[2 * CONNECTIONS_MAX];
    int count;
    unsigned char delivered[WRITERS_MAX][MESSAGES_MAX];
};

/* `index` -1: the greeting says which connection of the worker it is. */
void add_connection(struct lane *lane, int fd, int index);
void read_connection(struct lane *lane, struct connection *c, struct result *r);
void drop_connection(struct connection *c);
/* What was taken and what was refused, against what has come. */
void account(struct lane *lane, struct result *r);

/* --- driver.c ------------------------------------------------------------------------------------- */

void open_lane(struct lane *lane);
/* `plant` at message `counter` of `writer`. */
void run_cell(struct lane *lane, const struct cell *cell, uint64_t seed, int suite, int plant, int writer,
              unsigned counter, struct result *r);

/* --- report.c ------------------------------------------------------------------------------------- */

void read_refusals(void);
/* By five patterns: "a*" is what begins with a, "a,b" is a or b. */
bool matches_cell(const char field[5][128], const struct cell *c);
/* Prints what came of all cells; returns how many fail. */
int judge(void);

/* --- plants.c ------------------------------------------------------------------------------------- */

/* Returns how many leaks are not found. */
int run_plants(void);

#endif
