"""What OpenVINO computes as written, and what is refused; the package is not needed."""

import pytest

from pi0_edge.errors import EngineError
from pi0_edge.openvino.installed import Device
from pi0_edge.openvino.schemes import check_openvino_scheme, rest_precision
from pi0_edge.quant import find_scheme
from pi0_edge.quant.formats import BF16, INT4_CHANNEL, INT4_GROUP_64, INT4_TENSOR, INT8_STATIC, Format
from pi0_edge.quant.schemes import SCHEMES, Rule, Scheme
from pi0_edge.tensorrt.qdq import check_tensorrt_scheme

TAKEN = {"fp32", "bf16", "int8-w8a8-static", "int8-w8a16"}


def device(*capabilities: str) -> Device:
    return Device("NPU", "a device of this test", frozenset(capabilities))


def test_every_scheme_is_run_or_refused():
    def taken(scheme: Scheme) -> bool:
        try:
            check_openvino_scheme(scheme)
        except EngineError:
            return False
        return True

    assert {name for name, scheme in SCHEMES.items() if taken(scheme)} == TAKEN


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - TAKEN))
def test_what_is_refused_names_the_scheme_and_another(scheme: str):
    with pytest.raises(EngineError, match=f"^{scheme} .*use int8-w8a8-static"):
        check_openvino_scheme(find_scheme(scheme))


@pytest.mark.parametrize("weights", [INT4_CHANNEL, INT4_GROUP_64, INT4_TENSOR], ids=lambda weights: weights.granularity)
@pytest.mark.parametrize("activations", [None, BF16, INT8_STATIC], ids=["none", "bf16", "int8"])
def test_weights_of_4_bits_are_refused_whatever_enters(weights: Format, activations: Format | None):
    scheme = Scheme("mine", "", (Rule(("*",), weights=weights, activations=activations),))
    for check in (check_openvino_scheme, lambda scheme: check_tensorrt_scheme(scheme, (11, 0))):
        with pytest.raises(EngineError, match=r"^mine holds 4-bit weights.*use int8-w8a8-static"):
            check(scheme)


@pytest.mark.parametrize(
    ("scheme", "capabilities", "expected"),
    [
        ("fp32", ("FP32", "BF16", "INT8"), "f32"),
        ("int8-w8a8-static", ("FP32", "BF16", "INT8"), "f32"),
        ("bf16", ("FP32", "BF16"), "bf16"),
        ("bf16", ("FP32", "FP16"), "f16"),
        ("bf16", ("FP16", "INT8"), "f16"),
        ("bf16", ("FP32",), "f32"),
    ],
)
def test_what_is_not_quantized_gets_the_format_of_the_scheme_or_more(scheme, capabilities, expected):
    assert rest_precision(find_scheme(scheme), device(*capabilities)) == expected


def test_a_device_of_16_bits_does_not_get_32():
    with pytest.raises(EngineError, match=r"fp32 needs 32-bit arithmetic, and NPU .* computes in FP16, INT8; use"):
        rest_precision(find_scheme("fp32"), device("FP16", "INT8"))
