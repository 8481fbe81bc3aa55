"""What a layer costs in a format: bytes of weights, and a time from the roofline of a Jetson AGX Orin.

The time is a proxy for ranking, not an expectation: per call the larger of arithmetic and weight traffic. It knows that
the ten Euler steps stream the same weights again and again, and that the prefix is bound by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi0_edge.estimation.devices import find_device
from pi0_edge.quant.schemes import Rule

DEVICE = "orin-agx-64"
BYTES_UNTOUCHED = 2.0
"""Of a weight that no rule covers: 16 bits on the robot."""
INT4_OVER_INT8 = 2.0
"""Products of two 4-bit operands per time that tensor cores of Orin take for one of 8 bits (NVIDIA, Ampere GA102)."""


@dataclass(frozen=True)
class LayerWork:
    """What one layer does for one chunk.

    Attributes:
        shape: Of its weight, [N, K].
        rows: Rows that enter, per call; empty for an embedding, which reads single rows.
    """

    shape: tuple[int, int]
    rows: tuple[int, ...]


def weight_bytes(work: LayerWork, rule: Rule | None) -> float:
    """Bytes of the stored weight and its scales."""
    return work.shape[0] * work.shape[1] * BYTES_UNTOUCHED if rule is None else rule.stored_bytes(*work.shape)


def milliseconds(work: LayerWork, rule: Rule | None) -> float:
    """Of all its calls for one chunk, on the roofline."""
    device = find_device(DEVICE)
    unit = "int8" if rule is not None and is_integer(rule) else "bf16"
    rate = device.sheet[unit] * 1e9  # tera per second to operations per millisecond
    if rule is not None and is_integer(rule) and _multiplies_four_bits(rule):
        rate *= INT4_OVER_INT8
    streaming = weight_bytes(work, rule) / (device.reached["gb_s"].value * 1e6)
    operations = 2.0 * work.shape[0] * work.shape[1]
    return sum(max(rows * operations / rate, streaming) for rows in work.rows)


def _multiplies_four_bits(rule: Rule) -> bool:
    return rule.weights.bits == 4 and rule.activations is not None and rule.activations.bits == 4


def is_integer(rule: Rule) -> bool:
    """Whether the layer runs on integer units: a library's layers do not, they only store integers."""
    if rule.library is not None or rule.activations is None:
        return False
    return rule.weights.is_integer and rule.activations.is_integer
