"""Settings that weights do not show: given, read from each kind of folder, recorded, and all of them in the docs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from processing_builders import DATA, character_tokenizer, processor, tiny_config, z_scores

from pi0_edge.checkpoints import load_sizes, parse_sizes, save_checkpoint
from pi0_edge.errors import ConfigError
from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.processing import (
    Mode,
    Normalization,
    Normalizer,
    Observation,
    ObservationProcessor,
    Robot,
    load_processor,
    load_robot,
    save_norm_stats,
)
from pi0_edge.processing.description import RECORDED
from pi0_edge.processing.images import network_image, resize_with_pad, to_unit_range
from pi0_edge.processing.loading import restore_processor
from pi0_edge.processing.prompts import PromptStyle
from pi0_edge.processing.settings import (
    EulerTimes,
    ProcessingSettings,
    ResizeFilter,
    StillJoints,
    parse_settings,
    setting_names,
)

DOCS = DATA.parents[1] / "docs" / "settings.md"
WIDE = np.full((480, 640, 3), 255, np.uint8)
UNLIKE_OPENPI = ProcessingSettings(
    PromptStyle.TEXT_AND_STATE,
    prompt_cleaning=False,
    prompt_state_padded=True,
    truncate_prompts=True,
    resize_filter=ResizeFilter.TORCH,
    padding_value=-3.0,
    still_joints=StillJoints.AS_TRAINED,
    euler_steps=7,
    euler_times=EulerTimes.EXACT,
)


@pytest.fixture
def lerobot(tmp_path):
    """A folder as LeRobot 0.5.1 and later write it, with a tokenizer."""
    folder = tmp_path / "lerobot"
    shutil.copytree(DATA / "lerobot_main_pi0_ckpt", folder)
    character_tokenizer(folder)
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def written_by_04(folder):
    """What 0.4 and 0.5.0 did not write."""

    def forget(config):
        for name in ("use_relative_actions", "relative_exclude_joints", "action_feature_names"):
            del config[name]

    def drop(pipeline):
        pipeline["steps"] = [s for s in pipeline["steps"] if s["registry_name"] != "relative_actions_processor"]

    edit(folder / "config.json", forget)
    edit(folder / "policy_preprocessor.json", drop)
    return folder


def white(loaded: ObservationProcessor, as_frames: bool = False) -> torch.Tensor:
    """What the network gets of a white image of 480x640."""
    seen = Observation({next(iter(loaded.robot.cameras)): WIDE}, np.zeros(14), "fold")
    return loaded.to_model_inputs(seen, as_frames).images[0, 0]


def test_lerobot_04_padded_with_minus_three(lerobot, caplog):
    loaded = load_processor(written_by_04(lerobot), tiny_config())
    image = white(loaded)
    assert image[:, 0].unique().tolist() == [-3.0] and image[:, -1].unique().tolist() == [-3.0]
    torch.testing.assert_close(image[:, 28:196], torch.ones(3, 168, 224))
    assert "padding_value: -3" in caplog.text and "Give padding_value: -1" in caplog.text


@pytest.mark.parametrize("value", [-1, -3])
def test_a_padding_value_that_is_given_is_taken_without_a_word(lerobot, caplog, value):
    loaded = load_processor(written_by_04(lerobot), tiny_config(), settings={"padding_value": value})
    assert white(loaded)[:, 0].unique().tolist() == [value]
    assert caplog.text == ""


def test_later_lerobot_pads_with_black_without_a_word(lerobot, caplog):
    loaded = load_processor(lerobot, tiny_config())
    assert white(loaded)[:, 0].unique().tolist() == [-1.0]
    assert caplog.text == ""


def test_the_name_of_relative_actions_in_0_5_2_tells_the_version_too(lerobot, caplog):
    def rename(pipeline):
        for step in pipeline["steps"]:
            if step["registry_name"] == "relative_actions_processor":
                step["registry_name"] = "delta_actions_processor"

    edit(lerobot / "config.json", lambda config: config.pop("use_relative_actions"))
    edit(lerobot / "policy_preprocessor.json", rename)
    assert load_processor(lerobot, tiny_config()).settings.padding_value == -1.0
    assert caplog.text == ""


@pytest.mark.parametrize(("of_04", "width"), [(True, 32), (False, 14)])
def test_the_state_in_the_prompt_of_pi05_is_padded_by_04(lerobot, caplog, of_04, width):
    folder = written_by_04(lerobot) if of_04 else lerobot
    edit(folder / "config.json", lambda config: config.update(type="pi05"))
    loaded = load_processor(folder, tiny_config("pi05", 400))
    mean = loaded.normalization.state.stats["mean"]
    found = loaded.to_model_inputs(Observation({"base_0_rgb": WIDE}, mean, "fold_it")).tokens[0].tolist()
    assert found == loaded.tokenizer.encode(f"Task: fold it, State: {' '.join(['128'] * width)};\nAction: ")
    assert ("prompt_state_padded: true" in caplog.text) is of_04


def test_lerobot_scales_with_torch_and_never_leaves_that_to_an_engine(lerobot):
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    loaded = load_processor(lerobot, tiny_config())
    unit = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(unit, (168, 224), mode="bilinear", align_corners=False)[0] * 2 - 1
    for as_frames in (False, True):
        seen = Observation({"base_0_rgb": image}, np.zeros(14), "x")
        found = loaded.to_model_inputs(seen, as_frames).images[0, 0]
        torch.testing.assert_close(found[:, 28:196], scaled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(480, 640, 3), (640, 480, 3), (223, 225, 3), (101, 300, 3)])
@pytest.mark.parametrize("scaler", list(ResizeFilter))
def test_padding_is_beside_the_image_and_nowhere_else(shape, scaler):
    image = np.random.default_rng(1).integers(60, 200, shape, np.uint8)
    settings = ProcessingSettings(resize_filter=scaler, padding_value=-3.0)
    found, black = network_image(image, 224, settings), to_unit_range(resize_with_pad(image, 224))
    np.testing.assert_array_equal(found == -3.0, black == -1.0)
    if scaler is ResizeFilter.PILLOW:
        np.testing.assert_array_equal(found[found != -3.0], black[black != -1.0])


def test_an_image_of_the_right_size_is_the_same_to_every_setting():
    image = np.random.default_rng(1).integers(0, 256, (224, 224, 3), np.uint8)
    np.testing.assert_array_equal(network_image(image, 224, UNLIKE_OPENPI), to_unit_range(image))


def test_lerobots_prompt_is_not_cleaned(lerobot):
    loaded = load_processor(lerobot, tiny_config())
    for prompt, tail in ((" fold_it ", "\n"), ("fold\nit\n", "")):
        found = loaded.to_model_inputs(Observation({"base_0_rgb": WIDE}, np.zeros(14), prompt)).tokens[0].tolist()
        assert found == loaded.tokenizer.encode(prompt + tail)


def test_lerobots_steps_and_their_times_are_read(lerobot):
    edit(lerobot / "config.json", lambda config: config.update(num_inference_steps=5))
    settings = load_processor(lerobot, tiny_config()).settings
    assert (settings.euler_steps, settings.euler_times) == (5, EulerTimes.EXACT)
    edit(lerobot / "config.json", lambda config: config.update(num_inference_steps=0))
    with pytest.raises(ConfigError, match=r"num_inference_steps is 0, expected a whole number >= 1"):
        load_processor(lerobot, tiny_config())


def test_what_a_pipeline_does_beyond_lerobots_steps_is_named(lerobot, caplog):
    def extend(pipeline):
        pipeline["steps"].insert(0, {"registry_name": "my_crop_processor", "config": {}})
        for step in pipeline["steps"]:
            if step["registry_name"] == "tokenizer_processor":
                step["config"]["tokenizer_name"] = "someone/gemma-with-robots"

    edit(lerobot / "policy_preprocessor.json", extend)
    load_processor(lerobot, tiny_config())
    assert "has the step my_crop_processor, which is not done here" in caplog.text
    assert "someone/gemma-with-robots" in caplog.text


def test_lerobot_is_known_by_its_config_where_it_has_no_pipelines(tmp_path, lerobot, caplog):
    for path in lerobot.glob("policy_*"):
        path.unlink()
    loaded = load_processor(openpi(lerobot), tiny_config(), robot="aloha_sim")
    assert (loaded.settings.resize_filter, loaded.settings.prompt_cleaning) == (ResizeFilter.TORCH, False)
    assert caplog.text == ""


def openpi(folder, width=14):
    stats = {"mean": [0.0] * width, "std": [1.0] * width, "q01": [-2.0] * width, "q99": [2.0] * width}
    save_norm_stats(folder / "norm_stats.json", {"state": stats, "actions": stats})
    character_tokenizer(folder)
    return folder


GIVEN = {
    "openpi's name": {"discrete_state_input": False},
    "our name": {"prompt_style": "text"},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_pi05_of_openpi_without_the_state_in_its_prompt(tmp_path, caplog, given):
    loaded = load_processor(openpi(tmp_path), tiny_config("pi05"), robot="aloha_sim", settings=given)
    seen = [Observation({"top": WIDE}, np.full(14, value), "fold") for value in (0.0, 0.5)]
    tokens = [loaded.to_model_inputs(each).tokens[0].tolist() for each in seen]
    assert tokens[0] == tokens[1] == [*loaded.tokenizer.encode("fold"), 108]
    assert caplog.text == ""


def test_pi05_of_openpi_says_what_it_takes(tmp_path, caplog):
    loaded = load_processor(openpi(tmp_path), tiny_config("pi05", 200), robot="aloha_sim")
    assert loaded.settings.prompt_style is PromptStyle.TEXT_AND_STATE
    assert "discrete_state_input: true is taken" in caplog.text
    caplog.clear()
    load_processor(openpi(tmp_path), tiny_config(), robot="aloha_sim")
    assert caplog.text == "", "π0 has one format"


def test_transformers_says_what_it_takes(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "pi0", "num_inference_steps": 4}))
    loaded = load_processor(openpi(tmp_path), tiny_config(), robot="aloha_sim")
    for name in ("prompt_cleaning: false", "resize_filter: pillow", "padding_value: -1"):
        assert name in caplog.text
    assert (loaded.settings.euler_steps, loaded.settings.euler_times) == (4, EulerTimes.EXACT)


def test_another_formula_for_openpis_statistics(tmp_path):
    given = {"normalization": "openpi_quantile"}
    loaded = load_processor(openpi(tmp_path), tiny_config(), robot="aloha_sim", settings=given)
    assert loaded.normalization.state.mode is loaded.normalization.actions.mode is Mode.OPENPI_QUANTILE


def test_settings_are_recorded_in_our_own_folder_and_restored(tmp_path):
    config = tiny_config(max_prompt_tokens=400)
    saved = ObservationProcessor(
        load_robot("aloha"), character_tokenizer(tmp_path), z_scores(14, 14), config, UNLIKE_OPENPI
    )
    save_checkpoint(tmp_path / "policy", Pi0(config).state_dict(), config, saved.description())
    assert load_processor(tmp_path / "policy", config).settings == UNLIKE_OPENPI
    described = saved.description()
    save_norm_stats(tmp_path / "norm_stats.json", described.norm_stats or {})
    assert restore_processor(tmp_path, described, config).settings == UNLIKE_OPENPI
    given = load_processor(tmp_path / "policy", config, settings={"padding_value": 0}).settings
    assert given == dataclasses.replace(UNLIKE_OPENPI, padding_value=0.0)


def test_what_was_recorded_before_there_was_a_choice_is_openpis(tmp_path):
    saved = dataclasses.replace(processor(tmp_path, "aloha").description(), settings={})
    save_checkpoint(tmp_path / "policy", Pi0(tiny_config()).state_dict(), tiny_config(), saved)
    assert load_processor(tmp_path / "policy", tiny_config()).settings == ProcessingSettings()


def test_a_joint_that_stood_still_is_shown_where_it_stood(tmp_path):
    mean, std = np.linspace(-1, 1, 14), np.ones(14)
    std[3] = 0.0
    still = Normalizer(Mode.LEROBOT_MEAN_STD, {"mean": mean, "std": std})
    observed = Observation({"top": WIDE}, mean + 0.1, "x")
    tokenizer, robot = character_tokenizer(tmp_path), load_robot("aloha_sim")
    shown = {}
    for choice in StillJoints:
        settings = ProcessingSettings(still_joints=choice)
        made = ObservationProcessor(robot, tokenizer, Normalization(still, still), tiny_config(), settings)
        shown[choice] = made.to_model_inputs(observed).state[0].numpy()
        assert (made.unfit_state(observed) is None) is (choice is StillJoints.AS_TRAINED)
    assert shown[StillJoints.AS_MEASURED][3] == pytest.approx(1e7)
    assert shown[StillJoints.AS_TRAINED][3] == 0.0
    np.testing.assert_allclose(np.delete(shown[StillJoints.AS_TRAINED][:14], 3), 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"padding_vlaue": -3}, r"'padding_vlaue' is not a setting; did you mean padding_value"),
        ({"padding_value": "black"}, r"padding_value is 'black', expected a number, such as -1"),
        ({"padding_value": float("nan")}, r"padding_value is nan"),
        ({"prompt_style": "poem"}, r"prompt_style is 'poem', expected one of text, text_and_state"),
        ({"discrete_state_input": "no"}, r"discrete_state_input is 'no', expected true or false"),
        ({"discrete_state_input": False, "prompt_style": "text_and_state"}, r"prompt_style is given twice"),
        ({"euler_steps": 0}, r"euler_steps is 0, expected a whole number from 1 on"),
        ({"num_inference_steps": True}, r"num_inference_steps is True"),
        ({"resize_filter": "bicubic"}, r"expected one of pillow, torch"),
        ({"normalization": []}, r"normalization is \[\], expected one of openpi_zscore"),
    ],
)
def test_mistakes_in_settings_are_named(content, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(content)


def test_a_sizes_file_holds_sizes_and_settings(tmp_path):
    path = tmp_path / "sizes.yaml"
    path.write_text("vision: {heads: 4}\ndiscrete_state_input: false\npadding_value: -3\n")
    found = load_sizes(path)
    assert found == {"vision.heads": 4, "discrete_state_input": False, "padding_value": -3}
    assert parse_sizes(found) == {"vision.heads": 4}
    path.write_text("padding_value: black\n")
    with pytest.raises(ConfigError, match=r"sizes.yaml: padding_value is 'black'"):
        load_sizes(path)
    with pytest.raises(ConfigError, match=r"'discrete_state' is not a size; did you mean discrete_state_input"):
        parse_sizes({"discrete_state": True})


def rows() -> dict[str, list[str]]:
    """The tables of the page: what stands in backticks in the first cell, and the other cells."""
    found = {}
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "setting":
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]) or [cells[0]], cells[1:])
    return found


def test_every_setting_that_is_recorded_or_given_has_its_row_in_the_docs():
    robot = {field.name for field in dataclasses.fields(Robot)}
    not_of_the_policy = {"name", "description", "action_names", "joints", "servo_hz", "asset_id"}
    not_of_the_policy |= {"servo_bus", "servos", "zero_pose", "camera_sources", "latency"}
    network = {field.name for field in dataclasses.fields(Pi0Config)} - {"vision", "prefix", "expert", "vocab_size"}
    processing = {field.name for field in dataclasses.fields(ProcessingSettings)}
    expected = {*processing, *(robot - not_of_the_policy), *network, *RECORDED, "norm_stats"} - {"settings"}
    assert expected - rows().keys() == set()
    assert {"normalization", *processing} <= set(setting_names())


def test_no_row_is_incomplete_or_knows_a_setting_that_the_code_does_not():
    known = {*setting_names(), *(f.name for f in dataclasses.fields(Robot)), "robot", "norm_stats"}
    known |= {*parse_sizes({"horizon": 1, "variant": "pi0", "max_prompt_tokens": 1, "trained_delay": 0})}
    known |= {"image_size", "heads", "head_dim", "action_dim", "head", "real_dims", "decoding"}
    words = {"scale of LoRA factors", "time embedding", "token embedding", "tokenizer", "steps of a pipeline"}
    assert set(rows()) - known - words == set()
    for name, cells in rows().items():
        assert len(cells) == 5 and all(cells), name
        assert "without a word" not in " ".join(cells)


def test_the_values_in_the_docs_are_those_of_the_code():
    for name, values in {
        "prompt_style": PromptStyle,
        "resize_filter": ResizeFilter,
        "still_joints": StillJoints,
        "euler_times": EulerTimes,
    }.items():
        assert {member.value for member in values} <= set(re.findall(r"`(\w+)`", rows()[name][0]))
