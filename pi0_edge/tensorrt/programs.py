"""The two programs that TensorRT runs, and the Euler loop around them.

    attend    images, words, state                    -> keys and values of every layer     once per chunk
    velocity  x, conditioning, keys and values        -> velocity of x                      once per Euler step

Both are the model as it stands, for one robot: nothing has a batch, the prompt has its exact length, missing cameras
are not there, and so nothing is masked.

Two tables stay outside. The words of the prompt are rows of the token embedding, which TensorRT cannot hold in 8 bits
(it takes 8-bit constants as operands of a product only), and which would be half a gigabyte or more in every plan. And
what depends on time alone is a row per Euler step, because TensorRT has no float64 to compute it in; number and times
of the steps are thereby no part of a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pi0_edge.model import Pi0, Pi0Config
from pi0_edge.model.gemma import KeyValues
from pi0_edge.model.pi0 import Context, StepConditioning
from pi0_edge.model.rtc import Guidance

Attend = Callable[..., tuple[Tensor, Tensor]]
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What a program is compiled for: images of an observation, and tokens of its prompt without padding."""

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

    def forward(self, images: Tensor, words: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of everything that the action tokens see.

        Args:
            images: float32 [cameras, 3, size, size] in [-1, 1].
            words: [tokens, prefix width] in the dtype of the token stream, from `embed_words`.
            state: float32 [action_dim]; None in π0.5, which reads the state from the prompt.

        Returns:
            Two tensors [layers, keys, kv_heads, head_dim] in the dtype of the token stream.
        """
        model = self.model
        seen = model.projector(model.vision(images).to(model.projector.weight.dtype)).flatten(0, 1)
        stream = torch.cat((seen.to(model.residual_dtype), words))[None]
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
def embed_words(model: Pi0, tokens: Tensor) -> Tensor:
    """What the prefix sees of a prompt: int64 [tokens] -> [tokens, prefix width] in the dtype of the token stream."""
    words = model.token_embedding(tokens) * math.sqrt(model.config.prefix.width)
    return words.to(model.residual_dtype)


@torch.no_grad()
def conditioning_table(model: Pi0, times: Tensor) -> Tensor:
    """Everything that depends on time alone, a row per Euler step.

    Returns:
        float32 [steps, 1, width] in π0, the time half of the action-time MLP; [steps, norms, 3 * width] in π0.5, scale,
        shift and gate of every norm of the expert.
    """
    table = model.condition(times)
    return torch.cat([table.time_bias] if table.time_bias is not None else table.modulations or [], dim=1)


def input_names(config: Pi0Config) -> dict[str, tuple[str, ...]]:
    """The inputs of both programs in the order of a call, by name of the program."""
    attend = ("images", "words", "state") if config.variant == "pi0" else ("images", "words")
    return {"attend": attend, "velocity": ("x", "conditioning", "keys", "values")}


@torch.no_grad()
def export_program(model: Pi0, name: str, shape: Shape) -> Program:
    """One program of a network for one shape.

    Args:
        model: In the form of `explicit_layers.write_out_quantization`.
        name: `attend` or `velocity`.
        shape: Of the observations.
    """
    config, stream = model.config, model.residual_dtype
    size, expert = config.vision.image_size, config.expert
    cache = (expert.depth, context_length(config, shape), expert.kv_heads, expert.head_dim)
    examples = {
        "images": torch.zeros(shape.cameras, 3, size, size),
        "words": torch.zeros(shape.tokens, config.prefix.width, dtype=stream),
        "state": torch.zeros(config.action_dim),
        "x": torch.zeros(config.horizon, config.action_dim),
        "conditioning": conditioning_table(model, torch.ones(1))[0],
        # Two tensors, not one twice: torch.export takes one tensor under two names for one input.
        "keys": torch.zeros(cache, dtype=stream),
        "values": torch.zeros(cache, dtype=stream),
    }
    inputs = input_names(config)[name]
    arguments = tuple(examples[each] for each in inputs)
    module = AttendProgram(model) if name == "attend" else VelocityProgram(model)
    outputs = ("keys", "values") if name == "attend" else ("velocity",)
    return Program(name, torch.export.export(module.eval(), arguments), arguments, inputs, outputs)


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
        observation: Its images, words and, in π0, state, as `AttendProgram` takes them.
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
