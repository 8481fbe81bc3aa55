"""Quantization: schemes as data, the layers that carry them out, and what calibration and the gate need.

`formats` says how numbers are stored and `schemes` which layers store theirs how. `quantized_linear` is the layer,
`integer_matmul` the exact integer products under it, `hadamard` and `smoothing` tame outliers, `quantize` puts the
layers into a model, and `compare` measures what that changed on the actions.
"""

from quant.compare import ActionComparison, compare_actions
from quant.errors import QuantizationError
from quant.formats import Format
from quant.quantize import QuantizationReport, QuantizedLayer, blank_quantized, quantize_layer, quantize_model
from quant.quantized_linear import QuantizedEmbedding, QuantizedLinear, reference_linear
from quant.schemes import FP32, INT8_W8A8, ORIN, SCHEMES, Rule, Scheme, find_scheme

__all__ = [
    "FP32",
    "INT8_W8A8",
    "ORIN",
    "SCHEMES",
    "ActionComparison",
    "Format",
    "QuantizationError",
    "QuantizationReport",
    "QuantizedEmbedding",
    "QuantizedLayer",
    "QuantizedLinear",
    "Rule",
    "Scheme",
    "blank_quantized",
    "compare_actions",
    "find_scheme",
    "quantize_layer",
    "quantize_model",
    "reference_linear",
]
