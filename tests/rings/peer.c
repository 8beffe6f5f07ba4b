/* Xen's public ring macros (io/ring.h of libxen-dev) on two pinned threads, doing what reqrsp.rs does: so many requests in
 * flight, each entry copied out before it is used, as Linux's drivers do. Without arguments, every case of the short set
 * some times (`full`: of the whole matrix), the least as "ROW name xen-ring-h nanoseconds"; `alone NAME COUNT` on one thread.
 *
 * What makes it a peer: whole requests and responses go in from memory and out to memory on both sides (KEEP: the compiler
 * knows neither what is sent nor that nobody reads what came); the back checks the producer as blkback does, the front, as
 * Linux's, takes it as it is; final checks, pauses and what is timed are those of reqrsp.rs. It takes and sends one by one and
 * publishes once for all, as drivers that use the macros do. gcc -O2 copies by vector registers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* x86: stores are seen in order, a store and a later load only behind a full barrier. */
#define mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define rmb() __asm__ volatile("" ::: "memory")
#define wmb() __asm__ volatile("" ::: "memory")
#include <xen/io/ring.h>

enum { COUNT = 4000, PAGE = 4096, IDLE = 64, REPEAT = 7 };

static uint32_t ready;
struct line { _Alignas(128) volatile uint64_t events; };
static struct line to_back, to_front;

struct run { void *ring; int batch, pages, events; uint64_t count, sent; double start, end; };

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* where there is but one CPU, they share it */
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void wait_for(volatile uint64_t *events, uint64_t *seen)
{
    uint64_t n;
    while ((n = *events) == *seen)
        __builtin_ia32_pause();
    *seen = n;
}

/* Both begin when both are there, without a sleep: waking a thread takes as long as a thousand entries. */
static void meet(void)
{
    __atomic_fetch_add(&ready, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) < 2)
        __builtin_ia32_pause();
}

#define KEEP(x) __asm__ volatile("" ::"r"(&(x)) : "memory")

/* The front, the back, and both in turn, of one ring type. */
#define HALVES(t)                                                                                                       \
    static void t##_front(struct run *r)                                                                                \
    {                                                                                                                   \
        struct t##_front_ring ring;                                                                                     \
        struct t##_request request;                                                                                     \
        struct t##_response response;                                                                                   \
        uint64_t left = r->count, sent = 0, seen = 0;                                                                   \
        int idle = 0;                                                                                                   \
        FRONT_RING_INIT(&ring, (struct t##_sring *)r->ring, (size_t)r->pages * PAGE);                                   \
        memset(&request, 7, sizeof request);                                                                            \
        meet();                                                                                                         \
        r->start = now();                                                                                               \
        while (left) {                                                                                                  \
            int notify;                                                                                                 \
            uint64_t room = r->batch - (ring.req_prod_pvt - ring.rsp_cons), rest = r->count - sent;                     \
            room = room < rest ? room : rest;                                                                           \
            if (room) {                                                                                                 \
                for (uint64_t i = 0; i < room; i++, ring.req_prod_pvt++) {                                              \
                    KEEP(request);                                                                                      \
                    *RING_GET_REQUEST(&ring, ring.req_prod_pvt) = request;                                              \
                }                                                                                                       \
                sent += room;                                                                                           \
                RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);                                                     \
                if (notify && r->events)                                                                                \
                    to_back.events = ++r->sent;                                                                         \
            }                                                                                                           \
            RING_IDX prod = *(volatile RING_IDX *)&ring.sring->rsp_prod;                                                \
            rmb();                                                                                                  \
            if (prod != ring.rsp_cons) {                                                                                \
                for (; ring.rsp_cons != prod; ring.rsp_cons++, left--) {                                                \
                    RING_COPY_RESPONSE(&ring, ring.rsp_cons, &response);                                                \
                    KEEP(response);                                                                                     \
                }                                                                                                       \
                idle = 0;                                                                                               \
            } else if (r->events && ++idle > IDLE) {                                                                    \
                int more;                                                                                               \
                RING_FINAL_CHECK_FOR_RESPONSES(&ring, more);                                                            \
                if (!more)                                                                                              \
                    wait_for(&to_front.events, &seen);                                                                  \
            } else                                                                                                      \
                __builtin_ia32_pause();                                                                                 \
        }                                                                                                               \
        r->end = now();                                                                                                 \
    }                                                                                                                   \
    static void t##_serve(struct t##_back_ring *ring, RING_IDX prod)                                                    \
    {                                                                                                                   \
        struct t##_request request;                                                                                     \
        struct t##_response response;                                                                                   \
        memset(&response, 9, sizeof response);                                                                          \
        for (; ring->req_cons != prod; ring->rsp_prod_pvt++) {                                                          \
            RING_COPY_REQUEST(ring, ring->req_cons, &request);                                                          \
            ring->req_cons++;                                                                                           \
            KEEP(request);                                                                                              \
            KEEP(response);                                                                                             \
            *RING_GET_RESPONSE(ring, ring->rsp_prod_pvt) = response;                                                    \
        }                                                                                                               \
    }                                                                                                                   \
    static void *t##_back(void *arg)                                                                                    \
    {                                                                                                                   \
        struct run *r = arg;                                                                                            \
        struct t##_back_ring ring;                                                                                      \
        uint64_t left = r->count, seen = 0, events = 0;                                                                 \
        int idle = 0;                                                                                                   \
        pin(1);                                                                                                         \
        BACK_RING_INIT(&ring, (struct t##_sring *)r->ring, (size_t)r->pages * PAGE);                                    \
        meet();                                                                                                         \
        while (left) {                                                                                                  \
            int notify;                                                                                                 \
            RING_IDX prod = *(volatile RING_IDX *)&ring.sring->req_prod;                                                \
            rmb();                                                                                                  \
            if (RING_REQUEST_PROD_OVERFLOW(&ring, prod))                                                                \
                abort();                                                                                                \
            if (prod != ring.req_cons) {                                                                                \
                left -= prod - ring.req_cons;                                                                           \
                t##_serve(&ring, prod);                                                                                 \
                RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);                                                    \
                if (notify && r->events)                                                                                \
                    to_front.events = ++events;                                                                         \
                idle = 0;                                                                                               \
            } else if (r->events && ++idle > IDLE) {                                                                    \
                int more;                                                                                               \
                RING_FINAL_CHECK_FOR_REQUESTS(&ring, more);                                                             \
                if (!more)                                                                                              \
                    wait_for(&to_back.events, &seen);                                                                   \
            } else                                                                                                      \
                __builtin_ia32_pause();                                                                                 \
        }                                                                                                               \
        return (void *)(uintptr_t)events;                                                                               \
    }                                                                                                                   \
    static void t##_alone(int batch, uint64_t count)                                                                    \
    {                                                                                                                   \
        void *page = aligned_alloc(PAGE, PAGE);                                                                         \
        struct t##_front_ring front;                                                                                    \
        struct t##_back_ring back;                                                                                      \
        struct t##_request request;                                                                                     \
        struct t##_response response;                                                                                   \
        int notify;                                                                                                     \
        SHARED_RING_INIT((struct t##_sring *)page);                                                                     \
        FRONT_RING_INIT(&front, (struct t##_sring *)page, PAGE);                                                        \
        BACK_RING_INIT(&back, (struct t##_sring *)page, PAGE);                                                          \
        memset(&request, 7, sizeof request);                                                                            \
        for (uint64_t i = 0; i < count / batch; i++) {                                                                  \
            for (int k = 0; k < batch; k++, front.req_prod_pvt++) {                                                     \
                KEEP(request);                                                                                          \
                *RING_GET_REQUEST(&front, front.req_prod_pvt) = request;                                                \
            }                                                                                                           \
            RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&front, notify);                                                        \
            RING_IDX prod = *(volatile RING_IDX *)&back.sring->req_prod;                                                \
            if (RING_REQUEST_PROD_OVERFLOW(&back, prod))                                                                \
                abort();                                                                                                \
            t##_serve(&back, prod);                                                                                     \
            RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&back, notify);                                                        \
            prod = *(volatile RING_IDX *)&front.sring->rsp_prod;                                                        \
            for (; front.rsp_cons != prod; front.rsp_cons++) {                                                          \
                RING_COPY_RESPONSE(&front, front.rsp_cons, &response);                                                  \
                KEEP(response);                                                                                         \
            }                                                                                                           \
        }                                                                                                               \
        (void)notify;                                                                                                   \
    }                                                                                                                   \
    static void t##_init(void *ring) { SHARED_RING_INIT((struct t##_sring *)ring); }

struct r8_request { uint64_t words[1]; };
struct r8_response { uint64_t words[1]; };
struct r64_request { uint64_t words[8]; };
struct r64_response { uint64_t words[2]; };
struct r112_request { uint64_t words[14]; };
struct r112_response { uint64_t words[2]; };
DEFINE_RING_TYPES(r8, struct r8_request, struct r8_response);
DEFINE_RING_TYPES(r64, struct r64_request, struct r64_response);
DEFINE_RING_TYPES(r112, struct r112_request, struct r112_response);
HALVES(r8)
HALVES(r64)
HALVES(r112)

static const struct {
    int bytes;
    void (*init)(void *), (*front)(struct run *), *(*back)(void *);
    void (*alone)(int, uint64_t);
} types[] = {
    { 8, r8_init, r8_front, (void *(*)(void *))r8_back, r8_alone },
    { 64, r64_init, r64_front, (void *(*)(void *))r64_back, r64_alone },
    { 112, r112_init, r112_front, (void *(*)(void *))r112_back, r112_alone },
};

/* Once; how many events were sent. */
static uint64_t once(int type, struct run *r)
{
    pthread_t back;
    void *answered;
    memset(r->ring, 0, (size_t)r->pages * PAGE);
    types[type].init(r->ring);
    to_back.events = to_front.events = r->sent = 0;
    ready = 0;
    pthread_create(&back, NULL, types[type].back, r);
    pin(0);
    types[type].front(r);
    pthread_join(back, &answered);
    return r->sent + (uintptr_t)answered;
}

static void measure(int type, int batch, int pages, int events)
{
    struct run r = { aligned_alloc(PAGE, (size_t)pages * PAGE), batch, pages, events, COUNT, 0, 0, 0 };
    double least = 1e300;
    uint64_t fewest = UINT64_MAX;
    char name[64], extra[24] = "";
    for (int i = 0; i < REPEAT; i++) {
        uint64_t sent = once(type, &r);
        double ns = (r.end - r.start) / COUNT;
        least = ns < least ? ns : least;
        fewest = sent < fewest ? sent : fewest;
    }
    if (pages > 1)
        snprintf(extra, sizeof extra, "_pages%d", pages);
    snprintf(name, sizeof name, "rings/reqrsp_%d_batch%d%s%s", types[type].bytes, batch, extra, events ? "_events" : "");
    printf("ROW %s xen-ring-h %.2f\n", name, least);
    if (events)
        printf("NOTE %s/notifications %.4f\n", name, (double)fewest / COUNT);
    free(r.ring);
}

int main(int argc, char **argv)
{
    int bytes, batch;
    if (argc == 4 && !strcmp(argv[1], "alone") && sscanf(argv[2], "rings/reqrsp_%d_batch%d", &bytes, &batch) == 2) {
        for (size_t i = 0; i < sizeof types / sizeof *types; i++)
            if (types[i].bytes == bytes)
                types[i].alone(batch, strtoull(argv[3], NULL, 10));
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "full")) {
        static const int batches[] = { 1, 8, 32 }, sizes[] = { 1, 4, 16 };
        for (int t = 0; t < 3; t++)
            for (int b = 0; b < 3; b++)
                for (int p = 0; p < 3; p++)
                    for (int e = 0; e < 2; e++)
                        measure(t, batches[b], sizes[p], e);
        return 0;
    }
    measure(2, 1, 1, 0);
    measure(2, 8, 1, 0);
    measure(2, 32, 1, 0);
    measure(2, 32, 1, 1);
    measure(1, 32, 1, 0);
    return 0;
}
