"""Which integer product a layer uses, also on CPUs where the fast ones saturate."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pi0_edge.quant import integer_matmul, native
from pi0_edge.quant.integer_matmul import (
    EXACT_DEPTH,
    SMALL_WEIGHT,
    FloatMatmul,
    NativeMatmul,
    OneDnnMatmul,
    TorchIntMatmul,
    choose_matmul,
    is_exact,
)

ROOT = Path(__file__).resolve().parents[2]

PROBE = """
import torch
from torch import nn
from pi0_edge.quant import native
native.library = lambda: None  # as where the package was installed without a C compiler
from pi0_edge.quant import INT8_W8A8, QuantizedLinear, reference_linear
linear, x = nn.Linear(256, 16, bias=False), torch.full((4, 256), 3.0)
nn.init.constant_(linear.weight, 0.5)
layer = QuantizedLinear.of(linear, INT8_W8A8.rules[1])
print(layer.arithmetic, torch.allclose(layer(x).double(), reference_linear(layer, x, linear.weight), rtol=1e-6))
"""


@pytest.mark.parametrize("depth", [1, EXACT_DEPTH, EXACT_DEPTH + 1, 16384])
def test_product_in_fp32_is_exact_at_every_depth(depth: int):
    assert is_exact(FloatMatmul)
    assert EXACT_DEPTH * 127 * 127 < 2**24
    for extreme in (127, -127):
        tokens = torch.full((3, depth), extreme, dtype=torch.int8)
        weight = torch.full((5, depth), 127, dtype=torch.int8)
        expected = torch.tensor(extreme * 127 * depth, dtype=torch.int32) * torch.ones(5)
        assert torch.equal(FloatMatmul(weight, torch.ones(5))(tokens), expected.expand(3, 5))


@pytest.mark.skipif(not (is_exact(OneDnnMatmul) and is_exact(TorchIntMatmul)), reason="no exact fast product here")
def test_product_of_torch_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert choose_matmul(torch.zeros(SMALL_WEIGHT, 1, dtype=torch.int8)) is TorchIntMatmul
    assert choose_matmul(torch.zeros(SMALL_WEIGHT + 1, 1, dtype=torch.int8)) is OneDnnMatmul


@pytest.mark.parametrize(
    ("level", "amx", "expected"),
    [
        (native.Level.AVX2, False, NativeMatmul),
        (native.Level.AVX512_VNNI, False, NativeMatmul),
        (native.Level.NEON_DOT, False, NativeMatmul),
        (native.Level.AVX512_VNNI, True, OneDnnMatmul),
        (native.Level.PORTABLE, False, OneDnnMatmul),
    ],
)
def test_our_own_product_is_chosen_unless_the_processor_has_tiles_or_nothing(
    monkeypatch: pytest.MonkeyPatch, level: native.Level, amx: bool, expected: type
):
    monkeypatch.setattr(native, "level", lambda: level)
    monkeypatch.setattr(integer_matmul, "_has_amx", lambda: amx)
    monkeypatch.setattr(integer_matmul, "is_exact", lambda _: True)
    assert choose_matmul(torch.zeros(SMALL_WEIGHT + 1, 1, dtype=torch.int8)) is expected


@pytest.mark.parametrize(
    ("compiled", "reason"), [(True, "this processor has no fast instructions"), (False, "reinstall with a C compiler")]
)
def test_without_a_fast_product_the_log_says_what_is_missing(
    compiled: bool, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(integer_matmul, "is_exact", lambda _: False)
    monkeypatch.setattr(native, "is_compiled", lambda: compiled)
    integer_matmul._log_slow.cache_clear()
    with caplog.at_level("INFO"):
        assert choose_matmul(torch.zeros(8, 8, dtype=torch.int8)) is FloatMatmul
    integer_matmul._log_slow.cache_clear()
    assert reason in caplog.text


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs oneDNN's x86 instruction sets")
@pytest.mark.parametrize(
    "isa",
    [pytest.param("DEFAULT", marks=pytest.mark.slow), "AVX2", pytest.param("AVX512_CORE", marks=pytest.mark.slow)],
)
def test_layers_are_right_on_older_processors(isa: str):
    """With older instructions oneDNN's sums of two products saturate at 16 bits: the product in fp32 is chosen then."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    matmul, right = result.stdout.split()
    assert right == "True"
    if isa != "DEFAULT":
        assert matmul == "FloatMatmul"
