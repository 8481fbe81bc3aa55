"""Policy folders for LeRobot: ours to theirs and back, what is refused, and what a half-written folder looks like."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from checkpoint_builders import DATA, assert_same_parameters, golden_state
from cli_runner import run
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_policies import ROBOT, SIZES, STATISTICS, observation, processor, saved
from numpy.testing import assert_allclose, assert_array_equal
from processing_builders import character_tokenizer

from pi0_edge.checkpoints import lerobot_policy, open_checkpoint, save_lerobot_policy
from pi0_edge.checkpoints.lerobot_policy import write_lerobot_policy
from pi0_edge.checkpoints.lerobot_weights import _described, check_sizes, write_lerobot_weights
from pi0_edge.engine import parameter_shapes
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model import Pi0
from pi0_edge.model.config import PRESETS
from pi0_edge.policy import Policy
from pi0_edge.processing import Mode, Normalization, Normalizer
from pi0_edge.processing.lerobot_files import load_lerobot_normalization
from pi0_edge.processing.lerobot_pipelines import RELEASES, Release, differences, lerobot_files
from pi0_edge.processing.loading import load_processor
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.processing.settings import StillJoints


@pytest.mark.parametrize(("variant", "mode"), [("pi0", Mode.LEROBOT_MEAN_STD), ("pi05", Mode.LEROBOT_QUANTILES)])
def test_every_parameter_and_the_chunk_survive_the_way_there_and_back(tmp_path, variant, mode):
    ours = saved(tmp_path, variant, mode=mode)
    opened = open_checkpoint(ours)
    write_lerobot_policy(tmp_path / "theirs", opened, load_processor(ours, opened.infer_config()), "0.6")
    theirs = open_checkpoint(tmp_path / "theirs")
    config = theirs.infer_config(SIZES)
    assert (theirs.layout, config) == ("lerobot", opened.infer_config())
    model = Pi0(config)
    theirs.load_into(model)
    assert_same_parameters(model.state_dict(), golden_state(variant)[0])
    before, after = Policy.load(ours, "reference"), Policy.load(tmp_path / "theirs", "reference", sizes=SIZES)
    expected, found = (policy.infer(observation(), 5).actions for policy in (before, after))
    assert_array_equal(found, expected)


@pytest.mark.parametrize(("variant", "parameters"), [("pi0", 778), ("pi05", 813)])
def test_everything_is_there_that_lerobots_strict_loading_wants(variant, parameters):
    """The numbers are those of `PI0Policy.state_dict()` and `PI05Policy.state_dict()` of LeRobot 0.6.1."""
    shapes = parameter_shapes(PRESETS[variant])
    described = _described(shapes, dict.fromkeys(shapes, torch.bfloat16))
    assert len(described) == parameters
    assert described["model.paligemma_with_expert.gemma_expert.lm_head.weight"][0] == (257152, 1024)


def test_the_files_are_those_that_lerobot_wrote(tmp_path):
    """The folder was saved by LeRobot itself, 0.5.1 or later."""
    folder = DATA / "lerobot_main_pi0_ckpt"
    read = load_processor(folder, PRESETS["pi0"], tokenizer=character_tokenizer(tmp_path).source)
    files = lerobot_files(read, "float32", "0.6")
    config, expected = json.loads(files["config.json"]), json.loads((folder / "config.json").read_text())
    assert {name: expected.get(name) for name in config} == {
        **config,
        "push_to_hub": True,
        "relative_exclude_joints": ["gripper"],
    }
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        ours, theirs = json.loads(files[name]), json.loads((folder / name).read_text())
        for step in theirs["steps"]:
            step.pop("artifacts", None)
            step["config"] |= {"exclude_joints": []} if "exclude_joints" in step["config"] else {}
            step["config"] |= (
                {"tokenizer_name": "google/paligemma-3b-pt-224"} if "tokenizer_name" in step["config"] else {}
            )
        assert ours == theirs


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from([*STATISTICS, Mode.IDENTITY]),
    low=st.lists(st.floats(-10, 10), min_size=6, max_size=6),
    width=st.lists(st.floats(1e-2, 10), min_size=6, max_size=6),
    values=st.lists(st.floats(-20, 20), min_size=6, max_size=6),
)
def test_lerobots_formula_with_the_written_statistics_is_ours(tmp_path_factory, mode, low, width, values):
    tmp_path = tmp_path_factory.mktemp("statistics")
    if mode is Mode.IDENTITY:
        ours = Normalizer(mode)
    else:
        first, second = STATISTICS[mode]
        end = np.array(width) + (0 if first == "mean" else np.array(low))
        ours = Normalizer(mode, {first: np.array(low), second: end})
    made = processor(tmp_path)
    made = ObservationProcessor(ROBOT, made.tokenizer, Normalization(ours, ours), made.config, made.settings)
    for name, content in lerobot_files(made, "float32", "0.6").items():
        (tmp_path / name).write_bytes(content)
    theirs = load_lerobot_normalization(tmp_path)
    x = np.array(values)
    for field in (theirs.state, theirs.actions):
        assert_allclose(field.forward(x), ours.forward(x), rtol=1e-4, atol=1e-2)
        assert_allclose(field.inverse(x), ours.inverse(x), rtol=1e-5, atol=1e-4)


def test_a_joint_that_is_shown_as_trained_is_shown_so_in_lerobot_too(tmp_path):
    made = processor(tmp_path, still_joints=StillJoints.AS_TRAINED)
    std = made.normalization.state.stats["std"].copy()
    std[2] = 0
    state = Normalizer(Mode.OPENPI_ZSCORE, {**made.normalization.state.stats, "std": std})
    made = ObservationProcessor(
        ROBOT, made.tokenizer, Normalization(state, made.normalization.actions), made.config, made.settings
    )
    for name, content in lerobot_files(made, "float32", "0.6").items():
        (tmp_path / name).write_bytes(content)
    shown = load_lerobot_normalization(tmp_path).state.forward(np.full(6, 0.7))
    assert abs(shown[2]) < 1e-6
    assert np.all(np.abs(np.delete(shown, 2)) > 0.01)


def test_relative_actions_are_told_by_their_names(tmp_path):
    names = ("a", "b", "c", "d", "e", "gripper")
    robot = dataclasses.replace(ROBOT, action_names=names, delta_actions=(5, -1))
    files = lerobot_files(processor(tmp_path, robot=robot), "float32", "0.6")
    steps = {step["registry_name"]: step["config"] for step in json.loads(files["policy_preprocessor.json"])["steps"]}
    assert steps["relative_actions_processor"] == {
        "enabled": True,
        "exclude_joints": ["gripper"],
        "action_names": list(names),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    read = load_processor(tmp_path, golden_state("pi0")[1])
    assert read.robot.delta_actions == (1, 1, 1, 1, 1, -1)


@pytest.mark.parametrize(
    ("variant", "changes", "release", "message"),
    [
        ("pi0", {"robot": {"joint_convention": "aloha_to_pi", "state_dim": 14, "action_dim": 14}}, "0.6", "convention"),
        ("pi0", {"robot": {"delta_actions": (6,)}}, "0.4", "relative actions, which LeRobot 0.4"),
        ("pi0", {"robot": {"action_names": (), "delta_actions": (5, -1)}}, "0.6", "by their names"),
        ("pi0", {"robot": {"action_names": (*"abcde", "cd"), "delta_actions": (2, -1, 3)}}, "0.6", "by their names"),
        ("pi05", {"prompt_state_padded": True}, "0.6", "write the policy for 0.4"),
        ("pi05", {}, "0.4", "write the policy for 0.6"),
    ],
)
def test_what_lerobots_steps_cannot_do_is_refused(tmp_path, variant, changes, release: Release, message):
    robot = dataclasses.replace(ROBOT, **{"action_names": (), **changes.pop("robot", {})})
    made = processor(tmp_path, variant, **changes)
    made.robot = robot
    with pytest.raises(ConfigError, match=message):
        lerobot_files(made, "float32", release)


def test_what_lerobot_does_otherwise_is_said(tmp_path):
    made = processor(tmp_path)
    assert differences(made, "0.6") == []
    assert len(differences(made, "0.4")) == 1  # how it fills up images
    of_openpi = ObservationProcessor(ROBOT, made.tokenizer, made.normalization, made.config)
    assert [re.split(r"[,;]", sentence)[0] for sentence in differences(of_openpi, "0.6")] == [
        "it scales images without antialiasing",
        "it does not take blanks around a prompt",
    ]


@pytest.mark.parametrize("release", RELEASES)
def test_the_earlier_release_gets_no_word_that_it_does_not_know(tmp_path, release: Release):
    files = lerobot_files(processor(tmp_path), "float32", release)
    knows = "relative" in b"".join(files.values()).decode(errors="replace")
    assert knows == (release == "0.6")


def test_a_small_network_is_refused_in_words(tmp_path):
    ours = saved(tmp_path)
    opened = open_checkpoint(ours)
    with pytest.raises(ConfigError, match=r"no network of the sizes .*vision\.width 48, expected 1152"):
        save_lerobot_policy(tmp_path / "theirs", opened, load_processor(ours, opened.infer_config()))
    assert not (tmp_path / "theirs").exists()
    check_sizes(PRESETS["pi05"], "a published model")
    ran = run("convert", "--checkpoint", ours, "--output", tmp_path / "theirs")
    assert ran.code == 2
    assert "pi0-edge serve" in ran.err


def test_the_command_writes_a_folder_and_says_what_differs(tmp_path, monkeypatch):
    """Of a miniature, which the command refuses: a network of full size is 7 GB."""
    monkeypatch.setattr(lerobot_policy, "check_sizes", lambda config, origin: None)
    ran = run(
        "convert",
        "--checkpoint",
        saved(tmp_path),
        "--output",
        tmp_path / "new" / "theirs",
        "--lerobot",
        "0.4",
        "--json",
    )
    assert ran.code == 0, ran.err
    assert set(ran.result["files"]) == {path.name for path in (tmp_path / "new" / "theirs").iterdir()}
    assert ran.result["differences"] == [
        "it fills up images that are not square with -3, the policy was trained with -1; give it square images"
    ]
    assert "use_relative_actions" not in (tmp_path / "new" / "theirs" / "config.json").read_text()


def test_the_checkpoint_is_never_overwritten(tmp_path):
    ours = saved(tmp_path)
    opened = open_checkpoint(ours)
    before = (ours / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="give another one"):
        write_lerobot_policy(tmp_path / "." / "ours", opened, load_processor(ours, opened.infer_config()), "0.6")
    assert (ours / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("fault", ["missing", "shape", "dtype", "unknown"])
def test_incomplete_weights_leave_no_file(tmp_path, fault):
    state, config = golden_state("pi0")
    shapes = parameter_shapes(config)
    dtypes = dict.fromkeys(shapes, torch.float32)
    given = {name: tensor.float() for name, tensor in state.items()}
    if fault == "missing":
        del given["state_proj.bias"]
    elif fault == "shape":
        given["state_proj.bias"] = torch.zeros(3)
    elif fault == "dtype":
        given["state_proj.bias"] = given["state_proj.bias"].half()
    else:
        given["another.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"state_proj\.bias|another\.bias"):
        write_lerobot_weights(tmp_path / "model.safetensors", given.items(), shapes, dtypes)
    assert list(tmp_path.iterdir()) == []
