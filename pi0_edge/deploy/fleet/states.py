"""What robots run, asked of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.deploy.launcher.slots import BadRelease
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.deploy.transfer.ssh import LinkLostError
from pi0_edge.errors import DeployError

AT_ONCE = 16
"""Robots that are asked at the same time: each is one process of ssh and no work for this machine."""


@dataclass(frozen=True)
class RunningRelease:
    """A release as a robot names it.

    Attributes:
        release: Its ID.
        sequence: Of its signed statement.
    """

    release: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.release} (sequence {self.sequence})"


@dataclass(frozen=True)
class RobotState:
    """What a robot says about itself.

    Attributes:
        robot: Its name in the inventory.
        reached: Whether it answered.
        problem: Why it did not, or why its answer cannot be used; empty where all is well.
        current: What runs; None where nothing was ever committed, or where nobody knows.
        previous: What it would fall back to.
        trial: What is on trial.
        bad: Releases that it took back.
    """

    robot: str
    reached: bool
    problem: str = ""
    current: RunningRelease | None = None
    previous: RunningRelease | None = None
    trial: RunningRelease | None = None
    bad: tuple[BadRelease, ...] = ()

    def why_bad(self, release: RunningRelease) -> str | None:
        """Why this robot took a release back; None where it did not."""
        named = ((bad, RunningRelease(bad.release, bad.sequence)) for bad in self.bad)
        return next((bad.reason for bad, name in named if name == release), None)

    @property
    def shown(self) -> str:
        """What it runs, for people."""
        return shown_release(self.current, self.reached and not self.problem)


def shown_release(release: RunningRelease | None, known: bool) -> str:
    """What a robot runs, for people."""
    return str(release) if release is not None else "no release" if known else "unknown"


def read_state(robot: str, status: Mapping[str, Any]) -> RobotState:
    """The answer to `status` of the session.

    Args:
        robot: Its name in the inventory.
        status: The answer.

    Raises:
        DeployError: If it is none.
    """
    try:
        slots = {name: _release(status.get(name)) for name in ("current", "previous", "trial")}
        bad = tuple(BadRelease(str(one["release"]), int(one["sequence"]), str(one["reason"])) for one in status["bad"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DeployError(
            f"{robot} answered to status with {str(status)[:200]} ({error!r}); `pi0-edge robot provision` brings its "
            "installer to the version of this machine"
        ) from error
    return RobotState(robot, reached=True, bad=bad, **slots)


def ask_state(host: RobotHost, robot: str) -> RobotState:
    """What one robot runs; a robot that cannot be asked is a state too."""
    try:
        return read_state(robot, host.status())
    except LinkLostError as error:
        return RobotState(robot, reached=False, problem=str(error))
    except DeployError as error:
        return RobotState(robot, reached=True, problem=str(error))


def ask_states(
    robots: Sequence[str],
    ssh_config: Path | None,
    *,
    at_once: int = AT_ONCE,
    on_state: Callable[[RobotState], object] = lambda state: None,
) -> tuple[RobotState, ...]:
    """What many robots run.

    Args:
        robots: Names that ssh knows.
        ssh_config: Instead of the user's own configuration of ssh.
        at_once: How many are asked at the same time.
        on_state: Is called with each answer, in the order of the robots.
    """
    with ThreadPoolExecutor(at_once) as pool:
        states = []
        try:
            for state in pool.map(lambda robot: ask_state(RobotHost(robot, ssh_config=ssh_config), robot), robots):
                on_state(state)
                states.append(state)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(states)


def state_rows(states: Iterable[RobotState]) -> list[tuple[str, str, str, str]]:
    """Columns of a table: robot, what runs, what it would fall back to or has on trial, and what is wrong."""
    rows = []
    for state in states:
        others = [f"trial of {state.trial}"] if state.trial else []
        others += [f"before: {state.previous}"] if state.previous else []
        wrong = [state.problem] if state.problem else []
        wrong += [f"took {bad.release} (sequence {bad.sequence}) back: {bad.reason}" for bad in state.bad[-1:]]
        rows.append((state.robot, state.shown, "; ".join(others), "; ".join(wrong)))
    return rows


def _release(plain: Any) -> RunningRelease | None:
    return None if plain is None else RunningRelease(str(plain["release"]), int(plain["sequence"]))
