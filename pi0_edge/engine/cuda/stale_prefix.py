"""Re-planning on an old prefix: a named approximation that takes the images out of the time of a chunk.

Vision and prefix are most of a chunk's time, and what they see changes slowly. So the Euler loop answers at once, on
the newest prefix that is finished, and the prefix of this observation is made after it, beside whatever comes next:

    loop     │ (waits for 1) chunk 1 │        │ chunk 2 │     │ chunk 3 │      │ chunk 4 │ …   own state, own noise
                ▲ copy                           │               ▲ copy            ▲ copy
    prefix   │ images 1                        └► images 2 ──┘     └► images 3┘  …

What is old is named and bounded. Images and prompt of a chunk are those of one earlier observation, at most `limit_s`
older than its own; the state is always its own, so that relative actions start where the arm is. A prefix of another
prompt is never used. Where nothing that is finished fits, the loop waits for a prefix that does.

The prefix stage writes keys and values of its own (`_pending`), the loop reads a copy (`_active`): a prefix may be
written while a loop runs. Two marks order the streams: a copy waits for its prefix, and a prefix for the loop before
it, which also has its copy then and is not slowed down.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pi0_edge.engine.cuda.graphs import LoopStage, Mark, PrefixStage, Stream
from pi0_edge.engine.cuda.network import CudaNetwork, StepTables
from pi0_edge.model.rtc import Continuation


@dataclass(frozen=True)
class PrefixSource:
    """The observation that a prefix is made from: images and prompt as in `PrefixStage.load`, and when it arrived."""

    images: Tensor
    tokens: Tensor
    arrived_s: float

    def is_usable_for(self, other: PrefixSource, limit_s: float) -> bool:
        """Whether its prefix may stand for that of a later observation."""
        return self.tokens.equal(other.tokens) and other.arrived_s - self.arrived_s <= limit_s


class StalePrefixRunner:
    """Prefix and Euler loop on two streams, a graph each."""

    def __init__(
        self,
        network: CudaNetwork,
        tables: StepTables,
        cameras: int,
        tokens: int,
        prefix_stream: Stream,
        loop_stream: Stream,
    ) -> None:
        """Captures both.

        Args:
            network: The weights.
            tables: Of the times of the steps.
            cameras: That deliver images.
            tokens: Places for tokens of the prompt.
            prefix_stream: For images and prompt.
            loop_stream: For everything else.
        """
        self._prefix_stream, self._loop_stream = prefix_stream, loop_stream
        self._prefix = PrefixStage(network, cameras, tokens)
        self._attend = prefix_stream.capture(self._prefix.run)
        self._active_cache = network.blank_cache(cameras, tokens)
        self._loop = LoopStage(network, tables, self._active_cache)
        self._integrate = loop_stream.capture(self._loop.run)
        self._pending: tuple[PrefixSource, Mark] | None = None
        self._active: PrefixSource | None = None

    def infer(
        self,
        observation: PrefixSource,
        state: Tensor,
        noise: Tensor,
        limit_s: float,
        continuation: Continuation | None = None,
    ) -> tuple[Tensor, PrefixSource]:
        """A chunk for an observation, and the one whose images it was planned from.

        Args:
            observation: The newest; times never run backwards.
            state: Its state, float32 [action_dim].
            noise: float32 [horizon, action_dim].
            limit_s: How much older the images may be.
            continuation: What the chunk continues.

        Returns:
            Actions float32 [horizon, action_dim] on the CPU, and the source of their prefix.
        """
        source = self._choose(observation, limit_s)
        self._loop_stream.enqueue(lambda: self._loop.load(state, noise, continuation))
        self._loop_stream.enqueue(self._integrate.replay)
        if source is not observation and self._pending is None:
            self._start(observation)
        return self._loop_stream.fetch(self._loop.actions), source

    def reset(self) -> None:
        """The next chunk waits for its own images."""
        self._pending = self._active = None

    def finish(self) -> None:
        """Returns when neither stream has work of this object left, so that its memory may go."""
        self.reset()
        self._prefix_stream.fetch(self._prefix.cache.lengths)
        self._loop_stream.fetch(self._active_cache.lengths)

    def _choose(self, observation: PrefixSource, limit_s: float) -> PrefixSource:
        """Sees to it that the loop's keys and values are of a source that serves; enqueues only, waits for nothing."""
        if self._pending is not None and self._pending[1].query():
            self._take(self._pending)
        if self._active is not None and self._active.is_usable_for(observation, limit_s):
            return self._active
        if self._pending is not None and self._pending[0].is_usable_for(observation, limit_s):
            return self._take(self._pending)
        return self._take(self._start(observation))

    def _start(self, observation: PrefixSource) -> tuple[PrefixSource, Mark]:
        """A prefix begins after everything that the loop was given so far; its images are on their way before."""
        self._prefix_stream.enqueue(lambda: self._prefix.load(observation.images, observation.tokens))
        self._prefix_stream.wait(self._loop_stream.mark())
        self._prefix_stream.enqueue(self._attend.replay)
        self._pending = observation, self._prefix_stream.mark()
        return self._pending

    def _take(self, pending: tuple[PrefixSource, Mark]) -> PrefixSource:
        """The loops from now on read this prefix, as soon as it is there."""
        self._active, attended = pending
        self._loop_stream.wait(attended)
        self._loop_stream.enqueue(lambda: self._active_cache.copy_(self._prefix.cache))
        self._pending = None
        return self._active
