/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * uktls: kernel TLS without the kernel.
 *
 * After a TLS 1.2 or 1.3 handshake, hand the keys of a connected stream socket to the library; from
 * then on send and receive plain bytes, which pass the socket as sealed records, in order.
 * Read in this order:
 *
 *   1. tls_tx_init()       and tls_rx_init(): keys in, as the crypto_info structs of <linux/tls.h>
 *   2. tls_send()          and tls_sendmsg(), tls_sendfile(), tls_splice(), tls_sendpage()
 *   3. tls_recv()          and tls_recvmsg(), tls_splice()
 *   4. tls_poll()          wait for records or room, for non-blocking sockets
 *   5. uktls_flush()       wait until the kernel has every record
 *   6. tls_shutdown()      and uktls_close(): instead of shutdown(2) and close(2)
 *   7. tls_setsockopt()    and tls_getsockopt(): options of a kernel TLS socket
 *   8. uktls_get_info()    and uktls_get_stats(), uktls_configure()
 *
 * Once keys are set, use no other call to write to, read from, shut down or close that descriptor:
 * plain bytes written past the library would break the record stream. A direction without keys
 * passes bytes on as they are.
 *
 * Names that begin with tls_ mirror a system call on a kernel TLS socket: its arguments, its
 * return value, its errno. Names that begin with uktls_ are this library's own. Every struct
 * begins with its own size, which the caller sets: `struct uktls_stats s = { sizeof s };`.
 * All functions may be called from any thread. The manual is uktls(7).
 *
 * Generated from the Rust source by cbindgen: do not edit.
 */


#ifndef UKTLS_H
#define UKTLS_H

#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <linux/tls.h>

/* Version of the header; `uktls_version` tells that of the library. */
#define UKTLS_VERSION_MAJOR 0

/* Second part of the header's version. */
#define UKTLS_VERSION_MINOR 1

/* Third part of the header's version. */
#define UKTLS_VERSION_PATCH 0

/* Decide from the kernel's abilities (preload library only). */
#define UKTLS_MODE_AUTO 0

/* Take every TLS socket over. */
#define UKTLS_MODE_ALWAYS 1

/* Take none over. */
#define UKTLS_MODE_OFF 2

/* Decide per record from what the connection is doing. */
#define UKTLS_ENGINE_AUTO 0

/* Seal in the calling thread. */
#define UKTLS_ENGINE_INLINE 1

/* Seal on the thread pool. */
#define UKTLS_ENGINE_THREADS 2

/* Seal on an accelerator behind OpenSSL: the one that `engine_id` names, or else `UKTLS_ENGINE=openssl:<id>`; EINVAL for
 * `uktls_configure` if neither does.
 */
#define UKTLS_ENGINE_OPENSSL 3

/* As the environment says (`UKTLS_ENGINE_FALLBACK`), or else by software. */
#define UKTLS_ENGINE_FALLBACK_DEFAULT 0

/* What the accelerator does not seal is sealed by the processor. */
#define UKTLS_ENGINE_FALLBACK_SOFTWARE 1

/* What the accelerator does not seal breaks the connection; without an accelerator, keys are refused (ENOENT). */
#define UKTLS_ENGINE_FALLBACK_ERROR 2

/* The fastest AEAD implementation present, per cipher. */
#define UKTLS_AEAD_AUTO 0

/* AWS-LC. */
#define UKTLS_AEAD_AWS_LC 1

/* OpenSSL's EVP interface. */
#define UKTLS_AEAD_OPENSSL 2

/* RustCrypto. */
#define UKTLS_AEAD_RUSTCRYPTO 3

/* ring, on x86-64. */
#define UKTLS_AEAD_RING 4

/* Settings for `uktls_configure`. Zero or NULL in a field keeps that setting's default. */
struct uktls_config {
    /* `sizeof(struct uktls_config)`, set by the caller. */
    size_t size;
    /* `UKTLS_MODE_*`: which sockets the preload library takes over. Calls of this interface always
     * do what they say.
     */
    int mode;
    /* `UKTLS_ENGINE_*`. */
    int engine;
    /* `UKTLS_AEAD_*`. */
    int aead;
    /* Sealing threads, at most 1024; 0: one less than there are processors, at least one. Counts
     * for the first connection of the process only.
     */
    uint32_t threads;
    /* Accepted and not yet transmitted bytes of one connection at which a send waits; 0: 1 MiB. */
    size_t tx_queue;
    /* Milliseconds for which the end of the process waits for its readers, all together;
     * 0: 60000.
     */
    uint32_t linger_ms;
    /* `UKTLS_ENGINE_FALLBACK_*`. This and what else is about an accelerator counts for the first connection of the process only. */
    int engine_fallback;
    /* Milliseconds after which a record counts as lost by the accelerator; 0: as the environment says, or else 5000. */
    uint32_t engine_timeout_ms;
    /* Most records, those of all connections, that the accelerator has at a time, up to 65536; 0: as the environment says, or
     * else 4096.
     */
    uint32_t engine_in_flight;
    /* The name or path of an OpenSSL provider or ENGINE, for `UKTLS_ENGINE_OPENSSL`; NULL: that of the environment. Once
     * the process has had a connection, another one is refused (EBUSY).
     */
    const char *engine_id;
    /* A JSON line with the counters is appended to this file at exit; NULL: none. */
    const char *stats_file;
    /* `LEVEL` or `LEVEL:FILE`, LEVEL being error, warn, info, debug or trace; NULL: no log. */
    const char *log;
};

/* Counters of the process, filled in by `uktls_get_stats`. Those that start with `tls_` are named
 * after `/proc/net/tls_stat`.
 */
struct uktls_stats {
    /* `sizeof(struct uktls_stats)`, set by the caller. */
    size_t size;
    /* TlsCurrTxSw: connections that have TX keys now. */
    uint64_t tls_curr_tx_sw;
    /* TlsCurrRxSw: connections that have RX keys now. */
    uint64_t tls_curr_rx_sw;
    /* TlsTxSw: connections that were given TX keys. */
    uint64_t tls_tx_sw;
    /* TlsRxSw: connections that were given RX keys. */
    uint64_t tls_rx_sw;
    /* TlsDecryptError: received records that were not authentic, each attempt. */
    uint64_t tls_decrypt_error;
    /* TlsDecryptRetry: with TLS_RX_EXPECT_NO_PAD, records that the kernel would have opened twice. */
    uint64_t tls_decrypt_retry;
    /* TlsRxNoPadViolation: of those, padded ones. */
    uint64_t tls_rx_no_pad_violation;
    /* TlsRxRekeyOk: RX keys replaced. */
    uint64_t tls_rx_rekey_ok;
    /* TlsRxRekeyError: refused attempts to replace RX keys. */
    uint64_t tls_rx_rekey_error;
    /* TlsTxRekeyOk: TX keys replaced. */
    uint64_t tls_tx_rekey_ok;
    /* TlsTxRekeyError: refused attempts to replace TX keys. */
    uint64_t tls_tx_rekey_error;
    /* TlsRxRekeyReceived: KeyUpdate messages received. */
    uint64_t tls_rx_rekey_received;
    /* Records opened. */
    uint64_t rx_records;
    /* Plaintext bytes delivered to the program. */
    uint64_t rx_bytes;
    /* Records handed to the kernel completely. */
    uint64_t tx_records;
    /* Their plaintext bytes. */
    uint64_t tx_bytes;
    /* Bytes handed to the kernel, record headers and tags included. */
    uint64_t tx_wire_bytes;
    /* Deferred transmissions scheduled. */
    uint64_t deferred_scheduled;
    /* Deferred transmissions cancelled, because a call had transmitted everything by itself. */
    uint64_t deferred_cancelled;
    /* Records that went out in a call of the program. */
    uint64_t records_from_caller;
    /* Records that went out in a worker's context. */
    uint64_t records_from_worker;
    /* `sendmsg(2)` calls that took bytes; `tx_records / transmit_calls` is the mean gathered. */
    uint64_t transmit_calls;
    /* The most records completed by one `sendmsg(2)`. */
    uint64_t transmit_records_max;
    /* The most sealed bytes ever queued on one connection. */
    uint64_t queue_bytes_max;
    /* The most records ever queued on one connection, sealed or being sealed. */
    uint64_t queue_records_max;
    /* Records sealed in the calling thread. */
    uint64_t sealed_inline;
    /* Records sealed on the thread pool. */
    uint64_t sealed_threads;
    /* Records sealed on an accelerator. */
    uint64_t sealed_accelerator;
    /* Records that the accelerator has failed or lost; the processor has sealed them, or the connection has broken. */
    uint64_t accelerator_failed;
    /* Connections that broke: by the network, by a failed seal, by an internal fault. */
    uint64_t errors;
};

/* Figures of one connection, filled in by `uktls_get_info`. */
struct uktls_info {
    /* `sizeof(struct uktls_info)`, set by the caller. */
    size_t size;
    /* `TLS_1_2_VERSION` or `TLS_1_3_VERSION`; 0 before keys are set. */
    uint16_t version;
    /* `TLS_CIPHER_*`; 0 before keys are set. */
    uint16_t cipher;
    /* `TLS_CONF_SW` (2) if TX keys are set, `TLS_CONF_BASE` (1) if not. */
    uint16_t txconf;
    /* The same for RX. */
    uint16_t rxconf;
    /* Sequence number of the next TX record, big-endian; 0 without TX keys. */
    uint8_t tx_rec_seq[8];
    /* Sequence number of the next RX record to be opened, big-endian; 0 without RX keys. */
    uint8_t rx_rec_seq[8];
    /* Most plaintext bytes in a TX record. */
    uint16_t tx_max_payload_len;
    /* Whether TLS_RX_EXPECT_NO_PAD is set. */
    uint8_t rx_no_pad;
    /* Whether TLS_TX_ZEROCOPY_RO is set. */
    uint8_t zc_ro_tx;
    /* `UKTLS_ENGINE_*` in force for this connection. */
    int engine;
    /* `UKTLS_AEAD_*` in use. */
    int aead;
    /* Padding, 0. */
    uint32_t reserved2;
    /* Records handed to the kernel completely. */
    uint64_t tx_records;
    /* Their plaintext bytes. */
    uint64_t tx_bytes;
    /* Plaintext bytes accepted and not yet handed to the kernel. */
    uint64_t pending_bytes;
    /* Records sealed or being sealed, and not yet completely with the kernel. */
    uint64_t pending_records;
    /* Records opened. */
    uint64_t rx_records;
    /* Plaintext bytes delivered to the program. */
    uint64_t rx_bytes;
    /* TlsDecryptError, of this connection; and so on. */
    uint64_t tls_decrypt_error;
    /* TlsDecryptRetry. */
    uint64_t tls_decrypt_retry;
    /* TlsRxNoPadViolation. */
    uint64_t tls_rx_no_pad_violation;
    /* TlsRxRekeyOk. */
    uint64_t tls_rx_rekey_ok;
    /* TlsRxRekeyError. */
    uint64_t tls_rx_rekey_error;
    /* TlsTxRekeyOk. */
    uint64_t tls_tx_rekey_ok;
    /* TlsTxRekeyError. */
    uint64_t tls_tx_rekey_error;
    /* TlsRxRekeyReceived. */
    uint64_t tls_rx_rekey_received;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* Set the TX keys of a finished TLS handshake on `fd`: from the return of this call, every byte
 * given to `tls_send` and its kin leaves the socket as TLS records. A second call on a TLS 1.3
 * connection replaces the keys (rekey).
 *
 * `crypto_info` is one of the structs of `<linux/tls.h>` (`struct tls12_crypto_info_aes_gcm_128`,
 * ...), `len` its size in bytes. `fd` is a connected stream socket: TCP, MPTCP, UNIX, vsock. The
 * handshake's own bytes must have left the socket. From here on the socket is closed with
 * `uktls_close`.
 *
 * Returns 0, or -1 with errno; nothing has changed then:
 * EBADF, ENOTSOCK `fd` is not open or no socket; ENOPROTOOPT, EOPNOTSUPP no stream socket;
 * ENOTCONN not connected, or already shut down by either side;
 * EFAULT `crypto_info` cannot be read;
 * EINVAL `crypto_info` is NULL, `len` is not the struct's size, version or cipher unknown or not
 * to be combined or not those of the RX keys, or a rekey with another version or cipher;
 * EBUSY TLS 1.2 keys are set already; ENOENT no implementation of the cipher; ENOMEM;
 * ENOTRECOVERABLE the keys on `fd` were set before a raw clone(2), or an internal fault.
 *
 * Any thread may call it; it waits for a send in progress. Since 0.1. Mirrors
 * setsockopt(TCP_ULP) and setsockopt(SOL_TLS, TLS_TX) (Linux net/tls/tls_main.c).
 *
 * Requires:
 * `crypto_info` is NULL or readable for `len` bytes.
 */
int tls_tx_init(int fd, const void *crypto_info, size_t len);

/* Set the RX keys of a finished TLS handshake on `fd`: what is unread in the socket, and all that
 * follows, are TLS records, whose content `tls_recv` and its kin deliver. A second call on a TLS 1.3
 * connection replaces the keys (rekey), after the peer's KeyUpdate.
 *
 * Arguments, return value and errors as for `tls_tx_init`; both directions of a socket have the same
 * version and cipher. A TCP socket wakes `poll`, `epoll` and the like exactly when there is
 * something to be received; other stream sockets, at the first byte of a record. The library keeps
 * `SO_RCVLOWAT` and `SO_PEEK_OFF` of the socket for that: the program's own are set by `tls_setsockopt`.
 *
 * Any thread may call it, also while another sleeps in a receive. Since 0.1. Mirrors
 * setsockopt(TCP_ULP) and setsockopt(SOL_TLS, TLS_RX) (Linux net/tls/tls_main.c).
 *
 * Requires:
 * `crypto_info` is NULL or readable for `len` bytes.
 */
int tls_rx_init(int fd,
                const void *crypto_info,
                size_t len);

/* Set an option of `fd`. `SOL_TCP`/`TCP_ULP` with "tls": attaches TLS; without keys the socket
 * passes bytes on as they are. `SOL_TLS`/`TLS_TX`, `TLS_RX`: the keys, as `tls_tx_init` and
 * `tls_rx_init`, on a socket with TLS attached. `SOL_TLS`/`TLS_TX_MAX_PAYLOAD_LEN`: a uint16_t, the
 * most plaintext bytes in a sent record, 64 to 16384 (TLS 1.3: 63). `SOL_TLS`/`TLS_RX_EXPECT_NO_PAD`
 * and `TLS_TX_ZEROCOPY_RO`: 0 or 1, kept, without effect on what is sent and received.
 * `SOL_SOCKET`/`SO_RCVLOWAT` on a socket with RX keys: kept for `tls_recv`; `SO_PEEK_OFF` there: kept,
 * without effect. All other options: as setsockopt(2).
 *
 * Returns 0, or -1 with errno, nothing having changed: EBADF, ENOTSOCK; EEXIST TLS is attached
 * already; ENOENT an unknown ULP; ENOTCONN; ENOPROTOOPT an unknown SOL_TLS option, or a socket
 * without TLS; EINVAL a wrong length or value; EFAULT; ENOMEM; EBUSY a record is open, or TLS 1.2 keys are
 * set already; others as setsockopt(2).
 * Since 0.1. Mirrors setsockopt(2) on a kTLS socket (Linux net/tls/tls_main.c).
 *
 * Requires:
 * `optval` is NULL or readable for `optlen` bytes.
 */
int tls_setsockopt(int fd,
                   int level,
                   int optname,
                   const void *optval,
                   socklen_t optlen);

/* Read an option of `fd`. `SOL_TLS`/`TLS_TX`, `TLS_RX`: the crypto_info struct with the sequence
 * number of the next record (`*optlen` its exact size), or version and cipher only (`*optlen` 4).
 * The other options of `tls_setsockopt`: their values. `SOL_SOCKET`/`SO_ERROR`: the pending error,
 * of deferred transmission and of received records too, which is cleared. All other options: as
 * getsockopt(2).
 *
 * Returns 0, or -1 with errno: EBADF, ENOTSOCK; EFAULT memory that cannot be accessed; EINVAL
 * `optval` is NULL
 * or `*optlen` not one of the sizes above; EBUSY the direction has no keys; ENOPROTOOPT an unknown
 * SOL_TLS option; ENOPROTOOPT, EOPNOTSUPP a socket without TLS; others as getsockopt(2).
 * Since 0.1. Mirrors getsockopt(2) on a kTLS socket (Linux net/tls/tls_main.c).
 *
 * Requires:
 * `optval` is NULL or writable for `*optlen` bytes, `optlen` is NULL or points to a `socklen_t`.
 */
int tls_getsockopt(int fd, int level, int optname, void *optval, socklen_t *optlen);

/* Replace the settings of this process. They start from the environment variables of the same
 * names (uktls(7)); connections that exist keep the settings they were set up with.
 *
 * Returns 0, or -1 with errno, nothing having changed: EFAULT `config` is NULL; EINVAL its `size`
 * is not that of a known version, or a field has no such value; EBUSY another accelerator is named, and the process has
 * had connections already.
 * Any thread may call it. Since 0.1.
 *
 * Requires:
 * `config` is NULL or points to a struct as large as its `size` says; its strings are NULL or end
 * with a NUL.
 */
int uktls_configure(const struct uktls_config *config);

/* Fill in the counters of this process; the caller sets `size` first.
 *
 * Returns 0, or -1 with errno: EFAULT `stats` is NULL; EINVAL `size` is not that of a known
 * version. Each counter is exact, but one may be seen before another has moved.
 * Any thread may call it. Since 0.1.
 *
 * Requires:
 * `stats` is NULL or points to a writable struct as large as its `size` says.
 */
int uktls_get_stats(struct uktls_stats *stats);

/* Fill in the figures of the connection on `fd`; the caller sets `size` first.
 *
 * Returns 0, or -1 with errno: EFAULT `info` is NULL; EINVAL `size` is not that of a known
 * version; EBADF, ENOTSOCK; ENOPROTOOPT `fd` has no keys; ENOTRECOVERABLE keys set before a raw
 * clone(2).
 * Any thread may call it. Since 0.1.
 *
 * Requires:
 * `info` is NULL or points to a writable struct as large as its `size` says.
 */
int uktls_get_info(int fd, struct uktls_info *info);

/* The version of the library, as "MAJOR.MINOR.PATCH". Static, never NULL. Since 0.1. */
const char *uktls_version(void);

/* Receive up to `len` bytes of application data from `fd`.
 *
 * Returns the bytes received (records are merged; a record that does not fit is continued by the
 * next call), 0 at the end of the stream, or -1 with errno. `flags`: MSG_DONTWAIT, MSG_PEEK,
 * MSG_WAITALL; MSG_TRUNC and MSG_OOB are ignored; MSG_ERRQUEUE is passed to the socket.
 * A blocking descriptor waits until a record is complete, SO_RCVTIMEO runs out, or a signal comes.
 *
 * Errors: EBADF, ENOTSOCK; ENOPROTOOPT no TLS on `fd`; EFAULT `buf` cannot be written to, with which
 * nothing is lost; ENOMEM, the same; EAGAIN; EINTR; EDEADLK the caller is a signal handler, and the call that it has
 * interrupted is in the middle of receiving from `fd`; EIO a
 * record of another type (an alert, a handshake message) comes next: `tls_recvmsg` with room for
 * its type reads it; EBADMSG a record is not authentic or too short, EMSGSIZE too long, EINVAL of
 * another version: what follows is never delivered (a call that does not wait is told of a bad
 * header once, then EAGAIN, and 0 when the peer has closed); EKEYEXPIRED the peer has changed its
 * keys, and `tls_rx_init` has not been called with the new ones; ECONNRESET and other network errors;
 * ENOTRECOVERABLE keys set before a raw clone(2), or an internal fault.
 * Any thread may call it; the bytes of one call are contiguous in the stream. Without RX keys it is
 * recv(2). Since 0.1. Mirrors recv(2) on a kTLS socket (Linux net/tls/tls_sw.c).
 *
 * Requires:
 * `buf` is NULL or writable for `len` bytes.
 */
ptrdiff_t tls_recv(int fd,
                   void *buf,
                   size_t len,
                   int flags);

/* Receive into `msg->msg_iov`: application data as `tls_recv`, or one record of another type. With
 * room in `msg->msg_control` (CMSG_SPACE(1) bytes) the type is told by a control message of level
 * SOL_TLS and type TLS_GET_RECORD_TYPE, for application data too.
 *
 * Returns and fails as `tls_recv`; EFAULT for what of `msg` cannot be accessed,
 * EMSGSIZE for more than 1024 entries. `msg->msg_flags`: MSG_EOR a record was consumed to its end,
 * MSG_CTRUNC there was no room for the type. An empty record of another type returns 0 with its
 * type. On failure `msg` is unchanged, but its control buffer may have been written to.
 * Since 0.1. Mirrors recvmsg(2) on a kTLS socket (Linux net/tls/tls_sw.c).
 *
 * Requires:
 * `msg` is NULL or points to a `struct msghdr` whose pointers are NULL or writable for their
 * lengths.
 */
ptrdiff_t tls_recvmsg(int fd, struct msghdr *msg, int flags);

/* Queue `len` bytes as TLS application data on `fd`.
 *
 * Returns the bytes accepted (1 to `len`; 0 if `len` is 0), or -1 with errno. Accepted means
 * sealed, being sealed, or collected in the open record, not yet sent: a transmit failure after
 * that is reported by later calls on `fd`. `buf` may be reused when the call returns.
 * `flags`: MSG_MORE (keep what does not fill a record open), MSG_DONTWAIT, MSG_NOSIGNAL, MSG_EOR.
 * A blocking descriptor waits until all bytes are accepted, SO_SNDTIMEO runs out, or a signal
 * comes; a non-blocking one accepts what there is room for.
 *
 * Errors: EBADF, ENOTSOCK; ENOPROTOOPT no keys on `fd`; EFAULT `buf` cannot be read (whole
 * records in front of that are accepted); ENOMEM no memory for a record; EOPNOTSUPP another
 * flag; EINVAL MSG_MORE with MSG_EOR, or a length beyond SSIZE_MAX; EAGAIN the socket took no more
 * just now; EINTR; EDEADLK the caller is a signal handler, and the call that it has interrupted
 * sends on `fd`; EPIPE (with SIGPIPE, unless MSG_NOSIGNAL) shut down, or the peer is gone;
 * ECONNRESET and other network errors; EBADMSG a record could not be sealed, or the sequence
 * numbers are used up; ENOTRECOVERABLE keys set before a raw clone(2), or an internal fault.
 * Any thread may call it, and after fork(2) any of the processes; the bytes of one call are
 * contiguous in the stream.
 * Since 0.1. Mirrors send(2) on a kTLS socket (Linux net/tls/tls_sw.c).
 *
 * Requires:
 * `buf` is NULL or readable for `len` bytes.
 */
ptrdiff_t tls_send(int fd, const void *buf, size_t len, int flags);

/* Queue the bytes of `msg->msg_iov` on `fd`: as `tls_send`, or, with a control message of level
 * SOL_TLS and type TLS_SET_RECORD_TYPE, as records of the content type in its first data byte
 * (alerts, handshake messages). The open record is sealed first then.
 *
 * Returns and fails as `tls_send`, and EFAULT for what of `msg` cannot be read,
 * EMSGSIZE for more than 1024 entries, EINVAL for a control buffer without a valid SOL_TLS
 * message, for an unknown SOL_TLS message, and for a record type together with MSG_MORE.
 * `msg_name` and `msg_flags` are ignored.
 * Since 0.1. Mirrors sendmsg(2) on a kTLS socket (Linux net/tls/tls_sw.c).
 *
 * Requires:
 * `msg` is NULL or points to a `struct msghdr` whose pointers are NULL or readable for their
 * lengths.
 */
ptrdiff_t tls_sendmsg(int fd, const struct msghdr *msg, int flags);

/* Queue `size` bytes at `page + offset` on `fd` without copying them. They must stay unchanged
 * until `uktls_tx_pending(fd)` has fallen below their place in the stream: with the `threads`
 * engine they are read after this call has returned.
 * `flags` as for `tls_send`; MSG_SENDPAGE_NOTLAST (0x20000) counts like MSG_MORE.
 *
 * Returns and fails as `tls_send`; EINVAL `offset + size` is out of range.
 * Since 0.1. Mirrors the kernel's sendpage on a kTLS socket (Linux net/tls/tls_sw.c, before 6.5).
 *
 * Requires:
 * `page` is NULL or readable for `offset + size` bytes, for as long as said above.
 */
ptrdiff_t tls_sendpage(int fd, const void *page, size_t offset, size_t size, int flags);

/* Queue up to `count` bytes of the file `in_fd` on `fd`: from `*offset`, which is moved on by the
 * bytes accepted, or, if `offset` is NULL, from the file's own position.
 *
 * Returns the bytes accepted, 0 at the end of the file, or -1 with errno: as `tls_send`, and what
 * sendfile(2) says of `in_fd` and `*offset`: EINVAL a negative one, or `in_fd` is a pipe, a socket or a directory, ESPIPE an
 * offset for one of those.
 * Since 0.1. Mirrors sendfile(2) to a kTLS socket.
 *
 * Requires:
 * `offset` is NULL or points to a writable `off_t`.
 */
ptrdiff_t tls_sendfile(int fd,
                       int in_fd,
                       off_t *offset,
                       size_t count);

/* Move up to `len` bytes between a pipe and a TLS connection: from the pipe `fd_in` to the
 * connection `fd_out`, or from the connection `fd_in` to the pipe `fd_out`, then of one record at
 * most. `flags`: SPLICE_F_MORE keeps what does not fill a record open, SPLICE_F_NONBLOCK does not
 * wait for the pipe, nor for records (whether room is waited for is the socket's O_NONBLOCK, which
 * counts for records, too); SPLICE_F_MOVE and SPLICE_F_GIFT are accepted and have no effect.
 * `off_in` and `off_out` must be NULL.
 *
 * Returns the bytes moved, 0 at the end of the pipe or stream, or -1 with errno: as `tls_send` or
 * `tls_recv`; ESPIPE an offset was given for the pipe; EINVAL one for the connection, another flag,
 * the other end is no pipe, or a record that is no application data comes next.
 * Since 0.1. Mirrors splice(2) on a kTLS socket.
 *
 * Requires:
 * `off_in` and `off_out` are not followed unless the direction of the connection has no keys: then
 * they are as for splice(2).
 */
ptrdiff_t tls_splice(int fd_in,
                     off_t *off_in,
                     int fd_out,
                     off_t *off_out,
                     size_t len,
                     unsigned int flags);

/* Wait for events on `n` descriptors, with and without TLS, for up to `timeout_ms` milliseconds
 * (negative: for ever). Records that were deferred on them are moved along first.
 *
 * Returns and fails as poll(2). A connection is readable when `tls_recvmsg` has something to return
 * at once: a complete record, the rest of one, an error, the end. epoll, io_uring and the like work
 * on the sockets themselves; of a record that comes in pieces they may report the first bytes, once.
 * Since 0.1. Mirrors poll(2).
 *
 * Requires:
 * `fds` is NULL or points to `n` structs.
 */
int tls_poll(struct pollfd *fds,
             nfds_t n,
             int timeout_ms);

/* Shut the connection on `fd` down: SHUT_RD at once, SHUT_WR and SHUT_RDWR behind the last
 * accepted byte, the open record included. Does not wait: if the socket has no room now, the FIN
 * follows in the background. A close_notify alert is the program's to send before.
 *
 * Returns 0, or -1 with errno: as shutdown(2).
 * Since 0.1. Mirrors shutdown(2).
 */
int tls_shutdown(int fd, int how);

/* Close `fd`, with or without TLS on it. What was accepted, the open record included, is sent
 * first: in the background if the socket has no room now. SO_LINGER with a time waits that long;
 * with no time it drops what is queued and resets the connection.
 *
 * Returns 0, or -1 with errno: as close(2). The descriptor's number is free when it returns. A
 * receive that another thread sleeps in ends within a second, with EBADF.
 * Where other processes have the connection by fork, an open record stays open for them.
 * Since 0.1.
 */
int uktls_close(int fd);

/* Wait until the kernel has every byte accepted on `fd`, the open record included (it is sealed),
 * for up to `timeout_ms` milliseconds (negative: for ever).
 *
 * Returns 0, or -1 with errno: ETIMEDOUT; EINTR; EBADF, ENOTSOCK, ENOPROTOOPT; otherwise what a
 * send would report.
 * Since 0.1.
 */
int uktls_flush(int fd, int timeout_ms);

/* Plaintext bytes accepted on `fd` and not yet handed to the kernel, the open record included; 0
 * for a descriptor without keys and for a broken connection, which sends nothing any more.
 * Never fails, leaves errno alone, never waits. Since 0.1.
 */
size_t uktls_tx_pending(int fd);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* UKTLS_H */
