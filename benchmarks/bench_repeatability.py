"""Whether two benches of the same thing differ: they must not in 19 of 20 tries.

    python -m benchmarks.bench_repeatability BUNDLE [--tries 20] [--seconds 10] [--threads 1]

Each try runs `pi0-edge bench` twice, in two processes, and once in turns with itself; `bench compare` says what it says
of both. Every comparison is kept in benchmarks/results/bench_repeatability.jsonl as it is made; the table is written at
the end. Those of void results are kept, too: a machine that is shared is no excuse for a difference that is none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from pi0_edge.bench.comparison import Comparison, compare_samples
from pi0_edge.bench.result import BenchResult, load_result

RESULTS = Path(__file__).parent / "results"
SAMPLES, TABLE = RESULTS / "bench_repeatability.jsonl", RESULTS / "bench_repeatability.md"


def measure(bundle: Path, seconds: float, threads: int, folder: Path, *, in_turns: bool) -> list[BenchResult]:
    """The results of one command: two if the bundle is timed in turns with itself."""
    output = folder / "result"
    argv = [sys.executable, "-m", "pi0_edge.cli", "bench", "--bundle", str(bundle), "--mode", "closed"]
    argv += ["--seconds", str(seconds), "--threads", str(threads), "--output", str(output)]
    argv += ["--against", str(bundle)] if in_turns else []
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stderr)
    names = ("result-1", "result-2") if in_turns else ("result",)
    return [load_result(folder / f"{name}.json") for name in names]


def compared(first: BenchResult, second: BenchResult, *, paired: bool) -> dict[str, Any]:
    """One line of the file."""
    found: Comparison = compare_samples(first.runs[0].samples, second.runs[0].samples, "closed", paired=paired)
    return {
        "paired": paired,
        "ratio": round(found.ratio, 5),
        "low": round(found.low, 5),
        "high": round(found.high, 5),
        "noise": round(found.noise, 5),
        "n": found.counts[0],
        "differs": found.differs,
        "valid": first.verdict.valid and second.verdict.valid,
        "load": round(os.getloadavg()[0], 2),
    }


def table(lines: Sequence[Mapping[str, Any]], machine: Mapping[str, str], command: str) -> str:
    """The table as Markdown, with what it was made by."""
    rows = [f"`{command}`", "", *(f"* {name}: {value}" for name, value in machine.items())]
    loads = [line["load"] for line in lines]
    rows += [f"* load: {min(loads)} to {max(loads)}", ""]
    rows += ["| comparison | tries | differences told | of valid results | ratio farthest from 1 |"]
    rows += ["|---|---:|---:|---:|---:|"]
    for paired, name in ((False, "two sessions"), (True, "in turns")):
        own = [line for line in lines if line["paired"] is paired]
        valid = [line for line in own if line["valid"]]
        told = f"{sum(line['differs'] for line in valid)} of {len(valid)}"
        farthest = max((line["ratio"] for line in own), key=lambda ratio: abs(ratio - 1), default=1.0)
        rows.append(f"| {name} | {len(own)} | {sum(line['differs'] for line in own)} | {told} | {farthest:.3f} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Runs the tries; 1 where differences were told in more than 1 of 20."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    SAMPLES.unlink(missing_ok=True)
    lines: list[dict[str, Any]] = []
    for number in range(arguments.tries):
        with tempfile.TemporaryDirectory() as folder:
            common = (arguments.bundle, arguments.seconds, arguments.threads, Path(folder))
            (first,), (second,) = (measure(*common, in_turns=False) for _ in range(2))
            pair = measure(*common, in_turns=True)
        made = [compared(first, second, paired=False), compared(pair[0], pair[1], paired=True)]
        with SAMPLES.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in made)
        lines += made
        told = ", ".join(f"{'DIFFERS' if one['differs'] else 'no difference'} {one['ratio']}" for one in made)
        sys.stderr.write(f"{number + 1} of {arguments.tries}: {told}\n")
    command = (
        f"python -m benchmarks.bench_repeatability BUNDLE --tries {arguments.tries} --seconds {arguments.seconds:g}"
    )
    TABLE.write_text(table(lines, describe_machine(), command))
    told = [sum(line["differs"] for line in lines if line["paired"] is paired) for paired in (False, True)]
    return int(max(told) > arguments.tries / 20)


if __name__ == "__main__":
    raise SystemExit(main())
