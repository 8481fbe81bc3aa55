"""π0 of full size, 3.24 billion parameters, serves from an INT8 bundle within 4.5 GB. Slow: run with `-m slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_GB = 4.5
WORKER = [sys.executable, "-m", "benchmarks.full_size_worker"]


def free_gb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e9
    return 0.0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="reads /proc (Linux)")
def test_an_int8_bundle_of_full_size_serves_within_its_memory(tmp_path):
    if free_gb() < LIMIT_GB + 1:
        pytest.skip(f"{free_gb():.1f} GB of memory are free, {LIMIT_GB + 1} GB are needed")
    subprocess.run([*WORKER, "build", "int8-w8a8", str(tmp_path / "bundle")], cwd=ROOT, check=True, timeout=1800)
    ran = subprocess.run(
        [*WORKER, "bundle", str(tmp_path / "bundle")],
        cwd=ROOT,
        input="full\nend\n",
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert ran.returncode == 0, ran.stderr
    _, chunk, end = (json.loads(line) for line in ran.stdout.splitlines())
    assert all(abs(value) < 100 for action in chunk["actions"][0] for value in action)
    assert end["peak_resident_gb"] < LIMIT_GB
