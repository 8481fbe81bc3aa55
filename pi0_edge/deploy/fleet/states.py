"""What robots run, asked of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
class RobotState:
    """What a robot says about itself.

    Attributes:
        robot: Its name in the inventory.
        reached: Whether it answered.
        problem: Why it did not, or why its answer cannot be used; empty where all is well.
        current: ID of the release that runs; None where nothing was ever committed, or where nobody knows.
        previous: ID of the release that it would fall back to.
        trial: ID of the release that is on trial.
        bad: Releases that it took back.
        gate: Verdict of the accuracy gate on what runs.
        scheme: How what runs is quantized.
        service: State of its policy server, in the word of systemd.
        service_reason: Why it ended; empty where it did not.
        hottest_c: Temperature of its hottest zone, in °C; None where it reads none.
    """

    robot: str
    reached: bool
    problem: str = ""
    current: str | None = None
    previous: str | None = None
    trial: str | None = None
    bad: tuple[BadRelease, ...] = ()
    gate: str = ""
    scheme: str = ""
    service: str = ""
    service_reason: str = ""
    hottest_c: float | None = None

    def why_bad(self, release: str) -> str | None:
        """Why this robot took a release back; None where it did not."""
        return next((bad.reason for bad in self.bad if bad.release == release), None)

    @property
    def known(self) -> bool:
        """Whether it said what it runs."""
        return self.reached and not self.problem


def read_state(robot: str, status: Mapping[str, Any]) -> RobotState:
    """The answer to `status` of the session.

    Args:
        robot: Its name in the inventory.
        status: The answer.

    Raises:
        DeployError: If it is none.
    """
    try:
        current: Mapping[str, Any] = status["current"] or {}
        return RobotState(
            robot,
            reached=True,
            problem=str(current.get("problem", "")),
            current=_release(status["current"]),
            previous=_release(status["previous"]),
            trial=_release(status["trial"]),
            bad=tuple(BadRelease(str(bad["release"]), str(bad["reason"])) for bad in status["bad"]),
            gate=str(current.get("gate", "")),
            scheme=str(current.get("scheme", "")),
            service=str(status["service"]),
            service_reason=str(status.get("service_reason", "")),
            hottest_c=max(map(float, status["temperatures"].values()), default=None),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DeployError(
            f"{robot} answered to status with {str(status)[:200]} ({error!r}); `pi0-edge robot provision` brings its "
            "installer to the version of this machine"
        ) from error


def shown_release(release: str | None, known: bool) -> str:
    """What a robot runs, for people."""
    return release if release is not None else "no release" if known else "unknown"


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
    key: Path | None = None,
    at_once: int = AT_ONCE,
    on_state: Callable[[RobotState], object] = lambda state: None,
) -> tuple[RobotState, ...]:
    """What many robots run.

    Args:
        robots: Names that ssh knows.
        ssh_config: Instead of the user's own configuration of ssh.
        key: Private key; None takes those that a single robot would be asked with.
        at_once: How many are asked at the same time.
        on_state: Is called with each answer, in the order of the robots.
    """
    with ThreadPoolExecutor(at_once) as pool:
        states = []
        try:
            hosts = [RobotHost(robot, ssh_config=ssh_config, key=key) for robot in robots]
            for state in pool.map(ask_state, hosts, robots):
                on_state(state)
                states.append(state)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(states)


STATE_COLUMNS = ("robot", "runs", "gate", "service", "°C", "remarks")


def state_rows(states: Iterable[RobotState]) -> list[tuple[str, ...]]:
    """The columns `STATE_COLUMNS` of a table."""
    return [
        (
            state.robot,
            shown_release(state.current, state.known),
            state.gate,
            state.service,
            "" if state.hottest_c is None else f"{state.hottest_c:.0f}",
            "; ".join(_remarks(state)),
        )
        for state in states
    ]


def _remarks(state: RobotState) -> Iterator[str]:
    if state.problem:
        yield state.problem
    if state.trial is not None:
        yield f"{state.trial} is on trial"
    if state.service_reason:
        yield f"policy server: {state.service_reason}"
    if state.bad:
        yield f"took {state.bad[-1].release} back: {state.bad[-1].reason}"


def _release(plain: Mapping[str, Any] | None) -> str | None:
    return None if plain is None else str(plain["release"])
