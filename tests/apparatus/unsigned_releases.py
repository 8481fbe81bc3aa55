"""Small releases: a bundle whose checksums are right, and files beside it as a signed statement has them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

from pi0_edge.bundle.checksums import write_checksums
from pi0_edge.deploy.release import release_folder


def write_release(bundle: Path, contents: Mapping[str, bytes], beside: Mapping[str, bytes] | None = None) -> str:
    """Writes one.

    Args:
        bundle: Its folder, which is made.
        contents: Of its files, by name.
        beside: Of the files beside it; nobody signed them.

    Returns:
        The SHA-256 of the manifest.
    """
    bundle.mkdir(parents=True)
    files = {}
    for name, content in contents.items():
        (bundle / name).write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest = json.dumps({"files": files}, sort_keys=True).encode()
    (bundle / "manifest.json").write_bytes(manifest)
    write_checksums(bundle, manifest, None)
    for name, content in (beside or {"metadata/timestamp.json": b"{}", "metadata/1.root.json": b"{}"}).items():
        file = release_folder(bundle) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return hashlib.sha256(manifest).hexdigest()


def shards(*sizes: int, seed: int = 0) -> dict[str, bytes]:
    """Weight files of these sizes, which do not compress."""
    numbers = random.Random(seed)
    return {f"weights-i8-{place:05d}.safetensors": numbers.randbytes(size) for place, size in enumerate(sizes)}
