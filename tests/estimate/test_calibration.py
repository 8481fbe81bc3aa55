"""An estimate that a measurement corrects: the ratios, what they predict and rest on, and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_results import ORIN, POLICY, measured

from pi0_edge.bench.calibrated import estimate_from, expected_stages
from pi0_edge.bench.result import Verdict
from pi0_edge.errors import BenchError, ConfigError
from pi0_edge.estimation import devices, estimate_chunk, find_device
from pi0_edge.estimation.calibration import calibrate
from pi0_edge.estimation.devices import find_board
from pi0_edge.estimation.work import Chunk, kernels
from pi0_edge.latency.stages import NETWORK, Stage
from pi0_edge.model import PRESETS
from pi0_edge.quant import find_scheme

AGX = find_device("orin-agx-64")
EXPECTED = expected_stages(ORIN.model, replace(POLICY, scheme="orin"), PRESETS["pi0"])
RATIOS: dict[str, float] = dict(zip(map(str, NETWORK), (1.3, 1.1, 1.0, 1.6), strict=True))


def stage_samples() -> dict[str, list[float]]:
    return {stage: [EXPECTED[stage] * ratio] * 459 for stage, ratio in RATIOS.items()}


def of_orin(**changes: Any) -> Any:
    """A result of AGX Orin with the scheme orin, whose network took by stage `RATIOS` of what was expected."""
    network_ms = sum(EXPECTED[stage] * RATIOS[stage] for stage in NETWORK)
    usual: dict[str, Any] = {"stages_ms": stage_samples(), "policy": {"scheme": "orin"}, "estimate_ms": EXPECTED}
    return measured([network_ms + 7.0] * 459, **{"boundary": "policy", **usual, **changes})


def test_estimate_and_measurement_call_the_stages_the_same():
    found = estimate_chunk(AGX, PRESETS["pi0"], find_scheme("orin"), 2, 20)
    assert [stage.name for stage in found.stages] == list(NETWORK)
    assert {kernel.stage for kernel in kernels(Chunk(PRESETS["pi05"], find_scheme("orin"), 1, 20, 2))} <= set(NETWORK)
    assert list(EXPECTED) == list(NETWORK)


def test_the_stages_hold_what_their_launches_cost():
    found = estimate_chunk(AGX, PRESETS["pi0"], find_scheme("orin"), 2, 20)
    assert sum(found.stages_ms.values()) == pytest.approx(found.expected_ms)
    assert all(stage.rests_on["launches"] > 0 for stage in found.stages)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", "orin-agx-64"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "orin-nx-16"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "orin-nano-super"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "thor"),
        ("Intel(R) Xeon(R) Platinum 8488C", None),
        ("", None),
    ],
)
def test_a_device_is_found_by_what_its_board_calls_itself(model: str, key: str | None):
    found = find_board(model)
    assert (None if found is None else found.key) == key


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("Intel(R) Xeon(R)", {}),
        (ORIN.model, {"engine": "cpu"}),
        (ORIN.model, {"engine": "tensorrt"}),
        (ORIN.model, {"scheme": "fp8-w8a8"}),
        (ORIN.model, {"scheme": "of a search"}),
    ],
)
def test_nothing_is_expected_of_what_the_estimate_is_not_of(model: str, changes: dict[str, Any]):
    policy = replace(POLICY, **{"scheme": "orin", **changes})
    assert expected_stages(model, policy, PRESETS["pi0"]) == {}


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(*[st.floats(0.5, 4.0)] * 4),
    st.sampled_from(["orin", "bf16", "int8-w8a8"]),
    st.integers(1, 3),
    st.integers(1, 12),
)
def test_a_device_that_is_slower_stage_by_stage_is_predicted_exactly(ratios, scheme: str, cameras: int, steps: int):
    slow = dict(zip(map(str, NETWORK), ratios, strict=True))
    taken = {stage: EXPECTED[stage] * ratio for stage, ratio in slow.items()}
    calibration = calibrate(EXPECTED, taken, sum(taken.values()))
    other = estimate_chunk(AGX, PRESETS["pi0"], find_scheme(scheme), cameras, 20, steps)
    truth = sum(other.stages_ms[stage] * slow[stage] for stage in NETWORK)
    found = calibration.of(other)
    assert found.expected_ms == pytest.approx(truth) and calibration.shared == ()
    if found.range_ms is not None:
        low, high = found.range_ms
        assert low <= truth * (1 + 1e-9) and truth <= high * (1 + 1e-9)


def test_stages_that_were_not_measured_apart_share_what_is_left():
    calibration = calibrate({"vision": 10.0, "prefix": 20.0, "state": 2.0}, {"vision": 15.0}, 59.0)
    assert calibration.ratios == {"vision": 1.5, "prefix": 2.0, "state": 2.0}
    assert calibration.shared == ("prefix", "state")
    alone = calibrate({"vision": 10.0, "prefix": 20.0}, {}, 45.0)
    assert alone.ratios == {"vision": 1.5, "prefix": 1.5}
    assert alone.of(estimate_chunk(AGX, PRESETS["pi0"], find_scheme("orin"), 2, 20)).range_ms is None


@pytest.mark.parametrize(
    ("expected", "taken", "network", "message"),
    [
        ({}, {}, 1.0, "expected milliseconds above 0"),
        ({"vision": 0.0}, {"vision": 1.0}, 1.0, "expected milliseconds above 0"),
        ({"vision": 5.0, "prefix": 5.0}, {"vision": 9.0}, 8.0, "expected time for prefix"),
    ],
)
def test_what_calibrates_nothing_is_refused(expected, taken, network: float, message: str):
    with pytest.raises(ConfigError, match=message):
        calibrate(expected, taken, network)


def test_an_estimate_from_a_result_predicts_other_policies_of_its_device():
    found = estimate_from(of_orin(), scheme="orin", cameras=2, tokens=20)
    assert found.device.key == "orin-agx-64"
    for stage in NETWORK:
        assert found.calibration.ratios[stage] == pytest.approx(RATIOS[stage])
    assert found.calibrated.expected_ms == pytest.approx(sum(EXPECTED[s] * RATIOS[s] for s in NETWORK))
    other = estimate_from(of_orin(), "pi05", "bf16", cameras=3, tokens=64, steps=5)
    assert other.calibrated.range_ms is not None
    low, high = other.calibrated.range_ms
    assert low < other.calibrated.expected_ms < high
    assert high / low == pytest.approx(1.6)
    said = " ".join(other.rests_on)
    assert "0123456789abcdef" in said and ORIN.model in said and "0 MAXN" in said
    assert "bf16 was not measured" in said and "was not measured" not in " ".join(found.rests_on)


def test_an_engine_that_tells_only_the_sum_gives_one_ratio_and_no_range():
    result = of_orin(stages_ms={Stage.PREPROCESS: [4.0] * 459, Stage.POSTPROCESS: [3.0] * 459})
    found = estimate_from(result)
    network = sum(EXPECTED[stage] * RATIOS[stage] for stage in NETWORK)
    assert len(set(found.calibration.ratios.values())) == 1
    assert found.calibration.ratios[Stage.VISION] == pytest.approx(network / sum(EXPECTED.values()))
    assert found.calibrated.range_ms is None and "one ratio stands for them" in " ".join(found.rests_on)


def test_a_queue_of_a_paced_run_is_not_taken_for_the_network():
    result = of_orin(stages_ms={}, boundary="engine")
    samples = result.runs[0].samples
    late = replace(samples, due_ns=samples.due_ns - 10**9)
    found = estimate_from(replace(result, runs=(replace(result.runs[0], samples=late),)))
    assert found.calibrated.expected_ms == pytest.approx(estimate_from(result).calibrated.expected_ms)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (of_orin(verdict=Verdict(False, ("it throttled",))), r"is void \(it throttled\)"),
        (of_orin(estimate_ms={}), "has no estimate beside it; expected the engine cuda on one of orin-agx-64"),
        (of_orin(state=replace(ORIN, model="a PC")), "is of a PC with the engine cuda"),
        (of_orin(readings=()), "a computer that does not say its model"),
        (of_orin(runs=()), "has no samples"),
        (of_orin(stages_ms={}, boundary="served"), "does not say what the network took"),
        (of_orin(estimate_ms={"vision": 0.0}), "calibrates nothing"),
    ],
)
def test_a_result_that_says_not_enough_is_refused(result: Any, message: str):
    with pytest.raises(BenchError, match=message):
        estimate_from(result)


def test_the_command_reads_a_result_or_a_receipt(tmp_path: Path):
    result, receipt = tmp_path / "result.json", tmp_path / "receipt.json"
    of_orin().save(result)
    receipt.write_text(json.dumps({"schema": "a receipt", "result": of_orin().to_dict(), "signature": "…"}))
    ran = run("estimate", "--from", result, "--scheme", "bf16", "--json")
    assert ran.code == 0
    assert (ran.result["device"], ran.result["from"]) == ("orin-agx-64", "0123456789abcdef")
    assert ran.result["measured"] is False and list(ran.result["stages_ms"]) == list(NETWORK)
    assert ran.result["ratios"]["Euler loop"] == pytest.approx(1.6)
    assert run("estimate", "--from", receipt, "--scheme", "bf16", "--json").result == ran.result
    shown = run("estimate", "--from", result, "--scheme", "bf16").out
    assert "by the smallest and the largest ratio of a stage" in shown and "measured: 0123456789abcdef" in shown


def test_the_command_says_what_it_cannot_read(tmp_path: Path):
    file = tmp_path / "receipt.json"
    without = of_orin().to_dict()
    for timed in without["runs"]:
        del timed["samples"]
    for content, words in (({"result": without}, "without samples"), ({"result": 3}, "expected pi0-edge-bench")):
        file.write_text(json.dumps(content))
        ran = run("estimate", "--from", file)
        assert ran.code == 2 and words in ran.err
    assert run("estimate", "--from", file, "--device", "thor").code == 2
    assert "leave --device out" in run("estimate", "--from", file, "--device", "thor").err


def test_every_board_belongs_to_one_device():
    boards = [board for device in devices().values() for board in device.boards]
    assert len(boards) == len(set(boards)) == 4
