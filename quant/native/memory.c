/* Memory in pages of 2 MB where the system has them. A tile reads or writes a few hundred rows, each of them on a page of
   its own; with pages of 4 KB the processor looks up most of their addresses in memory. */

#include "native.h"
#include <stdatomic.h>
#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

enum { LARGE_PAGE = 1 << 21, PAGE = 1 << 12 };

/* Asks for large pages for what lies in `memory` as whole ones. It must not have been written yet to have an effect, and
   a system that refuses keeps the pages it has. */
void pi0_ask_for_large_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t start = ((uintptr_t)memory + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / LARGE_PAGE * LARGE_PAGE;
    if (end > start)
        (void)madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

/* Memory to be released with `free`, or NULL. */
void *pi0_allocate(int64_t bytes) {
    const int64_t unit = bytes >= LARGE_PAGE ? LARGE_PAGE : LINE, whole = (bytes + unit - 1) / unit * unit;
    void *memory = aligned_alloc((size_t)unit, (size_t)(whole ? whole : unit));
    if (memory && unit == LARGE_PAGE)
        pi0_ask_for_large_pages(memory, whole);
    return memory;
}

/* Memory of the calls before: [size in bytes, up to a page] and then what was asked for. One block at most is kept,
   so that a call finds its pages there; the system would clear them first each time. */
static _Atomic(int64_t *) kept;

void *pi0_borrow(int64_t bytes) {
    int64_t *block = atomic_exchange(&kept, NULL);
    if (!block || *block < bytes) {
        free(block);
        block = pi0_allocate(bytes + PAGE);
        if (!block)
            return NULL;
        *block = bytes;
    }
    return (char *)block + PAGE;
}

void pi0_give_back(void *memory) { free(atomic_exchange(&kept, (int64_t *)(void *)((char *)memory - PAGE))); }
