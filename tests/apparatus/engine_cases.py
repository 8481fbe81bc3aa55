"""Small networks and inputs for the tests of engines."""

import copy
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda.network import Cache, CudaNetwork
from pi0_edge.engine.cuda.sizes import prompt_places
from pi0_edge.model import PRESETS, GemmaConfig, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant import Scheme, quantize_model

CPU = torch.device("cpu")


NONE_FROZEN = torch.zeros(1, dtype=torch.int32)


SCHEMES = ("bf16", "int8-w8a8", "int8-w8a16", "fp8-w8a16", "orin")


KERNEL_SIZES = Pi0Config(
    "pi0",
    VisionConfig(width=144, depth=2, mlp_dim=304, heads=2, patch_size=14, image_size=56),
    GemmaConfig(width=128, depth=3, mlp_dim=256, heads=2, kv_heads=1, head_dim=256),
    GemmaConfig(width=64, depth=3, mlp_dim=128, heads=2, kv_heads=1, head_dim=256),
    vocab_size=300,
    max_prompt_tokens=12,
)


Case = tuple[Pi0, ModelInputs, Tensor]


@cache
def random_case(variant: str) -> Case:
    torch.manual_seed(0)
    config = PRESETS[variant] if variant == "pi0-cube" else replace(KERNEL_SIZES, variant=variant)
    model, side = Pi0(config).eval(), config.vision.image_size
    for name, parameter in model.named_parameters():
        if "norm" in name:  # as trained ones: not all alike
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    inputs = ModelInputs(
        images=torch.rand(1, 2, 3, side, side) * 2 - 1,
        image_mask=torch.ones(1, 2, dtype=torch.bool),
        tokens=torch.randint(0, 300, (1, 7)),
        token_mask=torch.ones(1, 7, dtype=torch.bool),
        state=torch.randn(1, 32),
    )
    return model, inputs, torch.randn(1, config.horizon, 32)


def attended(network: CudaNetwork, inputs: ModelInputs, row: int = 0) -> Cache:
    """Keys and values of one observation, but for its state."""
    images, tokens = inputs.images[row][inputs.image_mask[row]], inputs.tokens[row][inputs.token_mask[row]]
    places = prompt_places(network.config, len(tokens))
    cache = network.blank_cache(len(images), places)
    cache.lengths.copy_(network.lengths(len(images), len(tokens)))
    network.attend(network.patch_rows(images), F.pad(tokens, (0, places - len(tokens))), cache)
    return cache


def quantized(model: Pi0, scheme: Scheme, channel_amax: dict[str, Tensor] | None = None) -> Pi0:
    made = copy.deepcopy(model)
    if scheme.rest == "bf16":
        apply_bf16_policy(made)
    quantize_model(made, scheme, channel_amax)
    return made


def largest_inputs(model: Pi0, inputs: ModelInputs, noise: Tensor) -> dict[str, Tensor]:
    """What calibration on this one observation gives: the largest magnitude of every channel into every linear."""
    found: dict[str, Tensor] = {}

    def look(path: str, _: torch.nn.Module, given: tuple[Tensor]) -> None:
        amax = given[0].detach().flatten(0, -2).abs().amax(0)
        found[path] = torch.maximum(found.get(path, amax), amax)

    watched = copy.deepcopy(model)
    for path, layer in watched.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(partial(look, path))
    build_engine("reference", watched).infer(inputs, noise)
    return found
