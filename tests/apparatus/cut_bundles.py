"""A bundle that is written, replaced or signed, as subjects of power cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bundle_builders import FAILED
from cut_subject import Subject

from pi0_edge.bundle import open_bundle, sign_bundle, write_bundle


def bundle_subjects(inputs: dict[str, Any], private_key: Path) -> list[Subject]:
    """All that is done to the disk of a bundle.

    Args:
        inputs: Of `write_bundle`; its gate passed.
        private_key: That signs.
    """
    return [
        Subject(
            "bundle: written where there is none",
            nothing,
            write_new(inputs),
            which,
            lambda disk: write_again(inputs, disk),
            frozenset({"absent", "new"}),
        ),
        Subject(
            "bundle: replaced by another",
            write_old(inputs),
            write_new(inputs),
            which,
            lambda disk: write_again(inputs, disk),
            frozenset({"old", "new"}),
        ),
        Subject(
            "bundle: signed",
            write_old(inputs),
            lambda disk: sign_bundle(place(disk), private_key),
            is_signed,
            lambda disk: sign_again(private_key, disk),
            frozenset({"unsigned", "signed"}),
        ),
    ]


def place(disk: Path) -> Path:
    return disk / "bundles" / "towel"


def nothing(disk: Path) -> None:
    pass


def write_old(inputs: dict[str, Any]) -> Callable[[Path], object]:
    return lambda disk: write_bundle(place(disk), **inputs)


def write_new(inputs: dict[str, Any]) -> Callable[[Path], object]:
    changed = {**inputs, "gate": FAILED, "state": {"a": torch.zeros(300_000, dtype=torch.int8)}}
    return lambda disk: write_bundle(place(disk), **changed, replace=True)


def which(disk: Path) -> str:
    """The state of a bundle: absent, or whole and then old or new."""
    if not place(disk).exists():
        return "absent"
    return {"passed": "old", "failed": "new"}[open_bundle(place(disk)).gate]


def is_signed(disk: Path) -> str:
    """Whether a whole bundle has a signature."""
    open_bundle(place(disk))
    return "signed" if (place(disk) / "manifest.sig").exists() else "unsigned"


def write_again(inputs: dict[str, Any], disk: Path) -> None:
    """The next write ends with the new bundle, and removes what the cut left."""
    write_new(inputs)(disk)
    assert which(disk) == "new"
    assert [path.name for path in place(disk).parent.iterdir()] == ["towel"]


def sign_again(private_key: Path, disk: Path) -> None:
    """The next signature ends with a signed bundle."""
    sign_bundle(place(disk), private_key)
    assert is_signed(disk) == "signed"
