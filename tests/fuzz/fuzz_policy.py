"""Fuzzes the requests of the gRPC service: `python tests/fuzz/fuzz_policy.py [libFuzzer options]`; see `run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

INSTRUMENTED = ["pi0_edge.serving.messages", "pi0_edge.serving.jpeg_images", "policy_target"]
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=INSTRUMENTED):  # pyright: ignore
    from policy_target import check

if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
