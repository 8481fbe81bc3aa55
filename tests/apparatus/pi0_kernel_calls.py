"""Every kernel once at its size in π0 with two cameras: 512 image and 48 prompt tokens, a state token, 50 actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pi0_edge.kernels.attention import attention_into, rope_attention_into
from pi0_edge.kernels.euler_step import embed_actions_into, euler_update_into
from pi0_edge.kernels.geglu import geglu_into
from pi0_edge.kernels.gemm import BYTES_AHEAD, ForNorm, gemm_into
from pi0_edge.kernels.gemm_epilogue import Epilogue
from pi0_edge.kernels.gemm_plan import MACS_PER_CYCLE, TILES, Plan, modelled_cycles, plan_bytes, plan_weight_only
from pi0_edge.kernels.library import KernelLibrary
from pi0_edge.kernels.norm import norm_into
from pi0_edge.kernels.patches import patches_into, resize_plan
from pi0_edge.kernels.quantize import quantize_into
from pi0_edge.kernels.rope import rope_into

PREFIX, ACTIONS = 560, 50
KEYS = PREFIX + 1 + ACTIONS
CAMERAS, VISION_TOKENS, VISION_WIDTH = 2, 256, 1152
WIDTH, MLP, EXPERT_WIDTH = 2048, 16384, 1024
ORIN = 16
"""Multiprocessors."""
LINEARS = {
    "vision: q, k, v": (512, 3456, 1152, "linear"),
    "vision: out": (512, 1152, 1152, "linear"),
    "vision: fc1": (512, 4304, 1152, "gelu"),
    "vision: fc2": (512, 1152, 4304, "linear"),
    "prefix: q, k, v": (PREFIX, 2560, WIDTH, "linear"),
    "prefix: o": (PREFIX, WIDTH, 2048, "linear"),
    "prefix: gate, up": (PREFIX, 2 * MLP, WIDTH, "geglu"),
    "prefix: down": (PREFIX, WIDTH, MLP, "linear"),
}
EXPERT_LINEARS = {
    "step: q, k, v": (ACTIONS, 2560, EXPERT_WIDTH, "linear"),
    "step: o": (ACTIONS, EXPERT_WIDTH, 2048, "linear"),
    "step: gate, up": (ACTIONS, 8192, EXPERT_WIDTH, "geglu"),
    "step: down": (ACTIONS, EXPERT_WIDTH, 4096, "linear"),
}

Call = Callable[[KernelLibrary], None]


@dataclass(frozen=True)
class Product:
    """What a matrix product asks of a GPU.

    Attributes:
        multiplications: m · n · k.
        weight_bytes: That are read at least once.
        steps: Of 64 along k, over all tiles of its plan.
        per_cycle: Multiplications of one multiprocessor of Orin.
        planned_cycles: Until its last block ends, by the model of `gemm_plan.py`; None for weight-only products, whose
            blocks are alike.
    """

    multiplications: int
    weight_bytes: int
    steps: int
    per_cycle: int
    planned_cycles: float | None = None


def product_of(use: str) -> Product | None:
    """The product that a use is, or None."""
    name, _, kind = use.rpartition(", ")
    if name in EXPERT_LINEARS:
        m, n, k, _ = EXPERT_LINEARS[name]
        return Product(m * n * k, n * k, -(-m // 64) * -(-n // 128) * -(-k // 64), MACS_PER_CYCLE // 2)
    if name not in LINEARS:
        return None
    m, n, k, _ = LINEARS[name]
    plan = plan_bytes(m, n, k, ORIN, kind == "FP8")
    tile = TILES[plan.tile]
    steps = -(-m // tile.rows) * -(-n // tile.columns) * -(-k // 64)
    return Product(m * n * k, n * k, steps, MACS_PER_CYCLE, modelled_cycles(plan, m, n, k, ORIN, kind == "FP8"))


def half(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


def single(*shape: int) -> Tensor:
    return torch.empty(shape)


def quantized(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.empty(rows, columns, dtype=torch.int8), single(rows, 1)


def in_e4m3(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.empty(rows, columns, dtype=torch.float8_e4m3fn), single(1)


def calls() -> Iterator[tuple[str, Call]]:
    """What each call is for, and the call; tensors are uninitialized: only launches are recorded."""
    frames = torch.empty(CAMERAS, 480, 640, 3, dtype=torch.uint8)
    yield (
        "frames to patches",
        lambda to: patches_into(to, single(CAMERAS, 256, 588), frames, resize_plan(480, 640, 224), 14),
    )
    rows = CAMERAS * VISION_TOKENS
    yield (
        "vision: norm",
        lambda to: norm_into(to, half(rows, VISION_WIDTH), None, half(rows, VISION_WIDTH), None, None, None, True),
    )
    qkv = half(CAMERAS, VISION_TOKENS, 3 * VISION_WIDTH)
    heads = [part.unflatten(-1, (16, 72)) for part in qkv.chunk(3, dim=-1)]
    yield "vision: attention", lambda to: attention_into(to, half(CAMERAS, VISION_TOKENS, 16, 72), *heads)

    x, caches, seen = half(PREFIX, WIDTH), half(2, KEYS, 1, 256), torch.empty(1, dtype=torch.int32)
    yield (
        "prefix: norm, Hadamard, quantize",
        lambda to: norm_into(to, *quantized(PREFIX, WIDTH), x, None, None, None, False, WIDTH),
    )
    yield (
        "prefix: rope",
        lambda to: rope_into(to, half(PREFIX, 8, 256), caches[0], caches[1], half(PREFIX, 2560), single(KEYS, 256), 0),
    )
    prefix = caches[:, None, :PREFIX]
    queries = half(1, PREFIX, 8, 256)
    yield "prefix: attention", lambda to: attention_into(to, queries, queries, prefix[0], prefix[1], seen)
    yield (
        "prefix: GeGLU, Hadamard, quantize",
        lambda to: geglu_into(to, *quantized(PREFIX, MLP), half(PREFIX, 2 * MLP), 2048),
    )

    yield "prefix: Hadamard, quantize", lambda to: quantize_into(to, *quantized(PREFIX, MLP), half(PREFIX, MLP), 2048)
    yield "prefix: norm, E4M3", lambda to: norm_into(to, *in_e4m3(PREFIX, WIDTH), x, None, None)
    yield "prefix: quantize, E4M3", lambda to: quantize_into(to, *in_e4m3(PREFIX, WIDTH), x)
    yield "prefix: GeGLU, E4M3", lambda to: geglu_into(to, *in_e4m3(PREFIX, MLP), half(PREFIX, 2 * MLP))

    noise, time_bias, out_weight = single(ACTIONS, 32), single(EXPERT_WIDTH), half(EXPERT_WIDTH, EXPERT_WIDTH)
    folded, hidden = single(EXPERT_WIDTH, 32), half(ACTIONS, EXPERT_WIDTH)
    yield (
        "step: embed actions",
        lambda to: embed_actions_into(to, hidden, noise, folded, time_bias, None, out_weight, time_bias),
    )
    yield (
        "step: embed actions (π0.5)",
        lambda to: embed_actions_into(to, hidden, noise, folded, time_bias, None, None, None),
    )
    yield "step: norm", lambda to: norm_into(to, hidden.clone(), None, hidden, time_bias, None)
    cached = caches[:, : PREFIX + 1]
    yield (
        "step: rope and attention",
        lambda to: rope_attention_into(
            to, half(ACTIONS, 8, 256), half(ACTIONS, 2560), single(KEYS, 256), cached[0], cached[1], seen
        ),
    )
    yield (
        "step: Euler update",
        lambda to: euler_update_into(
            to, noise, hidden, None, time_bias, None, folded.t().contiguous(), single(32), -0.1
        ),
    )
    yield from products()


def products() -> Iterator[tuple[str, Call]]:
    """The linears of one layer of each kind, planned for Orin."""
    for use, (m, n, k, activation) in LINEARS.items():
        yield f"{use}, INT8", partial(one_byte_product, "int8", m, n, k, activation)
        yield f"{use}, FP8", partial(one_byte_product, "fp8", m, n, k, activation)
    for use, (m, n, k, activation) in EXPERT_LINEARS.items():
        for fp8, kind in ((False, "INT8"), (True, "FP8")):
            yield f"{use}, {kind} weights", partial(weight_only_product, fp8, m, n, k, activation)


def one_byte_product(format: str, m: int, n: int, k: int, activation: str, to: KernelLibrary) -> None:
    epilogue, plan = Epilogue(torch.bfloat16, activation), plan_bytes(m, n, k, ORIN, format == "fp8")
    (a, a_scale), (weight, scale) = quantized(m, k), quantized(n, k)
    out = half(m, epilogue.columns(n))
    gemm_into(format, to, out, workspace(plan), a, weight, a_scale, scale.flatten(), epilogue, plan)


def weight_only_product(fp8: bool, m: int, n: int, k: int, activation: str, to: KernelLibrary) -> None:
    """Those that add to the stream leave it for a norm, the others read what one of them left."""
    plan, adds = plan_weight_only(m, n, k, ORIN), n == EXPERT_WIDTH
    packed = torch.empty(-(-n // 128), -(-k // 64), 8192, dtype=torch.uint8)
    if adds:
        epilogue = Epilogue(torch.float32, activation, residual=single(m, n))
    else:
        epilogue = Epilogue(torch.bfloat16, activation, squares=single(m, k // 32))
    left = ForNorm(single(n), half(m, n), single(m, n // 32)) if adds else None
    out = torch.empty(m, epilogue.columns(n), dtype=epilogue.dtype)
    format = "fp8-weights" if fp8 else "int8-weights"
    ahead = packed.flatten()[:BYTES_AHEAD]
    gemm_into(format, to, out, workspace(plan), half(m, k), packed, None, single(n), epilogue, plan, ahead, left)


def workspace(plan: Plan) -> Tensor:
    return torch.empty(plan.workspace_bytes, dtype=torch.uint8)
