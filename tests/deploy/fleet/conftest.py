"""Fleets of folders behind a program that stands in for ssh, and releases for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_of_folders import FolderFleet
from release_builders import shards, write_release

from pi0_edge.deploy.release import Release, release_folder


@pytest.fixture
def make_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FolderFleet]:
    """`make_fleet(count)`: robots robot-1, robot-2, …, which `ssh` of this process and its children reaches."""

    def make(count: int) -> FolderFleet:
        fleet = FolderFleet(tmp_path / "fleet", [f"robot-{number}" for number in range(1, count + 1)])
        monkeypatch.setenv("PATH", f"{fleet.programs}{os.pathsep}{os.environ['PATH']}")
        return fleet

    return make


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Path]:
    """`make_release(sequence)`: a bundle with a statement; nobody signed it, and these robots do not check that."""

    def make(sequence: int) -> Path:
        bundle = tmp_path / f"release-{sequence}"
        sha256 = write_release(bundle, shards(50_000, 20_000, seed=sequence))
        statement = Release(sha256, sequence, "aloha", ("any",), ">=0.1", None, 1.8e9)
        targets = {"signed": {"version": sequence, "targets": {"manifest.json": {"custom": statement.to_dict()}}}}
        (release_folder(bundle) / "metadata" / "targets.json").write_text(json.dumps(targets))
        return bundle

    return make
