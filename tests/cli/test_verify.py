"""`pi0-edge verify` on the golden vectors: passes, fails and refuses with the right exit code."""

from __future__ import annotations

import pytest
import torch
import yaml
from cli_runner import Ran, run
from golden_vectors import FOLDER
from safetensors.torch import load_file, save_file


@pytest.fixture
def sizes(tmp_path):
    path = tmp_path / "sizes.yaml"
    path.write_text(yaml.safe_dump({"vision": {"heads": 4}}))
    return path


def verify(variant: str, sizes: object, *options: object, expected: object = None) -> Ran:
    files = ["--checkpoint", FOLDER / f"tiny_{variant}_float32.weights.safetensors"]
    files += ["--inputs", FOLDER / f"tiny_{variant}_float32.inputs.npz", "--config", sizes]
    return run("verify", *files, "--expected", expected or FOLDER / f"tiny_{variant}_float32.out.safetensors", *options)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_the_golden_vectors_pass(variant, sizes):
    ran = verify(variant, sizes, "--json")
    assert ran.code == 0
    assert ran.result["passed"] is True
    assert list(ran.result["outputs"]) == [*(f"kv.{i}.{part}" for i in range(3) for part in "kv"), "loss", "actions"]
    assert all(output["largest"] <= 1e-4 for output in ran.result["outputs"].values())
    assert len(ran.out.splitlines()) == 1  # what people read went to standard error
    assert "PASS" in ran.err


def test_people_get_a_table_on_standard_output(sizes):
    ran = verify("pi0", sizes)
    assert (ran.code, ran.err) == (0, "")
    assert "actions" in ran.out and "PASS" in ran.out


def test_the_bf16_engine_is_held_to_its_own_vectors(sizes):
    ran = verify(
        "pi0",
        sizes,
        "--engine",
        "cpu",
        "--scheme",
        "bf16",
        "--json",
        expected=FOLDER / "tiny_pi0_bfloat16.out.safetensors",
    )
    assert ran.code == 0
    assert ran.result["outputs"]["actions"]["tolerance"] == 2e-2


def test_a_tampered_output_fails_with_exit_code_1(sizes, tmp_path):
    outputs = load_file(FOLDER / "tiny_pi0_float32.out.safetensors")
    outputs["actions"][1, 30, 5] += 1e-3
    save_file(outputs, tmp_path / "tampered.safetensors")
    ran = verify("pi0", sizes, "--json", expected=tmp_path / "tampered.safetensors")
    assert ran.code == 1
    assert [name for name, output in ran.result["outputs"].items() if not output["passed"]] == ["actions"]
    assert verify("pi0", sizes, "--tolerance", "0.1", expected=tmp_path / "tampered.safetensors").code == 0


def test_an_output_that_is_not_a_number_fails_and_is_null_in_json(sizes, tmp_path):
    outputs = load_file(FOLDER / "tiny_pi0_float32.out.safetensors")
    outputs["actions"] = torch.full_like(outputs["actions"], torch.nan)
    save_file(outputs, tmp_path / "nan.safetensors")
    ran = verify("pi0", sizes, "--json", expected=tmp_path / "nan.safetensors")
    assert ran.code == 1
    assert ran.result["outputs"]["actions"]["largest"] is None


def test_what_is_missing_is_bad_input(sizes, tmp_path):
    absent = tmp_path / "none"
    for option in ("--expected", "--inputs", "--checkpoint"):
        ran = verify("pi0", sizes, "--json", option, absent)
        assert ran.code == 2
        assert str(absent) in ran.result["error"]
        assert "Traceback" not in ran.out + ran.err


def test_an_unknown_engine_is_bad_input(sizes):
    ran = verify("pi0", sizes, "--json", "--engine", "warp")
    assert (ran.code, "reference, cpu" in ran.result["error"]) == (2, True)


def test_missing_sizes_are_bad_input(tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    ran = verify("pi0", tmp_path / "empty.yaml")
    assert ran.code == 2
    assert ran.err.startswith("error: vision.heads cannot be read")
