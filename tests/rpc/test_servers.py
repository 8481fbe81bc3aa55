"""Both servers as processes: TLS, metrics, JSON logs, and a drain that ends cleanly."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from motion_audit import ALOHA, executed_ticks, fast_swing
from network_peers import REFUSED, make_peers
from policy_builders import observation, write_checkpoint
from prometheus_client.parser import text_string_to_metric_families

from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError
from pi0_edge.errors import ServingError
from pi0_edge.policy import Policy
from pi0_edge.protos.serial_link import State
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = 30.0


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_peers(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def policy_address(peers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    policy = Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")
    server = PolicyServer(policy, "0.0.0.0:0", tls=peers["server"])
    server.start()
    yield server.address.replace("0.0.0.0", "localhost")
    server.stop()


def test_a_remote_policy_server_answers_only_the_command_role(policy_address: str, peers: dict[str, Path]):
    with PolicyClient(policy_address, tls=peers["command"]) as client:
        client.wait_ready(10)
        assert client.infer(observation(), 7, 8).clock.tick == 7
    with PolicyClient(policy_address, tls=peers["observe"]) as client:
        assert client.metadata().model == "pi0"
        with pytest.raises(ServingError, match="Infer needs a certificate with the role command"):
            client.infer(observation(), 7, 8)
    with PolicyClient(policy_address, tls=peers["estop"]) as client, pytest.raises(ServingError, match="role observe"):
        client.metadata()


@pytest.mark.parametrize("peer", [*REFUSED, None])
def test_a_policy_server_refuses_clients_without_a_valid_certificate(
    policy_address: str, peers: dict[str, Path], peer: str | None
):
    refused = pytest.raises(ServingError, match="accepts no connection: it may ask for certificates")
    with PolicyClient(policy_address, 5, peers[peer] if peer else None) as client, refused:
        client.metadata()


@contextmanager
def bridge_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, object]]]]:
    """A bridge, and its log up to the line that reports it ready."""
    argv = [sys.executable, "-m", "firmware_bridge", "--log-json", *arguments]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT) as process:
        assert process.stderr is not None
        lines: list[dict[str, object]] = []
        try:
            deadline = time.monotonic() + READY_LIMIT_S
            while not lines or "bridge ready" not in str(lines[-1]["message"]):
                assert select.select([process.stderr], [], [], deadline - time.monotonic())[0], lines
                lines.append(json.loads(process.stderr.readline()))
            yield process, lines
        finally:
            process.kill()


def found(lines: list[dict[str, object]], pattern: str) -> str:
    return next(match[1] for line in lines if (match := re.search(pattern, str(line["message"]))))


def scrape(address: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join((sample.name, *sorted(sample.labels.values()))): sample.value for sample in samples}


def test_a_bridge_counts_logs_drains_and_disarms(firmware_image: Path, peers: dict[str, Path], tmp_path: Path):
    record = tmp_path / "record"
    with (
        EmulatedBoard(firmware_image, record=record) as board,
        bridge_process("--port", board.port, "--listen", "0.0.0.0:0", "--tls", str(peers["server"]),
                       "--metrics-port", "0") as (process, lines),
    ):  # fmt: skip
        address = found(lines, r"listening on 0\.0\.0\.0(:\d+)").replace(":", "localhost:")
        metrics = found(lines, r"http://(\S+)/metrics")
        with BridgeClient(address, "planner", peers["command"]) as client:
            client.wait_ready()
            assert client.estop("a test") == State.ESTOP
            client.clear()
            client.arm(ALOHA.names)
            with client.play() as stream:
                start = client.status().tick
                for actions, tick in ((fast_swing(np.arange(1, 51)), start), (ALOHA.home[None], 1)):
                    stream.send(actions, tick)
                    assert stream.next_report(2.0) is not None
                figures = scrape(metrics)
                process.send_signal(signal.SIGTERM)
                _, rest = process.communicate(timeout=20)
            with pytest.raises(BridgeError):
                client.status()
        assert process.returncode == 0
    lines += [json.loads(line) for line in rest.splitlines()]
    assert figures["pi0_edge_chunks_total ACCEPTED"] == figures["pi0_edge_chunks_total LATE"] == 1
    assert figures["pi0_edge_chunks_total LOST"] == 0
    assert figures["pi0_edge_estops_total"] == figures["pi0_edge_faults_total ESTOP_COMMAND"] == 1
    assert figures["pi0_edge_link_up"] == 1
    assert 0 < figures["pi0_edge_round_trip_seconds"] < 1
    assert figures["pi0_edge_calls_total /pi0_edge.v1.RobotBridge/Arm OK"] == 1
    assert sum(figures[f"pi0_edge_arm_state {state.name}"] for state in State) == 1
    calls = [(line["method"], line["peer"], line["role"]) for line in lines if "method" in line]
    for name in ("EStop", "Clear", "Arm", "PlayChunks"):
        assert (f"/pi0_edge.v1.RobotBridge/{name}", "command", "command") in calls
    assert executed_ticks(record)[-1].state == State.DISARMED
