"""The table of ways in: what was measured is counted, and every client that is installed is answered."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flashed_robot import small_bundle
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ways_in import BASIS, HEADER, WAYS, chosen, measure, ratio_to, table


def block(way: str, turn: int, times_ms: list[float], **others: Any) -> dict[str, Any]:
    told = {"way": way, "turn": turn, "client": f"client of {way}", "ms": times_ms, "load": 2.5}
    return {**told, "client_ms": 1.25, "server_ms": 2.0, "bytes": 1_843_400, **others}


def row_of(text: str, *begin: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {' | '.join(begin)} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_tells_a_way_beside_grpc() -> None:
    samples = [block("grpc", turn, [2.0] * 100) for turn in range(5)]
    samples += [block("openpi", turn, [3.0] * 99 + [50.0], server_ms=4.0) for turn in range(5)]
    text = table(samples, {"cores": "2"}, "the command")
    expected = ["openpi", "raw, channels last", "1.843", "500", "3.00", "50.00", "+1.00", "+48.00"]
    assert row_of(text, *expected[:2]) == [*expected, "1.50 [1.50, 1.50]", "1.2", "4.0"]
    assert row_of(text, "gRPC", "raw")[3:9] == ["500", "2.00", "2.00", "–", "–", "–"]
    assert len(row_of(text, "gRPC", "raw")) == len(HEADER)
    assert (
        "`the command`" in text and "load average: 2.5 to 2.5" in text and "client of openpi: client of openpi" in text
    )
    assert "LeRobot" not in text  # it was not measured


def test_too_few_samples_have_no_99th_percentile() -> None:
    text = table([block("grpc", 0, [2.0] * 20), block("openpi", 0, [3.0] * 20)], {}, "")
    assert row_of(text, "openpi", "raw, channels last")[5:8] == ["not enough: 20 of 459 samples", "+1.00", "–"]


@given(
    st.lists(st.floats(0.5, 50.0), min_size=1, max_size=12),
    st.floats(0.1, 10.0),
    st.lists(st.floats(0.5, 20.0), min_size=12, max_size=12),
)
def test_what_slows_both_ways_in_a_turn_does_not_change_their_ratio(
    times: list[float], ratio: float, slow: list[float]
) -> None:
    basis = [block("grpc", turn, [ms * slow[turn] for ms in times]) for turn in range(12)]
    other = [block("openpi", turn, [ms * slow[turn] * ratio for ms in times]) for turn in range(12)]
    np.testing.assert_allclose(ratio_to(basis, other), [ratio] * 3, rtol=1e-9)


def test_a_way_that_is_not_known_is_refused() -> None:
    assert [way.name for way in chosen("openpi,grpc")] == ["openpi", "grpc"]
    with pytest.raises(SystemExit, match="no way 'grcp'; expected some of bare, grpc"):
        chosen("grcp")


@pytest.mark.real_time
@pytest.mark.slow
def test_every_client_is_answered(tmp_path: Path) -> None:
    needs = {"openpi": "openpi_client", "lerobot": "torch"}
    ways = [way for way in WAYS if importlib.util.find_spec(needs.get(way.server, "grpc")) is not None]
    samples: list[dict[str, Any]] = []
    measure(small_bundle(tmp_path), ways, turns=2, block=2, keep=samples.append)
    assert [one["turn"] for one in samples] == [0] * len(ways) + [1] * len(ways)
    assert {one["way"] for one in samples} == {way.name for way in ways}
    assert all(len(one["ms"]) == 2 and min(one["ms"]) > 0 for one in samples)
    raw = {one["way"]: one["bytes"] for one in samples}
    assert raw["grpc-jpeg"] < raw[BASIS] / 4
    assert all(2 * 480 * 640 * 3 <= size < 1.01 * 2 * 480 * 640 * 3 for way, size in raw.items() if way != "grpc-jpeg")
    assert json.loads(json.dumps(samples)) == samples
