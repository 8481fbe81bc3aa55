"""The units of a robot in a container, with the launcher, accounts and releases that they need.

A release's environment is a program `python` that runs the SDK of this checkout, with or without a fault
(`faulty_policy`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundle_builders import bundle_inputs
from robot_container import INSIDE, RobotContainer

from pi0_edge.bundle import write_bundle
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.launcher.slots import Slot, Slots
from pi0_edge.deploy.provisioning.payload import launcher_files, unit_files

POLICY = "pi0-edge-policy.service"
ADDRESS = "127.0.0.1:50051"
APPARATUS = f"{INSIDE}/source/tests/apparatus"

_SETUP = """
useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pi0-edge
useradd --system --user-group --no-create-home --home-dir /var/lib/pi0-flash --shell /bin/sh pi0-flash
mkdir -p /var/lib/pi0-edge/releases /opt/pi0-edge/sdk /etc/pi0-edge /run/pi0-edge
"""


@dataclass(frozen=True)
class State:
    """What systemd says of a unit."""

    active: str
    result: str
    exit_code: int
    restarts: int
    status: str


class RobotServices:
    """A robot with everything installed, and no release."""

    def __init__(self, robot: RobotContainer, *, watchdog_s: float = 4.0) -> None:
        """Installs units and launcher.

        Args:
            robot: The container, running, with what `bound_environment` binds.
            watchdog_s: Of the policy server, shorter than in service.
        """
        self.robot = robot
        self.layout = Layout(robot.path("/"))
        robot.run(_SETUP)
        self._sdk = robot.environment()
        launcher = {f"/usr/lib/pi0-edge/{name}": content for name, content in launcher_files().items()}
        for name, content in {**launcher, **unit_files()}.items():
            robot.path(name).parent.mkdir(parents=True, exist_ok=True)
            robot.path(name).write_bytes(content)
        self.write_settings()
        self.drop_in(POLICY, f"[Service]\nWatchdogSec={watchdog_s:g}\n", "watchdog")
        robot.run("systemctl daemon-reload && systemctl start pi0-edge-installer.socket")

    def write_settings(self, budget_ms: float | None = None, bridge_arguments: tuple[str, ...] = ()) -> None:
        """The robot's own."""
        settings = RobotSettings(
            *("robot-1", "aloha_sim", "test", self.environment("good")),
            budget_ms=budget_ms,
            bridge_arguments=bridge_arguments,
            serve=("--threads", "1"),
        )
        self.layout.settings.write_bytes(settings.to_bytes())

    def drop_in(self, unit: str, text: str, name: str = "test") -> None:
        """Changes a unit; needs a daemon-reload."""
        folder = self.robot.path(f"/etc/systemd/system/{unit}.d")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.conf").write_text(text)

    def environment(self, fault: str) -> str:
        """An SDK environment whose policy servers have a fault; `good` has none."""
        folder = f"/opt/pi0-edge/sdk/{fault}"
        program = self.robot.path(f"{folder}/bin/python")
        program.parent.mkdir(parents=True, exist_ok=True)
        faulty = "" if fault == "good" else f"{APPARATUS}/faulty_policy.py {fault} "
        program.write_text(f'#!/bin/sh\nexec {self._sdk}/bin/python {faulty}"$@"\n')
        program.chmod(0o755)
        return folder

    def release(self, fault: str, sequence: int, made: Path) -> Slot:
        """Installs a release whose policy server has a fault.

        Args:
            fault: As in `faulty_policy`, or `good`.
            sequence: Of the statement.
            made: Folder of a bundle that is copied; each release has a manifest of its own.
        """
        digest = hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()
        name = f"{sequence}-{digest[:12]}"
        folder = self.layout.release(name)
        if not folder.exists():
            shutil.copytree(made, folder / "bundle")
            statement = {"manifest_sha256": digest, "sequence": sequence, "robot": "aloha_sim"}
            (folder / "release.json").write_text(json.dumps(statement))
        return Slot(name, sequence, self.environment(fault))

    def commit(self, current: Slot, previous: Slot | None) -> None:
        """What runs from the next start on; everything before is forgotten."""
        self.robot.run(f"systemctl stop {POLICY} pi0-edge-fallback.service; systemctl reset-failed; true")
        self.layout.trial.unlink(missing_ok=True)
        slots = Slots(current, previous, current.sequence, (), time.time())
        self.layout.slots.write_text(json.dumps(asdict(slots)))

    def start(self, *, block: bool = True) -> None:
        """Starts the policy server; waits until it is ready."""
        self.robot.run(f"systemctl start {'' if block else '--no-block'} {POLICY}", check=False)

    def state(self, unit: str = POLICY) -> State:
        """How a unit is."""
        names = "ActiveState,Result,ExecMainStatus,NRestarts,StatusText"
        lines = self.robot.run(f"systemctl show {unit} --property={names}").stdout.splitlines()
        found: Mapping[str, str] = dict(line.split("=", 1) for line in lines)
        return State(
            found["ActiveState"],
            found["Result"],
            int(found["ExecMainStatus"]),
            int(found["NRestarts"]),
            found["StatusText"],
        )

    def slots(self) -> dict[str, Any]:
        """The state file."""
        return json.loads(self.layout.slots.read_bytes())

    def journal(self, unit: str = POLICY) -> str:
        """What a unit wrote."""
        return self.robot.run(f"journalctl -b -o cat --no-pager -u {unit}").stdout

    def ask(self, count: int) -> subprocess.CompletedProcess[str]:
        """Asks for chunks from within the container."""
        return self.robot.run(f"{self._client()} {count}", check=False)

    def ask_for_ever(self) -> subprocess.Popen[bytes]:
        """A client that goes on whatever the server does; the caller ends it."""
        process_1 = self.robot.path("/").parts[2]
        argv = ["nsenter", "-t", process_1, "-a", "sh", "-c", f"exec {self._client()} 0"]
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_until(self, what: str, seconds: float, condition: Callable[[], bool], unit: str = POLICY) -> float:
        """How long it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"{what}: {self.state(unit)}\n{self.journal(unit)[-3000:]}"
            time.sleep(0.1)
        return time.monotonic() - began

    def _client(self) -> str:
        return f"{self._sdk}/bin/python {APPARATUS}/ask_policy.py {ADDRESS}"


def make_bundle(folder: Path, number: int) -> Path:
    """A bundle with random weights, another one for each number."""
    inputs = {**bundle_inputs(folder / f"inputs{number}"), "source_sha256": f"{number:064x}"}
    write_bundle(folder / f"bundle{number}", **inputs)
    return folder / f"bundle{number}"
