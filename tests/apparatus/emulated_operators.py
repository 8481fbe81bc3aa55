"""The operators of the CUDA engine, enqueued as on a GPU and run by the emulated one."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from emulated_kernels import EmulatedLibrary, emulated_library
from ptx_kernels import ptx_library

from pi0_edge.engine.cuda import fp8_linears as cuda_fp8
from pi0_edge.engine.cuda import linear_interface as cuda_norms
from pi0_edge.engine.cuda import linears as cuda_products
from pi0_edge.engine.cuda import network as cuda_network
from pi0_edge.kernels import gemm, gemm_norm

ORIN = SimpleNamespace(major=8, minor=7, multi_processor_count=16)
OPERATORS = {
    cuda_products: ("geglu", "geglu_e4m3", "gemm", "gemm_norm", "norm_quant", "quantize"),
    cuda_norms: ("norm",),
    cuda_fp8: ("geglu", "gemm", "norm_e4m3", "quantize_e4m3"),
    cuda_network: ("attention", "rope_attention", "embed_actions", "euler_update", "patches", "rope"),
}


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> EmulatedLibrary:
    """The operators enqueue their kernels as on a GPU, and the emulated one runs them."""
    return take_over(monkeypatch, emulated_library())


@pytest.fixture
def ptx_gpu(monkeypatch: pytest.MonkeyPatch) -> EmulatedLibrary:
    """As `emulated_gpu`, with the kernels as nvcc compiled them."""
    return take_over(monkeypatch, ptx_library())


def take_over(monkeypatch: pytest.MonkeyPatch, library: EmulatedLibrary) -> EmulatedLibrary:
    """Lets the operators of the engine use a library of the tests."""
    for name in ("attention", "euler_step", "geglu", "gemm", "gemm_norm", "norm", "patches", "quantize", "rope"):
        monkeypatch.setattr(importlib.import_module(f"pi0_edge.kernels.{name}"), "kernel_library", lambda: library)
    monkeypatch.setattr(gemm, "_gpu", lambda _: ORIN)
    for module in (gemm, gemm_norm):
        monkeypatch.setattr(module, "workspace", lambda _, plan: torch.zeros(plan.workspace_bytes, dtype=torch.uint8))
    for module, names in OPERATORS.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name)._init_fn)
    return library
