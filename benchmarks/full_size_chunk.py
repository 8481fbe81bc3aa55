"""One chunk of a full-size π0 on the CPU: our INT8 bundle and our fp32 against transformers' own PI0 in fp32.

    python -m benchmarks.full_size_chunk [--scheme int8-w8a8] [--repeats 3]

All have the same random weights, inputs and noise, and their actions are compared. Each runs in a process of its own,
whose peak memory is reported; two at a time are alive and take turns, so that a machine whose speed drifts disturbs
both alike. Ratios are medians over pairs of turns. The settings:

| setting  | we compute                   | the peer computes                                                         |
|----------|------------------------------|---------------------------------------------------------------------------|
| full     | 3 cameras, 48 tokens         | the same                                                                  |
| skipping | 2 cameras, 20 tokens         | 3 picture slots, one masked, and the prompt padded to 48: openpi's inputs |
| exact    | 2 cameras, 20 tokens         | the same, without any padding                                             |

`machine_gops` is the rate of exact INT8 products that this machine reaches on the largest linear of the network,
measured in the process of the bundle between its turns; `of_machine` is the whole chunk's share of it. Needs 18 GB of
memory and, for the peer, `pip install transformers`. The last line of the output is one JSON object. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from pi0_edge.quant.compare import compare_actions

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"full": (3, 48), "skipping": (2, 20), "exact": (2, 20)}
PADDED = (3, 48)


class Worker:
    """One network in a process of its own, which answers one setting at a time."""

    def __init__(self, kind: str, *arguments: str, module: str = "benchmarks.full_size_worker") -> None:
        self.kind = kind
        argv = [sys.executable, "-m", module, kind, *arguments]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.actions: dict[str, np.ndarray] = {}
        self.loaded = self._answer()
        print(f"{kind}: loaded in {self.loaded['load_s']:.1f} s", flush=True)

    def chunk(self, setting: str) -> dict[str, Any]:
        """Computes one chunk and keeps its actions."""
        answer = self._ask(setting)
        self.actions[setting] = np.array(answer.pop("actions"))
        return answer

    def profile(self) -> dict[str, Any]:
        """Where the time of one chunk goes: shares by torch operator."""
        return self._ask("profile")

    def end(self) -> dict[str, Any]:
        """Ends the process and returns its peak memory."""
        figures = self._ask("end")
        self._process.wait()
        return figures

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.kind} process ended; its last words are above")
        return json.loads(line)


def take_turns(first: Worker, second: Worker, settings: Sequence[str], repeats: int) -> dict[str, Any]:
    """Times both on every setting, one after the other, after one turn that does not count."""
    found: dict[str, Any] = {}
    for setting in settings:
        turns = [(first.chunk(setting), second.chunk(setting)) for _ in range(repeats + 1)]
        seconds = [(a["seconds"], b["seconds"]) for a, b in turns[1:]]
        found[setting] = {
            f"{first.kind}_s": round(statistics.median(a for a, _ in seconds), 2),
            f"{second.kind}_s": round(statistics.median(b for _, b in seconds), 2),
            "ratio": round(statistics.median(a / b for a, b in seconds), 2),
            "ratio_each": [round(a / b, 2) for a, b in seconds],
            **agreement(first, second, setting),
        }
        if "machine_gops" in turns[-1][1]:
            share = [b["operations"] / b["seconds"] / (b["machine_gops"] * 1e9) for _, b in turns[1:]]
            found[setting]["machine_gops"] = round(statistics.median(b["machine_gops"] for _, b in turns[1:]))
            found[setting]["of_machine"] = round(statistics.median(share), 2)
        print(f"{first.kind} / {second.kind}, {setting}: {found[setting]}", flush=True)
    return found


def agreement(first: Worker, second: Worker, setting: str) -> dict[str, float]:
    """How far the actions of two workers are from each other."""
    found = compare_actions(first.actions[setting], second.actions[setting])
    return {"cosine": round(found.cosine, 6), "largest_difference": float(f"{found.max_abs_error:.2e}")}


def measure(scheme: str, bundle: Path, repeats: int) -> dict[str, Any]:
    """Runs everything and returns the figures."""
    build = [sys.executable, "-m", "benchmarks.full_size_worker", "build", scheme, str(bundle)]
    subprocess.run(build, cwd=ROOT, check=True)
    ours, peer = Worker("bundle", str(bundle)), Worker("transformers")
    against_peer = take_turns(peer, ours, list(SETTINGS), repeats)
    figures: dict[str, Any] = {"peer": peer.end()}
    fp32 = Worker("fp32")
    against_fp32 = take_turns(fp32, ours, ["full", "skipping"], repeats)
    for setting, found in against_fp32.items():
        found["our_fp32 against transformers"] = agreement(fp32, peer, setting)
        found["transformers_fp32 / our_fp32"] = round(against_peer[setting]["ratio"] / found["ratio"], 2)
    figures |= {"our_fp32": fp32.end(), "profile": ours.profile(), "bundle": {**ours.loaded, **ours.end()}}
    return {"scheme": scheme, "against_transformers": against_peer, "our_fp32_against_bundle": against_fp32, **figures}


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="A full-size chunk on the CPU against transformers' PI0.")
    parser.add_argument("--scheme", default="int8-w8a8")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    machine = describe_machine()
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.scheme, Path(folder) / "bundle", options.repeats)
    for name in ("peer", "our_fp32", "bundle", "profile"):
        print(f"{name}: {figures[name]}")
    print(json.dumps({**figures, "machine": machine}))


if __name__ == "__main__":
    main()
