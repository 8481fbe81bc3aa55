"""One chunk on the CPU, ours against what else runs such a network there, all in one run.

    pip install openvino nncf onnxruntime transformers
    python -m benchmarks.cpu_peers [--cameras 3] [--tokens 48] [--repeats 3] [--peers NAME ...]

| name | what runs |
|---|---|
| `openvino-static` | OpenVINO, W8A8 with calibrated scales, everything else as OpenVINO chooses (bf16 where there is) |
| `openvino-engine` | the same file by `--engine openvino`, which computes everything else in fp32 |
| `openvino-weights` | OpenVINO, INT8 weights, everything else as OpenVINO chooses |
| `openvino-nncf` | OpenVINO, W8A8 by NNCF from fp32, attention included (13 GB of disk and memory more) |
| `onnxruntime-dynamic` | ONNX Runtime, W8A8 with a scale per call, its optimizer on |
| `transformers` | transformers' PI0 in fp32 |
| `vla.cpp` | `--vla-cpp vla-bench --vla-model pi0.gguf`: its own inputs, so its actions are not compared |

Ours is the CPU engine on a bundle under `--scheme`. All have the same random weights, observation and noise. Static
scales are calibrated on that observation: the best case for them. Each runs in a process of its own; the peer and
ours take turns, so that a machine whose speed drifts disturbs both alike, and ratios are medians over pairs of turns.
Actions are compared with our reference in fp32, which runs first and alone. A random network amplifies rounding more
than a trained one: what its cosines are good for is to be compared with one another.

`--preset pi0-cube` takes the small network, to try the benchmark itself, without transformers. `--keep FOLDER` keeps
what was prepared, and takes it from there the next time. The last line of the output is one JSON object. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.full_size_chunk import ROOT, Worker
from benchmarks.machine import describe_machine
from pi0_edge.quant.compare import compare_actions

WORKER = "benchmarks.cpu_peers_worker"
FULL_SIZE, TRANSFORMERS = "pi0", "transformers"
PEERS = (
    "openvino-static",
    "openvino-engine",
    "openvino-weights",
    "openvino-nncf",
    "onnxruntime-dynamic",
    TRANSFORMERS,
)
USUAL = tuple(name for name in PEERS if name not in ("openvino-engine", "openvino-nncf"))
PACKAGES = ("openvino", "nncf", "onnxruntime", "transformers")
TURN = "chunk"


class VlaCpp:
    """The program `vla-bench` of vla.cpp, started anew for every turn: it loads, warms up once and times one chunk."""

    kind = "vla.cpp"

    def __init__(self, program: Path, model: Path, cameras: int, tokens: int) -> None:
        views = ("--images", str(cameras), "--tokens", str(tokens))
        self._argv = [str(program), "--ckpt", str(model), *views, "--warmup", "1", "--reps", "1"]
        self.actions: dict[str, np.ndarray] = {}
        self.loaded: dict[str, Any] = {}
        self._peak_kib = 0

    def chunk(self, setting: str) -> dict[str, Any]:
        """Times one chunk."""
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(self._argv, stdout=said, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)  # of this process alone, not of what prepared the others
            process.returncode = os.waitstatus_to_exitcode(status)
            said.seek(0)
            errors.seek(0)
            found, complaint = re.search(r"p50 ([\d.]+) ms", said.read()), errors.read()
        if process.returncode or found is None:
            raise SystemExit(f"{self._argv[0]} ended with {process.returncode} and printed no p50: {complaint[-500:]}")
        self._peak_kib = max(self._peak_kib, used.ru_maxrss)
        return {"seconds": float(found[1]) / 1e3}

    def end(self) -> dict[str, Any]:
        """Its peak memory. Linux counts what started it, too: no less than the peak of this process is ever found."""
        return {"peak_resident_gb": round(self._peak_kib * 1024 / 1e9, 2)}


def take_turns(peer: Worker | VlaCpp, ours: Worker, repeats: int) -> dict[str, Any]:
    """Times both, one after the other, after one turn that does not count."""
    turns = [(peer.chunk(TURN)["seconds"], ours.chunk(TURN)["seconds"]) for _ in range(repeats + 1)][1:]
    return {
        "peer_s": round(statistics.median(theirs for theirs, _ in turns), 3),
        "our_s": round(statistics.median(own for _, own in turns), 3),
        "peer_over_ours": round(statistics.median(theirs / own for theirs, own in turns), 3),
        "each": [round(theirs / own, 3) for theirs, own in turns],
    }


def accuracy(actions: np.ndarray | None, truth: np.ndarray) -> dict[str, Any]:
    """How far a peer's actions are from fp32."""
    if actions is None:
        return {"cosine": "its inputs are its own"}
    found = compare_actions(truth, actions)
    return {"cosine": round(found.cosine, 6), "largest_difference": float(f"{found.max_abs_error:.2e}")}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepares, lets every peer take turns with ours, and returns the figures."""
    common = (str(folder), options.preset)
    shape = (str(options.cameras), str(options.tokens))
    for what in ("truth", "bundle", *(peer for peer in options.peers if peer != TRANSFORMERS)):
        argv = [sys.executable, "-m", WORKER, "prepare", *common, what, *shape, options.scheme]
        subprocess.run(argv, cwd=ROOT, check=True)
    truth = load_file(folder / "truth.safetensors")["actions"]
    found: dict[str, Any] = {}
    for name in options.peers:
        peer, ours = Worker(name, *common, module=WORKER), Worker("ours", *common, module=WORKER)
        found[name] = _compared(peer, ours, truth, options.repeats)
    if options.vla_cpp:
        peer = VlaCpp(options.vla_cpp, options.vla_model, options.cameras, options.tokens)
        found[peer.kind] = _compared(peer, Worker("ours", *common, module=WORKER), truth, options.repeats)
    return found


def _compared(peer: Worker | VlaCpp, ours: Worker, truth: np.ndarray, repeats: int) -> dict[str, Any]:
    found = take_turns(peer, ours, repeats)
    found |= accuracy(peer.actions.get(TURN), truth) | {**peer.loaded, **peer.end()}
    found["ours"] = accuracy(ours.actions[TURN], truth) | {**ours.loaded, **ours.end()}
    print(f"{peer.kind}: {found}", flush=True)
    return found


def versions() -> dict[str, str]:
    """Of the packages of the peers that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=FULL_SIZE)
    parser.add_argument("--scheme", default="int8-w8a8")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="Default: all that --preset and memory allow.")
    parser.add_argument("--keep", type=Path, help="Folder for what was prepared.")
    parser.add_argument("--vla-cpp", type=Path, help="The program vla-bench.")
    parser.add_argument("--vla-model", type=Path, help="Its model, .gguf.")
    options = parser.parse_args(arguments)
    full_size = options.preset == FULL_SIZE
    if options.peers is None:
        options.peers = [name for name in USUAL if full_size or name != TRANSFORMERS]
    if not full_size and TRANSFORMERS in options.peers:
        parser.error(f"{TRANSFORMERS} runs {FULL_SIZE} only; leave it out of --peers")
    if (options.vla_cpp is None) != (options.vla_model is None):
        parser.error("--vla-cpp and --vla-model belong together")
    return options


def main() -> None:
    """Reads the options, measures and prints."""
    options = read_options()
    machine = describe_machine() | versions()
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(options, folder)
    setting = {name: getattr(options, name) for name in ("preset", "scheme", "cameras", "tokens", "repeats")}
    print(json.dumps({**setting, "peers": figures, "machine": machine}))


if __name__ == "__main__":
    main()
