"""Are 50 setpoints a second held? Each head plays the cube transfer through bridge and firmware of the emulated board.

Everything is real but the arms: policy server, bridge, serial line, and the firmware whose timer interrupt takes a
setpoint from the ring every 20 ms or has none (`STARVED`). A chunk has to cross the line, and enters no sooner than two
ticks after that; so a chunk of few actions is over before it can be executed, however fast its head is. The count is of
ticks behind the first executed setpoint of an episode.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.bridge.schedule import link_ticks
from pi0_edge.bench.certifying import BAUD
from pi0_edge.comparison.jobs import one_thread
from pi0_edge.comparison.plan import Variant
from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run import record_run
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.errors import EngineError
from pi0_edge.latency.certificate import longest_delay, longest_latency_ms
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, TickFlag
from pi0_edge.sim.aloha import CONTROL_HZ, JOINT_NAMES
from pi0_edge.synced_files import save_synced

ATTEMPTS = 3
"""A run in which bridge or emulated board do not keep their time, because the machine is busy, says nothing."""
TIME_FAULTS = {"HEARTBEAT", "BUS_SILENT"}
"""The first: the bridge was late with its heartbeat. The second: the board or its servos were."""
SPLICE = "hold-swap"
"""The only one that every head has."""


def slowest_allowed_ms(variant: Variant) -> float:
    """The longest latency of a chunk with which the firmware never waits for a setpoint, see `latency.certificate`.

    Returns:
        Milliseconds from observation to chunk; 0 or less where no latency is short enough.
    """
    link = link_ticks(variant.horizon, len(JOINT_NAMES), BAUD, CONTROL_HZ)
    return longest_latency_ms(longest_delay(variant.horizon, variant.executed), CONTROL_HZ, link)


def play_through_firmware(
    variant: Variant, checkpoint: Path, episodes: int, folder: Path, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Plays episodes in real time and writes `clock.json` to `folder`.

    Args:
        variant: Head, chunk, and how much of it is executed.
        checkpoint: A policy for the cube transfer.
        episodes: How many.
        folder: For logs, record and result.
        say: Told what happens, one line at a time.

    Raises:
        EngineError: If no attempt gives a record; a void one is a record.
    """
    choice = PolicyChoice(scheme="fp32", checkpoint=checkpoint)
    found: dict[str, Any] = {}
    for attempt in range(ATTEMPTS):
        try:
            with one_thread():  # a network this small only waits for a second thread
                record = record_run(folder, episodes, 0, choice, SPLICE, variant.executed, say)
        except EngineError as error:  # such as an arm that became safe before the episode began
            if attempt == ATTEMPTS - 1 and not found:
                raise
            say(str(error))
            continue
        found = {"variant": variant.name, "executed": variant.executed, **figures_of_record(record)}
        found["attempts"] = attempt + 1
        if is_valid(found):
            break
        say(f"{late_parts(found)}: bridge or board did not keep its time")
    save_synced(folder / "clock.json", json.dumps(found, indent=2).encode())
    return found


def is_valid(found: dict[str, Any]) -> bool:
    """Whether the bridge, the emulated board and its servos kept their time."""
    return not late_parts(found)


def late_parts(found: dict[str, Any]) -> str:
    """The faults that say that one of them did not; empty where all did."""
    return ", ".join(fault for fault in found["faults"] if fault in TIME_FAULTS)


def figures_of_record(record: RunRecord) -> dict[str, Any]:
    """Counts of a run.

    Returns:
        ticks: Of all episodes, behind the first setpoint of each.
        starved: Of those, without a setpoint.
        never_executed: Episodes in which no setpoint of the policy was executed at all.
        chunks, accepted, late: Chunks that were made, that the firmware took, and that came too late.
        chunk_ms: Median time from observation to chunk.
        successes, episodes, faults: Of the episodes.
    """
    ticks = starved = never = 0
    for episode in range(len(record.seed)):
        during = record.tick_episode == episode
        executed = np.flatnonzero(record.executed_chunk(episode) >= 0)
        if not len(executed):
            never += 1
            continue
        behind = record.tick_flags[during][executed[0] :]
        ticks += len(behind)
        starved += int((behind & TickFlag.STARVED.value != 0).sum())
    faults = record.tick_faults[record.tick_episode >= 0]
    took = (record.chunk_received_ns - record.chunk_begin_ns) * 1e-6
    return {
        "episodes": len(record.seed),
        "successes": int(record.success.sum()),
        "ticks": ticks,
        "starved": starved,
        "never_executed": never,
        "chunks": len(record.chunk_tick),
        "accepted": int((record.chunk_outcome == ChunkReport.ACCEPTED).sum()),
        "late": int((record.chunk_outcome == ChunkReport.LATE).sum()),
        "chunk_ms": float(np.median(took)) if len(took) else None,
        "faults": [fault.name for fault in Fault if (faults & fault.value).any()],
    }
