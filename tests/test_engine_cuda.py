"""The CUDA engine's sequence of kernels, run by their CPU implementations, against the reference and the CPU engine.

The same operators, weights, tables and order that a graph holds; what is missing here is the GPU. Tests marked `gpu` are
about the graph itself.
"""

import copy
import ctypes
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from cli_runner import run
from golden_vectors import load_golden
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda import CudaEngine, check_scheme, check_sizes
from pi0_edge.engine.cuda_network import CudaNetwork
from pi0_edge.engine.cuda_tables import step_tables
from pi0_edge.errors import EngineError
from pi0_edge.model import GemmaConfig, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import EULER_STEPS, euler_times
from pi0_edge.model.precision import apply_bf16_policy
from quant import FP32, INT8_W8A8, ORIN, Scheme, compare_actions, find_scheme, quantize_model

CPU = torch.device("cpu")
TIMES = euler_times(EULER_STEPS)
SCHEMES = ("bf16", "int8-w8a8", "int8-w8a16", "fp8-w8a16", "orin")
KERNEL_SIZES = Pi0Config(
    "pi0",
    VisionConfig(width=144, depth=2, mlp_dim=304, heads=2, patch_size=14, image_size=56),
    GemmaConfig(width=128, depth=3, mlp_dim=256, heads=2, kv_heads=1, head_dim=256),
    GemmaConfig(width=64, depth=3, mlp_dim=128, heads=2, kv_heads=1, head_dim=256),
    vocab_size=300,
    max_prompt_tokens=12,
)
"""Small, but every size as the kernels take it: heads of 256 and 72, 32 actions, MLPs that are no powers of two."""

Case = tuple[Pi0, ModelInputs, Tensor]


@cache
def golden(variant: str) -> Case:
    loaded = load_golden(variant)
    return loaded.model, loaded.recording.inputs, loaded.recording.noise


@cache
def random_case(variant: str) -> Case:
    torch.manual_seed(0)
    config = replace(KERNEL_SIZES, variant=variant)
    model = Pi0(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # as trained ones: not all alike
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    inputs = ModelInputs(
        images=torch.rand(1, 2, 3, 56, 56) * 2 - 1,
        image_mask=torch.ones(1, 2, dtype=torch.bool),
        tokens=torch.randint(0, 300, (1, 7)),
        token_mask=torch.ones(1, 7, dtype=torch.bool),
        state=torch.randn(1, 32),
    )
    return model, inputs, torch.randn(1, config.horizon, 32)


CASES = {
    "golden pi0": lambda: golden("pi0"),
    "golden pi05": lambda: golden("pi05"),
    "kernel sizes pi0": lambda: random_case("pi0"),
    "kernel sizes pi05": lambda: random_case("pi05"),
}


@torch.inference_mode()
def sequence(model: Pi0, inputs: ModelInputs, noise: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What the engine does, without a graph: actions [batch, horizon, action_dim]."""
    network = CudaNetwork(model, CPU, dtype)
    tables = step_tables(model, TIMES, CPU)
    actions = noise.clone()
    for row in range(inputs.batch):
        images, tokens = inputs.images[row][inputs.image_mask[row]], inputs.tokens[row][inputs.token_mask[row]]
        network.integrate(actions[row], network.attend(images, tokens, inputs.state[row]), tables)
    return actions


def quantized(model: Pi0, scheme: Scheme) -> Pi0:
    made = copy.deepcopy(model)
    if scheme.rest == "bf16":
        apply_bf16_policy(made)
    quantize_model(made, scheme)
    return made


@pytest.mark.parametrize("case", CASES)
def test_in_fp32_the_sequence_is_the_reference(case: str):
    """Folding, tables, cache, order and residuals are exact: what is left is rounding in another order."""
    model, inputs, noise = CASES[case]()
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    found = sequence(copy.deepcopy(model), inputs, noise, torch.float32)
    error = (found - truth).abs().max().item()
    print(f"{case}: largest difference {error:.2e}, largest action {truth.abs().max():.2f}")
    assert error < 1e-4 and not torch.equal(found, noise)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", CASES)
def test_every_scheme_stays_near_the_reference_and_the_cpu_engine(case: str, scheme: str):
    model, inputs, noise = CASES[case]()
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    found = sequence(quantized(model, find_scheme(scheme)), inputs, noise)
    beside = build_engine("cpu", copy.deepcopy(model), find_scheme(scheme)).infer(inputs, noise)
    to_truth, to_cpu = compare_actions(truth, found), compare_actions(beside, found)
    of_cpu = compare_actions(truth, beside)
    print(f"{case} {scheme}: {to_truth.cosine:.6f} (cpu engine {of_cpu.cosine:.6f}), to each other {to_cpu.cosine:.6f}")
    assert to_truth.cosine > (0.9999 if scheme == "bf16" else 0.999)
    assert to_cpu.cosine > 0.999
    assert to_truth.max_abs_error > 1e-5  # equal actions would mean that nothing was rounded
