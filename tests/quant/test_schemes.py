"""Schemes: which linears they cover, by name, in every preset."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import yaml
from torch import nn

from pi0_edge.engine.loading import blank_model
from pi0_edge.model import PRESETS
from pi0_edge.ptq.input_products import paths_to_round
from pi0_edge.quant import FP32, INT8_W8A8, ORIN, SCHEMES, QuantizationError, Rule, Scheme, find_scheme
from pi0_edge.quant.formats import E4M3_CHANNEL, INT8_CHANNEL, INT8_STATIC, INT8_TOKEN, Format
from pi0_edge.quant.quantize import _product_of


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


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_each_scheme_for_orin_takes_one_step_beyond_the_one_before(preset: str):
    """What changes from one to the next, by name: everything else is as it was."""
    names = ("orin", "orin-vision8", "orin-int8", "orin-expert4", "orin-prefix4")
    steps = []
    for before, after in pairwise(find_scheme(name) for name in names):
        rules = [(path, *(_form(scheme.rule_for(path)) for scheme in (before, after))) for path in linears(preset)]
        steps.append({path for path, old, new in rules if old != new})
    paths = linears(preset)
    assert steps[0] == {path for path in paths if path.startswith("vision.layers.")}
    assert steps[1] == {path for path in paths if path.startswith("prefix.layers.") and ".attention." in path}
    assert steps[2] == {path for path in paths if path.startswith("expert.layers.") and "norm" not in path}
    narrow = ("attention.o", "mlp.down")
    assert steps[3] == {path for path in paths if path.startswith("prefix.layers.") and not path.endswith(narrow)}


def test_the_formats_of_the_four_bit_schemes():
    scheme = find_scheme("orin-prefix4")
    found = {path: _form(scheme.rule_for(path)) for path in linears("pi0")}
    assert found["expert.layers.3.mlp.down"] == ("int4 per group of 64", "bf16", 0, "gptq")
    assert found["prefix.layers.3.mlp.gate"] == ("int4 per channel", "int4 per token", 128, "gptq")
    assert found["prefix.layers.17.attention.v"] == ("int4 per channel", "int4 per token", 128, "gptq")
    assert found["prefix.layers.3.mlp.down"] == ("int8 per channel", "int8 per token", 128, "nearest")
    assert found["vision.layers.3.mlp.fc2"] == ("int8 per channel", "int8 per token", 128, "nearest")


def _form(rule: Rule | None) -> tuple[str, str, int, str] | None:
    return None if rule is None else (str(rule.weights), str(rule.activations), rule.hadamard, rule.rounding)


def test_fields_of_this_release_stand_in_a_scheme_only_where_they_say_something():
    """So that a bundle of an older scheme keeps its bytes, and an older release reads it."""
    plain = [rule for rule in ORIN.to_dict()["rules"]]
    assert not [rule for rule in plain if "rounding" in rule or "group" in rule["weights"]]
    rule = find_scheme("orin-expert4").to_dict()["rules"][-1]
    assert (rule["rounding"], rule["weights"]) == (
        "gptq",
        {"kind": "int4", "granularity": "group", "static": False, "group": 64},
    )


def test_a_library_rounds_its_own_weights():
    """All other fields of its rule are ignored: no products are collected for it, and none asked for."""
    rule = Rule(("*",), library="bnb-int8", rounding="gptq")
    scheme = Scheme("library", "", (rule,))
    assert not rule.by_gptq and not scheme.needs_input_products
    assert paths_to_round(nn.Sequential(nn.Linear(4, 4)), [scheme]) == []
    assert _product_of("0", scheme, {"0": torch.eye(4)}) is None
    ours = replace(rule, library=None)
    assert ours.by_gptq and Scheme("ours", "", (ours,)).needs_input_products


def test_the_bytes_of_a_weight_follow_its_bits():
    rows, columns = 1024, 4096
    rules = {name: find_scheme(name).rule_for("expert.layers.0.mlp.down") for name in ("orin", "orin-expert4")}
    stored = {name: rule.stored_bytes(rows, columns) / (rows * columns) for name, rule in rules.items() if rule}
    assert stored == {"orin": 1 + 4 / columns, "orin-expert4": 0.5 + 2 / 64}


INT3 = {"layers": ["*"], "weights": {"kind": "int3"}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule(("*",), activations=INT8_STATIC, hadamard=64), "measured before rotation"),
        (lambda: Rule(("*",), weights=INT8_TOKEN), "weights cannot be int8 per token"),
        (
            lambda: Rule(("*",), activations=E4M3_CHANNEL),
            "per token or tensor: one per channel cannot be taken out of the sum",
        ),
        (lambda: Rule(("*",), hadamard=48), "power of two"),
        (lambda: Rule(("*",), smoothing=2), "between 0 and 1"),
        (lambda: Rule(("*",), weights=Format("int8", "group", group=64)), "groups are for int4"),
        (
            lambda: Rule(("*",), activations=Format("int4", "group", group=64)),
            "per token or tensor: one per group cannot be taken out of the sum",
        ),
        (lambda: Format("int4", "group", group=48), "a group of 48 columns; expected 32 or 64 or 128"),
        (lambda: Format("int4", "group"), "a group of 0 columns"),
        (lambda: Format("int4", "channel", group=32), "a group of 32 columns; expected 0"),
        (lambda: Format("int4", "group", group=64.0), r"a group of 64\.0 columns; expected 32 or 64 or 128"),  # pyright: ignore
        (lambda: Format("int4", "group", group="64"), "a group of '64' columns; expected 32 or 64 or 128"),  # pyright: ignore
        (lambda: Format("int8", "channel", group=False), "a group of False columns; expected 0"),
        (lambda: Rule(("*",), rounding="down"), "to nearest or by gptq, found 'down'"),  # pyright: ignore
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
