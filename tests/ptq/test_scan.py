"""Scan and search on a network with random weights: what they measure is what a checkpoint so quantized does."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_builders import CONFIG, DIMS, observation, write_checkpoint

from pi0_edge.engine.loading import blank_model
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy
from pi0_edge.ptq.candidate import quantize_checkpoint
from pi0_edge.ptq.gate import compare
from pi0_edge.ptq.layer_groups import Granularity, layer_groups, mixed_scheme
from pi0_edge.ptq.scan import UNTOUCHED, LayerScan
from pi0_edge.ptq.trace import trace
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.quant import FP32, INT8_W8A8, SCHEMES, QuantizationError, Scheme

torch.set_num_threads(1)
SEEN = [observation(seed) for seed in range(3)]
JOINTS = [str(place) for place in range(DIMS)]
W8A16, STATIC, BAD = (SCHEMES[name] for name in ("int8-w8a16", "int8-w8a8-static", "int4-per-tensor"))
BLANK = blank_model(CONFIG)
GRANULARITIES: tuple[Granularity, ...] = ("part", "block", "linear")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("scan") / "checkpoint")


@pytest.fixture(scope="module")
def reference(checkpoint) -> Policy:
    return Policy.load(checkpoint, "reference")


@pytest.fixture(scope="module")
def scan(reference) -> LayerScan:
    return LayerScan(reference, [W8A16, INT8_W8A8, BAD], SEEN)


@pytest.fixture(scope="module")
def choices(scan):
    return scan.choices()


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    model = getattr(policy.engine, "model")  # noqa: B009
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(policy: Policy, before: dict[str, torch.Tensor]) -> None:
    after = weights(policy)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("by", GRANULARITIES)
def test_a_group_is_a_pattern_for_exactly_its_layers(by):
    groups = layer_groups(BLANK, [INT8_W8A8], by)
    paths = [path for members in groups.values() for path in members]
    assert len(paths) == len(set(paths)) == sum(INT8_W8A8.covers(path) for path, _ in BLANK.named_modules())
    for name, members in groups.items():
        assert [path for path in paths if fnmatchcase(path, name)] == list(members)


def test_the_blocks_of_a_small_network():
    groups = layer_groups(BLANK, [INT8_W8A8], "block")
    assert groups["prefix.layers.0.mlp.*"] == tuple(f"prefix.layers.0.mlp.{name}" for name in ("gate", "up", "down"))
    assert groups["prefix.layers.1.attention.[qkv]"] == ("prefix.layers.1.attention.k", "prefix.layers.1.attention.v")
    assert groups["vision.layers.0.attention.o*"] == ("vision.layers.0.attention.out",)
    assert groups["token_embedding"] == ("token_embedding",)


@given(st.data(), st.sampled_from(GRANULARITIES))
def test_a_mix_as_a_scheme_gives_every_layer_its_rule(data: st.DataObject, by: Granularity):
    groups = layer_groups(BLANK, [INT8_W8A8], by)
    levels = {group: data.draw(st.sampled_from([None, W8A16, INT8_W8A8, STATIC])) for group in groups}
    rules = {p: None if (s := levels[g]) is None else s.rule_for(p) for g, paths in groups.items() for p in paths}
    scheme = mixed_scheme("mix", "a test", groups, rules, "bf16")
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    for path, rule in rules.items():
        found = scheme.rule_for(path)
        assert (found and replace(found, layers=())) == (rule and replace(rule, layers=()))


def test_every_choice_is_measured_and_the_untouched_network_costs_one(scan, choices):
    assert len(choices) == len(scan.groups) + scan.measurements
    untouched = [choice for choice in choices if choice.level == UNTOUCHED]
    assert [choice.damage for choice in untouched] == [0.0] * len(scan.groups)
    assert sum(choice.cost for choice in untouched) == pytest.approx(1)
    costs = {choice.group: choice.cost for choice in untouched}
    assert all(choice.cost < costs[choice.group] for choice in choices if choice.level != UNTOUCHED)


def test_four_bits_damage_more_than_eight_in_every_group(choices):
    damage = {(choice.group, choice.level): choice.damage for choice in choices}
    groups = {choice.group for choice in choices} - {"token_embedding"}  # both schemes store it the same way
    assert all(damage[group, "int4-per-tensor"] > 10 * damage[group, "int8-w8a16"] > 0 for group in groups)


def test_levels_with_the_same_rules_are_measured_once(reference):
    scan = LayerScan(reference, [INT8_W8A8, replace(INT8_W8A8, name="again")], SEEN)
    assert scan.measurements == len(scan.groups)


def test_the_network_is_the_same_afterwards(checkpoint, reference, choices):
    assert_unchanged(reference, weights(Policy.load(checkpoint, "reference")))


def test_smoothing_is_undone_too(reference):
    before = weights(reference)
    rng = torch.Generator().manual_seed(0)
    linears = {path: layer for path, layer in BLANK.named_modules() if isinstance(layer, torch.nn.Linear)}
    amax = {path: 1 + torch.rand(layer.in_features, generator=rng) for path, layer in linears.items()}
    scan = LayerScan(reference, [STATIC], SEEN[:1], "part", amax)
    assert any(choice.damage > 0 for choice in scan.choices())
    assert_unchanged(reference, before)


def test_a_level_that_cannot_be_measured_leaves_the_network_as_it_was(reference):
    before = weights(reference)
    with pytest.raises(QuantizationError, match="needs calibration"):
        LayerScan(reference, [STATIC], SEEN).choices()
    assert_unchanged(reference, before)


def test_a_scheme_from_the_search_has_the_measured_error(checkpoint, reference, scan, choices):
    limits = Thresholds(cosine_mean=0.999999, cosine_worst=0.9999, executed=4)
    mix = scan.cheapest_passing(choices, JOINTS, limits)
    assert mix is not None
    assert 0 < mix.taken < mix.steps  # some are quantized and some are not, or the thresholds test nothing
    assert scan.cheapest_passing(choices, JOINTS, limits) == mix
    scheme = scan.scheme(mix.levels, "mix", "found", "fp32")
    found = trace(quantize_checkpoint(checkpoint, scheme).policy, SEEN)
    report = compare(trace(reference, SEEN), found, JOINTS, replace(limits, chunks=1))
    assert report.verdict.passed
    worse = dict(mix.levels) | {group: "int4-per-tensor" for group in scan.groups}
    broken = quantize_checkpoint(checkpoint, scan.scheme(worse, "worse", "", "fp32")).policy
    assert not compare(trace(reference, SEEN), trace(broken, SEEN), JOINTS, limits).verdict.passed


def test_a_scheme_that_quantizes_nothing_cannot_be_scanned(reference):
    with pytest.raises(ConfigError, match="fp32 quantize nothing here"):
        LayerScan(reference, [FP32], SEEN)


def test_a_calibration_of_another_checkpoint_is_refused(checkpoint):
    from pi0_edge.ptq.calibration_file import Calibration, CalibrationSource

    other = Calibration({}, CalibrationSource("npz", "x", 1, "0" * 64, 0, checkpoint_sha256="f" * 64))
    with pytest.raises(ConfigError, match="calibrate this one"):
        quantize_checkpoint(checkpoint, STATIC, other)


def test_the_judged_network_is_the_network_in_the_bundle(checkpoint):
    """The kept tensors, in a second network, give the very same actions."""
    from pi0_edge.engine import restore_engine

    candidate = quantize_checkpoint(checkpoint, INT8_W8A8)
    restored = restore_engine("cpu", CONFIG, candidate.state.items(), INT8_W8A8)
    again = trace(Policy(restored, candidate.policy.processor), SEEN)
    np.testing.assert_array_equal(again.normalized, trace(candidate.policy, SEEN).normalized)
