"""What a robot does to its disk, as subjects of power cuts: each with what must hold when the power is back.

Sequences 1, 2, … are those of `Signed`. A subject's word says which release runs then, or how far the work had come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cut_subject import Subject
from flashed_disk import (
    FORGOTTEN,
    Signed,
    ask,
    boot,
    flash,
    provision,
    receive,
    robot_of,
    verify_disk,
    write_environment,
)
from unit_record import UnitRecord

from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.fallback import fall_back
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import Slots, read_slots, read_trial
from pi0_edge.errors import DeployError, TrustError


@contextmanager
def slow_deletions(disk: Path) -> Iterator[None]:
    """Every deletion is on the disk before the next: those of a whole policy take longer than its journal waits."""
    unlink = os.unlink

    def slowly(*place: Any, **options: Any) -> None:
        unlink(*place, **options)
        handle = os.open(disk, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", slowly)
        yield


def flash_subjects(signed: Signed) -> list[Subject]:
    """All that a robot does to its disk.

    Args:
        signed: The releases that it gets.
    """
    return [_first(signed), _install(signed), _commit(signed), _roll_back(signed), _fall_back(signed), _garbage(signed)]


def _first(signed: Signed) -> Subject:
    def check(disk: Path) -> str:
        return _runs(_booted(disk, signed, floor=0), {0, 1})

    return Subject(
        "flash: the first release of a robot",
        lambda disk: provision(disk, signed.root),
        lambda disk: flash(robot_of(disk), signed.files[1]),
        check,
        lambda disk: _flash_again(disk, signed, 1, refused=None),
        frozenset({"none runs", "1 runs"}),
    )


def _install(signed: Signed) -> Subject:
    def check(disk: Path) -> str:
        _runs(_booted(disk, signed, floor=2), {2})
        if Layout(disk).release(signed.id(3)).exists():
            return "installed"
        return "received" if any(Layout(disk).incoming.iterdir()) else "not installed"

    return Subject(
        "install: the next release, up to its trial",
        lambda disk: _robot_with(disk, signed, 1, 2),
        lambda disk: flash(robot_of(disk), signed.files[3], commit=False),
        check,
        lambda disk: _flash_again(disk, signed, 3, refused=2),
        frozenset({"not installed", "received", "installed"}),
    )


def _commit(signed: Signed) -> Subject:
    def prepare(disk: Path) -> None:
        _robot_with(disk, signed, 1, 2)
        flash(robot_of(disk), signed.files[3], commit=False)

    return Subject(
        "commit: what is on trial",
        prepare,
        lambda disk: ask(robot_of(disk), "commit"),
        lambda disk: _runs(_booted(disk, signed, floor=2), {2, 3}),
        lambda disk: _flash_again(disk, signed, 3, refused=2),
        frozenset({"2 runs", "3 runs"}),
    )


def _roll_back(signed: Signed) -> Subject:
    def go_on(disk: Path) -> None:
        ask(robot_of(disk), "rollback", reason="again")
        slots = verify_disk(disk, signed, floor=2)
        assert _runs(slots, {1}) and slots.is_bad(signed.id(2))
        _refused(disk, signed, 2)
        _flash_again(disk, signed, 3, refused=2)

    return Subject(
        "rollback: by a person",
        lambda disk: _robot_with(disk, signed, 1, 2),
        lambda disk: ask(robot_of(disk), "rollback", reason="it drops cups"),
        lambda disk: _runs(_booted(disk, signed, floor=2), {1, 2}),
        go_on,
        frozenset({"1 runs", "2 runs"}),
    )


def _fall_back(signed: Signed) -> Subject:
    def check(disk: Path) -> str:
        slots = _booted(disk, signed, floor=2)
        assert (slots.previous is None) == (slots.is_bad(signed.id(2)) is not None)
        return _runs(slots, {1, 2})

    return Subject(
        "taken back: a release that fails in service",
        lambda disk: _robot_with(disk, signed, 1, 2),
        lambda disk: fall_back(Layout(disk), UnitRecord()),
        check,
        lambda disk: _flash_again(disk, signed, 3, refused=1),
        frozenset({"1 runs", "2 runs"}),
    )


def _garbage(signed: Signed) -> Subject:
    def prepare(disk: Path) -> None:
        robot = _robot_with(disk, signed, 1, 2, 3)
        receive(robot.layout, signed.files[4], signed.files[4].first)
        (robot.layout.incoming / "half").mkdir()
        (robot.layout.incoming / "half/weights").write_bytes(bytes(9000))
        write_environment(robot.layout.environments / FORGOTTEN)

    def run(disk: Path) -> None:
        with slow_deletions(disk):
            ask(robot_of(disk), "gc")

    def check(disk: Path) -> str:
        _runs(_booted(disk, signed, floor=3), {3})
        layout = Layout(disk)
        if layout.release(signed.id(1)).exists():
            return "not deleted"
        hidden = any(path.name.startswith(".") for path in layout.releases.iterdir())
        done = not hidden and not (layout.environments / FORGOTTEN).exists()
        return "deleted" if done else "half-deleted"

    def go_on(disk: Path) -> None:
        _flash_again(disk, signed, 4, refused=3)
        layout = Layout(disk)
        ask(robot_of(disk), "gc")
        verify_disk(disk, signed, floor=4)
        assert {path.name for path in layout.releases.iterdir()} == {signed.id(3), signed.id(4)}
        assert not list(layout.incoming.iterdir())
        assert {path.name for path in layout.staging.iterdir()} <= {layout.basis.name}
        assert not (layout.environments / FORGOTTEN).exists()

    return Subject(
        "gc: releases, environments and leftovers",
        prepare,
        run,
        check,
        go_on,
        frozenset({"not deleted", "half-deleted", "deleted"}),
    )


def _robot_with(disk: Path, signed: Signed, *sequences: int) -> Robot:
    robot = provision(disk, signed.root)
    for sequence in sequences:
        flash(robot, signed.files[sequence])
    return robot


def _booted(disk: Path, signed: Signed, floor: int) -> Slots:
    robot = boot(disk)
    assert read_trial(robot.layout) is None
    return verify_disk(disk, signed, floor)


def _runs(slots: Slots, allowed: set[int]) -> str:
    """Which release runs; 0 is none."""
    sequence = 0 if slots.current is None else slots.current.sequence
    assert sequence in allowed, f"{sequence} runs, expected one of {allowed}"
    return f"{sequence or 'none'} runs"


def _flash_again(disk: Path, signed: Signed, sequence: int, refused: int | None) -> None:
    """The same command again ends committed; an older release is refused before and after, as far as it was before."""
    if refused is not None:
        _refused(disk, signed, 1)
    robot = robot_of(disk)
    assert flash(robot, signed.files[sequence])["state"] == "committed"
    assert _runs(verify_disk(disk, signed, floor=sequence), {sequence})
    if refused is not None:
        _refused(disk, signed, refused)
    assert read_slots(robot.layout).sequence_floor == sequence


def _refused(disk: Path, signed: Signed, sequence: int) -> None:
    before = read_slots(Layout(disk))
    if before.current is not None and before.current.sequence == sequence:
        return
    try:
        flash(robot_of(disk), signed.files[sequence])
    except (DeployError, TrustError):
        assert read_slots(Layout(disk)) == before
        return
    raise AssertionError(f"the older release {sequence} was taken")
