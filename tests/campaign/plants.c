/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Leaks that are planted, to see that they are found. */
#include "driver.h"

#include <string.h>
#include <sys/prctl.h>

static unsigned must_find(int plant)
{
    switch (plant) {
    case PLAIN_MESSAGE:
    case DRESSED: return 1u << PLAIN;
    case PLAIN_BYTE:
    case TRUNCATED: return 1u << UNOPENED | 1u << PLAIN;
    case OLD_NUMBER:
    case REPEAT:
    case NEXT_NUMBER: return 1u << REUSE;
    case AHEAD: return 1u << SKIPPED;
    case WRONG_KEY:
    case SPOILED_TAG: return 1u << UNOPENED;
    case SWALLOWED: return 1u << LOST;
    case DOUBLED: return 1u << DOUBLE;
    case ALTERED: return 1u << CONTENT;
    case WRONG_TYPE: return 1u << TYPE;
    case SENT_AND_REFUSED: return 1u << GHOST;
    default: return 1u << ORDER;
    }
}

static int find_function(const char *name)
{
    for (int f = 0; f < function_count; f++)
        if (!strcmp(functions[f].name, name))
            return f;
    fail("no function %s", name);
}

/* A cell that fails by itself proves nothing: another one is taken. */
int run_plants(void)
{
    static const char *const writers[] = {"write",  "send",     "sendto", "sendmsg",
                                          "writev", "sendfile", "splice", "dprintf"};
    static const int hows[] = {CONNECTED, ACCEPTED, DUP, DUP2_FREE, F_DUP};
    static struct lane lane;
    int missed = 0, order[PLANT_COUNT];

    open_lane(&lane);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int i = 1; i < PLANT_COUNT; i++)
        order[i] = i;
    for (int i = PLANT_COUNT - 1; i > 1; i--) {
        int other = 1 + (int)(mix(options.seed ^ (uint64_t)i * 977) % (uint64_t)i), it = order[i];

        order[i] = order[other];
        order[other] = it;
    }
    puts("\nplanted leaks:");
    for (int i = 0; i < options.plants; i++) {
        int plant = order[1 + i % (PLANT_COUNT - 1)], tries = 0;
        struct result clean, leaky;
        struct cell c;
        char name[128];
        uint64_t x;
        int suite, writer;
        unsigned counter;

        do {
            x = mix(options.seed ^ mix(((uint64_t)i << 8 | (uint64_t)tries) + 0x5eed));
            c = (struct cell){find_function(writers[x % 8]), hows[(x >> 8) % 5], BEFORE, (int)(x >> 16 & 1),
                              (int)((x >> 20) % 3)};
            suite = (int)((x >> 24) % (uint64_t)suite_count);
            writer = (c.forks == CHILD ? 4 : 0) + (c.threads ? (int)(x >> 32 & 3) : 0);
            counter = 5 + (unsigned)((x >> 36) % (c.threads ? 18 : 90));
            run_cell(&lane, &c, x, suite, NO_PLANT, 0, 0, &clean);
        } while (clean.faults && ++tries < 5);
        name_cell(&c, name);
        if (clean.faults) {
            printf("MISSED %s: no cell without a fault of its own\n", plant_names[plant]);
            missed++;
            continue;
        }
        run_cell(&lane, &c, x, suite, plant, writer, counter, &leaky);
        bool good = leaky.faults & must_find(plant) && !(leaky.faults & 1u << OTHER);
        printf("%s %s at message %u of %s (%s): %s\n", good ? "found " : "MISSED", plant_names[plant], counter, name,
               suites[suite].name, leaky.faults ? leaky.detail : "nothing");
        missed += !good;
    }
    printf("%d of %d planted leaks found\n", options.plants - missed, options.plants);
    return missed;
}
