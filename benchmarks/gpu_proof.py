"""Everything that needs a GPU, in one run without anybody watching, and one result file.

    python -m benchmarks.gpu_proof [--out benchmarks/results/gpu_proof.txt] [--only NAME ...] [--dry-run]

Each step is a process of its own with a time limit; one that fails or runs out of time is reported as that, and the
next one starts. The limits add up to less than 25 minutes. Needs a CUDA device, `make kernels` before it, and for the
last step `pip install transformers`. The exit code is 1 if any step failed.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_clock import describe_clock
from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu_proof.txt"
TRUTH = "TRUTH"


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: For `--only` and the result file.
        purpose: What it shows.
        module: And arguments, after `python -m`; TRUTH stands for a file that steps share.
        minutes: Its time limit.
    """

    name: str
    purpose: str
    module: tuple[str, ...]
    minutes: float


STEPS = (
    Step("limits", "what the device reaches at best: arithmetic and memory", ("benchmarks.gpu_limits",), 1),
    Step("tests", "all tests marked gpu: kernels against float64, the graph", ("pytest", "-m", "gpu", "tests"), 6),
    Step("kernels", "every other kernel against the limits", ("benchmarks.gpu_kernels",), 1),
    Step(
        "products",
        "every matrix product against the limits; its fastest plans are those of the chunks that follow",
        ("benchmarks.kernels_gemm", "--tune"),
        4,
    ),
    Step(
        "chunk",
        "whole chunks at 1, 2 and 3 cameras in bf16, INT8 and FP8: gate and latency",
        ("benchmarks.gpu_chunk", "--save", TRUTH),
        7,
    ),
    Step(
        "transformers",
        "the same chunks by transformers' PI0, eager and compiled",
        ("benchmarks.gpu_transformers", "--truth", TRUTH),
        5,
    ),
)


def run(step: Step, shared: Path) -> tuple[bool, str]:
    """Whether a step succeeded, and what it said."""
    arguments = [str(shared / "truth.safetensors") if part == TRUTH else part for part in step.module]
    command = [sys.executable, "-m", *arguments]
    started = time.monotonic()
    try:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=step.minutes * 60, check=False)
        ended, said = ran.returncode == 0, ran.stdout + (ran.stderr[-4000:] if ran.returncode else "")
        verdict = "passed" if ended else f"FAILED with exit code {ran.returncode}"
    except subprocess.TimeoutExpired as late:
        ended, said = False, late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""
        verdict = f"FAILED: longer than {step.minutes:g} minutes"
    seconds = time.monotonic() - started
    return ended, f"== {step.name}: {verdict} in {seconds:.0f} s\n$ python -m {' '.join(step.module)}\n{said.strip()}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the steps and writes the result file after each.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument("--dry-run", action="store_true", help="List the steps and stop.")
    given = parser.parse_args(arguments)
    steps = [step for step in STEPS if not given.only or step.name in given.only]
    if given.dry_run:
        for step in steps:
            print(f"{step.name:13s} at most {step.minutes:g} min  {step.purpose}: python -m {' '.join(step.module)}")
        print(f"{sum(step.minutes for step in steps):g} minutes at most; the result goes to {given.out}")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu_proof needs a CUDA device, and torch sees none; --dry-run lists what it would do", file=sys.stderr)
        return 2
    command = f"python -m benchmarks.gpu_proof {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    about = {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        **describe_machine(),
        **describe_clock(),
    }
    report = "\n".join([f"$ {command}", f"{now}", *(f"{key}: {value}" for key, value in about.items())]) + "\n\n"
    succeeded = True
    with tempfile.TemporaryDirectory() as shared:
        for step in steps:
            print(f"{step.name}: at most {step.minutes:g} min", flush=True)
            passed, said = run(step, Path(shared))
            succeeded &= passed
            report += said + "\n"
            given.out.write_text(report)
            print(said, flush=True)
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
