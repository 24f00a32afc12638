// QEMU TCG plugin: counts the guest instructions an aarch64 program executes and prints the total at exit, as
// "instructions: N" on stderr. With blocks=FILE, also writes "ADDRESS INSTRUCTIONS EXECUTED" of every translated block there,
// addresses relative to the program's entry point. Debian's qemu-user ships no plugin header, so the few prototypes stand here.
// Built and used by scripts/count-instructions and benches/hot-functions.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_entry_code(void);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

// The inline addition is not atomic: exact for one thread only.
static uint64_t executed;

struct block {
    uint64_t address, instructions, executed;
    struct block *next;
};
static struct block *blocks;
static const char *blocks_file;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    uint64_t instructions = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &executed, instructions);
    if (!blocks_file) return;
    struct block *one = calloc(1, sizeof *one);
    if (!one) return;
    *one = (struct block){qemu_plugin_tb_vaddr(block), instructions, 0, blocks};
    blocks = one;
    qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &one->executed, 1);
}

static void finished(qemu_plugin_id_t id, void *unused) {
    (void)id;
    (void)unused;
    fprintf(stderr, "instructions: %" PRIu64 "\n", executed);
    FILE *file = blocks_file ? fopen(blocks_file, "w") : NULL;
    if (blocks_file && !file) perror(blocks_file);
    for (struct block *b = blocks; file && b; b = b->next)
        fprintf(file, "%" PRId64 " %" PRIu64 " %" PRIu64 "\n", (int64_t)(b->address - qemu_plugin_entry_code()), b->instructions, b->executed);
    if (file) fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "blocks=", 7)) blocks_file = strdup(argv[i] + 7);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
