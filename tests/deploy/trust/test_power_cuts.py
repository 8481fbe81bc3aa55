"""The power goes while a release is verified, signed or its keys are replaced: nothing is torn, and all goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from power_cuts import cut_states, why_no_recorder
from release_builders import received
from trust_cases import Robot, Workstation

from pi0_edge.deploy.release import release_folder
from pi0_edge.deploy.trust import TrustFolder, read_release, rotate_key, sign_release, verify_release
from pi0_edge.errors import TrustError

pytestmark = pytest.mark.slow

STATES = 150


@pytest.fixture(autouse=True)
def recorder() -> Iterator[None]:
    if reason := why_no_recorder():
        pytest.skip(reason)
    yield


def test_a_robot_that_verifies(tmp_path: Path) -> None:
    workstation = Workstation(tmp_path)
    first = workstation.release(1)
    root = workstation.trust.roots()[0]
    rotate_key(workstation.trust.path, "release")
    second, third = workstation.release(2), workstation.release(3)

    def check(disk: Path) -> str:
        tuf = disk / "tuf"
        followed = (tuf / "root_history/2.root.json").exists()
        try:
            verify_release(first, tuf, sequence_floor=1, committed_at=0)
            old = "the old release, again"
        except TrustError as error:
            assert "signed by another key" in str(error) and followed
            old = "the new one only"
        for staged in (second, third):
            verify_release(staged, tuf, sequence_floor=1, committed_at=0)
        with pytest.raises(TrustError, match="older than what this robot has had"):
            verify_release(second, tuf, sequence_floor=1, committed_at=0)
        return old

    cuts = cut_states(
        lambda disk: Robot(disk / "tuf", root).install(first),
        lambda disk: verify_release(second, disk / "tuf", sequence_floor=1, committed_at=0),
        check,
        STATES,
    )
    assert not cuts.torn
    assert cuts.good.keys() == {"the old release, again", "the new one only"}


def test_a_workstation_that_signs_and_replaces_a_key(tmp_path: Path) -> None:
    def prepare(disk: Path) -> None:
        Workstation(disk).release(1, "cups")

    def run(disk: Path) -> None:
        sign_release(disk / "cups", 2, trust=disk / "trust")
        rotate_key(disk / "trust", "release")
        sign_release(disk / "cups", 3, trust=disk / "trust")

    def check(disk: Path) -> str:
        trust = TrustFolder(disk / "trust")
        sequence, version = read_release(disk / "cups", trust.roots()[0]).release.sequence, len(trust.roots())
        shutil.rmtree(tmp_path / "tuf", ignore_errors=True)
        robot = Robot(tmp_path / "tuf", trust.roots()[0])
        robot.install(received(disk / "cups", tmp_path / "staged"))
        sign_release(disk / "cups", 4, trust=trust.path)
        assert rotate_key(trust.path, "release") == version + 1
        sign_release(disk / "cups", 5, trust=trust.path)
        robot.install(received(disk / "cups", tmp_path / "staged"))
        assert {path.name for path in release_folder(disk / "cups").iterdir()} == {"metadata"}
        return f"sequence {sequence}, root {version}"

    cuts = cut_states(prepare, run, check, STATES)
    assert not cuts.torn
    assert {"sequence 1, root 1", "sequence 2, root 1", "sequence 2, root 2"} <= cuts.good.keys()
