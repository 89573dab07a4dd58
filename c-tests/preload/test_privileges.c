/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Servers that give up their rights, and their view of the file system, after the library was loaded.
 */
#include "preload.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* Keys, a full socket, a close: what needs the worker and the pool. */
static int serves(void)
{
    struct keys keys = tls12_keys();
    struct receiver *receiver = malloc(sizeof *receiver);
    int fd[2];
    tcp_pair(fd);
    CHILD_CHECK(tls_tx_init(fd[0], keys.info, keys.len) == 0);
    CHILD_CHECK(tls_rx_init(fd[0], keys.info, keys.len) == 0);
    receiver_init(receiver, fd[1], &keys);
    CHILD_CHECK(write(fd[0], pattern(0, 100), 100) == 100);
    CHILD_CHECK(fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
    uint64_t sent = 100 + fill_socket(fd[0], 100, 10000);
    int copy = dup(fd[0]);
    CHILD_CHECK(close(fd[0]) == 0);
    while (receiver->position < sent)
        CHILD_CHECK(receiver_next(receiver) == 1);
    CHILD_CHECK(write(copy, pattern(sent, 10), 10) == 10);
    CHILD_CHECK(close(copy) == 0);
    CHILD_CHECK(receiver_next(receiver) == 1 && receiver_next(receiver) == 0);
    free(receiver);
    return 0;
}

enum { NOBODY = 65534 };

static int as_nobody(void *argument)
{
    (void)argument;
    CHILD_CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    return serves();
}

static int in_an_empty_root(void *argument)
{
    CHILD_CHECK(chroot(argument) == 0 && chdir("/") == 0);
    CHILD_CHECK(access("/proc/self", F_OK) != 0);
    CHILD_CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    return serves();
}

/* From now on prctl(PR_GET_AUXV) is what it was before Linux 6.4. */
static void without_auxv(void)
{
    enum { GET_AUXV = 0x41555856 };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GET_AUXV, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHILD_CHECK(prctl(GET_AUXV, NULL, 0, 0, 0) == -1 && errno == EINVAL);
}

static int as_nobody_before_linux_6_4(void *argument)
{
    without_auxv();
    return as_nobody(argument);
}

static int in_an_empty_root_before_linux_6_4(void *argument)
{
    without_auxv();
    return in_an_empty_root(argument);
}

static int with_few_descriptors(void *argument)
{
    struct rlimit few = {32, 32};
    (void)argument;
    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    return serves();
}

/* The counters' file, the log and the file of statistics are files; a socket is none. */
static int with_no_files(void *files)
{
    struct rlimit none = {0, 0};
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    setenv("UKTLS_LOG", ((char **)files)[0], 1);
    setenv("UKTLS_STATS_FILE", ((char **)files)[1], 1);
    setenv("UKTLS_TEST_CHILD", "files", 1);
    execl(program_invocation_name, program_invocation_name, (char *)NULL);
    return 9;
}

static int not_dumpable(void *argument)
{
    (void)argument;
    CHILD_CHECK(prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    return serves();
}

static void need_root(void)
{
    if (geteuid() == 0)
        return;
    print_message("SKIPPED: not root\n");
    skip();
}

static void test_setuid(void **state)
{
    (void)state;
    need_root();
    assert_exited(in_child(as_nobody, NULL), 0);
}

static void in_a_new_root(int (*body)(void *))
{
    char root[] = "/tmp/uktls-root-XXXXXX";
    assert_non_null(mkdtemp(root));
    int status = in_child(body, root);
    assert_ok(rmdir(root));
    assert_exited(status, 0);
}

static void test_chroot(void **state)
{
    (void)state;
    need_root();
    in_a_new_root(in_an_empty_root);
}

/* Kernels that tell the size of a page in a file only, which cannot be read here. */
static void test_before_linux_6_4(void **state)
{
    (void)state;
    need_root();
    assert_exited(in_child(as_nobody_before_linux_6_4, NULL), 0);
    in_a_new_root(in_an_empty_root_before_linux_6_4);
}

static void test_few_descriptors(void **state)
{
    (void)state;
    assert_exited(in_child(with_few_descriptors, NULL), 0);
}

static void test_no_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/uktls-files-XXXXXX", log[64], stats[64];
    assert_non_null(mkdtemp(folder));
    snprintf(log, sizeof log, "debug:%s/log", folder);
    snprintf(stats, sizeof stats, "%s/stats", folder);
    int status = in_child(with_no_files, (char *[]){log, stats});
    /* They are opened, and nothing can be written to them. */
    assert_ok(unlink(log + strlen("debug:")));
    assert_ok(unlink(stats));
    assert_ok(rmdir(folder));
    assert_exited(status, 0);
}

static void test_not_dumpable(void **state)
{
    (void)state;
    assert_exited(in_child(not_dumpable, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_setuid),           cmocka_unit_test(test_chroot),
        cmocka_unit_test(test_before_linux_6_4), cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_not_dumpable),     cmocka_unit_test(test_no_files),
    };
    if (getenv("UKTLS_TEST_CHILD"))
        return serves();
    return RUN_PRELOADED("test_privileges", tests);
}
