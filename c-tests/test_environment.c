/* SPDX-License-Identifier: MIT OR Apache-2.0
 * The environment variables, as a process of its own meets them: good values count, bad ones are
 * named once and change nothing, files that cannot be written lose no byte of the connection. */
#include "harness.h"

#include <time.h>

#define ROWS(table) (sizeof(table) / sizeof(table)[0])

/* What the child found in force. */
struct found {
    int engine, aead;
};

/* Runs this program as a sender with these variables; returns its standard error, and checks that
 * it ended well and that all its bytes arrived. */
static const char *run_child(const char *const variables[][2], struct found *found)
{
    static char text[4096];
    int fd[2], errors[2], results[2];
    struct receiver r;
    struct keys keys = tls13_keys();
    size_t len = 0;
    ssize_t n;
    tcp_pair(fd);
    receiver_init(&r, fd[1], &keys);
    assert_ok(pipe(errors));
    assert_ok(pipe(results));
    pid_t child = fork();
    if (child == 0) {
        unsetenv("UKTLS_ENGINE");
        for (; (*variables)[0]; variables++)
            setenv((*variables)[0], (*variables)[1], 1);
        dup2(errors[1], 2);
        become_child("environment", fd[0], results[1]);
    }
    close(fd[0]);
    close(errors[1]);
    close(results[1]);
    while ((n = read(errors[0], text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = 0;
    int status = wait_child(child);
    if (status)
        fail_msg("the child ended with %#x: %s", status, text);
    assert_returns(read(results[0], found, sizeof *found), sizeof *found);
    expect_bytes(&r, 40000);
    expect_end(&r);
    close(fd[1]);
    close(errors[0]);
    close(results[0]);
    return text;
}

static int child_main(void)
{
    struct keys keys = tls13_keys();
    struct uktls_info info = {.size = sizeof info};
    struct found found;
    if (tls_tx_init(3, keys.info, keys.len) != 0 || uktls_get_info(3, &info) != 0 ||
        tls_send(3, pattern(0, 40000), 40000, 0) != 40000)
        return 10;
    found.engine = info.engine;
    found.aead = info.aead;
    if (write(4, &found, sizeof found) != sizeof found)
        return 11;
    return 0;
}

/* A child whose peer reads nothing: fills the socket, tells how much it took, and ends. */
static int stuck_child(void)
{
    struct keys keys = tls13_keys();
    uint64_t accepted = 0;
    ssize_t n;
    if (tls_tx_init(3, keys.info, keys.len) != 0)
        return 10;
    while ((n = tls_send(3, pattern(0, 10000), 10000, MSG_DONTWAIT)) > 0)
        accepted += (uint64_t)n;
    return write(4, &accepted, sizeof accepted) == sizeof accepted ? 0 : 11;
}

/* Returns what a stuck child accepted, and how long its exit took. */
static uint64_t run_stuck_child(const char *queue, const char *linger_ms, int64_t *exit_ms)
{
    int fd[2], results[2];
    uint64_t accepted = 0;
    struct timespec began, ended;
    small_tcp_pair(fd);
    assert_ok(pipe(results));
    pid_t child = fork();
    if (child == 0) {
        setenv("UKTLS_ENGINE", "threads", 1);
        setenv("UKTLS_TX_QUEUE", queue, 1);
        setenv("UKTLS_LINGER_MS", linger_ms, 1);
        become_child("stuck", fd[0], results[1]);
    }
    close(fd[0]);
    close(results[1]);
    assert_returns(read(results[0], &accepted, sizeof accepted), sizeof accepted);
    clock_gettime(CLOCK_MONOTONIC, &began);
    assert_int_equal(wait_child(child), 0);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    *exit_ms = (ended.tv_sec - began.tv_sec) * 1000 + (ended.tv_nsec - began.tv_nsec) / 1000000;
    close(fd[1]);
    close(results[0]);
    return accepted;
}

/* UKTLS_TX_QUEUE bounds what is accepted, UKTLS_LINGER_MS how long the exit waits for a reader that
 * takes nothing. */
static void test_queue_and_linger(void **state)
{
    (void)state;
    int64_t short_ms, long_ms;
    /* The queue, and what the two socket buffers hold. */
    assert_in_range(run_stuck_child("32768", "1", &short_ms), 32768, 200000);
    run_stuck_child("1048576", "1000", &long_ms);
    assert_in_range(long_ms, 900, 30000);
    assert_true(short_ms < long_ms);
}

static int lines(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* valgrind has its own words on standard error. */
static void assert_silent(const char *name, const char *errors)
{
    if (strstr(errors, "uktls") || (*errors && !under_valgrind()))
        fail_msg("%s: on standard error: %s", name, errors);
}

static void test_good_values(void **state)
{
    (void)state;
    static const struct { const char *name, *value; int engine, aead; } rows[] = {
        {"UKTLS_ENGINE", "inline", UKTLS_ENGINE_INLINE, 0},
        {"UKTLS_ENGINE", "threads", UKTLS_ENGINE_THREADS, 0},
        {"UKTLS_ENGINE", "auto", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_AEAD", "aws-lc", UKTLS_ENGINE_AUTO, UKTLS_AEAD_AWS_LC},
        {"UKTLS_AEAD", "openssl", UKTLS_ENGINE_AUTO, UKTLS_AEAD_OPENSSL},
        {"UKTLS_AEAD", "rustcrypto", UKTLS_ENGINE_AUTO, UKTLS_AEAD_RUSTCRYPTO},
#ifdef __x86_64__
        {"UKTLS_AEAD", "ring", UKTLS_ENGINE_AUTO, UKTLS_AEAD_RING},
#endif
        {"UKTLS_AEAD", "auto", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_MODE", "always", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_THREADS", "1", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_TX_QUEUE", "32768", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_LINGER_MS", "1", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_LOG", "trace:/dev/null", UKTLS_ENGINE_AUTO, 0},
        /* Set to nothing is not set. */
        {"UKTLS_ENGINE", "", UKTLS_ENGINE_AUTO, 0},
        {"UKTLS_STATS_FILE", "", UKTLS_ENGINE_AUTO, 0},
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *const variables[][2] = {{rows[i].name, rows[i].value}, {NULL, NULL}};
        struct found found;
        assert_silent(rows[i].name, run_child(variables, &found));
        assert_int_equal(found.engine, rows[i].engine);
        if (rows[i].aead)
            assert_int_equal(found.aead, rows[i].aead);
    }
}

static void test_bad_values(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"UKTLS_MODE", "perhaps"},     {"UKTLS_ENGINE", "warp"},     {"UKTLS_ENGINE", "Inline"},
        {"UKTLS_AEAD", "rot13"},       {"UKTLS_THREADS", "0"},       {"UKTLS_THREADS", "1025"},
        {"UKTLS_THREADS", "two"},      {"UKTLS_THREADS", "-1"},      {"UKTLS_TX_QUEUE", "32767"},
        {"UKTLS_TX_QUEUE", "1M"},      {"UKTLS_TX_QUEUE", "99999999999999999999999"},
        {"UKTLS_LINGER_MS", "-1"},     {"UKTLS_LINGER_MS", "soon"},  {"UKTLS_LOG", "loud"},
        {"UKTLS_LOG", "debug:"},
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *const variables[][2] = {{rows[i][0], rows[i][1]}, {NULL, NULL}};
        struct found found;
        const char *errors = run_child(variables, &found);
        if (!strstr(errors, rows[i][0]) || !strstr(errors, rows[i][1]) ||
            (lines(errors) != 1 && !under_valgrind()))
            fail_msg("%s=%s: on standard error: \"%s\"", rows[i][0], rows[i][1], errors);
        assert_int_equal(found.engine, UKTLS_ENGINE_AUTO);
    }
    /* Each bad one is named, and the good ones beside it count. */
    static const char *const together[][2] = {{"UKTLS_MODE", "perhaps"}, {"UKTLS_ENGINE", "inline"},
                                              {"UKTLS_AEAD", "rot13"}, {NULL, NULL}};
    struct found found;
    const char *errors = run_child(together, &found);
    assert_true(strstr(errors, "UKTLS_MODE") && strstr(errors, "UKTLS_AEAD"));
    assert_null(strstr(errors, "UKTLS_ENGINE"));
    assert_int_equal(found.engine, UKTLS_ENGINE_INLINE);
}

/* A value that is no text. */
static void test_not_utf8(void **state)
{
    (void)state;
    static const char *const rows[] = {"UKTLS_ENGINE", "UKTLS_LOG"};
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *const variables[][2] = {{rows[i], "\xff\xfe"}, {NULL, NULL}};
        struct found found;
        const char *errors = run_child(variables, &found);
        if (!strstr(errors, rows[i]))
            fail_msg("%s: on standard error: \"%s\"", rows[i], errors);
    }
}

/* Files in places where none can be made, and on a full disk: said, by name, and nothing else. */
static void test_files(void **state)
{
    (void)state;
    static const struct { const char *name, *value; bool said; } rows[] = {
        {"UKTLS_STATS_FILE", "/nonexistent/stats", true}, {"UKTLS_STATS_FILE", "/dev/full", true},
        {"UKTLS_STATS_FILE", "/", true},                  {"UKTLS_LOG", "trace:/nonexistent/log", true},
        {"UKTLS_LOG", "trace:/", true},                   {"UKTLS_LOG", "trace:/dev/full", false},
    };
    for (size_t i = 0; i < ROWS(rows); i++) {
        const char *const variables[][2] = {{rows[i].name, rows[i].value}, {NULL, NULL}};
        struct found found;
        const char *errors = run_child(variables, &found);
        if (!rows[i].said)
            assert_silent(rows[i].value, errors);
        else if (!strstr(errors, rows[i].name) || (lines(errors) != 1 && !under_valgrind()))
            fail_msg("%s=%s: on standard error: \"%s\"", rows[i].name, rows[i].value, errors);
    }
}

int main(void)
{
    const char *child = getenv("UKTLS_TEST_CHILD");
    if (child)
        return strcmp(child, "stuck") ? child_main() : stuck_child();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_values),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_not_utf8),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_queue_and_linger),
    };
    /* The engine is the child's affair: once is enough. */
    setenv("UKTLS_ENGINE", "auto", 0);
    return RUN_ENGINES("environment", tests);
}
