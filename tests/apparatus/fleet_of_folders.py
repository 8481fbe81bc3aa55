"""Robots that are folders of this machine, behind a program that stands in for ssh: a fleet without containers.

The workstation's side is all real: ansible, the sessions, rsync at both ends. What ssh and the installer do is played
here. A robot has one behaviour at a time, which a test writes to its file `plays`:

| plays     | what the robot does with a release                                                |
|-----------|-----------------------------------------------------------------------------------|
| good      | commits it                                                                        |
| slow      | commits it after `SLOW_S`                                                         |
| refuse    | refuses it before anything changes                                                |
| take back | tries it, takes it back and lists it as bad                                       |
| fall back | commits it, and takes it back after its state was asked for `LOOKS` times         |
| vanish    | commits it, and its link is lost before it has said so                            |
| off       | cannot be reached                                                                 |
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pi0_edge.deploy.release import Release

SLOW_S = 3.0
LOOKS = 2
REFUSAL = "latency: 90 % of 64 chunks took up to 180 ms, expected at most 100"
TAKEN_BACK = "trial: the policy server ended 3 times in 30 s"


class FolderFleet:
    """Robots that are folders.

    Attributes:
        folder: Of all of them.
        inventory: File of ansible with all of them.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Makes robots that never had a release."""
        self.folder, self.names = folder, tuple(names)
        for name in names:
            (folder / name / "staging").mkdir(parents=True)
            self.plays(name, "good")
            self.set_state(name, current=None, previous=None, bad=[], asked=0)
        self.inventory = folder / "robots.ini"
        self.inventory.write_text("[robots]\n" + "\n".join(names) + "\n")
        self.programs = folder / "bin"
        self.programs.mkdir()
        ssh = self.programs / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {shlex.quote(str(folder))} "$@"\n')
        ssh.chmod(0o755)

    def plays(self, name: str, behaviour: str) -> None:
        """What a robot does from now on."""
        (self.folder / name / "plays").write_text(behaviour)

    def state(self, name: str) -> dict[str, Any]:
        """What its disk says."""
        return json.loads((self.folder / name / "state.json").read_text())

    def set_state(self, name: str, **state: Any) -> None:
        _write(self.folder / name, state)

    def runs(self) -> dict[str, int | None]:
        """The sequence that each robot runs."""
        states = {name: self.state(name)["current"] for name in self.names}
        return {name: current and current["sequence"] for name, current in states.items()}

    def installations(self, name: str) -> int:
        """How often it was asked to install something."""
        file = self.folder / name / "installations"
        return len(file.read_text().splitlines()) if file.exists() else 0


def ssh(robots: Path, arguments: Sequence[str]) -> int:
    """What `pi0_edge.deploy.transfer.ssh` asks of ssh: to hold a connection, and to run a command over it."""
    socket = Path(arguments[arguments.index("-S") + 1])
    if "-M" in arguments:
        robot = robots / arguments[-1]
        if not robot.is_dir() or _plays(robot) == "off":
            sys.stderr.write(f"ssh: connect to host {arguments[-1]} port 22: No route to host\n")
            return 255
        (robot / "master").write_text(str(os.getpid()))
        partial = socket.with_suffix(".partial")
        partial.write_text(arguments[-1])
        partial.rename(socket)
        signal.pause()
        return 255
    robot = robots / socket.read_text()
    command = arguments[arguments.index("robot") + 1 :]
    if command[0] == "rsync":
        environment = {**os.environ, "SSH_ORIGINAL_COMMAND": " ".join(command)}
        os.execvpe("rrsync", ["rrsync", "-wo", str(robot / "staging")], environment)
    return _installer(robot)


def _installer(robot: Path) -> int:
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer = _answer(robot, request)
        if answer is None:  # the link is lost: ssh on the workstation ends too
            os.kill(int((robot / "master").read_text()), signal.SIGTERM)
            time.sleep(0.2)
            return 255
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0


def _answer(robot: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    state = json.loads((robot / "state.json").read_text())
    if request["verb"] == "status":
        if _plays(robot) == "fall back" and state["current"] is not None:
            state["asked"] += 1
            if state["asked"] > LOOKS:
                bad = [*state["bad"], {"release": state["current"]["release"], "reason": TAKEN_BACK}]
                state = {**state, "current": state["previous"], "previous": None, "bad": bad, "asked": 0}
            _write(robot, state)
        shown = {"trial": None, "service": "active", "service_reason": "", "temperatures": {"tj": 47.5}}
        return {"result": {**state, **shown}}
    staged = robot / "staging" / request["manifest_sha256"]
    if request["verb"] == "offer":
        return {"result": {"state": "receive", "lacking": _lacking(staged)}}
    with (robot / "installations").open("a") as file:
        file.write(f"{time.time()}\n")
    return _install(robot, state, staged)


def _install(robot: Path, state: dict[str, Any], staged: Path) -> dict[str, Any] | None:
    assert _lacking(staged) == {}
    (targets,) = (staged / "metadata").glob("*.targets.json")
    statement = Release.from_dict(json.loads(targets.read_text())["signed"]["targets"]["manifest.json"]["custom"])
    release = {"release": statement.id, "sequence": statement.sequence}
    plays = _plays(robot)
    if plays == "refuse":
        return {"error": REFUSAL}
    if plays == "take back":
        _write(robot, {**state, "bad": [*state["bad"], {"release": release["release"], "reason": TAKEN_BACK}]})
        return {"error": f"the release was taken back: {TAKEN_BACK}"}
    time.sleep(SLOW_S if plays == "slow" else 0)
    _write(robot, {**state, "current": release, "previous": state["current"], "asked": 0})
    return None if plays == "vanish" else {"result": {"state": "committed", "release": release["release"]}}


def _lacking(staged: Path) -> dict[str, int]:
    lacking = {}
    for name, record in json.loads((staged / "bundle" / "manifest.json").read_text())["files"].items():
        file = staged / "bundle" / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != record["sha256"]:
            lacking[f"bundle/{name}"] = record["size"]
    return lacking


def _plays(robot: Path) -> str:
    return (robot / "plays").read_text()


def _write(robot: Path, state: Mapping[str, Any]) -> None:
    partial = robot / "state.partial"
    partial.write_text(json.dumps(state))
    partial.rename(robot / "state.json")


if __name__ == "__main__":
    raise SystemExit(ssh(Path(sys.argv[1]), sys.argv[2:]))
