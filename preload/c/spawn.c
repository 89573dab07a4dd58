/* posix_spawn: the numbers of this process that the started program gets. */
#include <spawn.h>

#include "around.h"

/* What glibc's posix_spawn_file_actions_t points to: the same since 2.15, but for kinds that came later. */
enum kind { CLOSES, DUPLICATES, OPENS, CHANGES_FOLDER, CHANGES_FOLDER_TO, CLOSES_FROM };
struct action {
    int kind;
    union {
        /* All but a change of folder begin with a number. */
        struct {
            int fd, new_fd;
        } numbers;
        struct {
            int fd;
            char *path;
            int flags;
            mode_t mode;
        } open;
    } of;
};

/* Whether the C library lays them out like that, which is not promised: it is asked to put some down. */
static bool are_known(void)
{
    static _Atomic int known;
    enum { UNKNOWN, YES, NO };
    posix_spawn_file_actions_t actions;
    const struct action *put;
    bool yes;

    if (LIKELY(known != UNKNOWN))
        return known == YES;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return false;
    yes = NEXT(posix_spawn_file_actions_adddup2)(&actions, 5, 6) == 0 &&
          posix_spawn_file_actions_addopen(&actions, 7, "/", 0, 0) == 0 &&
          posix_spawn_file_actions_addclose(&actions, 8) == 0 &&
          NEXT(posix_spawn_file_actions_adddup2)(&actions, 9, 10) == 0 && actions.__used == 4;
    put = (const struct action *)actions.__actions;
    yes = yes && put[0].kind == DUPLICATES && put[0].of.numbers.fd == 5 && put[0].of.numbers.new_fd == 6 &&
          put[1].kind == OPENS && put[1].of.open.fd == 7 && put[2].kind == CLOSES && put[2].of.numbers.fd == 8 &&
          put[3].kind == DUPLICATES && put[3].of.numbers.fd == 9 && put[3].of.numbers.new_fd == 10;
    posix_spawn_file_actions_destroy(&actions);
    known = yes ? YES : NO;
    return yes;
}

/* Whether the first `n` actions make something else of the number, in the new process. */
static bool is_changed(const struct action *actions, int n, int fd)
{
    for (int i = 0; i < n; i++) {
        int number = actions[i].kind == DUPLICATES ? actions[i].of.numbers.new_fd : actions[i].of.numbers.fd;

        switch (actions[i].kind) {
        case CLOSES:
        case OPENS:
        case DUPLICATES:
            if (number == fd)
                return true;
            break;
        case CLOSES_FROM:
            if (number <= fd)
                return true;
            break;
        }
    }
    return false;
}

/* Whether the started program would get a TLS socket, without its keys. The number may have become one after it was put
 * down. Where the actions cannot be read, the number of any TLS socket may be among them. */
static bool pass_tls(const posix_spawn_file_actions_t *actions)
{
    const struct action *list;

    if (LIKELY(actions == NULL || actions->__used == 0 || !uktls_preload_had_connections()))
        return false;
    if (!are_known())
        return uktls_preload_has_connections();
    list = (const struct action *)actions->__actions;
    for (int i = 0; i < actions->__used; i++)
        if (list[i].kind == DUPLICATES && is_tls(list[i].of.numbers.fd) &&
            uktls_preload_is_here(list[i].of.numbers.fd) && !is_changed(list, i, list[i].of.numbers.fd))
            return true;
    return false;
}

/* The program may have sockets of this process, and may set keys on them. */
int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
                char *const arguments[], char *const environment[])
{
    uktls_preload_before_spawn();
    if (pass_tls(actions))
        return EOPNOTSUPP;
    return NEXT(posix_spawn)(pid, path, actions, attributes, arguments, environment);
}

int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    uktls_preload_before_spawn();
    if (pass_tls(actions))
        return EOPNOTSUPP;
    return NEXT(posix_spawnp)(pid, file, actions, attributes, arguments, environment);
}

/* The same, as soon as it is put down. Its dup2 is one of the C library's own, and takes the flag off by which a TLS socket
 * is closed to the next program. */
int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *actions, int fd, int new_fd)
{
    if (is_tls(fd))
        return EOPNOTSUPP;
    /* The started program has the number also if it closes itself on exec. */
    if (mark_of(fd))
        uktls_preload_passed(fd);
    return NEXT(posix_spawn_file_actions_adddup2)(actions, fd, new_fd);
}

/* Since glibc 2.39; the header of an older one has no prototypes. What is not there says so as these do. */
static int spawned(int result)
{
    return result < 0 ? ENOSYS : result;
}

int pidfd_spawn(int *pidfd, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
                char *const arguments[], char *const environment[]);
int pidfd_spawn(int *pidfd, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
                char *const arguments[], char *const environment[])
{
    uktls_preload_before_spawn();
    if (pass_tls(actions))
        return EOPNOTSUPP;
    return spawned(NEXT(pidfd_spawn)(pidfd, path, actions, attributes, arguments, environment));
}

int pidfd_spawnp(int *pidfd, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]);
int pidfd_spawnp(int *pidfd, const char *file, const posix_spawn_file_actions_t *actions,
                 const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    uktls_preload_before_spawn();
    if (pass_tls(actions))
        return EOPNOTSUPP;
    return spawned(NEXT(pidfd_spawnp)(pidfd, file, actions, attributes, arguments, environment));
}
