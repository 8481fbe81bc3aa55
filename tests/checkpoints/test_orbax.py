"""openpi's JAX checkpoints: the golden orbax tree, and a complete one written from the golden openpi weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoint_builders import DATA, assert_same_parameters, golden_state, jax_arrays, write_orbax

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.checkpoints.orbax_layout import OrbaxLayout
from pi0_edge.checkpoints.orbax_source import OrbaxSource
from pi0_edge.errors import CheckpointError, ConfigError
from pi0_edge.model import Pi0

pytest.importorskip("tensorstore", reason="tensorstore is not installed: pip install 'pi0-edge[orbax]'")

GOLDEN = DATA / "orbax_tiny" / "7"
Q_EINSUM = "PaliGemma.llm.layers.attn.q_einsum.w"


def read(source, location):
    return location.parameter(source.read_rows(location.key, *location.rows(source.entries[location.key])))


def test_golden_tree_of_orbax_itself():
    source = OrbaxSource(GOLDEN / "params")
    shapes = {key: entry.shape for key, entry in source.entries.items()}
    assert shapes == {
        "PaliGemma.llm.final_norm.scale": (8,),
        Q_EINSUM: (2, 8, 8, 4),
        "action_in_proj.bias": (8,),
        "action_in_proj.kernel": (32, 8),
    }
    layout = OrbaxLayout(source.entries)
    stacked = source.read_rows(Q_EINSUM, 0, 2).numpy()
    query = read(source, layout.locate("prefix.layers.1.attention.q.weight")).numpy()
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    heads = np.einsum("td,ndh->tnh", x, stacked[1])  # as openpi applies q_einsum
    np.testing.assert_allclose((x @ query.T).reshape(5, 8, 4), heads, rtol=1e-6, atol=1e-6)
    assert read(source, layout.locate("action_in_proj.weight")).shape == (8, 32)


def test_golden_tree_is_not_taken_for_a_whole_checkpoint():
    with pytest.raises(CheckpointError, match=r"neither π0 nor π0.5.*state_proj"):
        open_checkpoint(GOLDEN)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("value_leaf", [True, False])
def test_whole_tree_equals_the_pytorch_checkpoint(tmp_path, variant, value_leaf):
    state, config = golden_state(variant)
    checkpoint = open_checkpoint(write_orbax(tmp_path / "29999", jax_arrays(state, config), value_leaf))
    assert (checkpoint.layout, checkpoint.variant, checkpoint.folder) == ("openpi-jax", variant, tmp_path / "29999")
    assert checkpoint.infer_config({"horizon": 50}) == config, "JAX shapes tell all heads"
    model = Pi0(config)
    checkpoint.load_into(model)
    assert_same_parameters(model.state_dict(), state)


def test_bfloat16_arrays(tmp_path):
    import ml_dtypes

    state, config = golden_state("pi0")
    arrays = {key: array.astype(ml_dtypes.bfloat16) for key, array in jax_arrays(state, config).items()}
    checkpoint = open_checkpoint(write_orbax(tmp_path, arrays, False) / "params")
    streamed = {name: tensor.clone() for name, tensor in checkpoint.tensors(state)}
    assert_same_parameters(streamed, {name: tensor.bfloat16() for name, tensor in state.items()})


def test_layer_stacks_of_different_depth_and_lost_arrays_are_one_error(tmp_path):
    state, config = golden_state("pi0")
    arrays = jax_arrays(state, config)
    arrays["PaliGemma.llm.layers.mlp_1.linear"] = arrays["PaliGemma.llm.layers.mlp_1.linear"][:2]
    arrays["PaliGemma.img.Transformer.encoderblock.LayerNorm_1.scale"] = np.zeros((3, 48), np.float32)
    del arrays["PaliGemma.img.head.bias"]
    arrays["PaliGemma.img.extra"] = np.zeros(3, np.float32)
    checkpoint = open_checkpoint(write_orbax(tmp_path, arrays, True))
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_into(Pi0(config))
    message = str(error.value)
    assert "4 tensor(s) differ" in message
    assert "missing PaliGemma.llm.layers.mlp_1.linear[2], expected shape [64, 128]" in message
    assert "LayerNorm_1.scale has 3 layers, expected 2" in message
    assert "missing PaliGemma.img.head.bias, expected shape [96]" in message
    assert "surplus PaliGemma.img.extra [3]" in message


def test_heads_that_contradict_the_arrays(tmp_path):
    state, config = golden_state("pi0")
    checkpoint = open_checkpoint(write_orbax(tmp_path, jax_arrays(state, config), True))
    with pytest.raises(ConfigError, match=r"vision.heads is given as 8, but .* has 4"):
        checkpoint.infer_config({"horizon": 50, "vision": {"heads": 8}})


def lora_factors(arrays: dict[str, np.ndarray], rank: int = 4) -> dict[str, np.ndarray]:
    """Random factors for every weight of the Gemmas that openpi's gemma_2b_lora and gemma_300m_lora train."""
    random, factors = np.random.default_rng(3), {}
    for key, array in arrays.items():
        if key.endswith((".w", "gating_einsum", "linear", "gating_einsum_1", "linear_1")) and ".llm.layers." in key:
            stem = f"{key[:-2]}.lora" if key.endswith(".w") else f"{key}_lora"
            *leading, rows, columns = array.shape
            factors[f"{stem}_a"] = random.normal(0, 0.1, (*leading, rows, rank)).astype(np.float32)
            factors[f"{stem}_b"] = random.normal(0, 0.1, (*leading, rank, columns)).astype(np.float32)
    return factors


def test_lora_factors_are_merged_as_openpi_applies_them(tmp_path, caplog):
    state, config = golden_state("pi0")
    arrays = jax_arrays(state, config)
    factors = lora_factors(arrays)
    assert len(factors) == 2 * 10
    checkpoint = open_checkpoint(write_orbax(tmp_path, {**arrays, **factors}, True))
    assert "rank 4 are merged into 10 weights with the scale 1" in caplog.text
    model = Pi0(checkpoint.infer_config({"horizon": 50}))
    checkpoint.load_into(model)
    found, x = model.state_dict(), np.random.default_rng(0).normal(size=(5, config.expert.width)).astype(np.float32)
    attn = "PaliGemma.llm.layers.attn"

    def applied(key: str, equation: str, values: np.ndarray) -> np.ndarray:
        """One einsum of openpi with its LoRA, where H, D and so on name the axes of the weight."""
        left, weight, out = equation.replace("->", ",").split(",")
        rows, columns = weight[-2], weight[-1]
        narrow = out.replace(columns, "L")
        low = np.einsum(f"{left},{weight.replace(columns, 'L')}->{narrow}", values, factors[f"{key}.lora_a"][1])
        added = np.einsum(f"{narrow},{weight.replace(rows, 'L')}->{out}", low, factors[f"{key}.lora_b"][1])
        return np.einsum(equation, values, arrays[f"{key}.w"][1]) + added

    def ours(name: str, values: np.ndarray) -> np.ndarray:
        return values @ found[f"expert.layers.1.{name}.weight"].numpy().T

    def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    query = applied(f"{attn}.q_einsum_1", "TD,NDH->TNH", x)
    assert_near(ours("attention.q", x), query.reshape(5, -1))
    keys = applied(f"{attn}.kv_einsum_1", "TD,CKDH->CTKH", x)
    assert_near(ours("attention.v", x), keys[1].reshape(5, -1))
    assert_near(ours("attention.o", query.reshape(5, -1)), applied(f"{attn}.attn_vec_einsum_1", "TNH,NHD->TD", query))
    mlp = "PaliGemma.llm.layers.mlp_1"
    for place, name in enumerate(("gate", "up")):
        a, b = factors[f"{mlp}.gating_einsum_lora_a"][1, place], factors[f"{mlp}.gating_einsum_lora_b"][1, place]
        expected = x @ arrays[f"{mlp}.gating_einsum"][1, place] + x @ a @ b
        assert_near(ours(f"mlp.{name}", x), expected)
    merged = {name for name in found if not torch.equal(found[name], state[name])}
    assert all(name.startswith(("prefix.layers.", "expert.layers.")) and "norm" not in name for name in merged)
    last = ("prefix.layers.2.attention.k.weight", "expert.layers.2.mlp.down.weight")
    assert merged.issuperset(last)


@pytest.mark.parametrize("damage", ["no partner", "no weight", "shape"])
def test_lora_factors_that_fit_nothing_are_refused(tmp_path, damage):
    state, config = golden_state("pi0")
    arrays = jax_arrays(state, config)
    factors = lora_factors(arrays)
    stem = f"{Q_EINSUM[:-2]}.lora"
    if damage == "no partner":
        del factors[f"{stem}_a"]
    elif damage == "no weight":
        del arrays[Q_EINSUM]
    else:
        factors[f"{stem}_b"] = factors[f"{stem}_b"][..., :-1]
    with pytest.raises(CheckpointError, match=r"LoRA factor.* (lacks|do not fit) "):
        open_checkpoint(write_orbax(tmp_path, {**arrays, **factors}, True))


def test_damaged_store(tmp_path):
    state, config = golden_state("pi0")
    folder = write_orbax(tmp_path, jax_arrays(state, config), True)
    checkpoint = open_checkpoint(folder)
    biggest = max((folder / "params").rglob("d/*"), key=lambda file: file.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"incomplete or damaged|cannot be opened|damaged orbax"):
        checkpoint.load_into(Pi0(config))


def test_reading_in_row_blocks(tmp_path):
    array = np.arange(30, dtype=np.float32).reshape(10, 3)
    source = OrbaxSource(write_orbax(tmp_path, {"table": array}, True) / "params")
    rows = [source.read_rows("table", start, start + 2) for start in range(0, 10, 2)]
    assert torch.equal(torch.cat(rows), torch.from_numpy(array))
