"""The table of engines, and the three ways to make one: from a model, from parameters, from quantized tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.engine.cuda.engine import CudaEngine
from pi0_edge.engine.engine import Engine
from pi0_edge.engine.loading import blank_model, fill_model, restore_model
from pi0_edge.engine.openvino import OpenVinoEngine
from pi0_edge.engine.reference import ReferenceEngine
from pi0_edge.engine.tensorrt import TensorRtEngine
from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0Config, PolicyNetwork
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant.quantize import quantize_model
from pi0_edge.quant.schemes import Scheme

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (ReferenceEngine, CpuEngine, CudaEngine, TensorRtEngine, OpenVinoEngine)
}


def find_engine(name: str) -> type[Engine]:
    """The class of the engine called `name`.

    Args:
        name: The key in `ENGINES`; behind `openvino:` a device as OpenVINO calls it, such as `openvino:GPU`.

    Raises:
        EngineError: If there is no such engine.
    """
    kind, _, device = name.partition(":")
    if kind == OpenVinoEngine.name and device:
        return OpenVinoEngine.on(device)
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is not known; expected one of {', '.join(ENGINES)}")
    return ENGINES[name]


def check_engine(name: str, scheme: Scheme | None = None) -> None:
    """Returns if there is an engine called `name` that runs the scheme, or its own default, on this machine.

    Raises:
        EngineError: If there is no such engine, or it cannot run the scheme.
    """
    _checked(name, scheme)


def build_engine(name: str, model: PolicyNetwork, scheme: Scheme | None = None) -> Engine:
    """The engine called `name` of a complete model in fp32, of which it takes ownership.

    Args:
        name: The key in `ENGINES`.
        model: With allocated parameters.
        scheme: How to quantize it, without calibration; the default of the engine where None.

    Raises:
        EngineError: If there is no such engine, or it cannot run the scheme.
        QuantizationError: If the scheme needs calibration, or a weight is NaN or infinite.
    """
    engine, chosen = _checked(name, scheme)
    engine.check_network(model.config, chosen)
    if chosen.rest == "bf16":
        apply_bf16_policy(model)
    quantize_model(model, chosen)
    return engine(model, chosen)


def assemble_engine(
    name: str,
    config: Pi0Config,
    tensors: Iterable[tuple[str, Tensor]],
    scheme: Scheme | None = None,
    channel_amax: Mapping[str, Tensor] | None = None,
) -> Engine:
    """The engine called `name`, from a stream of floating-point parameters.

    Args:
        name: The key in `ENGINES`.
        config: Sizes of the network.
        tensors: Every parameter of the network by name.
        scheme: How to quantize them; the default of the engine where None.
        channel_amax: From calibration, where the scheme needs it; see `pi0_edge.quant.quantize_model`.

    Raises:
        EngineError: If there is no such engine, it cannot run the scheme, or a parameter is missing, unknown or wrongly
            shaped.
        QuantizationError: If calibration is missing, or a weight is NaN or infinite.
    """
    engine, chosen = _checked(name, scheme)
    engine.check_network(config, chosen)
    model = blank_model(config, chosen)
    fill_model(model, tensors, chosen, channel_amax)
    return engine(model, chosen)


def restore_engine(name: str, config: Pi0Config, tensors: Iterable[tuple[str, Tensor]], scheme: Scheme) -> Engine:
    """The engine called `name`, from a stream of quantized tensors such as a bundle holds.

    Args:
        name: The key in `ENGINES`.
        config: Sizes of the network.
        tensors: See `restore_model`.
        scheme: The scheme that they were quantized with.

    Raises:
        EngineError: If there is no such engine, it cannot run the scheme, or the tensors are not those of the scheme.
    """
    engine, chosen = _checked(name, scheme)
    engine.check_network(config, chosen)
    model = blank_model(config, chosen)
    restore_model(model, tensors, chosen, pack=engine.packs_weights)
    return engine(model, chosen)


def _checked(name: str, scheme: Scheme | None) -> tuple[type[Engine], Scheme]:
    engine = find_engine(name)
    chosen = scheme or engine.default_scheme
    engine.check(chosen)
    return engine, chosen
