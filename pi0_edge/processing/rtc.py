"""What the arm executes while the policy thinks, turned into what the network continues (real-time chunking).

The arm's plan comes in the robot's units, relative to nothing. Here it becomes rows of the new chunk: in the joint
convention of the network, relative to the new observation where the robot's actions are relative, normalized, padded.
A chunk that was relative to an older state is thereby re-anchored, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.model.rtc import Continuation, FrozenPrefix, Guidance
from pi0_edge.processing.observation import Observation
from pi0_edge.processing.processor import ObservationProcessor


class Method(Enum):
    """How a chunk continues another, see `pi0_edge.model.rtc`."""

    GUIDED = "guided"
    FROZEN_PREFIX = "frozen prefix"


class Schedule(Enum):
    """How the weight of guidance fades behind the delay."""

    LINEAR = "linear"
    EXP = "exp"
    ONES = "ones"
    ZEROS = "zeros"


@dataclass(frozen=True)
class RunningPlan:
    """What the arm executes from the tick after an observation on.

    Attributes:
        actions: Float [rows, action_dim] in the robot's units; row k is due k + 1 ticks after the observation.
        delay: Rows that will have been executed when the new chunk is entered.
        method: How the new chunk continues them.
        schedule: Of guidance.
        overlap: Rows that guide, those of the delay included; LeRobot calls it the execution horizon.
        max_weight: Limit of the guidance weight.
    """

    actions: NDArray[np.floating]
    delay: int
    method: Method = Method.GUIDED
    schedule: Schedule = Schedule.LINEAR
    overlap: int = 10
    max_weight: float = 10.0


def continuation(plan: RunningPlan, observation: Observation, processor: ObservationProcessor) -> Continuation:
    """The network's side of a plan.

    Where the plan is shorter than the delay, its last action is held, as the arm will hold it.

    Raises:
        ObservationError: If the plan is empty, wrongly shaped, not finite, or its delay leaves no action free.
        ConfigError: If the network was not trained with a frozen prefix that long.
    """
    horizon = processor.config.horizon
    if plan.actions.ndim != 2 or not len(plan.actions) or not np.all(np.isfinite(plan.actions)):
        raise ObservationError(
            f"the plan to continue has shape {list(plan.actions.shape)}; expected at least one row of finite actions"
        )
    if not 0 <= plan.delay < horizon:
        raise ObservationError(
            f"delay is {plan.delay}; expected 0 to {horizon - 1}, so that actions are left to choose"
        )
    if not 0 <= plan.max_weight < np.inf:
        raise ObservationError(f"max_weight is {plan.max_weight}; expected a number from 0 on, such as 10")
    held = np.minimum(np.arange(max(plan.delay, len(plan.actions))), len(plan.actions) - 1)
    rows = processor.to_normalized(plan.actions[held], observation)[:horizon]
    previous = torch.zeros(1, horizon, rows.shape[1])
    previous[0, : len(rows)] = torch.from_numpy(rows)
    if plan.method is Method.FROZEN_PREFIX:
        return _frozen(previous, plan.delay, processor.config.trained_delay)
    weights = torch.zeros(horizon, rows.shape[1])
    overlap = min(plan.overlap, len(plan.actions))
    fading = guidance_weights(plan.delay, overlap, horizon, plan.schedule)
    weights[:, : processor.robot.action_dim] = torch.from_numpy(fading)[:, None]  # the padding is free
    return Guidance(previous, weights, plan.max_weight)


def guidance_weights(delay: int, overlap: int, horizon: int, schedule: Schedule) -> NDArray[np.float32]:
    """How strongly each action is guided, float32 [horizon]: arXiv 2506.07339, equation 5, with LeRobot's schedules.

    1 for k < delay; then c = (overlap − k)/(overlap − delay + 1), which is the weight (LINEAR) or makes it, as
    c·(e^c − 1)/(e − 1) (EXP), or stays 1 (ONES) or 0 (ZEROS); 0 for k ≥ overlap.
    """
    k = np.arange(horizon)
    faded = np.clip((overlap - k) / max(1, overlap - delay + 1), 0.0, 1.0)
    shapes = {
        Schedule.LINEAR: faded,
        Schedule.EXP: faded * np.expm1(faded) / np.expm1(1.0),
        Schedule.ONES: np.where(k < overlap, 1.0, 0.0),
        Schedule.ZEROS: np.zeros(horizon),
    }
    return np.where(k < delay, 1.0, shapes[schedule]).astype(np.float32)


def _frozen(previous: torch.Tensor, delay: int, trained_delay: int) -> FrozenPrefix:
    if delay > trained_delay:
        learned = f"at most {trained_delay} actions" if trained_delay else "none"
        raise ConfigError(
            f"a frozen prefix of {delay} actions was asked for, but the policy was trained with {learned}; "
            "use guidance, or train it with --max-delay"
        )
    return FrozenPrefix(previous, delay)
