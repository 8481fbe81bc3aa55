"""What benchmarks keep of a run, so that the same command goes on after an interruption, and another one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import ConfigError
from pi0_edge.policy import combined_hash

T = TypeVar("T")


class KeptLines:
    """A .jsonl file that grows line by line.

    Attributes:
        lines: All of them, in the order in which they came.
    """

    def __init__(self, file: Path) -> None:
        """Reads the lines that are there; a last line that was cut off is dropped."""
        self._file = file
        self.lines: list[dict[str, Any]] = []
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            file.write_text(whole)
        self.lines = [json.loads(line) for line in whole.splitlines()]

    def add(self, line: dict[str, Any]) -> None:
        """Writes a line at once."""
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    def read(self, make: Callable[..., T]) -> list[T]:
        """Every line as what `make` makes of its values by name.

        Raises:
            ConfigError: If a line lacks a value, as one of an earlier version does, or has another one.
        """
        try:
            return [make(**line) for line in self.lines]
        except TypeError as error:
            raise ConfigError(
                f"{self._file} was written by another version of this benchmark ({error}); name another file"
            ) from error


def keep_budget(file: Path, budget: Mapping[str, Any]) -> None:
    """Writes what the results beside it were made with, or compares with what is written.

    Args:
        file: Of the budget (.json).
        budget: Plain values by name.

    Raises:
        ConfigError: If the file holds another one.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dict(budget), indent=2) + "\n")
        return
    found = json.loads(file.read_text())
    if found != budget:
        raise ConfigError(
            f"{file} says that what is there was made with {found}, asked for are {dict(budget)}: "
            "repeat those, or name another folder"
        )


def checkpoint_hash(checkpoint: Path) -> str:
    """Hash of the weights, as `Policy.checkpoint_sha256`.

    Raises:
        CheckpointError: If there is none.
    """
    return combined_hash(open_checkpoint(checkpoint).source_hashes())


def folder_hash(folder: Path) -> str:
    """One hash of the names and contents of all files of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return combined_hash(
        {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    )
