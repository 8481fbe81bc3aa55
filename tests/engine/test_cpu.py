"""The CPU engine on the golden networks, against fp32 on the same noise."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.engine import build_engine
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.loading import blank_model, fill_model
from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0
from pi0_edge.quant import INT8_W8A8, ORIN, QuantizationError, compare_actions
from pi0_edge.quant.schemes import BF16_POLICY
from pi0_edge.verification import Recording, read_inputs

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SIZES = {"heads": 8, "kv_heads": 1, "head_dim": 16, "vision.heads": 4, "horizon": 50, "max_prompt_tokens": 48}


def checkpoint(variant: str):
    return open_checkpoint(GOLDEN / f"tiny_{variant}_float32.weights.safetensors")


@cache
def golden(variant: str) -> tuple[Pi0, Recording]:
    opened = checkpoint(variant)
    model = Pi0(opened.infer_config(SIZES)).eval()
    opened.load_into(model)
    return model, read_inputs(GOLDEN / f"tiny_{variant}_float32.inputs.npz")


@pytest.mark.parametrize(("variant", "cosine", "largest"), [("pi0", 0.9998, 0.15), ("pi05", 0.9999, 0.03)])
def test_int8_actions_stay_near_fp32(variant: str, cosine: float, largest: float):
    """Bounds are about three times what was measured: 0.99997 and 0.048 (π0), 0.999999 and 0.0084 (π0.5)."""
    model, recording = golden(variant)
    truth = build_engine("reference", model).infer(recording.inputs, recording.noise)
    engine = build_engine("cpu", copy.deepcopy(model))
    found = compare_actions(truth, engine.infer(recording.inputs, recording.noise))
    print(f"{variant}: cosine {found.cosine:.7f}, largest difference {found.max_abs_error:.4f}")
    assert found.cosine > cosine
    assert 1e-5 < found.max_abs_error < largest  # equal actions would mean that nothing was quantized


def test_engine_says_what_it_is():
    model, _ = golden("pi0")
    for scheme in (None, BF16_POLICY, ORIN):
        engine = build_engine("cpu", copy.deepcopy(model), scheme)
        expected = "int8-w8a8" if scheme is None else scheme.name
        assert (engine.name, engine.scheme, engine.config) == ("cpu", expected, model.config)


def test_every_stage_and_every_euler_step_is_told_in_order():
    model, recording = golden("pi0")
    engine = build_engine("cpu", copy.deepcopy(model))
    told: list[str] = []
    engine.on_stage = told.append
    engine.infer(recording.inputs, recording.noise)
    assert engine.tells_stages
    assert told == ["vision", "prefix", "state", *(f"Euler step {step}" for step in range(len(engine.times)))]


def test_the_reference_runs_nothing_but_fp32():
    model, _ = golden("pi0")
    with pytest.raises(EngineError, match="reference engine runs fp32 only, not orin"):
        build_engine("reference", model, ORIN)


def test_same_noise_gives_the_same_actions():
    model, recording = golden("pi0")
    engine = build_engine("cpu", copy.deepcopy(model))
    once = engine.infer(recording.inputs, recording.noise)
    assert torch.equal(once, engine.infer(recording.inputs, recording.noise))


def test_rows_of_a_batch_do_not_touch_each_other():
    """Scales are per token, so a row is quantized the same whatever stands beside it."""
    model, recording = golden("pi0")
    engine = build_engine("cpu", copy.deepcopy(model))
    inputs, noise = recording.inputs, recording.noise
    row = replace(inputs, **{name: getattr(inputs, name)[:1] for name in vars(inputs)})
    both, alone = engine.infer(inputs, noise), engine.infer(row, noise[:1])
    assert torch.allclose(both[:1], alone, atol=2e-2)


def test_streamed_checkpoint_gives_the_same_engine():
    model, recording = golden("pi0")
    streamed = blank_model(model.config)
    names = [name for name, _ in streamed.named_parameters()]
    fill_model(streamed, checkpoint("pi0").tensors(names), INT8_W8A8)
    at_once = build_engine("cpu", copy.deepcopy(model)).infer(recording.inputs, recording.noise)
    assert torch.equal(CpuEngine(streamed).infer(recording.inputs, recording.noise), at_once)


def test_nan_in_the_state_is_refused_and_not_played():
    model, recording = golden("pi0")
    engine = build_engine("cpu", copy.deepcopy(model))
    state = recording.inputs.state.clone()
    state[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        engine.infer(replace(recording.inputs, state=state), recording.noise)
