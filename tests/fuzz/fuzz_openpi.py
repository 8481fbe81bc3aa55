"""Fuzzes the decoder of openpi's messages: `python tests/fuzz/fuzz_openpi.py [libFuzzer options]`; see `run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

INSTRUMENTED = ["pi0_edge.serving.openpi.encoding", "pi0_edge.serving.openpi.observations", "openpi_target"]
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=INSTRUMENTED):  # pyright: ignore
    from openpi_target import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
