/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Other libraries: constructors that run before the library's own, and code that comes by dlopen.
 */
#include "preload.h"

#include <dlfcn.h>
#include <libgen.h>

static char plugin[512];

static int *early_pair(void *handle)
{
    return dlsym(handle, "early_pair");
}

/* A record of TLS 1.2 with AES-GCM: header, explicit nonce, tag. */
static void expect_record(int fd, int len)
{
    unsigned char wire[100];
    assert_returns(recv(fd, wire, 5 + 8 + (size_t)len + 16, MSG_WAITALL), 5 + 8 + len + 16);
    assert_int_equal(wire[0], DATA);
    assert_int_equal(wire[3] << 8 | wire[4], 8 + len + 16);
}

static int looks_at_the_early_pair(void *argument)
{
    (void)argument;
    int *pair = early_pair(RTLD_DEFAULT);
    CHILD_CHECK(pair != NULL);
    expect_record(pair[1], 2);
    CHILD_CHECK(write(pair[0], "abc", 3) == 3);
    expect_record(pair[1], 3);
    CHILD_CHECK(is_tls_socket(pair[0]));
    return 0;
}

static void preloaded_as(const char *first, const char *second)
{
    char preload[1100];
    assert_non_null(getenv("UKTLS_TEST_PRELOAD"));
    snprintf(preload, sizeof preload, "%s:%s", first, second);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv("LD_PRELOAD", preload, 1);
        setenv("UKTLS_TEST_CHILD", "early", 1);
        execl(program_invocation_name, program_invocation_name, (char *)NULL);
        _exit(127);
    }
    assert_exited(wait_child(child), 0);
}

static void test_preloaded_before(void **state)
{
    (void)state;
    preloaded_as(plugin, getenv("UKTLS_TEST_PRELOAD"));
}

static void test_preloaded_behind(void **state)
{
    (void)state;
    preloaded_as(getenv("UKTLS_TEST_PRELOAD"), plugin);
}

static void test_loaded_later(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    void *handle = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        fail_msg("%s", dlerror());
    int *pair = early_pair(handle);
    int (*write_there)(int, const void *, int) = (int (*)(int, const void *, int))dlsym(handle, "early_write");
    assert_non_null(write_there);
    expect_record(pair[1], 2);
    assert_int_equal(write_there(pair[0], "abcd", 4), 4);
    expect_record(pair[1], 4);
    tls_pair(fd, &keys, &receiver);
    assert_int_equal(write_there(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    assert_ok(close(pair[0]));
    assert_ok(close(pair[1]));
    assert_ok(dlclose(handle));
    assert_returns(write(fd[0], pattern(10, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_tls(fd);
}

/* dlsym finds the library's function, and RTLD_NEXT of the program as well. */
static void test_calls_by_dlsym(void **state)
{
    (void)state;
    struct keys keys = tls12_keys();
    struct receiver receiver;
    int fd[2];
    ssize_t (*write_by_name)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    assert_non_null(write_by_name);
    tls_pair(fd, &keys, &receiver);
    assert_int_equal(write_by_name(fd[0], pattern(0, 10), 10), 10);
    expect_records(&receiver, "23:10");
    close_tls(fd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preloaded_before), cmocka_unit_test(test_preloaded_behind),
        cmocka_unit_test(test_loaded_later), cmocka_unit_test(test_calls_by_dlsym),
    };
    (void)argc;
    char *name = strdup(argv[0]);
    snprintf(plugin, sizeof plugin, "%s/plugin_early.so", dirname(name));
    free(name);
    if (getenv("UKTLS_TEST_CHILD"))
        return looks_at_the_early_pair(NULL);
    return RUN_PRELOADED("test_plugins", tests);
}
