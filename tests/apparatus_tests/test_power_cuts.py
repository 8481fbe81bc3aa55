"""The recorder of power cuts finds what it must find, and leaves nothing mounted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from power_cuts import PREFIX, cut_states, why_no_recorder

from pi0_edge.synced_files import replace_synced, write_synced

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(why_no_recorder() is not None, reason=why_no_recorder() or ""),
]

OLD, NEW = b"old" * 20_000, b"new" * 20_000
FILES = range(4)


def install_old(root: Path) -> None:
    for name in ("release", "incoming"):
        (root / name).mkdir()
    for number in FILES:
        (root / "release" / str(number)).write_bytes(OLD)


def copy_and_rename(root: Path) -> None:
    """What `cp` and `mv` do: nothing is brought to the disk before it takes the place of what was there."""
    for number in FILES:
        (root / "incoming" / str(number)).write_bytes(NEW)
        (root / "incoming" / str(number)).rename(root / "release" / str(number))
    (root / "release").rename(root / "previous")
    (root / "incoming").rename(root / "release")
    time.sleep(1.2)  # a journal of the disk is written by then, the files are not


def write_one_synced(root: Path) -> None:
    write_synced(root / "incoming" / "0", NEW)
    replace_synced(root / "incoming" / "0", root / "release" / "0")


def old_or_new(root: Path) -> str:
    found = {(root / "release" / str(number)).read_bytes() for number in FILES}
    assert found in ({OLD}, {NEW}), "a release is torn"
    return "new" if found == {NEW} else "old"


def first_file(root: Path) -> str:
    return {OLD: "old", NEW: "new"}[(root / "release" / "0").read_bytes()]


def mounted_disks() -> list[str]:
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [line for line in [*Path("/proc/mounts").read_text().splitlines(), *loops] if PREFIX in line]


def test_a_naive_installer_is_torn() -> None:
    cuts = cut_states(install_old, copy_and_rename, old_or_new, states=60)
    assert cuts.torn
    assert len(cuts.torn) + cuts.good.total() == 60
    assert "cut after" in cuts.torn[0]


def test_a_synced_replacement_never_is_and_both_states_are_seen() -> None:
    cuts = cut_states(install_old, write_one_synced, first_file, states=100)
    assert cuts.torn == []
    assert cuts.good.keys() == {"old", "new"}
    assert cuts.flushes >= 3


def test_every_refused_state_is_reported_with_its_reason() -> None:
    def refuse(root: Path) -> str:
        raise AssertionError(f"{root.name} is refused")

    cuts = cut_states(install_old, write_one_synced, refuse, states=8)
    assert len(cuts.torn) == 8
    assert all(line.endswith("AssertionError: root is refused") for line in cuts.torn)
    assert not cuts.good


@pytest.mark.parametrize("step", ["prepare", "run"])
def test_nothing_stays_mounted_where_a_step_fails(step: str) -> None:
    def fail(root: Path) -> None:
        (root / "half").write_bytes(b"x")
        raise RuntimeError("the installer crashed")

    steps = {"prepare": install_old, "run": write_one_synced, step: fail}
    with pytest.raises(RuntimeError, match="crashed"):
        cut_states(steps["prepare"], steps["run"], first_file, states=2)
    assert mounted_disks() == []


def test_a_file_left_open_is_an_error_and_nothing_stays_mounted() -> None:
    held = []
    with pytest.raises(OSError, match="is still in use"):
        cut_states(lambda root: held.append((root / "open").open("wb")), write_one_synced, first_file, states=2)
    held[0].close()
    assert mounted_disks() == []
