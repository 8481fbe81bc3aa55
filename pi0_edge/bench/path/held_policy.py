"""A policy whose chunks hold the arm still: everything is computed and sent, and nothing moves.

A policy that is shown what is not there answers with motion that fits nothing: the firmware refuses it, or an arm moves
that nobody understands. A latency needs the time and the size of its chunks, and those stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.protos import policy_pb2
from pi0_edge.run.events import Observed
from pi0_edge.run.policy_source import PolicySource


class HeldPolicy:
    """A source of chunks, as `PolicySource`; each chunk holds the joints where they were at the first observation."""

    def __init__(self, source: PolicySource) -> None:
        """Asks `source` for every chunk."""
        self.name, self.place = source.name, source.place
        self.threads, self.image_encoding = source.threads, source.image_encoding
        self._source = source
        self._held: NDArray[np.float32] | None = None

    def metadata(self) -> policy_pb2.PolicyMetadata:
        """Of the policy."""
        return self._source.metadata()

    def infer(self, observed: Observed) -> policy_pb2.Chunk:
        """The chunk of the policy, with its time and its size, and other actions."""
        chunk = self._source.infer(observed)
        held = self._held = observed.state.copy() if self._held is None else self._held
        chunk.actions[:] = np.tile(held[: chunk.action_dim], chunk.horizon).tolist()
        return chunk

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
