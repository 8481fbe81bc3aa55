"""An openpi server around a small policy with random weights, and raw connections to it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_builders import CONFIG, write_checkpoint

from pi0_edge.policy import Policy

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")

from websockets.sync.client import ClientConnection

from pi0_edge.serving.openpi.encoding import decode

HORIZON = 15
"""Rows of a chunk; more than DROID's runtime takes."""


def small_policy(folder: Path, robot: str) -> Policy:
    """A policy of one robot."""
    torch.set_num_threads(1)
    config = dataclasses.replace(CONFIG, horizon=HORIZON)
    return Policy.load(write_checkpoint(folder / robot, robot, config=config), "reference")


def fix_noise(policy: Policy) -> None:
    """The next chunk has noise that is known."""
    policy._seeds = np.random.default_rng(7)


class HeldEngine:
    """Inferences of a policy wait until they are let go."""

    def __init__(self, policy: Policy) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        self._infer = policy.engine.infer

    def infer(self, *arguments: Any) -> torch.Tensor:
        self.started.set()
        assert self.go.wait(60)
        return self._infer(*arguments)


@contextmanager
def held(policy: Policy) -> Iterator[HeldEngine]:
    """Holds the inferences of a policy."""
    engine = HeldEngine(policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.engine, "infer", engine.infer)
        try:
            yield engine
        finally:
            engine.go.set()


def received(connection: ClientConnection) -> Any:
    """The next message, which is no text."""
    message = connection.recv(30)
    assert isinstance(message, bytes), message
    return decode(message)
