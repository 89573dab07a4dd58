/* DRAFT: will be generated from src/capi by cbindgen. Prototypes are final unless noted. */
#ifndef UKTLS_H
#define UKTLS_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <poll.h>
#include <linux/tls.h>
#ifdef __cplusplus
extern "C" {
#endif
#define UKTLS_VERSION_MAJOR 0
#define UKTLS_VERSION_MINOR 1
#define UKTLS_VERSION_PATCH 0

/* struct size first in each struct: the caller sets it to sizeof */
struct uktls_config { size_t size; int mode; int engine; int aead; uint32_t threads; size_t tx_queue; uint32_t linger_ms; const char *stats_file; const char *log; };
/* mode: UKTLS_MODE_AUTO 0, ALWAYS 1, OFF 2; engine: UKTLS_ENGINE_AUTO 0, INLINE 1, THREADS 2; aead: UKTLS_AEAD_AUTO 0, AWS_LC 1, OPENSSL 2, RUSTCRYPTO 3; 0/NULL = default */
struct uktls_stats { size_t size; uint64_t tls_curr_tx_sw, tls_curr_rx_sw, tls_tx_sw, tls_rx_sw, tls_decrypt_error, tls_tx_rekey_ok, tls_tx_rekey_error,
  tx_records, tx_bytes /* plaintext */, tx_wire_bytes, deferred_scheduled, deferred_cancelled, records_from_caller, records_from_worker,
  transmit_calls, transmit_records_max /* most records in one sendmsg */, queue_bytes_max, queue_records_max, sealed_inline, sealed_threads, errors; };
struct uktls_info { size_t size; uint16_t version, cipher, txconf, rxconf; uint8_t tx_rec_seq[8]; uint16_t tx_max_payload_len; uint16_t reserved; int engine; int aead; uint64_t tx_records, tx_bytes, pending_bytes, pending_records; };

int tls_tx_init(int fd, const void *crypto_info, size_t len);
ssize_t tls_send(int fd, const void *buf, size_t len, int flags);
ssize_t tls_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t tls_sendpage(int fd, const void *page, size_t offset, size_t size, int flags);
ssize_t tls_sendfile(int fd, int in_fd, off_t *offset, size_t count);
ssize_t tls_splice(int fd_in, off_t *off_in, int fd_out, off_t *off_out, size_t len, unsigned int flags);
int tls_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int tls_shutdown(int fd, int how);
int tls_getsockopt(int fd, int level, int optname, void *optval, socklen_t *optlen);
int uktls_close(int fd);
int uktls_flush(int fd, int timeout_ms);
size_t uktls_tx_pending(int fd);
int uktls_get_info(int fd, struct uktls_info *info);
int uktls_get_stats(struct uktls_stats *stats);
int uktls_configure(const struct uktls_config *config);
const char *uktls_version(void);
#ifdef __cplusplus
}
#endif
#endif
