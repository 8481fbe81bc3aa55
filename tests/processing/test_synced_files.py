"""What is written for later reaches the disk before its name does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pi0_edge.checkpoints.native import save_checkpoint
from pi0_edge.model import GemmaConfig, Pi0Config, VisionConfig
from pi0_edge.processing import Observation
from pi0_edge.processing.recordings import write_observation_archive
from pi0_edge.ptq.calibration_file import write_statistics
from pi0_edge.quant import ORIN
from pi0_edge.quant.scheme_files import save_scheme
from pi0_edge.synced_files import replace_synced, write_synced

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
