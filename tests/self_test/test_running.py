"""The self-test of a real bundle: it passes where the network is the one that was judged, and fails where not."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_builders import bundle_inputs
from cli_runner import run
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_sources import write_npz
from policy_builders import write_checkpoint

from pi0_edge.bundle import Bundle, open_bundle, write_bundle, write_key_pair
from pi0_edge.bundle.self_test_vectors import SelfTestVectors, parse_self_test
from pi0_edge.errors import BundleError, ConfigError, EngineError, ServingError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.ptq.pipeline import quantize
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.self_test import run_self_test
from pi0_edge.self_test.accuracy import judge_vectors
from pi0_edge.self_test.answers import EngineAnswers
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.system

torch.set_num_threads(1)
THRESHOLDS = Thresholds(executed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as `quantize` makes it."""
    place = tmp_path_factory.mktemp("quantized")
    checkpoint = write_checkpoint(place / "checkpoint")
    frames = write_npz(place / "robot.npz", 40, prompt="Transfer cube")
    made = quantize(checkpoint, "int8-w8a8", frames, thresholds=THRESHOLDS, calibration_frames=16, held_out=10)
    assert made.passed
    made.write_bundle(place / "bundle")
    return place / "bundle"


@pytest.fixture
def server(folder: Path) -> Iterator[PolicyServer]:
    with PolicyServer(Policy.from_bundle(folder), "127.0.0.1:0") as running:
        yield running


def vectors_of(folder: Path) -> SelfTestVectors:
    found = open_bundle(folder).self_test()
    assert found is not None
    return found


def again(folder: Path, target: Path, **changes: Any) -> Path:
    """The bundle of a folder, written anew with changes: every hash in it is right."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    given: dict[str, Any] = {
        "state": dict(bundle.tensors()),
        "config": bundle.config,
        "scheme": bundle.scheme,
        "processing": bundle.processor().description(),
        "source_sha256": manifest.source_sha256,
        "gate": manifest.gate and manifest.gate.report,
        "self_test": bundle.self_test(),
    }
    write_bundle(target, **{**given, **changes})
    return target


def other_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The same network with one layer of its expert changed."""
    state = {name: tensor.clone() for name, tensor in bundle.tensors()}
    name = next(name for name in sorted(state) if name.startswith("action_out_proj") and state[name].ndim == 2)
    state[name] = state[name].roll(1, 0)
    return state


def test_quantize_keeps_eight_observations_with_the_chunks_that_the_gate_compared_with(folder: Path) -> None:
    vectors = vectors_of(folder)
    assert len(vectors.observations) == 8
    assert vectors.noise_seeds.tolist()[:2] == [[0, 1, 2], [3, 4, 5]]
    assert vectors.noise_seeds[-1].tolist() == [27, 28, 29]  # of the last of ten held-out observations
    assert vectors.chunks.shape[:2] == (8, 3)
    reference = Policy.load(folder.parent / "checkpoint", "reference")
    for observation, seeds, chunks in zip(vectors.observations, vectors.noise_seeds, vectors.chunks, strict=True):
        found = reference.infer(observation, int(seeds[1])).normalized[:, : chunks.shape[-1]]
        np.testing.assert_allclose(found, chunks[1], atol=1e-6)


def test_a_bundle_passes_on_the_machine_that_made_it(folder: Path) -> None:
    report = run_self_test(folder)
    assert report.passed and report.reasons == ()
    assert report.engine == "cpu" and report.bundle_sha256 == open_bundle(folder).sha256
    assert report.chunks == 24 and report.latency is not None
    assert report.latency.count == 24 and report.latency.p90_ms is None
    assert report.peak_memory_mb is not None and report.peak_memory_mb > 50
    assert report.load_s > 0 and report.overrides == ()


def test_the_verdict_is_that_of_the_gate_over_the_same_chunks(folder: Path) -> None:
    vectors = vectors_of(folder)
    verdict = judge_vectors(EngineAnswers(Policy.from_bundle(folder)).chunk, vectors, THRESHOLDS).verdict
    gate = open_bundle(folder).manifest.gate
    assert gate is not None
    judged = dict(zip(range(30), gate.report["cosine_whole"], strict=True))
    seeds = vectors.noise_seeds.ravel().tolist()
    assert {f.name: f.found for f in verdict.findings}["worst cosine of the whole chunk"] == pytest.approx(
        min(judged[seed] for seed in seeds), abs=1e-6
    )


def test_another_network_fails_although_every_hash_in_its_bundle_is_right(folder: Path, tmp_path: Path) -> None:
    altered = again(folder, tmp_path / "bundle", state=other_weights(open_bundle(folder)))
    report = run_self_test(altered)
    assert not report.passed
    assert any("worst cosine of the whole chunk" in reason for reason in report.reasons)
    ran = run("self-test", altered, "--json")
    assert ran.code == 1 and ran.result["passed"] is False and ran.result["reasons"] == list(report.reasons)


def test_a_network_that_answers_nonsense_fails_with_its_own_words(folder: Path, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in open_bundle(folder).tensors()}
    state["action_out_proj.bias"].fill_(float("nan"))
    report = run_self_test(again(folder, tmp_path / "with", state=state))
    assert report.chunks == 0 and sum("NaN or infinity" in reason for reason in report.reasons) == 24
    without = again(folder, tmp_path / "without", state=state, self_test=None)
    report = run_self_test(without, accept_missing_self_test=True)
    assert len(report.reasons) == 1 and "NaN or infinity" in report.reasons[0]


def test_the_thresholds_are_those_of_the_gate_of_this_bundle(folder: Path, tmp_path: Path) -> None:
    gate = open_bundle(folder).manifest.gate
    assert gate is not None
    strict = {**gate.report["verdict"], "thresholds": {**vars(THRESHOLDS), "cosine_worst": 1.0}}
    hard = again(folder, tmp_path / "hard", gate={**gate.report, "verdict": strict})
    assert any("below 1" in reason for reason in run_self_test(hard).reasons)
    silent = {"passed": True, "reasons": []}
    usual = run_self_test(again(folder, tmp_path / "silent", gate={"verdict": silent}))
    assert any("records no thresholds" in finding.text for finding in usual.findings)
    broken = again(folder, tmp_path / "broken", gate={"verdict": {**silent, "thresholds": {"cosine_mean": "high"}}})
    with pytest.raises(BundleError, match="unusable thresholds"):
        run_self_test(broken)


def test_a_gate_on_other_instructions_is_named(folder: Path, tmp_path: Path) -> None:
    """The vectors judge the arithmetic of this processor; nothing more is known, so that it is no failure by itself."""
    gate = open_bundle(folder).manifest.gate
    assert gate is not None
    here = gate.report["instructions"]
    assert "instructions" not in [finding.name for finding in run_self_test(folder).findings]
    other = again(folder, tmp_path / "other", gate={**gate.report, "instructions": "ANOTHER"})
    found = [str(finding) for finding in run_self_test(other).findings if finding.name == "instructions"]
    assert found == [f"instructions: {here} here, ANOTHER where the gate judged the bundle"]
    older = {name: value for name, value in gate.report.items() if name != "instructions"}
    report = run_self_test(again(folder, tmp_path / "older", gate=older))
    assert report.passed and "instructions" not in [finding.name for finding in report.findings]


def test_too_few_vectors_fail_as_they_would_at_the_gate(folder: Path, tmp_path: Path) -> None:
    vectors = vectors_of(folder)
    few = SelfTestVectors(vectors.observations[:2], vectors.names[:2], vectors.noise_seeds[:2], vectors.chunks[:2])
    report = run_self_test(again(folder, tmp_path / "bundle", self_test=few))
    assert report.reasons == ("accuracy: number of chunks 6 is below 20",)


def test_a_budget_is_met_or_missed_by_the_ninetieth_percentile(folder: Path) -> None:
    ran = run("self-test", folder, "--budget-ms", 60_000, "--json")
    assert ran.code == 0, ran.out
    latency = ran.result["latency_ms"]
    assert latency["n"] == 64 and latency["p50"] <= latency["p90"] <= latency["max"]
    assert ran.result["chunks"] == 24 + 64
    slow = run("self-test", folder, "--budget-ms", latency["p50"] / 100, "--json")
    assert slow.code == 1
    assert [reason.partition(":")[0] for reason in slow.result["reasons"]] == ["latency"]
    assert "above the budget" in slow.result["reasons"][0]


def test_every_chunk_is_reported_as_progress(folder: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    run_self_test(folder, budget_ms=60_000, chunks=50, on_progress=lambda p: steps.append((p.stage, p.done, p.total)))
    expected = [("accuracy", done, 24) for done in range(25)] + [("latency", done, 50) for done in range(51)]
    assert steps == expected


def test_too_few_timed_chunks_do_not_pass_a_budget(folder: Path) -> None:
    report = run_self_test(folder, budget_ms=60_000, chunks=43)
    assert report.reasons == ("latency: 43 chunks are not enough for a 90th percentile, expected 44 at least",)
    assert report.to_dict()["latency_ms"]["p90"] is None


def test_a_bundle_without_vectors_fails_unless_its_user_accepts_that_by_name(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", **bundle_inputs(tmp_path))
    refused = run("self-test", tmp_path / "bundle", "--json")
    assert refused.code == 1
    assert "no self-test vectors" in refused.result["reasons"][0]
    assert "--accept-missing-self-test" in refused.result["reasons"][0]
    accepted = run("self-test", tmp_path / "bundle", "--accept-missing-self-test", "--budget-ms", 60_000, "--json")
    assert accepted.code == 0
    assert accepted.result["overrides"] == ["accept-missing-self-test"]
    assert accepted.result["latency_ms"]["n"] == 64


def test_a_running_server_is_asked_and_judged_the_same(folder: Path, server: PolicyServer) -> None:
    here, there = run_self_test(folder), run_self_test(folder, server=server.address, budget_ms=60_000)
    assert there.passed and there.peak_memory_mb is None and there.latency is not None
    assert server.shared.chunks == 24 + 64 == there.chunks
    here_said, there_said = ([f.text for f in r.findings if "cosine" in f.text] for r in (here, there))
    assert len(here_said) == 4
    for ours, theirs in zip(here_said, there_said, strict=True):
        figures = [float(re.search(r"[01]\.\d+", text)[0]) for text in (ours, theirs)]  # pyright: ignore
        assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    ran = run("self-test", folder, "--server", server.address, "--budget-ms", 0.001, "--json")
    assert ran.code == 1 and len(ran.result["reasons"]) == 1


def test_a_server_with_another_bundle_or_old_images_is_not_judged(
    folder: Path, server: PolicyServer, tmp_path: Path
) -> None:
    other = again(folder, tmp_path / "bundle", source_sha256="6" * 64)
    with pytest.raises(ServingError, match=r"serves the bundle .*expected"):
        run_self_test(other, server=server.address)
    server.shared.policy.overrides = ("stale-prefix",)
    with pytest.raises(ServingError, match="without --stale-prefix"):
        run_self_test(folder, server=server.address)


def test_a_server_that_refuses_or_dies_fails_the_test(folder: Path, server: PolicyServer) -> None:
    def gone(*_: object) -> None:
        raise EngineError("the network gave no usable chunk")

    server.shared.policy.infer_together = gone  # pyright: ignore[reportAttributeAccessIssue]
    report = run_self_test(folder, server=server.address, budget_ms=100)
    assert report.chunks == 0 and report.latency is None
    assert sum("no usable chunk" in reason for reason in report.reasons) == 25


def test_what_is_refused_elsewhere_is_refused_here(folder: Path, tmp_path: Path) -> None:
    failed = again(folder, tmp_path / "failed", gate={"verdict": {"passed": False, "reasons": ["too far"]}})
    assert run("self-test", failed).code == 2
    accepted = run("self-test", failed, "--accept-failed-gate", "--json")
    assert accepted.code == 0 and accepted.result["overrides"] == ["accept-failed-gate"]
    write_key_pair(tmp_path / "private.pem", tmp_path / "public.pem")
    for arguments, message in (
        ((folder, "--public-key", tmp_path / "public.pem"), "not signed"),
        ((folder, "--engine", "abacus"), "'abacus' is not known"),
        ((folder, "--server", "127.0.0.1:1", "--engine", "cpu"), "leave --engine"),
        ((folder, "--tls", tmp_path), "--tls is about a server"),
        ((folder, "--budget-ms", -1), "expected more than 0"),
        ((tmp_path / "nothing",), "is not a folder"),
    ):
        ran = run("self-test", *arguments)
        assert ran.code == 2 and message in ran.err, ran.err


def test_impossible_figures_are_refused(folder: Path) -> None:
    for chunks, budget_ms in ((0, 1.0), (64, 0.0), (64, float("nan"))):
        with pytest.raises(ConfigError, match="expected more than 0"):
            run_self_test(folder, chunks=chunks, budget_ms=budget_ms)


def with_observation(vectors: SelfTestVectors, **changes: Any) -> SelfTestVectors:
    first, *others = vectors.observations
    changed: Observation = dataclasses.replace(first, **changes)
    return dataclasses.replace(vectors, observations=(changed, *others))


IMPOSSIBLE = {
    "a camera that the robot has not": lambda v: with_observation(v, images={"tail": v.observations[0].images["top"]}),
    "no image": lambda v: with_observation(v, images={}),
    "an image of floats": lambda v: with_observation(v, images={"top": np.zeros((8, 8, 3))}),
    "a chunk that is not finite": lambda v: dataclasses.replace(v, chunks=v.chunks * np.float32("nan")),
    "chunks of another horizon": lambda v: dataclasses.replace(v, chunks=v.chunks[:, :, 1:]),
    "seeds of other draws": lambda v: dataclasses.replace(v, noise_seeds=v.noise_seeds[:, 1:]),
    "a negative seed": lambda v: dataclasses.replace(v, noise_seeds=v.noise_seeds - 1),
    "a state that is not finite": lambda v: dataclasses.replace(
        v, observations=tuple(dataclasses.replace(one, state=np.full(14, np.inf)) for one in v.observations)
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_vectors_that_could_not_be_used_are_not_written(folder: Path, tmp_path: Path, case: str) -> None:
    with pytest.raises(BundleError, match=r"self_test\.safetensors"):
        again(folder, tmp_path / "bundle", self_test=IMPOSSIBLE[case](vectors_of(folder)))
    assert list(tmp_path.iterdir()) == []


def test_vectors_survive_bit_by_bit_with_and_without_a_prompt(folder: Path, tmp_path: Path) -> None:
    vectors = with_observation(vectors_of(folder), prompt=None)
    found = vectors_of(again(folder, tmp_path / "bundle", self_test=vectors))
    assert found.to_bytes() == vectors.to_bytes()
    assert found.observations[0].prompt is None and found.observations[1].prompt == "Transfer cube"
    assert found.names == vectors.names
    for ours, theirs in zip(vectors.observations, found.observations, strict=True):
        np.testing.assert_array_equal(ours.images["top"], theirs.images["top"])
        np.testing.assert_array_equal(ours.state, theirs.state)


@settings(max_examples=300)
@given(data=st.data())
def test_foreign_bytes_are_read_or_refused_in_our_words(folder: Path, data: st.DataObject) -> None:
    content = bytearray((folder / "self_test.safetensors").read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), header, header // 2, 7, 0]))]
    bundle = open_bundle(folder)
    with contextlib.suppress(BundleError):
        parse_self_test(bytes(content), bundle.config, bundle.processor().robot)
