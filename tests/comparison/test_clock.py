"""Starved ticks are counted from the first executed setpoint on; and trained heads drive the arms in real time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pi0_edge.errors import EngineError, MissingDependencyError

try:
    from pi0_edge.comparison import clock
    from pi0_edge.comparison.clock import figures_of_record, play_through_firmware, slowest_allowed_ms
    from pi0_edge.comparison.plan import FULL, RT2_LONG, VARIANTS
    from pi0_edge.comparison.tables import clock_table
    from pi0_edge.demo.run_record import RecordBuilder
    from pi0_edge.protos.bridge_pb2 import ChunkReport
    from pi0_edge.protos.serial_link import Fault, TickFlag
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

BY_NAME = {variant.name: variant for variant in VARIANTS}


def record(starved=(), first_tick=10, outcome=ChunkReport.ACCEPTED):
    """One episode of 30 ticks, and one chunk of 10 actions that answers tick 5."""
    builder = RecordBuilder()
    for tick in range(1, 31):
        flags = TickFlag.STARVED.value if tick in starved else 0
        builder.add(tick=tick, tick_episode=0, tick_flags=flags, tick_faults=0)
    builder.add(chunk_episode=0, chunk_tick=5, chunk_first_tick=first_tick, chunk_outcome=outcome)
    builder.add(chunk_begin_ns=0, chunk_received_ns=7_000_000, actions=np.zeros((10, 14)))
    builder.add(seed=0, success=False)
    return builder.build()


def test_waiting_for_the_first_chunk_is_no_starvation():
    found = figures_of_record(record(starved=(1, 2, 9)))
    assert (found["ticks"], found["starved"], found["never_executed"]) == (21, 0, 0)
    assert (found["accepted"], found["chunks"], found["chunk_ms"]) == (1, 1, 7.0)


def test_ticks_behind_the_plan_are():
    assert figures_of_record(record(starved=(16, 17, 30)))["starved"] == 3


def test_a_chunk_that_is_late_is_told():
    late = figures_of_record(record(starved=range(1, 31), first_tick=0, outcome=ChunkReport.LATE))
    assert (late["ticks"], late["never_executed"], late["late"], late["accepted"]) == (0, 1, 1, 0)


def test_chunks_of_few_actions_cannot_be_fast_enough():
    allowed = {name: slowest_allowed_ms(variant) for name, variant in BY_NAME.items()}
    assert allowed["rt2-1"] <= 0 and allowed["octo-4"] <= 0
    assert 0 < allowed["tinyvla-16"] < allowed["flow-50"] == allowed["mse-50"] == slowest_allowed_ms(RT2_LONG)


def test_the_table_says_held_only_where_every_tick_had_a_setpoint():
    cases = {"flow-50": record(), "octo-50": record(starved=(20,)), "octo-4": record(first_tick=0)}
    clocks = [{"variant": name, "executed": 1, **figures_of_record(case)} for name, case in cases.items()]
    told = {row[0]: row[6] for row in clock_table(FULL, clocks).rows}
    assert told == {"flow-50": "yes", "octo-50": "no", "octo-4": "no"}


@pytest.mark.parametrize("fault", ["BUS_SILENT", "HEARTBEAT"])
def test_a_bridge_or_board_that_did_not_keep_its_time_says_nothing_of_a_head(fault):
    found = {"variant": "flow-50", "executed": 25, **figures_of_record(record())}
    ((*_, held, faults),) = clock_table(FULL, [{**found, "faults": ["GUARD", fault]}]).rows
    assert held == f"void: bridge or board did not keep its time ({fault})" and faults == f"GUARD, {fault}"


def void():
    one = record()
    return dataclasses.replace(one, tick_faults=np.full_like(one.tick_faults, Fault.HEARTBEAT.value))


def played(monkeypatch, folder, *outcomes):
    """What is played where the attempts give these records or errors, and what is said."""
    left, said = list(outcomes), []

    def attempt(*_):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(clock, "record_run", attempt)
    return play_through_firmware(BY_NAME["flow-50"], Path("checkpoint"), 1, folder, said.append), said


def test_a_void_record_is_one_if_nothing_better_comes(monkeypatch, tmp_path):
    found, said = played(monkeypatch, tmp_path, void(), EngineError("first"), EngineError("second"))
    assert found["faults"] == ["HEARTBEAT"] and found["attempts"] == 1
    assert json.loads((tmp_path / "clock.json").read_text()) == found
    assert said[0].startswith("HEARTBEAT: bridge or board") and said[1:] == ["first", "second"]


def test_a_valid_record_ends_the_attempts(monkeypatch, tmp_path):
    found, said = played(monkeypatch, tmp_path, EngineError("first"), record())
    assert (found["faults"], found["attempts"], said) == ([], 2, ["first"])


def test_without_any_record_the_last_error_is_raised(monkeypatch, tmp_path):
    with pytest.raises(EngineError, match="third"):
        played(monkeypatch, tmp_path, *map(EngineError, ("first", "second", "third")))
    assert not (tmp_path / "clock.json").exists()
