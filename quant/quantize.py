"""Puts quantized layers into a model, in place and one layer at a time, so that memory only shrinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.bitsandbytes_linear import BitsAndBytesLinear
from pi0_edge.quant.quantized_linear import QuantizedEmbedding, QuantizedLinear
from pi0_edge.quant.schemes import Scheme
from pi0_edge.quant.smoothing import smooth

QUANTIZED = (QuantizedLinear, QuantizedEmbedding, BitsAndBytesLinear)


@dataclass(frozen=True)
class QuantizedLayer:
    """One replaced layer.

    Attributes:
        path: Of the module in the model.
        shape: Of its weight, [N, K].
        arithmetic: What multiplies: the name of an integer product, float32, or a library; "lookup" for an embedding.
        bytes_before: Weight and bias as they were.
        bytes_after: Stored weight, scales and bias.
    """

    path: str
    shape: tuple[int, int]
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


def quantize_model(
    model: nn.Module,
    scheme: Scheme,
    channel_amax: Mapping[str, Tensor] | None = None,
    input_products: Mapping[str, Tensor] | None = None,
) -> QuantizationReport:
    """Quantizes every layer that the scheme covers, in place.

    Args:
        model: With allocated parameters. Layers that are quantized already are left alone.
        scheme: From `pi0_edge.quant.schemes`.
        channel_amax: From calibration, where the scheme needs it: largest magnitude of every channel that enters a
            linear, float32 [K], by module path.
        input_products: Where the scheme rounds by GPTQ: XᵀX of what enters a linear of this model as it is now, float32
            [K, K], by module path. One layer is asked for at a time.

    Raises:
        QuantizationError: If a weight is NaN or infinite, naming the layer, or calibration is missing. Layers before it
            are then replaced.
    """
    if scheme.needs_calibration and channel_amax is None:
        raise QuantizationError(
            f"the scheme {scheme.name} needs calibration; calibrate first, or choose another scheme"
        )
    if scheme.needs_input_products and input_products is None:
        raise QuantizationError(
            f"the scheme {scheme.name} rounds by GPTQ, which needs observations; make a bundle by `pi0-edge quantize`"
        )
    measured = dict(channel_amax or {})
    amax = smooth(model, scheme, measured) if scheme.smooths and measured else measured
    layers = []
    for path, _ in list(model.named_modules()):
        product = _product_of(path, scheme, input_products)
        if product is not None and amax.get(path) is not measured.get(path):
            factor = _ratio(amax[path], measured[path])
            product = product * factor * factor[:, None]
        layers.append(quantize_layer(model, path, scheme, amax.get(path), product))
    untouched = sum(parameter.nbytes for parameter in model.parameters() if not _held(model, parameter))
    return QuantizationReport(scheme.name, tuple(layer for layer in layers if layer is not None), untouched)


def quantize_layer(
    model: nn.Module,
    path: str,
    scheme: Scheme,
    channel_amax: Tensor | None = None,
    input_product: Tensor | None = None,
) -> QuantizedLayer | None:
    """Quantizes the layer at `path`, in place; its weight is freed before this returns.

    The rest of the model may still be on the meta device, so a model can be built and quantized layer by layer.

    Args:
        model: The network.
        path: Of one module in it.
        scheme: From `pi0_edge.quant.schemes`.
        channel_amax: float32 [K], where the scheme has a static scale for this layer.
        input_product: XᵀX of what enters it, float32 [K, K], where the scheme rounds this layer by GPTQ.

    Returns:
        What was done; None where `path` is not a linear or embedding, or the scheme does not cover it.

    Raises:
        QuantizationError: If a weight is NaN or infinite or a figure of calibration is missing, naming the layer.
    """
    layer, rule = model.get_submodule(path), scheme.rule_for(path)
    if rule is None or not isinstance(layer, nn.Linear | nn.Embedding) or _of_library(model, path):
        return None
    try:
        if isinstance(layer, nn.Embedding):
            quantized = QuantizedEmbedding.of(layer, rule)
        elif rule.library is not None:
            quantized = BitsAndBytesLinear(layer, rule)
        else:
            amax = None if channel_amax is None else float(channel_amax.amax())
            quantized = QuantizedLinear.of(layer, rule, amax, input_product)
    except QuantizationError as reason:
        raise QuantizationError(f"cannot quantize {path}: {reason}") from reason
    _replace(model, path, quantized)
    shape = (layer.weight.shape[0], layer.weight.shape[1])
    arithmetic = "lookup" if isinstance(quantized, QuantizedEmbedding) else quantized.arithmetic
    before = sum(parameter.nbytes for parameter in layer.parameters())
    return QuantizedLayer(path, shape, arithmetic, before, quantized.bytes)


def blank_quantized(model: nn.Module, scheme: Scheme) -> None:
    """Puts empty quantized layers into a model on the meta device, in place: what a bundle's tensors are put into.

    Raises:
        QuantizationError: If the scheme leaves layers to a library, whose storage we cannot restore.
    """
    for path, layer in list(model.named_modules()):
        rule = scheme.rule_for(path)
        if rule is None or not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        if rule.library is not None:
            raise QuantizationError(f"{path} is stored by {rule.library}, which a bundle cannot hold")
        if isinstance(layer, nn.Embedding):
            blank = QuantizedEmbedding(rule, layer.num_embeddings, layer.embedding_dim)
        else:
            blank = QuantizedLinear(rule, layer.in_features, layer.out_features, layer.bias is not None)
        _replace(model, path, blank.to("meta"))


def _product_of(path: str, scheme: Scheme, input_products: Mapping[str, Tensor] | None) -> Tensor | None:
    """What was measured for a layer that is rounded by GPTQ; None where it is not, or nothing was measured."""
    rule = scheme.rule_for(path)
    if input_products is None or rule is None or not rule.by_gptq or path not in input_products:
        return None
    return input_products[path]


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    """By how much every channel was multiplied, float32 [K]; 1 where nothing ever entered."""
    return torch.where(before > 0, now / before.clamp_min(1e-38), torch.ones_like(before)).float()


def _of_library(model: nn.Module, path: str) -> bool:
    """Whether the layer is the inside of one that a library quantized already: bitsandbytes' are linears themselves."""
    return isinstance(model.get_submodule(path.rpartition(".")[0]), BitsAndBytesLinear)


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def _held(model: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a parameter belongs to a layer of a library and was counted there."""
    libraries = (module for module in model.modules() if isinstance(module, BitsAndBytesLinear))
    return any(parameter is own for library in libraries for own in library.parameters())
