"""Streams, graphs, and the two stages of a chunk that are captured in graphs.

Work of one stream runs in order, work of two streams in any order except where one waits for a mark of the other.
`Stream` is a small interface, so that tests can replace it by streams that interleave at random on a CPU.

A graph reads and writes fixed addresses: what changes from chunk to chunk is copied into the buffers of a stage
(`load`), and what is captured (`run`) reads nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.engine.cuda.network import Cache, CudaNetwork, StepTables
from pi0_edge.engine.cuda.steering import Steering
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

    def enqueue_timed(self, work: Callable[[], None]) -> Callable[[], float]:
        """The same; what it returns tells after the next `fetch` how long the work took on the device, in ms."""
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


KEEPS_GRAPHS = hasattr(torch.cuda.CUDAGraph, "instantiate")
"""torch from 2.8 on keeps what it captured; an older one only what it made of it, whose nodes cannot be counted."""


class CudaGraph:
    """A CUDA graph, kept after it was instantiated where torch can, so that its nodes can be counted."""

    def __init__(self, capture: Callable[[torch.cuda.CUDAGraph], None]) -> None:
        """The graph that `capture` fills."""
        self._graph = torch.cuda.CUDAGraph(keep_graph=True) if KEEPS_GRAPHS else torch.cuda.CUDAGraph()
        capture(self._graph)
        if KEEPS_GRAPHS:
            self._graph.instantiate()

    @property
    def nodes(self) -> int:
        """As `Graph`.

        Raises:
            EngineError: If torch or the driver does not tell.
        """
        if not KEEPS_GRAPHS:
            raise EngineError(
                f"torch {torch.__version__} cannot count the nodes of a CUDA graph; use torch 2.8 or newer"
            )
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
        # One for all graphs of the stream, which never run at once and leave nothing in it that another one reads.
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """As `Stream`; runs the work once before, which loads kernels and makes their workspaces.

        What other threads ask of CUDA meanwhile (pinned memory, events) does not disturb it: capture is of this thread.
        """
        self.enqueue(work)
        self._stream.synchronize()

        def capture(graph: torch.cuda.CUDAGraph) -> None:
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()

        return CudaGraph(capture)

    def enqueue(self, work: Callable[[], None]) -> None:
        """As `Stream`; after what the caller's own stream has made for it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            work()

    def enqueue_timed(self, work: Callable[[], None]) -> Callable[[], float]:
        """As `Stream`, between two events."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def between_events() -> None:
            begin.record(self._stream)
            work()
            end.record(self._stream)

        self.enqueue(between_events)
        return lambda: begin.elapsed_time(end)

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


@contextmanager
def exact_sums() -> Iterator[None]:
    """Products of torch add their partial sums in float32, whatever the process chose; its choice then holds again.

    cuBLAS may otherwise add the parts of a long sum in 16 bits. A graph keeps what held when it was captured.
    """
    matmul = torch.backends.cuda.matmul
    chosen = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = chosen


class PrefixStage:
    """Vision and prefix: images and prompt to keys and values.

    Attributes:
        cache: Where these go.
    """

    def __init__(self, network: CudaNetwork, cameras: int, tokens: int) -> None:
        """Makes the buffers.

        Args:
            network: The weights.
            cameras: That deliver images.
            tokens: Places for tokens of the prompt: as many as the longest has.

        Raises:
            EngineError: If there are more tokens than positions.
        """
        vision, device = network.config.vision, network.device
        self.cache = network.blank_cache(cameras, tokens)
        self._network = network
        self._patch_rows = torch.zeros(cameras, vision.tokens, 3 * vision.patch_size**2, device=device)
        self._tokens = torch.zeros(tokens, dtype=torch.int64, device=device)
        self._lengths = self.cache.lengths.clone()

    def load(self, images: Tensor, tokens: Tensor) -> None:
        """Takes an observation.

        Its images are cut into patches here and not in `run`, so that their size and type are none of a graph.

        Args:
            images: Of all cameras, see `CudaNetwork.patch_rows`.
            tokens: int64, at most as many as there are places.
        """
        free = len(self._tokens) - len(tokens)
        if free < 0:
            raise ValueError(f"a prompt of {len(tokens)} tokens has {len(self._tokens)} places")
        there = images.to(self._network.device, non_blocking=True)
        self._patch_rows.copy_(self._network.patch_rows(there))
        self._tokens.copy_(F.pad(tokens, (0, free)), non_blocking=True)
        self._lengths.copy_(self._network.lengths(len(images), len(tokens)), non_blocking=True)

    def run(self) -> None:
        """Fills the cache, but for the state."""
        with exact_sums():
            self.cache.lengths.copy_(self._lengths)
            self._network.attend(self._patch_rows, self._tokens, self.cache)


class LoopStage:
    """State and Euler loop behind a prefix: noise to actions.

    Attributes:
        actions: float32 [horizon, action_dim].
    """

    def __init__(self, network: CudaNetwork, tables: StepTables, cache: Cache) -> None:
        """Makes the buffers.

        Args:
            network: The weights.
            tables: Of the times of the steps.
            cache: Of the prefix; this stage writes the row of the state.
        """
        config, device = network.config, network.device
        self._network, self._tables, self._cache = network, tables, cache
        self._state = torch.zeros(config.action_dim, device=device)
        shape = config.horizon, config.action_dim
        self._noise, self.actions, previous = torch.zeros(3, *shape, device=device).unbind(0)
        self._frozen = torch.zeros(1, dtype=torch.int32, device=device)
        self._steering = Steering(previous, torch.zeros(tables.steps, *shape, device=device))

    def load(self, state: Tensor, noise: Tensor, continuation: Continuation | None = None) -> None:
        """Takes a state, noise, and what the chunk continues."""
        self._state.copy_(state, non_blocking=True)
        self._noise.copy_(noise if continuation is None else continuation.start(noise[None])[0], non_blocking=True)
        self._frozen.fill_(0 if continuation is None else continuation.frozen)
        self._steering.load(continuation if isinstance(continuation, Guidance) else None, self._tables.times)

    def run(self) -> None:
        """Makes the actions."""
        with exact_sums():
            self.actions.copy_(self._noise)
            self._network.integrate(self.actions, self._state, self._cache, self._tables, self._frozen, self._steering)


class WholeChunk:
    """Both stages, one after the other on one stream.

    Attributes:
        graph: Of both, from the buffers to the actions; None until they are captured.
        device_ms: How long the last chunk took on the device, from the buffers to the actions.
    """

    def __init__(self, prefix: PrefixStage, loop: LoopStage, stream: Stream) -> None:
        """Captures nothing yet."""
        self._prefix, self._loop, self._stream = prefix, loop, stream
        self.graph: Graph | None = None
        self.device_ms = 0.0

    def captured(self) -> WholeChunk:
        """Itself, with a graph."""
        self.graph = self._stream.capture(self._run)
        return self

    @torch.inference_mode()
    def infer(
        self, images: Tensor, tokens: Tensor, state: Tensor, noise: Tensor, continuation: Continuation | None = None
    ) -> Tensor:
        """Actions float32 [horizon, action_dim] on the CPU; arguments as in the `load` of the stages.

        From the graph, or where there is none, kernel by kernel: slower, but at once.
        """
        self._stream.enqueue(lambda: self._prefix.load(images, tokens))
        self._stream.enqueue(lambda: self._loop.load(state, noise, continuation))
        took_ms = self._stream.enqueue_timed(self._run if self.graph is None else self.graph.replay)
        actions = self._stream.fetch(self._loop.actions)
        self.device_ms = took_ms()
        return actions

    def _run(self) -> None:
        self._prefix.run()
        self._loop.run()
