"""Measures how the quantization of single groups of layers changes the actions, and searches the cheapest passing mix.

One network is in memory, in fp32. A group's layers are replaced, the network answers, and the layers are put back:
beside it there is one quantized group at a time in the scan, and one quantized network in the search. The rest stays
fp32 even where the scheme has it in 16 bits: any change reorders the rounding of a 16-bit network, and that noise
(4.5e-6 of the actions' square on the shipped policy) would be larger than the damage of most groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pi0_edge.errors import ConfigError
from pi0_edge.model import Pi0
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.ptq.cost import LayerWork, milliseconds, weight_bytes
from pi0_edge.ptq.gate import compare
from pi0_edge.ptq.layer_groups import Granularity, layer_groups, mixed_scheme
from pi0_edge.ptq.mix_search import Choice, Mix, cheapest_mix
from pi0_edge.ptq.trace import Trace, trace
from pi0_edge.ptq.verdict import Thresholds
from pi0_edge.quant.quantize import quantize_model
from pi0_edge.quant.schemes import Rule, Scheme

UNTOUCHED = "untouched"
"""The level of a group that is not quantized."""
SEARCH_MARGIN = 2.0
"""A search goes as close to its limits as it can, and the gate then judges on other frames: so it must stay this many
times closer to a cosine of 1 than the gate asks."""


class LayerScan:
    """Quantizes groups of one network's layers, measures, and restores them.

    Attributes:
        groups: Paths of the layers by group.
    """

    def __init__(
        self,
        policy: Policy,
        levels: Sequence[Scheme],
        observations: Sequence[Observation],
        by: Granularity = "block",
        channel_amax: Mapping[str, Tensor] | None = None,
        input_products: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prepares a scan.

        Args:
            policy: The fp32 reference; the same after every measurement.
            levels: Schemes whose rules are tried.
            observations: To compare the actions on; not those that the gate will judge on.
            by: Which layers share a choice.
            channel_amax: From calibration, where a level needs it.
            input_products: From `pi0_edge.ptq.input_products`, where a level rounds by GPTQ.

        Raises:
            ConfigError: If the engine has no torch model, or no level covers any layer.
        """
        model = getattr(policy.engine, "model", None)
        if not isinstance(model, Pi0):
            raise ConfigError(f"the engine {policy.engine.name} has no torch model to scan; scan the reference engine")
        self.groups = layer_groups(model, levels, by)
        if not self.groups:
            raise ConfigError(f"{', '.join(level.name for level in levels)} quantize nothing here: no layer to scan")
        self._policy, self._model, self._observations = policy, model, observations
        self._levels = {level.name: level for level in levels}
        self._channel_amax, self._input_products = channel_amax, input_products

    @property
    def measurements(self) -> int:
        """How many `choices` takes."""
        return sum(len(self._distinct_levels(group)) for group in self.groups)

    def choices(self, advance: Callable[[], object] = lambda: None) -> list[Choice]:
        """Damage and cost of every group, unquantized and at every level with rules of its own for it.

        The cost is half the share of the groups' weight bytes and half the share of their time on the roofline (see
        `pi0_edge.ptq.cost`), so that the untouched network costs 1.

        Args:
            advance: Is called after every measurement.
        """
        reference_trace = self._trace()
        work = self._measure_work()
        choices = []
        for group in self.groups:
            choices.append(Choice(group, UNTOUCHED, 0.0, self._cost(group, UNTOUCHED, work)))
            for level in self._distinct_levels(group):
                with self._quantized({group: level}):
                    damage = _damage(reference_trace, self._trace())
                choices.append(Choice(group, level, damage, self._cost(group, level, work)))
                advance()
        return choices

    def cheapest_passing(
        self,
        choices: Sequence[Choice],
        joints: Sequence[str],
        thresholds: Thresholds,
        draws: int = 1,
        advance: Callable[[], object] = lambda: None,
    ) -> Mix | None:
        """The cheapest mix that passes the gate on the scan's observations; see `pi0_edge.ptq.mix_search.cheapest_mix`.

        Args:
            choices: From `choices`.
            joints: A name per action dimension.
            thresholds: Of the gate that will judge the result; the search keeps `SEARCH_MARGIN` from them.
            draws: Noise draws per observation.
            advance: Is called after every chunk.
        """
        limits = replace(
            thresholds,
            chunks=1,
            cosine_mean=1 - (1 - thresholds.cosine_mean) / SEARCH_MARGIN,
            cosine_worst=1 - (1 - thresholds.cosine_worst) / SEARCH_MARGIN,
        )
        reference_trace = trace(self._policy, self._observations, draws, probed=0, advance=advance)

        def passes(mix: Mapping[str, str]) -> bool:
            with self._quantized(mix):
                candidate_trace = trace(self._policy, self._observations, draws, probed=0, advance=advance)
            return compare(reference_trace, candidate_trace, joints, limits).verdict.passed

        return cheapest_mix(choices, UNTOUCHED, passes)

    def scheme(self, mix: Mapping[str, str], name: str, purpose: str, rest: Literal["fp32", "bf16"]) -> Scheme:
        """`mix` as a scheme, with everything else in the precision `rest`."""
        rules = {path: None for paths in self.groups.values() for path in paths} | self._rules(mix)
        return mixed_scheme(name, purpose, self.groups, rules, rest)

    def _trace(self) -> Trace:
        return trace(self._policy, self._observations, probed=0)

    def _distinct_levels(self, group: str) -> list[str]:
        """Levels that quantize any of the group's layers, without those that repeat the rules of an earlier one."""
        levels_by_rules: dict[tuple[Rule | None, ...], str] = {}
        for level in self._levels:
            rules = self._rules({group: level})
            if rules:
                levels_by_rules.setdefault(tuple(_bare(rules.get(path)) for path in self.groups[group]), level)
        return list(levels_by_rules.values())

    def _cost(self, group: str, level: str, work: Mapping[str, LayerWork]) -> float:
        rules = self._rules({group: level})
        shares = [
            sum(measure(work[path], rules.get(path)) for path in self.groups[group])
            / sum(measure(layer, None) for layer in work.values())
            for measure in (weight_bytes, milliseconds)
        ]
        return sum(shares) / 2

    def _rules(self, mix: Mapping[str, str]) -> dict[str, Rule]:
        """The rule of every layer that `mix` quantizes, by path."""
        chosen = [(path, self._levels.get(level)) for group, level in mix.items() for path in self.groups[group]]
        found = {path: None if scheme is None else scheme.rule_for(path) for path, scheme in chosen}
        return {path: rule for path, rule in found.items() if rule is not None}

    @contextmanager
    def _quantized(self, mix: Mapping[str, str]) -> Iterator[None]:
        """The model with `mix` applied; afterwards it is as it was before."""
        scheme = self.scheme(mix, "scan", "", "fp32")
        originals = {path: self._model.get_submodule(path) for path in self._rules(mix)}
        blocks = {path.rpartition(".attention.")[0] or path.rpartition(".mlp.")[0] for path in originals}
        smoothed = {  # smoothing changes weights of these blocks in place
            name: parameter.detach().clone()
            for name, parameter in self._model.named_parameters()
            if scheme.smooths and any(name.startswith(f"{block}.") for block in blocks if block)
        }
        try:
            quantize_model(self._model, scheme, self._channel_amax, self._input_products)
            yield
        finally:
            for path, module in originals.items():
                parent, _, name = path.rpartition(".")
                setattr(self._model.get_submodule(parent), name, module)
            with torch.no_grad():
                for name, value in smoothed.items():
                    self._model.get_parameter(name).copy_(value)

    def _measure_work(self) -> dict[str, LayerWork]:
        """Rows per call of every layer in a group, while one chunk is made."""
        rows: dict[str, list[int]] = {path: [] for paths in self.groups.values() for path in paths}
        layers = {path: self._model.get_submodule(path) for path in rows}

        def count(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda module, arguments: rows[path].append(arguments[0][..., 0].numel())

        linears = {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}
        hooks = [layer.register_forward_pre_hook(count(path)) for path, layer in linears.items()]
        try:
            self._policy.infer(self._observations[0], noise_seed=0)
        finally:
            for hook in hooks:
                hook.remove()
        shapes = {path: tuple(layer.get_parameter("weight").shape) for path, layer in layers.items()}
        return {path: LayerWork((shape[0], shape[1]), tuple(rows[path])) for path, shape in shapes.items()}


def _damage(reference: Trace, candidate: Trace) -> float:
    """Mean over the chunks of the squared error relative to the square of the chunk; infinite where one is missing."""
    error = np.square(candidate.normalized - reference.normalized).sum((2, 3))
    relative = error / np.square(reference.normalized).sum((2, 3))
    return float(np.nan_to_num(relative, nan=np.inf).mean())


def _bare(rule: Rule | None) -> Rule | None:
    return None if rule is None else replace(rule, layers=())
