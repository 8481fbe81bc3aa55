"""`verify` against a network computed the long way (`naive_pi0`), at sizes that the repository does not contain.

Agreement to 1e-5 also proves exact what the network leaves out: the naive one computes every masked camera, every
padded token and every step from scratch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from naive_pi0 import CAMERAS, NaivePi0, NaiveSizes
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi0_edge.errors import CheckpointError, ConfigError, ObservationError
from pi0_edge.quant.schemes import BF16_POLICY, INT8_W8A8, Scheme
from pi0_edge.verification import Difference, read_inputs, verify

EXACT = {"loss": 5e-5}
"""Rounding alone: 1e-5 where values are up to 5, more for losses, which are squares up to 60."""

SIZES = {
    "pi0, two key heads": NaiveSizes("pi0", depth=3, heads=4, kv_heads=2, head_dim=8, horizon=16),
    "pi05, one key head": NaiveSizes("pi05", depth=2, heads=6, kv_heads=1, head_dim=4, horizon=10),
    "pi0, as many key heads": NaiveSizes("pi0", depth=1, heads=2, kv_heads=2, head_dim=16, horizon=7, action_dim=12),
}


def recording(sizes: NaiveSizes, batch: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """Three cameras, one of them masked in one row only and one in all rows; prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    chunk, side = (batch, sizes.horizon, sizes.action_dim), sizes.vision["image"]
    inputs = {"noise": torch.randn(chunk, generator=generator), "actions": torch.randn(chunk, generator=generator)}
    inputs["time"] = torch.rand(batch, generator=generator)
    inputs["state"] = torch.randn(batch, sizes.action_dim, generator=generator)
    inputs["tokens"] = torch.randint(sizes.vocab, (batch, 9), generator=generator)
    inputs["token_mask"] = torch.arange(9) < torch.tensor([[4], [9], [1]])[:batch]
    for camera in CAMERAS:
        inputs[f"image.{camera}"] = torch.rand(batch, side, side, 3, generator=generator) * 2 - 1
        inputs[f"image_mask.{camera}"] = torch.ones(batch, dtype=torch.bool)
    inputs["image_mask.left_wrist_0_rgb"][1] = False
    inputs["image_mask.right_wrist_0_rgb"][:] = False
    return inputs


def expected_outputs(network: NaivePi0, inputs: dict[str, Tensor], times: list[float]) -> dict[str, Tensor]:
    outputs = {"actions": network.sample(inputs, times), "loss": network.loss(inputs)}
    outputs["t"] = torch.tensor(times)[:, None].expand(-1, len(inputs["noise"])).contiguous()
    _, cache = network.velocity(inputs, inputs["noise"], inputs["time"])
    for layer, (keys, values) in enumerate(cache):
        outputs |= {f"kv.{layer}.k": keys.contiguous(), f"kv.{layer}.v": values.contiguous()}
    return outputs


class Files:
    """The four files of a verification."""

    def __init__(self, folder: Path, sizes: NaiveSizes, times: list[float] | None = None) -> None:
        self.folder, self.network, self.inputs = folder, NaivePi0(sizes), recording(sizes)
        self.outputs = expected_outputs(self.network, self.inputs, times or accumulated(10))
        heads = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "head_dim": sizes.head_dim}
        self.sizes = {"vision": {"heads": sizes.vision["heads"]}, "prefix": heads, "horizon": sizes.horizon}

    def failed(self) -> list[str]:
        """The outputs that differ by more than rounding."""
        return [d.output for d in self.verify() if not d.largest <= EXACT.get(d.output, 1e-5)]

    def verify(self, scheme: Scheme | None = None, tolerance: float | None = None) -> list[Difference]:
        w, i, o, s = (self.folder / name for name in ("w.safetensors", "i.npz", "o.safetensors", "sizes.yaml"))
        save_file(dict(self.network.w), w)
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in self.inputs.items()}
        np.savez(i, **arrays)
        save_file(self.outputs, o)
        s.write_text(yaml.safe_dump(self.sizes))
        return verify(w, i, o, s, "reference" if scheme is None else "cpu", scheme, tolerance)


def accumulated(steps: int) -> list[float]:
    dt, times = np.float32(-1 / steps), [np.float32(1)]
    while len(times) < steps:
        times.append(np.float32(times[-1] + dt))
    return [float(t) for t in times]


@pytest.fixture
def small(tmp_path) -> Files:
    return Files(tmp_path, SIZES["pi0, two key heads"])


@pytest.mark.parametrize("name", SIZES)
def test_other_sizes_agree_with_the_long_way(tmp_path, name):
    files = Files(tmp_path, SIZES[name])
    assert files.failed() == []
    layers = [f"kv.{i}.{part}" for i in range(SIZES[name].depth) for part in "kv"]
    assert [d.output for d in files.verify()] == [*layers, "loss", "actions"]


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_steps_and_schedule_are_told_from_the_recorded_times(tmp_path, steps):
    for times in (accumulated(steps), [1 - k / steps for k in range(steps)]):
        assert Files(tmp_path, SIZES["pi05, one key head"], times).failed() == []


def test_a_recording_with_one_camera_and_one_row(small):
    small.inputs = {name: tensor[:1] for name, tensor in small.inputs.items() if "wrist" not in name}
    small.outputs = expected_outputs(small.network, small.inputs, accumulated(10))
    assert small.failed() == []


def test_a_row_without_any_camera(small):
    small.inputs["image_mask.base_0_rgb"][2] = small.inputs["image_mask.left_wrist_0_rgb"][2] = False
    small.outputs = expected_outputs(small.network, small.inputs, accumulated(10))
    assert small.failed() == []


def test_each_scheme_is_held_to_a_tolerance_of_its_own(small):
    for scheme, tolerance in ((BF16_POLICY, 2e-2), (INT8_W8A8, 2e-1)):
        (difference,) = small.verify(scheme)
        assert difference.tolerance == tolerance
        assert difference.largest > 0


@pytest.mark.parametrize("output", ["actions", "loss", "kv.1.k", "kv.2.v"])
def test_one_wrong_value_in_any_output_is_found(small, output):
    small.outputs[output] = small.outputs[output].clone()
    small.outputs[output].view(-1)[0] += 0.01
    assert small.failed() == [output]


def test_one_wrong_weight_is_found(small):
    name = "paligemma_with_expert.gemma_expert.model.layers.2.mlp.up_proj.weight"
    small.network.w[name] = small.network.w[name] + 0.01 * torch.eye(*small.network.w[name].shape)
    assert small.failed() == ["loss", "actions"]


def test_nan_never_passes(small):
    small.outputs["actions"] = torch.full_like(small.outputs["actions"], torch.nan)
    assert [d.output for d in small.verify(tolerance=1e9) if not d.passed] == ["actions"]


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("noise", lambda a: a[..., :5], "noise"),
        ("noise", lambda a: a[0], "noise has shape .* expected .batch, horizon, dims."),
        ("state", lambda a: a[:, :5], "state"),
        ("image.base_0_rgb", lambda a: a[:, :14], "image"),
        ("token_mask", lambda a: a[:, :5], "token_mask"),
        ("tokens", lambda a: a + 64, "vocabulary of 64"),
    ],
)
def test_inputs_that_do_not_fit_are_named(small, array, change, message):
    small.inputs[array] = change(small.inputs[array]).contiguous()
    with pytest.raises((ObservationError, ConfigError), match=message):
        small.verify()


def test_a_camera_in_no_slot_of_the_network_is_named(small):
    small.inputs["image.wrist_0_rgb"] = small.inputs["image.base_0_rgb"].clone()
    with pytest.raises(
        ObservationError, match=r"image\.wrist_0_rgb, which is no slot .*right_wrist_0_rgb, then camera_3"
    ):
        small.verify()


def test_a_fourth_camera_is_read_behind_the_others(small, tmp_path):
    fourth = small.inputs["image.base_0_rgb"] / 2
    small.inputs |= {"image.camera_3": fourth, "image_mask.camera_3": torch.ones(3, dtype=torch.bool)}
    np.savez(tmp_path / "four.npz", **{name: array.numpy() for name, array in small.inputs.items()})
    images = read_inputs(tmp_path / "four.npz").inputs.images
    assert images.shape[1] == 4
    torch.testing.assert_close(images[:, 3], fourth.permute(0, 3, 1, 2))


def test_what_stands_in_masked_places_is_never_looked_at(small):
    small.inputs["tokens"] = small.inputs["tokens"].where(small.inputs["token_mask"], -1)
    small.inputs["image.right_wrist_0_rgb"][:] = torch.nan
    assert small.failed() == []


def test_sizes_that_are_missing_or_wrong_are_named(small):
    small.sizes.pop("vision")
    with pytest.raises(ConfigError, match=r"vision\.heads"):
        small.verify()
    small.sizes["vision"] = {"heads": 2, "width": 16}
    with pytest.raises(ConfigError, match=r"vision\.width"):
        small.verify()


def test_outputs_of_another_shape_are_named(small):
    small.outputs["actions"] = small.outputs["actions"][:, :5].contiguous()
    with pytest.raises(ConfigError, match="actions has shape"):
        small.verify()


def test_expected_without_anything_comparable_is_refused(small):
    small.outputs = {"unrelated": torch.zeros(3)}
    with pytest.raises(ConfigError, match="unrelated"):
        small.verify()


def test_files_that_are_not_there_or_damaged_are_named(small, tmp_path):
    small.verify()
    w, i, o, s = (tmp_path / name for name in ("w.safetensors", "i.npz", "o.safetensors", "sizes.yaml"))
    with pytest.raises(CheckpointError, match="nowhere"):
        verify(tmp_path / "nowhere.safetensors", i, o, s, "reference", None, None)
    with pytest.raises(ConfigError, match=r"i\.npz"):
        verify(w, i, i, s, "reference", None, None)
    w.write_bytes(w.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        verify(w, i, o, s, "reference", None, None)
    i.write_bytes(i.read_bytes()[:100])
    with pytest.raises(ObservationError, match=r"i\.npz"):
        verify(w, i, o, s, "reference", None, None)


def test_the_naive_network_depends_on_what_it_should(small):
    """Guards the guard: valid cameras, valid tokens and the state change the naive actions, masked ones do not."""
    before = small.outputs["actions"]
    for name, matters in (("image.base_0_rgb", True), ("image.right_wrist_0_rgb", False), ("state", True)):
        inputs = {k: v.clone() for k, v in small.inputs.items()}
        inputs[name][0] += 0.5
        after = small.network.sample(inputs, accumulated(10))
        assert bool((after[0] - before[0]).abs().max() > 1e-4) is matters, name
        assert torch.equal(after[1:], before[1:])


def test_the_files_are_what_the_reference_implementation_writes(small, tmp_path):
    """Same names as the golden vectors, so that a check here is a check of that layout."""
    small.verify()
    golden = Path(__file__).parents[1] / "data" / "golden"
    theirs = load_file(golden / "tiny_pi0_float32.weights.safetensors").keys()
    ours = load_file(tmp_path / "w.safetensors").keys()
    unused = {"paligemma_with_expert.gemma_expert.lm_head.weight", "paligemma_with_expert.paligemma.lm_head.weight"}
    embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"

    def without_numbers(names):
        return {".".join(part for part in name.split(".") if not part.isdigit()) for name in names}

    assert without_numbers(ours) - {embedding} == without_numbers(theirs) - unused - {embedding}
    assert set(small.inputs) == set(np.load(golden / "tiny_pi0_float32.inputs.npz").files)
