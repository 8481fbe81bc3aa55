"""Builds a network from a stream of tensors, so that a network of full size never exists in fp32.

From a checkpoint, each layer is quantized as soon as it is complete; from a bundle, quantized tensors are put in place
as they are. Either way the peak is the final form plus the largest tensor.

    model = blank_model(config, scheme)                            # no memory yet
    fill_model(model, checkpoint.tensors(names), scheme)           # floating-point parameters
    restore_model(model, bundle.tensors(), scheme)                 # or quantized ones
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pi0_edge.errors import EngineError
from pi0_edge.heads import build_network
from pi0_edge.model import Pi0Config, PolicyNetwork
from pi0_edge.model.precision import apply_bf16_policy
from pi0_edge.quant.quantize import QuantizationReport, QuantizedLayer, blank_quantized, quantize_layer, quantize_model
from pi0_edge.quant.quantized_linear import QuantizedLinear
from pi0_edge.quant.schemes import FP32, Scheme


def blank_model(config: Pi0Config, scheme: Scheme = FP32) -> PolicyNetwork:
    """A network whose parameters have shapes and the dtypes of `scheme.rest`, but no memory (meta device)."""
    with torch.device("meta"):
        model = build_network(config).eval()
    return apply_bf16_policy(model) if scheme.rest == "bf16" else model


def parameter_shapes(config: Pi0Config) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in blank_model(config).named_parameters()}


def fill_model(
    model: PolicyNetwork,
    tensors: Iterable[tuple[str, Tensor]],
    scheme: Scheme = FP32,
    channel_amax: Mapping[str, Tensor] | None = None,
    input_products: Mapping[str, Tensor] | None = None,
) -> QuantizationReport:
    """Gives memory to a blank model and quantizes it on the way.

    A scheme that smooths needs layer and producer at once, so its network is filled whole before it is quantized.

    Args:
        model: From `blank_model` with the same scheme.
        tensors: Every parameter by name, in any order; copied and converted to the parameter's dtype. Weight and bias
            of one layer should come close together: a layer is quantized when its last parameter has arrived.
        scheme: What to quantize.
        channel_amax: From calibration, where the scheme needs it; see `quantize_model`.
        input_products: From calibration, where the scheme rounds by GPTQ; see `quantize_model`.

    Raises:
        EngineError: If a parameter is unknown, wrongly shaped or missing.
        QuantizationError: If a weight to be quantized is NaN or infinite, or calibration is missing.
    """
    at_once = scheme.needs_calibration
    layers: list[QuantizedLayer] = []
    for name, tensor in tensors:
        path, _, attribute = name.rpartition(".")
        module = _place(model, path, attribute, tensor)
        if not at_once and not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            product = None if input_products is None else input_products.get(path)
            layer = quantize_layer(model, path, scheme, None, product)
            layers += [] if layer is None else [layer]
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise EngineError(f"{len(missing)} parameters are missing, such as {missing[0]}; expected every parameter")
    untouched = quantize_model(model, scheme, channel_amax, input_products)
    return QuantizationReport(scheme.name, (*layers, *untouched.layers), untouched.bytes_untouched)


def restore_model(
    model: PolicyNetwork, tensors: Iterable[tuple[str, Tensor]], scheme: Scheme, pack: bool = True
) -> None:
    """Puts the tensors of a quantized network into a blank one, without copying them.

    Each quantized layer is packed for this processor as soon as it is complete; a tensor that was mapped from a file
    and is packed is let go at once.

    Args:
        model: From `blank_model` with the same scheme.
        tensors: Everything in the state dict of the quantized network by name, the tensors of a layer together.
        scheme: That it was quantized with.
        pack: For the CPU engine.

    Raises:
        EngineError: If a tensor is unknown, missing, or has another shape or dtype than the scheme says.
    """
    blank_quantized(model, scheme)
    expected = model.state_dict()
    for name, tensor in tensors:
        blank = expected.pop(name, None)
        if blank is None:
            raise EngineError(f"the network has no tensor {name} under the scheme {scheme.name}")
        if (tensor.shape, tensor.dtype) != (blank.shape, blank.dtype):
            raise EngineError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {blank.dtype} {list(blank.shape)} "
                f"under the scheme {scheme.name}"
            )
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        is_parameter = attribute in dict(module.named_parameters(recurse=False))
        setattr(module, attribute, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
        if pack and isinstance(module, QuantizedLinear) and not any(buffer.is_meta for buffer in module.buffers()):
            module.pack()
    if expected:
        raise EngineError(f"{len(expected)} tensors are missing, such as {next(iter(expected))}; expected every tensor")


@torch.no_grad()
def _place(model: PolicyNetwork, path: str, attribute: str, tensor: Tensor) -> nn.Module:
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
