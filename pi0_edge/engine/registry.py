"""The interface of every engine, and the table of those that exist.

An engine owns a network that is loaded and ready. It answers model inputs with normalized actions and knows nothing of
robots, files or wires. All engines start from the same noise, so that any two can be compared action by action.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.cuda.engine import CudaEngine, require_cuda
from pi0_edge.engine.loading import blank_model, fill_model, restore_model
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.engine.tensorrt import TensorRtEngine, require_tensorrt
from pi0_edge.errors import EngineError
from pi0_edge.model import Continuation, ModelInputs, Pi0, Pi0Config
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant.quantize import quantize_model
from pi0_edge.quant.schemes import FP32, Scheme


class Engine(Protocol):
    """A network that is ready to run.

    Attributes:
        name: As in `ENGINES`.
        scheme: Name of the scheme of its layers.
        config: Its sizes.
        times: float32 [steps], the times of the Euler steps; openpi's schedule unless replaced.
        takes_frames: It scales frames itself, see `ModelInputs.images`; it takes finished pictures as well.
        prefix_age_s: By how many seconds the pictures that the last chunk was planned from were older than its inputs;
            0 but in a CUDA engine that was allowed a stale prefix.
    """

    name: str
    scheme: str
    config: Pi0Config
    times: Tensor
    takes_frames: bool
    prefix_age_s: float

    def infer(self, inputs: ModelInputs, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Normalized actions, float32 [batch, horizon, action_dim], from noise of the same shape.

        `continuation` is the chunk that they continue (real-time chunking).
        """
        ...


EngineType = type[ReferenceEngine] | type[CpuEngine] | type[CudaEngine] | type[TensorRtEngine]

ENGINES: dict[str, EngineType] = {
    engine.name: engine for engine in (ReferenceEngine, CpuEngine, CudaEngine, TensorRtEngine)
}


def build_engine(name: str, model: Pi0, scheme: Scheme | None = None) -> Engine:
    """The engine called `name`, around a complete `model` in fp32, which it may change in place.

    Args:
        name: As in `ENGINES`.
        model: With allocated parameters.
        scheme: How to quantize it, without calibration; the engine's own default where None.

    Raises:
        EngineError: If there is no such engine, or it cannot run the scheme.
        QuantizationError: If the scheme needs calibration, or a weight is NaN or infinite.
    """
    kind, chosen = _kind(name, scheme)
    if chosen.rest == "bf16":
        apply_bf16_policy(model)
    quantize_model(model, chosen)
    return kind(model, chosen)


def assemble_engine(
    name: str,
    config: Pi0Config,
    tensors: Iterable[tuple[str, Tensor]],
    scheme: Scheme | None = None,
    channel_amax: Mapping[str, Tensor] | None = None,
) -> Engine:
    """The engine called `name`, from a stream of floating-point parameters.

    Args:
        name: As in `ENGINES`.
        config: Sizes of the network.
        tensors: Every parameter of `Pi0` by name.
        scheme: How to quantize them; the engine's own default where None.
        channel_amax: From calibration, where the scheme needs it; see `pi0_edge.quant.quantize_model`.

    Raises:
        EngineError: If there is no such engine, it cannot run the scheme, or a parameter is missing, unknown or wrongly
            shaped.
        QuantizationError: If calibration is missing, or a weight is NaN or infinite.
    """
    kind, chosen = _kind(name, scheme)
    model = blank_model(config, chosen)
    fill_model(model, tensors, chosen, channel_amax)
    return kind(model, chosen)


def restore_engine(name: str, config: Pi0Config, tensors: Iterable[tuple[str, Tensor]], scheme: Scheme) -> Engine:
    """The engine called `name`, from a stream of quantized tensors such as a bundle holds.

    Raises:
        EngineError: If there is no such engine, it cannot run the scheme, or the tensors are not those of the scheme.
    """
    kind, chosen = _kind(name, scheme)
    model = blank_model(config, chosen)
    restore_model(model, tensors, chosen, pack=kind is CpuEngine)
    return kind(model, chosen)


def check_engine(name: str, scheme: Scheme | None = None) -> None:
    """Raises `EngineError` where there is no such engine, or it cannot run the scheme."""
    _kind(name, scheme)


def _kind(name: str, scheme: Scheme | None) -> tuple[EngineType, Scheme]:
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is not known; expected one of {', '.join(ENGINES)}")
    kind = ENGINES[name]
    if kind is ReferenceEngine and scheme not in (None, FP32):
        raise EngineError(f"the reference engine runs fp32 only, not {scheme.name}; use --engine cpu")
    chosen = scheme or kind.default_scheme
    if kind is CudaEngine:
        require_cuda(chosen)
    if kind is TensorRtEngine:
        require_tensorrt(chosen)
    return kind, chosen
