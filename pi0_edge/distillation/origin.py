"""`distillation.json` of a checkpoint: which teacher it learned from, so that a gate can compare it with that one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pi0_edge.checkpoints import Checkpoint
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.policy import combined_hash
from pi0_edge.synced_files import save_synced

FILE = "distillation.json"
_REQUIRED = {"teacher_sha256": str, "teacher_steps": int, "steps": int, "updates": int}
_OPTIONAL = {"parts": list, "floor": float, "opening_share": float, "start_sha256": str}


@dataclass(frozen=True)
class Origin:
    """How a checkpoint was distilled.

    Attributes:
        teacher_sha256: Hash of the teacher's weights, as `Policy.checkpoint_sha256`.
        teacher_steps: Euler steps that the teacher took.
        steps: Euler steps of the student.
        updates: Optimizer steps.
        parts: Of the teacher's steps, covered by each of the student; None where a checkpoint of an earlier version
            does not tell: equal ones.
        floor: See `Student`; None as well.
        opening_share: Share of first observations; None as well.
        start_sha256: Hash of the student that the run began from; None where that was the teacher, or nobody tells.
    """

    teacher_sha256: str
    teacher_steps: int
    steps: int
    updates: int
    parts: list[int] | None = None
    floor: float | None = None
    opening_share: float | None = None
    start_sha256: str | None = None

    @classmethod
    def of(
        cls,
        teacher: Checkpoint,
        teacher_steps: int,
        steps: int,
        parts: Sequence[int],
        updates: int,
        floor: float,
        opening_share: float,
        start: Checkpoint | None,
    ) -> Origin:
        """Of a run that begins."""
        began = None if start is None else combined_hash(start.source_hashes())
        taught = combined_hash(teacher.source_hashes())
        return cls(taught, teacher_steps, steps, updates, list(parts), float(floor), float(opening_share), began)

    @property
    def covered(self) -> list[int]:
        """The parts; equal ones where nothing tells."""
        return [self.teacher_steps // self.steps] * self.steps if self.parts is None else self.parts

    @property
    def task(self) -> str:
        """What is learned: of which teacher, in which steps."""
        parts = " + ".join(map(str, self.covered))
        return f"a student of teacher {self.teacher_sha256[:12]} in {self.steps} step(s), for {parts} of the teacher's"

    @classmethod
    def find(cls, checkpoint: Path) -> Origin | None:
        """What lies beside the weights of a checkpoint; None where it was not distilled.

        Args:
            checkpoint: Its folder, or a file in it.

        Raises:
            CheckpointError: If the file is damaged.
        """
        path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FILE
        if not path.exists():
            return None
        names = [field.name for field in fields(cls)]
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; distil again") from error
        if not isinstance(content, dict) or not _fits(content):
            raise CheckpointError(f"{path} holds {content!s:.80}, expected {', '.join(names)}; distil again")
        return cls(**content)

    def save(self, checkpoint: Path) -> None:
        """Writes it into the folder of a checkpoint, which is made if needed."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_synced(checkpoint / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def check_same(self, checkpoint: Path) -> None:
        """Raises `ConfigError` where the folder holds a student of another run, as far as it tells."""
        found = Origin.find(checkpoint)
        if found is None:
            return
        told = self if found.floor is not None else replace(self, floor=None, opening_share=None, start_sha256=None)
        if replace(found, parts=found.covered) != told:
            raise ConfigError(f"{checkpoint} was distilled otherwise ({found}); repeat that, or name another folder")


def _fits(content: dict[str, Any]) -> bool:
    """Whether all that is required is there, and nothing else but what may be missing."""
    kinds = {**_REQUIRED, **_OPTIONAL}
    if not _REQUIRED.keys() <= content.keys() <= kinds.keys():
        return False
    typed = all(type(value) is kinds[name] or (value is None and name in _OPTIONAL) for name, value in content.items())
    counts = [content["teacher_steps"], content["steps"], *(content.get("parts") or [])] if typed else []
    return typed and all(type(count) is int and count > 0 for count in counts)
