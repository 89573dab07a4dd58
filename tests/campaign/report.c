/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The refusals that are expected, and what came of all cells. */
#include "driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const fault_names[FAULT_COUNT] = {
    "plaintext", "number-twice", "does-not-open", "number-skipped", "bytes-lost", "bytes-twice", "refused-and-sent",
    "order", "content", "type", "hang", "crash", "other", "refused-or-too-few",
};

struct refusal {
    char field[5][128], how_much[8], reason[160];
    int line;
    bool all;
    unsigned used;
};
static struct refusal *refusals;
static int refusal_count;

void read_refusals(void)
{
    FILE *file = fopen(options.refusals, "r");
    char line[1024];

    if (file == NULL)
        fail("%s: %s", options.refusals, strerror(errno));
    for (int number = 1; fgets(line, sizeof line, file); number++) {
        struct refusal it = {.line = number};

        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || line[strspn(line, " ")] == 0)
            continue;
        if (sscanf(line, "%127s %127s %127s %127s %127s %7s : %159[^\n]", it.field[0], it.field[1], it.field[2],
                   it.field[3], it.field[4], it.how_much, it.reason) != 7 ||
            (strcmp(it.how_much, "all") != 0 && strcmp(it.how_much, "some") != 0))
            fail("%s:%d: not FUNCTION HOW WHEN THREADS FORKS all|some : REASON", options.refusals, number);
        it.all = !strcmp(it.how_much, "all");
        refusals = realloc(refusals, (size_t)(refusal_count + 1) * sizeof *refusals);
        if (refusals == NULL)
            fail("no memory");
        refusals[refusal_count++] = it;
    }
    fclose(file);
}

/* "a*" is what begins with a; alternatives are set apart by commas. */
static bool matches(const char *pattern, const char *name)
{
    while (*pattern) {
        size_t len = strcspn(pattern, ",");

        if (len > 0 && pattern[len - 1] == '*' ? !strncmp(pattern, name, len - 1)
                                               : strlen(name) == len && !strncmp(pattern, name, len))
            return true;
        pattern += len + (pattern[len] == ',');
    }
    return false;
}

bool matches_cell(const char field[5][128], const struct cell *c)
{
    char threads[8];

    snprintf(threads, sizeof threads, "%d", thread_counts[c->threads]);
    return matches(field[0], functions[c->function].name) && matches(field[1], how_names[c->how]) &&
           matches(field[2], when_names[c->when]) && matches(field[3], threads) &&
           matches(field[4], forks_names[c->forks]);
}

/* Enough records have to come where only some calls are refused. */
static struct refusal *expected_refusal(const struct cell *c, bool enough)
{
    for (int i = 0; i < refusal_count; i++)
        if (matches_cell(refusals[i].field, c) && (enough || refusals[i].all))
            return &refusals[i];
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? -1 : x > y;
}

struct row {
    unsigned cells, refused, partly, failed, *records;
    unsigned long long total;
};

static void add_to_row(struct row *row, const struct result *r, bool refused)
{
    row->cells++;
    row->total += r->records;
    row->refused += refused;
    row->partly += !refused && r->refused > 0;
    row->failed += r->faults != 0;
    if (!refused)
        row->records[row->cells - row->refused - 1] = r->records;
}

static void print_row(const char *name, struct row *row)
{
    unsigned n = row->cells - row->refused;

    qsort(row->records, n, sizeof *row->records, by_value);
    printf("%-24s %7u %9u %9u %11llu %9u %9u %7u\n", name, row->cells, n ? row->records[0] : 0,
           n ? row->records[n / 2] : 0, row->total, row->refused, row->partly, row->failed);
}

static void print_dimension(const char *title, int count, const char *(*name)(int), int (*value)(const struct cell *),
                            const bool *refused)
{
    printf("\n%-24s %7s %9s %9s %11s %9s %9s %7s\n", title, "cells", "least", "median", "records", "refused", "partly",
           "failed");
    for (int v = 0; v < count; v++) {
        struct row row = {.records = zeroed((size_t)cell_count + 1, sizeof(unsigned))};

        for (int i = 0; i < cell_count; i++)
            if (value(&cells[i]) == v)
                add_to_row(&row, &results[i], refused[i]);
        if (row.cells)
            print_row(name(v), &row);
        free(row.records);
    }
}

static const char *function_name(int i) { return functions[i].name; }
static const char *how_name(int i) { return how_names[i]; }
static const char *when_name(int i) { return when_names[i]; }
static const char *threads_name(int i) { return i ? "4 threads" : "1 thread"; }
static const char *forks_name(int i) { return forks_names[i]; }
static int function_of(const struct cell *c) { return c->function; }
static int how_of(const struct cell *c) { return c->how; }
static int when_of(const struct cell *c) { return c->when; }
static int threads_of(const struct cell *c) { return c->threads; }
static int forks_of(const struct cell *c) { return c->forks; }
static const char *all_name(int i) { return i ? "" : "all"; }
static int all_of(const struct cell *c) { return c->function < 0; }

static const char *error_name(int error)
{
    return error ? strerrorname_np(error) ? strerrorname_np(error) : "?" : "-";
}

static void write_table(const bool *refused)
{
    FILE *file = fopen(options.table, "w");

    if (file == NULL)
        fail("%s: %s", options.table, strerror(errno));
    fputs("function\thow\twhen\tthreads\tforks\tcipher\trecords\ttaken\trefused\tkeys\tnumber\twrite\tseconds\t"
          "verdict\tdetail\n",
          file);
    for (int i = 0; i < cell_count; i++) {
        const struct cell *c = &cells[i];
        const struct result *r = &results[i];

        fprintf(file, "%s\t%s\t%s\t%d\t%s\t%s\t%u\t%u\t%u\t%s\t%s\t%s\t%.3f\t", functions[c->function].name,
                how_names[c->how], when_names[c->when], thread_counts[c->threads], forks_names[c->forks],
                suites[r->suite].name, r->records, r->taken, r->refused, error_name(r->keys_errno),
                error_name(r->number_errno), error_name(r->write_errno), (double)r->seconds);
        if (r->faults == 0)
            fputs(refused[i] ? "refused" : "ok", file);
        for (int f = 0; f < FAULT_COUNT; f++)
            if (r->faults >> f & 1)
                fprintf(file, "%s%s", fault_names[f], r->faults >> f > 1 ? "," : "");
        fprintf(file, "\t%s\n", r->detail);
    }
    if (fclose(file) != 0)
        fail("%s: %s", options.table, strerror(errno));
}

int judge(void)
{
    bool *refused = zeroed((size_t)cell_count + 1, sizeof *refused);
    int failed = 0, stale = 0, shown = 0;
    unsigned fault_cells[FAULT_COUNT] = {0};
    unsigned long long records = 0, by_suite[64] = {0};

    for (int i = 0; i < cell_count; i++) {
        struct result *r = &results[i];
        struct refusal *listed;

        if (!r->done)
            fail("a cell was not run");
        records += r->records;
        by_suite[r->suite] += r->records;
        bool enough = r->records >= (unsigned)options.least;
        if (r->faults == 0 && (!enough || r->refused > 0)) {
            listed = expected_refusal(&cells[i], enough);
            /* A listed cell refuses; that it sends too little for another reason is no refusal. */
            if (listed != NULL && (r->refused > 0 || functions[cells[i].function].flags & FREE_FORM)) {
                listed->used++;
                refused[i] = !enough;
            } else {
                found(r, UNLISTED, "%u records; %u messages taken, %u refused (keys %s, number %s, write %s)", r->records,
                      r->taken, r->refused, error_name(r->keys_errno), error_name(r->number_errno),
                      error_name(r->write_errno));
            }
        }
        failed += r->faults != 0;
        for (int f = 0; f < FAULT_COUNT; f++)
            fault_cells[f] += r->faults >> f & 1;
    }
    print_dimension("function", function_count, function_name, function_of, refused);
    print_dimension("number", HOW_COUNT, how_name, how_of, refused);
    print_dimension("keys", WHEN_COUNT, when_name, when_of, refused);
    print_dimension("threads", THREADS_COUNT, threads_name, threads_of, refused);
    print_dimension("fork", FORKS_COUNT, forks_name, forks_of, refused);
    print_dimension("", 2, all_name, all_of, refused);
    printf("\nrecords by cipher:");
    for (int s = 0; s < suite_count; s++)
        printf("%s %s %llu", s ? "," : "", suites[s].name, by_suite[s]);
    puts("");
    if (refusal_count)
        puts("\nrefused as expected:");
    for (int i = 0; i < refusal_count; i++) {
        struct refusal *it = &refusals[i];

        printf("%8u  %s %s %s %s %s, %s: %s\n", it->used, it->field[0], it->field[1], it->field[2], it->field[3],
               it->field[4], it->how_much, it->reason);
        if (it->used == 0 && !options.sample && !options.only) {
            printf("          no cell needs line %d of %s any more\n", it->line, options.refusals);
            stale++;
        }
    }
    if (failed)
        puts("\nfailed cells by fault:");
    for (int f = 0; f < FAULT_COUNT; f++)
        if (fault_cells[f])
            printf("%8u  %s\n", fault_cells[f], fault_names[f]);
    for (int i = 0; i < cell_count && shown < 40; i++)
        if (results[i].faults) {
            char name[128];

            name_cell(&cells[i], name);
            printf("FAILED %s (%s): %s\n", name, suites[results[i].suite].name, results[i].detail);
            shown++;
        }
    if (failed > shown)
        printf("... and %d more%s%s\n", failed - shown, options.table ? ", all in " : "",
               options.table ? options.table : "");
    if (options.table)
        write_table(refused);
    printf("\n%d cells, %llu records, %d failed\n", cell_count, records, failed);
    free(refused);
    return failed + stale;
}
