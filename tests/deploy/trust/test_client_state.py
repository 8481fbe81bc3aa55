"""The robot's own TUF files: lost, torn or half replaced, they let new releases in and keep old ones out."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trust_cases import Robot, Workstation

from pi0_edge import synced_files
from pi0_edge.deploy.trust import rotate_key
from pi0_edge.errors import TrustError

pytestmark = pytest.mark.usefixtures("unsynced_files")

FILES = ["root_history/1.root.json", "root_history/2.root.json", "timestamp.json", "snapshot.json", "targets.json"]
STATES = ["old", "new", "missing", "empty", "torn", "zeroes"]


class Story:
    """Two releases with a rotation of the release key between them, and the client's folder after each."""

    def __init__(self, folder: Path) -> None:
        self.workstation = Workstation(folder)
        robot = self.workstation.robot()
        self.first = self.workstation.release(1)
        robot.install(self.first)
        self.before = shutil.copytree(robot.tuf, folder / "before")
        rotate_key(self.workstation.trust.path, "release")
        self.second = self.workstation.release(2)
        robot.install(self.second)
        self.after = shutil.copytree(robot.tuf, folder / "after")
        self.third = self.workstation.release(3)

    def robot(self, name: str, base: Path, floor: int) -> Robot:
        """With a client's folder that is a copy of `base`."""
        robot = self.workstation.robot(name)
        shutil.rmtree(robot.tuf)
        shutil.copytree(base, robot.tuf)
        robot.floor = floor
        return robot


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


def put(robot: Robot, story: Story, name: str, state: str) -> None:
    path, old, new = (folder / name for folder in (robot.tuf, story.before, story.after))
    path.unlink(missing_ok=True)
    content = new.read_bytes()
    if state == "old" and old.exists():
        shutil.copy(old, path)
    elif state in ("new", "empty", "torn", "zeroes"):
        half = len(content) // 2
        path.write_bytes({"new": content, "empty": b"", "torn": content[:half], "zeroes": bytes(half)}[state])


@settings(max_examples=40)
@given(states=st.fixed_dictionaries({name: st.sampled_from(STATES) for name in FILES}))
def test_whatever_a_power_cut_left_new_releases_come_in_and_old_ones_do_not(
    story: Story, states: dict[str, str]
) -> None:
    robot = story.robot("cut", story.after, floor=2)
    for name, state in states.items():
        put(robot, story, name, state)
    try:
        with pytest.raises(TrustError):
            robot.verify(story.first)
        assert robot.verify(story.second).release.sequence == 2
        assert robot.install(story.third).release.sequence == 3
        with pytest.raises(TrustError):
            robot.verify(story.second)
    finally:
        shutil.rmtree(robot.tuf)


def test_a_robot_that_lost_all_but_its_first_root_has_the_floor(story: Story) -> None:
    robot = story.robot("lost", story.after, floor=2)
    for path in [*robot.tuf.glob("*.json"), robot.tuf / "root_history"]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "provisioned.root.json":
            path.unlink()
    robot.refuses(story.first, "sequence 1 and is older than what this robot committed, 2")
    robot.install(story.second)


def test_without_the_floor_the_client_alone_refuses(story: Story) -> None:
    robot = story.robot("client", story.after, floor=0)
    robot.refuses(story.first, "signed by another key")
    robot.install(story.third)
    robot.floor = 0
    robot.refuses(story.second, "older than what this robot has had already")


def test_a_damaged_beginning_is_told(story: Story) -> None:
    robot = story.robot("damaged", story.after, floor=2)
    (robot.tuf / "provisioned.root.json").write_text("{}")
    robot.refuses(story.second, "provisioned with")


class PowerCutError(BaseException):
    """Nothing runs after it."""


@contextmanager
def power_cut_after(steps: int) -> Iterator[None]:
    """The power goes at the step before that many changes of the disk were made."""
    counted = itertools.count()
    patch = pytest.MonkeyPatch()

    def failing(original):
        def call(*arguments: object, **options: object) -> object:
            if next(counted) >= steps:
                raise PowerCutError
            return original(*arguments, **options)

        return call

    for name in ("write_synced", "replace_synced"):
        patch.setattr(synced_files, name, failing(getattr(synced_files, name)))
    try:
        yield
    finally:
        patch.undo()


def test_a_cut_at_every_step_of_keeping_the_new_state(story: Story) -> None:
    """The old release is refused from the first moment on, because its key was replaced."""
    steps = 0
    for steps in range(20):
        robot = story.robot("steps", story.before, floor=1)
        try:
            with power_cut_after(steps):
                robot.verify(story.second)
            break
        except PowerCutError:
            robot.refuses(story.workstation.folder / "nothing", "missing|cannot be read")
            assert robot.install(story.second).release.sequence == 2
            robot.refuses(story.first, "signed by another key")
            assert robot.install(story.third).release.sequence == 3
        finally:
            shutil.rmtree(robot.tuf)
    assert 8 <= steps < 20


def test_a_refused_release_leaves_no_trace(story: Story) -> None:
    robot = story.robot("trace", story.after, floor=2)
    before = {path: path.read_bytes() for path in robot.tuf.rglob("*.json")}
    manifest = story.third / "bundle/manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content + b" ")
    robot.refuses(story.third, "manifest.json is not the one that release")
    manifest.write_bytes(content)
    assert {path: path.read_bytes() for path in robot.tuf.rglob("*.json")} == before
    assert robot.verify(story.second)
