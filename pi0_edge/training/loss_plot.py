"""The loss of a run as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WINDOW = 100
"""Steps that are averaged for the smooth line; single batches vary by their noise times."""


def plot_loss(losses: list[float], path: Path) -> None:
    """Writes single losses and their moving mean over the steps, on a logarithmic scale."""
    import matplotlib.figure  # heavy, and not needed to train

    figure = matplotlib.figure.Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(losses, color="0.8", linewidth=0.5, label="batch")
    window = min(WINDOW, len(losses))
    smooth = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    axes.semilogy(np.arange(window - 1, len(losses)), smooth, color="C0", label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="flow-matching loss")
    axes.legend()
    figure.savefig(path, dpi=120)
