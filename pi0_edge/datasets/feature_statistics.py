"""Statistics per channel of a feature, as LeRobot stores them per episode and for a whole dataset.

Vectors are summarised exactly. Images are summarised through a histogram of sampled frames: levels are integers,
so mean, deviation and quantiles of the sample are exact too. Image values are scaled to [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SAMPLED_FRAMES = 32
"""Frames per episode that enter the statistics of a camera."""

Statistics = dict[str, NDArray[Any]]


def vector_statistics(values: NDArray[Any]) -> Statistics:
    """Statistics over the first axis of values (T, channels); each entry (channels,), ``count`` (1,)."""
    values = values.astype(np.float64)
    moments = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {**moments, "count": np.array([len(values)]), **dict(zip(QUANTILES, quantiles, strict=True))}


def image_histogram(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels per colour and level, shape (3, 256), over evenly spaced frames of (T, height, width, 3)."""
    picked = images[np.linspace(0, len(images) - 1, min(len(images), SAMPLED_FRAMES)).astype(int)]
    return np.stack([np.bincount(picked[..., colour].ravel(), minlength=256) for colour in range(3)])


def image_statistics(histogram: NDArray[np.int64], frames: int) -> Statistics:
    """Statistics of images from their histogram (3, 256); each entry (3, 1, 1), ``count`` (1,)."""
    levels = np.arange(256) / 255.0
    share = histogram / histogram.sum(axis=1, keepdims=True)
    cumulative = np.cumsum(share, axis=1)
    mean = share @ levels
    present = [levels[row > 0] for row in histogram]
    entries = {
        "min": np.array([row[0] for row in present]),
        "max": np.array([row[-1] for row in present]),
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0)),
        **{name: levels[(cumulative < q - 1e-12).sum(axis=1)] for name, q in QUANTILES.items()},
    }
    shaped = {name: entry.reshape(3, 1, 1) for name, entry in entries.items()}
    return {**shaped, "count": np.array([frames])}


def pooled(parts: list[Statistics]) -> Statistics:
    """Statistics of a whole from those of its parts (v2.1 stores only the parts): no quantiles."""
    count = np.array([part["count"].sum() for part in parts], dtype=np.float64)
    weight = (count / count.sum()).reshape(-1, *[1] * parts[0]["mean"].ndim)
    means = np.stack([part["mean"] for part in parts])
    mean = (weight * means).sum(0)
    variance = (weight * (np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2)).sum(0)
    return {
        "min": np.stack([part["min"] for part in parts]).min(0),
        "max": np.stack([part["max"] for part in parts]).max(0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(count.sum())]),
    }
