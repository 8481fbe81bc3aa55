"""The error of everything under `quant`."""

from pi0_edge.errors import Pi0EdgeError


class QuantizationError(Pi0EdgeError):
    """A scheme does not exist, a layer cannot be quantized, or a quantized layer met values it cannot represent."""
