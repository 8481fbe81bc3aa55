"""The CUDA engine's sequence of kernels, run by their CPU implementations, against the reference and the CPU engine.

The same operators, weights, tables and order that a graph holds. What is missing: the kernels themselves, which
`test_engine_cuda_emulated.py` puts in their place, and the graph, which needs a GPU (`test_engine_cuda_graph.py`).
"""

import copy
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import run
from engine_cases import CPU, KERNEL_SIZES, NONE_FROZEN, SCHEMES, Case, attended, largest_inputs, quantized, random_case
from golden_vectors import load_golden
from PIL import Image
from policy_builders import observation, write_checkpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pi0_edge.kernels.rope as rope
from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda.engine import check_cuda_scheme
from pi0_edge.engine.cuda.graphs import LoopStage
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.engine.cuda.sizes import check_sizes
from pi0_edge.engine.cuda.steering import Steering
from pi0_edge.errors import EngineError
from pi0_edge.kernels import rows
from pi0_edge.model import PRESETS, ModelInputs, Pi0, gemma, siglip
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.rtc import FrozenPrefix, Guidance
from pi0_edge.policy import Policy
from pi0_edge.processing.images import resize_with_pad, to_unit_range
from pi0_edge.quant import INT8_W8A8, ORIN, compare_actions, find_scheme, formats

TIMES = euler_times(EULER_STEPS)
"""Small, but every size as the kernels take it: heads of 256 and 72, 32 actions, MLPs that are no powers of two."""


@cache
def golden(variant: str) -> Case:
    loaded = load_golden(variant)
    return loaded.model, loaded.recording.inputs, loaded.recording.noise


CASES = {
    "golden pi0": lambda: golden("pi0"),
    "golden pi05": lambda: golden("pi05"),
    "kernel sizes pi0": lambda: random_case("pi0"),
    "kernel sizes pi05": lambda: random_case("pi05"),
    "sizes of the shipped policy": lambda: random_case("pi0-cube"),
}
QUICK = ("golden pi05", "kernel sizes pi0", "sizes of the shipped policy")
"""Cases of which the default suite runs every scheme: both networks, and both sizes that have kernels."""


@torch.inference_mode()
def sequence(model: Pi0, inputs: ModelInputs, noise: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What the engine does, without a graph: actions [batch, horizon, action_dim]."""
    network = CudaNetwork(model, CPU, dtype)
    tables = step_tables(model, TIMES, CPU)
    actions = noise.clone()
    for row in range(inputs.batch):
        network.integrate(actions[row], inputs.state[row], attended(network, inputs, row), tables, NONE_FROZEN)
    return actions


@pytest.mark.parametrize("case", CASES)
def test_in_fp32_the_sequence_is_the_reference(case: str):
    """Folding, tables, cache, order and residuals are exact: what is left is rounding in another order."""
    model, inputs, noise = CASES[case]()
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    found = sequence(copy.deepcopy(model), inputs, noise, torch.float32)
    error = (found - truth).abs().max().item()
    print(f"{case}: largest difference {error:.2e}, largest action {truth.abs().max():.2f}")
    assert error < 1e-4 and not torch.equal(found, noise)


@pytest.mark.parametrize("scheme", [*SCHEMES, "orin-int8"])
@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_every_scheme_stays_near_the_reference_and_the_cpu_engine(case: str, scheme: str):
    model, inputs, noise = CASES[case]()
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    found = sequence(quantized(model, find_scheme(scheme)), inputs, noise)
    beside = build_engine("cpu", copy.deepcopy(model), find_scheme(scheme)).infer(inputs, noise)
    to_truth, to_cpu = compare_actions(truth, found), compare_actions(beside, found)
    of_cpu = compare_actions(truth, beside)
    print(f"{case} {scheme}: {to_truth.cosine:.6f} (cpu engine {of_cpu.cosine:.6f}), to each other {to_cpu.cosine:.6f}")
    assert to_truth.cosine > (0.9999 if scheme == "bf16" else 0.999)
    assert to_cpu.cosine > 0.99996
    assert to_truth.max_abs_error > 1e-5  # equal actions would mean that nothing was rounded


@pytest.mark.parametrize("case", CASES)
def test_fp8_arithmetic_with_calibrated_scales(case: str):
    model, inputs, noise = CASES[case]()
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    made = quantized(model, find_scheme("fp8-w8a8"), largest_inputs(model, inputs, noise))
    found = compare_actions(truth, sequence(made, inputs, noise))
    print(f"{case} fp8-w8a8: {found.cosine:.6f}")
    assert found.cosine > 0.995


@pytest.mark.parametrize(("height", "width"), [(48, 64), (56, 56), (120, 160)])
def test_frames_give_the_actions_of_their_finished_pictures_bit_for_bit(height: int, width: int):
    """Scaling, padding and normalizing on the device is what the processing room does."""
    model, inputs, noise = random_case("pi0")
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    finished = torch.from_numpy(np.stack([to_unit_range(resize_with_pad(frame, 56)) for frame in frames]))
    network, tables = CudaNetwork(quantized(model, ORIN), CPU), step_tables(model, TIMES, CPU)
    with torch.inference_mode():
        actions = []
        for images in (torch.from_numpy(frames), finished):
            actions.append(noise[0].clone())
            cache = attended(network, replace(inputs, images=images[None]))
            network.integrate(actions[-1], inputs.state[0], cache, tables, NONE_FROZEN)
    assert torch.equal(*actions)


def test_a_policy_hands_frames_to_an_engine_that_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy, given = Policy.load(write_checkpoint(tmp_path / "checkpoint"), "reference"), []

    def infer(inputs: ModelInputs, noise: Tensor, _: object) -> Tensor:
        given.append(inputs.images)
        return noise

    monkeypatch.setattr(policy.engine, "infer", infer)
    policy.infer(observation())
    monkeypatch.setattr(policy.engine, "takes_frames", True)
    policy.infer(observation())
    finished, frames = given
    assert finished.dtype == torch.float32 and finished.shape == (1, 1, 3, 28, 28)
    assert torch.equal(frames[0, 0], torch.from_numpy(observation().images["top"]))


class Count(TorchDispatchMode):
    """Counts our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "pi0":
            self.names[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def launches_of_the_loop(variant: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Counter[str], int]:
    """Launches of ours, by operator, and layers of the expert."""
    model, inputs, noise = random_case(variant)
    network = CudaNetwork(quantized(model, ORIN), CPU, dtype)
    tables = step_tables(copy.deepcopy(model), TIMES, CPU)
    with torch.inference_mode():
        cache = attended(network, inputs)
        with Count() as counted:
            network.integrate(noise[0].clone(), inputs.state[0], cache, tables, NONE_FROZEN)
    return counted.names, model.config.expert.depth


def test_an_euler_step_is_five_launches_per_layer_and_three():
    """The first norm has no product before it; the last product no norm of its kind behind it."""
    found, layers = launches_of_the_loop("pi0")
    per_step = {"gemm": 2 * layers + 1, "gemm_norm": 2 * layers - 1, "rope_attention": layers, "norm": 1}
    assert found == {
        name: EULER_STEPS * count for name, count in {**per_step, "embed_actions": 1, "euler_update": 1}.items()
    }


@pytest.mark.parametrize(("variant", "dtype"), [("pi05", torch.bfloat16), ("pi0", torch.float16)])
def test_norms_that_a_product_cannot_leave_are_launches(variant: str, dtype: torch.dtype):
    """Adaptive ones, and any in float16, where a row that is not divided yet might become infinite."""
    found, layers = launches_of_the_loop(variant, dtype)
    assert found["gemm_norm"] == 0
    assert (found["norm"], found["gemm"]) == (2 * layers * EULER_STEPS, 4 * layers * EULER_STEPS)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_guided_chunk_is_the_reference_s(variant: str):
    """The kernel steps first and is corrected after, which is the same up to float32."""
    model, inputs, noise = random_case(variant)
    plan = torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(3))
    weights = torch.linspace(1, 0, noise.shape[1])[:, None].expand(noise.shape[1:])
    guidance = Guidance(plan, weights, max_weight=10.0)
    with torch.inference_mode():
        truth = model.sample_actions(inputs, noise, TIMES, guidance)[0]
        free = model.sample_actions(inputs, noise, TIMES)[0]
        network, tables = CudaNetwork(copy.deepcopy(model), CPU, torch.float32), step_tables(model, TIMES, CPU)
        found = noise[0].clone()
        steering = Steering(torch.zeros_like(plan), torch.zeros(EULER_STEPS, *plan.shape))
        steering.load(guidance, tables.times)
        network.integrate(found, inputs.state[0], attended(network, inputs), tables, NONE_FROZEN, steering)
    assert torch.allclose(found, truth, atol=1e-4)
    assert not torch.allclose(free, truth, atol=1e-2)


@pytest.mark.parametrize("frozen", [0, 1, 13, 50])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_chunk_with_a_frozen_prefix_is_the_reference_s(variant: str, frozen: int):
    """The frozen actions stay bit for bit, and the others follow from them as in the reference."""
    model, inputs, noise = random_case(variant)
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    continued = FrozenPrefix(plan, frozen)
    with torch.inference_mode():
        truth = model.sample_actions(inputs, noise, TIMES, continued)[0]
        free = model.sample_actions(inputs, noise, TIMES)[0]
        network, tables = CudaNetwork(copy.deepcopy(model), CPU, torch.float32), step_tables(model, TIMES, CPU)
        found = continued.start(noise)[0].clone()
        count = torch.tensor([frozen], dtype=torch.int32)
        network.integrate(found, inputs.state[0], attended(network, inputs), tables, count)
    assert torch.equal(found[:frozen], plan[0, :frozen])
    assert (found - truth).abs().max() < 1e-5
    assert frozen in (0, 50) or (free[frozen:] - truth[frozen:]).abs().max() > 1e-3, "the prefix changed nothing"


def test_one_captured_loop_serves_every_continuation():
    """A free chunk, a long prefix and a short one in turn: nothing of the last one is left in the buffers."""
    model, inputs, noise = random_case("pi0")
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    network, tables = CudaNetwork(copy.deepcopy(model), CPU, torch.float32), step_tables(model, TIMES, CPU)
    with torch.inference_mode():
        loop = LoopStage(network, tables, attended(network, inputs))
        for continuation in (None, FrozenPrefix(plan, 20), FrozenPrefix(-plan, 3), None):
            loop.load(inputs.state[0], noise[0], continuation)
            loop.run()
            truth = model.sample_actions(inputs, noise, TIMES, continuation)[0]
            assert (loop.actions - truth).abs().max() < 1e-5


def test_the_loop_changes_nothing_but_the_row_of_the_state():
    """Two loops from one cache give the same actions: what a replay and a re-planning on an old prefix rely on."""
    model, inputs, noise = random_case("pi0")
    tables = step_tables(model, TIMES, CPU)
    network = CudaNetwork(quantized(model, ORIN), CPU)
    with torch.inference_mode():
        cache = attended(network, inputs)
        before, prefix = copy.deepcopy(cache), int(cache.prefix_length)
        once, again = noise[0].clone(), noise[0].clone()
        network.integrate(once, inputs.state[0] + 1, cache, tables, NONE_FROZEN)
        assert not torch.equal(once, noise[0])
        once = noise[0].clone()
        network.integrate(once, inputs.state[0], cache, tables, NONE_FROZEN)
        network.integrate(again, inputs.state[0], cache, tables, NONE_FROZEN)
    assert torch.equal(once, again)
    for now, then in ((cache.keys, before.keys), (cache.values, before.values)):
        changed = (now != then).flatten(2).any(2)
        assert changed[:, prefix].all() and not changed[:, :prefix].any() and not changed[:, prefix + 1 :].any()


def test_fp8_arithmetic_is_refused_on_orin_with_the_alternative():
    with pytest.raises(EngineError, match=r"fp8-w8a8 needs FP8 .* sm_87; use fp8-w8a16 .* or orin"):
        check_cuda_scheme(find_scheme("fp8-w8a8"), (8, 7))
    check_cuda_scheme(find_scheme("fp8-w8a8"), (9, 0))


@pytest.mark.parametrize("scheme", [*SCHEMES, "orin-vision8", "orin-int8"])
def test_orin_runs_every_other_scheme(scheme: str):
    check_cuda_scheme(find_scheme(scheme), (8, 7))


@pytest.mark.parametrize(
    "scheme", ["fp32", "int8-w8a8-static", "bnb-int8", "int4-per-tensor", "orin-expert4", "orin-prefix4"]
)
def test_schemes_without_kernels_are_refused(scheme: str):
    with pytest.raises(EngineError, match="use"):
        check_cuda_scheme(find_scheme(scheme), (9, 0))


def test_sizes_without_kernels_are_refused():
    for config in (KERNEL_SIZES, PRESETS["pi0"], PRESETS["pi05"], PRESETS["pi0-cube"]):
        for scheme in SCHEMES:
            check_sizes(config, find_scheme(scheme))
    with pytest.raises(EngineError, match=r"heads have 16 dim.*256 or 32; vision heads have 12 dim.*72 or 32; .*use"):
        check_sizes(golden("pi0")[0].config, ORIN)


def test_weights_that_were_packed_for_the_cpu_are_refused():
    model = quantized(random_case("pi0")[0], INT8_W8A8)
    build_engine("cpu", model, INT8_W8A8)
    with pytest.raises(EngineError):
        CudaNetwork(model, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_infer_says_so_in_one_line(tmp_path: Path):
    Image.new("RGB", (64, 48)).save(tmp_path / "top.png")
    ran = run("infer", "--engine", "cuda", "--image", f"top={tmp_path / 'top.png'}", "--state", " ".join(["0"] * 14))
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "the CUDA engine needs a CUDA device" in ran.err and 'use engine="cpu"' in ran.err


def test_the_kernels_have_the_constants_of_the_model_and_the_formats():
    """They import neither, so that they run without the rest of the package."""
    assert (rows.NORM_EPSILON, rope.ROPE_BASE, rows.INT8_MAX) == (gemma.RMS_NORM_EPS, gemma.ROPE_BASE, formats.INT8_MAX)
    assert (siglip.LAYER_NORM_EPS, rows.SMALLEST_SCALE) == (rows.NORM_EPSILON, formats.SMALLEST_SCALE)
    assert rows.E4M3_MAX == formats.E4M3_MAX == torch.finfo(torch.float8_e4m3fn).max
