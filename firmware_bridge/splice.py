"""Splicing: how a new chunk enters the plan that the arm is executing.

Every policy enters a chunk at the action that is due, never at its first. They differ in how they treat the step of the
setpoints at the border between the old and the new chunk:

| splice policy       | request to the policy contains  | change of the chunk            | source                     |
|---------------------|---------------------------------|--------------------------------|----------------------------|
| `hold-swap`         | –                               | none                           | LeRobot, `latest_only`     |
| `linear-blend`      | –                               | fades from old plan to new     | LeRobot, `average`, faded  |
| `temporal-ensemble` | –                               | averages all chunks of a tick  | ACT, arXiv 2304.13705      |
| `rtc`               | the plan, as guidance           | none                           | RTC, arXiv 2506.07339      |
| `trained-rtc`       | the plan, as a frozen prefix    | none                           | arXiv 2512.05964           |

The first three work with any source of chunks. The last two need a policy server that takes a `Continuation`, and their
chunk continues the plan by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.protos.policy_pb2 import Continuation

GUARD_TICKS = 2
"""The firmware does not change setpoints closer than this: its `SETPOINT_GUARD`."""


@dataclass(frozen=True)
class Plan:
    """Setpoints of consecutive ticks.

    Attributes:
        first_tick: Tick at which row 0 is due.
        setpoints: float64 [ticks, joints], physical units; no rows where nothing is planned.
    """

    first_tick: int
    setpoints: NDArray[np.float64]

    @property
    def last_tick(self) -> int:
        """Tick at which the last row is due."""
        return self.first_tick + len(self.setpoints) - 1

    def since(self, tick: int) -> Plan:
        """What is due at `tick` or later."""
        past = min(max(0, tick - self.first_tick), len(self.setpoints))
        return Plan(self.first_tick + past, self.setpoints[past:])

    def until(self, tick: int) -> Plan:
        """What is due at `tick` or earlier."""
        return Plan(self.first_tick, self.setpoints[: max(0, tick - self.first_tick + 1)])

    def followed_by(self, later: Plan) -> Plan:
        """This plan up to where the later one begins, and that one; the later one alone where a tick lies between."""
        rows = later.first_tick - self.first_tick
        if not 0 < rows <= len(self.setpoints):
            return later
        return Plan(self.first_tick, np.concatenate([self.setpoints[:rows], later.setpoints]))


NOTHING = Plan(0, np.zeros((0, 0)))
"""The plan of an arm that has none."""


class Splice(Protocol):
    """A splice policy.

    Attributes:
        name: As in the table above.
    """

    name: str

    def continuation(self, plan: Plan, observed_tick: int, delay: int) -> Continuation | None:
        """The plan that the policy continues; None for a chunk without constraint.

        Args:
            plan: What the arm executes during the inference.
            observed_tick: Tick T of the observation; the new chunk's action k is due at T + 1 + k.
            delay: Ticks from the observation until its chunk is expected to enter.
        """
        ...

    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        """The chunk as it is to be executed, changed from `tick` on alone.

        Args:
            plan: What the arm executes now; `NOTHING` after a stop.
            chunk: The whole chunk, the rows that are past due included.
            tick: The first tick whose setpoint can still be changed; the chunk has a row for it.
        """
        ...


class HoldSwap:
    """Executes the old chunk until the new one enters; the step at the border remains."""

    name = "hold-swap"

    def continuation(self, plan: Plan, observed_tick: int, delay: int) -> Continuation | None:
        """None: the new chunk has no constraint."""
        return None

    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        """The chunk itself."""
        return chunk


@dataclass(frozen=True)
class LinearBlend(HoldSwap):
    """Fades from the old plan to the new chunk.

    Attributes:
        ticks: Length of the fade; shorter where the old plan ends before.
    """

    ticks: int = 10

    name = "linear-blend"

    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        """(1 − α)·old + α·new with α rising in equal steps."""
        old, new = plan.since(tick), chunk.since(tick)
        if old.first_tick != tick:
            return chunk
        blended = chunk.setpoints.copy()
        rows = min(self.ticks, len(old.setpoints), len(new.setpoints))
        rise = (np.arange(1, rows + 1) / (rows + 1))[:, None]
        start = tick - chunk.first_tick
        blended[start : start + rows] = (1 - rise) * old.setpoints[:rows] + rise * new.setpoints[:rows]
        return Plan(chunk.first_tick, blended)


@dataclass
class TemporalEnsemble(HoldSwap):
    """Averages the setpoints of all chunks for a tick, weights exp(−m·i), the oldest first (Zhao et al., ACT).

    ACT infers at every tick, so that its i counts ticks; here i is the age in ticks between the observations.

    Attributes:
        m: ACT's 0.01: small values give new chunks more weight.
    """

    m: float = 0.01
    _chunks: list[Plan] = field(default_factory=list)

    name = "temporal-ensemble"

    def enter(self, plan: Plan, chunk: Plan, tick: int) -> Plan:
        """The weighted average of all chunks that have a row for a tick."""
        running = self._chunks if len(plan.setpoints) else []  # after a stop, older chunks are not used
        self._chunks = [*(old for old in running if old.last_tick >= tick), chunk]
        oldest = self._chunks[0].first_tick
        start = tick - chunk.first_tick
        total = np.zeros_like(chunk.setpoints[start:])
        weights = np.zeros((len(total), 1))
        for old in self._chunks:
            rows = old.since(tick).setpoints[: len(total)]
            weight = np.exp(-self.m * (old.first_tick - oldest))
            total[: len(rows)] += weight * rows
            weights[: len(rows)] += weight
        return Plan(chunk.first_tick, np.concatenate([chunk.setpoints[:start], total / weights]))


@dataclass(frozen=True)
class RealTimeChunking(HoldSwap):
    """Guides the policy towards the plan during the inference of the chunk.

    Attributes:
        schedule: How the guidance fades behind the delay.
        overlap: Actions that guide, those of the delay included; the rest of the plan where it is shorter.
        max_weight: Limit of the guidance weight.
    """

    schedule: Continuation.Schedule = Continuation.EXP
    overlap: int = 50
    max_weight: float = 10.0

    name = "rtc"

    def continuation(self, plan: Plan, observed_tick: int, delay: int) -> Continuation | None:
        """The rest of the plan, as guidance."""
        rest = _rest(plan, observed_tick)
        if rest is None:
            return None
        return Continuation(
            method=Continuation.GUIDED,
            actions=rest,
            delay=delay,
            schedule=self.schedule,
            overlap=self.overlap,
            max_weight=self.max_weight,
        )


@dataclass(frozen=True)
class TrainedRealTimeChunking(HoldSwap):
    """Gives the policy the setpoints within the delay as the frozen prefix of its chunk.

    Attributes:
        trained_delay: Longest prefix that the policy was trained with (`PolicyMetadata.trained_delay`); of a longer
            delay only so many actions are given, and the others are not constrained.
    """

    trained_delay: int

    name = "trained-rtc"

    def continuation(self, plan: Plan, observed_tick: int, delay: int) -> Continuation | None:
        """The part of the plan within the delay, as a frozen prefix."""
        rest = _rest(plan, observed_tick)
        if rest is None:
            return None
        return Continuation(method=Continuation.FROZEN_PREFIX, actions=rest, delay=min(delay, self.trained_delay))


def _rest(plan: Plan, observed_tick: int) -> list[float] | None:
    """The plan from the tick after the observation on, row major; None where it has ended or begins later."""
    rest = plan.since(observed_tick + 1)
    if not len(rest.setpoints) or rest.first_tick != observed_tick + 1:
        return None
    return rest.setpoints.ravel().tolist()


CHUNK_SPLICES: dict[str, type[HoldSwap]] = {kind.name: kind for kind in (HoldSwap, LinearBlend, TemporalEnsemble)}
"""The policies that the bridge can apply to chunks of any origin."""


def client_splice(name: str, trained_delay: int, refuses_continuation: bool = False) -> Splice:
    """The policy of that name, for a robot that passes chunks on to the bridge as the policy made them.

    Args:
        name: `hold-swap`, `rtc` or `trained-rtc`.
        trained_delay: Of the policy server (`PolicyMetadata.trained_delay`).
        refuses_continuation: Of the policy server as well: it makes chunks that continue nothing.

    Raises:
        ConfigError: The name is another, or the checkpoint was not trained for it.
    """
    known: dict[str, Splice] = {HoldSwap.name: HoldSwap()}
    if not refuses_continuation:
        known[RealTimeChunking.name] = RealTimeChunking()
    if trained_delay:
        known[TrainedRealTimeChunking.name] = TrainedRealTimeChunking(trained_delay)
    if name not in known:
        raise ConfigError(f"splice is {name!r}; expected one that this policy allows: {', '.join(known)}")
    return known[name]


def chunk_splice(name: str) -> Splice:
    """The policy of that name in `CHUNK_SPLICES`.

    Raises:
        ConfigError: There is none.
    """
    if name not in CHUNK_SPLICES:
        raise ConfigError(f"splice is {name!r}, which is not known here; expected one of {', '.join(CHUNK_SPLICES)}")
    return CHUNK_SPLICES[name]()
