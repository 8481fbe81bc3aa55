"""Which networks the kernels can run, told before a weight is read; and how many places a graph has for a prompt."""

from __future__ import annotations

from collections.abc import Iterator

from pi0_edge.engine.cuda.network import POSITIONS
from pi0_edge.errors import EngineError
from pi0_edge.kernels.euler_step import MOST_WIDTH
from pi0_edge.model import Pi0Config
from pi0_edge.quant.schemes import Scheme

HEAD_DIMS, VISION_HEAD_DIMS = (256, 32), (72, 32)
"""Of prefix and expert, and of vision, that the attention kernel is compiled for: π0 and the shipped policy."""
NORM_WIDTH, ROW_WIDTH = 8192, 16384
"""The widest row that one block normalizes, and that one quantizes or that leaves a GeGLU."""
ROPE_COLUMNS = 16384
"""Of queries, keys and values of a token together."""
LARGEST_PATCH = 32
"""Its pixels are the threads of a block."""
PRODUCT_COLUMNS = 16
"""Rows and columns of weights in 8 bits are multiples of it."""
PROMPT_STEP, PROMPT_GRAPHS = 64, 4
"""Prompts of up to so many tokens more share a graph, and there are at most so many graphs for prompts."""


def check_sizes(config: Pi0Config, scheme: Scheme) -> None:
    """Raises `EngineError` where the kernels cannot run a network of these sizes under a scheme, and says all reasons.

    Any horizon, any number of action dimensions and any number of layers is possible.
    """
    reasons = list(_reasons(config, scheme))
    if reasons:
        raise EngineError(f'the CUDA kernels cannot run this policy: {"; ".join(reasons)}; use engine="cpu"')


def prompt_places(config: Pi0Config, tokens: int) -> int:
    """How many places for tokens the graph of a prompt of so many tokens has."""
    return next((places for places in all_prompt_places(config) if places >= tokens), tokens)


def all_prompt_places(config: Pi0Config) -> list[int]:
    """The places of every graph that prompts of up to `max_prompt_tokens` need, the last one with exactly so many."""
    longest = config.max_prompt_tokens
    step = max(PROMPT_STEP, _up_to_multiple(-(-longest // PROMPT_GRAPHS), 16))
    return [*range(step, longest, step), longest]


def _reasons(config: Pi0Config, scheme: Scheme) -> Iterator[str]:
    vision, prefix, expert = config.vision, config.prefix, config.expert
    yield from _one_of("heads", prefix.head_dim, HEAD_DIMS)
    yield from _one_of("vision heads", vision.width // vision.heads, VISION_HEAD_DIMS)
    yield from _at_most("the expert's width", expert.width, MOST_WIDTH)
    for name, width in (("the prefix's width", prefix.width), ("the vision tower's width", vision.width)):
        yield from _at_most(name, width, NORM_WIDTH)
    columns = (prefix.heads + 2 * prefix.kv_heads) * prefix.head_dim
    yield from _at_most("the width of queries, keys and values", columns, ROPE_COLUMNS)
    yield from _at_most("the patch size", vision.patch_size, LARGEST_PATCH)
    tokens = vision.tokens + config.max_prompt_tokens + 1 + config.horizon
    yield from _at_most("one camera, prompt, state and actions together, in tokens,", tokens, POSITIONS)
    for name, sizes in (("prefix", prefix), ("expert", expert)):
        yield from _multiple(f"the {name}'s width", sizes.width, PRODUCT_COLUMNS)
        yield from _multiple(f"the {name}'s mlp_dim", sizes.mlp_dim, PRODUCT_COLUMNS)
        yield from _at_most(f"the {name}'s mlp_dim", sizes.mlp_dim, ROW_WIDTH)
    quantized = any(scheme.covers(f"vision.layers.0.{path}") for path in ("attention.q", "mlp.fc1", "mlp.fc2"))
    yield from _multiple("the vision tower's width", vision.width, PRODUCT_COLUMNS if quantized else 8)
    if quantized:
        yield from _multiple("the vision tower's mlp_dim", vision.mlp_dim, PRODUCT_COLUMNS)
        yield from _at_most("the vision tower's mlp_dim", vision.mlp_dim, ROW_WIDTH)


def _one_of(name: str, found: int, possible: tuple[int, int]) -> Iterator[str]:
    if found not in possible:
        yield f"{name} have {found} dimensions, expected {possible[0]} or {possible[1]}"


def _at_most(name: str, found: int, limit: int) -> Iterator[str]:
    if found > limit:
        yield f"{name} is {found}, expected at most {limit}"


def _multiple(name: str, found: int, unit: int) -> Iterator[str]:
    if found % unit:
        yield f"{name} is {found}, expected a multiple of {unit}"


def _up_to_multiple(count: int, unit: int) -> int:
    return -(-count // unit) * unit
