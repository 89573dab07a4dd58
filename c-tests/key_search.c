/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What is searched for is kept in memory that is not dumped, and turned around; so it is not found itself.
 */
#include "key_search.h"

#include <linux/tls.h>

#include <sys/mman.h>
#include <sys/random.h>
#include <ucontext.h>

/* In programs of their own, where there are no other tests to go on with. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno));  \
            _exit(99);                                                                             \
        }                                                                                          \
    } while (0)

enum { PATTERNS_MAX = 4096, KEYS_MAX = 8, KEY_MAX = 32, CHUNK = 64 * 1024 };

/* Whoever looks for the patterns has them only like this. */
static const uint64_t MASK = 0x5bd1e995a3c70f27;

static struct secrets {
    uint64_t patterns[PATTERNS_MAX];
    unsigned char known[65536 / 8]; /* the lower 16 bits of what is searched for */
    size_t count;
    unsigned char keys[KEYS_MAX][KEY_MAX];
    unsigned char schedule[240];
    unsigned char info[64];
    unsigned char memory[CHUNK];
    unsigned char stack[256 * 1024];
} *hidden;

static int volatile is_found;

/* OpenSSL keeps what it needs of a key in the program's heap: only what is left on the stack counts. */
static bool heap_may_have_it;

static void hide(void)
{
    hidden = mmap(NULL, sizeof *hidden, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(hidden != MAP_FAILED);
    MUST(madvise(hidden, sizeof *hidden, MADV_DONTDUMP) == 0);
}

/* Eight bytes, in the given order, byte by byte: they never stand together anywhere else. */
static void search_for(const unsigned char *from, const int order[8])
{
    uint64_t *at = &hidden->patterns[hidden->count++];
    MUST(hidden->count <= PATTERNS_MAX);
    for (int i = 0; i < 8; i++)
        ((volatile unsigned char *)at)[i] = from[order[i]] ^ ((const unsigned char *)&MASK)[i];
    uint16_t low = (uint16_t)*at;
    hidden->known[low / 8] |= (unsigned char)(1 << low % 8);
}

/* All eight bytes in a row that begin at a word, as they are and as machines of the other byte order have them; and
 * each word twice, as vector registers have them. */
static void search_for_all(const unsigned char *bytes, size_t len)
{
    static const int orders[][8] = {
        {0, 1, 2, 3, 4, 5, 6, 7}, {7, 6, 5, 4, 3, 2, 1, 0}, {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3},
    };
    static const int twice[8] = {0, 1, 2, 3, 0, 1, 2, 3};
    for (size_t at = 0; at + 8 <= len; at += 4)
        for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
            search_for(bytes + at, orders[i]);
    for (size_t at = 0; at < len; at += 4)
        search_for(bytes + at, twice);
}

static unsigned char times(unsigned char a, unsigned char b)
{
    unsigned char product = 0;
    for (; b; b >>= 1, a = (unsigned char)(a << 1 ^ (a & 0x80 ? 0x1b : 0)))
        if (b & 1)
            product ^= a;
    return product;
}

static unsigned char s_box(unsigned char byte)
{
    unsigned char inverse = byte, result;
    for (int i = 0; i < 6; i++)
        inverse = times(times(inverse, inverse), byte);
    inverse = times(inverse, inverse); /* byte ^ 254 */
    result = inverse;
    for (int i = 1; i < 5; i++)
        result ^= (unsigned char)(inverse << i | inverse >> (8 - i));
    return result ^ 0x63;
}

/* Each of AES's round keys gives the key away (FIPS 197, 5.2). */
static size_t expand_aes(const unsigned char *key, size_t len)
{
    unsigned char *word = hidden->schedule, round = 1;
    size_t words = len / 4, total = 4 * (words + 7);
    for (size_t i = 0; i < total; i++, word += 4) {
        for (int b = 0; b < 4; b++) {
            volatile unsigned char *to = word + b;
            if (i < words) {
                *to = key[4 * i + b];
                continue;
            }
            const unsigned char *before = word - 4;
            unsigned char byte = before[b];
            if (i % words == 0)
                byte = s_box(before[(b + 1) % 4]) ^ (b == 0 ? round : 0);
            else if (words > 6 && i % words == 4)
                byte = s_box(byte);
            *to = word[b - 4 * (int)words] ^ byte;
        }
        if (i >= words && i % words == 0)
            round = times(round, 2);
    }
    return 4 * total;
}

/* Makes a key that nobody has, and has it searched for from now on. */
static void make_key(const struct suite *suite, int number)
{
    unsigned char *key = hidden->keys[number];
    MUST(getrandom(key, suite->key, 0) == (ssize_t)suite->key);
    search_for_all(key, suite->key);
    if (suite->cipher >= 51 && suite->cipher <= 53) {
        size_t len = expand_aes(key, suite->key);
        search_for_all(hidden->schedule + suite->key, len - suite->key);
    }
}

/* Fills `info`; returns its length. */
static size_t info_with_key(const struct suite *suite, int number)
{
    volatile unsigned char *at = hidden->info;
    const unsigned char *head = (const unsigned char *)suite;
    for (size_t i = 0; i < 4; i++)
        *at++ = head[i];
    for (size_t i = 0; i < suite->iv; i++)
        *at++ = (unsigned char)(0xb0 + i);
    for (size_t i = 0; i < suite->key; i++)
        *at++ = hidden->keys[number][i];
    for (size_t i = 0; i < suite->salt; i++)
        *at++ = (unsigned char)(0xa0 + i);
    for (size_t i = 0; i < 8; i++)
        *at++ = 0;
    return (size_t)(at - hidden->info);
}

static void nothing(int number)
{
    (void)number;
}

/* Has the kernel put this thread's registers on the stack. */
static void spill(void)
{
    raise(SIGUSR1);
}

static bool is_pattern(uint64_t value)
{
    uint16_t low = (uint16_t)value;
    if (!(hidden->known[low / 8] >> low % 8 & 1))
        return false;
    for (size_t i = 0; i < hidden->count; i++)
        if (hidden->patterns[i] == value)
            return true;
    return false;
}

static void search_page(int memory, uint64_t start, const char *what, const char *name)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    if (pread(memory, hidden->memory, size, (off_t)start) != (ssize_t)size)
        return;
    for (size_t at = 0; at + 8 <= size; at++) {
        uint64_t value;
        memcpy(&value, hidden->memory + at, 8);
        if (is_pattern(value ^ MASK)) {
            fprintf(stderr, "%s: a key at %#lx, %s\n", what, (unsigned long)(start + at), name);
            is_found = 1;
        }
    }
}

/* All that a core dump would have, of what the process has written. */
static void search_memory(const char *what)
{
    FILE *maps = fopen("/proc/self/smaps", "re");
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    char line[512], name[256] = "", access[8] = "";
    unsigned long start = 0, end = 0, size = (unsigned long)sysconf(_SC_PAGESIZE), pages = 0;
    MUST(maps && memory >= 0 && pagemap >= 0 && size <= CHUNK);
    while (fgets(line, sizeof line, maps)) {
        unsigned long first, last;
        char rights[8], rest[256] = "";
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %255[^\n]", &first, &last, rights, rest) >= 3) {
            start = first, end = last;
            strcpy(access, rights);
            strcpy(name, rest);
        }
        if (strncmp(line, "VmFlags:", 8) != 0 || strstr(line, " dd") || access[1] != 'w')
            continue;
        if (heap_may_have_it && !strstr(name, "[stack]"))
            continue;
        for (unsigned long at = start; at < end; at += size) {
            uint64_t entry = 0;
            MUST(pread(pagemap, &entry, 8, (off_t)(at / size * 8)) == 8);
            /* Present, or swapped. */
            if (entry >> 62) {
                search_page(memory, at, what, name);
                pages++;
            }
        }
    }
    /* Of a larger size one may be all that there is of a stack. */
    MUST(pages * size > 4096);
    fclose(maps);
    close(memory);
    close(pagemap);
}

static const char *volatile searched_when;
static ucontext_t searching, searched;

static void search_here(void)
{
    search_memory(searched_when);
}

/* On another stack, so as not to write over what is on this one. */
static void search(const char *what)
{
    searched_when = what;
    MUST(getcontext(&searching) == 0);
    searching.uc_stack.ss_sp = hidden->stack;
    searching.uc_stack.ss_size = sizeof hidden->stack;
    searching.uc_link = &searched;
    makecontext(&searching, search_here, 0);
    MUST(swapcontext(&searched, &searching) == 0);
}

static void set_key(int fd, int direction, const struct suite *suite, int number)
{
    size_t len = info_with_key(suite, number);
    MUST((direction == TLS_TX ? tls_tx_init : tls_rx_init)(fd, hidden->info, len) == 0);
    spill();
}

/* Records of all sizes, one way. */
static void talk(int from, int to)
{
    static const size_t sizes[] = {1, 100, 1000, 4000, 16384, 40000};
    static unsigned char bytes[40000];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        MUST(tls_send(from, bytes, sizes[i], 0) == (ssize_t)sizes[i]);
        spill();
        for (size_t got = 0; got < sizes[i];) {
            ssize_t len = tls_recv(to, bytes, sizes[i] - got, 0);
            spill();
            MUST(len > 0);
            got += (size_t)len;
        }
    }
}

/* The library reads a key update before new keys are taken. */
static void rekey(int from, int to, const struct suite *suite, int number)
{
    static const unsigned char update[5] = {24, 0, 0, 1, 0};
    unsigned char got[16];
    MUST(send_typed(from, HANDSHAKE, update, sizeof update, 0) == sizeof update);
    set_key(from, TLS_TX, suite, number);
    union {
        char room[CMSG_SPACE(1)];
        struct cmsghdr align;
    } control;
    struct iovec all = {got, sizeof got};
    struct msghdr message = {
        .msg_iov = &all, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    MUST(tls_recvmsg(to, &message, 0) == sizeof update);
    set_key(to, TLS_RX, suite, number);
}

/* Both ways, between two sockets of this process. */
static void use(int fd[2])
{
    talk(fd[0], fd[1]);
    talk(fd[1], fd[0]);
}

/* The life of a connection. */
static int live(const struct suite *suite, bool has_openssl)
{
    const char *aead = getenv("UKTLS_AEAD");
    int fd[2];
    bool is_tls13 = suite->version == 0x0304;
    socklen_t len = sizeof hidden->info;
    heap_may_have_it = strcmp(aead, "openssl") == 0 || (has_openssl && strcmp(aead, "auto") == 0);
    signal(SIGUSR1, nothing);
    hide();
    for (int i = 0; i < (is_tls13 ? 6 : 2); i++)
        make_key(suite, i);
    search("before all");

    tcp_pair(fd);
    for (int i = 0; i < 2; i++) {
        set_key(fd[i], TLS_TX, suite, i);
        set_key(fd[1 - i], TLS_RX, suite, i);
    }
    search("after the keys were set");
    use(fd);
    search("in use");
    if (is_tls13) {
        rekey(fd[0], fd[1], suite, 2);
        rekey(fd[1], fd[0], suite, 3);
        use(fd);
        search("after a rekey");
    }
    len = (socklen_t)info_with_key(suite, 0);
    for (int direction = TLS_TX; direction <= TLS_RX; direction++) {
        MUST(tls_getsockopt(fd[0], SOL_TLS, direction, hidden->info, &len) == 0);
        spill();
    }
    search("after they were asked for");

    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        use(fd);
        search("in the child");
        _exit(is_found);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    MUST(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
    is_found |= WEXITSTATUS(status);
    use(fd);
    search("after a fork");
    if (is_tls13) {
        rekey(fd[0], fd[1], suite, 4);
        rekey(fd[1], fd[0], suite, 5);
        use(fd);
        search("after a fork and a rekey");
    }
    uktls_close(fd[0]);
    uktls_close(fd[1]);
    heap_may_have_it = false;
    search("after the end");
    return is_found;
}

/* Whoever searches has to find, or the rest says nothing. */
static int find(const struct suite *suite)
{
    static unsigned char copy[8];
    hide();
    make_key(suite, 0);
    search("without a copy");
    if (is_found)
        return 1;
    for (size_t i = 0; i < 8; i++)
        ((volatile unsigned char *)copy)[i] = hidden->keys[0][4 + i];
    search("with a copy, which is meant");
    return !is_found;
}

int search_for_keys(char **argv, bool has_openssl)
{
    const struct suite *suite = &suites[atoi(argv[2])];
    return strcmp(argv[1], "find") == 0 ? find(suite) : live(suite, has_openssl);
}

/* As a program of its own, as its settings are read once. */
static bool run(const char *aead, const char *what, size_t suite)
{
    char number[8];
    snprintf(number, sizeof number, "%zu", suite);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("UKTLS_AEAD", aead, 1);
        execl(program_invocation_name, program_invocation_name, what, number, NULL);
        _exit(98);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status)
        print_error("%s with %s: wait status %#x\n", suites[suite].name, aead, status);
    return status == 0;
}

void expect_no_keys(const char *aead)
{
    bool is_good = true;
    for (size_t i = 0; i < suite_count; i++)
        is_good &= run(aead, "live", i);
    assert_true(is_good);
}

void expect_a_copy_to_be_found(void)
{
    assert_true(run("auto", "find", 0));
}
