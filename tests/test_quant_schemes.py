"""Schemes: which linears they cover, by name, in every preset."""

import pytest
from torch import nn

from pi0_edge.engine.assembly import blank_model
from pi0_edge.model import PRESETS
from quant import FP32, INT8_W8A8, QuantizationError, find_scheme


def linears(preset: str) -> list[str]:
    return [path for path, module in blank_model(PRESETS[preset]).named_modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_int8_covers_the_transformer_linears_and_nothing_else(preset: str):
    config = PRESETS[preset]
    covered = [path for path in linears(preset) if INT8_W8A8.covers(path)]
    # vision: q, k, v, out, fc1, fc2; Gemma: q, k, v, o, gate, up, down; the last prefix layer has only k and v
    assert len(covered) == 6 * config.vision.depth + 7 * (config.prefix.depth - 1) + 2 + 7 * config.expert.depth
    assert not [path for path in covered if "proj" in path or "norm" in path or "time" in path]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_fp32_covers_nothing(preset: str):
    assert not any(FP32.covers(path) for path in linears(preset))


def test_schemes_are_found_by_name():
    assert find_scheme("int8-w8a8") is INT8_W8A8
    with pytest.raises(QuantizationError, match=r"'int3'.*fp32, int8-w8a8"):
        find_scheme("int3")
