"""One altered byte, anywhere in what was received, changes nothing of what a robot believes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from release_builders import received
from trust_cases import Robot, Workstation, copy_of
from tuf.api.metadata import Metadata

from pi0_edge.deploy.trust import rotate_key
from pi0_edge.errors import TrustError

pytestmark = pytest.mark.usefixtures("unsynced_files")

FILES = [
    "metadata/1.root.json",
    "metadata/2.root.json",
    "metadata/timestamp.json",
    "metadata/6.snapshot.json",
    "metadata/6.targets.json",
    "bundle/manifest.json",
]


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    made = Workstation(tmp_path_factory.mktemp("workstation"))
    rotate_key(made.trust.path, "release")
    made.release(5)
    return made


@pytest.fixture(scope="module")
def staged(workstation: Workstation) -> Path:
    return received(workstation.folder / "bundle-5", workstation.folder / "genuine")


def believes_the_same_or_refuses(robot: Robot, altered: Path, staged: Path, name: str) -> None:
    """What is signed is the same where the byte is in a signature that was not needed, or is now a capital letter."""
    try:
        found = robot.verify(altered)
    except TrustError:
        return
    assert found.release.sequence == 5
    assert name != "bundle/manifest.json"
    one, other = (Metadata.from_bytes((folder / name).read_bytes()) for folder in (altered, staged))
    assert one.signed_bytes == other.signed_bytes


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(FILES), known=st.booleans())
def test_no_altered_byte_is_believed(
    workstation: Workstation, staged: Path, data: st.DataObject, name: str, known: bool
) -> None:
    content = bytearray((staged / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1), "place")
    content[place] ^= data.draw(st.integers(1, 255), "bits")
    robot = workstation.robot("altered")
    if known:
        robot.verify(staged)
    with copy_of(staged, workstation.folder / "altered") as altered:
        (altered / name).write_bytes(content)
        believes_the_same_or_refuses(robot, altered, staged, name)
    assert robot.verify(staged).release.sequence == 5, "what was refused must not lock the robot out"
    shutil.rmtree(robot.tuf)


@settings(max_examples=25)
@given(name=st.sampled_from(FILES), content=st.binary(max_size=200) | st.sampled_from([b"[" * 60000, b'{"a":' * 20000]))
def test_any_other_content_is_refused(workstation: Workstation, staged: Path, name: str, content: bytes) -> None:
    robot = workstation.robot("replaced")
    with copy_of(staged, workstation.folder / "replaced") as replaced:
        (replaced / name).write_bytes(content)
        with pytest.raises(TrustError):
            robot.verify(replaced)
    assert robot.verify(staged).release.sequence == 5
    shutil.rmtree(robot.tuf)


@settings(max_examples=25)
@given(name=st.sampled_from(FILES), kept=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(workstation: Workstation, staged: Path, name: str, kept: float) -> None:
    robot = workstation.robot("truncated")
    with copy_of(staged, workstation.folder / "truncated") as truncated:
        content = (staged / name).read_bytes()
        (truncated / name).write_bytes(content[: int(kept * len(content))])
        with pytest.raises(TrustError):
            robot.verify(truncated)
    shutil.rmtree(robot.tuf)
