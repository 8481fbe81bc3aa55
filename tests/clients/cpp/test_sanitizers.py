"""The client under AddressSanitizer and UndefinedBehaviorSanitizer: calls, refusals, streams, the loop and its ends."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cpp_client import CHECKS, EXAMPLES, CheckClient, build_with, install_library
from motion_audit import wait_until
from policy_builders import CONFIG, DIMS, write_checkpoint

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.robot import load_joints
from pi0_edge.policy import Policy
from pi0_edge.protos.serial_link import State
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

torch.set_num_threads(1)

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1"
OPTIONS = (f"-DCMAKE_CXX_FLAGS={FLAGS}", f"-DCMAKE_C_FLAGS={FLAGS}")
# Strings and vectors cross into the libraries of the system, which were compiled without the sanitizer.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_container_overflow=0"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_library(tmp_path_factory.mktemp("sanitized"), *OPTIONS)


@pytest.fixture(scope="module")
def programs(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with(prefix, CHECKS, tmp_path_factory.mktemp("check"), *OPTIONS)


@pytest.fixture(scope="module")
def closed_loop(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with(prefix, EXAMPLES, tmp_path_factory.mktemp("examples"), *OPTIONS) / "closed_loop"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyServer]:
    stats = {"mean": load_joints("aloha").home, "std": np.full(DIMS, 1e-4)}
    folder = tmp_path_factory.mktemp("policy") / "checkpoint"
    checkpoint = write_checkpoint(folder, stats=stats, config=replace(CONFIG, horizon=50))
    server = PolicyServer(Policy.load(checkpoint, "reference"), "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bridge(firmware_image: Path) -> Iterator[BridgeServer]:
    with EmulatedBoard(firmware_image) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        yield server
        server.stop()


def test_calls_and_refusals(programs: Path, policy: PolicyServer, bridge: BridgeServer, tmp_path: Path):
    check = CheckClient(programs / "check_client", ENVIRONMENT)
    (tmp_path / "top").write_bytes(bytes(40 * 60 * 3))
    state = " ".join(map(str, load_joints("aloha").home))
    asked = f"image top 40 60 rgb {tmp_path / 'top'}\nstate {state}"
    assert check("infer", policy.address, stdin=asked)[0].startswith("50 14 ")
    assert check("infer", policy.address, stdin=asked.replace("40", "41"))[0].startswith("ObservationError: ")
    said = check("bridge", bridge.address, "-", "arm", "hold", "malformed", "ticks", "estop", "clear", "arm-others")
    assert said[:2] == ["ARMED", "ACCEPTED"] and said[4:6] == ["ESTOP", "DISARMED"]


def test_the_c_interface(programs: Path, bridge: BridgeServer):
    said = CheckClient(programs / "check_c", ENVIRONMENT)("bridge", bridge.address, *load_joints("aloha").names)
    assert said[:2] == ["armed 1", "played 1"] and said[-2] == "cleared 0"


def test_the_loop_to_its_end_and_into_an_emergency_stop(closed_loop: Path, policy: PolicyServer, bridge: BridgeServer):
    argv = [str(closed_loop), "--policy", policy.address, "--bridge", bridge.address, "--seconds"]
    ran = subprocess.run([*argv, "2"], capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout.startswith("chunks: ")
    process = subprocess.Popen(
        [*argv, "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        with BridgeClient(bridge.address, "test") as client:
            assert wait_until(lambda: client.status().state == State.RUNNING, 20.0)
            client.estop("test")
            _, errors = process.communicate(timeout=60)
            client.clear()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert re.fullmatch(r"error: at tick \d+ the arm became ESTOP \(ESTOP_COMMAND\)\n", errors)
