"""π0 of full size, 3.24 billion parameters, fits in 9 GB. Slow: run with `-m slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_GB = 9


def free_gb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc (Linux)")
@pytest.mark.parametrize("engine", ["cpu-int8", "bf16"])
def test_full_size_runs_within_its_memory(engine: str):
    if free_gb() < LIMIT_GB:
        pytest.skip(f"{free_gb():.1f} GB of memory are free, {LIMIT_GB} GB are needed")
    command = [sys.executable, "-m", "benchmarks.full_size_memory", "--engine", engine, "--chunks", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["parameters"] == 3_238_048_528 - DEAD_IN_THE_LAST_PREFIX_LAYER
    assert figures["actions_finite"]
    assert figures["peak_resident_gb"] < LIMIT_GB


# q, o, gate, up, down and the second norm of the last prefix layer, and the prefix's final norm: nothing reads them.
DEAD_IN_THE_LAST_PREFIX_LAYER = 2 * 2048 * 2048 + 3 * 2048 * 16384 + 2 * 2048
