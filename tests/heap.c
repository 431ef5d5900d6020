/* Counts what a process has on its heap, in the file that VCYCLE_SOAK_HEAP names: the bytes and the
 * blocks that are in use, two 64-bit numbers. For LD_PRELOAD, with glibc. See tests/README.md.
 *
 * Resident memory also has what malloc keeps after it was freed; it cannot tell a leak from that. */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *block);

struct counts {
    _Atomic long bytes;
    _Atomic long blocks;
};

/* Until the file is there: the loader allocates before that. */
static struct counts early;
static struct counts *counts = &early;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("VCYCLE_SOAK_HEAP");
    int file = path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    struct counts *mapped;

    if (file < 0)
        return;
    if (ftruncate(file, sizeof early) == 0) {
        mapped = mmap(NULL, sizeof early, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) {
            mapped->bytes = early.bytes;
            mapped->blocks = early.blocks;
            counts = mapped;
        }
    }
    close(file);
}

static void *came(void *block)
{
    if (block) {
        counts->bytes += (long)malloc_usable_size(block);
        counts->blocks += 1;
    }
    return block;
}

static void goes(void *block)
{
    if (block) {
        counts->bytes -= (long)malloc_usable_size(block);
        counts->blocks -= 1;
    }
}

void *malloc(size_t size) { return came(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return came(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return came(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}

void *realloc(void *old, size_t size)
{
    void *block;

    goes(old);
    block = __libc_realloc(old, size);
    /* The old block stays when there is no new one, unless the size was 0. */
    return came(block ? block : size ? old : NULL) == block ? block : NULL;
}

void free(void *block)
{
    goes(block);
    __libc_free(block);
}
