"""One full-size network in a process of its own, for `benchmarks.full_size_chunk`.

Reads settings from standard input, one a line, and answers each with one line of JSON; `profile` asks where the time of
the setting `full` goes, `end` for the peak memory.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.full_size_chunk import PADDED, SETTINGS
from benchmarks.random_network import QuantizedNetwork, memory
from pi0_edge.bench.random_weights import draw, random_observation, random_parameters
from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.engine import assemble_engine, restore_engine
from pi0_edge.engine.loading import blank_model
from pi0_edge.model import PRESETS, ModelInputs, Pi0Config
from pi0_edge.processing import load_processor
from pi0_edge.quant import find_scheme
from pi0_edge.quant.integer_matmul import OneDnnMatmul
from pi0_edge.shipped import shipped_checkpoint

CONFIG = PRESETS["pi0"]
PROFILED = 12
Chunk = Callable[[ModelInputs, Tensor], Tensor]


def build(scheme: str, folder: Path) -> None:
    """Writes the bundle. Its gate judged nothing: random weights have no task to succeed at."""
    write_bundle(
        folder,
        state=QuantizedNetwork(CONFIG, find_scheme(scheme)),
        config=CONFIG,
        scheme=find_scheme(scheme),
        processing=load_processor(shipped_checkpoint(), PRESETS["pi0-cube"]).description(),
        source_sha256="0" * 64,
    )


def load_bundle(folder: str) -> Chunk:
    """Our CPU engine on the bundle."""
    bundle = open_bundle(Path(folder))
    return restore_engine("cpu", bundle.config, bundle.tensors(), bundle.scheme).infer


def load_fp32() -> Chunk:
    """Our reference."""
    return assemble_engine("reference", CONFIG, random_parameters(CONFIG)).infer


def load_transformers(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, compiled: bool = False
) -> Chunk:
    """Transformers' PI0 with the same parameters, which are of `dtype`; inputs and actions are on the device."""
    transformers = importlib.import_module("transformers")  # a peer to compare with, not a requirement

    from pi0_edge.checkpoints.layout import Entry
    from pi0_edge.checkpoints.torch_layout import torch_layout

    with torch.device("meta"):
        model = transformers.PI0ForConditionalGeneration(transformers.PI0Config()).eval()
    model.to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    where = Path("transformers")
    entries = {name: Entry(tuple(parameter.shape), dtype, where) for name, parameter in parameters.items()}
    layout = torch_layout(entries, where, "transformers")
    assert layout is not None
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name != "model.dit.embed_tokens.weight":  # never read, and a gigabyte
                parameter.zero_()  # what we lack is work nobody reads: the last prefix layer after its keys and values
        for name, blank in blank_model(CONFIG).named_parameters():
            target = parameters[layout.locate(name).key]
            target.copy_(draw(name, blank.shape).view(target.shape))
    _fill_buffers(model)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.to(device, dtype if isinstance(tensor, torch.nn.Parameter) else None)
    image_token = model.config.vlm_config.image_token_id
    sample = torch.compile(model.sample_actions) if compiled else model.sample_actions

    def infer(inputs: ModelInputs, noise: Tensor) -> Tensor:
        slots = torch.full((1, int(inputs.image_mask.sum()) * CONFIG.vision.tokens), image_token)
        absent = torch.full((1, int((~inputs.image_mask).sum()) * CONFIG.vision.tokens), image_token)
        ids = torch.cat((slots, absent, inputs.tokens), 1)
        attended = torch.cat((torch.ones_like(slots), torch.zeros_like(absent), inputs.token_mask.long()), 1)
        return sample(
            state=inputs.state,
            input_ids=ids,
            pixel_values=inputs.images,
            noise=noise,
            attention_mask=attended,
            pixel_attention_mask=inputs.image_mask,
        )

    return infer


def observation(setting: str, padded: bool) -> tuple[ModelInputs, Tensor]:
    """The inputs of a setting; padded as openpi pads them where asked."""
    cameras, tokens = SETTINGS[setting]
    inputs, noise = random_observation(CONFIG, cameras, tokens)
    if not (padded and setting == "skipping"):
        return inputs, noise
    slots, length = PADDED
    images = torch.cat((inputs.images, torch.full_like(inputs.images[:, : slots - cameras], -1.0)), 1)
    blank = torch.zeros(1, length - tokens, dtype=torch.long)
    mask = torch.cat((inputs.token_mask, blank.bool()), 1)
    image_mask = torch.cat((inputs.image_mask, torch.zeros(1, slots - cameras, dtype=torch.bool)), 1)
    return ModelInputs(images, image_mask, torch.cat((inputs.tokens, blank), 1), mask, inputs.state), noise


def operations(config: Pi0Config, cameras: int, tokens: int) -> float:
    """Multiplications and additions in the quantized linears of one chunk."""
    pictures = cameras * config.vision.tokens
    rows = {"vision": pictures, "prefix": pictures + tokens, "expert": 10 * config.horizon + 1}
    total = 0.0
    for name, parameter in blank_model(config).named_parameters():
        if parameter.ndim == 2 and ".layers." in name:
            total += 2.0 * rows[name.split(".")[0]] * parameter.numel()
    return total


def profile(infer: Chunk) -> dict[str, float]:
    """Shares of the time of one chunk by torch operator, the largest ones."""
    inputs, noise = observation("full", padded=False)
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        infer(inputs, noise)
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    largest = sorted(spent, key=lambda key: -spent[key])[:PROFILED]
    return {key: round(spent[key] / total, 3) for key in largest}


def machine_gops() -> float:
    """Billions of operations per second of the bare INT8 product, on the shape of the prefix's gate."""
    m, k, n = 816, CONFIG.prefix.width, CONFIG.prefix.mlp_dim
    product = OneDnnMatmul(torch.ones(n, k, dtype=torch.int8), torch.ones(n))
    tokens = torch.ones(m, k, dtype=torch.int8)
    return 2e-9 * m * k * n / min(_seconds(lambda: product(tokens)) for _ in range(5))


def main() -> None:
    """Loads a network and answers."""
    kind, *arguments = sys.argv[1:]
    if kind == "build":
        build(arguments[0], Path(arguments[1]))
        return
    started = time.perf_counter()
    loaders = {"bundle": load_bundle, "fp32": load_fp32, "transformers": load_transformers}
    infer = loaders[kind](*arguments)
    _say({"load_s": round(time.perf_counter() - started, 2), "resident_gb": round(memory("VmRSS"), 2)})
    for line in sys.stdin:
        setting = line.strip()
        if setting == "end":
            break
        if setting == "profile":
            _say(profile(infer))
            continue
        inputs, noise = observation(setting, padded=kind == "transformers")
        chunk: list[Tensor] = []
        with torch.inference_mode():
            seconds = _seconds(lambda: chunk.append(infer(inputs, noise)))  # noqa: B023 - called at once
        answer: dict[str, Any] = {"seconds": seconds, "actions": chunk[0].tolist()}
        if kind == "bundle":
            answer |= {"operations": operations(CONFIG, *SETTINGS[setting]), "machine_gops": machine_gops()}
        _say(answer)
    _say({"peak_resident_gb": round(memory("VmHWM"), 2)})


def _fill_buffers(model: torch.nn.Module) -> None:
    """Computes again what transformers keeps in buffers, which a network made without memory lacks."""
    for module in model.modules():
        if buffers := list(module.named_buffers(recurse=False)):
            for name, buffer in buffers:
                _fill_buffer(module, name, buffer)


def _fill_buffer(module: torch.nn.Module, name: str, buffer: Tensor) -> None:
    config = getattr(module, "config", None)
    if name == "position_ids":
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
    elif name == "sinusoid_freq":
        buffer.copy_(module.compute_freqs(config))  # pyright: ignore[reportCallIssue]
    elif name == "embed_scale":
        buffer.fill_(getattr(module, "scalar_embed_scale"))  # noqa: B009
    elif name in ("inv_freq", "original_inv_freq"):
        frequencies, _ = module.compute_default_rope_parameters(config)  # pyright: ignore[reportCallIssue]
        buffer.copy_(frequencies)
    else:
        raise RuntimeError(f"this version of transformers has a buffer {name} that is not known here")


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
