"""The disk of a robot, and releases that are flashed to it by the installer itself: for power cuts at any moment.

The steps, their order and their files are those of a robot: `Conversation` answers the requests of a workstation. What
it has no use for here only says that all is well: services, and the programs of an SDK environment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from release_builders import plain_bundle
from unit_record import UnitRecord
from unsigned_releases import shards

from pi0_edge.deploy.installer import installation, self_test
from pi0_edge.deploy.installer.conversation import Conversation
from pi0_edge.deploy.installer.environments import COMPLETE, is_complete
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.launch import command_line
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings, read_settings
from pi0_edge.deploy.launcher.slots import Slots, read_slots, read_trial
from pi0_edge.deploy.release import SDK_FOLDER, STATEMENT, Release
from pi0_edge.deploy.session import send
from pi0_edge.deploy.transfer.release_files import ReleaseFiles, find_release
from pi0_edge.deploy.trust import init_trust, sign_release, trust_root
from pi0_edge.deploy.trust.statement import StatementOptions
from pi0_edge.errors import DeployError

ROBOT = "so101"
OF_ALL, OF_FEW, OF_ONE = 40_000, 30_000, 70_000
"""Bytes of the weights that all releases have, those that only 1 and 4 have in common, and those of each one alone."""
FORGOTTEN = "0123456789abcdef"
"""SDK environment that no slot names."""


class Signed:
    """Releases of one trust folder, with the sequences 1 to 4.

    Attributes:
        root: What a robot is provisioned with.
        releases: By sequence, the statement.
        files: By sequence, what a workstation sends.
    """

    def __init__(self, folder: Path) -> None:
        trust = init_trust(folder / "trust")
        self.root = trust.roots()[0]
        self.releases: dict[int, Release] = {}
        self.files: dict[int, ReleaseFiles] = {}
        for sequence in range(1, 5):
            of_all, of_few = shards(OF_ALL), shards(0, OF_FEW, seed=sequence % 3)
            weights = {**shards(0, 0, OF_ONE, seed=-sequence), **of_few, **of_all}
            bundle = folder / f"bundle-{sequence}"
            plain_bundle(bundle, f"stats {sequence}", robot_name=ROBOT, weights=weights)
            options = StatementOptions(sdk=">=0.1")
            self.releases[sequence] = sign_release(bundle, sequence, trust=trust.path, options=options)
            self.files[sequence] = find_release(bundle)

    def id(self, sequence: int) -> str:
        return self.releases[sequence].id


@contextmanager
def healthy_programs() -> Iterator[None]:
    """The programs of every SDK environment say that all is well."""

    def healthy(environment: str, arguments: Iterable[str], *, limit_s: float) -> dict[str, Any]:
        return {"passed": True, "checks": [], "findings": [], "latency_ms": {"n": 1}}

    with pytest.MonkeyPatch.context() as patch:
        for module in (installation, self_test):
            patch.setattr(module, "run_in_environment", healthy)
        yield


def provision(disk: Path, root: bytes) -> Robot:
    """What `pi0-edge robot provision` leaves on a robot without a release."""
    layout = Layout(disk)
    for folder in (layout.releases, layout.incoming, layout.staging, layout.environments, layout.settings.parent):
        folder.mkdir(parents=True)
    system = layout.environments / "of-the-system"
    write_environment(system)
    settings = RobotSettings(name="cell-1", robot=ROBOT, hardware="box", environment=str(system), trial_s=0.0)
    layout.settings.write_bytes(settings.to_bytes())
    trust_root(layout.trusted_metadata, root)
    return robot_of(disk)


def write_environment(folder: Path) -> None:
    """What looks like a complete SDK environment."""
    packages = folder / "lib/python3.11/site-packages/pi0_edge-0.1.0.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: pi0-edge\nVersion: 0.1.0\n")
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text("#!/bin/sh\n")
    (folder / COMPLETE).write_text(json.dumps({"version": "0.1.0", "completed_at": 1.0}))


def robot_of(disk: Path) -> Robot:
    layout = Layout(disk)
    return Robot(layout, read_settings(layout), UnitRecord(active="active", result="success"))


def boot(disk: Path) -> Robot:
    """A robot after the power came back: what stands in /run is gone."""
    shutil.rmtree(Layout(disk).runtime, ignore_errors=True)
    return robot_of(disk)


def ask(robot: Robot, verb: str, **fields: Any) -> dict[str, Any]:
    """What the installer answers to one request.

    Raises:
        DeployError: If it refuses.
    """
    requests, answers = io.BytesIO(), io.BytesIO()
    send(requests, {"verb": verb, **fields})
    requests.seek(0)
    Conversation(robot, requests, answers).serve()
    answer = json.loads(answers.getvalue().splitlines()[-1])
    if "error" in answer:
        raise DeployError(answer["error"])
    return answer["result"]


def flash(robot: Robot, files: ReleaseFiles, commit: bool = True) -> dict[str, Any]:
    """Sends a release and has it installed, as `pi0-edge flash` does."""
    receive(robot.layout, files, files.first)
    offer = ask(robot, "offer", manifest_sha256=files.manifest_sha256, sdk=files.wheels)
    if offer["state"] == "committed" or (offer["state"] == "trial" and not commit):
        return offer
    receive(robot.layout, files, offer["lacking"])
    return ask(robot, "install", manifest_sha256=files.manifest_sha256, budget_ms=None, commit=commit)


def receive(layout: Layout, files: ReleaseFiles, names: Iterable[str]) -> None:
    """As `rsync --inplace --fsync` does it: into the file itself, block by block, and no folder is synchronized."""
    for source, group, below in files.groups(names):
        for name in group:
            place = layout.staging / below / name
            place.parent.mkdir(parents=True, exist_ok=True)
            content = (source / name).read_bytes()
            with os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
                for begin in range(0, len(content), 32768):
                    file.write(content[begin : begin + 32768])
                file.truncate()
                os.fsync(file.fileno())


def verify_disk(disk: Path, signed: Signed, floor: int) -> Slots:
    """What must hold after every power cut, whatever was under way.

    Args:
        disk: Of the robot, before anything on it was repaired.
        signed: All that was ever flashed to it.
        floor: That its slots had before.

    Returns:
        Its slots.

    Raises:
        AssertionError: If the robot would start what is not whole, believes too much, or cannot tell what happened.
        DeployError: If the robot cannot read its own state.
    """
    layout = Layout(disk)
    slots = read_slots(layout)
    by_id = {release.id: release for release in signed.releases.values()}
    whole = {path.name for path in layout.releases.iterdir() if not path.name.startswith(".")}
    for name in whole:
        release = by_id[name]
        _verify_release(layout.release(name), release, signed.files[release.sequence])
    for slot in (slots.current, slots.previous):
        if slot is not None:
            assert slot.release in whole, f"{slot.release} is in the slots and not on the disk"
            assert slots.is_bad(slot.release) is None, f"{slot.release} is in the slots and bad"
            assert is_complete(Path(slot.environment)), f"{slot.environment} is in the slots and not complete"
            assert slot.sequence == by_id[slot.release].sequence <= slots.sequence_floor
    assert slots.sequence_floor >= floor, f"the floor sank from {floor} to {slots.sequence_floor}"
    runs = read_trial(layout) or slots.current
    if runs is not None:
        command = command_line("policy", layout)
        assert command[0] == f"{runs.environment}/bin/python"
        assert str(layout.bundle(runs.release)) in command and runs.release in whole
    for environment in layout.environments.iterdir():
        if (environment / COMPLETE).exists():
            assert is_complete(environment) and json.loads((environment / COMPLETE).read_bytes())["version"] == "0.1.0"
            assert list(environment.glob("lib/*/*/*/METADATA")), f"{environment} counts and is not whole"
    for entry in read_entries(layout):
        assert entry.keys() == {"at", "event", "release", "sequence", "reason"} and entry["event"]
    return slots


def _verify_release(folder: Path, release: Release, files: ReleaseFiles) -> None:
    """Every byte of an installed release, by another way than the installer's own."""
    expected = {
        name: hashlib.sha256((source / inner).read_bytes()).hexdigest()
        for source, group, below in files.groups(files.sizes)
        for inner in group
        for name in [f"bundle/{inner}" if below.endswith("/bundle") else inner]
        if not name.startswith(f"{SDK_FOLDER}/")
    }
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STATEMENT
    }
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    assert not different, f"{folder.name} is torn: {', '.join(different)}"
    assert Release.from_dict(json.loads((folder / STATEMENT).read_bytes())) == release
