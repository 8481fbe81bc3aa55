"""Quantization of tensors and layers: schemes as data, and the layers that carry them out.

`formats` says how numbers are stored and `schemes` which layers store theirs how. `quantized_linear` is the layer,
`integer_matmul` the exact integer products under it, `packed_int4` two values in a byte; `hadamard` and `smoothing`
tame outliers, `gptq` rounds by what enters a layer; `quantize` puts the layers into a model, and `compare` measures
what that changed on the actions. Calibration and the accuracy gate, which need observations and a policy, are
`pi0_edge.ptq`.
"""

from pi0_edge.errors import QuantizationError
from pi0_edge.quant.compare import ActionComparison, compare_actions
from pi0_edge.quant.formats import Format
from pi0_edge.quant.quantize import QuantizationReport, QuantizedLayer, blank_quantized, quantize_layer, quantize_model
from pi0_edge.quant.quantized_linear import QuantizedEmbedding, QuantizedLinear, reference_linear
from pi0_edge.quant.schemes import FP32, INT8_W8A8, ORIN, SCHEMES, Rule, Scheme, find_scheme

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
