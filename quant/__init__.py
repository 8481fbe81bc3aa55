"""Quantization: schemes as data, integer linears, the replacement of layers in a model, and comparison of actions.

`schemes` says how which layers are quantized, `int8_linear` is the quantized layer with its fp32 reference,
`integer_matmul` the exact integer products under it, `quantize` puts the layers into a model, and `compare` measures
what that changed on the actions.
"""

from quant.compare import ActionComparison, compare_actions
from quant.errors import QuantizationError
from quant.int8_linear import Int8Linear, reference_int8_linear
from quant.quantize import QuantizationReport, QuantizedLayer, quantize_layer, quantize_model
from quant.schemes import FP32, INT8_W8A8, SCHEMES, Scheme, find_scheme

__all__ = [
    "FP32",
    "INT8_W8A8",
    "SCHEMES",
    "ActionComparison",
    "Int8Linear",
    "QuantizationError",
    "QuantizationReport",
    "QuantizedLayer",
    "Scheme",
    "compare_actions",
    "find_scheme",
    "quantize_layer",
    "quantize_model",
    "reference_int8_linear",
]
