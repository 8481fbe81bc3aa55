"""Every layout is detected and gives the same parameters; the golden openpi checkpoint is the common source."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoint_builders import (
    EMBED_TOKENS,
    LM_HEAD,
    SIZES,
    assert_same_parameters,
    golden_path,
    golden_state,
    golden_tensors,
    lerobot_config,
    write_safetensors,
)
from safetensors.torch import save_file

from pi0_edge.checkpoints import Checkpoint, open_checkpoint, save_checkpoint
from pi0_edge.errors import CheckpointError
from pi0_edge.model import Pi0

VARIANTS = ("pi0", "pi05")


def parameters(checkpoint: Checkpoint, overrides: dict | None = SIZES) -> dict[str, torch.Tensor]:
    model = Pi0(checkpoint.infer_config(overrides))
    checkpoint.load_into(model)
    return model.state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_of_the_golden_checkpoint_come_from_its_shapes(variant):
    checkpoint = open_checkpoint(golden_path(variant))
    config = checkpoint.infer_config(SIZES)
    assert (checkpoint.layout, checkpoint.variant, config.variant) == ("openpi-pytorch", variant, variant)
    assert (config.vision.width, config.vision.depth, config.vision.mlp_dim, config.vision.image_size) == (
        48,
        2,
        112,
        224,
    )
    assert (config.prefix.width, config.prefix.depth, config.prefix.mlp_dim) == (96, 3, 192)
    assert (config.expert.width, config.expert.heads, config.expert.kv_heads, config.expert.head_dim) == (64, 8, 1, 16)
    assert (config.vocab_size, config.action_dim, config.horizon) == (512, 32, 50)
    assert config.max_prompt_tokens == {"pi0": 48, "pi05": 200}[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_openpi_names_map_to_our_parameters(variant):
    state, stored = golden_state(variant)[0], golden_tensors(variant)
    language = "paligemma_with_expert.paligemma.model.language_model.layers.1."
    assert torch.equal(state["token_embedding.weight"], stored[LM_HEAD])
    assert torch.equal(state["prefix.layers.1.mlp.up.weight"], stored[f"{language}mlp.up_proj.weight"])
    assert torch.equal(state["prefix.layers.1.mlp_norm.weight"], stored[f"{language}post_attention_layernorm.weight"])
    tower = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.1."
    assert torch.equal(state["vision.layers.1.attention.out.bias"], stored[f"{tower}self_attn.out_proj.bias"])
    assert not any(name.startswith("prefix.layers.2.attention.q") for name in state), "dead work in the last layer"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_lerobot_folder(tmp_path, variant, prefix):
    tensors = {prefix + name: tensor for name, tensor in golden_tensors(variant).items()}
    config = lerobot_config(variant)
    folder = write_safetensors(tmp_path / "pretrained_model", tensors, {**config, "chunk_size": 16})
    checkpoint = open_checkpoint(tmp_path)  # LeRobot's training writes one level below
    assert (checkpoint.layout, checkpoint.variant, checkpoint.folder) == ("lerobot", variant, folder)
    assert checkpoint.infer_config({"vision_heads": 4}).horizon == 16
    assert_same_parameters(parameters(checkpoint), golden_state(variant)[0])


def test_embed_tokens_is_preferred_over_a_diverged_lm_head(tmp_path):
    tensors = golden_tensors("pi0")
    tensors[EMBED_TOKENS] = tensors[LM_HEAD] + 1
    checkpoint = open_checkpoint(write_safetensors(tmp_path, {f"model.{n}": t for n, t in tensors.items()}))
    assert torch.equal(parameters(checkpoint)["token_embedding.weight"], tensors[EMBED_TOKENS])


def test_time_mlp_of_a_pi0_checkpoint_may_lack_its_prefix(tmp_path):
    tensors = {name.replace("action_time_mlp", "time_mlp"): t for name, t in golden_tensors("pi0").items()}
    checkpoint = open_checkpoint(write_safetensors(tmp_path, tensors))
    assert checkpoint.variant == "pi0"
    assert_same_parameters(parameters(checkpoint), golden_state("pi0")[0])


@pytest.mark.parametrize("left_out", ["", "vision_model."], ids=["older", "newer"])
def test_transformers_native(tmp_path, left_out):
    roots = {
        "paligemma_with_expert.paligemma.model.": "model.vlm.",
        "paligemma_with_expert.gemma_expert.model.": "model.dit.",
        "paligemma_with_expert.gemma_expert.lm_head.": "model.dit.embed_tokens.",
        "paligemma_with_expert.paligemma.lm_head.": "model.vlm.language_model.embed_tokens.",
        **{name: f"embed_action_time.{name}" for name in ("state_proj", "action_in_proj", "action_time_mlp")},
    }

    def renamed(name: str) -> str:
        root = next((root for root in roots if name.startswith(root)), "")
        return (roots.get(root, "") + name[len(root) :]).replace(left_out, "")

    tensors = {renamed(name): tensor for name, tensor in golden_tensors("pi0").items()}
    checkpoint = open_checkpoint(write_safetensors(tmp_path, tensors))
    assert checkpoint.layout == "transformers"
    assert_same_parameters(parameters(checkpoint), golden_state("pi0")[0])


def renamed(changes: dict[str, str]) -> dict[str, torch.Tensor]:
    """The golden tensors with parts of their names replaced, in this order."""
    tensors = golden_tensors("pi0")
    for old, new in changes.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


@pytest.mark.parametrize(
    "changes",
    [
        {".vision_tower.vision_model.": ".vision_tower.", ".language_model.": ".language_model.model."},
        {".vision_model.": ".", "paligemma_with_expert.paligemma.": "backbone.vlm.", ".gemma_expert.model.": ".dit."},
        {"paligemma_with_expert.": "", "multi_modal_projector.linear": "multi_modal_projector"},
        {"paligemma_with_expert.paligemma.": "one.", "paligemma_with_expert.gemma_expert.": "other."},
        {"action_in_proj": "embed.in.action_in_proj", "state_proj": "state.state_proj"},
    ],
    ids=["transformers 5.24", "levels renamed", "levels left out", "no word tells the expert", "projections apart"],
)
def test_every_part_is_found_by_its_own_names(tmp_path, changes):
    checkpoint = open_checkpoint(write_safetensors(tmp_path, renamed(changes)))
    assert_same_parameters(parameters(checkpoint), golden_state("pi0")[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.model.", "policy."])
def test_what_wrappers_put_before_every_name_is_left_out(tmp_path, variant, prefix):
    tensors = {prefix + name: tensor for name, tensor in golden_tensors(variant).items()}
    assert_same_parameters(parameters(open_checkpoint(write_safetensors(tmp_path, tensors))), golden_state(variant)[0])


def test_what_wrappers_put_inside_names_is_left_out(tmp_path):
    changes = {"gemma_expert.": "gemma_expert._orig_mod.", "layers.1.": "layers.1._checkpoint_wrapped_module."}
    checkpoint = open_checkpoint(write_safetensors(tmp_path, renamed(changes)))
    assert_same_parameters(parameters(checkpoint), golden_state("pi0")[0])


def test_our_own_names_below_one_root(tmp_path):
    state, config = golden_state("pi0")
    save_checkpoint(tmp_path, state, config)
    write_safetensors(tmp_path, {f"module.{name}": tensor for name, tensor in state.items()})
    assert_same_parameters(parameters(open_checkpoint(tmp_path), None), state)


def test_a_second_network_is_not_a_choice_of_ours(tmp_path):
    both = {**golden_tensors("pi0"), **{f"ema.{name}": tensor for name, tensor in golden_tensors("pi0").items()}}
    with pytest.raises(CheckpointError, match=r"several state_proj layers, below '' and 'ema'; .*save the one"):
        open_checkpoint(write_safetensors(tmp_path, both))
    towers = {**golden_tensors("pi0")}
    towers |= {f"old.{name}": tensor for name, tensor in towers.items() if "vision_tower" in name}
    with pytest.raises(CheckpointError, match=r"several vision towers, below 'old\.palig.* and 'palig"):
        open_checkpoint(write_safetensors(tmp_path, towers))
    same = {"gemma_expert.model.": "b.", "paligemma.model.language_model.": "a."}
    tensors = renamed(same)
    for name in [name for name in tensors if name.endswith("self_attn.k_proj.weight")]:
        tensors[name] = torch.zeros(16, 64)
    with pytest.raises(CheckpointError, match=r"neither their names nor their widths tell which one"):
        open_checkpoint(write_safetensors(tmp_path, tensors))


def test_sharded_safetensors(tmp_path):
    tensors = golden_tensors("pi0")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:50], "model-00002-of-00002.safetensors": names[50:]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint = open_checkpoint(tmp_path)
    assert_same_parameters(parameters(checkpoint), golden_state("pi0")[0])
    assert set(checkpoint.source_hashes()) == set(shards)


@pytest.mark.parametrize("variant", VARIANTS)
def test_native_round_trip(tmp_path, variant):
    state, config = golden_state(variant)
    save_checkpoint(tmp_path / "policy", state, config)
    checkpoint = open_checkpoint(tmp_path / "policy")
    assert (checkpoint.layout, checkpoint.variant) == ("pi0-edge", variant)
    assert checkpoint.infer_config() == config, "config.json must tell everything"
    assert_same_parameters(parameters(checkpoint, None), state)


def test_native_prefix_of_one_layer(tmp_path):
    """Its only layer is stored without MLP, so the MLP width comes from config.json."""
    checkpoint = open_checkpoint(golden_path("pi0"))
    config = checkpoint.infer_config(SIZES)
    one = config.__class__(
        **{
            **vars(config),
            "prefix": config.prefix.__class__(**{**vars(config.prefix), "depth": 1}),
            "expert": config.expert.__class__(**{**vars(config.expert), "depth": 1}),
        }
    )
    save_checkpoint(tmp_path, Pi0(one).state_dict(), one)
    assert open_checkpoint(tmp_path).infer_config() == one


def test_streamed_tensors_keep_their_stored_dtype(tmp_path):
    tensors = {name: t.to(torch.bfloat16) for name, t in golden_tensors("pi0").items()}
    checkpoint = open_checkpoint(write_safetensors(tmp_path, tensors))
    names = list(golden_state("pi0")[0])
    streamed = {name: tensor.clone() for name, tensor in checkpoint.tensors(names)}
    assert streamed.keys() == set(names)
    assert {tensor.dtype for tensor in streamed.values()} == {torch.bfloat16}
    assert torch.equal(streamed["token_embedding.weight"], tensors[LM_HEAD])


def test_loading_converts_to_the_dtype_of_each_parameter():
    checkpoint = open_checkpoint(golden_path("pi0"))
    model = Pi0(checkpoint.infer_config(SIZES))
    model.prefix.to(torch.bfloat16)
    checkpoint.load_into(model)
    expected = golden_state("pi0")[0]
    assert torch.equal(
        model.state_dict()["prefix.layers.0.mlp.up.weight"], expected["prefix.layers.0.mlp.up.weight"].bfloat16()
    )
    assert torch.equal(model.state_dict()["projector.weight"], expected["projector.weight"])


def test_rows_are_copied_in_blocks_without_gaps(monkeypatch):
    monkeypatch.setattr("pi0_edge.checkpoints.checkpoint.BLOCK_BYTES", 1000)
    assert_same_parameters(parameters(open_checkpoint(golden_path("pi05"))), golden_state("pi05")[0])


def test_source_hash_is_that_of_the_file():
    import hashlib

    path = golden_path("pi0")
    assert open_checkpoint(path).source_hashes() == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_config_json_beside_a_file_of_another_name_does_not_count(tmp_path):
    write_safetensors(tmp_path, golden_tensors("pi0"), {"type": "act", "input_features": {}})
    (tmp_path / "model.safetensors").rename(tmp_path / "export.safetensors")
    assert open_checkpoint(tmp_path / "export.safetensors").layout == "openpi-pytorch"


def test_openpi_config_json_gives_the_horizon(tmp_path):
    config = {"action_dim": 32, "action_horizon": 10, "paligemma_variant": "gemma_2b", "precision": "bfloat16"}
    checkpoint = open_checkpoint(write_safetensors(tmp_path, golden_tensors("pi0"), config))
    assert checkpoint.infer_config({"siglip": {"num_heads": 4}}).horizon == 10
    assert checkpoint.infer_config({"siglip": {"num_heads": 4}, "horizon": 20}).horizon == 20
