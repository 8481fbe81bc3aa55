"""The instructions that the C library can use on this processor, and how a test uses them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pi0_edge.quant import native
from pi0_edge.quant.native import Level

_X86 = [Level.PORTABLE, Level.AVX2, Level.AVX_VNNI, Level.AVX512_VNNI]
_ARM = [Level.PORTABLE, Level.NEON_DOT]

compiled = pytest.mark.skipif(not native.is_compiled(), reason="the package was installed without a C compiler")


def has(level: Level) -> bool:
    """Whether this processor has the instructions of `level`."""
    flags = _processor_flags()
    needed = {
        Level.AVX2: {"avx2"},
        Level.AVX_VNNI: {"avx2", "avx_vnni"},
        Level.AVX512_VNNI: {"avx512bw", "avx512vl", "avx512_vnni"},
        Level.NEON_DOT: {"asimddp"},
    }
    return needed.get(level, set()) <= flags


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return set()
    return set(found.split())


LEVELS = [
    pytest.param(
        level,
        id=level.name,
        marks=[compiled, pytest.mark.skipif(not has(level), reason=f"this processor lacks {level.name}")],
    )
    for level in (_X86 if platform.machine() == "x86_64" else _ARM)
]


@contextmanager
def used(level: Level) -> Iterator[None]:
    """Uses the instructions of `level` inside."""
    library = native.library()
    assert library is not None
    before = native.level()
    library.pi0_use_level(level)
    try:
        yield
    finally:
        library.pi0_use_level(before)
