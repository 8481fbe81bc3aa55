"""The plot of `benchmarks.chunk_splicing`: figures over the delay, and one episode as it was commanded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pi0_edge.evaluation.delayed_rollout import DelayedRollout
from pi0_edge.sim.aloha import CONTROL_HZ, JOINT_NAMES

JOINT = JOINT_NAMES.index("right_shoulder")
SHOWN_S = (1.0, 4.0)
SHOWN_VELOCITY = (-2.0, 2.0)


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
    picture = Figure(figsize=(12, 7.5), layout="constrained")
    grid = picture.add_gridspec(4, 6)
    panels = [picture.add_subplot(grid[:2, 2 * column : 2 * column + 2]) for column in range(3)]
    for number, name in enumerate(dict.fromkeys(cell["splice"] for cell in cells)):
        rows = [cell for cell in cells if cell["splice"] == name]
        delays = np.array([cell["delay_ms"] for cell in rows])
        rates = np.array([cell["success_rate"] for cell in rows])
        low, high = np.array([cell["interval_95"] for cell in rows]).T
        beside = delays + 4 * number  # so that equal rates can be told apart
        panels[0].errorbar(beside, 100 * rates, 100 * np.maximum(0, [rates - low, high - rates]), marker="o", capsize=2)
        panels[1].semilogy(delays, [cell["border_jerk_rms"] for cell in rows], marker="o", label=name)
        panels[2].plot(delays, [1e3 * cell["path_error"] for cell in rows], marker="o", label=name)
    inside = float(np.mean([cell["inner_jerk_rms"] for cell in cells if cell["splice"] == "hold-swap"]))
    panels[1].axhline(inside, color="0.6", linestyle="--", label="inside a chunk")
    titles = (
        "success, % (95 % interval)",
        "jerk across chunk borders, RMS, rad/s³",
        "distance from the expert's path, mrad",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("injected delay, ms (0 to 10 % extra)")
    panels[0].set_ylim(0, 105)
    panels[1].legend(fontsize=7)
    for column, (name, rollout) in enumerate(traces.items()):
        place = slice(3 * column, 3 * column + 3)
        above, below = (picture.add_subplot(grid[row, place]) for row in (2, 3))
        _plot_trace(above, below, f"{name}, {trace_delay_ms} ms", rollout)
    picture.savefig(path, dpi=110)


def _plot_trace(above: Axes, below: Axes, title: str, rollout: DelayedRollout) -> None:
    setpoints = rollout.executed[:, JOINT]
    velocity = np.diff(setpoints) * CONTROL_HZ
    seconds = np.arange(len(setpoints)) / CONTROL_HZ
    for panel in (above, below):
        for entry in rollout.entries:
            panel.axvline(entry / CONTROL_HZ, color="0.85", linewidth=0.8)
        panel.set_xlim(*SHOWN_S)
    shown = (seconds >= SHOWN_S[0]) & (seconds <= SHOWN_S[1])
    above.plot(seconds[shown], setpoints[shown], linewidth=1.4)
    below.plot(seconds[1:], velocity, linewidth=1.0)
    joint = JOINT_NAMES[JOINT].replace("_", " ")
    above.set_title(f"{title}: {joint} as commanded, rad", fontsize=10, loc="left")
    below.set_title("its velocity, rad/s; grey: a chunk is entered", fontsize=10, loc="left")
    below.set_ylim(*SHOWN_VELOCITY)
    below.set_xlabel("seconds")
