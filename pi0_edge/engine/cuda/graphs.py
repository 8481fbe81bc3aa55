"""Streams, graphs, and the two stages of a chunk that are captured in graphs.

Work of one stream runs in order, work of two streams in any order except where one waits for a mark of the other.
`Stream` is a small interface, so that tests can replace it by streams that interleave at random on a CPU.

A graph reads and writes fixed addresses: what changes from chunk to chunk is copied into the buffers of a stage
(`load`), and what is captured (`run`) reads nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pi0_edge.engine.cuda.network import Cache, CudaNetwork, StepTables
from pi0_edge.errors import EngineError
from pi0_edge.model.rtc import Continuation, Guidance


class Mark(Protocol):
    """A point in the work of a stream."""

    def query(self) -> bool:
        """Whether everything before it is done."""
        ...


class Graph(Protocol):
    """Captured work."""

    @property
    def nodes(self) -> int:
        """Kernels, copies and fills in it."""
        ...

    def replay(self) -> None:
        """Enqueues all of it."""
        ...


class Stream(Protocol):
    """A queue of work on a device."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """The graph of what `work` enqueues, to be replayed through `enqueue`."""
        ...

    def enqueue(self, work: Callable[[], None]) -> None:
        """Adds what `work` enqueues."""
        ...

    def mark(self) -> Mark:
        """The point behind everything that was enqueued so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """What is enqueued from now on waits for the mark of another stream; the caller does not."""
        ...

    def fetch(self, tensor: Tensor) -> Tensor:
        """The tensor on the CPU, once everything that was enqueued is done."""
        ...


class CudaGraph:
    """A CUDA graph, kept after it was instantiated, so that its nodes can be counted."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        graph.instantiate()
        self._graph = graph

    @property
    def nodes(self) -> int:
        """As `Graph`.

        Raises:
            EngineError: If the driver does not tell.
        """
        count = ctypes.c_size_t()
        driver = ctypes.CDLL("libcuda.so.1")
        error = driver.cuGraphGetNodes(ctypes.c_void_p(self._graph.raw_cuda_graph()), None, ctypes.byref(count))
        if error:
            raise EngineError(f"the nodes of a CUDA graph cannot be counted: error {error} of the driver")
        return count.value

    def replay(self) -> None:
        """As `Graph`."""
        self._graph.replay()


class CudaStream:
    """A stream of a CUDA device; where several have work that is ready, that of an urgent one starts first."""

    def __init__(self, device: torch.device, urgent: bool = False) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1 if urgent else 0)

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """As `Stream`; runs the work once before, which loads kernels and makes their workspaces."""
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        self.enqueue(work)
        self._stream.synchronize()
        with torch.cuda.graph(graph, stream=self._stream):
            work()
        return CudaGraph(graph)

    def enqueue(self, work: Callable[[], None]) -> None:
        """As `Stream`; after what the caller's own stream has made for it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            work()

    def mark(self) -> torch.cuda.Event:
        """As `Stream`."""
        mark = torch.cuda.Event()
        mark.record(self._stream)
        return mark

    def wait(self, mark: Mark) -> None:
        """As `Stream`."""
        if not isinstance(mark, torch.cuda.Event):
            raise TypeError(f"a CUDA stream waits for a CUDA event, not for {type(mark).__name__}")
        self._stream.wait_event(mark)

    def fetch(self, tensor: Tensor) -> Tensor:
        """As `Stream`."""
        with torch.cuda.stream(self._stream):
            return tensor.cpu()


class PrefixStage:
    """Vision and prefix of one shape: images and prompt to keys and values.

    Attributes:
        cache: Where these go.
    """

    def __init__(self, network: CudaNetwork, images: Tensor, tokens: int) -> None:
        """Makes the buffers.

        Args:
            network: The weights.
            images: Images as they will come, in number, size and type: see `CudaNetwork.attend`.
            tokens: Of the prompt.

        Raises:
            EngineError: If there are more tokens than positions.
        """
        self.cache = network.blank_cache(len(images), tokens)
        self._network = network
        self._images = torch.zeros_like(images, device=network.device)
        self._tokens = torch.zeros(tokens, dtype=torch.int64, device=network.device)

    def load(self, images: Tensor, tokens: Tensor) -> None:
        """Takes an observation of this shape."""
        self._images.copy_(images, non_blocking=True)
        self._tokens.copy_(tokens, non_blocking=True)

    def run(self) -> None:
        """Fills the cache, but for the state."""
        self._network.attend(self._images, self._tokens, self.cache)


class LoopStage:
    """State and Euler loop behind a prefix: noise to actions.

    Attributes:
        actions: float32 [horizon, action_dim].
    """

    def __init__(self, network: CudaNetwork, tables: StepTables, cache: Cache, max_weight: float | None = None) -> None:
        """Makes the buffers.

        Args:
            network: The weights.
            tables: Of the times of the steps.
            cache: Of the prefix; this stage writes the row of the state.
            max_weight: Limit of the guidance of chunks that continue another one by it; None for all others.
        """
        config, device = network.config, network.device
        self._network, self._tables, self._cache = network, tables, cache
        self._state = torch.zeros(config.action_dim, device=device)
        self._noise, self.actions, previous, weights = torch.zeros(
            4, config.horizon, config.action_dim, device=device
        ).unbind(0)
        self._frozen = torch.zeros(1, dtype=torch.int32, device=device)
        self._guidance = None if max_weight is None else Guidance(previous, weights, max_weight)

    def load(self, state: Tensor, noise: Tensor, continuation: Continuation | None = None) -> None:
        """Takes a state, noise, and guidance exactly where this stage was made with a limit for it."""
        self._state.copy_(state, non_blocking=True)
        self._noise.copy_(noise if continuation is None else continuation.start(noise[None])[0], non_blocking=True)
        self._frozen.fill_(0 if continuation is None else continuation.frozen)
        if self._guidance is not None and isinstance(continuation, Guidance):
            self._guidance.previous.copy_(continuation.previous.squeeze(0), non_blocking=True)
            self._guidance.weights.copy_(continuation.weights, non_blocking=True)

    def run(self) -> None:
        """Makes the actions."""
        self._network.attend_state(self._state, self._cache)
        self.actions.copy_(self._noise)
        self._network.integrate(self.actions, self._cache, self._tables, self._frozen, self._guidance)


class CapturedChunk:
    """Both stages as one graph.

    Attributes:
        graph: From the buffers to the actions.
    """

    def __init__(self, prefix: PrefixStage, loop: LoopStage, stream: Stream) -> None:
        """Captures them on the stream on which they will run."""
        self._prefix, self._loop, self._stream = prefix, loop, stream
        self.graph = stream.capture(self._run)

    @torch.inference_mode()
    def replay(
        self, images: Tensor, tokens: Tensor, state: Tensor, noise: Tensor, continuation: Continuation | None = None
    ) -> Tensor:
        """Actions float32 [horizon, action_dim] on the CPU; arguments as in the `load` of the stages."""
        self._stream.enqueue(lambda: self._prefix.load(images, tokens))
        self._stream.enqueue(lambda: self._loop.load(state, noise, continuation))
        self._stream.enqueue(self.graph.replay)
        return self._stream.fetch(self._loop.actions)

    def _run(self) -> None:
        self._prefix.run()
        self._loop.run()


def max_weight(continuation: Continuation | None) -> float | None:
    """The limit of its guidance, where there is any: a constant of the graph, as all else is loaded."""
    return continuation.max_weight if isinstance(continuation, Guidance) else None
