"""The benchmark of stacks against single layers, on a network that takes no time."""

from dataclasses import replace

import pytest
import torch
from native_levels import compiled

from benchmarks import cpu_layers
from pi0_edge.engine.cpu.stacks import VisionStack
from pi0_edge.model import Pi0Config
from pi0_edge.model.config import GemmaConfig, VisionConfig

GEMMA = GemmaConfig(width=64, depth=2, mlp_dim=96, heads=2, kv_heads=1, head_dim=32)


@compiled
def test_every_form_runs_the_same_network(monkeypatch: pytest.MonkeyPatch):
    full = cpu_layers.config(2)
    assert (full.vision.depth, full.prefix.depth, full.expert.depth, full.prefix.width) == (2, 2, 2, 2048)
    small: Pi0Config = replace(
        full, vision=VisionConfig(64, 2, 96, 2, 14, 28), prefix=GEMMA, expert=GEMMA, max_prompt_tokens=48
    )
    monkeypatch.setattr(cpu_layers, "config", lambda depth: small)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = cpu_layers.measure(2, turns=1)
    finally:
        torch.set_num_threads(threads)
    assert list(results) == [cpu_layers.ONE_DNN, cpu_layers.SINGLE, cpu_layers.STACKS]
    for times, cosine in results.values():
        assert list(times) == list(cpu_layers.PARTS) and 0 < times["vision"] < times["all"] and cosine > 0.99
    assert cpu_layers.table(results).count("\n") == 1 + len(results)


@compiled
def test_only_the_stacks_are_stacks(monkeypatch: pytest.MonkeyPatch):
    sizes = replace(
        cpu_layers.config(2), vision=VisionConfig(64, 2, 96, 2, 14, 28), prefix=GEMMA, expert=GEMMA, vocab_size=8
    )
    found = cpu_layers.forms(sizes)
    stacked = {
        name: any(isinstance(module, VisionStack) for module in form.model.modules()) for name, form in found.items()
    }
    assert stacked == {name: name.startswith("stacks") for name in found}
