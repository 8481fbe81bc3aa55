"""The example that closes the loop in C++: real policy server, real bridge, real firmware; and its ends."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_audit import wait_until
from policy_builders import CONFIG, DIMS, write_checkpoint

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.robot import load_joints
from pi0_edge import Policy, PolicyServer
from pi0_edge.latency.percentiles import Latency, percentile_text
from pi0_edge.protos.serial_link import State

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binary PPM."""
    path = tmp_path_factory.mktemp("image") / "top.ppm"
    path.write_bytes(b"P6\n60 40\n255\n" + np.random.default_rng(0).bytes(60 * 40 * 3))
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Random weights, whose actions stay near home, so that every chunk begins where the arm is, however late it is."""
    stats = {"mean": load_joints("aloha").home, "std": np.full(DIMS, 1e-4)}
    folder = tmp_path_factory.mktemp("policy") / "checkpoint"
    return Policy.load(write_checkpoint(folder, stats=stats, config=replace(CONFIG, horizon=50)), "reference")


@pytest.fixture
def policy_server(policy: Policy) -> Iterator[PolicyServer]:
    server = PolicyServer(policy, "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bridge(firmware_image: Path) -> Iterator[BridgeServer]:
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        yield server
        server.stop()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(cpp_examples: Path, policy_server: PolicyServer, bridge: BridgeServer, image: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def started(*arguments: str) -> subprocess.Popen[str]:
        argv = [str(cpp_examples / "closed_loop"), "--policy", policy_server.address, "--bridge", bridge.address]
        argv += ["--image", str(image), *arguments]
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield started
    for process in running:
        process.kill()
        process.communicate()


@contextmanager
def moving(bridge: BridgeServer) -> Iterator[BridgeClient]:
    """A client beside the loop, from when the arm moves on."""
    with BridgeClient(bridge.address, "test") as client:
        client.wait_ready()
        assert wait_until(lambda: client.status().state == State.RUNNING, 20.0)
        yield client


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=60)
    return process.returncode, out, errors


def test_the_loop_plays_continued_chunks_and_tells_its_jitter(start: Start, bridge: BridgeServer, tmp_path: Path):
    code, said, errors = ended(start("--seconds", "4", "--intervals", str(tmp_path / "intervals")))
    assert (code, errors) == (0, "")
    counts = re.match(r"chunks: (\d+) accepted, (\d+) continued the plan, (\d+) failed", said)
    assert counts is not None, said
    accepted, continued = int(counts[1]), int(counts[2])
    assert accepted > 1 and 0 < continued < accepted + int(counts[3])
    with BridgeClient(bridge.address) as client:
        assert client.status().state == State.DISARMED

    intervals = [float(line) for line in (tmp_path / "intervals").read_text().split()]
    deviations = [abs(interval - 20.0) for interval in intervals]
    figures = Latency.of(deviations)
    expected = (
        f"this program: interval of ticks, deviation: n {figures.count}, p50 {figures.p50_ms:.4g} ms, p90 "
        f"{percentile_text(figures.p90_ms, 0.9, figures.count)}, p99 "
        f"{percentile_text(figures.p99_ms, 0.99, figures.count)}, max {figures.max_ms:.4g} ms"
    )
    assert rounded(expected) in [rounded(line) for line in said.splitlines()]


def rounded(line: str) -> str:
    """A line whose figures are told with three digits: the file holds the intervals with nine."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda figure: f"{float(figure[0]):.3g}", line)


def test_ctrl_c_disarms(start: Start, bridge: BridgeServer):
    process = start("--seconds", "60")
    with moving(bridge) as client:
        process.send_signal(signal.SIGINT)
        code, said, errors = ended(process)
        assert (code, errors) == (0, "") and said.startswith("chunks: ")
        assert client.status().state == State.DISARMED


def test_an_emergency_stop_by_somebody_else_ends_the_loop_with_its_reason(start: Start, bridge: BridgeServer):
    process = start("--seconds", "60")
    with moving(bridge) as client:
        client.estop("test")
        code, _, errors = ended(process)
        assert code == 1
        assert re.fullmatch(r"error: at tick \d+ the arm became ESTOP \(ESTOP_COMMAND\)\n", errors)
        assert client.status().state == State.ESTOP


def test_a_disarm_by_the_bridge_ends_the_loop(start: Start, bridge: BridgeServer):
    process = start("--seconds", "60")
    with moving(bridge):
        bridge.stop()
    code, _, errors = ended(process)
    assert code == 1 and errors.startswith("error: ") and len(errors.splitlines()) == 1


def test_a_policy_server_that_dies_ends_the_loop_and_disarms(
    start: Start, bridge: BridgeServer, policy_server: PolicyServer
):
    process = start("--seconds", "60")
    with moving(bridge) as client:
        policy_server.stop()
        code, _, errors = ended(process)
        assert code == 1
        assert re.match(r"error: 5 chunks in a row came to nothing: .*policy", errors), errors
        assert wait_until(lambda: client.status().state == State.DISARMED)


def test_a_splice_that_the_policy_was_not_trained_for_is_refused_before_the_arm_is_armed(
    start: Start, bridge: BridgeServer
):
    code, _, errors = ended(start("--splice", "trained-rtc"))
    assert code == 1
    assert errors == "error: splice is 'trained-rtc'; expected one that this policy allows: hold-swap, rtc\n"
    with BridgeClient(bridge.address) as client:
        assert client.status().state == State.DISARMED


def test_an_image_that_is_none_is_refused(start: Start, tmp_path: Path):
    (tmp_path / "none.ppm").write_bytes(b"P6\n400 400\n255\n")
    code, _, errors = ended(start("--image", str(tmp_path / "none.ppm")))
    assert (code, errors) == (1, f"error: {tmp_path / 'none.ppm'} ends before its last pixel\n")
