"""The steps of `pi0-edge quantize` that take time, each with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pi0_edge.cli.output import Output
from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.pairing import Pairing, pair
from pi0_edge.ptq.calibration import Calibration, calibrate
from pi0_edge.ptq.candidate import channel_amax
from pi0_edge.ptq.frames import ObservationSource, Split, open_source
from pi0_edge.ptq.layer_groups import Granularity
from pi0_edge.ptq.mix_search import Choice
from pi0_edge.ptq.scan import LayerScan
from pi0_edge.ptq.trace import Trace, trace
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.quant import Scheme

if TYPE_CHECKING:
    from pi0_edge.evaluation.rollout import Rollout
    from pi0_edge.policy import Policy
    from pi0_edge.processing import Observation


def open_frames(speak: Output, policy: Policy, dataset: Path | None, frames: int) -> ObservationSource:
    """A recording, or what the policy meets in simulation: at least `frames` in either half of its episodes.

    Raises:
        DatasetError: If there is nothing at `dataset` that the robot can see.
    """
    if dataset is not None:
        return open_source(dataset, policy.processor.robot)
    from pi0_edge.ptq.simulated_source import SimulatedObservations

    with speak.progress() as progress:
        task = progress.add_task("simulating", total=frames)
        prompt = _prompt(policy)
        return SimulatedObservations(policy, prompt, frames, lambda done: progress.update(task, completed=done))


def calibrated(
    speak: Output, reference: Policy, split: Split, schemes: Sequence[Scheme], path: Path | None, seed: int
) -> Calibration | None:
    """The calibration in `path`, or one that is made now where a scheme needs it.

    Raises:
        Pi0EdgeError: As `Calibration.load` and `calibrate`.
    """
    if path is not None:
        return Calibration.load(path)
    if not any(scheme.needs_calibration for scheme in schemes):
        return None
    with speak.progress() as progress:
        task = progress.add_task("calibrating", total=len(split.calibration))
        return calibrate(
            reference, split.calibration, seed, on_frame=lambda done: progress.update(task, completed=done)
        )


def scanned(
    speak: Output,
    reference: Policy,
    levels: Sequence[Scheme],
    observations: Sequence[Observation],
    by: Granularity,
    calibration: Calibration | None,
) -> tuple[LayerScan, list[Choice]]:
    """Damage and cost of every group of layers at every level.

    Raises:
        ConfigError: If the levels quantize nothing.
    """
    scan = LayerScan(reference, levels, observations, by, channel_amax(calibration))
    with speak.progress() as progress:
        task = progress.add_task("scanning", total=scan.measurements)
        return scan, scan.choices(lambda: progress.update(task, advance=1))


def searched(
    speak: Output,
    scan: LayerScan,
    choices: Sequence[Choice],
    joints: Sequence[str],
    thresholds: Thresholds,
    draws: int,
    base: Scheme,
    path: Path,
) -> Scheme:
    """The cheapest mix that passes on the scan's observations; everything else is as in `base`. Written to `path`.

    Raises:
        ConfigError: If not even the unquantized network passes.
    """
    with speak.progress() as progress:
        task = progress.add_task("searching", total=None)
        mix = scan.cheapest_passing(choices, joints, thresholds, draws, lambda: progress.update(task, advance=1))
    if mix is None:
        raise ConfigError("not even the unquantized network passes on the frames of the scan; loosen the thresholds")
    purpose = f"cheapest mix that passes: {mix.taken} of {mix.steps} steps, {mix.cost:.0%} of the 16-bit cost"
    found = scan.scheme(mix.levels, path.stem, purpose, base.rest)
    path.write_text(yaml.safe_dump(found.to_dict(), sort_keys=False, allow_unicode=True))
    speak.say(f"{purpose}; written to {path}")
    return found


def traced(speak: Output, name: str, policy: Policy, observations: Sequence[Observation], draws: int) -> Trace:
    """What a policy answers to the held-out observations."""
    with speak.progress() as progress:
        task = progress.add_task(name, total=len(observations) * draws)
        return trace(policy, observations, draws, advance=lambda: progress.update(task, advance=1))


def played(speak: Output, name: str, policy: Policy, episodes: int, executed: int) -> list[Rollout]:
    """Closed-loop episodes in simulation, on seeds that training never saw."""
    if not episodes:
        return []
    from pi0_edge.evaluation.rollout import evaluate

    rollouts: list[Rollout] = []
    with speak.progress() as progress:
        task = progress.add_task(f"{name} in closed loop", total=episodes)
        for rollout in evaluate(policy, _prompt(policy), range(episodes), executed):
            rollouts.append(rollout)
            progress.update(task, advance=1)
    return rollouts


def paired(reference: Sequence[Rollout], candidate: Sequence[Rollout]) -> Pairing | None:
    """Both on the same seeds; None where nothing was played."""
    return pair(reference, candidate) if reference else None


def _prompt(policy: Policy) -> str:
    from pi0_edge.sim.record import TASK

    return policy.processor.robot.default_prompt or TASK
