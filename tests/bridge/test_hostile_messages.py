"""Hostile messages to the bridge, of peers without the arm and of one that holds it: refusals, and no motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile_peers import Tally, attack_grpc, attack_lease
from motion_audit import executed_ticks
from watched_server import asking

from firmware_bridge.bridge.server import SERVICE, BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from pi0_edge.protos.serial_link import State

pytestmark = pytest.mark.real_time


def test_nothing_of_it_moves_the_arm_and_a_watcher_is_answered(firmware_image: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    without, held = Tally(), Tally()
    with EmulatedBoard(firmware_image, record=record) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        try:
            with BridgeClient(server.address) as watcher, asking(watcher.status) as good:
                watcher.wait_ready()
                attack_grpc(server.address, SERVICE, 200, 7, without)
                moved = attack_lease(server.address, 60, 7, held)
                assert watcher.status().state in (State.DISARMED, State.SAFE)
        finally:
            server.stop()
    assert without.wrong == [] and held.wrong == []
    assert (without.sent, held.sent) == (200, 60)
    assert without.refused.total() > 100 and held.refused.total() == 60
    assert good.failed == [] and good.answers > 0
    assert max(map(abs, moved)) < 1e-6
    executed = np.array([tick.executed for tick in executed_ticks(record)])
    assert np.ptp(executed, axis=0).max() < 1e-6
