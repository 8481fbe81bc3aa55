"""What a roll-out passes to the processes of its playbook, and what it hears from them: files in one folder.

plan.json      what is rolled out, and how
ssh_config     how ssh reaches the robots by name
robots.yaml    the robots of this roll-out, for ansible
events.jsonl   one line for everything that happens, from every process, in the order in which it happened
stop           is there once a robot refused the release or took it back: no other one begins
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.deploy.fleet.report import Outcome, RobotOutcome


@dataclass(frozen=True)
class Plan:
    """What is rolled out, and how.

    Attributes:
        folder: Of the files.
        bundle: Of the release; its statement lies beside it.
        release: Its ID.
        budget_ms: Longest time that a chunk may take; None takes the robot's own.
        deadline_s: After so long, a robot that cannot be reached any more is left.
        soak_minutes: How long the robots of a stage are watched before the next one begins.
        key: Private key; None takes those that a single robot would be flashed with.
        bwlimit_kbps: Most that is sent to one robot in a second, in units of 1024 bytes.
    """

    folder: Path
    bundle: Path
    release: str
    budget_ms: float | None
    deadline_s: float
    soak_minutes: float
    key: Path | None = None
    bwlimit_kbps: int | None = None

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`."""
        return self.folder / "ssh_config"

    @property
    def robots(self) -> Path:
        """The inventory of the playbook."""
        return self.folder / "robots.yaml"

    @property
    def events(self) -> Path:
        """What happened."""
        return self.folder / "events.jsonl"

    @property
    def stop(self) -> Path:
        """Is there once no other robot may begin."""
        return self.folder / "stop"

    def write(self, robots: Sequence[str]) -> None:
        """Writes the files for the playbook."""
        key = None if self.key is None else str(self.key.absolute())
        plain = {**dataclasses.asdict(self), "folder": None, "bundle": str(self.bundle.absolute()), "key": key}
        (self.folder / "plan.json").write_text(json.dumps(plain))
        self.robots.write_text(json.dumps({"all": {"hosts": {robot: {} for robot in robots}}}))
        self.events.touch()

    def tell(self, event: str, **fields: Any) -> None:
        """Adds what happened; of several processes, each line stays whole."""
        line = json.dumps({"event": event, **fields}).encode() + b"\n"
        handle = os.open(self.events, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def tell_outcome(self, found: RobotOutcome) -> None:
        """Adds what became of a robot, and stops the roll-out where that has to be."""
        if found.outcome.stops:
            self.stop.touch()
        self.tell("outcome", **dataclasses.asdict(found))


def read_plan(folder: Path) -> Plan:
    """The plan that `Plan.write` wrote."""
    plain = json.loads((folder / "plan.json").read_text())
    key = None if plain["key"] is None else Path(plain["key"])
    return Plan(**{**plain, "folder": folder, "bundle": Path(plain["bundle"]), "key": key})


def read_outcome(event: dict[str, Any]) -> RobotOutcome:
    """The outcome in a line of the events."""
    plain = {name: value for name, value in event.items() if name != "event"}
    return RobotOutcome(**{**plain, "outcome": Outcome(plain["outcome"])})


def read_events(plan: Plan) -> list[dict[str, Any]]:
    """Everything that happened so far."""
    return [json.loads(line) for line in plan.events.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
