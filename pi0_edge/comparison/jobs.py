"""Pieces of work whose results are files: what is there is not done again, so that a run goes on where it was stopped.

A job runs in a process of its own with one thread, and writes its result whole as the last thing that it does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pi0_edge.errors import TrainingError

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
"""Variables that say with how many threads torch's libraries and the software renderer start."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: What progress says of it.
        result: The file that exists once it is done.
        expected_s: Processor seconds that it will take, about.
        work: A function of a module, and its arguments; it writes `result`.
        arguments: Of the function.
    """

    name: str
    result: Path
    expected_s: float
    work: Callable[..., object]
    arguments: tuple[Any, ...]

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.result.exists()


class Workers:
    """Processes that run jobs, started when the first job needs them; with 0 of them, jobs run in this process."""

    def __init__(self, count: int) -> None:
        """How many processes; each takes about 2 GB while it trains."""
        self._count = count
        self._executor: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()

    def __enter__(self) -> Workers:
        """Nothing is started yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the processes, after an error or Ctrl-C in the middle of their jobs: results are written whole."""
        if self._executor is None:
            return
        if kind is not None:
            for process in self._processes:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def run(self, jobs: Sequence[Job], on_done: Callable[[Job], object]) -> None:
        """Runs the jobs that are not done, the longest first, and calls `on_done` for each as soon as it is.

        Raises:
            TrainingError: If a process was killed.
        """
        waiting = sorted((job for job in jobs if not job.done), key=lambda job: -job.expected_s)
        try:
            for job in self._finished(waiting) if self._count else _one_after_the_other(waiting):
                on_done(job)
        except BrokenProcessPool as error:
            less = "with fewer --workers in less memory" if self._count > 1 else "once there is more memory"
            raise TrainingError(
                f"a process of the comparison was killed (out of memory?); the same command goes on, {less}"
            ) from error

    def _finished(self, waiting: Sequence[Job]) -> Iterator[Job]:
        """Keeps all processes busy, and gives each job that is done."""
        ahead, running = iter(waiting), dict[Future[object], Job]()
        while True:
            while len(running) < self._count and (job := next(ahead, None)) is not None:
                running[self._submit(job)] = job
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                future.result()
                yield job

    def _submit(self, job: Job) -> Future[object]:
        before = set(multiprocessing.active_children())
        with one_thread():  # a process is started by the first job that it gets
            future = self._pool().submit(job.work, *job.arguments)
        self._processes |= set(multiprocessing.active_children()) - before
        return future

    def _pool(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")  # a forked OpenGL context does not work
            self._executor = ProcessPoolExecutor(self._count, mp_context=context, initializer=_start_worker)
        return self._executor


def _one_after_the_other(waiting: Sequence[Job]) -> Iterator[Job]:
    for job in waiting:
        job.work(*job.arguments)
        yield job


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that start meanwhile get one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    import torch

    logging.getLogger("pi0_edge").setLevel(logging.ERROR)  # bad heads bring arms where no demonstration was
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which then stops its workers
    torch.set_num_threads(1)
