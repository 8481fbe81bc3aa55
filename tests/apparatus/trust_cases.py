"""A workstation with a trust folder, and a robot that trusts it: releases, and what the robot says of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from release_builders import plain_bundle, received

from pi0_edge.deploy.release import release_folder
from pi0_edge.deploy.trust import TrustFolder, VerifiedRelease, init_trust, sign_release, trust_root, verify_release
from pi0_edge.errors import TrustError


class Robot:
    """Its TUF client, and what it has committed."""

    def __init__(self, tuf: Path, root: bytes) -> None:
        self.tuf, self.floor, self.committed_at = tuf, 0, 0.0
        trust_root(tuf, root)

    def verify(self, staged: Path, clock: float | None = None) -> VerifiedRelease:
        return verify_release(staged, self.tuf, sequence_floor=self.floor, committed_at=self.committed_at, clock=clock)

    def install(self, staged: Path, clock: float | None = None) -> VerifiedRelease:
        """Verifies and commits."""
        found = self.verify(staged, clock)
        self.floor = max(self.floor, found.release.sequence)
        return found

    def refuses(self, staged: Path, reason: str, clock: float | None = None) -> None:
        """Passes where the release is refused for this reason, a regular expression."""
        with pytest.raises(TrustError, match=reason):
            self.verify(staged, clock)


class Workstation:
    """A trust folder and the bundles that it signs."""

    def __init__(self, folder: Path, **request: Any) -> None:
        self.folder = folder
        self.trust: TrustFolder = init_trust(folder / "trust", **request)

    def release(self, sequence: int, name: str | None = None, **options: Any) -> Path:
        """Signs the bundle of that name, and makes it where there is none; what a robot receives of it."""
        name = name or f"bundle-{sequence}"
        bundle = self.folder / name
        if not bundle.exists():
            plain_bundle(bundle, name)
        sign_release(bundle, sequence, trust=self.trust.path, **options)
        return received(bundle, self.folder / f"{name}.{sequence}.staged")

    def published(self, name: str) -> Path:
        return release_folder(self.folder / name)

    def robot(self, name: str = "robot", root: int = 1) -> Robot:
        """One that is new and trusts this root."""
        return Robot(self.folder / f"{name}.tuf", self.trust.roots()[root - 1])


@contextmanager
def copy_of(staged: Path, place: Path) -> Iterator[Path]:
    """What was received, to do something to."""
    shutil.rmtree(place, ignore_errors=True)
    yield shutil.copytree(staged, place, symlinks=True)
    shutil.rmtree(place, ignore_errors=True)
