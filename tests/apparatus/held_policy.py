"""A policy whose inferences a test holds back, behind a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policy_builders import write_checkpoint

from pi0_edge.policy import Asked, Policy, PolicyChunk
from pi0_edge.serving.policy_server import PolicyServer

_LIMIT_S = 20.0


class HeldPolicy:
    """Everything a policy has; `hold` keeps its inferences waiting until `let_go`.

    Attributes:
        seen: The observations and plans that came.
        error: Raised by every inference, where there is one.
        begun: Set when an inference waits.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._may_run = threading.Event()
        self._may_run.set()
        self.begun = threading.Event()
        self.seen: list[tuple[Any, Any]] = []
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def hold(self) -> None:
        self.begun.clear()
        self._may_run.clear()

    def let_go(self) -> None:
        self._may_run.set()

    def infer_together(self, asked: Sequence[Asked]) -> list[PolicyChunk | Exception]:
        self.seen.extend((one.observation, one.plan) for one in asked)
        if not self._may_run.is_set():
            self.begun.set()
        assert self._may_run.wait(_LIMIT_S)
        if self.error is not None:
            raise self.error
        return self._policy.infer_together(asked)


@contextmanager
def held_server(folder: Path, robot: str = "aloha_sim") -> Iterator[tuple[HeldPolicy, PolicyServer]]:
    """The policy and its server, which runs in this process."""
    policy = HeldPolicy(Policy.load(write_checkpoint(folder / "checkpoint", robot), "reference"))
    with PolicyServer(policy, "127.0.0.1:0") as server:  # pyright: ignore[reportArgumentType]
        policy.seen.clear()
        try:
            yield policy, server
        finally:
            policy.let_go()
