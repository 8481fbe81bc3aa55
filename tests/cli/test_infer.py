"""`infer`, `quantize`, `evaluate` and `train` on a policy with random weights."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from checkpoint_builders import DATA, golden_tensors, write_safetensors
from cli_runner import run
from PIL import Image
from policy_builders import CONFIG, DIMS, PROMPT, observation, write_checkpoint
from processing_builders import character_tokenizer

from pi0_edge.policy import Policy
from pi0_edge.processing import Observation

pytestmark = pytest.mark.system

torch.set_num_threads(1)
STATE = " ".join("0.1" for _ in range(DIMS))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "top.png"
    Image.fromarray(observation().images["top"]).save(path)
    return path


@pytest.fixture
def infer(checkpoint, picture):
    def command(*options: object, state: str = STATE):
        files = ["--checkpoint", checkpoint, "--image", f"top={picture}", "--state", state]
        return run("infer", *files, "--engine", "reference", "--noise-seed", "3", *options)

    return command


def test_infer_gives_the_chunk_of_the_policy(infer, checkpoint, picture):
    ran = infer("--json")
    seen = Observation({"top": np.asarray(Image.open(picture))}, np.full(DIMS, 0.1), PROMPT)
    expected = Policy.load(checkpoint, "reference").infer(seen, 3).actions
    assert ran.code == 0
    np.testing.assert_allclose(ran.result["actions"], expected, atol=1e-6)
    assert ran.result["names"][:2] == ["left_waist", "left_shoulder"]
    assert "left_waist" in ran.err


@pytest.mark.parametrize("name", ["chunk.npz", "chunk.json"])
def test_infer_writes_the_chunk(infer, tmp_path, name):
    ran = infer("--json", "--output", tmp_path / name)
    path = tmp_path / name
    actions = np.load(path)["actions"] if path.suffix == ".npz" else json.loads(path.read_text())["actions"]
    assert np.shape(actions) == (CONFIG.horizon, DIMS)
    np.testing.assert_array_equal(actions, ran.result["actions"])


def test_the_state_may_come_from_a_file(infer, tmp_path):
    values = [0.1] * DIMS
    np.save(tmp_path / "s.npy", values)
    (tmp_path / "s.json").write_text(json.dumps(values))
    (tmp_path / "s.txt").write_text(", ".join(map(str, values)))
    wanted = infer("--json").result["actions"]
    for name in ("s.npy", "s.json", "s.txt"):
        np.testing.assert_allclose(infer("--json", state=str(tmp_path / name)).result["actions"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "top"], "expected CAMERA=FILE"),
        (["--image", "top=nowhere.png"], "once per camera"),
        (["--image", "side=nowhere.png"], "nowhere.png"),
        (["--prompt", "lift the cube " * 9], "tokens"),
        (["--output", "chunk.pickle"], "ends in .npz or .json"),
        (["--output", "nowhere/chunk.npz"], "does not exist"),
        (["--robot", "droid"], "droid"),
    ],
)
def test_bad_observations_are_refused_by_name(infer, options, message):
    ran = infer("--json", *options)
    assert ran.code == 2
    assert message in ran.result["error"]


@pytest.mark.parametrize(
    ("state", "message"),
    [("1 2 x", "not convert"), ("1 2 3", "expected 14"), ("gone.npy", "gone.npy"), ("nan " * 14, "state has nan")],
)
def test_bad_states_are_refused_by_name(infer, state, message):
    ran = infer("--json", state=state)
    assert ran.code == 2
    assert message in ran.result["error"]


DEGREES = "0 90 -45 0 120 0 90 0 90 -45 0 120 0 90"


def test_degrees_for_radians_are_warned_of(infer, caplog):
    ran = infer("--json", state=DEGREES)
    assert ran.code == 0
    assert "the state of joint" in caplog.text and "are these degrees?" in caplog.text
    assert "are these degrees?" in ran.result["unfit_state"]
    assert infer("--json").result["unfit_state"] is None


def test_degrees_for_radians_may_be_refused(infer):
    ran = infer("--json", "--refuse-unfit-state", state=DEGREES)
    assert ran.code == 2
    assert "are these degrees?" in ran.result["error"]
    assert infer("--json", "--refuse-unfit-state").code == 0


def test_statistics_of_ones_own(infer, tmp_path, checkpoint):
    stats = json.loads((checkpoint / "norm_stats.json").read_text())
    stats["norm_stats"]["actions"]["mean"] = [5.0] * DIMS
    (tmp_path / "mine.json").write_text(json.dumps(stats))
    own = infer("--json", "--norm-stats", tmp_path / "mine.json").result["actions"]
    shift = 5.0 - np.linspace(-0.5, 0.5, DIMS)
    np.testing.assert_allclose(own, infer("--json").result["actions"] + shift, atol=1e-6)
    refused = run("infer", "--json", "--bundle", "b", "--norm-stats", "n", "--image", "top=x", "--state", STATE)
    assert (refused.code, "nowhere" in infer("--norm-stats", "nowhere.json").err) == (2, True)


@pytest.mark.parametrize("command", ["calibrate", "quantize"])
def test_calibration_and_quantization_take_statistics_of_ones_own(command, checkpoint, tmp_path):
    """Of another robot: what is wrong with them is told before any frame is read."""
    stats = {name: {"mean": [0.0] * 7, "std": [1.0] * 7} for name in ("state", "actions")}
    (tmp_path / "mine.json").write_text(json.dumps({"norm_stats": stats}))
    output = tmp_path / ("c.safetensors" if command == "calibrate" else "bundle")
    given = ["--checkpoint", checkpoint, "--norm-stats", tmp_path / "mine.json", "--output", output]
    ran = run(command, "--json", *given)
    assert ran.code == 2
    assert "the statistics of state (openpi_zscore) have 7 dimensions, but aloha_sim has 14" in ran.result["error"]


def test_settings_in_a_sizes_file_reach_the_policy(infer, tmp_path):
    (tmp_path / "sizes.yaml").write_text("padding_value: -3\neuler_steps: 3\n")
    changed = infer("--json", "--config", tmp_path / "sizes.yaml")
    assert changed.code == 0, changed.err
    assert changed.result["actions"] != infer("--json").result["actions"]
    (tmp_path / "sizes.yaml").write_text("padding_valu: -3\n")
    assert "did you mean padding_value?" in infer("--config", tmp_path / "sizes.yaml").err


def test_a_pickled_state_is_never_opened(infer, tmp_path):
    np.save(tmp_path / "s.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    ran = infer("--json", state=str(tmp_path / "s.npy"))
    assert (ran.code, "allow_pickle=False" in ran.result["error"]) == (2, True)


def test_without_a_checkpoint_the_shipped_policy_is_meant(monkeypatch, tmp_path, picture):
    monkeypatch.setattr("pi0_edge.shipped.SHIPPED", tmp_path / "absent")
    ran = run("infer", "--json", "--image", f"top={picture}", "--state", STATE)
    assert ran.code == 2
    assert "holds no trained policy" in ran.result["error"]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_robot_without_a_known_rate_gets_its_chunk(tmp_path, picture, options):
    """A LeRobot folder does not record how many actions a second holds."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    for path in checkpoint.glob("*.json"):
        path.write_text(re.sub(r'"control_hz": [0-9.]+', '"control_hz": null', path.read_text()))
    assert Policy.load(checkpoint, "reference").processor.robot.control_hz is None
    image = ["--image", f"top={picture}", "--state", STATE]
    ran = run("infer", "--checkpoint", checkpoint, *image, "--engine", "reference", *options)
    assert ran.code == 0, ran.err
    shown = ran.err if options else ran.out
    assert f"first of {CONFIG.horizon} actions" in shown and "per second" not in shown


def test_a_lerobot_folder_gives_its_chunk(tmp_path, picture):
    """Its config names cameras and dimensions, but no rate and no joints."""
    folder = tmp_path / "lerobot"
    shutil.copytree(DATA / "lerobot_main_pi0_ckpt", folder)
    write_safetensors(folder, golden_tensors("pi0"))
    character_tokenizer(tmp_path)
    (tmp_path / "sizes.yaml").write_text("vision: {heads: 4}")
    files = ["--checkpoint", folder, "--tokenizer", tmp_path / "tokenizer.json", "--config", tmp_path / "sizes.yaml"]
    observed = ["--image", f"base_0_rgb={picture}", "--state", STATE, "--prompt", "fold"]
    ran = run("infer", *files, *observed, "--engine", "reference")
    assert ran.code == 0, ran.err
    assert "first of 50 actions" in ran.out and "per second" not in ran.out
