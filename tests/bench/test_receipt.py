"""A receipt is signed as a whole, holds where the repetition is as fast, and does not where it is slower or another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_results import bench_result

from pi0_edge.bench.opening import TargetRequest
from pi0_edge.bench.receipt import read_receipt, repetition, verify_repetition, write_receipt
from pi0_edge.bench.result import BenchResult, Verdict
from pi0_edge.bench.running import BenchPlan
from pi0_edge.bundle import write_key_pair
from pi0_edge.errors import BenchError
from pi0_edge.latency.stages import Boundary


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    write_key_pair(tmp_path / "key.pem", tmp_path / "key.pub.pem")
    return tmp_path / "key.pem", tmp_path / "key.pub.pem"


def valid() -> BenchResult:
    return replace(bench_result(), verdict=Verdict(True, ()))


def slower(said: BenchResult, factor: float) -> BenchResult:
    """The same, every chunk so many times slower."""
    runs = []
    for run in said.runs:
        took = ((run.samples.end_ns - run.samples.due_ns) * factor).astype(np.int64)
        runs.append(replace(run, samples=replace(run.samples, end_ns=run.samples.due_ns + took)))
    return replace(said, runs=tuple(runs))


def test_what_was_written_is_read_and_its_signature_checked(tmp_path: Path, keys: tuple[Path, Path]):
    path = tmp_path / "receipt.json"
    write_receipt(valid(), path, keys[0])
    receipt = read_receipt(path, keys[1])
    assert receipt.signed and receipt.result.to_dict() == valid().to_dict()
    assert set(receipt.noise) == {run.mode for run in valid().runs}
    assert not read_receipt(path).signed


@pytest.mark.parametrize(
    "change",
    [
        lambda read: read["result"]["policy"].update(gate="passed!"),
        lambda read: read["result"]["runs"][0]["samples"]["end_ns"].__setitem__(3, 1),
        lambda read: read["noise"].update(closed=9.0),
        lambda read: read.update(more=1),
        lambda read: read.update(signature="00" * 64),
        lambda read: read.update(signature="no"),
        lambda read: read.pop("signature"),
    ],
)
def test_whatever_is_changed_is_refused(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path, keys: tuple[Path, Path]
):
    path = tmp_path / "receipt.json"
    write_receipt(valid(), path, keys[0])
    read = json.loads(path.read_text())
    change(read)
    path.write_text(json.dumps(read))
    with pytest.raises(BenchError, match=r"refused|not hexadecimal"):
        read_receipt(path, keys[1])


def test_the_key_of_somebody_else_is_refused(tmp_path: Path, keys: tuple[Path, Path]):
    write_key_pair(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    write_receipt(valid(), tmp_path / "receipt.json", keys[0])
    with pytest.raises(BenchError, match="another key"):
        read_receipt(tmp_path / "receipt.json", tmp_path / "other.pub.pem")


def test_a_void_result_gets_none(tmp_path: Path, keys: tuple[Path, Path]):
    void = replace(bench_result(), verdict=Verdict(False, ("the board throttled",)))
    with pytest.raises(BenchError, match="void result gets no receipt: the board throttled"):
        write_receipt(void, tmp_path / "receipt.json", keys[0])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema":"pi0-edge-receipt","version":2}',
                                     '{"schema":"pi0-edge-receipt","version":1,"noise":{"closed":"x"}}',
                                     '{"schema":"pi0-edge-receipt","version":1,"noise":{}}',
                                     '{"schema":"pi0-edge-receipt","version":1,"noise":{},"result":{}}'])  # fmt: skip
def test_what_is_no_receipt_is_refused_in_words(content: str, tmp_path: Path):
    (tmp_path / "receipt.json").write_text(content)
    with pytest.raises(BenchError, match="receipt"):
        read_receipt(tmp_path / "receipt.json")


def test_it_holds_where_the_repetition_is_as_fast_or_faster(tmp_path: Path, keys: tuple[Path, Path]):
    write_receipt(valid(), tmp_path / "receipt.json", keys[0])
    receipt = read_receipt(tmp_path / "receipt.json", keys[1])
    for factor in (1.0, 1.005, 0.5):
        assert verify_repetition(receipt, slower(valid(), factor)).holds
    found = verify_repetition(receipt, slower(valid(), 1.3))
    assert not found.holds and "times the receipt's median" in found.reasons[0]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"bundle_sha256": "aa" * 32}, "the bundle is aaaa"),
        ({"bundle_sha256": "", "name": "random pi0"}, "the bundle is random pi0"),
        ({"engine": "cpu"}, "the engine is cpu"),
        ({"scheme": "fp32"}, "the scheme is fp32"),
        ({"euler_steps": 1}, "the number of Euler steps is 1"),
    ],
)
def test_another_policy_is_no_repetition(other: dict[str, Any], reason: str, tmp_path: Path, keys: tuple[Path, Path]):
    write_receipt(valid(), tmp_path / "receipt.json", keys[0])
    again = replace(valid(), policy=replace(valid().policy, **other))
    found = verify_repetition(read_receipt(tmp_path / "receipt.json"), again)
    assert not found.holds and any(reason in one for one in found.reasons)


def test_a_void_repetition_does_not_hold(tmp_path: Path, keys: tuple[Path, Path]):
    write_receipt(valid(), tmp_path / "receipt.json", keys[0])
    again = replace(valid(), verdict=Verdict(False, ("the warm-up was not over",)))
    found = verify_repetition(read_receipt(tmp_path / "receipt.json"), again)
    assert found.reasons == ("the repetition is void: the warm-up was not over",)


def test_the_repetition_does_what_the_receipt_did_whatever_else_was_asked_for(tmp_path: Path, keys: tuple[Path, Path]):
    said = replace(valid(), boundary="engine", interference=("stress-ng --stream 1",))
    write_receipt(said, tmp_path / "receipt.json", keys[0])
    receipt = read_receipt(tmp_path / "receipt.json")
    request, plan = repetition(receipt, TargetRequest(None, random="pi0", threads=7), BenchPlan(seconds=1.0))
    assert (request.boundary, request.engine, request.threads) == (
        Boundary.ENGINE, said.policy.engine, said.policy.threads)  # fmt: skip
    assert plan.loads == ("memory",)
    assert plan.modes == tuple(run.mode for run in said.runs)
    assert plan.seconds == max(run.seconds for run in said.runs)


def test_a_receipt_of_openpi_is_repeated_over_openpi_and_one_without_a_protocol_is_of_grpc(
    tmp_path: Path, keys: tuple[Path, Path]
):
    for told, repeated in (("openpi", "openpi"), ("grpc", "grpc"), ("", "grpc")):
        said = replace(valid(), policy=replace(valid().policy, protocol=told), boundary="served")
        write_receipt(said, tmp_path / "receipt.json", keys[0])
        receipt = read_receipt(tmp_path / "receipt.json", keys[1])
        request, _ = repetition(receipt, TargetRequest(None), BenchPlan())
        assert request.protocol == repeated
        for protocol in ("openpi", "grpc"):
            again = replace(said, policy=replace(said.policy, protocol=protocol))
            reasons = verify_repetition(receipt, again).reasons
            assert any("protocol" in reason for reason in reasons) == (protocol != repeated), reasons
