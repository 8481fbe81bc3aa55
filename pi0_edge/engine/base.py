"""The interface of every engine, and the table of those that exist.

An engine owns a network that is loaded and ready. It answers model inputs with normalized actions and knows nothing of
robots, files or wires. All engines start from the same noise, so that any two can be compared action by action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config


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


ENGINES: dict[str, Callable[[Pi0], Engine]] = {
    "reference": ReferenceEngine,
    "bf16": ReferenceEngine.in_bf16,
    "cpu-int8": CpuEngine,
}


def build_engine(name: str, model: Pi0) -> Engine:
    """The engine called `name`, around `model`, which it may change in place.

    Raises:
        EngineError: If there is no such engine.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name](model)
