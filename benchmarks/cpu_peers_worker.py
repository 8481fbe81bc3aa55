"""One network in a process of its own, for `benchmarks.cpu_peers`: prepared first, then asked for chunks.

    prepare FOLDER PRESET WHAT CAMERAS TOKENS SCHEME      truth, bundle, or the programs of a peer
    KIND FOLDER PRESET                                    answers each line of standard input with one chunk

`end` asks for the peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import cpu_peers_programs as programs
from benchmarks.full_size_worker import load_transformers
from benchmarks.random_network import QuantizedNetwork, memory
from pi0_edge.bench.random_weights import random_observation, random_parameters
from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.engine import assemble_engine, restore_engine
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.model import PRESETS, ModelInputs, Pi0Config
from pi0_edge.processing import load_processor
from pi0_edge.quant import find_scheme
from pi0_edge.shipped import shipped_checkpoint

Ask = Callable[[], Tensor]


def prepare(folder: Path, config: Pi0Config, what: str, cameras: int, tokens: int, scheme: str) -> None:
    """Makes one thing that a network needs, unless it is there: a folder that was kept is taken as it is."""
    asked = {"cameras": cameras, "tokens": tokens, "scheme": scheme, "sizes": repr(config)}
    about = folder / "about.json"
    if about.exists() and json.loads(about.read_text()) != asked:
        raise SystemExit(f"{folder} was prepared for {about.read_text()}; name another folder")
    about.write_text(json.dumps(asked))
    done = folder / f"{programs.files_of(what)}.done"
    if done.exists():
        return
    if what == "truth":
        write_truth(folder, config, cameras, tokens)
    elif what == "bundle":
        write_bundle(
            folder / "bundle",
            state=QuantizedNetwork(config, find_scheme(scheme)),
            config=config,
            scheme=find_scheme(scheme),
            processing=load_processor(shipped_checkpoint(), PRESETS["pi0-cube"]).description(),
            source_sha256="0" * 64,
        )
    else:
        programs.write_peer(what, folder, config)
    done.touch()


@torch.inference_mode()
def write_truth(folder: Path, config: Pi0Config, cameras: int, tokens: int) -> None:
    """The reference's actions in fp32, the observation, and the largest magnitude of what enters every linear."""
    engine = assemble_engine("reference", config, random_parameters(config))
    assert isinstance(engine, ReferenceEngine)
    inputs, noise = random_observation(config, cameras, tokens)
    amax = programs.largest_inputs(engine.model)
    actions = engine.infer(inputs, noise)
    save_file({path: value.clone() for path, value in amax.items()}, folder / "amax.safetensors")
    whole = {name: getattr(inputs, name).contiguous() for name in ("images", "tokens", "state")}
    save_file({"actions": actions, "noise": noise, **whole}, folder / "truth.safetensors")


def observation(folder: Path) -> tuple[ModelInputs, Tensor]:
    """The inputs and the noise that were prepared."""
    kept = load_file(folder / "truth.safetensors")
    there = [torch.ones(1, kept[name].shape[1], dtype=torch.bool) for name in ("images", "tokens")]
    return ModelInputs(kept["images"], there[0], kept["tokens"], there[1], kept["state"]), kept["noise"]


def load(kind: str, folder: Path, config: Pi0Config) -> Ask:
    """What computes one chunk."""
    inputs, noise = observation(folder)
    if kind == "ours":
        bundle = open_bundle(folder / "bundle")
        engine = restore_engine("cpu", bundle.config, bundle.tensors(), bundle.scheme)
        return lambda: engine.infer(inputs, noise)
    if kind == "transformers":
        if config != PRESETS["pi0"]:
            raise SystemExit("transformers' PI0 is made with the sizes of the preset pi0 only")
        infer = load_transformers()
        return lambda: infer(inputs, noise)
    return programs.load_peer(kind, folder)


def main() -> None:
    """Prepares, or loads a network and answers."""
    os.environ.setdefault("NNCF_CI", "1")  # NNCF reports its use to its makers unless told that this is a test
    kind, folder, preset, *more = sys.argv[1:]
    config = PRESETS[preset]
    if kind == "prepare":
        what, cameras, tokens, scheme = more
        prepare(Path(folder), config, what, int(cameras), int(tokens), scheme)
        return
    started = time.perf_counter()
    ask = load(kind, Path(folder), config)
    _say({"load_s": round(time.perf_counter() - started, 2), "resident_gb": round(memory("VmRSS"), 2)})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        with torch.inference_mode():
            started = time.perf_counter()
            actions = ask()
            seconds = time.perf_counter() - started
        _say({"seconds": seconds, "actions": actions.tolist()})
    _say({"peak_resident_gb": round(memory("VmHWM"), 2)})


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
