"""Bundles without weights, releases of them, and what a robot receives of one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pi0_edge.bundle.checksums import write_checksums
from pi0_edge.deploy.release import release_folder
from pi0_edge.robots import load_robot

PASSED = {"verdict": {"passed": True, "reasons": []}}
FAILED = {"verdict": {"passed": False, "reasons": ["cosine mean 0.9312 < 0.999"]}}


@cache
def robot(name: str) -> dict[str, Any]:
    return dataclasses.asdict(load_robot(name))


def plain_bundle(
    folder: Path,
    content: str = "a",
    gate: object = PASSED,
    robot_name: str = "so101",
    weights: Mapping[str, bytes] | None = None,
) -> Path:
    """A folder that is a whole bundle to all who look at its files, and holds no network, but perhaps its files."""
    folder.mkdir(parents=True)
    files = {"norm_stats.json": content.encode(), "tokenizer.json": b"{}", **(weights or {})}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    records = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    manifest = json.dumps({"gate": gate, "robot": robot(robot_name), "files": records}, indent=2).encode()
    (folder / "manifest.json").write_bytes(manifest)
    write_checksums(folder, manifest, None)
    return folder


def received(bundle: Path, folder: Path) -> Path:
    """What a robot has of a release when it decides whether it wants the rest."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(release_folder(bundle) / "metadata", folder / "metadata")
    (folder / "bundle").mkdir()
    shutil.copy(bundle / "manifest.json", folder / "bundle")
    return folder
