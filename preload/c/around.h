/* Ways around the functions that are interposed by name: what they have to tell of numbers that come and go. */
#ifndef UKTLS_AROUND_H
#define UKTLS_AROUND_H

#include <sys/select.h>

#include "interpose.h"
#include "raw.h"

/* As uktls_preload_after_clone, with what the call has returned; errno stays. */
void uktls_after_clone(long result);
/* uktls_number_came for those that a message has brought. */
void uktls_numbers_came(const struct msghdr *msg);

/* The work of the interposed functions, for a call that came by syscall(2). `next` makes the kernel's call. */
int uktls_control(int fd, int command, void *argument, int (*next)(int, int, ...));
int uktls_ioctl(int fd, unsigned long request, void *argument, int (*next)(int, unsigned long, ...));
int uktls_dup_over(int old, int new_fd, int flags, int (*next)(int, int, int));
/* What of CLOSE_RANGE_UNSHARE comes first: a table of its own for the calling thread, so that what is closed is closed
 * there. Without that flag it does nothing. */
int uktls_unshare_range(unsigned first, unsigned last, int flags, int (*next)(unsigned, unsigned, int));
int uktls_close_by(int fd, int (*next)(int));
/* dup if `command` is -1, or F_DUPFD or F_DUPFD_CLOEXEC. */
int uktls_duplicate(int old, int command, int least, int (*next)(int, int, ...));
/* A descriptor that socket(2) or the like has made, of this type. */
int uktls_fresh(int fd, int type);
bool uktls_disconnects(int fd, const struct sockaddr *address, socklen_t len);
bool uktls_passes_tls(const struct msghdr *msg);
/* The kernel has taken the message: what it passes on, another process may have from now on. */
void uktls_note_passed(const struct msghdr *msg);
bool uktls_any_passes_tls(const struct mmsghdr *messages, unsigned n);
bool uktls_polls_tls(const struct pollfd *fds, nfds_t n);
bool uktls_selects_tls(int n, const fd_set *in, const fd_set *out, const fd_set *other);
void uktls_before_exit(int status);

#endif
