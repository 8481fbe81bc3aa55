"""What GPTQ goes by is what a plain hook sees, in however many passes; and a checkpoint rounded by it is better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from observation_sources import write_npz
from policy_builders import write_checkpoint
from torch import Tensor, nn

from pi0_edge.bundle import open_bundle
from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0
from pi0_edge.policy import Policy
from pi0_edge.processing import load_robot
from pi0_edge.progress import Progress
from pi0_edge.ptq.calibration import frame_noise
from pi0_edge.ptq.candidate import quantize_checkpoint
from pi0_edge.ptq.frames import Frames, split_frames
from pi0_edge.ptq.input_products import collect_input_products, paths_to_round
from pi0_edge.ptq.pipeline import ScanOptions, quantize
from pi0_edge.ptq.sources import open_source
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.quant import QuantizationError, find_scheme
from pi0_edge.quant.scheme_files import load_scheme

torch.set_num_threads(1)
PREFIX4, EXPERT4 = find_scheme("orin-prefix4"), find_scheme("orin-expert4")
SEED = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("products") / "checkpoint")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("recording") / "robot.npz", 40, prompt="Transfer cube")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Policy:
    return Policy.load(checkpoint, "reference")


@pytest.fixture(scope="module")
def frames(recording: Path) -> Frames:
    return split_frames(open_source(recording, load_robot("aloha_sim")), 16, 0, SEED).calibration


def network(policy: Policy) -> Pi0:
    model = getattr(policy.engine, "model")  # noqa: B009
    assert isinstance(model, Pi0)
    return model


def entered(policy: Policy, frames: Frames) -> dict[str, Tensor]:
    """XᵀX in float64 of everything that enters every linear, by the plainest hook there is."""
    sums: dict[str, Tensor] = {}

    def add(path: str):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tokens = inputs[0].flatten(0, -2).double()
            sums[path] = sums.get(path, 0) + tokens.t() @ tokens

        return hook

    model = network(policy)
    hooks = [m.register_forward_pre_hook(add(path)) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for number, seen in enumerate(frames):
            sample = policy.processor.to_model_inputs(seen)
            model.sample_actions(sample, frame_noise(model.config, SEED, number), policy.engine.times)
    for hook in hooks:
        hook.remove()
    return sums


def test_products_are_those_of_everything_that_enters_in_any_number_of_passes(reference: Policy, frames: Frames):
    paths = paths_to_round(network(reference), [PREFIX4])
    reports: list[Progress] = []
    at_once = collect_input_products(reference, frames, SEED, paths)
    in_turn = collect_input_products(reference, frames, SEED, paths, reports.append, most_bytes=4 * 48 * 48 * 4)
    expected = entered(reference, frames)
    assert list(at_once) == list(in_turn) == paths
    assert reports[-1].total == reports[-1].done == 3 * 16  # three passes over the 16 frames
    for path in paths:
        assert torch.equal(at_once[path], in_turn[path])
        error = (at_once[path].double() - expected[path]).norm() / expected[path].norm()
        assert float(error) < 1e-5, path


def test_its_files_go_with_it(reference: Policy, frames: Frames):
    products = collect_input_products(reference, frames, SEED, ["expert.layers.0.mlp.down"])
    folder = Path(products._folder.name)
    assert len(list(folder.iterdir())) == len(products) == 1
    del products
    assert not folder.exists()


def test_only_linears_that_are_rounded_so_are_measured(reference: Policy):
    model = network(reference)
    assert paths_to_round(model, [find_scheme("int8-w8a8")]) == []
    expert = paths_to_round(model, [EXPERT4])
    assert len(expert) == 14
    assert all(path.startswith("expert.layers.") for path in expert)
    prefix = set(paths_to_round(model, [EXPERT4, PREFIX4])) - set(expert)
    assert prefix == {
        *(f"prefix.layers.0.{name}" for name in ("attention.q", "attention.k", "attention.v", "mlp.gate", "mlp.up")),
        *(f"prefix.layers.1.attention.{name}" for name in "kv"),
    }


def test_a_policy_on_another_engine_is_refused(checkpoint: Path, frames: Frames):
    with pytest.raises(EngineError, match="cannot be calibrated; expected reference"):
        collect_input_products(Policy.load(checkpoint, "cpu"), frames, SEED, ["expert.layers.0.mlp.down"])


def test_a_checkpoint_is_refused_without_them(checkpoint: Path):
    with pytest.raises(QuantizationError, match=r"GPTQ rounds by what enters the layer; make a bundle"):
        quantize_checkpoint(checkpoint, PREFIX4)
    with pytest.raises(QuantizationError, match=r"GPTQ rounds by what enters the layer; make a bundle"):
        Policy.load(checkpoint, "cpu", "orin-expert4")


def test_quantize_collects_rounds_judges_and_bundles_them(checkpoint: Path, recording: Path, tmp_path: Path):
    """The whole way, twice to the same bytes; the bundle holds packed weights and gives the same chunk."""
    few = {
        "calibration_frames": 16,
        "held_out": 4,
        "draws": 1,
        "thresholds": Thresholds(-1, -1, executed=4, chunks=4),
    }
    made = [quantize(checkpoint, "orin-prefix4", recording, **few) for _ in range(2)]  # pyright: ignore
    assert made[0].state.keys() == made[1].state.keys()
    assert all(torch.equal(tensor, made[1].state[name]) for name, tensor in made[0].state.items())
    values, scale = (made[0].state[f"expert.layers.1.mlp.gate.{name}"] for name in ("values", "scale"))
    assert (values.dtype, tuple(values.shape)) == (torch.uint8, (48, 16))
    assert (scale.dtype, tuple(scale.shape)) == (torch.bfloat16, (48, 1))
    made[0].write_bundle(tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.scheme == PREFIX4
    source = open_source(recording, load_robot("aloha_sim"))
    seen = next(iter(split_frames(source, 1, 0, 0).calibration))
    chunks = [policy.infer(seen, 5).actions for policy in (made[0].policy, Policy.from_bundle(bundle))]
    assert np.array_equal(chunks[0], chunks[1])


def test_a_rule_that_rounds_so_and_covers_no_layer_asks_for_nothing(checkpoint: Path, recording: Path):
    """The network's parts are named otherwise: the scheme is judged like one without this rule."""
    nowhere = replace(EXPERT4, rules=tuple(replace(rule, layers=("nowhere.*",)) for rule in EXPERT4.rules))
    assert nowhere.needs_input_products
    loose = Thresholds(-1, -1, executed=4, chunks=4)
    found = quantize(checkpoint, nowhere, recording, calibration_frames=16, held_out=4, draws=1, thresholds=loose)
    assert found.passed and found.quantization.layers == ()


def test_a_search_may_take_layers_from_a_scheme_that_rounds_so(checkpoint: Path, recording: Path, tmp_path: Path):
    """Where everything passes, it takes the cheapest: the four bits; the mix names the rounding."""
    found = quantize(
        checkpoint,
        "orin-int8",
        recording,
        calibration_frames=16,
        held_out=4,
        draws=1,
        thresholds=Thresholds(executed=4, cosine_mean=-1, cosine_worst=-1),
        scan=ScanOptions("part", 2, ["orin-prefix4"]),
        search=tmp_path / "mix.yaml",
    )
    mix = load_scheme(tmp_path / "mix.yaml")
    assert mix == found.scheme
    taken = {path: mix.rule_for(path) for path in ("expert.layers.0.mlp.down", "prefix.layers.0.mlp.gate")}
    assert [str(rule.weights) for rule in taken.values() if rule] == ["int4 per group of 64", "int4 per channel"]
    assert all(rule is not None and rule.rounding == "gptq" for rule in taken.values())
