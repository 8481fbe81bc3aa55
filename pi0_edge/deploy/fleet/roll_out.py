"""A release to all robots of an inventory, in stages; the first robot that refuses it or takes it back ends that.

    report = roll_out(Path("robots.ini"), Path("bundles/cups"), on_reason=print)
    print(report.to_markdown())

Every robot is asked first what it runs. One that has the release is left alone, one that is off is listed and left for
the next time; the others come in the order of the inventory. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pi0_edge.deploy.fleet.inventory import ansible, read_inventory, write_ssh_config
from pi0_edge.deploy.fleet.plan import Plan, read_outcome
from pi0_edge.deploy.fleet.report import FleetReport, Outcome, RobotOutcome
from pi0_edge.deploy.fleet.states import RobotState, ask_states
from pi0_edge.deploy.transfer.release_files import find_release
from pi0_edge.deploy.transfer.robot_host import DEADLINE_S
from pi0_edge.deploy.trust import read_release
from pi0_edge.errors import DeployError, TrustError

STAGES: tuple[int | str, ...] = (1, "10%", "100%")
FLASHED_AT_ONCE = 8
"""Robots that are sent a release at the same time: one link of a workstation feeds no more."""
END_S = 15.0

_STAGE = re.compile(r"[1-9]\d*%?")
_PLAYBOOK = Path(__file__).with_name("roll_out.yml")
_POLL_S = 0.1
_NAMES_SHOWN = 5


def roll_out(
    inventory: Path,
    bundle: Path,
    *,
    limit: str = "",
    stages: Sequence[int | str] = STAGES,
    soak_minutes: float = 0.0,
    at_once: int = FLASHED_AT_ONCE,
    budget_ms: float | None = None,
    deadline_s: float = DEADLINE_S,
    bwlimit_kbps: int | None = None,
    ssh_config: Path | None = None,
    key: Path | None = None,
    on_reason: Callable[[str], object] = lambda reason: None,
) -> FleetReport:
    """Rolls a release out.

    Args:
        inventory: File or folder of ansible.
        bundle: Of the release; its statement lies beside it.
        limit: Only robots of this pattern of ansible; empty is all.
        stages: Robots of each stage, or their share of those that lack the release, such as "10%"; the last is used
            until none is left.
        soak_minutes: How long all robots that have the release are watched before the next stage begins.
        at_once: How many robots of a stage are sent the release at the same time.
        budget_ms: Longest time that a chunk may take; None takes each robot's own.
        deadline_s: After so long, a robot that cannot be reached any more is left.
        bwlimit_kbps: Most that is sent to one robot in a second, in units of 1024 bytes.
        ssh_config: Instead of the user's own configuration of ssh; addresses in the inventory go before it.
        key: Private key; None takes those that a single robot would be flashed with.
        on_reason: Is called with everything that happens, one line each.

    Returns:
        What became of each robot. Ctrl-C ends the roll-out, not this: the report says what each robot runs.

    Raises:
        DeployError: If inventory, stages or bundle cannot be used, or ansible itself fails.
        TrustError: If the bundle is not signed, or its signatures expired.
        MissingDependencyError: If ansible-core is not installed.
    """
    for stage in stages or ("none",):
        if not _STAGE.fullmatch(str(stage)):
            raise DeployError(f"stage {stage!r} is neither a number of robots nor a share such as 10%")
    begin = time.monotonic()
    robots = read_inventory(inventory, limit)
    release = _offered(bundle)
    with tempfile.TemporaryDirectory(prefix="pi0-fleet-") as folder:
        plan = Plan(Path(folder), bundle, release, budget_ms, deadline_s, soak_minutes, key, bwlimit_kbps)
        write_ssh_config(plan.ssh_config, robots, ssh_config)
        names = [robot.name for robot in robots]
        on_reason(f"{release} to {_counted(names)}: asking what they run")
        run = _RollOut(plan, names, on_reason)
        try:
            run.sort(ask_states(names, plan.ssh_config, key=key))
            if run.todo and not run.stopped:
                run.play(stages, at_once)
        except KeyboardInterrupt:
            run.interrupt()
        return dataclasses.replace(run.report(), seconds=round(time.monotonic() - begin, 1))


def _offered(bundle: Path) -> str:
    """ID of a release that robots may take: whole, and not expired. Who signed it, every robot checks itself."""
    find_release(bundle)
    signed = read_release(bundle)
    if signed.is_expired:
        raise TrustError(
            f"{signed.release.id} expired on {signed.expires.date()}: robots refuse it; sign it again with a higher "
            "sequence: pi0-edge release sign"
        )
    return signed.release.id


class _RollOut:
    """One roll-out, and what is known of it."""

    def __init__(self, plan: Plan, names: Sequence[str], on_reason: Callable[[str], object]) -> None:
        self.todo: list[str] = []
        self.stopped = ""
        self._plan, self._names, self._say = plan, names, on_reason
        self._states: dict[str, RobotState] = {}
        self._outcomes: dict[str, RobotOutcome] = {}
        self._stages: dict[str, int] = {}
        self._stage = 0
        self._begun: set[str] = set()
        self._read = 0
        self._interrupted = False

    def sort(self, states: Sequence[RobotState]) -> None:
        """Which robots get the release; a robot that is known to refuse it stops the roll-out before it begins."""
        self._states = {state.robot: state for state in states}
        self._plan.write([])
        refusing = []
        for state in states:
            found = _without_flash(state, self._plan.release)
            if found is None:
                self.todo.append(state.robot)
                continue
            self._plan.tell_outcome(found)
            refusing += [state.robot] if found.outcome.stops else []
        self._plan.write(self.todo)
        self._hear()
        if refusing:
            self.stopped = (
                f"{_counted(refusing)} would refuse it, so nothing was sent; mend that, or leave them out: "
                f"--limit 'all:{':'.join(f'!{name}' for name in refusing)}'"
            )

    def play(self, stages: Sequence[int | str], at_once: int) -> None:
        """Runs the playbook to its end."""
        log = self._plan.folder / "ansible.log"
        variables = {"stages": list(stages), "python": sys.executable, "folder": str(self._plan.folder)}
        argv = [*ansible("playbook"), "--inventory", str(self._plan.robots), "--forks", str(at_once)]
        argv += ["--extra-vars", json.dumps(variables), str(_PLAYBOOK)]
        with log.open("wb") as said, _process(argv, said, _environment(self._plan.folder)) as process:
            while process.poll() is None:
                self._hear()
                time.sleep(_POLL_S)
        self._hear()
        self._judge(process.returncode, " ".join(log.read_text(errors="replace").split())[-800:])

    def interrupt(self) -> None:
        """What is known after Ctrl-C: robots that had begun are asked what they run now."""
        self._interrupted = True
        self.stopped = "interrupted; run it again to go on"
        self._hear()
        open_ends = [name for name in self._names if name in self._begun and name not in self._outcomes]
        self._say(f"interrupted: asking {_counted(open_ends or self._names)} what they run")
        for state in ask_states(open_ends, self._plan.ssh_config, key=self._plan.key):
            self._states[state.robot] = state
            if state.current == self._plan.release:
                self._plan.tell_outcome(
                    _outcome(state, Outcome.COMMITTED, "committed when the roll-out was interrupted")
                )
        self._hear()

    def report(self) -> FleetReport:
        """What became of each robot."""
        robots = []
        for name in self._names:
            found = self._outcomes.get(name) or self._left(name)
            robots.append(dataclasses.replace(found, stage=self._stages.get(name)))
        return FleetReport(self._plan.release, tuple(robots), self.stopped, self._interrupted)

    def _left(self, name: str) -> RobotOutcome:
        """A robot that nothing was said of."""
        state = self._states.get(name, RobotState(name, reached=False))
        if name not in self._begun:
            return _outcome(state, Outcome.NOT_TRIED, "the roll-out stopped before")
        if not state.reached:
            return _outcome(state, Outcome.UNREACHABLE, state.problem)
        return _outcome(state, Outcome.NOT_TRIED, "begun and not finished")

    def _judge(self, code: int, said: str) -> None:
        """Why the playbook ended before its last robot."""
        silent = [name for name in self._begun if name not in self._outcomes]
        for name in silent:
            self._plan.tell_outcome(
                _outcome(
                    RobotState(name, False), Outcome.REFUSED, f"its step ended without a word; ansible said: {said}"
                )
            )
        self._hear()
        stopping = [found.robot for found in self._outcomes.values() if found.outcome.stops]
        if not self.stopped and stopping:
            self.stopped = f"{_counted(stopping)} refused it or took it back"
        left = [name for name in self.todo if name not in self._outcomes]
        if not self.stopped and (code != 0 or left):
            raise DeployError(f"ansible ended with {code} before the roll-out was done: {said}")

    def _hear(self) -> None:
        """Reads what was told since the last time."""
        content = self._plan.events.read_bytes() if self._plan.events.exists() else b""
        whole = content.rfind(b"\n") + 1
        for line in content[self._read : whole].splitlines(keepends=True):
            self._read += len(line)  # before: who hears it may raise
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "stage":
            self._stage += 1
            self._stages |= dict.fromkeys(event["robots"], self._stage)
            self._say(f"stage {self._stage}: {_counted(event['robots'])}")
        elif kind == "watch":
            minutes = event["minutes"]
            self._say("looking at the robots again" + (f" for {minutes:g} minutes" if minutes else ""))
        elif kind == "stopped":
            self.stopped = event["reason"]
            self._say(f"stopped: {self.stopped}")
        elif kind == "begun":
            self._begun.add(event["robot"])
        elif kind == "reason":
            self._say(f"{event['robot']}: {event['reason']}")
        elif kind == "outcome":
            found = read_outcome(event)
            if found.outcome is Outcome.NOT_TRIED:
                found = _outcome(self._states[found.robot], found.outcome, found.reason)
            self._outcomes[found.robot] = found
            took = f" ({found.seconds:.0f} s)" if found.seconds else ""
            reason = "" if found.reason == found.outcome.value else f": {found.reason}"
            self._say(f"{found.robot}: {found.outcome.value}{reason}{took}")


def _without_flash(state: RobotState, release: str) -> RobotOutcome | None:
    """What is known of a robot before anything is sent; None where it gets the release."""
    if not state.reached:
        return _outcome(state, Outcome.UNREACHABLE, state.problem)
    if state.problem:
        return _outcome(state, Outcome.REFUSED, state.problem)
    if state.current == release:
        return _outcome(state, Outcome.ALREADY_THERE, "it ran this release before")
    if (why := state.why_bad(release)) is not None:
        reason = f"it took this release back before ({why}); sign a mended bundle with a higher sequence"
        return _outcome(state, Outcome.REFUSED, reason)
    return None


def _outcome(state: RobotState, outcome: Outcome, reason: str) -> RobotOutcome:
    return RobotOutcome(state.robot, outcome, reason, state.current, known=state.known)


@contextlib.contextmanager
def _process(argv: list[str], output: Any, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all that it starts, which is ended with this context.

    It has a session of its own: Ctrl-C comes to this process alone, which passes it on.
    """
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None:
                break
            os.killpg(process.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)


def _environment(folder: Path) -> dict[str, str]:
    """Of ansible: none of the user's settings, which could let it go on after a failure; all its files in `folder`."""
    settings = folder / "ansible.cfg"
    settings.touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    modules = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [kept.get("PYTHONPATH")])])
    own = {
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_REMOTE_TEMP": str(folder / "ansible" / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": modules,
    }
    return kept | own


def _counted(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    count = f"{len(names)} robots" if len(names) != 1 else "1 robot"
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return f"{count} ({', '.join(names[:_NAMES_SHOWN])}{more})"
