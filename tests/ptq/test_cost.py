"""Cost of a layer: which format buys time and which only memory, on the shapes of the published network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.estimation.devices import find_device
from pi0_edge.ptq.cost import DEVICE, LayerWork, milliseconds, weight_bytes
from pi0_edge.quant.formats import BF16, E4M3_CHANNEL, INT4_CHANNEL, INT4_GROUP_64, INT4_TENSOR, INT4_TOKEN, INT8_TOKEN
from pi0_edge.quant.schemes import Rule

ANY = ("*",)
W8A16 = Rule(ANY, activations=BF16)
W8A8 = Rule(ANY, activations=INT8_TOKEN)
FP8 = Rule(ANY, weights=E4M3_CHANNEL, activations=BF16)
INT4 = Rule(ANY, weights=INT4_TENSOR, activations=INT8_TOKEN)
W4A4 = Rule(ANY, weights=INT4_CHANNEL, activations=INT4_TOKEN)
W4A16 = Rule(ANY, weights=INT4_GROUP_64, activations=BF16)
BNB = Rule(ANY, library="bnb-int8")

EXPERT = LayerWork((4096, 1024), (50,) * 10)  # an MLP matrix, once per Euler step
PREFIX = LayerWork((16384, 2048), (816,))  # an MLP matrix of the prefix, three cameras and 48 words


def test_the_euler_loop_streams_weights_so_eight_bits_are_enough():
    untouched = milliseconds(EXPERT, None)
    assert untouched == pytest.approx(10 * 2 * 4096 * 1024 / 173e6)
    assert milliseconds(EXPERT, W8A16) == pytest.approx(10 * (4096 * 1024 + 4 * 4096) / 173e6)  # a scale per channel
    assert milliseconds(EXPERT, W8A8) == milliseconds(EXPERT, W8A16) == milliseconds(EXPERT, FP8)
    per_step = 4096 * 1024 / 2 + 2 * 4096 * 1024 / 64  # a 16-bit scale per group
    assert milliseconds(EXPERT, W4A16) == pytest.approx(10 * per_step / 173e6)


def test_the_prefix_computes_so_only_integer_units_help():
    untouched = milliseconds(PREFIX, None)
    assert untouched == pytest.approx(2 * 816 * 16384 * 2048 / 42.6e9)
    assert milliseconds(PREFIX, W8A16) == milliseconds(PREFIX, FP8) == milliseconds(PREFIX, BNB) == untouched
    assert milliseconds(PREFIX, W8A8) == pytest.approx(untouched / 2)
    assert milliseconds(PREFIX, INT4) == milliseconds(PREFIX, W8A8)  # its activations have 8 bits
    assert milliseconds(PREFIX, W4A4) == pytest.approx(untouched / 4)


def test_each_format_has_the_rate_of_its_unit_on_the_data_sheet():
    sheet = find_device(DEVICE).sheet
    for rule, unit in ((None, "bf16"), (W8A16, "bf16"), (W8A8, "int8"), (INT4, "int8"), (W4A4, "int4")):
        assert milliseconds(PREFIX, rule) == pytest.approx(2 * 816 * 16384 * 2048 / (sheet[unit] * 1e9))


def test_bytes_are_those_of_the_weights_and_their_scales():
    numbers, scale = 4096 * 1024, 4 / 1024
    stored = [weight_bytes(EXPERT, rule) / numbers for rule in (None, W8A16, W8A8, FP8, INT4, W4A16, BNB)]
    assert stored == [2, 1 + scale, 1 + scale, 1 + scale, 0.5 + scale, 0.5 + 2 / 64, 1]
    assert weight_bytes(LayerWork((8, 1), ()), W8A8) == 8 * (1 + 4)


def test_an_embedding_costs_memory_and_no_time():
    embedding = LayerWork((257152, 2048), ())
    assert milliseconds(embedding, None) == 0
    assert weight_bytes(embedding, Rule(ANY)) == 257152 * (2048 + 4)


@given(st.integers(1, 5000), st.integers(4, 5000), st.lists(st.integers(1, 900), max_size=12))
def test_quantizing_never_costs_more(outputs: int, inputs: int, rows: list[int]):
    """From 4 inputs on: the scale of a narrower channel is larger than what its weights save."""
    work = LayerWork((outputs, inputs), tuple(rows))
    for rule in (W8A16, W8A8, FP8, INT4, W4A4, W4A16, BNB):
        assert weight_bytes(work, rule) <= weight_bytes(work, None)
        assert milliseconds(work, rule) <= milliseconds(work, None)
