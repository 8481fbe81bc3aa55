"""What one chunk frees, the next one gets: no page is asked for twice."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys
from pi0_edge.engine.reference import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use_and_free():
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("the allocator of this C library cannot be told to keep memory")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_blocks_of_a_layer_are_handed_out_again_without_new_pages():
    without, kept = page_faults("as it is"), page_faults("keep")
    assert kept < 100 < without
