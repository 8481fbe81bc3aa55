"""Puts quantized layers into a model, in place and one layer at a time, so that memory only shrinks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quant.errors import QuantizationError
from quant.int8_linear import Int8Linear
from quant.schemes import INT8_PER_CHANNEL, INT8_PER_TOKEN, IntegerFormat, Scheme

# Which layer does the arithmetic of which formats (weights, activations).
_LINEARS: dict[tuple[IntegerFormat | None, IntegerFormat | None], type[Int8Linear]] = {
    (INT8_PER_CHANNEL, INT8_PER_TOKEN): Int8Linear,
}


@dataclass(frozen=True)
class QuantizedLayer:
    """One replaced layer.

    Attributes:
        path: Of the module in the model.
        in_features: K.
        out_features: N.
        arithmetic: Name of the integer product in use.
        bytes_before: Weight and bias as they were.
        bytes_after: Packed weight, scales and bias.
    """

    path: str
    in_features: int
    out_features: int
    arithmetic: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class QuantizationReport:
    """What quantization did to a model.

    Attributes:
        scheme: Its name.
        layers: The replaced layers, in the order of the model.
        bytes_untouched: All parameters that stayed as they were.
    """

    scheme: str
    layers: tuple[QuantizedLayer, ...]
    bytes_untouched: int

    @property
    def bytes_before(self) -> int:
        """The whole model before."""
        return self.bytes_untouched + sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """The whole model now."""
        return self.bytes_untouched + sum(layer.bytes_after for layer in self.layers)


def quantize_model(model: nn.Module, scheme: Scheme) -> QuantizationReport:
    """Quantizes every linear that the scheme covers, in place.

    Args:
        model: With allocated parameters. Linears that are quantized already are left alone.
        scheme: From `quant.schemes`.

    Raises:
        QuantizationError: If a weight is NaN or infinite, naming the layer. Layers before it are then replaced.
    """
    paths = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    layers = [layer for path in paths if (layer := quantize_layer(model, path, scheme)) is not None]
    untouched = sum(parameter.nbytes for parameter in model.parameters())
    return QuantizationReport(scheme.name, tuple(layers), untouched)


def quantize_layer(model: nn.Module, path: str, scheme: Scheme) -> QuantizedLayer | None:
    """Quantizes the linear at `path`, in place; its fp32 weight is freed before this returns.

    The rest of the model may still be on the meta device, so a model can be built and quantized layer by layer.

    Returns:
        What was done; None where `path` is not a linear or the scheme does not cover it.

    Raises:
        QuantizationError: If a weight is NaN or infinite, naming the layer.
    """
    linear = model.get_submodule(path)
    if not isinstance(linear, nn.Linear) or not scheme.covers(path):
        return None
    try:
        quantized = _LINEARS[scheme.weights, scheme.activations](linear.weight, linear.bias)
    except QuantizationError as reason:
        raise QuantizationError(f"cannot quantize the weight of {path}: {reason}") from reason
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, quantized)
    bytes_before = sum(parameter.nbytes for parameter in linear.parameters())
    arithmetic = type(quantized.matmul).__name__
    return QuantizedLayer(path, linear.in_features, linear.out_features, arithmetic, bytes_before, quantized.bytes)
