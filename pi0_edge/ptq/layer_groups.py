"""Which layers of a network are quantized together, and how a choice per group becomes a scheme."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from pi0_edge.quant.schemes import Rule, Scheme

Granularity = Literal["part", "block", "linear"]
"""`part`: all layers of one stack at once; `block`: one layer of it; `linear`: one matrix."""

_PARTS = {"qkv": "attention.[qkv]", "out": "attention.o*", "mlp": "mlp.*"}
_TRANSFORMER = re.compile(r"(vision|prefix|expert)\.layers\.(\d+)\.(?:attention\.([qkv]|o(?:ut)?)|(mlp)\.\w+)")


def layer_groups(model: nn.Module, schemes: Sequence[Scheme], by: Granularity) -> dict[str, tuple[str, ...]]:
    """Paths of the layers that any of the schemes covers, by the name of their group, in the order of the model.

    A group's name is also a pattern for exactly its layers, as in the rules of a scheme.
    """
    groups: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and any(scheme.covers(path) for scheme in schemes):
            groups.setdefault(_group(path, by), []).append(path)
    return {name: tuple(paths) for name, paths in groups.items()}


def mixed_scheme(
    name: str,
    purpose: str,
    groups: Mapping[str, Sequence[str]],
    rules: Mapping[str, Rule | None],
    rest: Literal["fp32", "bf16"],
) -> Scheme:
    """A scheme that quantizes each layer by a rule of its own.

    Args:
        name: Of the scheme.
        purpose: What it is meant for.
        groups: Paths by group.
        rules: By path; None leaves a layer as it is.
        rest: Precision of everything else.
    """
    patterns: dict[Rule, list[str]] = {}
    for group, paths in groups.items():
        found = {rules[path] for path in paths}
        for path in paths:
            rule = rules[path]
            pattern = group if len(found) == 1 else path
            if rule is not None and pattern not in patterns.setdefault(replace(rule, layers=()), []):
                patterns[replace(rule, layers=())].append(pattern)
    return Scheme(name, purpose, tuple(replace(rule, layers=tuple(paths)) for rule, paths in patterns.items()), rest)


def _group(path: str, by: Granularity) -> str:
    found = _TRANSFORMER.fullmatch(path)
    if found is None or by == "linear":
        return path
    stack, layer, projection, mlp = found.groups()
    part = _PARTS[mlp or ("out" if projection.startswith("o") else "qkv")]
    return f"{stack}.layers.{layer if by == 'block' else '*'}.{part}"
