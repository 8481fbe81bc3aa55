"""Plots the activations of every linear: how much larger a few channels are than the others."""

from __future__ import annotations

from pathlib import Path

import torch

from pi0_edge.ptq.calibration_file import Calibration, LayerStatistics

PARTS = ("vision", "prefix", "expert")


def plot_outliers(calibration: Calibration, path: Path) -> None:
    """Largest, 99.9 % and median-channel magnitude of what enters each linear; .svg or .png by the name of the file."""
    import matplotlib.figure  # heavy, and not needed to calibrate

    figure = matplotlib.figure.Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots(len(PARTS), 1)
    for axis, part in zip(axes, PARTS, strict=True):
        layers = {name: layer for name, layer in calibration.layers.items() if name.startswith(f"{part}.layers.")}
        places = range(len(layers))
        axis.semilogy(places, [layer.amax for layer in layers.values()], "o-", ms=3, lw=0.8, label="largest")
        axis.semilogy(places, [layer.percentile for layer in layers.values()], "s-", ms=2.5, lw=0.8, label="99.9 %")
        axis.semilogy(places, [_median(layer) for layer in layers.values()], ".-", ms=4, lw=0.8, label="median channel")
        labels = [name.removeprefix(f"{part}.layers.") for name in layers]
        axis.set_xticks(places, labels, rotation=90, fontsize=max(2, min(7, 400 // max(1, len(labels)))))
        axis.set_title(part, loc="left", fontsize=10)
        axis.set_ylabel("magnitude")
        axis.margins(x=0.01)
    axes[0].legend(fontsize=8)
    source = calibration.source
    figure.suptitle(f"What enters each linear, over {source.frames} frames of {source.name}", fontsize=10)
    figure.savefig(path, dpi=120)


def _median(layer: LayerStatistics) -> float:
    return torch.median(layer.channel_amax).item()
