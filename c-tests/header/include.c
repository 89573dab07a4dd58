/* Compiled as C and as C++ by check.sh: the header first, so that it cannot lean on another, and
 * twice, for its guard. */
#include <uktls.h>
#include <uktls.h>

/* The type of every function, as documented: a wrong prototype does not compile. */
int (*tx_init)(int, const void *, size_t) = tls_tx_init;
ssize_t (*send_)(int, const void *, size_t, int) = tls_send;
ssize_t (*sendmsg_)(int, const struct msghdr *, int) = tls_sendmsg;
ssize_t (*sendpage)(int, const void *, size_t, size_t, int) = tls_sendpage;
ssize_t (*sendfile_)(int, int, off_t *, size_t) = tls_sendfile;
ssize_t (*splice_)(int, off_t *, int, off_t *, size_t, unsigned int) = tls_splice;
int (*poll_)(struct pollfd *, nfds_t, int) = tls_poll;
int (*shutdown_)(int, int) = tls_shutdown;
int (*getsockopt_)(int, int, int, void *, socklen_t *) = tls_getsockopt;
int (*close_)(int) = uktls_close;
int (*flush)(int, int) = uktls_flush;
size_t (*tx_pending)(int) = uktls_tx_pending;
int (*get_info)(int, struct uktls_info *) = uktls_get_info;
int (*get_stats)(struct uktls_stats *) = uktls_get_stats;
int (*configure)(const struct uktls_config *) = uktls_configure;
const char *(*version)(void) = uktls_version;
