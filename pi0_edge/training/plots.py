"""The plot of a run: loss, norm of the gradients, and validations over the steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pi0_edge.training.trainer import TrainingState

WINDOW = 100
"""Steps that are averaged for the smooth line; single batches vary by their noise times."""


def plot_run(state: TrainingState, path: Path, loss_name: str) -> None:
    """Writes single values and their moving mean over the steps, on logarithmic scales.

    Args:
        state: Of the run, at least one step.
        path: A .png file.
        loss_name: What the loss is.
    """
    import matplotlib.figure  # heavy, and not needed to train

    rows = 2 if state.norms else 1
    figure = matplotlib.figure.Figure(figsize=(8, 3.5 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, sharex=True))
    series = ((loss_name, state.losses), ("norm of the gradients", state.norms))
    for place, (name, values) in zip(axes, series, strict=False):
        place.semilogy(values, color="0.8", linewidth=0.5, label="batch")
        window = min(WINDOW, len(values))
        smooth = np.convolve(values, np.full(window, 1 / window), mode="valid")
        place.semilogy(np.arange(window - 1, len(values)), smooth, color="C0", label=f"mean of {window} steps")
        place.set(ylabel=name)
    if state.validations:
        steps = [one.step - 1 for one in state.validations]
        axes[0].semilogy(steps, [one.loss for one in state.validations], "C1o-", label="held-out episodes")
        errors = [one.action_error for one in state.validations]
        axes[0].semilogy(steps, errors, "C2s-", label="error of their actions (normalized)")
    axes[0].legend()
    axes[-1].set(xlabel="step")
    figure.savefig(path, dpi=120)
