"""Which parameters of a network learn, and LoRA factors beside those that do not.

| tune     | learns                                                                                       |
|----------|----------------------------------------------------------------------------------------------|
| `full`   | every parameter                                                                              |
| `expert` | the action expert and the projections of state, actions and time (LeRobot's                  |
|          | `train_expert_only`); vision tower, projector, token table and prefix stay as they are       |
| `lora`   | low-rank factors beside frozen weights, and what the plan learns whole                       |

The two plans of `lora` name what openpi and LeRobot name:

| plan      | factors                                                          | learned whole               |
|-----------|------------------------------------------------------------------|-----------------------------|
| `openpi`  | gemma_2b_lora: attention and MLP of the prefix, rank 16, alpha 16; | state, action and time    |
|           | gemma_300m_lora: those of the expert, rank 32, alpha 32          | projections                 |
| `lerobot` | q and v of the expert's attention and the five projections, rank | nothing                     |
|           | 16, alpha 8 (the defaults of LeRobot's PI0Policy and of PEFT)    |                             |

A weight W [out, in] becomes W + (alpha / rank) B A with A [rank, in] and B [out, rank] (Hu et al., arXiv 2106.09685),
one pair per matrix, as PEFT has it. openpi has one pair per attention head, and its vision tower learns beside the
factors; here it is frozen. A starts as in PEFT, B at zero, so that training starts from the network as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pi0_edge.errors import ConfigError
from pi0_edge.model import PolicyNetwork

Tune = Literal["full", "expert", "lora"]
LoraName = Literal["openpi", "lerobot"]
TUNES: tuple[Tune, ...] = get_args(Tune)

_FROZEN_BY_EXPERT = ("vision.", "projector.", "token_embedding.", "prefix.")
_PROJECTIONS = r"(?:state_proj|action_in_proj|action_out_proj|(?:action_)?time_mlp_(?:in|out))"
_LAYER = r"layers\.\d+\.(?:attention\.[qkvo]|mlp\.(?:gate|up|down))"


@dataclass(frozen=True)
class LoraTarget:
    """Linear layers that get factors of one size.

    Attributes:
        pattern: Matches the whole name of a layer.
        rank: Rows of A.
        alpha: The product B A is multiplied by alpha / rank.
    """

    pattern: str
    rank: int
    alpha: float


@dataclass(frozen=True)
class LoraPlan:
    """What gets factors, and what is learned whole beside them.

    Attributes:
        targets: Of the factors; the first that matches a layer counts.
        whole: Matches the whole name of a layer whose parameters learn themselves, or None.
    """

    targets: tuple[LoraTarget, ...]
    whole: str | None


LORA_PLANS: dict[str, LoraPlan] = {
    "openpi": LoraPlan(
        (LoraTarget(rf"prefix\.{_LAYER}", 16, 16.0), LoraTarget(rf"expert\.{_LAYER}", 32, 32.0)), _PROJECTIONS
    ),
    "lerobot": LoraPlan(
        (LoraTarget(rf"expert\.layers\.\d+\.attention\.[qv]|{_PROJECTIONS}", 16, 8.0),),
        None,
    ),
}


class LoraLinear(nn.Module):
    """A frozen linear layer with low-rank factors beside its weight."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        dtype = base.weight.dtype
        a = torch.empty(rank, base.in_features)
        nn.init.kaiming_uniform_(a, a=5**0.5)
        self.a = nn.Parameter(a.to(dtype))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=dtype))

    @property
    def weight(self) -> Tensor:
        """The merged weight, for code that takes a part of it."""
        return self.base.weight + self.scale * (self.b @ self.a)

    @property
    def bias(self) -> Tensor | None:
        """Of the frozen layer."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], without forming the merged weight."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.a), self.b)


def choose_learned(model: PolicyNetwork, tune: str, plan: LoraPlan | None = None) -> None:
    """Freezes what does not learn, in place; with `lora`, puts factors into the network.

    Args:
        model: With its weights loaded.
        tune: One of `TUNES`.
        plan: Of `lora`.

    Raises:
        ConfigError: If `tune` is not known, or a plan is missing or fits no layer.
    """
    if tune not in TUNES:
        raise ConfigError(f"tune is {tune!r}, expected one of {', '.join(TUNES)}")
    if tune == "full":
        return
    if tune == "expert":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(_FROZEN_BY_EXPERT) and parameter.requires_grad)
        return
    if plan is None:
        raise ConfigError(f"tune lora needs a plan, expected one of {', '.join(LORA_PLANS)}")
    model.requires_grad_(False)
    _insert_factors(model, plan)
    for name, module in model.named_modules():
        if plan.whole is not None and re.fullmatch(plan.whole, name):
            module.requires_grad_(True)


def prefix_is_frozen(model: nn.Module) -> bool:
    """True where keys and values of images and prompt do not change while the network learns."""
    return not any(p.requires_grad and name.startswith(_FROZEN_BY_EXPERT) for name, p in model.named_parameters())


def merged_parameters(model: nn.Module, learned: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the network by its usual name, with the factors merged in float32.

    Args:
        model: A network, with or without factors.
        learned: What replaces the learned parameters, such as their average, by name.

    Yields:
        Name and tensor in the dtype of the network's parameter.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    parameters = {name: learned.get(name, p.detach()) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        owner, _, inner = path.rpartition(".")
        if path in layers:  # a factor
            continue
        if inner != "base" or owner not in layers:
            yield name, parameters[name].to(parameter.dtype)
        elif leaf == "weight":
            product = parameters[f"{owner}.b"].float() @ parameters[f"{owner}.a"].float()
            yield f"{owner}.weight", (parameters[name].float() + layers[owner].scale * product).to(parameter.dtype)
        else:
            yield f"{owner}.{leaf}", parameters[name]


def _insert_factors(model: nn.Module, plan: LoraPlan) -> None:
    found = 0
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        target = next((t for t in plan.targets if re.fullmatch(t.pattern, name)), None)
        if target is not None:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, LoraLinear(module, target.rank, target.alpha))
            found += 1
    if not found:
        raise ConfigError("no layer of this network gets LoRA factors under this plan; expected at least one")
