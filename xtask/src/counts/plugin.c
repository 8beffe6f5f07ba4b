/* A plugin of QEMU's translator that counts what a machine of one CPU executes.
 *
 * MOVNTI outside ring 0, which bench guests alone execute (domain-rt/src/probe/bench.rs), marks measurements: its address
 * says which row; the last one, that all is done. out=FILE gets, for each row, "row N TIMES LOCKED CR3 CR4 INVLPG HYPERVISOR
 * DOMAINS LINUX": how often it was measured, what ring 0 executed of those kinds meanwhile, and how many instructions ran in
 * all in ring 0, in our domains, and elsewhere (Linux begins 16 MiB above where our domains do). blocks=ROW adds "block ADDRESS COUNT SIZES BYTES" for what was executed while that row was measured (a
 * hexadecimal digit for each instruction's size; the first bytes); blocks=all, for everything. QEMU's header is not installed with it, so what is used of it stands here
 * (docs.qemu.org: TCG plugins; interface version 1). */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t id_t_;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { NO_REGS = 0, MEM_W = 2, ADD_U64 = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(id_t_, void (*)(id_t_, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, uint32_t, uint64_t, void *), int, int,
                                      void *);
void qemu_plugin_register_atexit_cb(id_t_, void (*)(id_t_, void *), void *);

#define SHOWN __attribute__((visibility("default")))
SHOWN int qemu_plugin_version = 1;

enum { LOCKED, CR3, CR4, INVLPG, NO_KIND, HYPERVISOR = NO_KIND, DOMAINS, LINUX, KINDS };
enum { LAST = 511, ALL, BYTES = 8 };
struct row { uint64_t times, sum[KINDS]; };
struct block {
    struct block *next;
    uint64_t va, count, before, sum;
    size_t n;
    uint8_t bytes[BYTES];
    uint8_t sizes[];
};
static uint64_t now[KINDS], begun[KINDS];
static struct row rows[LAST];
static struct block *blocks;
static long wanted = -1;
static const char *out;
static int said_done;

/* What an instruction of ring 0 counts as; NO_KIND for nothing. */
static int kind(const uint8_t *d, size_t size)
{
    int lock = 0, rex = 0;
    size_t i = 0;
    for (; i < size; i++) {
        uint8_t b = d[i];
        if (b == 0xf0)
            lock = 1;
        else if ((b & 0xf0) == 0x40)
            rex = b;
        else if (b != 0x66 && b != 0x67 && b != 0xf2 && b != 0xf3 && b != 0x2e && b != 0x36 && b != 0x3e && b != 0x26 &&
                 b != 0x64 && b != 0x65)
            break;
    }
    if (lock)
        return LOCKED;
    if (i + 1 >= size)
        return NO_KIND;
    if ((d[i] == 0x86 || d[i] == 0x87) && d[i + 1] >> 6 != 3)
        return LOCKED; /* xchg with memory */
    if (d[i] != 0x0f || i + 2 >= size)
        return NO_KIND;
    int reg = (d[i + 2] >> 3 & 7) | (rex & 4 ? 8 : 0);
    if (d[i + 1] == 0x22)
        return reg == 3 ? CR3 : reg == 4 ? CR4 : NO_KIND;
    return d[i + 1] == 0x01 && reg == 7 && d[i + 2] >> 6 != 3 ? INVLPG : NO_KIND;
}

static void put_out(void)
{
    FILE *f = fopen(out, "w");
    if (!f)
        return;
    for (int r = 1; r < LAST; r++)
        if (rows[r].times) {
            fprintf(f, "row %d %" PRIu64, r, rows[r].times);
            for (int k = 0; k < KINDS; k++)
                fprintf(f, " %" PRIu64, rows[r].sum[k]);
            fputc('\n', f);
        }
    for (struct block *b = blocks; b; b = b->next) {
        uint64_t times = wanted == ALL ? b->count : b->sum;
        if (!times)
            continue;
        fprintf(f, "block %" PRIx64 " %" PRIu64 " ", b->va, times);
        for (size_t i = 0; i < b->n; i++)
            fprintf(f, "%x", b->sizes[i]);
        fputc(' ', f);
        for (int i = 0; i < BYTES; i++)
            fprintf(f, "%02x", b->bytes[i]);
        fputc('\n', f);
    }
    fclose(f);
}

static void mark(unsigned cpu, uint32_t info, uint64_t at, void *unused)
{
    uint64_t row = (at & 4095) / 8;
    (void)cpu, (void)info, (void)unused;
    if (row == 0) {
        memcpy(begun, now, sizeof now);
        if (wanted > 0 && wanted < ALL)
            for (struct block *b = blocks; b; b = b->next)
                b->before = b->count;
        return;
    }
    if (row == LAST) {
        put_out();
        said_done = 1;
        return;
    }
    rows[row].times++;
    for (int k = 0; k < KINDS; k++)
        rows[row].sum[k] += now[k] - begun[k];
    if ((long)row == wanted)
        for (struct block *b = blocks; b; b = b->next)
            b->sum += b->count - b->before;
}

/* Whose code is at an address. */
static int whose(uint64_t va)
{
    if (va >= 0xffff800000000000 && va < 0xffff880000000000)
        return HYPERVISOR;
    return va >= 0xffffffff80000000 && va < 0xffffffff81000000 ? DOMAINS : LINUX;
}

static void translated(id_t_ id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    uint64_t first = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &now[whose(first)], n);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *d = qemu_plugin_insn_data(insn);
        size_t size = qemu_plugin_insn_size(insn), op = size && (d[0] & 0xf0) == 0x40;
        uint64_t va = qemu_plugin_insn_vaddr(insn);
        int ring0 = whose(va) == HYPERVISOR;
        if (!ring0 && size > op + 2 && d[op] == 0x0f && d[op + 1] == 0xc3)
            qemu_plugin_register_vcpu_mem_cb(insn, mark, NO_REGS, MEM_W, NULL);
        int k = ring0 ? kind(d, size) : NO_KIND;
        if (k < NO_KIND)
            qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &now[k], 1);
    }
    if (wanted < 0)
        return;
    struct block *b = calloc(1, sizeof *b + n);
    if (!b)
        abort();
    for (size_t i = 0, at = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *d = qemu_plugin_insn_data(insn);
        b->sizes[i] = qemu_plugin_insn_size(insn);
        for (size_t k = 0; k < b->sizes[i] && at < BYTES; k++)
            b->bytes[at++] = d[k];
    }
    b->va = first;
    b->n = n;
    b->next = blocks;
    blocks = b;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &b->count, 1);
}

static void done(id_t_ id, void *unused)
{
    (void)id, (void)unused;
    /* What was put out already may be read by now. */
    if (!said_done)
        put_out();
}

SHOWN int qemu_plugin_install(id_t_ id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = strdup(argv[i] + 4);
        if (!strncmp(argv[i], "blocks=", 7))
            wanted = strcmp(argv[i] + 7, "all") ? atol(argv[i] + 7) : ALL;
    }
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, done, NULL);
    return 0;
}
