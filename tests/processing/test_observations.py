"""Observations to model inputs and chunks to commands; everything wrong is refused at this boundary."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processing_builders import DATA, character_tokenizer, processor, tiny_config, z_scores

from pi0_edge.errors import ConfigError, EngineError, ObservationError
from pi0_edge.model import Pi0
from pi0_edge.model.flow import euler_times
from pi0_edge.processing import (
    Normalization,
    Observation,
    ObservationProcessor,
    Robot,
    load_norm_stats,
    load_robot,
)
from pi0_edge.processing.images import resize_with_pad, to_unit_range
from pi0_edge.processing.settings import ProcessingSettings


def random_image(seed=0, shape=(48, 64, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def aloha_observation(**changes: Any) -> Observation:
    fields: dict[str, Any] = {
        "images": {"cam_right_wrist": random_image(1), "cam_high": random_image(2)},
        "state": np.linspace(-0.5, 0.5, 14),
        "prompt": "transfer_cube",
    }
    return Observation(**{**fields, **changes})


def test_model_inputs_of_an_aloha_observation(tmp_path):
    aloha = processor(tmp_path)
    inputs = aloha.to_model_inputs(aloha_observation())
    assert inputs.images.shape == (1, 2, 3, 224, 224) and inputs.images.dtype == torch.float32
    high, right = (torch.from_numpy(to_unit_range(resize_with_pad(random_image(seed), 224))) for seed in (2, 1))
    assert torch.equal(inputs.images[0, 0], high) and torch.equal(inputs.images[0, 1], right), "in slot order"
    assert inputs.image_mask.tolist() == [[True, True]]
    assert inputs.tokens.tolist() == [[2, *(200 + ord(c) for c in "transfer cube"), 108]]
    assert inputs.token_mask.all() and inputs.token_mask.shape == inputs.tokens.shape
    assert inputs.state.shape == (1, 32) and inputs.state.dtype == torch.float32


def test_an_engine_that_takes_frames_is_given_them(tmp_path):
    aloha = processor(tmp_path)
    inputs, finished = (
        aloha.to_model_inputs(aloha_observation(), as_frames=True),
        aloha.to_model_inputs(aloha_observation()),
    )
    assert inputs.images.dtype == torch.uint8
    expected = torch.from_numpy(np.stack([random_image(2), random_image(1)]))
    assert torch.equal(inputs.images[0], expected), "in slot order"
    assert all(
        torch.equal(getattr(inputs, name), getattr(finished, name)) for name in ("tokens", "state", "image_mask")
    )


def test_state_is_converted_then_normalized_then_padded(tmp_path):
    aloha = processor(tmp_path)
    state = np.linspace(-0.5, 0.5, 14)
    expected = aloha.normalization.state.forward(aloha._convention.state_to_pi(state)).astype(np.float32)
    found = aloha.to_model_inputs(aloha_observation(state=list(state))).state.numpy()[0]
    np.testing.assert_array_equal(found[:14], expected)
    np.testing.assert_array_equal(found[14:], 0.0)


def test_pi05_prompt_holds_the_normalized_unpadded_state(tmp_path):
    sim = processor(tmp_path, "aloha_sim", variant="pi05", max_prompt_tokens=200)
    mean = sim.normalization.state.stats["mean"]
    inputs = sim.to_model_inputs(Observation({"top": random_image()}, mean))
    expected = f"Task: Transfer cube, State: {' '.join(['128'] * 14)};\nAction: "
    assert inputs.tokens.tolist()[0] == sim.tokenizer.encode(expected)


def test_the_network_runs_on_processed_observations(tmp_path):
    aloha = processor(tmp_path)
    torch.manual_seed(0)
    model, observation = Pi0(aloha.config).eval(), aloha_observation()
    with torch.inference_mode():
        chunk = model.sample_actions(aloha.to_model_inputs(observation), torch.randn(1, 50, 32), euler_times(2))
    commands = aloha.to_physical(chunk[0].numpy(), observation)
    assert commands.shape == (50, 14) and commands.dtype == np.float64
    assert np.isfinite(commands).all()


def test_commands_are_relative_to_the_observed_state(tmp_path):
    ur5e = processor(tmp_path, "ur5e")
    state = np.arange(7.0)
    commands = ur5e.to_physical(np.zeros((3, 32)), Observation({}, state, "x"))
    mean = ur5e.normalization.actions.stats["mean"]
    np.testing.assert_allclose(commands, np.tile(mean + state * [1, 1, 1, 1, 1, 1, 0], (3, 1)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["aloha", "droid", "droid_joint_position", "libero", "ur5e", "mobile", "g1"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_recorded_commands_survive_the_way_to_the_network_and_back(tmp_path, name, seed):
    robot = processor(tmp_path, name)
    rng = np.random.default_rng(seed)
    observation = Observation({}, rng.uniform(0, 1, robot.robot.state_dim), "x")
    commands = rng.uniform(-1, 1, (5, robot.robot.action_dim))
    chunk = robot.to_normalized(commands, observation)
    assert chunk.shape == (5, 32) and chunk.dtype == np.float32
    np.testing.assert_array_equal(chunk[:, robot.robot.action_dim :], 0.0)
    np.testing.assert_allclose(robot.to_physical(chunk, observation), commands, atol=2e-6)


@pytest.mark.parametrize("dims", [1, 2, 31, 32])
def test_any_width_from_1_to_32(tmp_path, dims):
    robot = Robot("own", dims, dims, {"front": "base_0_rgb"}, 10.0)
    own = processor(tmp_path, robot)
    observation = Observation({"front": random_image()}, np.ones(dims), "go")
    assert own.to_model_inputs(observation).state.shape == (1, 32)
    assert own.to_physical(np.zeros((50, 32)), observation).shape == (50, dims)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {}}, r"images is empty; expected at least one of the cameras of aloha: cam_high, cam_left_wrist"),
        ({"images": {"top": random_image()}}, r"camera 'top', which aloha does not have; known: cam_high, cam_left"),
        ({"images": {"cam_high": random_image() / 255.0}}, r"'cam_high'\] has dtype float64, expected uint8 .* by 255"),
        ({"images": {"cam_high": random_image().astype(np.int32)}}, r"has dtype int32, expected uint8"),
        ({"images": {"cam_high": random_image() * 1.0}}, r"dtype float64, expected uint8 .* need .astype\(np.uint8\)"),
        ({"images": {"cam_high": random_image(shape=(48, 64))}}, r"in RGB; repeat the one channel three times"),
        ({"images": {"cam_high": random_image(shape=(48, 64, 4))}}, r"in RGB; leave the fourth channel out"),
        ({"images": {"cam_high": random_image(shape=(3, 48, 64))}}, r"shape \[3, 48, 64\], channels first; expected"),
        ({"images": {"cam_high": random_image(shape=(48, 64))}}, r"shape \[48, 64\], expected \[height, width, 3\]"),
        ({"images": {"cam_high": random_image(shape=(48, 64, 4))}}, r"shape \[48, 64, 4\], expected"),
        ({"images": {"cam_high": random_image(shape=(0, 64, 3))}}, r"shape \[0, 64, 3\], expected"),
        ({"images": {"cam_high": [[0]]}}, r"is a list, expected an array"),
        ({"state": np.zeros(7)}, r"state has shape \[7\] and dtype float64, expected 14 numbers \(aloha\)"),
        ({"state": np.zeros((1, 14))}, r"state has shape \[1, 14\]"),
        ({"state": ["a"] * 14}, r"state has shape \[14\] and dtype <U1, expected 14 numbers"),
        ({"state": [[1.0], [1.0, 2.0]]}, r"state is not an array of numbers"),
        ({"state": np.full(14, np.nan)}, r"state has nan at index 0 \(14 such values\), expected finite numbers"),
        ({"state": [0.0] * 13 + [np.inf]}, r"state has inf at index 13 \(1 such values\)"),
        ({"prompt": None}, r"prompt is None, expected a sentence; aloha has no default prompt"),
        ({"prompt": " \n"}, r"prompt is ' \\n', expected a sentence"),
        ({"prompt": 5}, r"prompt is 5, expected a sentence"),
        ({"prompt": "x" * 60}, r"prompt has 62 tokens, expected at most 48: 'xxx"),
    ],
)
def test_bad_observations_are_refused(tmp_path, changes, message):
    with pytest.raises(ObservationError, match=message):
        processor(tmp_path).to_model_inputs(aloha_observation(**changes))


def test_a_prompt_of_exactly_the_limit_passes(tmp_path):
    inputs = processor(tmp_path).to_model_inputs(aloha_observation(prompt="x" * 46))
    assert inputs.tokens.shape == (1, 48)


def test_truncation_as_openpi_only_on_request(tmp_path, caplog):
    robot = load_robot("aloha")
    tokenizer = character_tokenizer(tmp_path)
    settings = ProcessingSettings(truncate_prompts=True)
    cutting = ObservationProcessor(robot, tokenizer, z_scores(14, 14), tiny_config(), settings)
    assert not caplog.records
    cutting.to_model_inputs(aloha_observation(prompt="x" * 60))
    tokens = cutting.to_model_inputs(aloha_observation(prompt="x" * 60)).tokens.tolist()[0]
    assert tokens == [2, *[200 + ord("x")] * 47], "the newline is lost, as in openpi"
    (warned,) = caplog.messages
    assert warned.startswith("the last 14 of 62 tokens are cut off from the prompt 'xxx"), "once per prompt"
    assert cutting.description().settings["truncate_prompts"] is True


def test_chunks_with_wrong_shape_or_values_are_refused(tmp_path):
    aloha = processor(tmp_path)
    with pytest.raises(EngineError, match=r"shape \[50, 14\], expected \[rows, 32\]"):
        aloha.to_physical(np.zeros((50, 14)), aloha_observation())
    bad = np.zeros((50, 32))
    bad[3, 20] = np.nan
    with pytest.raises(EngineError, match=r"1 values that are not finite; execute none"):
        aloha.to_physical(bad, aloha_observation())
    with pytest.raises(ObservationError, match=r"state has nan"):
        aloha.to_physical(np.zeros((50, 32)), aloha_observation(state=np.full(14, np.nan)))
    with pytest.raises(ObservationError, match=r"actions has shape \[14\], expected \[rows, 14\] of aloha"):
        aloha.to_normalized(np.zeros(14), aloha_observation())


def test_parts_that_do_not_fit_together(tmp_path):
    tokenizer = character_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"statistics of state \(openpi_zscore\) have 8 dimensions, but aloha has 14"):
        ObservationProcessor(load_robot("aloha"), tokenizer, z_scores(8, 14), tiny_config())
    small = tiny_config()
    small = small.__class__(**{**vars(small), "action_dim": 7})
    with pytest.raises(ConfigError, match=r"aloha has 14 state, the network at most 7"):
        ObservationProcessor(load_robot("aloha"), tokenizer, z_scores(14, 14), small)
    few_words = tiny_config().__class__(**{**vars(tiny_config()), "vocab_size": 250})
    other = ObservationProcessor(load_robot("aloha"), tokenizer, z_scores(14, 14), few_words)
    with pytest.raises(ConfigError, match=r"gives the token \d+, expected ids below 250; use the tokenizer the policy"):
        other.to_model_inputs(aloha_observation())


def unpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """As much msgpack as openpi's client writes, with its arrays."""
    kind, at = data[at], at + 1
    if kind >> 4 == 0x8:
        entries = {}
        for _ in range(kind & 15):
            key, at = unpack(data, at)
            entries[key], at = unpack(data, at)
        if b"__ndarray__" in entries:
            return np.frombuffer(entries[b"data"], entries[b"dtype"]).reshape(entries[b"shape"]), at
        return entries, at
    if kind >> 4 == 0x9:
        items = []
        for _ in range(kind & 15):
            item, at = unpack(data, at)
            items.append(item)
        return items, at
    if kind >> 5 == 0b101:
        return data[at : at + (kind & 31)].decode(), at + (kind & 31)
    if kind == 0xC4:
        return data[at + 1 : at + 1 + data[at]], at + 1 + data[at]
    if kind == 0xCB:
        return np.frombuffer(data[at : at + 8], ">f8")[0], at + 8
    return {0xC3: True, 0xC2: False}.get(kind, kind), at


def test_golden_observation_of_openpis_client(tmp_path):
    """Image, state and prompt enter as they are, with the golden statistics; three numbers are no LIBERO state."""
    content = (DATA / "preproc" / "obs.msgpack").read_bytes()
    packed, end = unpack(content)
    observation = Observation({"image": packed["observation/image"]}, packed["observation/state"], packed["prompt"])
    assert end == len(content) and observation.prompt == "pick up the fork"
    with pytest.raises(ObservationError, match=r"shape \[3\] and dtype float32, expected 8 numbers \(libero\)"):
        processor(tmp_path, "libero").to_model_inputs(observation)
    stats = load_norm_stats(DATA / "preproc" / "norm_stats.json")
    robot = Robot("three", 3, 3, {"image": "base_0_rgb"}, 10.0)
    normalization = Normalization.of_openpi(stats, "pi0")
    three = ObservationProcessor(robot, character_tokenizer(tmp_path), normalization, tiny_config())
    inputs = three.to_model_inputs(observation)
    assert torch.equal(inputs.images, torch.full((1, 1, 3, 224, 224), -1.0))
    expected = ([0.0, 1.0, 2.0] - stats["state"]["mean"]) / (stats["state"]["std"] + 1e-6)
    np.testing.assert_array_equal(inputs.state.numpy()[0, :3], expected.astype(np.float32))


def test_a_robot_of_more_dimensions_than_a_setpoint_holds(tmp_path):
    """A humanoid of 44 joints, four cameras; the network is as wide as its checkpoint says."""
    cameras = {"head": "base_0_rgb", "left": "left_wrist_0_rgb", "right": "right_wrist_0_rgb", "chest": "camera_3"}
    robot = Robot("humanoid", 44, 44, cameras, 30, delta_actions=(40, -4), default_prompt="walk")
    config = dataclasses.replace(tiny_config(), action_dim=48)
    made = ObservationProcessor(robot, character_tokenizer(tmp_path), z_scores(44, 44), config)
    observed = Observation({name: random_image(3) for name in cameras}, np.linspace(-1, 1, 44))
    inputs = made.to_model_inputs(observed)
    assert inputs.images.shape[:2] == (1, 4) and inputs.state.shape == (1, 48)
    torch.manual_seed(0)
    with torch.inference_mode():
        chunk = Pi0(config).eval().sample_actions(inputs, torch.randn(1, 50, 48), euler_times(1))
    commands = made.to_physical(chunk[0].numpy(), observed)
    assert commands.shape == (50, 44) and np.isfinite(commands).all()
    np.testing.assert_allclose(made.to_normalized(commands, observed)[:, :44], chunk[0, :, :44], atol=1e-5)
    with pytest.raises(ConfigError, match=r"humanoid has 44 state, the network at most 32"):
        ObservationProcessor(robot, character_tokenizer(tmp_path), z_scores(44, 44), tiny_config())


def test_a_slot_names_a_camera_too(tmp_path):
    aloha = processor(tmp_path)
    by_slot = aloha_observation(images={"right_wrist_0_rgb": random_image(1), "base_0_rgb": random_image(2)})
    found = [aloha.to_model_inputs(each).images for each in (by_slot, aloha_observation())]
    assert torch.equal(*found)


def test_a_state_of_the_training_fits(tmp_path):
    for name in ("aloha", "aloha_sim", "ur5e", "libero"):
        made = processor(tmp_path, name)
        assert made.unfit_state(Observation({}, made.trained_state(), "x")) is None


def test_a_blank_prompt_is_told_of_the_default(tmp_path):
    sim = processor(tmp_path, "aloha_sim")
    with pytest.raises(ObservationError, match=r"prompt is '', expected a sentence; None means 'Transfer cube'"):
        sim.to_model_inputs(Observation({"top": random_image()}, np.zeros(14), ""))
