/* Memory in pages of 2 MB where the system has them. A tile reads or writes a few hundred rows, each of them on a page of
   its own; with pages of 4 KB the processor looks up most of their addresses in memory. */

#include "native.h"
#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

enum { LARGE_PAGE = 1 << 21 };

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
