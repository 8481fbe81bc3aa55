"""Loads a policy as the options say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi0_edge.policy import Policy


def load_policy(
    checkpoint: Path | None,
    engine: str,
    robot: str | None = None,
    tokenizer: Path | None = None,
    sizes: Path | None = None,
    threads: int | None = None,
) -> Policy:
    """The policy of a checkpoint, the shipped one where none is given.

    Raises:
        Pi0EdgeError: As `Policy.load`.
    """
    from pi0_edge.checkpoints import load_sizes
    from pi0_edge.policy import Policy
    from pi0_edge.shipped import shipped_checkpoint

    use_threads(threads)
    found = shipped_checkpoint() if checkpoint is None else checkpoint
    return Policy.load(found, engine, robot, tokenizer, None if sizes is None else dict(load_sizes(sizes)))


def check_engine(engine: str) -> None:
    """Raises `EngineError` where there is no such engine."""
    from pi0_edge.engine import ENGINES
    from pi0_edge.errors import EngineError

    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is not known; expected one of {', '.join(ENGINES)}")


def use_threads(threads: int | None) -> None:
    """Gives the network as many CPU threads."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
