"""The kernels of one chunk, as the CUDA engine launches them: operations, bytes and launches of each.

Launches of torch are among them: what its products, which have not all epilogues of ours, need after them, and the ends
of each stage. Not among them is what is copied into the buffers before a chunk.
Everything is computed from the sizes of the network and the scheme. An operation is an addition or a multiplication.
A weight that no rule covers has 16 bits on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import nn

from pi0_edge.errors import ConfigError
from pi0_edge.kernels.attention import ORIN_L2_BYTES, SHARE_AHEAD
from pi0_edge.kernels.gemm import BYTES_AHEAD
from pi0_edge.latency.stages import Stage
from pi0_edge.model import GemmaConfig, Pi0, Pi0Config
from pi0_edge.quant.schemes import Rule, Scheme

Unit = Literal["bf16", "int8", "fp8", "int4"]
Code = Literal["torch product", "product", "weight-only product", "attention", "rope attention", "step end", "element"]
"""Who computes it, and how its time is found (`kernel_times`): torch's product in 16 bits or E4M3, our kernels by name,
and everything that touches each value a few times."""

HALF, SINGLE = 2, 4
"""Bytes of a 16-bit and of a float32 value."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of the chunk.

    Attributes:
        stage: Of the chunk.
        name: What it computes.
        rows: Tokens that enter.
        code: Who computes it.
        shape: Of a product, m, n and k; of an attention, how many of them there are, rows of queries of each (those of
            all heads that share keys), keys, and the head dimension.
        operations: On tensor cores.
        unit: That does them.
        weight_bytes: Read from memory whatever the cache holds: weights, keys and values.
        activation_bytes: Each tensor that enters or leaves, in bytes; those that fit the cache cost nothing.
        launches: How often it runs.
        fusable: A launch of torch that a product with an epilogue would not need.
        unbuilt: The engine has no kernel for it; its time is that of the one that is like it.
        ahead_bytes: Of weights of kernels that follow: read into the cache besides, until the next kernel begins.
        cached_bytes: Of its own weights: read into the cache before.
    """

    stage: Stage
    name: str
    rows: int
    code: Code = "element"
    shape: tuple[int, ...] = ()
    operations: float = 0.0
    unit: Unit = "bf16"
    weight_bytes: float = 0.0
    activation_bytes: tuple[float, ...] = ()
    launches: int = 1
    fusable: bool = False
    unbuilt: bool = False
    ahead_bytes: float = 0.0
    cached_bytes: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """What is asked of the network.

    Attributes:
        config: Its sizes.
        scheme: How it is quantized.
        cameras: That deliver images.
        tokens: Of the prompt.
        steps: Of the Euler loop.
        l2_bytes: Of the device's cache.
    """

    config: Pi0Config
    scheme: Scheme
    cameras: int
    tokens: int
    steps: int
    l2_bytes: float = ORIN_L2_BYTES

    def __post_init__(self) -> None:
        if self.config.head != "flow":
            raise ConfigError(
                f"work is counted for π0's flow matching, not for the head {self.config.head}: measure it"
            )

    @property
    def prefix(self) -> int:
        """Tokens of images and prompt."""
        return self.cameras * self.config.vision.tokens + self.tokens

    @property
    def cached(self) -> int:
        """Keys that the action tokens find: the prefix, and the state token of π0."""
        return self.prefix + (self.config.variant == "pi0")


def kernels(chunk: Chunk) -> Iterator[Kernel]:
    """Every kernel of one chunk, in order."""
    yield from _vision(chunk)
    prefix = chunk.config.prefix
    embedding = 7 if chunk.scheme.covers("token_embedding") else 3  # rows, scales, √width, 16 bits, behind the images
    yield _torch(Stage.PREFIX, "token embedding", max(chunk.tokens, 1), prefix.width, embedding)
    yield _torch(Stage.PREFIX, "lengths", 1, 1, 1)
    for layer in range(prefix.depth - 1):
        yield from _gemma_layer(chunk, Stage.PREFIX, f"prefix.layers.{layer}", prefix, chunk.prefix, 0)
    last = f"prefix.layers.{prefix.depth - 1}.attention"
    columns = 2 * prefix.kv_heads * prefix.head_dim
    yield _norm(Stage.PREFIX, chunk.prefix, prefix.width)
    yield _product(chunk, Stage.PREFIX, f"{last}.k", chunk.prefix, columns, prefix.width)
    yield _rope(Stage.PREFIX, chunk.prefix, columns)
    if chunk.config.variant == "pi0":
        yield _torch(Stage.STATE, "state token", 1, chunk.config.expert.width, 2)  # and its place before the actions
    yield _torch(Stage.EULER, "noise", chunk.config.horizon, chunk.config.action_dim, 1)
    first, later = (list(_euler_step(chunk, states)) for states in (chunk.cached - chunk.prefix, 0))
    yield from first
    for kernel in later if chunk.steps > 1 else ():
        yield replace(kernel, launches=kernel.launches * (chunk.steps - 1))


def network_bytes(config: Pi0Config, scheme: Scheme) -> int:
    """Weights and scales on the device."""
    values, weights = _weights(config)
    total = values * HALF
    for path, rows, columns in weights:
        rule = scheme.rule_for(path)
        if rule is not None:
            total += round(_weight_bytes(rule, rows, columns)) - rows * columns * HALF
    return total


@cache
def _weights(config: Pi0Config) -> tuple[int, tuple[tuple[str, int, int], ...]]:
    """How many values a network has, and path, rows and columns of what a scheme may cover."""
    with torch.device("meta"):
        model = Pi0(config)
    layers = [
        (path, int(one.weight.shape[0]), int(one.weight.shape[1]))
        for path, one in model.named_modules()
        if isinstance(one, nn.Linear | nn.Embedding)
    ]
    return sum(parameter.numel() for parameter in model.parameters()), tuple(layers)


def cache_bytes(chunk: Chunk) -> int:
    """Keys and values of every layer."""
    prefix = chunk.config.prefix
    return prefix.depth * 2 * chunk.cached * prefix.kv_heads * prefix.head_dim * HALF


def _vision(chunk: Chunk) -> Iterator[Kernel]:
    vision = chunk.config.vision
    rows, width = chunk.cameras * vision.tokens, vision.width
    patch = 3 * vision.patch_size**2
    yield Kernel(
        Stage.VISION,
        "patch embedding",
        rows,
        "torch product",
        (rows, width, patch),
        2 * rows * patch * width,
        "bf16",
        patch * width * SINGLE,
    )
    yield _torch(Stage.VISION, "positions, 16 bits", rows, width, 2)
    for layer in range(vision.depth):
        path = f"vision.layers.{layer}"
        yield _norm(Stage.VISION, rows, width)
        yield _product(chunk, Stage.VISION, f"{path}.attention.q", rows, 3 * width, width)
        operations = 4.0 * rows * vision.tokens * width
        touched = (3 * rows * width * HALF, rows * width * HALF)
        shape = (chunk.cameras * vision.heads, vision.tokens, vision.tokens, width // vision.heads)
        yield Kernel(Stage.VISION, "attention", rows, "attention", shape, operations, activation_bytes=touched)
        yield from _quantize(chunk, Stage.VISION, f"{path}.attention.out", rows, width)
        yield _product(chunk, Stage.VISION, f"{path}.attention.out", rows, width, width)
        yield from _residual(chunk, Stage.VISION, f"{path}.attention.out", rows, width)
        yield _norm(Stage.VISION, rows, width)
        yield _product(chunk, Stage.VISION, f"{path}.mlp.fc1", rows, vision.mlp_dim, width)
        if _in_e4m3(chunk, f"{path}.mlp.fc1"):  # of torch, whose product in 16 bits alone has this epilogue
            yield _torch(Stage.VISION, "GELU", rows, vision.mlp_dim, 1)
        yield from _quantize(chunk, Stage.VISION, f"{path}.mlp.fc2", rows, vision.mlp_dim)
        yield _product(chunk, Stage.VISION, f"{path}.mlp.fc2", rows, width, vision.mlp_dim)
        yield from _residual(chunk, Stage.VISION, f"{path}.mlp.fc2", rows, width)
    yield _norm(Stage.VISION, rows, width)
    yield _product(chunk, Stage.VISION, "projector", rows, chunk.config.prefix.width, width)


def _gemma_layer(
    chunk: Chunk, stage: Stage, path: str, sizes: GemmaConfig, rows: int, cached: int, before: str | None = None
) -> Iterator[Kernel]:
    """One layer over `rows` tokens that attend to `cached` cached keys and themselves.

    `before` is the product whose output the layer reads, if it is one that may do the parts of a norm behind it.
    """
    own, keys = sizes.heads * sizes.head_dim, 2 * sizes.kv_heads * sizes.head_dim
    gated = stage == Stage.EULER and chunk.config.variant == "pi05"
    yield from _norm_between(chunk, stage, before, f"{path}.attention.q", rows, sizes.width)
    yield _product(chunk, stage, f"{path}.attention.q", rows, own + keys, sizes.width)
    if stage != Stage.EULER:  # there, rotation happens inside attention
        yield _rope(stage, rows, own + keys)
    operations = 4.0 * rows * (cached + rows) * own
    yield Kernel(
        stage,
        "attention",
        rows,
        "rope attention" if stage == Stage.EULER else "attention",
        (sizes.kv_heads, rows * sizes.heads // sizes.kv_heads, cached + rows, sizes.head_dim),
        operations,
        "bf16",
        cached * keys * HALF,
        (rows * (own + keys) * HALF, rows * own * HALF),
    )
    yield from _quantize(chunk, stage, f"{path}.attention.o", rows, own)
    yield _product(chunk, stage, f"{path}.attention.o", rows, sizes.width, own)
    yield from _residual(chunk, stage, f"{path}.attention.o", rows, sizes.width, gated)
    yield from _norm_between(chunk, stage, f"{path}.attention.o", f"{path}.mlp.gate", rows, sizes.width)
    yield _product(chunk, stage, f"{path}.mlp.gate", rows, 2 * sizes.mlp_dim, sizes.width)
    of_torch = _by_torch(chunk, stage, f"{path}.mlp.gate")
    leaves_e4m3 = of_torch and all(_in_e4m3(chunk, f"{path}.mlp.{name}") for name in ("gate", "down"))
    if of_torch:  # without our epilogue, it writes both halves
        touched = (2 * rows * sizes.mlp_dim * HALF, rows * sizes.mlp_dim * (1 if leaves_e4m3 else HALF))
        yield Kernel(stage, "GeGLU", rows, activation_bytes=touched)
    if not leaves_e4m3:
        yield from _quantize(chunk, stage, f"{path}.mlp.down", rows, sizes.mlp_dim)
    yield _product(chunk, stage, f"{path}.mlp.down", rows, sizes.width, sizes.mlp_dim)
    yield from _residual(chunk, stage, f"{path}.mlp.down", rows, sizes.width, gated)


def _euler_step(chunk: Chunk, states: int) -> Iterator[Kernel]:
    """One step; in the first, as many tokens of the state pass through the layers with the actions."""
    config, rows = chunk.config, chunk.config.horizon
    width = config.expert.width
    out = width * width * HALF if config.variant == "pi0" else 0
    folded = config.action_dim * width
    embedding, weights = rows * (2.0 * folded + out), folded * SINGLE + out
    yield Kernel(Stage.EULER, "embed actions", rows, "step end", (), embedding, "bf16", weights)
    tokens, cached = states + rows, chunk.cached - states
    layers, before = [], None
    for path in (f"expert.layers.{layer}" for layer in range(config.expert.depth)):
        layers.extend(_gemma_layer(chunk, Stage.EULER, path, config.expert, tokens, cached, before))
        before = f"{path}.mlp.down"
    yield from _ahead(chunk, layers)
    yield Kernel(Stage.EULER, "Euler update", rows, "step end", (), 2.0 * rows * folded, "bf16", folded * SINGLE)
    yield _torch(Stage.EULER, "steering", rows, config.action_dim, 4)


def _ahead(chunk: Chunk, layers: list[Kernel]) -> Iterator[Kernel]:
    """The layers of a step, in which kernels ask the L2 cache for weights of those that follow, as the engine does.

    Attention asks for those of o, and of gate as far as a share of the cache reaches. With weights in 8 bits, o asks
    for as many of gate as half of its own, and gate and down for the first of the product behind them.
    """
    products = [i for i, kernel in enumerate(layers) if kernel.name in ("q", "o", "gate", "down")]
    for i, kernel in enumerate(layers):
        behind = [other for other in products if other > i][:2]
        if kernel.name == "attention":
            asked, left = behind, SHARE_AHEAD * chunk.l2_bytes
        elif kernel.code == "weight-only product" and kernel.name != "q":
            asked, left = behind[:1], kernel.weight_bytes / 2 if kernel.name == "o" else BYTES_AHEAD
        else:
            continue
        for other in asked:
            found = min(left, layers[other].weight_bytes - layers[other].cached_bytes)
            left -= found
            layers[other] = replace(layers[other], cached_bytes=layers[other].cached_bytes + found)
            layers[i] = replace(layers[i], ahead_bytes=layers[i].ahead_bytes + found)
    yield from layers


def _product(chunk: Chunk, stage: Stage, path: str, rows: int, columns: int, depth: int) -> Kernel:
    """A linear [columns, depth]; linears that read the same tokens are one product, under the rule of the first."""
    rule = chunk.scheme.rule_for(path)
    weights = columns * depth * HALF if rule is None else _weight_bytes(rule, columns, depth)
    unit = _unit(rule)
    entering = {"bf16": HALF, "int4": 0.5}.get(unit, 1.0)
    ours: Code = "weight-only product" if unit == "bf16" else "product"
    code: Code = "torch product" if _by_torch(chunk, stage, path) else ours
    return Kernel(
        stage,
        path.rpartition(".")[2],
        rows,
        code,
        (rows, columns, depth),
        2.0 * rows * columns * depth,
        unit,
        weights,
        (rows * depth * entering, rows * columns * HALF),
        unbuilt=rule is not None and rule.weights.kind == "int4",
    )


def _quantize(chunk: Chunk, stage: Stage, path: str, rows: int, width: int) -> Iterator[Kernel]:
    """The pass before a product whose input comes from no norm."""
    unit = _unit(chunk.scheme.rule_for(path))
    if unit != "bf16":
        written = rows * width * (0.5 if unit == "int4" else 1.0)
        yield Kernel(stage, "quantize", rows, activation_bytes=(rows * width * HALF, written))


def _residual(chunk: Chunk, stage: Stage, path: str, rows: int, width: int, gated: bool = False) -> Iterator[Kernel]:
    """After a product of torch: the sum, and an adaptive norm's gate, row by row.

    One in 16 bits adds to a stream in 16 bits itself; that of state and actions is in float32.
    """
    if _by_torch(chunk, stage, path) and (stage == Stage.EULER or _in_e4m3(chunk, path)):
        yield _torch(stage, "residual", rows, width, 6 if gated else 1)


def _by_torch(chunk: Chunk, stage: Stage, path: str) -> bool:
    """Whether torch multiplies a linear: in 16 bits, and in E4M3 all tokens of images or prompt."""
    return chunk.scheme.rule_for(path) is None or (stage != Stage.EULER and _in_e4m3(chunk, path))


def _in_e4m3(chunk: Chunk, path: str) -> bool:
    """Whether weights and activations of a linear are E4M3."""
    return _unit(chunk.scheme.rule_for(path)) == "fp8"


def _torch(stage: Stage, name: str, rows: int, width: int, launches: int) -> Kernel:
    """Launches of torch that read and write each value once."""
    touched = (float(rows * width * HALF), float(rows * width * HALF))
    return Kernel(stage, name, rows, activation_bytes=touched, launches=launches, fusable=True)


def _norm_between(
    chunk: Chunk, stage: Stage, before: str | None, behind: str, rows: int, width: int
) -> Iterator[Kernel]:
    """A norm, unless the products around it do it: of the expert, with weights in 8 bits, where it is not adaptive."""
    rules = [None if path is None else chunk.scheme.rule_for(path) for path in (before, behind)]
    weight_only = all(rule is not None and _unit(rule) == "bf16" for rule in rules)
    if not (stage == Stage.EULER and chunk.config.variant == "pi0" and weight_only):
        yield _norm(stage, rows, width)


def _norm(stage: Stage, rows: int, width: int) -> Kernel:
    return Kernel(stage, "norm", rows, activation_bytes=(rows * width * HALF, rows * width * HALF))


def _rope(stage: Stage, rows: int, columns: int) -> Kernel:
    return Kernel(stage, "rope", rows, activation_bytes=(rows * columns * HALF, rows * columns * HALF))


def _unit(rule: Rule | None) -> Unit:
    if rule is None or rule.activations is None or not rule.activations.scaled:
        return "bf16"
    kinds = {rule.weights.kind, rule.activations.kind}
    return "fp8" if "e4m3" in kinds else "int4" if kinds == {"int4"} else "int8"


def _weight_bytes(rule: Rule, rows: int, columns: int) -> float:
    """Of a weight [rows, columns] and its scales in memory of the device."""
    if rule.library is not None:
        raise ConfigError("a library's layers have no kernels here; expected a scheme such as orin or bf16")
    return rule.stored_bytes(rows, columns)
