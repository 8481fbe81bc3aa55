"""The plot of `benchmarks.chunk_splicing`: figures over the delay, and one episode as it was commanded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import figure as matplotlib_figure

from pi0_edge.evaluation.delayed_rollout import DelayedRollout
from pi0_edge.sim.aloha_transfer_cube import CONTROL_HZ, JOINT_NAMES

JOINT = JOINT_NAMES.index("right_shoulder")
SHOWN_S = (1.0, 4.0)


def plot_splicing(
    cells: list[dict[str, Any]], traces: dict[str, DelayedRollout], trace_delay_ms: int, path: Path
) -> None:
    """Writes the picture.

    Args:
        cells: `Cell`s of the benchmark.
        traces: One episode per splice policy, same seed.
        trace_delay_ms: Delay of the traces.
        path: The PNG.
    """
    picture = matplotlib_figure.Figure(figsize=(12, 7.5), layout="constrained")
    above, below = np.ravel(picture.subfigures(2, 1))
    panels = above.subplots(1, 3)
    for name in dict.fromkeys(cell["splice"] for cell in cells):
        rows = [cell for cell in cells if cell["splice"] == name]
        delays = [cell["delay_ms"] for cell in rows]
        panels[0].plot(delays, [100 * cell["success_rate"] for cell in rows], marker="o", label=name)
        panels[1].semilogy(delays, [cell["border_jerk_rms"] for cell in rows], marker="o", label=name)
        panels[2].plot(delays, [1e3 * cell["path_error"] for cell in rows], marker="o", label=name)
    inside = np.mean([cell["inner_jerk_rms"] for cell in cells if cell["splice"] == "hold-swap"])
    panels[1].axhline(inside, color="0.6", linestyle="--", label="inside a chunk")
    titles = ("success, %", "jerk across chunk borders, RMS, rad/s³", "distance from the expert's path, mrad")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("injected delay, ms (0 to 10 % extra)")
    panels[1].legend(fontsize=7)
    _plot_traces(below.subplots(2, len(traces), sharex=True, sharey="row"), traces, trace_delay_ms)
    picture.savefig(path, dpi=110)


def _plot_traces(axes: np.ndarray, traces: dict[str, DelayedRollout], delay_ms: int) -> None:
    for column, (name, rollout) in zip(axes.T, traces.items(), strict=True):
        setpoints = rollout.executed[:, JOINT]
        velocity = np.diff(setpoints) * CONTROL_HZ
        seconds = np.arange(len(setpoints)) / CONTROL_HZ
        for panel in column:
            for border in rollout.entries:
                panel.axvline(border / CONTROL_HZ, color="0.85", linewidth=0.8)
            panel.set_xlim(*SHOWN_S)
        column[0].plot(seconds, setpoints, linewidth=1.4)
        column[1].plot(seconds[1:], velocity, linewidth=1.0)
        title = f"{name}, {delay_ms} ms: {JOINT_NAMES[JOINT].replace('_', ' ')} as commanded, rad"
        column[0].set_title(title, fontsize=10, loc="left")
        column[1].set_title("its velocity, rad/s; grey: a chunk is entered", fontsize=10, loc="left")
        column[1].set_xlabel("seconds")
