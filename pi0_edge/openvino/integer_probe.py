"""Whether a device multiplies 8-bit integers exactly.

A processor without an instruction for sums of 8-bit products (VNNI and its like) may add pairs of them in 16 bits, and
a pair of large ones does not fit: 2 · 255 · 127 > 32767. The result is then wrong without a word, and only for large
values. So a product of the largest values is computed once, and compared with integers.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from pi0_edge.errors import EngineError
from pi0_edge.openvino.installed import Device, last_line

_K, _N, _M = 256, 32, 8
_SCALE = 1.0 / 64  # a power of two: nothing but the integers can be inexact


def check_integer_products(openvino: ModuleType, core: Any, device: Device) -> None:
    """Returns where the device's products of static INT8 are exact.

    Args:
        openvino: The module.
        core: An `openvino.Core`.
        device: To ask.

    Raises:
        EngineError: If they are not, or the device does not compute the product.
    """
    random = np.random.default_rng(0)
    tokens = random.integers(-128, 128, (_M, _K)).astype(np.float32)
    weights = random.integers(-127, 128, (_N, _K)).astype(np.int8)
    tokens[:4] = np.array([127, -128, 127, -128], np.float32)[:, None]  # as large as can be, in all four signs
    weights[:2] = np.array([127, -127], np.int8)[:, None]
    exact = tokens.astype(np.int64) @ weights.astype(np.int64).T
    try:
        compiled = core.compile_model(_product(openvino, weights), device.name, {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(tokens * np.float32(_SCALE))[0] / np.float32(_SCALE)
    except RuntimeError as error:
        raise EngineError(
            f"{device.name} ({device.description}) does not compute a product of 8-bit integers: {last_line(error)}"
        ) from error
    wrong = np.abs(found.astype(np.float64) - exact).max()
    if not wrong < 1:
        raise EngineError(
            f"{device.name} ({device.description}) does not add 8-bit products exactly: a sum of {_K} is off by "
            f'{wrong:.0f}; use the scheme fp32 or bf16 here, or engine="cpu"'
        )


def _product(openvino: ModuleType, weights: np.ndarray) -> Any:
    """[_M, _K] quantized by `_SCALE`, times `weights`, in float32."""
    ops = openvino.opset13
    x = ops.parameter([_M, _K], np.float32, name="x")
    low, high = np.float32(-128 * _SCALE), np.float32(127 * _SCALE)
    quantized = ops.fake_quantize(x, low, high, low, high, 256)
    scale = ops.constant(np.ones((len(weights), 1), np.float32))
    restored = ops.multiply(ops.convert(ops.constant(weights), "f32"), scale)
    return openvino.Model([ops.matmul(quantized, restored, False, True)], [x], "integer_probe")
