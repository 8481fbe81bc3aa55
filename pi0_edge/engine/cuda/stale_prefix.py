"""Re-planning on an old prefix: a named approximation that takes the pictures out of the time of a chunk.

Vision and prefix are most of a chunk's time, and what they see changes slowly. So the Euler loop answers at once, on
the newest prefix that is finished, and the prefix of this observation is made after it, beside whatever comes next:

    loop     │ (waits for 1) chunk 1 │        │ chunk 2 │     │ chunk 3 │      │ chunk 4 │ …   own state, own noise
                ▲ copy                           │               ▲ copy            ▲ copy
    prefix   │ pictures 1                        └► pictures 2 ──┘     └► pictures 3┘  …

What is old is named and bounded. Pictures and prompt of a chunk are those of one earlier observation, at most `limit_s`
older than its own; the state is always its own, so that relative actions start where the arm is. A prefix of another
prompt is never used. Where nothing that is finished fits, the loop waits for a prefix that does.

The prefix stage writes keys and values of its own (`coming`), the loop reads a copy (`kept`): a prefix may be written
while a loop runs. Two marks order the streams: a copy waits for its prefix, and a prefix for the loop before it, which
also has its copy then and is not slowed down.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pi0_edge.engine.cuda.graphs import Graph, LoopStage, Mark, PrefixStage, Stream, max_weight
from pi0_edge.engine.cuda.network import CudaNetwork, StepTables
from pi0_edge.model.rtc import Continuation


@dataclass(frozen=True)
class Source:
    """The observation that a prefix is made from: images and prompt as in `PrefixStage.load`, and when it arrived."""

    images: Tensor
    tokens: Tensor
    arrived_s: float

    def serves(self, other: Source, limit_s: float) -> bool:
        """Whether its prefix may stand for that of a later observation."""
        return self.tokens.equal(other.tokens) and other.arrived_s - self.arrived_s <= limit_s


class Replanning:
    """Prefix and Euler loop of one shape on two streams."""

    def __init__(
        self, network: CudaNetwork, images: Tensor, tokens: int, prefix_stream: Stream, loop_stream: Stream
    ) -> None:
        """Captures the prefix; loops are captured as they are asked for.

        Args:
            network: The weights.
            images: Pictures as they will come, in number, size and type: see `CudaNetwork.attend`.
            tokens: Of the prompt.
            prefix_stream: For pictures and prompt.
            loop_stream: For everything else.
        """
        self._network, self._prefix_stream, self._loop_stream = network, prefix_stream, loop_stream
        self._prefix = PrefixStage(network, images, tokens)
        self._attend = prefix_stream.capture(self._prefix.run)
        self._kept_cache = network.blank_cache(len(images), tokens)
        self._coming: tuple[Source, Mark] | None = None
        self._kept: Source | None = None
        self._loops: dict[tuple[StepTables, float | None], tuple[LoopStage, Graph]] = {}

    def infer(
        self,
        observation: Source,
        state: Tensor,
        noise: Tensor,
        limit_s: float,
        tables: StepTables,
        continuation: Continuation | None = None,
    ) -> tuple[Tensor, Source]:
        """A chunk for an observation, and the one whose pictures it was planned from.

        Args:
            observation: The newest; times never run backwards.
            state: Its state, float32 [action_dim].
            noise: float32 [horizon, action_dim].
            limit_s: How much older the pictures may be.
            tables: Of the times of the steps, the same object for the same times.
            continuation: What the chunk continues.

        Returns:
            Actions float32 [horizon, action_dim] on the CPU, and the source of their prefix.
        """
        source = self._choose(observation, limit_s)
        loop, graph = self._loop(tables, max_weight(continuation))
        self._loop_stream.enqueue(lambda: loop.load(state, noise, continuation))
        self._loop_stream.enqueue(graph.replay)
        if source is not observation and self._coming is None:
            self._start(observation)
        return self._loop_stream.fetch(loop.actions), source

    def forget(self) -> None:
        """The next chunk waits for its own pictures."""
        self._coming = self._kept = None

    def _loop(self, tables: StepTables, limit: float | None) -> tuple[LoopStage, Graph]:
        if (tables, limit) not in self._loops:
            loop = LoopStage(self._network, tables, self._kept_cache, limit)
            self._loops[tables, limit] = loop, self._loop_stream.capture(loop.run)
        return self._loops[tables, limit]

    def _choose(self, observation: Source, limit_s: float) -> Source:
        """Sees to it that the loop's keys and values are of a source that serves; enqueues only, waits for nothing."""
        if self._coming is not None and self._coming[1].query():
            self._take(self._coming)
        if self._kept is not None and self._kept.serves(observation, limit_s):
            return self._kept
        if self._coming is not None and self._coming[0].serves(observation, limit_s):
            return self._take(self._coming)
        return self._take(self._start(observation))

    def _start(self, observation: Source) -> tuple[Source, Mark]:
        """A prefix begins after everything that the loop was given so far; its pictures are on their way before."""
        self._prefix_stream.enqueue(lambda: self._prefix.load(observation.images, observation.tokens))
        self._prefix_stream.wait(self._loop_stream.mark())
        self._prefix_stream.enqueue(self._attend.replay)
        self._coming = observation, self._prefix_stream.mark()
        return self._coming

    def _take(self, coming: tuple[Source, Mark]) -> Source:
        """The loops from now on read this prefix, as soon as it is there."""
        self._kept, attended = coming
        self._loop_stream.wait(attended)
        self._loop_stream.enqueue(lambda: self._kept_cache.copy_(self._prefix.cache))
        self._coming = None
        return self._kept
