"""What a layer costs in a format: bytes of weights, and a time from the roofline of a Jetson AGX Orin.

The time is a proxy for ranking, never a promise: per call the larger of arithmetic and weight traffic. It knows that
the ten Euler steps stream the same weights again and again, and that the prefix is bound by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi0_edge.quant.schemes import Rule

BYTES_PER_WEIGHT = {"int8": 1.0, "e4m3": 1.0, "int4": 0.5, "bnb-int8": 1.0, "bnb-nf4": 0.5}
BYTES_UNTOUCHED = 2.0
"""Of a weight that no rule covers: 16 bits on the robot."""

# Jetson AGX Orin 64 GB, dense, at 1.3 GHz: 2048 int8 multiply-accumulates per multiprocessor and clock on 16 of them.
INT8_OPS_PER_MS = 85.2e9
BF16_OPS_PER_MS = 42.6e9
BYTES_PER_MS = 173e6  # read stream as measured; the data sheet says 204.8e6


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
    """Bytes of the stored weight."""
    per_weight = BYTES_UNTOUCHED if rule is None else BYTES_PER_WEIGHT[rule.library or rule.weights.kind]
    return work.shape[0] * work.shape[1] * per_weight


def milliseconds(work: LayerWork, rule: Rule | None) -> float:
    """Of all its calls for one chunk, on the roofline."""
    rate = INT8_OPS_PER_MS if rule is not None and is_integer(rule) else BF16_OPS_PER_MS
    streaming = weight_bytes(work, rule) / BYTES_PER_MS
    operations = 2.0 * work.shape[0] * work.shape[1]
    return sum(max(rows * operations / rate, streaming) for rows in work.rows)


def is_integer(rule: Rule) -> bool:
    """Whether the layer runs on integer units: a library's layers do not, they only store integers."""
    if rule.library is not None or rule.activations is None:
        return False
    return rule.weights.is_integer and rule.activations.is_integer
