"""What OpenVINO makes of a scheme.

A program says what is computed, and OpenVINO may compute it otherwise: in fewer bits where its settings allow, and in
more where the processor has no arithmetic for a format. So the format of all that is not quantized is asked for by
name, and what cannot be had as written is refused.
"""

from __future__ import annotations

from pi0_edge.errors import EngineError
from pi0_edge.openvino.installed import Device
from pi0_edge.quant.schemes import Rule, Scheme


def check_openvino_scheme(scheme: Scheme) -> None:
    """Returns where OpenVINO computes the scheme as written.

    Raises:
        EngineError: If it does not, with a scheme to use.
    """
    for rule in scheme.rules:
        _check_rule(scheme.name, rule)


def rest_precision(scheme: Scheme, device: Device) -> str:
    """The format in which a device computes what the scheme leaves unquantized, as OpenVINO calls it.

    16 bits are bf16 where the device has them, else f16 (Intel's GPUs and NPUs), else 32 bits.

    Raises:
        EngineError: If the scheme leaves it in 32 bits, and the device has none.
    """
    if scheme.rest == "bf16":
        found = [name for name in ("BF16", "FP16") if name in device.capabilities]
        if found:
            return {"BF16": "bf16", "FP16": "f16"}[found[0]]
    if "FP32" not in device.capabilities:
        raise EngineError(
            f"{scheme.name} needs 32-bit arithmetic, and {device.name} ({device.description}) computes in "
            f"{', '.join(sorted(device.capabilities))}; use a scheme with rest: bf16, such as bf16 or int8-w8a16"
        )
    return "f32"


def _check_rule(scheme: str, rule: Rule) -> None:
    if rule.library is not None:
        raise EngineError(f"{scheme} leaves layers to {rule.library}, unknown to OpenVINO; use int8-w8a8-static")
    if rule.activations is not None and rule.activations.scaled and not rule.activations.static:
        raise EngineError(
            f"{scheme} takes scales of activations from the tokens themselves ({rule.activations}), and OpenVINO "
            "promises no arithmetic for that; use int8-w8a8-static, whose scales are calibrated"
        )
    if rule.weights.half_bytes:
        raise EngineError(
            f"{scheme} holds 4-bit weights, two in a byte, which no program of ours reads; use int8-w8a8-static"
        )
    kinds = {rule.weights.kind} | ({rule.activations.kind} if rule.activations is not None else set())
    if "e4m3" in kinds:
        raise EngineError(
            f"{scheme} holds FP8 values, which OpenVINO turns into 32-bit ones before it runs: use int8-w8a8-static"
        )
