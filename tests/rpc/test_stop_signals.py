"""A process that is asked to stop stops, at whatever moment the signal arrives."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pi0_edge.protos.rpc.server import stop_signals

STOPPED_AT_EVERY_LINE = """
import signal, sys
from pi0_edge.protos.rpc.server import stop_signals

def stopped_at(line):
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if event == "line" and frame.f_code.co_name == "wait" and frame.f_code.co_filename.endswith("threading.py"):
            lines += 1
            if lines == line:
                signal.raise_signal(signal.SIGTERM)
        return trace
    with stop_signals() as asked:
        sys.settrace(trace)
        stopped = asked.wait(0.5)
        sys.settrace(None)
    return stopped

line = 1
while stopped_at(line):
    print(line, flush=True)
    line += 1
"""


def test_a_signal_ends_the_wait_for_it_at_every_line_of_that_wait():
    """`Event.set` in the handler hung the bridge for ever where the wait had just taken the lock of its event."""
    command = [sys.executable, "-c", STOPPED_AT_EVERY_LINE]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"it hangs where the signal comes after line {hung.stdout} of the wait")
    assert len(ran.stdout.split()) >= 5


TAKEN_BY_ANOTHER_THREAD = """
import signal, threading, time
from pi0_edge.protos.rpc.server import stop_signals

def take(number):
    time.sleep(0.3)  # the main thread waits, and nothing but the event wakes it
    signal.pthread_kill(threading.get_ident(), number)

for number in (signal.SIGINT, signal.SIGTERM):
    with stop_signals() as asked:
        threading.Thread(target=take, args=(number,)).start()
        asked.wait()
    print(number.name, flush=True)
"""


def test_a_signal_that_another_thread_takes_ends_the_wait():
    """Linux gives a signal to any thread; its handler then waits for a main thread that nothing wakes."""
    command = [sys.executable, "-c", TAKEN_BY_ANOTHER_THREAD]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except subprocess.TimeoutExpired as hung:
        pytest.fail(f"it hangs after {hung.stdout}")
    assert ran.stdout.split() == ["SIGINT", "SIGTERM"]


def test_after_the_wait_signals_mean_what_they_meant_before():
    meaning = {number: signal.getsignal(number) for number in signal.Signals}
    descriptor = signal.set_wakeup_fd(-1)
    with stop_signals() as asked:
        assert signal.getsignal(signal.SIGTERM) is not meaning[signal.SIGTERM]
        assert not asked.is_set()
    assert {number: signal.getsignal(number) for number in signal.Signals} == meaning
    assert signal.set_wakeup_fd(descriptor) == -1
