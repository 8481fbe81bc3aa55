"""Policies from bundles: the same actions as from the checkpoint, and the rule that a gate must have passed."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_builders import FAILED, PASSED, bundle_inputs
from cli_runner import run
from PIL import Image
from policy_builders import CONFIG, DIMS, observation

from pi0_edge.bundle import open_bundle, write_bundle
from pi0_edge.errors import BundleError, EngineError
from pi0_edge.model import VisionConfig
from pi0_edge.policy import Policy
from pi0_edge.protos import policy_pb2
from pi0_edge.quant.schemes import BF16_POLICY, BNB_INT8, FP8_W8A16, FP32, INT8_W8A8, INT8_W8A16, ORIN
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.serving.policy_server import PolicyServer

pytestmark = pytest.mark.system

torch.set_num_threads(1)
GATES = {"passed": PASSED, "failed": FAILED, "missing": None}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return bundle_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def bundles(inputs, tmp_path_factory) -> dict[str, Path]:
    """The same network behind a gate that passed, failed, or is missing."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, gate in GATES.items():
        write_bundle(folder / name, **{**inputs, "gate": gate})
    return {name: folder / name for name in GATES}


@pytest.mark.parametrize("scheme", [FP32, BF16_POLICY, INT8_W8A8, INT8_W8A16, FP8_W8A16, ORIN], ids=lambda s: s.name)
def test_a_bundle_answers_bit_by_bit_like_the_network_it_was_made_of(scheme, tmp_path):
    write_bundle(tmp_path / "bundle", **bundle_inputs(tmp_path, scheme))
    made_of = Policy.load(tmp_path / "checkpoint", scheme=scheme)
    policy = Policy.from_bundle(tmp_path / "bundle")
    assert policy.engine.scheme == scheme.name
    for seed in range(2):
        found, expected = (p.infer(observation(seed), noise_seed=seed).actions for p in (policy, made_of))
        np.testing.assert_array_equal(found, expected)


def test_the_reference_engine_runs_an_fp32_bundle_and_no_other(bundles, tmp_path):
    with pytest.raises(EngineError, match="reference engine runs fp32 only, not int8-w8a8"):
        Policy.from_bundle(bundles["passed"], engine="reference")
    with pytest.raises(EngineError, match="'npu' is not known"):
        Policy.from_bundle(bundles["passed"], engine="npu")
    write_bundle(tmp_path / "bundle", **bundle_inputs(tmp_path, FP32))
    assert Policy.from_bundle(tmp_path / "bundle", engine="reference").engine.name == "reference"


WIDER = dataclasses.replace(CONFIG, vision=VisionConfig(width=64, depth=1, mlp_dim=48, heads=2, image_size=28))
NOT_THE_NETWORK = {
    "tensors of another scheme": ({"scheme": FP32}, "under the scheme fp32"),
    "other sizes": ({"config": WIDER}, "expected"),
    "another variant": ({"config": dataclasses.replace(CONFIG, variant="pi05")}, "no tensor action_time_mlp_in"),
    "tensors missing": ({"state": {}}, "tensors are missing"),
}


@pytest.mark.parametrize("case", NOT_THE_NETWORK)
def test_a_bundle_that_is_not_the_network_it_describes_is_refused(inputs, tmp_path, case):
    change, message = NOT_THE_NETWORK[case]
    write_bundle(tmp_path / "bundle", **{**inputs, **change})
    with pytest.raises(BundleError, match=f"does not hold the network that its manifest describes: .*{message}"):
        Policy.from_bundle(tmp_path / "bundle")


def test_a_scheme_that_a_library_stores_cannot_be_bundled(inputs, tmp_path):
    with pytest.raises(BundleError, match="bnb-int8 leaves weights to the library bnb-int8"):
        write_bundle(tmp_path / "bundle", **{**inputs, "scheme": BNB_INT8})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gate", "why"), [("failed", r"gate failed \(cosine mean 0.9312 < 0.999\)"), ("missing", "never went through")]
)
def test_a_gate_that_did_not_pass_is_refused_unless_its_user_overrides_it_by_name(bundles, caplog, gate, why):
    with pytest.raises(BundleError, match=f"is not served: .*{why}.*--accept-failed-gate"):
        Policy.from_bundle(bundles[gate])
    assert caplog.text == ""
    policy = Policy.from_bundle(bundles[gate], accept_failed_gate=True)
    assert policy.overrides == ("accept-failed-gate",)
    (warned,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"accuracy gate is {gate}: accept-failed-gate" in warned.getMessage()


def test_the_option_overrides_nothing_where_the_gate_passed(bundles, caplog):
    assert Policy.from_bundle(bundles["passed"], accept_failed_gate=True).overrides == ()
    assert caplog.text == ""


@pytest.mark.parametrize("gate", GATES)
def test_clients_see_gate_and_overrides_in_metadata_and_in_every_chunk(bundles, caplog, gate):
    policy = Policy.from_bundle(bundles[gate], accept_failed_gate=True)
    overrides = [] if gate == "passed" else ["accept-failed-gate"]
    server = PolicyServer(policy, "127.0.0.1:0")
    server.start()
    caplog.set_level(logging.DEBUG, "pi0_edge.serving")
    try:
        with PolicyClient(server.address) as client:
            metadata = client.metadata()
            chunks = [client.infer(observation(), 1, 1) for _ in range(2)]
    finally:
        server.stop()
    assert metadata.gate == {"passed": policy_pb2.GATE_PASSED, "failed": policy_pb2.GATE_FAILED}.get(
        gate, policy_pb2.GATE_MISSING
    )
    assert list(metadata.gate_reasons) == (FAILED["verdict"]["reasons"] if gate == "failed" else [])
    assert metadata.bundle_sha256 == open_bundle(bundles[gate]).sha256
    assert metadata.checkpoint_sha256 == "5" * 64
    assert list(metadata.overrides) == overrides
    assert [list(chunk.overrides) for chunk in chunks] == [overrides] * 2
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("chunk ")]
    assert [line.rpartition("overrides=")[2] for line in lines] == [overrides[0] if overrides else "none"] * 2


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[object]:
    path = tmp_path_factory.mktemp("images") / "top.png"
    Image.fromarray(observation().images["top"]).save(path)
    return ["--image", f"top={path}", "--state", " ".join(["0.1"] * DIMS), "--noise-seed", "3", "--json"]


def test_infer_from_a_bundle_needs_nothing_else(bundles, seen):
    ran = run("infer", "--bundle", bundles["passed"], *seen)
    assert (ran.code, ran.result["scheme"], ran.result["overrides"]) == (0, "int8-w8a8", [])
    assert np.shape(ran.result["actions"]) == (CONFIG.horizon, DIMS)


@pytest.mark.parametrize("gate", ["failed", "missing"])
def test_infer_refuses_a_gate_that_did_not_pass_in_one_line(bundles, seen, gate):
    ran = run("infer", "--bundle", bundles[gate], *seen)
    assert ran.code == 2
    assert "is not served" in ran.result["error"]
    assert ran.err.count("\n") == 1
    ran = run("infer", "--bundle", bundles[gate], "--accept-failed-gate", *seen)
    assert (ran.code, ran.result["overrides"]) == (0, ["accept-failed-gate"])


def test_serve_refuses_a_gate_that_did_not_pass_before_it_listens(bundles):
    argv = [
        sys.executable,
        "-m",
        "pi0_edge.cli",
        "serve",
        "--bundle",
        str(bundles["failed"]),
        "--listen",
        "127.0.0.1:0",
    ]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(r"error: .*is not served: its accuracy gate failed.*--accept-failed-gate\n", ran.stderr)


def test_serve_with_the_override_warns_in_its_log(bundles):
    argv = [
        sys.executable,
        "-m",
        "pi0_edge.cli",
        "serve",
        "--bundle",
        str(bundles["failed"]),
        "--listen",
        "127.0.0.1:0",
    ]
    command = [*argv, "--accept-failed-gate", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = re.fullmatch(r"policy ready on (127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert ready is not None
        with PolicyClient(ready[1]) as client:
            assert list(client.metadata().overrides) == ["accept-failed-gate"]
        process.terminate()
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert re.search(r"WARNING .*is run although its accuracy gate is failed: accept-failed-gate", err)


ODD = {
    "--checkpoint": "nowhere",
    "--scheme": "fp32",
    "--robot": "droid",
    "--tokenizer": "tokenizer.model",
    "--config": "sizes.yaml",
}


@pytest.mark.parametrize("option", ODD)
def test_options_that_a_bundle_already_sets_are_refused(bundles, seen, option):
    ran = run("infer", "--bundle", bundles["passed"], option, ODD[option], *seen)
    assert (ran.code, ran.result["error"]) == (2, f"--bundle brings its own {option[2:]}; leave {option} out")


def test_a_bundle_given_as_a_checkpoint_is_named(bundles, seen):
    ran = run("infer", "--checkpoint", bundles["passed"], *seen)
    assert (ran.code, "is a bundle, not a checkpoint; give it as --bundle" in ran.result["error"]) == (2, True)


@pytest.mark.parametrize("options", [["--accept-failed-gate"], ["--public-key", "robot.pub.pem"]])
def test_options_of_bundles_need_a_bundle(seen, options):
    ran = run("infer", *options, *seen)
    assert ran.code == 2
    assert "give --bundle with them" in ran.result["error"]


def test_from_keys_to_a_signed_bundle_on_the_command_line(inputs, tmp_path, seen):
    folder, private, public = tmp_path / "bundle", tmp_path / "robot.pem", tmp_path / "robot.pub.pem"
    write_bundle(folder, **inputs)
    assert run("bundle", "keygen", private, public, "--json").code == 0
    unsigned = run("infer", "--bundle", folder, "--public-key", public, *seen)
    assert (unsigned.code, "is not signed" in unsigned.result["error"]) == (2, True)
    assert run("bundle", "sign", folder, "--private-key", private, "--json").code == 0
    assert run("infer", "--bundle", folder, "--public-key", public, *seen).code == 0
    verified = run("bundle", "verify", folder, "--public-key", public, "--json")
    assert (verified.code, verified.result["signed_by"]) == (0, str(public))
    with (folder / "norm_stats.json").open("a") as file:
        file.write(" ")
    for command in (
        ["bundle", "verify", folder],
        ["bundle", "show", folder],
        ["infer", "--bundle", folder, *seen[:-1]],
    ):
        ran = run(*command, "--json")
        assert (ran.code, "norm_stats.json is too long" in ran.result["error"]) == (2, True)


def test_show_says_what_a_bundle_is(bundles):
    ran = run("bundle", "show", bundles["failed"], "--json")
    assert ran.code == 0
    described = {name: ran.result[name] for name in ("model", "scheme", "robot", "gate", "gate_reasons")}
    assert described == {
        "model": "pi0",
        "scheme": "int8-w8a8",
        "robot": "aloha_sim",
        "gate": "failed",
        "gate_reasons": ["cosine mean 0.9312 < 0.999"],
    }
    assert "cosine mean 0.9312" in ran.err


def test_the_demo_refuses_bundles_before_it_starts_anything(bundles, tmp_path):
    for gate, message in (("failed", "is not served"), ("passed", "was not made of the shipped policy")):
        ran = run("demo", "--bundle", bundles[gate], "--output", tmp_path / "run", "--json")
        assert (ran.code, message in ran.result["error"]) == (2, True)
    assert not (tmp_path / "run").exists()
