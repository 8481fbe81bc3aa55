"""What the engine asks of a CUDA stream, and the stream that answers.

Work of one stream runs in order, work of two streams in any order but where one waits for a mark of the other. The
small interface is there so that tests can put streams in its place that interleave at random on a CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pi0_edge.errors import EngineError


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
