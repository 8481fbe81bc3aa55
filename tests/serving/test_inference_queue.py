"""The thread of the inferences says that it is alive, and one that hangs says nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pi0_edge.errors import BusyError
from pi0_edge.serving.inference_queue import WAITING, InferenceQueue


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def queue(said: list[str]) -> Iterator[InferenceQueue]:
    made = InferenceQueue(on_alive=lambda: said.append(threading.current_thread().name))
    yield made
    made.close()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_it_says_so_in_its_own_thread_when_it_is_knocked_at(queue: InferenceQueue, said: list[str]):
    queue.knock()
    wait_until(lambda: said)
    assert said == ["inference_0"]


def test_it_says_so_after_each_request_even_one_that_fails(queue: InferenceQueue, said: list[str]):
    assert queue.run(lambda: threading.current_thread().name) == "inference_0"
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 // 0)
    assert len(said) == 2


def test_one_that_hangs_says_nothing_and_is_knocked_at_once(queue: InferenceQueue, said: list[str]):
    running, end = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        end.wait(10)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(queue.run, hang)
        running.wait(5)
        for _ in range(100):
            queue.knock()
        assert said == []
        end.set()
        asked.result(5)
        wait_until(lambda: len(said) == 2)  # the request and one knock


def test_knocking_takes_no_place_of_a_request(queue: InferenceQueue):
    running, end = threading.Event(), threading.Event()

    def hang() -> None:
        running.set()
        end.wait(10)

    with ThreadPoolExecutor(WAITING + 2) as pool:
        asked = [pool.submit(queue.run, hang)]
        running.wait(5)
        queue.knock()
        asked += [pool.submit(queue.run, lambda: None) for _ in range(WAITING)]
        wait_until(lambda: queue._places._value == 0)  # pyright: ignore[reportAttributeAccessIssue]
        queue.knock()
        with pytest.raises(BusyError):
            queue.run(lambda: None)
        end.set()
        for each in asked:
            each.result(5)
