"""The queue before the network: turns, shares, gathering, what is dropped, and the thread that says it is alive."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import BusyError, DeadlineError, StoppingError
from pi0_edge.serving import inference_queue
from pi0_edge.serving.inference_queue import WAITING_OF_ONE, Batching, InferenceQueue

HOLD = "hold"


class Gate:
    """Answers each request with itself; the request `HOLD` keeps the thread until `opened`.

    Attributes:
        passes: What was answered together, in order, without `HOLD`.
    """

    def __init__(self) -> None:
        self.held, self.opened = threading.Event(), threading.Event()
        self.passes: list[list[object]] = []

    def __call__(self, asked: Sequence[object]) -> list[object | Exception]:
        if HOLD in asked:
            self.held.set()
            assert self.opened.wait(20)
        else:
            self.passes.append(list(asked))
        return [ZeroDivisionError("asked for") if each == "error" else each for each in asked]


class Asking:
    """A queue behind a gate, asked from many threads, whose requests enter in the order in which they are asked."""

    def __init__(self, batching: Batching | None = None, on_alive: Callable[[], object] | None = None) -> None:
        self.gate = Gate()
        self.waited: list[Sequence[float]] = []
        self.queue: InferenceQueue[object, object] = InferenceQueue(
            self.gate, batching, on_alive, on_pass=self.waited.append
        )
        self._pool = ThreadPoolExecutor(64)

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.opened.set()
        self.queue.close()
        self._pool.shutdown()

    def hold(self) -> Future[object]:
        """Keeps the thread busy until the gate opens."""
        held = self.ask(HOLD, "holder")
        assert self.gate.held.wait(20)
        return held

    def ask(self, asked: object, client: str = "", timeout_s: float | None = None) -> Future[object]:
        """Asks, and returns once the request waits or was refused."""
        queued = threading.Event()
        answer = self._pool.submit(self.queue.run, asked, client, timeout_s, lambda drop: queued.set())
        answer.add_done_callback(lambda _: queued.set())
        assert queued.wait(20)
        return answer


@pytest.fixture
def asking() -> Iterator[Asking]:
    with Asking() as made:
        yield made


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


# The thread that says it is alive.


def test_it_says_so_in_its_own_thread_when_it_is_knocked_at():
    said: list[str] = []
    with Asking(on_alive=lambda: said.append(threading.current_thread().name)) as asking:
        asking.queue.knock()
        wait_until(lambda: said)
        assert said == ["inference_0"]


def test_it_says_so_after_each_request_even_one_that_fails():
    said: list[int] = []
    with Asking(on_alive=lambda: said.append(1)) as asking:
        assert asking.queue.run("a") == "a"
        with pytest.raises(ZeroDivisionError):
            asking.queue.run("error")
        wait_until(lambda: len(said) == 2)


def test_one_that_hangs_says_nothing_and_is_knocked_at_once():
    said: list[int] = []
    with Asking(on_alive=lambda: said.append(1)) as asking:
        held = asking.hold()
        for _ in range(100):
            asking.queue.knock()
        assert said == []
        asking.gate.opened.set()
        held.result(20)
        wait_until(lambda: len(said) == 2)  # the pass and one knock
        time.sleep(0.02)
        assert len(said) == 2


def test_knocking_takes_no_place_of_a_request(asking: Asking):
    asking.hold()
    asking.queue.knock()
    asked = [asking.ask(number) for number in range(WAITING_OF_ONE)]
    asking.queue.knock()
    with pytest.raises(BusyError):
        asking.queue.run("one more")
    asking.gate.opened.set()
    assert [each.result(20) for each in asked] == list(range(WAITING_OF_ONE))


# Turns and shares.


def test_clients_take_turns_and_one_that_floods_waits_behind_the_others(asking: Asking):
    asking.hold()
    answers = [asking.ask(f"flood {number}", "flood") for number in range(3)]
    answers += [asking.ask("calm", "calm"), asking.ask("late", "late")]
    asking.gate.opened.set()
    for answer in answers:
        answer.result(20)
    order = [asked for each in asking.gate.passes for asked in each]
    assert order == ["flood 0", "calm", "late", "flood 1", "flood 2"]


def test_a_client_with_its_share_of_places_is_refused_and_others_are_not(asking: Asking):
    asking.hold()
    for number in range(WAITING_OF_ONE):
        asking.ask(number, "flood")
    with pytest.raises(BusyError, match="3 observations of yours wait already; send the next one after a chunk"):
        asking.queue.run("one more", "flood")
    calm = asking.ask("calm", "calm")
    asking.gate.opened.set()
    assert calm.result(20) == "calm"


def test_no_more_wait_than_places_are_there_for_all(asking: Asking):
    asking.hold()
    most = Batching().waiting
    answers = [asking.ask(number, f"robot {number}") for number in range(most)]
    assert asking.queue.waiting == most
    with pytest.raises(BusyError, match=f"{most} observations of all clients wait already"):
        asking.queue.run("one more", "another")
    asking.gate.opened.set()
    assert [answer.result(20) for answer in answers] == list(range(most))
    assert asking.queue.run("one more", "another") == "one more"


def test_larger_passes_have_more_places():
    assert Batching(8).waiting > Batching(1).waiting >= 8


@settings(max_examples=60, deadline=None)
@given(
    clients=st.lists(st.integers(0, 5), max_size=14),
    most=st.integers(1, 8),
    dropped=st.sets(st.integers(0, 13), max_size=5),
)
def test_whatever_comes_is_answered_once_in_fair_turns_or_refused(clients: list[int], most: int, dropped: set[int]):
    with Asking(Batching(most)) as asking:
        held = asking.hold()
        drops: dict[int, Callable[[], None]] = {}
        outcomes: dict[int, Future[object]] = {}
        for number, client in enumerate(clients):
            queued = threading.Event()

            def keep(drop: Callable[[], None], number: int = number, queued: threading.Event = queued) -> None:
                drops[number] = drop
                queued.set()

            outcome = asking._pool.submit(asking.queue.run, number, str(client), None, keep)
            outcome.add_done_callback(lambda _, queued=queued: queued.set())
            assert queued.wait(20)
            outcomes[number] = outcome
        assert asking.queue.waiting == len(drops)
        gone = dropped & drops.keys()
        for number in gone:
            drops[number]()
        asking.gate.opened.set()
        held.result(20)
        for number, outcome in outcomes.items():
            if number in gone:
                assert isinstance(outcome.exception(20), DeadlineError)
            elif number in drops:
                assert outcome.result(20) == number
            else:
                assert isinstance(outcome.exception(20), BusyError)
        passes = asking.gate.passes

    waiting = Counter(clients[number] for number in drops)
    assert all(count <= WAITING_OF_ONE for count in waiting.values())
    assert waiting == {client: min(count, WAITING_OF_ONE) for client, count in Counter(clients).items()}
    assert all(1 <= len(each) <= most for each in passes)
    order = [int(str(number)) for each in passes for number in each]
    assert sorted(order) == sorted(drops.keys() - gone)
    assert len(passes) == -(-len(order) // most), "no pass is run with free places while others wait"
    for client in set(clients):
        own = [number for number in order if clients[number] == client]
        assert own == sorted(own), "a client's own requests keep their order"
        for first, second in pairwise(own):
            between = Counter(clients[n] for n in order[order.index(first) + 1 : order.index(second)])
            for other, count in between.items():
                assert count == 1, f"client {other} had two turns between two of client {client}"
        before = Counter(clients[number] for number in (order[: order.index(own[0])] if own else []))
        assert all(count == 1 for count in before.values()), "nobody had a second turn before somebody's first"


# Gathering.


def test_what_waits_is_answered_together_and_what_comes_later_is_not_waited_for():
    with Asking(Batching(4)) as asking:
        asking.hold()
        answers = [asking.ask(number, str(number)) for number in range(6)]
        asking.gate.opened.set()
        assert [answer.result(20) for answer in answers] == list(range(6))
        assert asking.gate.passes == [[0, 1, 2, 3], [4, 5]]
        assert [len(waited) for waited in asking.waited] == [1, 4, 2]
        assert all(0 <= seconds < 60 for waited in asking.waited for seconds in waited)


def test_a_pass_waits_for_others_no_longer_than_it_may():
    with Asking(Batching(3, wait_s=60.0)) as asking:
        answers = [asking.ask(number, str(number)) for number in range(3)]
        assert [answer.result(20) for answer in answers] == [0, 1, 2], "a full pass waits no more"
        assert asking.gate.passes == [[0, 1, 2]]
    with Asking(Batching(3, wait_s=0.05)) as asking:
        began = time.monotonic()
        assert asking.queue.run("alone") == "alone"
        assert time.monotonic() - began >= 0.05


def test_a_request_that_has_waited_for_its_turn_waits_for_no_other(monkeypatch: pytest.MonkeyPatch):
    now_s = [0.0]
    monkeypatch.setattr(inference_queue, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with Asking(Batching(2, wait_s=600.0)) as asking:
        asking.ask(HOLD, "holder")
        other = asking.ask("other", "other")  # fills the first pass, which the gate holds
        assert asking.gate.held.wait(20)
        late = asking.ask("late")
        now_s[0] = 601.0
        asking.gate.opened.set()
        assert (other.result(20), late.result(20)) == ("other", "late")
        assert [list(waited) for waited in asking.waited] == [[0.0, 0.0], [601.0]]


# Faults.


def test_one_that_fails_spoils_no_other_of_its_pass():
    with Asking(Batching(3)) as asking:
        asking.hold()
        answers = [asking.ask(each, str(each)) for each in ("a", "error", "c")]
        asking.gate.opened.set()
        assert answers[0].result(20) == "a" and answers[2].result(20) == "c"
        assert isinstance(answers[1].exception(20), ZeroDivisionError)
        assert asking.gate.passes == [["a", "error", "c"]]


def test_a_pass_that_fails_as_a_whole_fails_each_and_the_next_one_runs():
    def fail(asked: Sequence[str]) -> list[str]:
        if "bad" in asked:
            raise MemoryError("of the pass")
        return list(asked) if "short" not in asked else []

    queue: InferenceQueue[str, str] = InferenceQueue(fail)
    with pytest.raises(MemoryError):
        queue.run("bad")
    with pytest.raises(ValueError, match="zip"):  # fewer answers than questions: nobody hangs
        queue.run("short")
    assert queue.run("good") == "good"
    queue.close()


def test_figures_that_fail_let_nobody_hang():
    def fail(_: Sequence[float]) -> None:
        raise OSError("no figures")

    queue: InferenceQueue[str, str] = InferenceQueue(list, on_pass=fail)
    with pytest.raises(OSError, match="no figures"):
        queue.run("a", timeout_s=20)
    queue.close()


def test_a_client_that_vanishes_takes_no_place_in_a_pass():
    with Asking(Batching(2)) as asking:
        asking.hold()
        drops: list[Callable[[], None]] = []
        gone = asking._pool.submit(asking.queue.run, "gone", "gone", None, drops.append)
        wait_until(lambda: drops)
        answers = [asking.ask(each, each) for each in ("a", "b")]
        drops[0]()
        assert isinstance(gone.exception(20), DeadlineError)
        assert asking.queue.waiting == 2
        asking.gate.opened.set()
        assert [answer.result(20) for answer in answers] == ["a", "b"]
        assert asking.gate.passes == [["a", "b"]]
        drops[0]()  # once more, after all is over


def test_a_deadline_is_kept_and_what_is_late_is_never_run(asking: Asking):
    asking.hold()
    late = asking.ask("late", timeout_s=0.02)
    with pytest.raises(DeadlineError, match=r"no chunk within the deadline of 0\.020 s"):
        late.result(20)
    assert asking.queue.waiting == 0
    asking.gate.opened.set()
    assert asking.queue.run("next") == "next"
    assert asking.gate.passes == [["next"]]


def test_closing_drops_what_waits_lets_the_running_one_end_and_refuses_what_comes(asking: Asking):
    held = asking.hold()
    waiting = [asking.ask(number, str(number)) for number in range(5)]
    asking.queue.close()
    for each in waiting:
        assert isinstance(each.exception(20), StoppingError)
    with pytest.raises(StoppingError, match="shutting down; ask another one"):
        asking.queue.run("new")
    asking.gate.opened.set()
    assert held.result(20) == HOLD
    assert asking.gate.passes == []


def test_it_is_idle_once_everything_is_answered_or_dropped(asking: Asking):
    assert asking.queue.wait_idle(0)
    held = asking.hold()
    assert not asking.queue.wait_idle(0.01), "one runs"
    late = asking.ask("late", "late", timeout_s=0.02)
    waiting = asking.ask("waits", "waits")
    assert isinstance(late.exception(20), DeadlineError)
    assert not asking.queue.wait_idle(0.01)
    asking.gate.opened.set()
    assert asking.queue.wait_idle(20)
    assert held.result(20) == HOLD and waiting.result(20) == "waits"


def test_closing_ends_the_wait_for_others():
    with Asking(Batching(4, wait_s=600.0)) as asking:
        alone = asking.ask("alone")
        asking.queue.close()
        assert isinstance(alone.exception(20), StoppingError)


def test_nothing_is_kept_of_clients_that_are_answered(asking: Asking):
    for number in range(300):
        asking.queue.run(number, f"client {number}")
    assert len(asking.queue._of_client) == 0
