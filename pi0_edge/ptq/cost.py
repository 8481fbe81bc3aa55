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
    rate = device.sheet[_unit(rule)] * 1e9  # tera per second to operations per millisecond
    streaming = weight_bytes(work, rule) / (device.reached["gb_s"].value * 1e6)
    operations = 2.0 * work.shape[0] * work.shape[1]
    return sum(max(rows * operations / rate, streaming) for rows in work.rows)


def _unit(rule: Rule | None) -> str:
    """Whose rate holds; integer units multiply 4 bits only where both operands have so few."""
    if rule is None or not is_integer(rule):
        return "bf16"
    return "int4" if rule.weights.bits == 4 and rule.activations is not None and rule.activations.bits == 4 else "int8"


def is_integer(rule: Rule) -> bool:
    """Whether the layer runs on integer units: a library's layers do not, they only store integers."""
    if rule.library is not None or rule.activations is None:
        return False
    return rule.weights.is_integer and rule.activations.is_integer
