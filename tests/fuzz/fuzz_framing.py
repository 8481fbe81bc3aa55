"""Fuzzes the Python decoder with Atheris: `python tests/fuzz/fuzz_framing.py [libFuzzer options]`; see `run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

INSTRUMENTED = ["firmware_bridge.link.framing", "pi0_edge.protos.serial_link", "framing_target"]
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=INSTRUMENTED):  # pyright: ignore
    from framing_target import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
