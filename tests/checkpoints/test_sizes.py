"""SIZES files and what is inferred where they are silent."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import SIZES, golden_path, golden_tensors, write_safetensors
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.checkpoints import load_sizes, open_checkpoint, parse_sizes
from pi0_edge.checkpoints.sizes import Sizes, complete
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model import PRESETS, Pi0

FULL = """
variant: pi0
vision: {width: 48, depth: 2, mlp_dim: 112, heads: 4, patch_size: 14, image_size: 224}
prefix: {width: 96, depth: 3, mlp_dim: 192, heads: 8, kv_heads: 1, head_dim: 16}
expert: {width: 64, depth: 3, mlp_dim: 128}
vocab_size: 512
action_dim: 32
horizon: 50
max_prompt_tokens: 48
"""
OTHER_NAMES = """
model_type: pi0
siglip: {hidden_size: 48, num_hidden_layers: 2, intermediate_size: 112, num_attention_heads: 4, patch: 14,
         image_resolution: [224, 224]}
paligemma: {width: 96, layers: 3, mlp: 192, num_heads: 8, num_kv_heads: 1, head_dim: 16}
action-expert: {width: 64, depth: 3, mlp: 128}
vocabulary: 512
max_action_dim: 32
chunk_size: 50
tokenizer_max_length: 48
"""
FLAT = """
pi05: false
vision_width: 48
vision.depth: 2
vit_mlp: 112
vision_heads: 4
patch_size: 14
image_size: 224
vlm_width: 96
vlm_mlp_dim: 192
gemma_expert_width: 64
expert.mlp: 128
depth: 3
heads: 8
kv_heads: 1
head_dim: 16
vocab: 512
action_dim: 32
action_horizon: 50
max_token_len: 48
"""


@pytest.mark.parametrize("text", [FULL, OTHER_NAMES, FLAT])
def test_sizes_files_in_all_spellings_give_the_same_network(tmp_path, text):
    path = tmp_path / "SIZES.yaml"
    path.write_text(text)
    checkpoint = open_checkpoint(golden_path("pi0"))
    assert checkpoint.infer_config(load_sizes(path)) == checkpoint.infer_config(SIZES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"vision": {"widht": 48}}, r"'vision.widht' is not a size; did you mean vision.width"),
        ({"horizonn": 50}, r"did you mean horizon"),
        ({"vision": {"width": "48"}}, r"vision.width is '48', expected a positive integer"),
        ({"vision": {"width": 0}}, r"expected a positive integer"),
        ({"horizon": True}, r"expected a positive integer"),
        ({"variant": "pi1"}, r"variant is 'pi1', expected pi0 or pi05"),
        ({"prefix": {"heads": 8}, "vlm": {"num_heads": 4}}, r"prefix.heads is given twice, as 8 and 4"),
        ({"image_size": [224, 240]}, r"expected a positive integer"),
    ],
)
def test_mistakes_in_a_sizes_file_are_named(content, message):
    with pytest.raises(ConfigError, match=message):
        parse_sizes(content)


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.integers(), st.text(max_size=3), st.none())))
def test_any_mapping_is_understood_or_refused_clearly(content):
    try:
        sizes = parse_sizes(content)
    except ConfigError:
        return
    assert all(isinstance(value, int) and value > 0 for key, value in sizes.items() if key != "variant")


@pytest.mark.parametrize("text", ["- 1", "vision: [", "\x00", ""])
def test_files_that_hold_no_mapping(tmp_path, text):
    path = tmp_path / "SIZES.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"SIZES.yaml"):
        load_sizes(path)
    with pytest.raises(ConfigError, match=r"nowhere.yaml"):
        load_sizes(tmp_path / "nowhere.yaml")


def test_sizes_that_shapes_cannot_show_are_asked_for_by_name():
    with pytest.raises(ConfigError, match=r"vision.heads and horizon cannot be read from the weights"):
        open_checkpoint(golden_path("pi0")).infer_config()
    with pytest.raises(ConfigError, match=r"^horizon cannot be read .* horizon: 50"):
        open_checkpoint(golden_path("pi0")).infer_config({"vision": {"heads": 4}})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"prefix": {"width": 128}}, r"prefix.width is given as 128, but .* has 96"),
        ({"variant": "pi05"}, r"variant is given as pi05, but .* has pi0"),
        ({"kv_heads": 2, "head_dim": 16}, r"heads 8, kv_heads 2 and head_dim 16 do not fit 128 query rows and 16 key"),
        ({"vision": {"heads": 5}}, r"sizes do not fit together"),
    ],
)
def test_given_sizes_must_agree_with_the_weights(sizes, message):
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(golden_path("pi0")).infer_config({**SIZES, **sizes})


def test_given_kv_heads_select_grouped_query_attention():
    config = open_checkpoint(golden_path("pi0")).infer_config({**SIZES, "kv_heads": 2})
    assert (config.prefix.heads, config.prefix.kv_heads, config.prefix.head_dim) == (16, 2, 8)


def test_a_depth_beyond_what_is_stored_names_the_missing_layers():
    checkpoint = open_checkpoint(golden_path("pi0"))
    config = checkpoint.infer_config({**SIZES, "depth": 4})
    assert config.prefix.depth == config.expert.depth == 4
    with pytest.raises(CheckpointError, match=r"missing .*language_model.layers.3"):
        checkpoint.load_into(Pi0(config))


def test_position_embedding_that_is_not_square_is_refused(tmp_path):
    tensors = golden_tensors("pi0")
    key = next(name for name in tensors if name.endswith("position_embedding.weight"))
    tensors[key] = torch.zeros(200, 48)
    with pytest.raises(CheckpointError, match=r"position embedding has 200 rows, expected a square number"):
        open_checkpoint(write_safetensors(tmp_path, tensors)).infer_config(SIZES)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_published_sizes_need_no_sizes_file_but_the_assumed_horizon_is_logged(caplog, variant):
    measured: Sizes = {
        "vision.width": 1152,
        "vision.patch_size": 14,
        "vision.image_size": 224,
        "vision.mlp_dim": 4304,
        "vision.depth": 25,  # a file cut short: the preset's depth makes the missing layers visible
        "prefix.width": 2048,
        "prefix.depth": 18,
        "prefix.mlp_dim": 16384,
        "expert.width": 1024,
        "expert.depth": 18,
        "expert.mlp_dim": 4096,
        "vocab_size": 257152,
        "action_dim": 32,
        "query": 2048,
        "key": 256,
    }
    assert complete(measured, {}, variant, "base") == PRESETS[variant]
    assert "assuming 50" in caplog.text and "pi0_droid has 10" in caplog.text
