"""The two programs that TensorRT runs, and the Euler loop around them.

    attend    pictures, prompt, state                 -> keys and values of every layer     once per chunk
    velocity  x, conditioning, keys and values        -> velocity of x                      once per Euler step

Both are the model as it stands, for one robot: nothing has a batch, the prompt has its exact length, missing cameras are
not there, and so nothing is masked. What depends on time alone comes in as a row of a table, because TensorRT has no
float64 to compute it in; number and times of the Euler steps are thereby no part of a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.continuation import Guidance
from pi0_edge.model.gemma import KeyValues
from pi0_edge.model.pi0 import Context, StepConditioning

Attend = Callable[..., tuple[Tensor, Tensor]]
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for: pictures of an observation, and tokens of its prompt without padding."""

    cameras: int
    tokens: int


@dataclass(frozen=True)
class Program:
    """One program, exported for one shape.

    Attributes:
        name: Of its files.
        exported: From `torch.export`.
        arguments: Example inputs, all zeros.
        inputs: Their names.
        outputs: Names of what it returns.
    """

    name: str
    exported: ExportedProgram
    arguments: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class AttendProgram(nn.Module):
    """Vision, prefix and state token."""

    def __init__(self, model: Pi0) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of everything that the action tokens see.

        Args:
            images: float32 [cameras, 3, size, size] in [-1, 1].
            tokens: int64 [tokens].
            state: float32 [action_dim]; None in π0.5, which reads the state from the prompt.

        Returns:
            Two tensors [layers, keys, kv_heads, head_dim] in the dtype of the token stream.
        """
        model = self.model
        seen = model.projector(model.vision(images).to(model.projector.weight.dtype)).flatten(0, 1)
        words = model.token_embedding(tokens) * math.sqrt(model.config.prefix.width)
        stream = torch.cat((seen.to(model.residual_dtype), words.to(model.residual_dtype)))[None]
        context = Context(model.prefix(stream, None), torch.tensor([stream.shape[1]], device=stream.device), None)
        if state is not None:
            context = model.attend_state(context, state[None])
        keys = torch.cat([layer.keys for layer in context.layers])
        return keys, torch.cat([layer.values for layer in context.layers])


class VelocityProgram(nn.Module):
    """The action expert."""

    def __init__(self, model: Pi0) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, conditioning: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The velocity at x, float32 [horizon, action_dim].

        Args:
            x: The noisy chunk, float32 [horizon, action_dim].
            conditioning: Of its time, a row of `conditioning_table`.
            keys: From `AttendProgram`.
            values: From `AttendProgram`.
        """
        if self.model.config.variant == "pi0":
            at = StepConditioning(conditioning[None], None)
        else:
            at = StepConditioning(None, [row[None, None] for row in conditioning.unbind()])
        layers = [KeyValues(key[None], value[None]) for key, value in zip(keys.unbind(), values.unbind(), strict=True)]
        context = Context(layers, torch.tensor([keys.shape[1]], device=keys.device), None)
        return self.model.velocity(x[None], at, context)[0]


@torch.no_grad()
def conditioning_table(model: Pi0, times: Tensor) -> Tensor:
    """Everything that depends on time alone, a row per Euler step.

    Returns:
        float32 [steps, 1, width] in π0, the time half of the action-time MLP; [steps, norms, 3 * width] in π0.5, scale,
        shift and gate of every norm of the expert.
    """
    table = model.condition(times)
    return torch.cat([table.time_bias] if table.time_bias is not None else table.modulations or [], dim=1)


@torch.no_grad()
def export_programs(model: Pi0, shape: Shape) -> tuple[Program, Program]:
    """Both programs of a network for one shape, `attend` and `velocity`.

    Args:
        model: In the form of `explicit_layers.write_out_quantization`.
        shape: Of the observations.
    """
    config = model.config
    size = config.vision.image_size
    observation = {
        "images": torch.zeros(shape.cameras, 3, size, size),
        "tokens": torch.zeros(shape.tokens, dtype=torch.int64),
    }
    if config.variant == "pi0":
        observation["state"] = torch.zeros(config.action_dim)
    sizes = config.prefix
    cache = (sizes.depth, context_length(config, shape), sizes.kv_heads, sizes.head_dim)
    step = {
        "x": torch.zeros(config.horizon, config.action_dim),
        "conditioning": conditioning_table(model, torch.ones(1))[0],
        # Two tensors, not one twice: torch.export takes one tensor under two names for one input.
        "keys": torch.zeros(cache, dtype=model.residual_dtype),
        "values": torch.zeros(cache, dtype=model.residual_dtype),
    }
    attend = _exported("attend", AttendProgram(model), observation, ("keys", "values"))
    return attend, _exported("velocity", VelocityProgram(model), step, ("velocity",))


def context_length(config: Pi0Config, shape: Shape) -> int:
    """Keys that the action tokens find: image tokens, prompt and, in π0, the state token."""
    return shape.cameras * config.vision.tokens + shape.tokens + (config.variant == "pi0")


def sample_actions(
    attend: Attend,
    velocity: Velocity,
    observation: tuple[Tensor, ...],
    noise: Tensor,
    conditioning: Tensor,
    times: Tensor,
    guidance: Guidance | None = None,
) -> Tensor:
    """One chunk: `Pi0.sample_actions` around the two programs, whoever runs them.

    Args:
        attend: Runs `AttendProgram`.
        velocity: Runs `VelocityProgram`.
        observation: Its pictures, prompt and, in π0, state, as `AttendProgram` takes them.
        noise: float32 [horizon, action_dim].
        conditioning: From `conditioning_table` for `times`.
        times: float32 [steps].
        guidance: What the chunk continues, `previous` without a batch.

    Returns:
        Normalized actions, float32 [horizon, action_dim].
    """
    keys, values = attend(*observation)
    x = noise
    for row, time in zip(conditioning, times, strict=True):
        found = velocity(x, row, keys, values)
        if guidance is not None:
            found = guidance.steer(found, x, time)
        x = x - found / len(times)
    return x


def _exported(name: str, module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> Program:
    arguments = tuple(inputs.values())
    return Program(name, torch.export.export(module.eval(), arguments), arguments, tuple(inputs), outputs)
