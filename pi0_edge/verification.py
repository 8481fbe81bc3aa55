"""Compares an engine with recorded outputs of another implementation on the same inputs and noise.

The files are those of the golden vectors:

* inputs (`.npz`): `image.<camera>` float32 [batch, size, size, 3] in [-1, 1] with `image_mask.<camera>` bool [batch],
  `tokens` int64 and `token_mask` bool [batch, tokens], `state` float32 [batch, dims], `noise` float32 [batch, horizon,
  dims]; for the training loss also `actions` like `noise` and `time` float32 [batch].
* expected (`.safetensors`), any of: `actions` and `loss` [batch, horizon, dims]; `kv.<layer>.k` and `.v` [batch,
  kv_heads, prefix, head_dim] after rotary positions; `t` [steps, batch], from which steps and schedule are taken;
  `grad.<tensor name of the checkpoint>`, the gradient of the mean loss, see `pi0_edge.gradient_verification`.

Keys and values are compared where the prefix has a valid token: padding and missing cameras are never computed here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pi0_edge.checkpoints import Checkpoint, load_sizes, open_checkpoint
from pi0_edge.engine import Engine, build_engine
from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.gradient_verification import GRADIENT_TOLERANCE, PREFIX, relative_differences
from pi0_edge.heads import build_network
from pi0_edge.model import ModelInputs, Pi0Config, PolicyNetwork
from pi0_edge.model.flow import euler_times
from pi0_edge.model.pi0 import packing_order
from pi0_edge.quant.schemes import BF16_POLICY, FP32, Scheme
from pi0_edge.robots import SLOTS, place_of_slot, slot_of_place

AXES = {
    "tokens": ("batch", "tokens"),
    "token_mask": ("batch", "tokens"),
    "state": ("batch", "dims"),
    "noise": ("batch", "horizon", "dims"),
}
"""What every recording has."""

FP32_TOLERANCE, BF16_TOLERANCE, QUANTIZED_TOLERANCE = 1e-4, 2e-2, 2e-1
"""Largest allowed difference on unit-variance actions."""


@dataclass(frozen=True)
class Difference:
    """How far one output is from the expected one; relative for gradients."""

    output: str
    largest: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True within the tolerance; NaN never passes."""
        return self.largest <= self.tolerance


@dataclass(frozen=True)
class Recording:
    """The inputs file."""

    inputs: ModelInputs
    noise: Tensor
    actions: Tensor | None
    time: Tensor | None


def verify(
    checkpoint: Path,
    inputs: Path,
    expected: Path,
    sizes: Path | None,
    engine: str,
    scheme: Scheme | None,
    tolerance: float | None,
) -> list[Difference]:
    """Runs the checkpoint on the recorded inputs and measures every output that both sides have.

    Raises:
        CheckpointError: If the checkpoint does not load.
        ConfigError: If sizes are missing or contradict the files, or nothing in `expected` can be compared.
        ObservationError: If the inputs file lacks an array or one has the wrong shape.
    """
    recording, wanted = read_inputs(inputs), _read_expected(expected)
    opened = open_checkpoint(checkpoint)
    model = _load_model(opened, sizes, recording)
    built = build_engine(engine, model, scheme)
    limit = _default_tolerance(built.scheme) if tolerance is None else tolerance
    found = _outputs(model, built, recording, wanted)
    differences = [Difference(name, _largest(ours, theirs, name), limit) for name, ours, theirs in found]
    differences += _gradient_differences(opened, model, built, recording, wanted, tolerance)
    if not differences:
        raise ConfigError(
            f"{expected} has none of actions, loss, kv.<layer>.k|v, grad.<tensor>; found {', '.join(sorted(wanted))}"
        )
    return differences


def read_inputs(path: Path) -> Recording:
    """Reads the inputs file.

    Raises:
        ObservationError: If it cannot be read, lacks an array, or one has the wrong shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ObservationError(f"{path} is not a readable .npz of plain arrays: {error}") from error
    _check_axes(arrays, path)
    tokens, token_mask = arrays["tokens"].long(), arrays["token_mask"].bool()
    images, masks = _stack_cameras(arrays, path)
    # Masked places may hold anything, such as -1: they are not read.
    model_inputs = ModelInputs(images, masks, tokens.where(token_mask, 0), token_mask, arrays["state"].float())
    return Recording(model_inputs, arrays["noise"].float(), arrays.get("actions"), arrays.get("time"))


def _check_axes(arrays: dict[str, Tensor], path: Path) -> None:
    if missing := [name for name in AXES if name not in arrays]:
        raise ObservationError(f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(arrays))}")
    for name, axes in AXES.items():
        if arrays[name].ndim != len(axes):
            raise ObservationError(f"{path}: {name} has shape {list(arrays[name].shape)}, expected [{', '.join(axes)}]")
    if arrays["tokens"].shape != arrays["token_mask"].shape:
        found, expected = list(arrays["token_mask"].shape), list(arrays["tokens"].shape)
        raise ObservationError(f"{path}: token_mask has shape {found}, expected that of tokens, {expected}")


def _stack_cameras(arrays: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Images [batch, cameras, 3, size, size] and their mask [batch, cameras], in slot order."""
    names = [name.removeprefix("image.") for name in arrays if name.startswith("image.")]
    places = {name: place for name in names if (place := place_of_slot(name)) is not None}
    if not names or len(places) < len(names):
        unknown = [name for name in names if name not in places]
        found = f"image.{unknown[0]}, which is no slot for a camera" if unknown else "no image.<camera>"
        raise ObservationError(f"{path} has {found}; known are {', '.join(SLOTS)}, then {slot_of_place(len(SLOTS))} …")
    cameras = sorted(names, key=places.__getitem__)
    shapes = {camera: list(arrays[f"image.{camera}"].shape) for camera in cameras}
    if any(shape != shapes[cameras[0]] or len(shape) != 4 for shape in shapes.values()):
        raise ObservationError(f"{path}: images have shapes {shapes}, expected one [batch, size, size, 3] for all")
    images = torch.stack([arrays[f"image.{camera}"].permute(0, 3, 1, 2).float() for camera in cameras], 1)
    present = torch.ones(len(images), dtype=torch.bool)
    masks = [arrays.get(f"image_mask.{camera}", present).bool() for camera in cameras]
    return images, torch.stack(masks, 1)


def _read_expected(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} is not a readable .safetensors file: {error}") from error


def _load_model(checkpoint: Checkpoint, sizes: Path | None, recording: Recording) -> PolicyNetwork:
    overrides = {} if sizes is None else load_sizes(sizes)
    horizon, image_size = recording.noise.shape[1], recording.inputs.images.shape[-1]
    config = checkpoint.infer_config({"horizon": horizon, "image_size": image_size, **overrides})
    _check_recording(config, recording)
    model = build_network(config)
    checkpoint.load_into(model)
    return model.eval()


def _check_recording(config: Pi0Config, recording: Recording) -> None:
    chunk = (recording.inputs.batch, config.horizon, config.action_dim)
    size = config.vision.image_size
    expected = {
        "noise": (recording.noise, chunk),
        "state": (recording.inputs.state, (chunk[0], config.action_dim)),
        "image": (recording.inputs.images[:, 0], (chunk[0], 3, size, size)),
    }
    for name, (array, shape) in expected.items():
        if tuple(array.shape) != shape:
            raise ObservationError(f"{name} has shape {list(array.shape)}, the network expects {list(shape)}")
    if int(recording.inputs.tokens.max()) >= config.vocab_size:
        raise ObservationError(
            f"token id {int(recording.inputs.tokens.max())} is outside the vocabulary of {config.vocab_size}"
        )


def _outputs(
    model: PolicyNetwork, engine: Engine, recording: Recording, wanted: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (name, ours, theirs) for every output that can be compared."""
    if engine.scheme == FP32.name:
        yield from _prefix_outputs(model, recording, wanted)
        if "loss" in wanted and recording.actions is not None and recording.time is not None:
            with torch.inference_mode():
                loss = model.loss(recording.inputs, recording.actions, recording.noise, recording.time)
            yield "loss", loss, wanted["loss"]
    if "actions" in wanted:
        yield "actions", _infer(engine, recording, wanted), wanted["actions"]


def _gradient_differences(
    checkpoint: Checkpoint,
    model: PolicyNetwork,
    engine: Engine,
    recording: Recording,
    wanted: dict[str, Tensor],
    tolerance: float | None,
) -> list[Difference]:
    """One per expected gradient.

    Raises:
        ConfigError: If gradients are expected of a network that is not fp32, or a name or shape is not the tensor's.
        ObservationError: If the inputs file lacks what the loss is computed of.
    """
    names = [name for name in wanted if name.startswith(PREFIX)]
    if not names:
        return []
    if engine.scheme != FP32.name:
        raise ConfigError(
            f"{names[0]} is expected of a network under the scheme {engine.scheme}, which has no gradients; use the "
            "engine reference"
        )
    if recording.actions is None or recording.time is None:
        raise ObservationError(
            f"{names[0]} is expected, but the inputs file lacks actions or time, which the loss needs"
        )
    observed = (recording.inputs, recording.actions.float(), recording.noise, recording.time.float())
    limit = GRADIENT_TOLERANCE if tolerance is None else tolerance
    found = relative_differences(checkpoint, model, observed, wanted)
    return [Difference(name, difference, limit) for name, difference in found.items()]


@torch.inference_mode()
def _prefix_outputs(
    model: PolicyNetwork, recording: Recording, wanted: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    context = model.attend_prefix(recording.inputs)
    order, lengths = packing_order(recording.inputs, model.config.vision.tokens)
    valid = torch.arange(order.shape[1]) < lengths[:, None]
    rows = torch.arange(len(order))[:, None].expand_as(order)
    for layer, ours in enumerate(context.layers):
        for name, tensor in ((f"kv.{layer}.k", ours.keys), (f"kv.{layer}.v", ours.values)):
            if name in wanted:
                yield name, tensor[valid], wanted[name].transpose(1, 2)[rows, order][valid]


def _infer(engine: Engine, recording: Recording, wanted: dict[str, Tensor]) -> Tensor:
    engine.times = _times(wanted.get("t"))
    return engine.infer(recording.inputs, recording.noise)


def _default_tolerance(scheme: str) -> float:
    return {FP32.name: FP32_TOLERANCE, BF16_POLICY.name: BF16_TOLERANCE}.get(scheme, QUANTIZED_TOLERANCE)


def _times(recorded: Tensor | None) -> Tensor:
    """The step schedule that the other implementation used; openpi's where it did not record one."""
    if recorded is None:
        return euler_times(10)
    recorded = recorded.reshape(len(recorded), -1)[:, 0]
    candidates = [euler_times(len(recorded), "accumulated"), euler_times(len(recorded), "exact")]
    return min(candidates, key=lambda times: float((times - recorded).abs().max()))


def _largest(ours: Tensor, theirs: Tensor, name: str) -> float:
    if ours.shape != theirs.shape:
        raise ConfigError(f"expected {name} has shape {list(theirs.shape)}, the network gives {list(ours.shape)}")
    return float((ours.float() - theirs.float()).abs().max())
