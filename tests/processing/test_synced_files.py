"""What is written for later reaches the disk before its name does."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from power_cuts import cut_states, why_no_recorder

from pi0_edge.checkpoints.native import save_checkpoint
from pi0_edge.model import GemmaConfig, Pi0Config, VisionConfig
from pi0_edge.processing import Observation, save_norm_stats
from pi0_edge.processing.recordings import write_observation_archive
from pi0_edge.ptq.calibration_file import write_statistics
from pi0_edge.quant import ORIN
from pi0_edge.quant.scheme_files import save_scheme
from pi0_edge.synced_files import (
    create_synced,
    exchange_synced,
    make_folder_synced,
    replace_synced,
    save_synced,
    sync_tree,
    write_synced,
)

pytestmark = pytest.mark.real_time
recorded = pytest.mark.skipif(why_no_recorder() is not None, reason=why_no_recorder() or "")
OLD, NEW = b"old" * 3000, b"new" * 4000

GEMMA = GemmaConfig(width=8, depth=1, mlp_dim=8, heads=1, kv_heads=1, head_dim=8)
CONFIG = Pi0Config("pi0", VisionConfig(8, 1, 8, 1, patch_size=14, image_size=28), GEMMA, GEMMA, 16)
STATE = [0.0] * 3


@pytest.fixture
def disk(monkeypatch) -> list[tuple[str, str]]:
    """Every fsync and every rename, in order, with the file's name."""
    happened: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def logged_sync(handle: int) -> None:
        happened.append(("sync", Path(f"/proc/self/fd/{handle}").resolve().name))
        sync(handle)

    def logged_replace(source, target) -> None:
        happened.append(("rename", Path(source).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_sync)
    monkeypatch.setattr(os, "replace", logged_replace)
    return happened


WRITERS = {
    "calibration": lambda folder: write_statistics(folder / "c.safetensors", {"a": torch.ones(2)}, {"kind": "x"}),
    "checkpoint": lambda folder: save_checkpoint(folder, {"a": torch.ones(2)}, CONFIG),
    "statistics": lambda folder: save_norm_stats(folder / "norm_stats.json", {"state": {"mean": [0.0]}}),
    "scheme": lambda folder: save_scheme(ORIN, folder / "mix.yaml"),
    "recording": lambda folder: write_observation_archive(folder / "o.npz", Observation({}, STATE), 1, 1),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_content_is_synchronized_before_the_rename_and_the_folder_after_it(writer, disk, tmp_path):
    WRITERS[writer](tmp_path)
    kinds = [kind for kind, _ in disk]
    place = kinds.index("rename")
    assert ("sync", disk[place][1]) in disk[:place]
    assert ("sync", tmp_path.name) in disk[place:]


def test_a_power_cut_before_the_rename_leaves_the_old_file(monkeypatch, tmp_path):
    path, temporary = tmp_path / "file", tmp_path / "file.tmp"
    path.write_bytes(b"old")
    write_synced(temporary, b"new")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("the power is gone")))
    with pytest.raises(OSError, match="power"):
        replace_synced(temporary, path)
    assert path.read_bytes() == b"old"


def state_of(path: Path) -> str:
    return {OLD: "old", NEW: "new"}[path.read_bytes()] if path.exists() else "absent"


STEPS = {
    "a file is replaced": ("old", lambda root: save_synced(root / "file", NEW), {"old", "new"}),
    "a file is created": ("absent", lambda root: create_synced(root / "file", NEW, 0o600), {"absent", "new"}),
}


@recorded
@pytest.mark.parametrize("step", STEPS)
def test_every_power_cut_leaves_the_old_or_the_new(step):
    before, run, expected = STEPS[step]
    prepare = (lambda root: (root / "file").write_bytes(OLD)) if before == "old" else (lambda root: None)
    cuts = cut_states(prepare, run, lambda root: state_of(root / "file"), states=60)
    assert cuts.torn == []
    assert cuts.good.keys() == expected


@recorded
def test_two_folders_change_places_in_every_power_cut_or_not_at_all():
    def prepare(root: Path) -> None:
        for name, content in (("current", OLD), ("next", NEW)):
            make_folder_synced(root / name / "below")
            (root / name / "below" / "file").write_bytes(content)

    def run(root: Path) -> None:
        sync_tree(root / "next")
        assert exchange_synced(root / "current", root / "next")
        shutil.rmtree(root / "next")

    cuts = cut_states(prepare, run, lambda root: state_of(root / "current" / "below" / "file"), states=60)
    assert cuts.torn == []
    assert cuts.good.keys() == {"old", "new"}


def test_an_exchange_with_nothing_is_an_error_and_one_that_is_not_to_be_had_says_so(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange_synced(tmp_path / "one", tmp_path / "two")

    def refused(*_: object) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    monkeypatch.setattr("pi0_edge.synced_files._renameat2", refused)
    (tmp_path / "two").mkdir()
    assert exchange_synced(tmp_path / "one", tmp_path / "two") is False


@pytest.mark.parametrize("links", [True, False])
def test_a_created_file_is_private_from_its_first_byte_and_replaces_nothing(links, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    (tmp_path / ".key.tmp").write_bytes(b"left by an interrupted write")
    create_synced(tmp_path / "key", NEW, 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_synced(tmp_path / "key", OLD)
    assert state_of(tmp_path / "key") == "new"
    assert os.listdir(tmp_path) == ["key"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_bytes(OLD)
    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: save_synced(tmp_path / "file", NEW), lambda: create_synced(tmp_path / "other", NEW)):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert os.listdir(tmp_path) == ["file"]
    assert state_of(tmp_path / "file") == "old"


def test_a_new_folder_is_named_on_the_disk_at_every_level(disk, tmp_path):
    make_folder_synced(tmp_path / "a" / "b")
    assert {name for _, name in disk} == {tmp_path.name, "a"}
