"""Gradients of the mean training loss, under the names and in the arrangement of a checkpoint.

    ours:    d mean((ε − A − v(x_t, t))²) / dW, the mean over batch, horizon and action dimensions, in fp32
    theirs:  `grad.<tensor name>` in the expected file, of the shape of the stored tensor

A difference is relative: the largest one of a tensor, divided by the largest number that is expected in it. Where a
gradient is zero but for rounding (the bias of a key projection in the vision tower: adding the same to all keys changes
no softmax), it is divided by a thousandth of the largest number in all tensors of the file instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pi0_edge.checkpoints import Checkpoint
from pi0_edge.errors import ConfigError
from pi0_edge.model import ModelInputs, PolicyNetwork

PREFIX = "grad."
GRADIENT_TOLERANCE = 1e-4
"""Largest allowed relative difference, fp32."""
FLOOR = 1e-3
"""Share of the largest number of all tensors that a smaller tensor is compared with."""


def relative_differences(
    checkpoint: Checkpoint,
    model: PolicyNetwork,
    observed: tuple[ModelInputs, Tensor, Tensor, Tensor],
    wanted: Mapping[str, Tensor],
) -> dict[str, float]:
    """The relative difference of each expected gradient, by its name in the file.

    Args:
        checkpoint: That the network was loaded from.
        model: In fp32.
        observed: Inputs, normalized actions, noise and times, as `Pi0.loss` takes them.
        wanted: The expected file; entries that are no gradients are left out.

    Raises:
        ConfigError: If the checkpoint has no tensor of a name, or its shape is another.
    """
    theirs = {name: tensor.float() for name, tensor in wanted.items() if name.startswith(PREFIX)}
    places = checkpoint.parameters_by_tensor([name for name, _ in model.named_parameters()])
    stored = checkpoint.tensor_shapes()
    for name, tensor in theirs.items():
        shape = stored.get(name.removeprefix(PREFIX))
        if shape is None:
            raise ConfigError(
                f"{name} is expected, but {checkpoint.path} has no tensor {name.removeprefix(PREFIX)}; its names are "
                f"such as {next(iter(stored))}"
            )
        if tuple(tensor.shape) != shape:
            raise ConfigError(f"{name} has shape {list(tensor.shape)}, expected that of the tensor, {list(shape)}")
    ours = _gradients(model, observed)
    largest = max((float(tensor.abs().max()) for tensor in theirs.values()), default=0.0)
    found = {}
    for name, tensor in theirs.items():
        scale = max(float(tensor.abs().max()), FLOOR * largest) or 1.0
        # What inference does not need, such as the dead part of the last prefix layer, gets no gradient either.
        parts = places.get(name.removeprefix(PREFIX), [])
        differences = [
            ours[parameter] - location.parameter(tensor[slice(*location.rows_of(tensor.shape[0]))])
            for parameter, location in parts
        ]
        found[name] = max(float(d.abs().max()) for d in differences or [tensor]) / scale
    return found


def _gradients(model: PolicyNetwork, observed: tuple[ModelInputs, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """By our names; zeros where the loss does not depend on a parameter."""
    parameters = dict(model.named_parameters())
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    model.requires_grad_(True)
    try:
        loss = model.loss(*observed).mean()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
