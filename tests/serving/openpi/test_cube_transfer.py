"""openpi's stock client drives the simulated cube transfer with the shipped policy, through the documented command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("gym_aloha", reason="needs the extra sim")
pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")
pytest.importorskip("openpi_client.websocket_client_policy", reason="needs openpi-client (with --no-deps)")

from openpi_client.websocket_client_policy import WebsocketClientPolicy

from pi0_edge.evaluation.rollout import roll_out
from pi0_edge.sim.aloha import SimulatedAloha
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.tasks import TRANSFER_CUBE

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")]

EPISODES = 10
EXECUTED = 25


@pytest.fixture
def client() -> Iterator[WebsocketClientPolicy]:
    argv = [sys.executable, "-m", "pi0_edge.cli", "serve", "--listen", "127.0.0.1:0", "--openpi", "0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        address = re.search(r"openpi ready on ([\d.]+):(\d+)", said)
        assert address is not None, said
        connected = WebsocketClientPolicy(address[1], int(address[2]))
        yield connected
        connected._ws.close()
    finally:
        process.terminate()
        process.wait(20)


def test_ten_of_ten_cubes_change_hands(client: WebsocketClientPolicy):
    def control(env: SimulatedAloha, tick: int) -> np.ndarray:
        image = env.render("top", 224, 224).transpose(2, 0, 1)
        return client.infer({"state": env.state, "images": {"cam_high": image}})["actions"][:EXECUTED]

    env = AlohaTransferCube()
    try:
        rollouts = [roll_out(env, control, seed, TRANSFER_CUBE.max_ticks) for seed in range(EPISODES)]
    finally:
        env.close()
    assert [rollout.seed for rollout in rollouts if not rollout.success] == []
