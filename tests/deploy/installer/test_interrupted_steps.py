"""An installer that fails or is killed at any step leaves a whole release, and the same command again goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flashed_disk import ROBOT, Signed, ask, flash, healthy_programs, provision, receive, robot_of, verify_disk
from release_builders import plain_bundle
from sdk_folders import small_sdk

from pi0_edge.deploy.installer.offer import known_files, verified_offer
from pi0_edge.deploy.installer.taking import take_release
from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import read_slots
from pi0_edge.deploy.transfer.release_files import find_release
from pi0_edge.deploy.trust import init_trust, sign_release
from pi0_edge.deploy.trust.statement import StatementOptions
from pi0_edge.errors import DeployError

pytestmark = pytest.mark.system

STEPS = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync", "fchmod", "fchown", "scandir")
"""Calls of the system, each of which may be the last or may fail."""


class Killed(BaseException):
    """The process ends: nobody handles it."""


class Steps:
    """Counts calls of the system, and lets one of them fail."""

    def __init__(self) -> None:
        self.count, self.failing, self.error = 0, -1, Killed

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.failing:
                raise self.error()
            return None if call.__name__ == "fsync" else call(*arguments, **options)

        return step

    @contextmanager
    def counted(self, failing: int = -1, error: Callable[[], BaseException] = Killed) -> Iterator[None]:
        self.count, self.failing, self.error = 0, failing, error
        with pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, self.wrap(getattr(os, name)))
            yield


def disk_is_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("workstation"))


@pytest.fixture(autouse=True)
def programs() -> Iterator[None]:
    with healthy_programs():
        yield


@pytest.fixture
def disk(signed: Signed, tmp_path: Path) -> Path:
    """Of a robot that runs release 1."""
    place = tmp_path / "disk"
    flash(provision(place, signed.root), signed.files[1])
    return place


def try_steps(disk: Path, work: Callable[[Path], object], look: Callable[[Path], object], every: int = 1) -> int:
    """Interrupts the work at its steps, in both ways; `look` gets each disk. Returns how many steps it has."""
    steps, spare = Steps(), disk.with_name("spare")
    shutil.copytree(disk, spare, symlinks=True)
    with steps.counted():
        work(disk)
    total = steps.count
    for failing in range(1, total + 1, every):
        for error in (Killed, disk_is_full):
            shutil.rmtree(disk)
            shutil.copytree(spare, disk, symlinks=True)  # in the same place: the slots have absolute paths
            with steps.counted(failing, error), suppress(Killed, DeployError, OSError):
                work(disk)
            try:
                look(disk)
            except Exception as found:
                raise AssertionError(
                    f"after step {failing} of {total} failed with {error.__name__}: {found}"
                ) from found
    return total


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flash_that_is_interrupted_at_any_step_goes_on(signed: Signed, disk: Path, every: int) -> None:
    def look(disk: Path) -> None:
        current = verify_disk(disk, signed, floor=1).current
        assert current is not None and current.sequence in (1, 2)
        with Steps().counted():
            assert flash(robot_of(disk), signed.files[2])["state"] == "committed"
            ask(robot_of(disk), "gc")
        slots = verify_disk(disk, signed, floor=2)
        assert slots.current is not None and slots.current.sequence == 2
        assert slots.previous is not None and slots.previous.sequence == 1
        assert not list(Layout(disk).incoming.iterdir())

    total = try_steps(disk, lambda disk: flash(robot_of(disk), signed.files[2]), look, every)
    assert total > 50


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_deletion_that_is_interrupted_at_any_step_goes_on(signed: Signed, disk: Path, every: int) -> None:
    for sequence in (2, 3):
        flash(robot_of(disk), signed.files[sequence])

    def look(disk: Path) -> None:
        verify_disk(disk, signed, floor=3)
        with Steps().counted():
            assert flash(robot_of(disk), signed.files[4])["state"] == "committed"
            ask(robot_of(disk), "gc")
        verify_disk(disk, signed, floor=4)
        assert {path.name for path in Layout(disk).releases.iterdir()} == {signed.id(3), signed.id(4)}

    assert try_steps(disk, lambda disk: ask(robot_of(disk), "gc"), look, every) > 10


def test_a_rollback_that_is_interrupted_at_any_step_goes_on(signed: Signed, disk: Path) -> None:
    flash(robot_of(disk), signed.files[2])

    def look(disk: Path) -> None:
        verify_disk(disk, signed, floor=2)
        ask(robot_of(disk), "rollback", reason="again")
        slots = read_slots(Layout(disk))
        assert slots.current is not None and slots.current.sequence == 1 and slots.is_bad(signed.id(2))

    assert try_steps(disk, lambda disk: ask(robot_of(disk), "rollback", reason="it drops cups"), look) > 3


def test_nothing_is_linked_from_what_is_being_deleted(signed: Signed, disk: Path) -> None:
    layout = Layout(disk)
    assert known_files(layout)
    layout.release(signed.id(1)).rename(layout.deleted(signed.id(1)))
    assert known_files(layout) == {}


def test_a_file_that_is_gone_or_of_another_size_is_sent_again(signed: Signed, disk: Path) -> None:
    bundle = Layout(disk).bundle(signed.id(1))
    whole = len(known_files(Layout(disk)))
    bundle.chmod(0o755)
    (bundle / "tokenizer.json").unlink()
    (bundle / "norm_stats.json").chmod(0o644)
    (bundle / "norm_stats.json").write_bytes(b"")
    assert len(known_files(Layout(disk))) == whole - 2


def test_an_installed_release_that_the_disk_damaged_is_sent_again(signed: Signed, disk: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pi0_edge.deploy.installer.installation.try_release", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            flash(robot_of(disk), signed.files[2])
    damaged = Layout(disk).bundle(signed.id(2)) / "norm_stats.json"
    damaged.chmod(0o644)
    damaged.write_bytes(b"stats ?")
    with pytest.raises(DeployError, match="is damaged on the disk"):
        flash(robot_of(disk), signed.files[2])
    assert "deleted" in [entry["event"] for entry in read_entries(Layout(disk))]
    assert flash(robot_of(disk), signed.files[2])["state"] == "committed"
    verify_disk(disk, signed, floor=2)


def test_a_received_file_of_the_right_size_and_another_content_is_sent_again(signed: Signed, disk: Path) -> None:
    robot, files = robot_of(disk), signed.files[2]
    receive(robot.layout, files, files.sizes)
    torn = robot.layout.staging / files.manifest_sha256 / "bundle/norm_stats.json"
    torn.write_bytes(bytes(torn.stat().st_size))
    offer = ask(robot, "offer", manifest_sha256=files.manifest_sha256)
    assert offer["lacking"].keys() == {"bundle/norm_stats.json"}
    assert flash(robot, files)["state"] == "committed"
    verify_disk(disk, signed, floor=2)


def test_a_damaged_wheel_is_refused_before_its_release_is_installed(tmp_path: Path) -> None:
    trust = init_trust(tmp_path / "trust")
    bundle = plain_bundle(tmp_path / "bundle", robot_name=ROBOT)
    sdk = small_sdk(tmp_path / "sdk")
    release = sign_release(bundle, 1, trust=trust.path, sdk_folder=sdk, options=StatementOptions(sdk=">=0.1"))
    robot, files = provision(tmp_path / "disk", trust.roots()[0]), find_release(bundle)
    receive(robot.layout, files, files.sizes)
    wheel = robot.layout.staging / files.manifest_sha256 / "sdk" / min(files.wheels)
    wheel.write_bytes(bytes(wheel.stat().st_size))
    with pytest.raises(DeployError, match="is not the wheel that the list names"):
        take_release(robot, verified_offer(robot, files.manifest_sha256))
    assert not robot.layout.release(release.id).exists()
    receive(robot.layout, files, files.first)
    offer = ask(robot, "offer", manifest_sha256=files.manifest_sha256, sdk=files.wheels)
    receive(robot.layout, files, offer["lacking"])
    take_release(robot, verified_offer(robot, files.manifest_sha256))
    receive(robot.layout, files, files.first)
    offer = ask(robot, "offer", manifest_sha256=files.manifest_sha256, sdk=files.wheels)
    assert offer["lacking"] == {}, "the installed release has its wheels already"
