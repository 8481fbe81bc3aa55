"""A bundle that is written, replaced or signed survives a power cut at any moment as the old or as the new."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_builders import small_inputs
from cut_bundles import bundle_subjects, place, which, write_new, write_old
from power_cuts import cut_states, why_no_recorder

from pi0_edge import synced_files
from pi0_edge.bundle import open_bundle, sign_bundle, write_key_pair
from pi0_edge.bundle.writing import _appearing

pytestmark = pytest.mark.real_time
recorded = pytest.mark.skipif(why_no_recorder() is not None, reason=why_no_recorder() or "")
MANY = pytest.param(400, marks=pytest.mark.slow)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    write_key_pair(folder / "private.pem", folder / "public.pem")
    return folder / "private.pem", folder / "public.pem"


@recorded
@pytest.mark.parametrize("states", [60, MANY])
@pytest.mark.parametrize("number", range(3), ids=["new", "replaced", "signed"])
def test_a_bundle_is_whole_as_it_was_or_as_it_will_be(
    inputs: dict[str, Any], keys: tuple[Path, Path], number: int, states: int
) -> None:
    subject = bundle_subjects(inputs, keys[0])[number]
    cuts = subject.cut(states, go_on_every=10)
    assert cuts.torn == []
    assert cuts.good.keys() == subject.words


@recorded
def test_the_next_write_removes_what_the_cut_left(inputs: dict[str, Any]) -> None:
    def written_again(root: Path) -> str:
        left = len(list(place(root).parent.glob(".*"))) if place(root).parent.exists() else 0
        write_new(inputs)(root)
        assert [path.name for path in place(root).parent.iterdir()] == ["towel"]
        return "leftovers" if left else "clean"

    cuts = cut_states(write_old(inputs), write_new(inputs), written_again, states=30)
    assert cuts.torn == []
    assert cuts.good["leftovers"]


@recorded
def test_without_an_exchange_of_folders_a_whole_bundle_is_always_left(
    inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def whole(root: Path) -> str:
        hidden = [path for path in place(root).parent.iterdir() if ".before-" in path.name]
        if place(root).exists():
            return which(root)
        assert open_bundle(hidden[0]).gate == "passed"
        write_new(inputs)(root)
        assert [path.name for path in place(root).parent.iterdir()] == ["towel"]
        return "beside"

    monkeypatch.setattr(synced_files, "_renameat2", refused)
    cuts = cut_states(write_old(inputs), write_new(inputs), whole, states=60)
    assert cuts.torn == []
    assert {"old", "new"} <= cuts.good.keys()


def test_leftovers_are_removed_and_neighbours_stay(inputs: dict[str, Any], tmp_path: Path) -> None:
    left = [".towel.partial-0123abcd", ".towel.before-89abcdef"]
    stay = [".towel.before-lunch", ".towels.partial-0123abcd", "towel.partial-0123abcd", ".towel.partial-0123abcd.txt"]
    for name in (*left, *stay):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / "manifest.json").write_text("{}")
    write_old(inputs)(tmp_path)
    assert sorted(path.name for path in place(tmp_path).parent.iterdir()) == sorted(["towel", *stay])


def test_what_another_process_is_writing_is_no_leftover(inputs: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "bundles" / ".towel.partial-0123abcd"
    other.mkdir(parents=True)
    held = os.open(other, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    write_old(inputs)(tmp_path)
    assert other.exists()
    os.close(held)
    write_new(inputs)(tmp_path)
    assert not other.exists()


def test_a_replaced_bundle_is_not_removed_before_the_new_one_is_in_its_place(
    inputs: dict[str, Any], tmp_path: Path
) -> None:
    write_old(inputs)(tmp_path)
    with pytest.raises(RuntimeError), _appearing(place(tmp_path), replace=True):
        raise RuntimeError
    assert which(tmp_path) == "old"
    assert [path.name for path in place(tmp_path).parent.iterdir()] == ["towel"]


def test_signing_through_a_link_signs_what_it_points_to(
    inputs: dict[str, Any], keys: tuple[Path, Path], tmp_path: Path
) -> None:
    write_old(inputs)(tmp_path)
    place(tmp_path).chmod(0o750)
    (tmp_path / "current").symlink_to(place(tmp_path))
    sign_bundle(tmp_path / "current", keys[0])
    open_bundle(place(tmp_path), public_key=keys[1])
    assert (tmp_path / "current").is_symlink()
    assert place(tmp_path).stat().st_mode & 0o777 == 0o750
