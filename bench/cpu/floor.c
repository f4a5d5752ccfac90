/* The floor: what a TRANSFER costs at the least, with nothing in it but what has to be.
 *
 *     floor ACCOUNTS LISTENER...
 *
 * Serves the listening sockets that it inherits under these numbers, one process each, until
 * SIGTERM. Of the protocol it speaks TRANSFER, BALANCE and HEARTBEAT, without a login: the n-th
 * connection is user n. A transfer takes two process-shared semaphores, the lower account's first,
 * changes both balances, and writes a record of 20 words into a ring that all processes share. What
 * it leaves out, and our server does: sessions, recorded outcomes, intents and their repair, a lock
 * of the log, limits, pushes and files.
 *
 * The numbers of the protocol come from its table, as macros on the compiler's command line.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CHECKSUM = 22, /* its offset in a header */
    AFTER_CHECKSUM = 26,
    BODY_MAX = 16, /* of all that is spoken here, in both directions */
    FRAME_MAX = HEADER_LEN + BODY_MAX,
    READ = 65536,
    EVENTS = 256,
    RING = 65536, /* records */
    RECORD_WORDS = 20,
    CACHE_LINE = 64,
};
static const uint64_t FUNDS = 1000000000000; /* of each account at first, minor units */

typedef union {
    sem_t semaphore;
    char line[CACHE_LINE];
} Lock;

typedef struct {
    uint64_t balance, last_txn;
} Account;

typedef struct {
    int fd;
    uint64_t user;
    size_t length; /* bytes received, and not yet handled */
    uint8_t received[READ];
} Connection;

/* Shared by all processes. */
static struct {
    _Alignas(CACHE_LINE) _Atomic uint64_t head; /* the newest transaction */
    _Alignas(CACHE_LINE) _Atomic uint64_t users;
} *shared;
static uint64_t accounts;
static Account *account;
static Lock *locks;
static _Atomic uint64_t (*ring)[RECORD_WORDS];

static uint32_t tables[8][256];
/* What is sent at the end of a turn; a request is no shorter than a header. */
static uint8_t answers[READ / HEADER_LEN * FRAME_MAX];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        tables[0][i] = crc;
    }
    for (int n = 1; n < 8; n++)
        for (uint32_t i = 0; i < 256; i++)
            tables[n][i] = tables[n - 1][i] >> 8 ^ tables[0][tables[n - 1][i] & 255];
}

/* CRC-32 of what the checksum of a frame covers, eight bytes at a time. */
static uint32_t checksum(const uint8_t *frame, size_t body_len)
{
    uint8_t covered[FRAME_MAX], *at = covered;
    memcpy(covered, frame, CHECKSUM);
    memcpy(covered + CHECKSUM, frame + AFTER_CHECKSUM, HEADER_LEN - AFTER_CHECKSUM + body_len);
    size_t left = HEADER_LEN - (AFTER_CHECKSUM - CHECKSUM) + body_len;
    uint32_t crc = ~0u;
    for (; left >= 8; left -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        word = le64toh(word) ^ crc;
        crc = tables[7][word & 255] ^ tables[6][word >> 8 & 255] ^ tables[5][word >> 16 & 255] ^
              tables[4][word >> 24 & 255] ^ tables[3][word >> 32 & 255] ^
              tables[2][word >> 40 & 255] ^ tables[1][word >> 48 & 255] ^ tables[0][word >> 56];
    }
    while (left--)
        crc = crc >> 8 ^ tables[0][(crc ^ *at++) & 255];
    return ~crc;
}

static uint16_t u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return be16toh(value);
}

static uint32_t u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return be32toh(value);
}

static uint64_t u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return be64toh(value);
}

static void put16(uint8_t *at, uint16_t value)
{
    value = htobe16(value);
    memcpy(at, &value, sizeof value);
}

static void put32(uint8_t *at, uint32_t value)
{
    value = htobe32(value);
    memcpy(at, &value, sizeof value);
}

static void put64(uint8_t *at, uint64_t value)
{
    value = htobe64(value);
    memcpy(at, &value, sizeof value);
}

/* Write the answer to a request, its body being there already; its length. */
static size_t answer(uint8_t *out, const uint8_t *request, uint16_t status, size_t body_len)
{
    memcpy(out, request, HEADER_LEN);
    out[3] = RESPONSE;
    put32(out + 6, body_len);
    put16(out + 12, status);
    put32(out + CHECKSUM, checksum(out, body_len));
    return HEADER_LEN + body_len;
}

static size_t answer_words(uint8_t *out, const uint8_t *request, uint64_t first, uint64_t second)
{
    put64(out + HEADER_LEN, first);
    put64(out + HEADER_LEN + 8, second);
    return answer(out, request, 0, 16);
}

static size_t refuse(uint8_t *out, const uint8_t *request, uint16_t status)
{
    memset(out + HEADER_LEN, 0, 6); /* no time to try again, no text */
    return answer(out, request, status, 6);
}

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void take(uint64_t number)
{
    while (sem_wait(&locks[number].semaphore))
        if (errno != EINTR)
            fail("sem_wait");
}

static void record(uint64_t txn, uint64_t req_id, uint64_t from, uint64_t to, uint64_t amount,
                   uint64_t previous_from, uint64_t previous_to)
{
    _Atomic uint64_t *slot = ring[txn % RING];
    const uint64_t words[RECORD_WORDS] = {
        txn, now_us(), TRANSFER, from, to, amount, account[from].balance, account[to].balance,
        previous_from, previous_to, req_id,
    };
    atomic_store_explicit(&slot[0], 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (int word = 1; word < RECORD_WORDS; word++)
        atomic_store_explicit(&slot[word], words[word], memory_order_relaxed);
    atomic_store_explicit(&slot[0], txn, memory_order_release); /* it stands */
}

static size_t transfer(uint8_t *out, const uint8_t *request, uint64_t from)
{
    uint64_t to = u32(request + HEADER_LEN), amount = u64(request + HEADER_LEN + 4);
    if (!to || to > accounts)
        return refuse(out, request, ERR_NOT_FOUND);
    if (to == from) /* the load does not know who it is here, and such a request is refused */
        to = to % accounts + 1;
    uint64_t lower = from < to ? from : to, upper = from < to ? to : from;
    uint64_t txn = 0, balance = 0;
    take(lower);
    take(upper);
    if (account[from].balance >= amount) {
        uint64_t previous_from = account[from].last_txn, previous_to = account[to].last_txn;
        balance = account[from].balance -= amount;
        account[to].balance += amount;
        txn = atomic_fetch_add(&shared->head, 1) + 1;
        account[from].last_txn = account[to].last_txn = txn;
        record(txn, u64(request + 14), from, to, amount, previous_from, previous_to);
    }
    sem_post(&locks[upper].semaphore);
    sem_post(&locks[lower].semaphore);
    return txn ? answer_words(out, request, txn, balance)
               : refuse(out, request, ERR_INSUFFICIENT_FUNDS);
}

/* Handle what is there of a connection, and send all answers at once; 0: it is over. */
static int turn(Connection *of)
{
    ssize_t got = recv(of->fd, of->received + of->length, READ - of->length, 0);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    of->length += got;
    const uint8_t *at = of->received, *end = at + of->length;
    uint8_t *out = answers;
    while (end - at >= HEADER_LEN) {
        uint32_t body_len = u32(at + 6);
        if (u16(at) != MAGIC || at[2] != VERSION || u16(at + 4) != HEADER_LEN ||
            body_len > BODY_MAX)
            return 0;
        if (end - at < (ssize_t)(HEADER_LEN + body_len))
            break;
        if (u32(at + CHECKSUM) != checksum(at, body_len) || at[3])
            return 0;
        uint16_t opcode = u16(at + 10);
        if (opcode == TRANSFER && body_len == 12)
            out += transfer(out, at, of->user);
        else if (opcode == BALANCE && !body_len)
            out += answer_words(out, at, account[of->user].balance, account[of->user].last_txn);
        else if (opcode == HEARTBEAT && body_len == 8)
            out += answer_words(out, at, u64(at + HEADER_LEN), now_us());
        else
            return 0;
        at += HEADER_LEN + body_len;
    }
    of->length = end - at;
    memmove(of->received, at, of->length);
    return out == answers || send(of->fd, answers, out - answers, MSG_NOSIGNAL) == out - answers;
}

static void accept_all(int poll, int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        Connection *made = malloc(sizeof *made);
        if (!made)
            fail("malloc");
        made->fd = fd;
        made->length = 0;
        made->user = atomic_fetch_add(&shared->users, 1) % accounts + 1;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = made};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
            fail("epoll_ctl");
    }
}

static void serve(int listener)
{
    struct epoll_event events[EVENTS], listens = {.events = EPOLLIN, .data.ptr = NULL};
    int poll = epoll_create1(EPOLL_CLOEXEC);
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &listens))
        fail("epoll");
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            Connection *of = events[i].data.ptr;
            if (!of) {
                accept_all(poll, listener);
            } else if (!turn(of)) {
                close(of->fd);
                free(of);
            }
        }
    }
}

static void *share(size_t size)
{
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        fail("mmap");
    return made;
}

int main(int argc, char **argv)
{
    if (argc < 3 || (accounts = strtoull(argv[1], NULL, 10)) < 2)
        return 2;
    make_tables();
    shared = share(sizeof *shared);
    account = share((accounts + 1) * sizeof *account);
    locks = share((accounts + 1) * sizeof *locks);
    ring = share(RING * sizeof *ring);
    for (uint64_t number = 1; number <= accounts; number++) {
        account[number].balance = FUNDS;
        if (sem_init(&locks[number].semaphore, 1, 1))
            fail("sem_init");
    }
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    pid_t workers[argc];
    for (int i = 2; i < argc; i++) {
        workers[i] = fork();
        if (workers[i] < 0)
            fail("fork");
        if (!workers[i]) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            sigprocmask(SIG_UNBLOCK, &ends, NULL);
            serve(atoi(argv[i]));
        }
    }
    int number;
    sigwait(&ends, &number); /* told to end, or one has ended by itself */
    for (int i = 2; i < argc; i++)
        kill(workers[i], SIGKILL);
    while (wait(NULL) > 0)
        ;
    return number == SIGCHLD;
}
