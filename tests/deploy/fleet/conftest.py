"""Fleets of folders behind a program that stands in for ssh, and releases for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_of_folders import FolderFleet
from release_builders import plain_bundle

from pi0_edge.deploy.trust import init_trust, sign_release


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
    """`make_release(sequence)`: a signed bundle without weights."""
    trust = tmp_path / "trust"

    def make(sequence: int, **options: Any) -> Path:
        init_trust(trust)
        bundle = plain_bundle(tmp_path / f"release-{sequence}", content=f"release {sequence}")
        sign_release(bundle, sequence, trust=trust, **options)
        return bundle

    return make
