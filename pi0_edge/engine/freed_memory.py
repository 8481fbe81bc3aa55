"""Keeps the memory that one chunk frees for the next one.

glibc gives freed blocks above a threshold back to the system, and asks for new ones in the next layer. Each of their
pages is then zeroed and mapped anew. Other C libraries have their own ways; there nothing is changed.
"""

from __future__ import annotations

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
KEPT_BYTES = 2**30
"""More than the largest chunk frees; what is kept is at most what was in use at once."""


@functools.cache
def keep_freed_memory() -> bool:
    """Tells the allocator of this process, for all of it; returns whether it understood."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(threshold, KEPT_BYTES) == 1 for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
