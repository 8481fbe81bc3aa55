"""Builds a network parameter by parameter and quantizes each layer as soon as it is complete.

A network of full size then never exists in fp32: the peak is its final form plus the largest parameter.

    model = blank_model(config)                                    # no memory yet
    names = [name for name, _ in model.named_parameters()]
    fill_model(model, checkpoint.tensors(names), INT8_W8A8)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pi0_edge.errors import EngineError
from pi0_edge.model import Pi0, Pi0Config
from quant.quantize import QuantizationReport, QuantizedLayer, quantize_layer
from quant.schemes import FP32, Scheme


def blank_model(config: Pi0Config) -> Pi0:
    """A network whose parameters have shapes and dtypes but no memory (meta device); fp32 until converted."""
    with torch.device("meta"):
        return Pi0(config).eval()


def parameter_shapes(config: Pi0Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in blank_model(config).named_parameters()}


def fill_model(model: Pi0, tensors: Iterable[tuple[str, Tensor]], scheme: Scheme = FP32) -> QuantizationReport:
    """Gives memory to a blank model and quantizes it on the way.

    Args:
        model: From `blank_model`, possibly converted by `apply_bf16_policy`.
        tensors: Every parameter by name, in any order; copied and converted to the parameter's dtype. Weight and bias
            of one layer should come close together: a layer is quantized when its last parameter has arrived.
        scheme: What to quantize.

    Raises:
        EngineError: If a parameter is unknown, wrongly shaped or missing.
        QuantizationError: If a weight to be quantized is NaN or infinite.
    """
    layers: list[QuantizedLayer] = []
    for name, tensor in tensors:
        path, _, attribute = name.rpartition(".")
        module = _place(model, path, attribute, tensor)
        if not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            layer = quantize_layer(model, path, scheme)
            layers += [] if layer is None else [layer]
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise EngineError(f"{len(missing)} parameters are missing, such as {missing[0]}; expected every parameter")
    return QuantizationReport(scheme.name, tuple(layers), sum(parameter.nbytes for parameter in model.parameters()))


@torch.no_grad()
def _place(model: Pi0, path: str, attribute: str, tensor: Tensor) -> nn.Module:
    """Puts one parameter into the model and returns the module that holds it."""
    try:
        module = model.get_submodule(path)
        blank = module.get_parameter(attribute)
    except AttributeError as error:
        raise EngineError(f"the network has no parameter {path}.{attribute}") from error
    if tensor.shape != blank.shape:
        raise EngineError(f"{path}.{attribute} has shape {list(tensor.shape)}, expected {list(blank.shape)}")
    filled = torch.empty_like(blank, device="cpu").copy_(tensor)
    setattr(module, attribute, nn.Parameter(filled, requires_grad=False))
    return module
