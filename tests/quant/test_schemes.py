"""Schemes: which linears they cover, by name, in every preset."""

import pytest
import yaml
from torch import nn

from pi0_edge.engine.loading import blank_model
from pi0_edge.model import PRESETS
from pi0_edge.quant import FP32, INT8_W8A8, ORIN, SCHEMES, QuantizationError, Rule, Scheme, find_scheme
from pi0_edge.quant.formats import E4M3_CHANNEL, INT8_CHANNEL, INT8_STATIC, INT8_TOKEN, Format


def linears(preset: str) -> list[str]:
    return [
        path
        for path, module in blank_model(PRESETS[preset]).named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    ]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_int8_covers_the_transformer_linears_and_nothing_else(preset: str):
    config = PRESETS[preset]
    covered = [path for path in linears(preset) if INT8_W8A8.covers(path)]
    # Embedding; vision: q, k, v, out, fc1, fc2; Gemma: q, k, v, o, gate, up, down, in the last prefix layer only k, v.
    assert len(covered) == 6 * config.vision.depth + 7 * (config.prefix.depth - 1) + 2 + 7 * config.expert.depth + 1
    assert not [path for path in covered if "proj" in path or "norm" in path or "time" in path]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_fp32_covers_nothing(preset: str):
    assert not any(FP32.covers(path) for path in linears(preset))


def test_schemes_are_found_by_name():
    assert find_scheme("int8-w8a8") is INT8_W8A8
    with pytest.raises(QuantizationError, match=r"'int3'; there are fp32, .*int8-w8a8"):
        find_scheme("int3")


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_scheme_survives_yaml(scheme: Scheme):
    assert Scheme.from_dict(yaml.safe_load(yaml.safe_dump(scheme.to_dict()))) == scheme


def test_the_first_rule_that_fits_holds():
    scheme = Scheme("two", "", (Rule(("a.*",), hadamard=16), Rule(("*",), hadamard=32)))
    assert [scheme.rule_for(path).hadamard for path in ("a.b", "b.a")] == [16, 32]  # pyright: ignore


def test_the_recommended_mix_quantizes_activations_in_the_prefix_mlp_only():
    for path in linears("pi0"):
        rule = ORIN.rule_for(path)
        integer = rule is not None and rule.activations == INT8_TOKEN
        assert integer == (path.startswith("prefix") and ".mlp." in path), path
        assert (rule is None) == (not path.startswith(("expert.layers", "token_embedding")) and not integer), path


INT3 = {"layers": ["*"], "weights": {"kind": "int3"}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule(("*",), activations=INT8_STATIC, hadamard=64), "measured before rotation"),
        (lambda: Rule(("*",), weights=INT8_TOKEN), "weights cannot be int8 per token"),
        (lambda: Rule(("*",), activations=E4M3_CHANNEL), "a scale per channel leaves the sum"),
        (lambda: Rule(("*",), hadamard=48), "power of two"),
        (lambda: Rule(("*",), smoothing=2), "between 0 and 1"),
        (lambda: Scheme.from_dict({"name": "x"}), "no quantization scheme"),
        (lambda: Scheme.from_dict({**ORIN.to_dict(), "speed": "high"}), "no quantization scheme"),
        (lambda: Scheme.from_dict({**ORIN.to_dict(), "rest": "fp8"}), "rest fp32 or bf16"),
        (
            lambda: Scheme.from_dict({**ORIN.to_dict(), "rules": [{"layers": ["*"], "weights": {"kind": "int3"}}]}),
            "int3",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message: str):
    with pytest.raises(QuantizationError, match=message):
        make()


def test_formats_say_what_they_are():
    assert str(INT8_CHANNEL) == "int8 per channel"
    assert str(INT8_STATIC) == "int8 per tensor, static"
    assert str(Format("bf16")) == "bf16"
