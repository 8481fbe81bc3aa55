"""The interface of every engine, and the table of those that exist.

An engine owns a network that is loaded and ready. It answers model inputs with normalized actions and knows nothing of
robots, files or wires. All engines start from the same noise, so that any two can be compared action by action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pi0_edge.engine.assembly import blank_model, fill_model
from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.precision import apply_bf16_policy
from quant.schemes import FP32, INT8_W8A8, Scheme


class Engine(Protocol):
    """A network that is ready to run.

    Attributes:
        name: As in `ENGINES`.
        scheme: How its layers are quantized.
        config: Its sizes.
        times: float32 [steps], the times of the Euler steps; openpi's schedule unless replaced.
    """

    name: str
    scheme: str
    config: Pi0Config
    times: Tensor

    def infer(self, inputs: ModelInputs, noise: Tensor) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """How an engine is made.

    Attributes:
        build: Makes the engine around a complete model.
        scheme: Applied to each layer as its weights arrive, so that a full-size network never exists in fp32.
        prepare: Sets the parameter dtypes of a model before it is filled.
    """

    build: Callable[[Pi0], Engine]
    scheme: Scheme = FP32
    prepare: Callable[[Pi0], Pi0] = lambda model: model


ENGINES: dict[str, EngineKind] = {
    "reference": EngineKind(ReferenceEngine),
    "bf16": EngineKind(ReferenceEngine, prepare=apply_bf16_policy),
    "cpu-int8": EngineKind(CpuEngine, scheme=INT8_W8A8),
}


def build_engine(name: str, model: Pi0) -> Engine:
    """The engine called `name`, around a complete `model`, which it may change in place.

    Raises:
        EngineError: If there is no such engine.
    """
    kind = _kind(name)
    return kind.build(kind.prepare(model))


def assemble_engine(name: str, config: Pi0Config, tensors: Iterable[tuple[str, Tensor]]) -> Engine:
    """The engine called `name`, from a stream of parameters: the peak is its final form plus one parameter.

    Args:
        name: As in `ENGINES`.
        config: Sizes of the network.
        tensors: Every parameter of `Pi0` by name.

    Raises:
        EngineError: If there is no such engine, or a parameter is missing, unknown or wrongly shaped.
    """
    kind = _kind(name)
    model = kind.prepare(blank_model(config))
    fill_model(model, tensors, kind.scheme)
    return kind.build(model)


def _kind(name: str) -> EngineKind:
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]
