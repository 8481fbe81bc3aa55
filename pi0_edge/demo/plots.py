"""The two images of a run: the film of one episode, and what was commanded against what was executed."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from pi0_edge.demo.run_record import RunRecord
from pi0_edge.sim.aloha import CONTROL_HZ, JOINT_NAMES

matplotlib.use("Agg")

from matplotlib import pyplot as plt

FILM_FRAMES = 6


def shown_episode(record: RunRecord) -> int:
    """The first successful episode, or the first one."""
    return int(np.argmax(record.success))


def plot_film(record: RunRecord, path: Path) -> None:
    """Frames of the shown episode, evenly spread over its time."""
    episode = shown_episode(record)
    frames = np.flatnonzero(record.film_episode == episode)
    chosen = frames[np.linspace(0, len(frames) - 1, FILM_FRAMES).astype(int)]
    start = record.tick[record.tick_episode == episode][0]
    figure, axes = plt.subplots(1, FILM_FRAMES, figsize=(2.4 * FILM_FRAMES, 2.1), constrained_layout=True)
    for axis, frame in zip(axes, chosen, strict=True):
        axis.imshow(record.film[frame])
        axis.set_title(f"{(int(record.film_tick[frame]) - int(start)) / CONTROL_HZ:.1f} s", fontsize=9)
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_joints(record: RunRecord, path: Path) -> None:
    """Commanded and executed setpoints of every joint in the shown episode; thin lines mark entered chunks."""
    episode = shown_episode(record)
    ticks, wanted = record.commanded(episode)
    executed = record.executed[record.tick_episode == episode]
    seconds = (ticks - ticks[0]) / CONTROL_HZ
    entered = record.chunk_first_tick[(record.chunk_episode == episode) & (record.chunk_first_tick > 0)]
    figure, axes = plt.subplots(7, 2, figsize=(11, 12), sharex=True, constrained_layout=True)
    for joint, axis in enumerate(axes.T.flat):
        for border in (entered - ticks[0]) / CONTROL_HZ:
            axis.axvline(border, color="0.85", linewidth=0.7)
        axis.plot(seconds, wanted[:, joint], color="tab:orange", linewidth=2.2, label="commanded by the policy")
        axis.plot(seconds, executed[:, joint], color="tab:blue", linewidth=1.0, label="executed by the timer interrupt")
        axis.set_title(JOINT_NAMES[joint].replace("_", " "), fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.suptitle("Setpoints in rad (grippers 0 closed to 1 open); grey lines: a new chunk is entered", fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)
