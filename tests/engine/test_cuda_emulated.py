"""The CUDA engine's whole sequence with the kernels themselves, from their CUDA sources, on the emulated GPU."""

import copy
import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from emulated_kernels import emulated_library
from engine_cases import CPU, attended, quantized, random_case

from pi0_edge.engine.cuda import linears as cuda_products
from pi0_edge.engine.cuda import network as cuda_network
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.kernels import gemm
from pi0_edge.model.flow import euler_times
from pi0_edge.quant import compare_actions, find_scheme

STEPS = 2
ORIN = SimpleNamespace(major=8, minor=7, multi_processor_count=16)
OPERATORS = {
    cuda_products: ("geglu", "gemm", "norm", "norm_quant", "quantize"),
    cuda_network: ("attention", "rope_attention", "embed_actions", "euler_update", "patches", "rope"),
}


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch):
    """The operators enqueue their kernels as on a GPU, and the emulated one runs them."""
    library = emulated_library()
    for name in ("attention", "euler_step", "geglu", "gemm", "norm", "patches", "quantize", "rope"):
        monkeypatch.setattr(importlib.import_module(f"pi0_edge.kernels.{name}"), "kernel_library", lambda: library)
    monkeypatch.setattr(gemm, "_gpu", lambda _: ORIN)
    monkeypatch.setattr(gemm, "workspace", lambda _, plan: torch.zeros(plan.workspace_bytes, dtype=torch.uint8))
    for module, names in OPERATORS.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name)._init_fn)
    return library


@pytest.mark.parametrize(
    ("variant", "scheme", "frozen"),
    [
        ("pi0", "orin", 0),
        ("pi05", "int8-w8a8", 0),
        ("pi0", "fp8-w8a16", 0),
        ("pi0", "orin", 9),
        ("pi05", "orin", 9),
        ("pi0-cube", "orin", 0),
    ],
)
def test_the_kernels_in_sequence_give_the_actions_of_their_cpu_forms(variant: str, scheme: str, frozen: int, request):
    model, inputs, noise = random_case(variant)
    frames = torch.randint(0, 256, (1, 2, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    inputs = replace(inputs, images=frames)
    tables = step_tables(model, euler_times(STEPS), CPU)

    def actions() -> torch.Tensor:
        network = CudaNetwork(quantized(copy.deepcopy(model), find_scheme(scheme)), CPU)
        x = noise[0].clone()
        with torch.inference_mode():
            network.integrate(x, attended(network, inputs), tables, torch.tensor([frozen], dtype=torch.int32))
        return x

    expected = actions()
    library = request.getfixturevalue("emulated_gpu")
    library.launches()
    found = compare_actions(expected[None], actions()[None])
    launches = library.launches()
    errors = f"cosine {found.cosine:.7f}, largest {found.max_abs_error:.2e}"
    print(f"{variant} {scheme}, {frozen} frozen: {errors}, {len(launches)} launches")
    assert found.cosine > 0.99999
    assert len(launches) > STEPS * model.config.expert.depth * 7
