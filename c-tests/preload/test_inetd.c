/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Servers whose connection is their standard input and output, as inetd starts them, in C and C++.
 */
#include "preload.h"

#include <libgen.h>

/* What has come in records, until it ends in `end`; the text as it was. */
static void expect_line(struct peer *peer, const char *want)
{
    char text[400] = "";
    size_t len = 0;
    while (len < strlen(want)) {
        int more = receiver_next(&peer->in);
        if (more <= 0)
            fail_msg("'%s': %s", text, more < 0 ? peer->in.fault : "the end");
        assert_int_equal(peer->in.type, DATA);
        assert_true(len + peer->in.len < sizeof text);
        memcpy(text + len, peer->in.data, peer->in.len);
        len += peer->in.len;
    }
    assert_string_equal(text, want);
}

static void say(struct peer *peer, const char *text)
{
    unsigned char wire[200];
    size_t len = seal(&peer->out, wire, DATA, text, strlen(text));
    assert_returns(write(peer->in.fd, wire, len), len);
}

static void serve(const char *program, const char *way, const char *third)
{
    char path[4096] = "", hex[2 * 64 + 1] = "";
    struct keys keys = tls12_keys();
    struct peer peer;
    int fd[2];
    tcp_pair(fd);
    assert_true(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    dirname(path);
    assert_true(strlen(path) + strlen(program) + 2 < sizeof path);
    strcat(strcat(path, "/"), program);
    for (size_t i = 0; i < keys.len; i++)
        sprintf(hex + 2 * i, "%02x", keys.info[i]);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(60);
        setenv("UKTLS_TEST_KEYS", hex, 1);
        if (dup2(fd[0], 0) == 0 && dup2(fd[0], 1) == 1 && close(fd[0]) == 0 && close(fd[1]) == 0)
            execl(path, program, way, third, NULL);
        syscall(SYS_exit_group, 99);
    }
    receiver_init(&peer.in, fd[1], &keys);
    peer.in.pattern = false;
    sealer_init(&peer.out, fd[1], fd[0], &keys);
    expect_line(&peer, "hello, who is there?\n");
    say(&peer, "the test\n");
    expect_line(&peer, "good day, the test\n");
    say(&peer, "end\n");
    expect_line(&peer, "bye, end\n");
    assert_exited(wait_child(child), 0);
    assert_ok(close(fd[0]));
    expect_end(&peer.in);
    assert_ok(close(fd[1]));
}

static void test_c(void **state)
{
    (void)state;
    serve("inetd_c", "10", NULL);
}

static void test_cpp_with_stdio(void **state)
{
    (void)state;
    serve("inetd_cpp", "10", "1");
}

static void test_cpp_by_itself(void **state)
{
    (void)state;
    serve("inetd_cpp", "10", "0");
}

/* Descriptor 1 is the socket's, too, although the keys are set on 0. */
static void test_keys_on_the_other_number(void **state)
{
    (void)state;
    serve("inetd_c", "00", NULL);
    serve("inetd_cpp", "00", "1");
    serve("inetd_cpp", "00", "0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_c), cmocka_unit_test(test_cpp_with_stdio), cmocka_unit_test(test_cpp_by_itself),
        cmocka_unit_test(test_keys_on_the_other_number),
    };
    return RUN_PRELOADED("test_inetd", tests);
}
