"""`pi0-edge serve` as a process of its own: ready line, chunks, and a graceful end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
from policy_builders import observation, write_checkpoint

from pi0_edge.serving.latency_budget import LATE_EXIT_CODE
from pi0_edge.serving.policy_client import PolicyClient

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("served") / "checkpoint")


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_serves_until_it_is_told_to_stop(checkpoint, stop):
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--checkpoint", str(checkpoint), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*argv, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = re.fullmatch(r"policy ready on (127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert ready is not None
        with PolicyClient(ready[1]) as client:
            client.wait_ready(10)
            assert client.metadata().scheme == "int8-w8a8"
            assert client.infer(observation(), 1, 2).clock.tick == 1
        process.send_signal(stop)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == "policy server stopped after 1 chunks\n"
    assert err == ""


def test_a_policy_that_is_late_too_often_ends_itself_with_a_code_of_its_own(checkpoint):
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--checkpoint", str(checkpoint), "--listen", "127.0.0.1:0"]
    argv += ["--budget-ms", "0.1", "--threads", "1", "--json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        address = process.stderr.readline().removeprefix("policy ready on ").strip()
        with PolicyClient(address) as client:
            for tick in range(8):
                assert client.infer(observation(), tick, 2).clock.tick == tick
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == LATE_EXIT_CODE == 7
    result = json.loads(out.splitlines()[-1])
    assert result["chunks"] == 8
    assert result["late"].startswith("8 of the last 8 chunks took longer than the budget of 0.1 ms")


@pytest.mark.slow
def test_with_json_the_last_line_counts_the_chunks(checkpoint):
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--checkpoint", str(checkpoint), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*argv, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("policy ready on ")
        process.terminate()
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert json.loads(out.splitlines()[-1]) == {"chunks": 0}
