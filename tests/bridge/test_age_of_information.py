"""Telemetry names the observation behind every executed tick, and its age is computed from a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from firmware_library import HostFirmware, moved
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.bridge.telemetry import AgeOfInformation, AgeWindow, ages_s
from pi0_edge.protos.serial_link import Fragment, State, Telemetry

ROWS = [moved(20 * k) for k in range(50)]


def answering(observed_tick: int, fragments: list[Fragment]) -> list[Fragment]:
    return [replace(fragment, observed_tick=observed_tick & 0xFFFFFFFF) for fragment in fragments]


def test_telemetry_names_the_observation_behind_every_tick():
    firmware = HostFirmware().armed()
    start = firmware.tick_number
    firmware.send(*answering(start - 7, firmware.fragments(start + 3, ROWS)))
    reports = [firmware.tick() for _ in range(12)]
    now = firmware.tick_number
    firmware.send(*answering(now - 4, firmware.fragments(now + 2, ROWS[14:34])))
    reports += [firmware.tick() for _ in range(40)]
    for report in reports:
        if report.tick < start + 3:
            expected = (0, 0)
        elif report.tick < now + 2:
            expected = (1, (start - 7) & 0xFFFFFFFF)
        elif report.tick < now + 22:
            expected = (2, (now - 4) & 0xFFFFFFFF)
        else:
            expected = (0, 0)
        assert (report.chunk_id, report.observed_tick) == expected, report
    assert reports[-1].state == State.SAFE  # starved: no setpoint, no age


def test_fragments_of_different_observations_make_no_chunk():
    firmware = HostFirmware().armed()
    first, *rest = firmware.fragments(firmware.tick_number + 5, ROWS)
    firmware.send(first, *answering(1, rest))
    assert {firmware.tick().chunk_id for _ in range(20)} == {0}


def columns(reports: list[Telemetry]) -> list[np.ndarray]:
    names = ("tick", "observed_tick", "chunk_id")
    return [np.array([getattr(report, name) for report in reports], np.uint32) for name in names]


def test_age_of_a_recording():
    firmware = HostFirmware().armed()
    now = firmware.tick_number
    firmware.send(*answering(now - 3, firmware.fragments(now + 2, ROWS[:10])))
    reports = [firmware.tick() for _ in range(30)]
    ages = ages_s(*columns(reports), tick_period_s=0.02)
    assert ages == pytest.approx([0.02 * age for age in range(5, 15)])
    figure = AgeOfInformation.of(ages)
    assert figure == pytest.approx((10, 0.19, np.percentile(ages, 99), 0.28))


@given(observed=st.integers(0, 2**32 - 1), ages=st.lists(st.integers(0, 500), min_size=1, max_size=50))
def test_running_age_equals_that_of_the_recording_also_where_ticks_wrap(observed: int, ages: list[int]):
    window = AgeWindow()
    for age in ages:
        window.add((observed + age) & 0xFFFFFFFF, observed, 9)
        window.add((observed + age + 1) & 0xFFFFFFFF, 0, 0)  # a tick without a setpoint
    tick = np.array([(observed + age) & 0xFFFFFFFF for age in ages], np.uint32)
    recorded = ages_s(tick, np.full_like(tick, observed), np.ones_like(tick), 0.02)
    assert window.figure(0.02) == AgeOfInformation.of(recorded)
    assert window.figure(0.02).max_s == pytest.approx(max(ages) * 0.02)


def test_without_executed_ticks_there_is_no_age():
    assert AgeWindow().figure(0.02) == AgeOfInformation(0, 0.0, 0.0, 0.0)
