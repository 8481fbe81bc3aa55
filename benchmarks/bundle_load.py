"""How long a full-size bundle takes from disk to a policy that answers, and how much memory.

    python -m benchmarks.bundle_load --scheme int8-w8a8

Writes a bundle of random weights (seeded, one tensor at a time, so that the build needs no memory for the network), and
loads it in processes of their own: once with the files dropped from the page cache, once with them in it. Verifying,
mapping and packing for this processor are timed apart, because only the last depends on the engine. `ready` is all of
them; the server then answers one picture of its own before it opens its port (`first_chunk`). CPU seconds stand beside
wall-clock seconds, for machines that are shared. The last line of the output is one JSON object. Linux only (reads
/proc/self/status).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from benchmarks.random_network import memory
from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.engine import restore_engine
from pi0_edge.engine.loading import blank_model
from pi0_edge.model import PRESETS, Pi0Config
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, load_processor
from pi0_edge.quant import Scheme, find_scheme
from pi0_edge.quant.quantize import blank_quantized
from pi0_edge.shipped import shipped_checkpoint

READY = ("verify", "processor", "map_and_pack")


class RandomState(Mapping[str, Tensor]):
    """The tensors of a quantized network, each drawn when it is asked for: weights of standard deviation 1/sqrt(K)."""

    def __init__(self, config: Pi0Config, scheme: Scheme) -> None:
        model = blank_model(config, scheme)
        blank_quantized(model, scheme)
        self._blank = model.state_dict()

    def __getitem__(self, name: str) -> Tensor:
        blank = self._blank[name]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if blank.dtype == torch.int8:
            return torch.randint(-127, 128, blank.shape, dtype=torch.int8, generator=generator)
        if name.endswith(".scale"):
            width = self._blank[name.removesuffix("scale") + "values"].shape[1]
            return torch.full(blank.shape, width**-0.5 / 73)  # 73: of uniform values up to 127
        values = torch.zeros(blank.shape)
        if blank.ndim > 1:
            values.normal_(std=blank[0].numel() ** -0.5, generator=generator)
        return values.to(blank.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._blank)

    def __len__(self) -> int:
        return len(self._blank)


def build(folder: Path, preset: str, scheme: Scheme) -> dict[str, object]:
    """Writes the bundle; the processing is that of the shipped policy."""
    started = time.perf_counter()
    write_bundle(
        folder,
        state=RandomState(PRESETS[preset], scheme),
        config=PRESETS[preset],
        scheme=scheme,
        processing=load_processor(shipped_checkpoint(), PRESETS["pi0-cube"]).description(),
        source_sha256="0" * 64,
        gate={"verdict": {"passed": True, "reasons": ["random weights: nothing was measured"]}},
    )
    return {
        "build_s": round(time.perf_counter() - started, 1),
        "build_cpu_s": round(time.process_time(), 1),
        "build_peak_resident_gb": round(memory("VmHWM"), 2),
    }


def sizes(folder: Path) -> dict[str, object]:
    """Of the weights on disk."""
    found = [path.stat().st_size for path in folder.glob("weights-*")]
    total, largest = (round(size / 1e9, 2) for size in (sum(found), max(found)))
    return {"bundle_gb": total, "shards": len(found), "largest_shard_gb": largest}


def load(folder: Path) -> dict[str, float]:
    """Loads the bundle in this process and answers one observation of one camera."""
    figures = {"import_resident_gb": round(memory("VmRSS"), 2)}
    started = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal started
        ended = time.perf_counter(), time.process_time()
        figures[f"{name}_s"] = round(ended[0] - started[0], 3)
        figures[f"{name}_cpu_s"] = round(ended[1] - started[1], 3)
        figures[f"{name}_resident_gb"] = round(memory("VmRSS"), 2)
        started = time.perf_counter(), time.process_time()

    bundle = open_bundle(folder)
    lap("verify")
    processor = bundle.processor()
    lap("processor")
    collections.deque(bundle.tensors(), maxlen=0)
    lap("map")
    engine = restore_engine("cpu", bundle.config, bundle.tensors(), bundle.scheme)
    lap("map_and_pack")
    policy = Policy(engine, processor, bundle=bundle)
    robot, size = processor.robot, bundle.config.vision.image_size
    black = dict.fromkeys(robot.cameras, np.zeros((size, size, 3), np.uint8))
    policy.infer(Observation(black, policy.processor.trained_state(), robot.default_prompt or "wait"), noise_seed=0)
    lap("first_chunk")
    for unit in ("s", "cpu_s"):
        figures[f"ready_{unit}"] = round(sum(figures[f"{lap}_{unit}"] for lap in READY), 2)
    return {**figures, "peak_resident_gb": round(memory("VmHWM"), 2)}


def drop_from_cache(folder: Path) -> None:
    """Makes the next reader go to the disk; the kernel keeps only pages that were never written back."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def main() -> None:
    """Reads the options, measures and prints."""
    parser = argparse.ArgumentParser(description="Load times of a bundle of full size with random weights.")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="pi0")
    parser.add_argument("--scheme", default="int8-w8a8")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of torch; hashing takes all cores"
    )
    parser.add_argument("--folder", type=Path, help="keep the bundle there, and load it if it is there already")
    parser.add_argument("--load", type=Path, metavar="BUNDLE", help="only load this bundle, in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.load is not None:
        print(json.dumps(load(options.load)))
        return
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="pi0-edge-bundle-") as scratch:
        folder = options.folder or Path(scratch) / "bundle"
        figures: dict[str, object] = {"preset": options.preset, "scheme": options.scheme}
        if not folder.exists():
            figures |= build(folder, options.preset, find_scheme(options.scheme))
        figures |= sizes(folder)
        argv = [sys.executable, "-m", "benchmarks.bundle_load", "--load", folder, "--threads", str(options.threads)]
        for cache in ("cold", "warm"):
            if cache == "cold":
                drop_from_cache(folder)
            ran = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
            figures |= {f"{cache}_{name}": value for name, value in json.loads(ran.stdout.splitlines()[-1]).items()}
    for name, value in (machine | figures).items():
        print(f"{name:>36}  {value}")
    print(json.dumps({**figures, "machine": machine}))


if __name__ == "__main__":
    main()
