/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "harness.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>

const struct suite suites[] = {
    {0x0303, 51, "1.2 AES-128-GCM", 8, 16, 4},  {0x0303, 52, "1.2 AES-256-GCM", 8, 32, 4},
    {0x0303, 53, "1.2 AES-128-CCM", 8, 16, 4},  {0x0303, 54, "1.2 ChaCha20", 12, 32, 0},
    {0x0303, 55, "1.2 SM4-GCM", 8, 16, 4},      {0x0303, 56, "1.2 SM4-CCM", 8, 16, 4},
    {0x0303, 57, "1.2 ARIA-128-GCM", 8, 16, 4}, {0x0303, 58, "1.2 ARIA-256-GCM", 8, 32, 4},
    {0x0304, 51, "1.3 AES-128-GCM", 8, 16, 4},  {0x0304, 52, "1.3 AES-256-GCM", 8, 32, 4},
    {0x0304, 53, "1.3 AES-128-CCM", 8, 16, 4},  {0x0304, 54, "1.3 ChaCha20", 12, 32, 0},
    {0x0304, 55, "1.3 SM4-GCM", 8, 16, 4},      {0x0304, 56, "1.3 SM4-CCM", 8, 16, 4},
};
const size_t suite_count = sizeof suites / sizeof suites[0];

int current_engine = UKTLS_ENGINE_AUTO;
_Atomic int signals_seen;

static void put64(unsigned char *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (unsigned char)value;
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

struct keys make_keys(const struct suite *suite, uint64_t rec_seq, unsigned char tag)
{
    struct keys keys = {.suite = suite};
    unsigned char *at = keys.info;
    memcpy(at, &suite->version, 2);
    memcpy(at + 2, &suite->cipher, 2);
    at += 4;
    for (size_t i = 0; i < suite->iv; i++)
        *at++ = (unsigned char)(0xb0 + i);
    for (size_t i = 0; i < suite->key; i++)
        *at++ = (unsigned char)(i ^ tag);
    for (size_t i = 0; i < suite->salt; i++)
        *at++ = (unsigned char)(0xa0 + i);
    put64(at, rec_seq);
    keys.len = (size_t)(at + 8 - keys.info);
    return keys;
}

struct keys tls12_keys(void)
{
    return make_keys(&suites[0], 5, 0);
}

struct keys tls13_keys(void)
{
    return make_keys(&suites[8], 0, 0);
}

void tcp_pair_sized(int fd[2], int send, int receive)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listener >= 0);
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd[0] >= 0);
    if (receive)
        assert_ok(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive));
    if (send)
        assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &send, sizeof send));
    assert_ok(bind(listener, (struct sockaddr *)&address, len));
    assert_ok(listen(listener, 1));
    assert_ok(getsockname(listener, (struct sockaddr *)&address, &len));
    assert_ok(connect(fd[0], (struct sockaddr *)&address, len));
    fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd[1] >= 0);
    assert_ok(close(listener));
}

void tcp_pair(int fd[2])
{
    tcp_pair_sized(fd, 0, 0);
}

void small_tcp_pair(int fd[2])
{
    tcp_pair_sized(fd, 16384, 16384);
}

void unix_pair(int fd[2])
{
    assert_ok(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
}

void unix_small_pair(int fd[2])
{
    int size = 16384;
    unix_pair(fd);
    assert_ok(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
}

void tls_pair(int fd[2], const struct keys *keys, struct receiver *receiver)
{
    tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys->info, keys->len));
    receiver_init(receiver, fd[1], keys);
}

void small_tls_pair(int fd[2], const struct keys *keys, struct receiver *receiver)
{
    small_tcp_pair(fd);
    assert_ok(tls_tx_init(fd[0], keys->info, keys->len));
    receiver_init(receiver, fd[1], keys);
}

void receiver_init(struct receiver *r, int fd, const struct keys *keys)
{
    memset(r, 0, sizeof *r);
    r->fd = fd;
    r->pattern = true;
    receiver_rekey(r, keys);
}

void receiver_rekey(struct receiver *r, const struct keys *keys)
{
    r->keys = *keys;
    r->seq = get64(keys->info + keys->len - 8);
    r->iv = get64(keys->info + 4);
}

__attribute__((format(printf, 2, 3))) static int fault(struct receiver *r, const char *format, ...)
{
    char what[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    snprintf(r->fault, sizeof r->fault, "record %llu, byte %llu: %s",
             (unsigned long long)r->records, (unsigned long long)r->position, what);
    return -1;
}

/* 1: `len` bytes are in `raw`; 0: the end, before the first of them; -1: a fault. */
static int fetch(struct receiver *r, size_t len)
{
    while (r->raw_len < len) {
        struct pollfd wait = {.fd = r->fd, .events = POLLIN};
        int ready = poll(&wait, 1, DEADLINE_MS);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return fault(r, "nothing came (%zu of %zu bytes)", r->raw_len, len);
        ssize_t n = recv(r->fd, r->raw + r->raw_len, len - r->raw_len, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return fault(r, "recv: %s", strerror(errno));
        if (n == 0)
            return r->raw_len == 0 ? 0 : fault(r, "cut off after %zu bytes", r->raw_len);
        r->raw_len += (size_t)n;
    }
    return 1;
}

const EVP_CIPHER *suite_evp(const struct suite *suite)
{
    switch (suite->cipher) {
    case 51: return EVP_aes_128_gcm();
    case 52: return EVP_aes_256_gcm();
    case 53: return EVP_aes_128_ccm();
    case 54: return EVP_chacha20_poly1305();
    case 57: return EVP_aria_128_gcm();
    case 58: return EVP_aria_256_gcm();
    default: return NULL; /* SM4: OpenSSL 3.0 has none of its AEADs */
    }
}

static bool open_record(const struct receiver *r, const unsigned char *nonce,
                        const unsigned char *aad, int aad_len, const unsigned char *sealed,
                        int len, unsigned char *out)
{
    const struct suite *suite = r->keys.suite;
    const unsigned char *key = r->keys.info + 4 + suite->iv;
    bool ccm = suite->cipher == 53;
    int n = 0;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool good = ctx && EVP_DecryptInit_ex(ctx, suite_evp(suite), NULL, NULL, NULL) == 1 &&
                EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, 12, NULL) == 1 &&
                EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16,
                                    (void *)(uintptr_t)(sealed + len)) == 1 &&
                EVP_DecryptInit_ex(ctx, NULL, NULL, key, nonce) == 1 &&
                (!ccm || EVP_DecryptUpdate(ctx, NULL, &n, NULL, len) == 1) &&
                EVP_DecryptUpdate(ctx, NULL, &n, aad, aad_len) == 1 &&
                EVP_DecryptUpdate(ctx, out, &n, sealed, len) == 1 &&
                (ccm || EVP_DecryptFinal_ex(ctx, out + n, &n) == 1);
    EVP_CIPHER_CTX_free(ctx);
    return good;
}

size_t explicit_nonce_len(const struct suite *suite)
{
    return suite->version == 0x0303 && suite->cipher != 54 ? 8 : 0;
}

int record_inputs(const struct keys *keys, uint64_t seq, uint64_t iv, const unsigned char *head,
                  size_t content_len, unsigned char nonce[12], unsigned char aad[13])
{
    const struct suite *suite = keys->suite;
    const unsigned char *salt = keys->info + 4 + suite->iv + suite->key;
    if (explicit_nonce_len(suite)) {
        memcpy(nonce, salt, 4);
        put64(nonce + 4, iv);
    } else {
        if (suite->salt)
            memcpy(nonce, salt, 4);
        memcpy(nonce + suite->salt, keys->info + 4, suite->iv);
        put64(nonce + 4, get64(nonce + 4) ^ seq);
    }
    if (suite->version == 0x0304) {
        memcpy(aad, head, 5);
        return 5;
    }
    put64(aad, seq);
    memcpy(aad + 8, head, 3);
    aad[11] = (unsigned char)(content_len >> 8);
    aad[12] = (unsigned char)content_len;
    return 13;
}

int receiver_next(struct receiver *r)
{
    const struct suite *suite = r->keys.suite;
    bool tls13 = suite->version == 0x0304;
    size_t explicit_nonce = explicit_nonce_len(suite);
    size_t overhead = explicit_nonce + 16 + tls13;
    unsigned char nonce[12], aad[13];

    r->raw_len = 0;
    int got = fetch(r, 5);
    if (got <= 0)
        return got;
    size_t length = (size_t)r->raw[3] << 8 | r->raw[4];
    if (r->raw[1] != 3 || r->raw[2] != 3)
        return fault(r, "version bytes %02x %02x", r->raw[1], r->raw[2]);
    if (tls13 && r->raw[0] != DATA)
        return fault(r, "outer type %d", r->raw[0]);
    if (length < overhead + 1 || length > RECORD_MAX + overhead)
        return fault(r, "length field %zu", length);
    if ((got = fetch(r, 5 + length)) <= 0)
        return got ? got : fault(r, "cut off after the header");
    r->type = r->raw[0];
    r->len = length - overhead;

    if (explicit_nonce && get64(r->raw + 5) != r->iv)
        return fault(r, "explicit nonce %016llx, not %016llx",
                     (unsigned long long)get64(r->raw + 5), (unsigned long long)r->iv);
    int aad_len = record_inputs(&r->keys, r->seq, r->iv, r->raw, r->len, nonce, aad);
    bool opened = suite_evp(suite) != NULL;
    if (opened && !open_record(r, nonce, aad, aad_len, r->raw + 5 + explicit_nonce,
                               (int)(r->len + tls13), r->data))
        return fault(r, "does not open as number %llu (type %d, %zu bytes)",
                     (unsigned long long)r->seq, r->type, r->len);
    if (opened && tls13)
        r->type = r->data[r->len];
    if (opened && r->pattern)
        for (size_t i = 0; i < r->len; i++)
            if (r->data[i] != (r->position + i) % 251)
                return fault(r, "wrong plaintext at byte %zu of %zu", i, r->len);
    r->position += r->len;
    r->records++;
    r->seq++;
    r->iv++;
    return 1;
}

void expect_records(struct receiver *r, const char *layout)
{
    for (const char *at = layout; *at;) {
        char *end;
        unsigned long type = strtoul(at, &end, 10);
        assert_int_equal(*end, ':');
        unsigned long len = strtoul(end + 1, &end, 10);
        int got = receiver_next(r);
        if (got < 0)
            fail_msg("%s, at \"%s\"", r->fault, at);
        if (got == 0)
            fail_msg("the stream ended at \"%s\"", at);
        if (r->type != type || r->len != len)
            fail_msg("record %d:%zu, not \"%s\"", r->type, r->len, at);
        at = end + strspn(end, " ");
    }
}

void expect_bytes(struct receiver *r, uint64_t total)
{
    while (r->position < total) {
        int got = receiver_next(r);
        if (got < 0)
            fail_msg("%s", r->fault);
        if (got == 0)
            fail_msg("the stream ended after %llu of %llu bytes", (unsigned long long)r->position,
                     (unsigned long long)total);
        assert_int_equal(r->type, DATA);
    }
    if (r->position != total)
        fail_msg("%llu bytes, not %llu", (unsigned long long)r->position,
                 (unsigned long long)total);
}

void expect_end(struct receiver *r)
{
    int got = receiver_next(r);
    if (got < 0)
        fail_msg("%s", r->fault);
    if (got > 0)
        fail_msg("record %d:%zu instead of the end", r->type, r->len);
}

void expect_nothing(int fd)
{
    char byte;
    assert_fails(recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK), EAGAIN);
}

static void *drain_main(void *argument)
{
    struct drain *d = argument;
    while (receiver_next(&d->receiver) > 0) {
    }
    return NULL;
}

void drain_start(struct drain *d, int fd, const struct keys *keys)
{
    receiver_init(&d->receiver, fd, keys);
    drain_go_on(d);
}

void drain_go_on(struct drain *d)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    assert_int_equal(pthread_create(&d->thread, NULL, drain_main, d), 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void drain_finish(struct drain *d, uint64_t total)
{
    assert_int_equal(pthread_join(d->thread, NULL), 0);
    if (d->receiver.fault[0])
        fail_msg("%s", d->receiver.fault);
    if (d->receiver.position != total)
        fail_msg("%llu bytes came, not %llu", (unsigned long long)d->receiver.position,
                 (unsigned long long)total);
}

void fill_pattern(void *buffer, uint64_t position, size_t len)
{
    unsigned char *to = buffer;
    for (size_t i = 0; i < len; i++)
        to[i] = (unsigned char)((position + i) % 251);
}

/* One buffer that starts at 0; every place in the pattern is found within its first 251 bytes. */
const void *pattern(uint64_t position, size_t len)
{
    static unsigned char *buffer;
    static size_t size;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!buffer) {
        size = (16 << 20) + 251;
        buffer = malloc(size);
        if (!buffer)
            abort();
        fill_pattern(buffer, 0, size);
    }
    pthread_mutex_unlock(&lock);
    if (len > size - 251)
        abort();
    return buffer + position % 251;
}

void send_all(int fd, uint64_t position, size_t len, int flags)
{
    assert_returns(tls_send(fd, pattern(position, len), len, flags), len);
}

uint64_t fill_socket(int fd, uint64_t position, size_t step)
{
    uint64_t accepted = 0;
    for (;;) {
        ssize_t n = tls_send(fd, pattern(position + accepted, step), step, MSG_DONTWAIT);
        if (n < 0) {
            assert_int_equal(errno, EAGAIN);
            return accepted;
        }
        assert_true(n > 0 && (size_t)n <= step);
        accepted += (uint64_t)n;
        assert_true(accepted < 256u << 20);
    }
}

void expect_pending(int fd, size_t bytes)
{
    struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < DEADLINE_MS && uktls_tx_pending(fd) != bytes; i++)
        nanosleep(&pause, NULL);
    assert_int_equal(uktls_tx_pending(fd), bytes);
}

void expect_no_connections(void)
{
    struct uktls_stats stats = {.size = sizeof stats};
    struct timespec pause = {.tv_nsec = 1000000};
    for (int i = 0; i < DEADLINE_MS; i++) {
        assert_ok(uktls_get_stats(&stats));
        if (stats.tls_curr_tx_sw == 0)
            return;
        nanosleep(&pause, NULL);
    }
    fail_msg("%llu connections are left", (unsigned long long)stats.tls_curr_tx_sw);
}

ssize_t send_typed(int fd, unsigned char type, const void *data, size_t len, int flags)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(1)];
    } control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control.bytes};
    memset(&control, 0, sizeof control);
    control.header.cmsg_level = SOL_TLS;
    control.header.cmsg_type = TLS_SET_RECORD_TYPE;
    control.header.cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(&control.header) = type;
    return tls_sendmsg(fd, &msg, flags);
}

void wait_for(int fd, short events)
{
    struct pollfd wait = {.fd = fd, .events = events};
    assert_returns(poll(&wait, 1, DEADLINE_MS), 1);
    if (!(wait.revents & events))
        fail_msg("poll: %#x, not %#x", wait.revents, events);
}

void set_nonblocking(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    assert_ok(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

bool under_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload && strstr(preload, "vgpreload");
}

void close_both(int fd[2])
{
    assert_ok(uktls_close(fd[0]));
    assert_ok(close(fd[1]));
}

int wait_child(pid_t child)
{
    int status = -1;
    pid_t got;
    /* The alarm of the test is the deadline. */
    while ((got = waitpid(child, &status, 0)) < 0 && errno == EINTR) {
    }
    assert_int_equal(got, child);
    return status;
}

void become_child(const char *what, int first, int second)
{
    int high[] = {fcntl(first, F_DUPFD, 100), second < 0 ? -1 : fcntl(second, F_DUPFD, 100)};
    char engine[16];
    for (int i = 0; i < 2; i++)
        if (high[i] >= 0)
            dup2(high[i], 3 + i);
    for (int fd = second < 0 ? 4 : 5; fd < 1024; fd++)
        close(fd);
    snprintf(engine, sizeof engine, "%d", current_engine);
    setenv("UKTLS_TEST_ENGINE", engine, 1);
    setenv("UKTLS_TEST_CHILD", what, 1);
    /* Not /proc/self/exe, which is valgrind's under valgrind. */
    execl(program_invocation_name, program_invocation_name, (char *)NULL);
    _exit(9);
}

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

void count_signal(int number, int sa_flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = sa_flags};
    signals_seen = 0;
    assert_ok(sigaction(number, &action, NULL));
}

const char *engine_name(int engine)
{
    return engine == UKTLS_ENGINE_INLINE    ? "inline"
           : engine == UKTLS_ENGINE_THREADS ? "threads"
           : engine == UKTLS_ENGINE_OPENSSL ? "openssl"
                                            : "auto";
}

void use_engine(int engine)
{
    /* The accelerator by its settings, and not by the environment. */
    struct uktls_config config = {.size = sizeof config, .engine = engine, .threads = 2,
                                  .engine_id = getenv("UKTLS_TEST_ENGINE_ID"), .engine_in_flight = 300,
                                  .engine_timeout_ms = getenv("UKTLS_TEST_ENGINE_ID") ? 2000 : 0};
    if (uktls_configure(&config) != 0) {
        perror("uktls_configure");
        exit(2);
    }
    current_engine = engine;
}

/* A test that hangs ends the program instead. UKTLS_TEST_SLOW: on an emulated processor. */
static void arm(unsigned seconds)
{
    alarm(under_valgrind() || getenv("UKTLS_TEST_SLOW") ? seconds * 6 : seconds);
}

static int group_setup(void **state)
{
    (void)state;
    arm(100);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    alarm(0);
    return 0;
}

int run_once(const char *file, const struct CMUnitTest *tests, size_t count)
{
    (void)pattern(0, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%s\n", file);
    return _cmocka_run_group_tests(file, tests, count, group_setup, group_teardown);
}

int run_engines(const char *file, const struct CMUnitTest *tests, size_t count)
{
    const char *only = getenv("UKTLS_ENGINE");
    static const int engines[] = {UKTLS_ENGINE_INLINE, UKTLS_ENGINE_THREADS, UKTLS_ENGINE_AUTO, UKTLS_ENGINE_OPENSSL};
    int failed = 0, ran = 0;
    /* Before any thread starts. */
    (void)pattern(0, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++) {
        char name[64];
        /* "openssl:" and the accelerator's name. */
        if (only ? strncmp(only, engine_name(engines[i]), strcspn(only, ":")) : engines[i] == UKTLS_ENGINE_OPENSSL)
            continue;
        use_engine(engines[i]);
        snprintf(name, sizeof name, "%s with engine %s", file, engine_name(engines[i]));
        printf("%s\n", name);
        failed += _cmocka_run_group_tests(name, tests, count, group_setup, group_teardown);
        ran++;
    }
    if (!ran)
        fprintf(stderr, "UKTLS_ENGINE=%s is no engine\n", only);
    return failed || !ran;
}
