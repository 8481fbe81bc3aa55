"""The processor that belongs to a checkpoint folder: ours, LeRobot's, openpi's."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from processing_builders import DATA, character_tokenizer, processor, tiny_config, z_scores

from pi0_edge.checkpoints import open_checkpoint, save_checkpoint
from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.model import Pi0
from pi0_edge.processing import (
    Mode,
    Normalization,
    Normalizer,
    Observation,
    ObservationProcessor,
    load_norm_stats,
    load_processor,
    load_robot,
    save_norm_stats,
)
from pi0_edge.processing.lerobot_files import lerobot_robot, load_lerobot_normalization
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.processing.settings import ProcessingSettings

LEROBOT = DATA / "lerobot_main_pi0_ckpt"
OBSERVATION = Observation({"cam_high": np.full((30, 40, 3), 7, np.uint8)}, np.linspace(0, 1, 14), "fold the towel")


@pytest.fixture
def lerobot(tmp_path):
    folder = tmp_path / "lerobot"
    shutil.copytree(LEROBOT, folder)
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def step(content, name):
    return next(step for step in content["steps"] if step["registry_name"] == name)


def assert_same_behaviour(found, expected):
    for name in ("images", "tokens", "state"):
        inputs = [getattr(each.to_model_inputs(OBSERVATION), name) for each in (found, expected)]
        assert torch.equal(*inputs), name
    chunk = np.random.default_rng(0).normal(size=(50, 32))
    np.testing.assert_array_equal(found.to_physical(chunk, OBSERVATION), expected.to_physical(chunk, OBSERVATION))


@pytest.mark.parametrize("style", [PromptStyle.TEXT, PromptStyle.TEXT_AND_STATE])
def test_our_own_folder_round_trip(tmp_path, style):
    config = tiny_config(max_prompt_tokens=200)
    chosen = ProcessingSettings(prompt_style=style)
    saved = ObservationProcessor(load_robot("aloha"), character_tokenizer(tmp_path), z_scores(14, 14), config, chosen)
    save_checkpoint(tmp_path / "policy", Pi0(config).state_dict(), config, saved.description())
    checkpoint = open_checkpoint(tmp_path / "policy")
    loaded = load_processor(checkpoint.folder, checkpoint.infer_config())
    assert (loaded.robot, loaded.settings.prompt_style) == (load_robot("aloha"), style)
    assert loaded.tokenizer.source == tmp_path / "policy" / "tokenizer.json"
    assert_same_behaviour(loaded, saved)


def test_lerobots_formulas_survive_our_own_folder(tmp_path, lerobot):
    normalization = load_lerobot_normalization(lerobot)
    config = tiny_config()
    saved = ObservationProcessor(load_robot("aloha"), character_tokenizer(tmp_path), normalization, config)
    save_checkpoint(tmp_path / "policy", Pi0(config).state_dict(), config, saved.description())
    loaded = load_processor(tmp_path / "policy", config)
    assert loaded.normalization.state.mode is Mode.LEROBOT_MEAN_STD
    assert_same_behaviour(loaded, saved)


def test_no_normalization_survives_our_own_folder(tmp_path):
    config, identity = tiny_config(), Normalizer(Mode.IDENTITY)
    saved = ObservationProcessor(
        load_robot("aloha"), character_tokenizer(tmp_path), Normalization(identity, identity), config
    )
    save_checkpoint(tmp_path / "policy", Pi0(config).state_dict(), config, saved.description())
    assert_same_behaviour(load_processor(tmp_path / "policy", config), saved)


def test_saving_over_an_older_checkpoint_replaces_it(tmp_path):
    config, saved = tiny_config(), processor(tmp_path)
    for value in (0.0, 1.0):
        state = {name: torch.full_like(tensor, value) for name, tensor in Pi0(config).state_dict().items()}
        save_checkpoint(tmp_path / "policy", state, config, saved.description())
    _, tensor = next(open_checkpoint(tmp_path / "policy").tensors(["projector.bias"]))
    assert tensor[0] == 1.0
    assert not list((tmp_path / "policy").glob("*.tmp"))


def test_saving_without_the_tokenizer_it_names(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer .*nowhere.json does not exist"):
        described = dataclasses.replace(processor(tmp_path).description(), tokenizer=tmp_path / "nowhere.json")
        save_checkpoint(tmp_path, {}, tiny_config(), described)


def test_lerobot_statistics_are_read_through_state_file(lerobot):
    """The file is found under whatever name the JSON gives it."""
    source = lerobot / "policy_preprocessor_step_6_normalizer_processor.safetensors"
    source.rename(lerobot / "elsewhere.safetensors")
    path = lerobot / "policy_preprocessor.json"
    edit(path, lambda content: step(content, "normalizer_processor").update(state_file="elsewhere.safetensors"))
    normalization = load_lerobot_normalization(lerobot)
    assert (normalization.state.mode, normalization.state.dims) == (Mode.LEROBOT_MEAN_STD, 14)
    mean, std = normalization.state.stats["mean"], normalization.state.stats["std"]
    assert mean[:2].tolist() == [-1.0, np.float32(-0.84615386)] and std[0] == 0.0
    x = np.linspace(-2, 2, 14)
    np.testing.assert_array_equal(normalization.state.forward(x), (x - mean) / (std + 1e-8))
    np.testing.assert_array_equal(normalization.actions.inverse(x), x * std + mean)


def test_robot_of_a_lerobot_config(lerobot):
    robot = lerobot_robot(lerobot)
    assert (robot.state_dim, robot.action_dim, robot.delta_actions, robot.control_hz) == (14, 14, (), None)
    assert robot.cameras == {slot: slot for slot in ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")}


def test_cameras_of_a_lerobot_config_fill_the_slots_in_order(lerobot):
    def rename(content):
        features = {k: v for k, v in content["input_features"].items() if "images" not in k}
        image = {"type": "VISUAL", "shape": [3, 480, 640]}
        content["input_features"] = {f"observation.images.{n}": image for n in ("wrist", "front")} | features

    edit(lerobot / "config.json", rename)
    assert lerobot_robot(lerobot).cameras == {"wrist": "base_0_rgb", "front": "left_wrist_0_rgb"}


def test_lerobots_relative_actions(lerobot):
    names = [f"{side}_{joint}" for side in ("left", "right") for joint in (*map(str, range(6)), "gripper")]
    relative = {"enabled": True, "exclude_joints": ["gripper"], "action_names": names}
    path = lerobot / "policy_preprocessor.json"
    edit(path, lambda content: step(content, "relative_actions_processor")["config"].update(relative))
    assert lerobot_robot(lerobot).delta_actions == (1, 1, 1, 1, 1, 1, -1) * 2
    edit(path, lambda content: step(content, "relative_actions_processor")["config"].update(action_names=None))
    with pytest.raises(ConfigError, match=r"relative actions but does not name its 14 actions; give a robot"):
        lerobot_robot(lerobot)


def test_lerobot_folder_with_a_tokenizer(tmp_path, lerobot):
    (lerobot / "tokenizer" / "tokenizer_stub.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer; give PaliGemma's tokenizer.model"):
        load_processor(lerobot, tiny_config())
    character_tokenizer(lerobot / "tokenizer")
    loaded = load_processor(lerobot, tiny_config())
    observation = Observation({"base_0_rgb": np.zeros((8, 8, 3), np.uint8)}, np.zeros(14), "go")
    assert loaded.to_model_inputs(observation).state.shape == (1, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("state_file"), r"comes without statistics \(base checkpoints do\); give a norm_stats.json"),
        (lambda s: s.update(state_file="../x.safetensors"), r"is outside the folder"),
        (lambda s: s.update(state_file="gone.safetensors"), r"gone.safetensors cannot be read"),
        (lambda s: s["config"]["norm_map"].update(STATE="LOG"), r"by 'LOG', expected one of MEAN_STD"),
        (lambda s: s.update(registry_name="other"), r"no step normalizer_processor"),
    ],
)
def test_damaged_lerobot_pipelines(lerobot, change, message):
    edit(lerobot / "policy_preprocessor.json", lambda content: change(step(content, "normalizer_processor")))
    with pytest.raises(ConfigError, match=message):
        load_lerobot_normalization(lerobot)


def test_openpi_folder(tmp_path):
    stats = load_norm_stats(DATA / "preproc" / "norm_stats.json")
    wide = {name: {k: np.resize(v, 14) for k, v in field.items()} for name, field in stats.items()}
    for asset in ("trossen", "droid"):
        (tmp_path / "assets" / asset).mkdir(parents=True)
        save_norm_stats(tmp_path / "assets" / asset / "norm_stats.json", wide if asset == "trossen" else stats)
    tokenizer = character_tokenizer(tmp_path).source
    loaded = load_processor(tmp_path, tiny_config(), robot="aloha", tokenizer=tokenizer)
    assert loaded.normalization.state.dims == 14, "the robot's own asset is taken"
    assert loaded.normalization.state.mode is Mode.OPENPI_ZSCORE
    quantile = load_processor(tmp_path, tiny_config("pi05"), robot="aloha", tokenizer=tokenizer)
    assert quantile.normalization.actions.mode is Mode.OPENPI_QUANTILE
    with pytest.raises(ConfigError, match=r"statistics of state .* have 3 dimensions, but aloha has 14"):
        load_processor(tmp_path, tiny_config(), robot="aloha", tokenizer=tokenizer, asset_id="droid")
    with pytest.raises(ConfigError, match=r"does not record its robot; give one"):
        load_processor(tmp_path, tiny_config(), tokenizer=tokenizer)


def test_given_statistics_go_before_those_of_the_folder(tmp_path, lerobot):
    stats = {name: {"mean": np.zeros(14), "std": np.ones(14)} for name in ("state", "actions")}
    save_norm_stats(tmp_path / "mine.json", stats)
    tokenizer = character_tokenizer(tmp_path).source
    loaded = load_processor(lerobot, tiny_config(), tokenizer=tokenizer, norm_stats=tmp_path / "mine.json")
    assert loaded.normalization.state.mode is Mode.LEROBOT_MEAN_STD, "the formula is that of the pipeline"
    assert loaded.normalization.actions.stats["std"].tolist() == [1.0] * 14


def test_a_folder_without_statistics(tmp_path):
    tokenizer = character_tokenizer(tmp_path).source
    with pytest.raises(ConfigError, match=r"has no norm_stats.json"):
        load_processor(tmp_path, tiny_config(), robot="aloha", tokenizer=tokenizer)


BASE_STATS = {
    name: {"mean": np.full(14, 0.25), "std": np.full(14, 2.0), "q01": np.full(14, -1.0), "q99": np.full(14, 1.0)}
    for name in ("state", "actions")
}


def base_checkpoint(folder):
    """As LeRobot publishes them: pipelines without statistics."""
    for name in ("policy_preprocessor", "policy_postprocessor"):
        edit(folder / f"{name}.json", lambda content: [step.pop("state_file", None) for step in content["steps"]])
        next(folder.glob(f"{name}_step_*.safetensors")).unlink()
    character_tokenizer(folder)
    return folder


def test_a_base_checkpoint_takes_the_statistics_in_its_folder(lerobot):
    save_norm_stats(base_checkpoint(lerobot) / "norm_stats.json", BASE_STATS)
    loaded = load_processor(lerobot, tiny_config())
    assert loaded.normalization.state.mode is Mode.LEROBOT_MEAN_STD
    assert loaded.normalization.actions.stats["std"].tolist() == [2.0] * 14


def test_a_base_checkpoint_takes_the_statistics_that_are_given(tmp_path, lerobot):
    save_norm_stats(tmp_path / "mine.json", BASE_STATS)
    with pytest.raises(ConfigError, match=r"give a norm_stats.json of your robot \(--norm-stats, or norm_stats="):
        load_processor(base_checkpoint(lerobot), tiny_config())
    loaded = load_processor(lerobot, tiny_config(), norm_stats=tmp_path / "mine.json")
    assert loaded.normalization.state.stats["mean"].tolist() == [0.25] * 14


def test_statistics_in_the_folder_do_not_replace_those_of_the_pipeline(lerobot):
    save_norm_stats(lerobot / "norm_stats.json", BASE_STATS)
    character_tokenizer(lerobot)
    assert load_processor(lerobot, tiny_config()).normalization.state.stats["mean"][0] == -1.0


def test_given_statistics_keep_the_formula_that_the_pipeline_names(tmp_path, lerobot):
    """π0.5 normalizes by quantiles, but a LeRobot policy says how it was trained."""
    save_norm_stats(tmp_path / "mine.json", BASE_STATS)
    character_tokenizer(lerobot)

    def by_quantiles(content):
        for each in content["steps"]:
            if "norm_map" in each["config"]:
                each["config"]["norm_map"] |= {"STATE": "QUANTILES", "ACTION": "QUANTILES"}

    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        edit(lerobot / name, by_quantiles)
    loaded = load_processor(lerobot, tiny_config(), norm_stats=tmp_path / "mine.json")
    assert loaded.normalization.state.forward([1.0])[0] == 1.0


def renaming(folder, pairs):
    renamed = {f"observation.images.{old}": f"observation.images.{new}" for old, new in pairs.items()}
    change = {"rename_map": {**renamed, "state": "observation.state"}}
    edit(
        folder / "policy_preprocessor.json",
        lambda content: step(content, "rename_observations_processor")["config"].update(change),
    )
    character_tokenizer(folder)
    return folder


def test_cameras_are_known_by_their_recorded_names_and_by_those_of_the_policy(lerobot):
    renaming(lerobot, {"wrist": "left_wrist_0_rgb", "front": "base_0_rgb", "unused": "elsewhere"})
    loaded = load_processor(lerobot, tiny_config())
    slots = {"front": "base_0_rgb", "wrist": "left_wrist_0_rgb", "right_wrist_0_rgb": "right_wrist_0_rgb"}
    assert loaded.robot.cameras == slots
    front, wrist = (np.full((224, 224, 3), level, np.uint8) for level in (10, 200))
    recorded = Observation({"wrist": wrist, "front": front}, np.zeros(14), "x")
    of_policy = Observation({"left_wrist_0_rgb": wrist, "base_0_rgb": front}, np.zeros(14), "x")
    images = [loaded.to_model_inputs(each).images[0] for each in (recorded, of_policy)]
    assert torch.equal(*images) and images[0][0, 0, 0, 0] < images[0][1, 0, 0, 0], "the front camera is first"
    with pytest.raises(ObservationError, match=r"the camera 'front' of lerobot:lerobot under two names; keep one"):
        loaded.to_model_inputs(Observation({"front": front, "base_0_rgb": front}, np.zeros(14), "x"))
    with pytest.raises(ObservationError, match=r"the camera 'side', which .* does not have; known: front, wrist"):
        loaded.to_model_inputs(Observation({"side": front}, np.zeros(14), "x"))


def test_recorded_names_survive_our_own_folder(tmp_path, lerobot):
    config = tiny_config()
    saved = load_processor(renaming(lerobot, {"front": "base_0_rgb"}), config)
    save_checkpoint(tmp_path / "policy", Pi0(config).state_dict(), config, saved.description())
    assert load_processor(tmp_path / "policy", config).robot == saved.robot


def test_a_renaming_that_is_ambiguous_is_refused(lerobot):
    with pytest.raises(ConfigError, match=r"rename_map gives the name base_0_rgb to several cameras; give a robot"):
        load_processor(renaming(lerobot, {"a": "base_0_rgb", "b": "base_0_rgb"}), tiny_config())


def test_empty_cameras_of_lerobot_are_no_cameras_and_a_fourth_one_is(lerobot):
    image = {"type": "VISUAL", "shape": [3, 480, 640]}
    names = ("base_0_rgb", "empty_camera_0", "left", "right", "chest", "empty_camera_1", "back")
    features = {f"observation.images.{name}": image for name in names}
    edit(
        lerobot / "config.json",
        lambda content: content.update(
            input_features={**features, "observation.state": content["input_features"]["observation.state"]}
        ),
    )
    character_tokenizer(lerobot)
    loaded = load_processor(lerobot, tiny_config())
    slots = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb", "camera_3", "camera_4")
    assert loaded.robot.cameras == dict(zip(("base_0_rgb", "left", "right", "chest", "back"), slots, strict=True))
    seen = {name: np.full((8, 8, 3), 40 * place, np.uint8) for place, name in enumerate(loaded.robot.cameras)}
    images = loaded.to_model_inputs(Observation(dict(reversed(seen.items())), np.zeros(14), "x")).images[0]
    assert images[:, 0, 112, 112].diff().min() > 0, "in the order of the slots"


def test_config_and_pipeline_that_contradict_each_other_about_relative_actions(lerobot):
    edit(lerobot / "config.json", lambda content: content.update(use_relative_actions=True))
    with pytest.raises(ConfigError, match=r"says that actions are relative, policy_preprocessor.json that they"):
        lerobot_robot(lerobot)
