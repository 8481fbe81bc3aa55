"""The profile of the training data goes with a bundle, under its hash; older bundles have none."""

from __future__ import annotations

import json

import mismatch_cases as cases
import pytest
from bundle_builders import small_inputs
from cli_runner import run

from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.errors import BundleError
from pi0_edge.training_profile import NAME


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_inputs(tmp_path_factory.mktemp("inputs"))


def test_a_bundle_carries_the_profile(inputs, tmp_path):
    write_bundle(tmp_path / "bundle", **inputs, training_profile=cases.profile())
    bundle = open_bundle(tmp_path / "bundle")
    assert NAME in bundle.manifest.files
    profile = bundle.training_profile()
    assert profile is not None and profile.to_bytes() == cases.profile().to_bytes()
    shown = run("bundle", "show", tmp_path / "bundle", "--json")
    assert shown.result["training_data"] == cases.profile().summary


def test_a_bundle_without_a_profile_loads(inputs, tmp_path):
    write_bundle(tmp_path / "bundle", **inputs)
    assert open_bundle(tmp_path / "bundle").training_profile() is None
    assert run("bundle", "show", tmp_path / "bundle", "--json").result["training_data"] is None


def test_a_changed_profile_is_refused(inputs, tmp_path):
    write_bundle(tmp_path / "bundle", **inputs, training_profile=cases.profile())
    path = tmp_path / "bundle" / NAME
    content = json.loads(path.read_text())
    content["control_hz"] = 40.0
    path.write_text(json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n")
    with pytest.raises(BundleError, match=rf"{NAME} was changed after the bundle was made"):
        open_bundle(tmp_path / "bundle")


def test_a_profile_that_is_replaced_while_it_is_used_is_refused(inputs, tmp_path):
    write_bundle(tmp_path / "bundle", **inputs, training_profile=cases.profile())
    bundle = open_bundle(tmp_path / "bundle")
    cases.profile().save(tmp_path / "bundle" / NAME)
    with pytest.raises(BundleError, match=rf"{NAME} was changed while it was used"):
        bundle.training_profile()
