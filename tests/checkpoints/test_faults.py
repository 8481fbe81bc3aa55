"""Damaged, incomplete and foreign checkpoints: one clear error each, and never anything but a CheckpointError."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_builders import (
    LM_HEAD,
    SIZES,
    golden_path,
    golden_state,
    golden_tensors,
    lerobot_config,
    write_safetensors,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.checkpoints.locations import find_safetensors
from pi0_edge.errors import CheckpointError
from pi0_edge.model import Pi0

EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
DROPPABLE = sorted(golden_tensors("pi0").keys() - {EXPERT_HEAD})
UNUSED_LAST = "paligemma_with_expert.paligemma.model.language_model.layers.2."
ONLY_WITNESS = ("position_embedding.weight", "lm_head.weight")
"""No other tensor shows how many image tokens or how many words there are, so their length is believed."""

EXPERT_NORM = "paligemma_with_expert.gemma_expert.model.layers.1.input_layernorm.weight"


@pytest.fixture
def model():
    return Pi0(golden_state("pi0")[1])


def load(path, model):
    checkpoint = open_checkpoint(path)
    checkpoint.load_into(model)
    return checkpoint


def is_unused(name):
    dead = ("self_attn.q", "self_attn.o", "mlp.", "post_attention_layernorm")
    in_last = name.startswith(UNUSED_LAST) and name[len(UNUSED_LAST) :].startswith(dead)
    return in_last or name.endswith("language_model.norm.weight")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(DROPPABLE))
def test_any_missing_tensor_is_named(tmp_path_factory, model, name):
    tensors = golden_tensors("pi0")
    shape = list(tensors.pop(name).shape)
    folder = write_safetensors(tmp_path_factory.mktemp("missing"), tensors)
    if is_unused(name):
        load(folder, model)
        return
    with pytest.raises(CheckpointError) as error:
        load(folder, model)
    message = str(error.value)
    expected = name if name != LM_HEAD else "embed_tokens.weight"
    assert str(folder) in message and expected in message
    assert str(shape) in message or name.startswith("state_proj")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([n for n in DROPPABLE if not is_unused(n) and not n.endswith(ONLY_WITNESS)]))
def test_any_wrong_shape_is_found_even_when_the_sizes_are_inferred(tmp_path_factory, name):
    tensors = golden_tensors("pi0")
    right = list(tensors[name].shape)
    tensors[name] = torch.zeros(right[0] + 7, *right[1:])
    folder = write_safetensors(tmp_path_factory.mktemp("shape"), tensors)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_into(Pi0(checkpoint.infer_config(SIZES)))
    assert f"{name} has shape {[right[0] + 7, *right[1:]]}, expected {right}" in str(error.value)


def test_all_problems_are_counted_and_five_are_listed(tmp_path, model):
    tensors = {name: t for name, t in golden_tensors("pi0").items() if "vision_tower" not in name}
    tensors["something_else"] = torch.zeros(2, 3)
    with pytest.raises(CheckpointError) as error:
        load(write_safetensors(tmp_path, tensors), model)
    message = str(error.value)
    assert message.count("missing ") == 5
    assert "38 tensor(s) differ" in message and "and 33 more" in message


def test_a_surplus_tensor_is_named(tmp_path, model):
    tensors = {**golden_tensors("pi0"), "something_else": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) differ:\n  surplus something_else \[2, 3\]"):
        load(write_safetensors(tmp_path, tensors), model)


def test_a_failed_load_leaves_the_model_untouched(tmp_path, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = golden_tensors("pi0")
    del tensors[EXPERT_NORM]
    with pytest.raises(CheckpointError):
        load(write_safetensors(tmp_path, tensors), model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_known_unused_tensors_are_allowed(tmp_path, model):
    tensors = {f"model.{name}": tensor for name, tensor in golden_tensors("pi0").items()}
    tensors["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(14)
    load(write_safetensors(tmp_path, tensors), model)


def test_integer_weights_are_refused(tmp_path, model):
    tensors = golden_tensors("pi0")
    tensors[EXPERT_NORM] = tensors[EXPERT_NORM].to(torch.int8)
    with pytest.raises(
        CheckpointError, match=r"input_layernorm.weight has dtype torch.int8, expected a floating-point"
    ):
        load(write_safetensors(tmp_path, tensors), model)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_truncated_file_never_loads(tmp_path_factory, data):
    content = golden_path("pi0").read_bytes()
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    length = data.draw(st.one_of(st.integers(0, 20_000), st.integers(0, len(content) - 1)))
    path.write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"truncated") as error:
        open_checkpoint(path)
    assert str(path) in str(error.value) and str(length) in str(error.value)


def test_truncation_says_how_many_bytes_are_missing(tmp_path):
    content = golden_path("pi0").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[:-1000])
    with pytest.raises(CheckpointError, match=rf"expected {len(content)} bytes, found {len(content) - 1000}, so \d+"):
        open_checkpoint(path)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 12_000), value=st.integers(0, 255))
@example(position=7617, value=69)  # an offset becomes 1E999…: infinite
def test_a_damaged_header_never_raises_anything_else(tmp_path_factory, position, value):
    content = bytearray(golden_path("pi0").read_bytes())
    content[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
        checkpoint.load_into(Pi0(golden_state_config()))
    except CheckpointError as error:
        assert str(path) in str(error)


def golden_state_config():
    return open_checkpoint(golden_path("pi0")).infer_config(SIZES)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "policy.pkl"])
def test_pickled_files_are_refused_without_being_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04never read")
    for given_path in (path, tmp_path):
        with pytest.raises(CheckpointError, match=r"pickled.*can run any code.*safetensors"):
            open_checkpoint(given_path)


def test_legacy_lerobot_is_refused_with_a_pointer(tmp_path):
    key = "model.paligemma_with_expert.paligemma.language_model.model.layers.0.self_attn.q_proj.weight"
    folder = write_safetensors(tmp_path, {key: torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"legacy LeRobot.*migrate_policy_normalization"):
        open_checkpoint(folder)


def test_adapters_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"only adapter weights.*merge"):
        open_checkpoint(tmp_path)
    key = "base_model.model.paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(CheckpointError, match=r"LoRA adapters.*merge_and_unload"):
        open_checkpoint(write_safetensors(tmp_path, {key: torch.zeros(1, 2)}))


def test_another_policy_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no known π0 layout \(first names: backbone.weight"):
        open_checkpoint(write_safetensors(tmp_path, {"backbone.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"policy type is 'smolvla', expected pi0 or pi05"):
        open_checkpoint(write_safetensors(tmp_path, golden_tensors("pi0"), lerobot_config("smolvla")))


def test_checkpoint_of_neither_variant_is_refused(tmp_path):
    tensors = {name: t for name, t in golden_tensors("pi0").items() if not name.startswith("state_proj")}
    with pytest.raises(CheckpointError, match=r"neither π0 nor π0.5: expected either state_proj.weight"):
        open_checkpoint(write_safetensors(tmp_path, tensors))


def test_path_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist; expected a .safetensors file"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no weights; expected"):
        open_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"is not a checkpoint"):
        open_checkpoint(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("given", "places", "meant"),
    [
        ("exp", ["exp/20000", "exp/5000"], ["exp/20000", "exp/5000"]),
        ("out", ["out/checkpoints/020000/pretrained_model"], ["out/checkpoints/020000"]),
        ("out/checkpoints", ["out/checkpoints/last/pretrained_model", "out/checkpoints/090000/pretrained_model"], None),
        ("models--x--y", ["models--x--y/snapshots/0a1b"], ["models--x--y/snapshots/0a1b"]),
    ],
    ids=["openpi", "LeRobot", "LeRobot, last", "cache of the hub"],
)
def test_checkpoints_below_the_given_folder_are_offered(tmp_path, given, places, meant):
    for place in places:
        write_safetensors(tmp_path / place, {"a": torch.zeros(1)})
    (tmp_path / given / "optimizer.pt").touch()
    meant = meant or ["out/checkpoints/last", "out/checkpoints/090000"]
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path / given)
    expected = " or ".join(str(tmp_path / place) for place in meant)
    assert str(error.value) == f"{tmp_path / given} holds no weights; did you mean {expected}?"


def test_a_folder_that_cannot_be_read_ends_no_search(tmp_path, monkeypatch):
    """As `/proc/PID/net` of a process that has ended, which is below `/` as `/nowhere` would be."""
    for place in ("exp/100", "exp/200", "exp/300"):
        write_safetensors(tmp_path / place, {"a": torch.zeros(1)})

    def refuse_one(path: Path) -> Path | None:
        if path.name == "200":
            raise OSError(22, "Invalid argument", str(path))
        return find_safetensors(path)

    monkeypatch.setattr("pi0_edge.checkpoints.locations.find_safetensors", refuse_one)
    with pytest.raises(CheckpointError, match=r"did you mean \S+/exp/300 or \S+/exp/100\?$"):
        open_checkpoint(tmp_path / "exp" / "nowhere")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("lerobot/pi0_base", r"hf download lerobot/pi0_base --local-dir pi0_base"),
        ("gs://openpi-assets/checkpoints/pi0_base", r"gsutil -m cp -r gs://openpi-assets/checkpoints/pi0_base"),
        ("s3://bucket/pi0_base", r"aws s3 cp --recursive s3://bucket/pi0_base \."),
        ("hf://lerobot/pi0_base", r"hf download lerobot/pi0_base --local-dir pi0_base"),
        ("https://somewhere.org/pi0.safetensors", r"expected a path on this machine: download it first$"),
        ("some/where/else", r"expected a \.safetensors file"),
    ],
)
def test_a_model_that_is_not_on_this_machine(given, advice):
    with pytest.raises(CheckpointError, match=rf"^{given} does not exist; .*{advice}"):
        open_checkpoint(given)


def test_a_uri_that_has_been_a_path_and_a_mistyped_folder(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"gsutil -m cp -r gs://bucket/pi0_base \."):
        open_checkpoint(Path("gs://bucket/pi0_base"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lerobot").mkdir()  # of the project's own source
    with pytest.raises(CheckpointError, match=r"^lerobot/pi0_base does not exist; .*hf download lerobot"):
        open_checkpoint("lerobot/pi0_base")
    write_safetensors(tmp_path / "exp" / "20000", {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"^exp/2000 does not exist; did you mean exp/20000\?"):
        open_checkpoint("exp/2000")


@pytest.mark.parametrize(("name", "value"), [("min_period", 1e-3), ("max_period", 8.0)])
def test_a_lerobot_policy_of_another_time_embedding_is_refused(tmp_path, name, value):
    with pytest.raises(CheckpointError, match=rf"{name} is {value}, expected .*its actions would be wrong"):
        open_checkpoint(write_safetensors(tmp_path, golden_tensors("pi0"), {**lerobot_config(), name: value}))


def test_a_state_wider_than_the_actions_is_refused(tmp_path):
    config = {**lerobot_config(), "max_state_dim": 40}
    with pytest.raises(
        CheckpointError, match=r"max_state_dim is 40 and max_action_dim 32; expected one width for both"
    ):
        open_checkpoint(write_safetensors(tmp_path, golden_tensors("pi0"), config))


def test_weights_that_are_nearly_a_checkpoint(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors, but ema\.safetensors; give that"):
        open_checkpoint(tmp_path)
    for shard in (1, 2):
        save_file({"a": torch.zeros(1)}, tmp_path / f"model-0000{shard}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"shards \(model-00001.* and 1 more\) without model.*index\.json"):
        open_checkpoint(tmp_path)


def test_index_that_names_a_missing_shard_or_tensor_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00001.safetensors does not exist"):
        open_checkpoint(tmp_path)
    save_file({"b": torch.zeros(1)}, tmp_path / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks a and 0 more"):
        open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"outside the folder"):
        open_checkpoint(tmp_path)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"not a safetensors index"):
        open_checkpoint(tmp_path)


def test_broken_config_json(tmp_path):
    folder = write_safetensors(tmp_path, golden_tensors("pi0"))
    (folder / "config.json").write_text('{"type": ')
    with pytest.raises(CheckpointError, match=r"config.json is not valid JSON"):
        open_checkpoint(folder)
