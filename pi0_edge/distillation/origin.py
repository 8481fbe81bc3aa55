"""`distillation.json` of a checkpoint: which teacher it learned from, so that a gate can compare it with that one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pi0_edge.checkpoints import Checkpoint
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.policy import combined_hash
from pi0_edge.synced_files import save_synced

FILE = "distillation.json"


@dataclass(frozen=True)
class Origin:
    """How a checkpoint was distilled.

    Attributes:
        teacher_sha256: Hash of the teacher's weights, as `Policy.checkpoint_sha256`.
        teacher_steps: Euler steps that the teacher took.
        steps: Euler steps of the student.
        updates: Optimizer steps.
    """

    teacher_sha256: str
    teacher_steps: int
    steps: int
    updates: int

    @classmethod
    def of(cls, teacher: Checkpoint, teacher_steps: int, steps: int, updates: int) -> Origin:
        """Of a run that begins."""
        return cls(combined_hash(teacher.source_hashes()), teacher_steps, steps, updates)

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
        expected = {field.name: str if field.name == "teacher_sha256" else int for field in fields(cls)}
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}; distil again") from error
        if not isinstance(content, dict) or {name: type(value) for name, value in content.items()} != expected:
            raise CheckpointError(f"{path} holds {content!s:.80}, expected {', '.join(expected)}; distil again")
        return cls(**content)

    def save(self, checkpoint: Path) -> None:
        """Writes it into the folder of a checkpoint, which is made if needed."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_synced(checkpoint / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())

    def check_same(self, checkpoint: Path) -> None:
        """Raises `ConfigError` where the folder holds a student of another run."""
        found = Origin.find(checkpoint)
        if found is not None and found != self:
            raise ConfigError(f"{checkpoint} was distilled otherwise ({found}); repeat that, or name another folder")
