"""The robot of `flash_faults`: brought into the state that a fault needs, watched, and brought back.

Releases 1 to 3 have the same bytes. 1 was committed before 2, 2 is committed, 3 is installed and was never committed.
4 has other weights, and the robot has none of its files. What does not need a whole flash is put into place by the
robot's own files: slots.json, as the flash of release 2 left it, and trial.json, as the flash of release 3 left it.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "apparatus"))

from bad_link import Link
from flashed_robot import POLICY, FlashedRobot, Workstation, small_bundle
from flashed_robot import Fault as Planted
from robot_container import INSIDE, RobotContainer, bound_environment, why_no_container

__all__ = ["POLICY", "Client", "FaultRobot", "Link", "Planted", "Service", "WrongError", "require", "why_no_container"]

TRIAL_S, SELF_TEST_CHUNKS = 1.0, 44
BEFORE, CURRENT, NEXT, OTHER = 1, 2, 3, 4
LIMIT_S = 120.0
LOOK_EVERY_S = 0.3
"""When it was ready systemd says, so that whoever looks may take his time, and take none from the robot."""
ASK_EVERY_S = 0.05
_STATE, _SAVED = "/var/lib/pi0-edge", "/var/lib/pi0-edge-saved"
_ASK = f"""
import os, sys, time
print(os.getpid(), flush=True)
sys.path[:0] = ["{INSIDE}/source/tests/apparatus"]
from policy_builders import observation
from pi0_edge.errors import ServingError
from pi0_edge.serving.policy_client import PolicyClient
tick, seen = 0, observation()
while True:
    try:
        with PolicyClient("127.0.0.1:50051", 5) as client:
            while True:
                tick += 1
                client.infer(seen, tick, 1)
                print(time.monotonic(), flush=True)
                time.sleep({ASK_EVERY_S})
    except ServingError:
        time.sleep(0.05)
"""


class WrongError(Exception):
    """After a fault the robot is not in the state that it should be in."""


def require(holds: bool, otherwise: str) -> None:
    """Raises a WrongError that says what was found where something does not hold."""
    if not holds:
        raise WrongError(otherwise)


@dataclass(frozen=True)
class Service:
    """The policy server as systemd sees it.

    Attributes:
        state: `active` once it has answered a chunk to itself; `activating`, `failed` …
        pid: Of its process.
        ready_at: When it became ready last, in seconds of the monotonic clock.
        left_at: When it was ready no longer; 0 where it has been all the time.
        sequence: Of the release that it serves; 0 where it is not ready.
    """

    state: str
    pid: int
    ready_at: float
    left_at: float
    sequence: int


class Client:
    """A program on the robot that asks for chunks all the time, and notes when each came."""

    def __init__(self, container: RobotContainer) -> None:
        """Starts it and waits for its first answer."""
        self._container = container
        self._process = container.popen(f"exec {INSIDE}/bin/python -", stdin=_ASK)
        self._lines: queue.Queue[float] = queue.Queue()
        self._answers: list[float] = []
        assert self._process.stdout is not None
        self._pid = int(self._process.stdout.readline())
        threading.Thread(target=self._collect, daemon=True).start()
        self._answers.append(self._lines.get(timeout=LIMIT_S))

    def longest_gap(self, since: float) -> float:
        """Longest time between two answers, in seconds: the last one before `since`, and all until the next one."""
        while not self._lines.empty():
            self._answers.append(self._lines.get())
        self._answers.append(self._lines.get(timeout=LIMIT_S))
        times = [*[at for at in self._answers if at <= since][-1:], *[at for at in self._answers if at > since]]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def end(self) -> None:
        """Ends it."""
        self._container.run(f"kill -KILL {self._pid}", check=False)
        self._process.kill()
        self._process.wait()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(float(line))


class FaultRobot(FlashedRobot):
    """The robot."""

    def __init__(self, folder: Path) -> None:
        """Provisions a container and flashes what every fault begins with; takes a minute or two."""
        workstation = Workstation(folder)
        container = RobotContainer("faults", bound_environment()).start()
        super().__init__(container, workstation, trial_s=TRIAL_S, self_test_chunks=SELF_TEST_CHUNKS)
        other = small_bundle(folder / "other", seed=1)
        self._entries = 0
        self.bundles = {sequence: workstation.release() for sequence in (BEFORE, CURRENT, NEXT)}
        self.host.flash(self.bundles[BEFORE])
        self.host.flash(self.bundles[CURRENT])
        container.run(f"mkdir {_SAVED} && cp -a {_STATE}/slots.json {_SAVED}")
        self.host.flash(self.bundles[NEXT], commit=False)
        container.run(f"cp -a /run/pi0-edge/trial.json /run/pi0-edge/trial-proof.json {_STATE}/tuf {_SAVED}")
        self.bundles[OTHER] = workstation.release(made=other)
        self.reset()

    def reset(self) -> None:
        """Release 2 is committed and served, 1 was before it, nothing is on trial, nothing is planted."""
        self.container.set_links(Link())
        self.container.run(
            f"systemctl stop pi0-edge-trial-end.timer pi0-edge-fallback; cd {_STATE} && "
            "rm -rf /run/pi0-edge/trial.json /run/pi0-edge/trial-proof.json /etc/pi0-fault "
            f"releases/{OTHER}-* staging/[0-9a-f]* incoming/* tuf && cp -a {_SAVED}/tuf . && "
            f"cp {_SAVED}/slots.json .slots.json.new && mv .slots.json.new slots.json && "
            f"systemctl reset-failed {POLICY}; true"
        )
        if self.service().sequence != CURRENT:
            self.container.run(f"systemctl restart --no-block {POLICY}")
        self.await_ready(CURRENT, 0.0)
        self._entries = len(self.journal())

    def events(self) -> list[str]:
        """What the journal says since the robot was reset."""
        return self.journal()[self._entries :]

    def fault_began(self) -> float:
        """As `FlashedRobot`, in seconds of the monotonic clock."""
        return super().fault_began() - time.clock_gettime(time.CLOCK_BOOTTIME) + time.monotonic()

    def service(self) -> Service:
        """How the policy server is."""
        names = ("ActiveState", "MainPID", "ActiveEnterTimestampMonotonic", "ActiveExitTimestampMonotonic")
        shown = self.container.run(f"systemctl show {POLICY} -p {','.join(names)}", check=False).stdout
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        state, pid = found.get("ActiveState", "unknown"), int(found.get("MainPID") or 0)
        sequence = 0
        if state == "active":
            with contextlib.suppress(OSError):
                command = self.container.path(f"/proc/{pid}/cmdline").read_bytes().decode()
                sequence = int(command.partition("/releases/")[2].partition("-")[0] or 0)
        ready_at, left_at = (int(found.get(name) or 0) / 1e6 for name in names[2:])
        return Service(state, pid, ready_at, left_at, sequence)

    def await_ready(self, sequence: int, since: float) -> float:
        """Waits until a release is served; returns when it became ready, in seconds of the monotonic clock.

        Args:
            sequence: Of the release.
            since: It must have become ready after this.
        """
        found: list[Service] = []

        def ready() -> bool:
            found.append(self.service())
            return found[-1].sequence == sequence and found[-1].ready_at > since

        self.await_that(ready, f"serves release {sequence}", LIMIT_S, LOOK_EVERY_S)
        return found[-1].ready_at

    def begin_trial(self) -> float:
        """Release 3 goes on trial as its installer does it, without the installer; returns when."""
        begun = time.monotonic()
        self.container.run(
            f"cp {_SAVED}/trial.json /run/pi0-edge/trial.new && mv /run/pi0-edge/trial.new /run/pi0-edge/trial.json && "
            "systemctl restart --no-block pi0-edge-trial-end.timer && "
            f"systemctl reset-failed {POLICY}; systemctl restart --no-block {POLICY}"
        )
        return begun

    def prove_trial(self) -> None:
        """What is on trial has come to the end of it, as its installer says after the last chunk."""
        proof = "/run/pi0-edge/trial-proof"
        self.container.run(f"cp {_SAVED}/trial-proof.json {proof}.new && mv {proof}.new {proof}.json")

    def require_state(self, current: int, *, bad: int | None = None, trial: bool = False) -> None:
        """Raises a WrongError where the slots say something else.

        Args:
            current: Sequence of what is committed.
            bad: Sequence of the one release that is listed as bad; None where there is none.
            trial: Whether a release is on trial.
        """
        slots = self.slots
        listed = [int(release.release.partition("-")[0]) for release in slots.bad]
        require(self.current == current, f"release {self.current} is committed, expected {current}")
        require(listed == ([] if bad is None else [bad]), f"listed as bad: {listed}, expected {bad}")
        on_trial = self.container.path("/run/pi0-edge/trial.json").exists()
        require(on_trial == trial, f"on trial: {on_trial}, expected {trial}")

    def power_on(self) -> float:
        """After a power cut; returns when the power came."""
        on = time.monotonic()
        self.container.start()
        self.connect()
        return on

    def kill_installer(self) -> None:
        """SIGKILL to the installer and all that it started."""
        self.container.run("systemctl kill --kill-whom=all -s KILL 'pi0-edge-installer@*.service'")
