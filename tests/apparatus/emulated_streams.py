"""Streams on the CPU whose operators run one at a time, in random order between the streams.

They take the place of `pi0_edge.engine.cuda.graphs.CudaStream`: what two streams do not order by marks happens in any
order here too, down to the single operator, so that a missing order or a shared buffer changes the result.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pi0_edge.engine.cuda.graphs import Mark


class EmulatedMark:
    """A point in the work of an emulated stream."""

    def __init__(self, device: EmulatedDevice) -> None:
        self.reached = False
        self._device = device

    def query(self) -> bool:
        """The device goes on meanwhile."""
        self._device.run_a_while()
        return self.reached


class EmulatedGraph:
    """Captured work."""

    nodes = 0

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


class Turns(TorchDispatchMode):
    """Waits for its turn before every operator."""

    def __init__(self, stream: EmulatedStream) -> None:
        super().__init__()
        self._stream = stream

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._stream.wait_for_turn()
        return func(*args, **(kwargs or {}))


class EmulatedStream:
    """A queue of work, marks to be reached, and marks to wait for."""

    def __init__(self, device: EmulatedDevice, speed: float = 1.0, waits: bool = True) -> None:
        """Among the others of a device, at a speed relative to theirs; `waits` is false for one that orders nothing."""
        self.speed = speed
        self._device, self._waits = device, waits
        self._queue: deque[Callable[[], None] | EmulatedMark | tuple[EmulatedMark]] = deque()
        self._turn, self._over = threading.Semaphore(0), threading.Semaphore(0)
        self._worker: threading.Thread | None = None
        self._ended = False
        self._failure: BaseException | None = None
        device.streams.append(self)

    def capture(self, work: Callable[[], None]) -> EmulatedGraph:
        """Runs the work once, as capturing does."""
        self.enqueue(work)
        self._drain()
        return EmulatedGraph(work)

    def enqueue(self, work: Callable[[], None]) -> None:
        """The device goes on meanwhile."""
        self._queue.append(work)
        self._device.run_a_while()

    def enqueue_timed(self, work: Callable[[], None]) -> Callable[[], float]:
        """An emulated device has no time of its own."""
        self.enqueue(work)
        return lambda: float("nan")

    def mark(self) -> EmulatedMark:
        """The point behind the queue."""
        mark = EmulatedMark(self._device)
        self._queue.append(mark)
        return mark

    def wait(self, mark: Mark) -> None:
        """Before what is enqueued next, unless this stream was made not to."""
        assert isinstance(mark, EmulatedMark)
        if self._waits:
            self._queue.append((mark,))

    def fetch(self, tensor: Tensor) -> Tensor:
        """Lets the device run until this stream has nothing left."""
        self._drain()
        return tensor.clone()

    @property
    def ready(self) -> bool:
        """It has something to do and need not wait."""
        head = self._queue[0] if self._queue else None
        return head[0].reached if isinstance(head, tuple) else head is not None

    def advance(self) -> None:
        """One operator, or one mark."""
        head = self._queue[0]
        if isinstance(head, EmulatedMark | tuple):
            if isinstance(head, EmulatedMark):
                head.reached = True
            self._queue.popleft()
            return
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, args=(head,), daemon=True)
            self._worker.start()
        self._turn.release()
        self._over.acquire()
        if self._ended:
            self._queue.popleft()
            self._worker, self._ended = None, False
        if self._failure is not None:
            raise self._failure

    def wait_for_turn(self) -> None:
        """Called by the worker: its turn is over, and it waits for the next one."""
        self._over.release()
        self._turn.acquire()

    def _work(self, work: Callable[[], None]) -> None:
        self._turn.acquire()
        try:
            with torch.inference_mode(), Turns(self):
                work()
        except BaseException as failure:
            self._failure = failure
        self._ended = True
        self._over.release()

    def _drain(self) -> None:
        while self._queue:
            self._device.run_one()


class DirectStream:
    """A stream that does everything at once, and counts what is captured: for tests of many chunks.

    Attributes:
        captures: Of all such streams, since a test set it to 0.
    """

    captures = 0

    def capture(self, work: Callable[[], None]) -> EmulatedGraph:
        """Counted."""
        DirectStream.captures += 1
        self.enqueue(work)
        return EmulatedGraph(work)

    def enqueue(self, work: Callable[[], None]) -> None:
        """Done at once."""
        with torch.inference_mode():
            work()

    def enqueue_timed(self, work: Callable[[], None]) -> Callable[[], float]:
        """Done at once, and timed by the host's clock."""
        begin = time.perf_counter()
        self.enqueue(work)
        took_ms = 1e3 * (time.perf_counter() - begin)
        return lambda: took_ms

    def mark(self) -> ReachedMark:
        """Reached."""
        return ReachedMark()

    def wait(self, mark: Mark) -> None:
        """For nothing."""

    def fetch(self, tensor: Tensor) -> Tensor:
        """A copy."""
        return tensor.clone()


class ReachedMark:
    """A mark of a stream that does everything at once."""

    def query(self) -> bool:
        """Reached."""
        return True


class EmulatedDevice:
    """Decides which stream runs next."""

    def __init__(self, seed: int) -> None:
        self.streams: list[EmulatedStream] = []
        self._random = random.Random(seed)

    def run_one(self) -> None:
        """One operator of some stream."""
        ready = [stream for stream in self.streams if stream.ready]
        self._random.choices(ready, [stream.speed for stream in ready])[0].advance()

    def run_a_while(self) -> None:
        """A random number of operators."""
        self.run(self._random.choice((0, 0, 20, 200)))

    def run(self, operators: int) -> None:
        """So many operators, as far as there are any."""
        for _ in range(operators):
            if any(stream.ready for stream in self.streams):
                self.run_one()
