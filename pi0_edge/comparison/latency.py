"""How long a chunk takes: one observation, one thread, prefix and head apart, as `pi0-edge bench` tells percentiles.

Weights decide nothing about it, so that a head that was not trained is timed as well. Prefix is vision and prefix, the
same for all; head is the state token, the expert and what stands behind it. Heads are timed in turns, a chunk of each,
so that a change of the machine's clock touches all of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pi0_edge.comparison.plan import Decoding, Plan, Variant
from pi0_edge.heads import build_network, parameter_counts, sequential_calls
from pi0_edge.latency.percentiles import Latency
from pi0_edge.latency.stages import Stage
from pi0_edge.model import ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.model.flow import euler_times
from pi0_edge.sim.aloha import JOINT_NAMES
from pi0_edge.synced_files import save_synced

WARM_UP = 3
PROMPT_TOKENS = 4


@dataclasses.dataclass
class _Timed:
    """One head with one way of decoding, and its samples."""

    variant: Variant
    decoding: Decoding
    network: PolicyNetwork
    prefix_ms: list[float] = dataclasses.field(default_factory=list)
    head_ms: list[float] = dataclasses.field(default_factory=list)
    spent_s: float = 0.0

    def run(self, inputs: ModelInputs, noise: torch.Tensor) -> None:
        """Times one chunk."""
        ends: dict[str, float] = {}
        begin = time.perf_counter()
        self.network.sample_actions(
            inputs,
            noise,
            euler_times(self.decoding.steps),
            on_stage=lambda stage: ends.__setitem__(stage, time.perf_counter()),
        )
        end = time.perf_counter()
        self.prefix_ms.append(1e3 * (ends[Stage.PREFIX] - begin))
        self.head_ms.append(1e3 * (end - ends[Stage.PREFIX]))
        self.spent_s += end - begin


def time_heads(plan: Plan, result: Path, on_done: Callable[[str], object] = lambda name: None) -> list[dict[str, Any]]:
    """Times every variant and decoding of a plan in this process, and writes the figures whole.

    Each gets `latency_samples` chunks, or as many as take `latency_s`, the warm-up apart.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [_figures(one) for one in _timed(plan, on_done)]
    finally:
        torch.set_num_threads(threads)
    result.parent.mkdir(parents=True, exist_ok=True)
    save_synced(result, json.dumps(found, indent=2).encode())
    return found


@torch.inference_mode()
def _timed(plan: Plan, on_done: Callable[[str], object]) -> list[_Timed]:
    everything = _networks(plan)
    given = {one.variant.name: _observation(one.network.config) for one in everything}
    for _ in range(WARM_UP):
        for one in everything:
            one.run(*given[one.variant.name])
    for one in everything:
        one.prefix_ms, one.head_ms, one.spent_s = [], [], 0.0
    running = list(everything)
    while running:
        for one in list(running):
            one.run(*given[one.variant.name])
            if len(one.head_ms) >= plan.latency_samples or one.spent_s >= plan.latency_s:
                running.remove(one)
                on_done(f"{one.variant.name}, {one.decoding.name}")
    return everything


def _networks(plan: Plan) -> list[_Timed]:
    timed = []
    for variant in (*plan.variants, *plan.timed):
        for decoding in variant.decodings:
            config = variant.config(plan.network, len(JOINT_NAMES))
            config = dataclasses.replace(config, decoding="sampled" if decoding.sampled else "greedy")
            torch.manual_seed(0)
            timed.append(_Timed(variant, decoding, build_network(config).eval()))
    return timed


def _observation(config: Pi0Config) -> tuple[ModelInputs, torch.Tensor]:
    """One observation of one camera, and the noise of a chunk."""
    generator = torch.Generator().manual_seed(0)
    size = config.vision.image_size
    inputs = ModelInputs(
        images=torch.rand(1, 1, 3, size, size, generator=generator) * 2 - 1,
        image_mask=torch.ones(1, 1, dtype=torch.bool),
        tokens=torch.zeros(1, PROMPT_TOKENS, dtype=torch.int64),
        token_mask=torch.ones(1, PROMPT_TOKENS, dtype=torch.bool),
        state=torch.randn(1, config.action_dim, generator=generator),
    )
    return inputs, torch.randn(1, config.horizon, config.action_dim, generator=generator)


def _figures(one: _Timed) -> dict[str, Any]:
    whole = [prefix + head for prefix, head in zip(one.prefix_ms, one.head_ms, strict=True)]
    calls = sequential_calls(one.network.config, one.decoding.steps)
    latency = Latency.of(whole)
    return {
        "variant": one.variant.name,
        "decoding": one.decoding.name,
        "horizon": one.variant.horizon,
        "executed": one.variant.executed,
        "parameters": parameter_counts(one.network),
        "calls": {"transformer": calls.transformer, "denoiser": calls.denoiser, "total": calls.total},
        "chunk_ms": latency.to_dict(),
        "prefix_ms": Latency.of(one.prefix_ms).to_dict(),
        "head_ms": Latency.of(one.head_ms).to_dict(),
        "actions_per_second": 1e3 * one.variant.executed / latency.p50_ms,
    }
