"""Axes have ticks that a person would choose, words do not lie on each other, and no mark is lost."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.bench.report.charts import Axis, Chart, linear_axis, log_axis, nice_step, spread, tick_label

NARROW, LETTER = 230, 6.3
"""Width of a chart on a telephone and of a letter, as the charts assume them."""

spans = st.floats(1e-4, 1e6)
lows = st.floats(-1e5, 1e5)
counts = st.integers(2, 12)


@given(span=spans, count=counts)
def test_a_step_is_1_2_or_5_times_a_power_of_ten_and_the_finest_of_them(span: float, count: int) -> None:
    step = nice_step(span, count)
    power = 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(step / power - factor) for factor in (1, 2, 5)) < 1e-6
    assert span / step <= count * (1 + 1e-6)
    assert span / step > count / 2.6, "a finer step would do"


@given(low=lows, span=spans, count=counts, to_ticks=st.booleans())
def test_a_linear_axis_holds_its_values_between_even_ticks(low: float, span: float, count: int, to_ticks: bool) -> None:
    axis = linear_axis("ms", low, low + span, count, to_ticks)
    values = [value for value, _ in axis.ticks]
    assert axis.low <= low + span * 1e-6 and axis.high >= low + span * (1 - 1e-6)
    steps = [b - a for a, b in pairwise(values)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) and step > 0 for step in steps)
    assert len(values) <= count + 2
    if to_ticks:
        assert len(values) >= 2 and (values[0], values[-1]) == (axis.low, axis.high)
    assert len({label for _, label in axis.ticks}) == len(values)
    assert all(0 <= axis.fraction(value) <= 1 for value in (low, low + span, *values))


@given(value=st.floats(-1e6, 1e6))
def test_an_axis_of_one_value_has_room_around_it(value: float) -> None:
    axis = linear_axis("ms", value, value)
    assert axis.low < axis.high
    assert axis.low + axis.fraction(value) * (axis.high - axis.low) == pytest.approx(value, rel=1e-6)
    assert len(axis.ticks) >= 2


@given(low=st.floats(1e-4, 1e4), ratio=st.floats(1, 1e7), count=st.integers(3, 9))
def test_a_logarithmic_axis_has_a_few_round_ticks_inside(low: float, ratio: float, count: int) -> None:
    axis = log_axis("ms", low, low * ratio, count)
    values = [value for value, _ in axis.ticks]
    assert 2 <= len(values) <= count
    assert values == sorted(values) and axis.low <= values[0] and values[-1] <= axis.high
    assert axis.low <= low and low * ratio <= axis.high
    assert len({label for _, label in axis.ticks}) == len(values)


@given(low=st.floats(0.1, 10), step=st.floats(1.1, 10))
def test_equal_ratios_take_equal_space(low: float, step: float) -> None:
    axis = log_axis("ms", low, low * step**3)
    first, second, third = (axis.fraction(low * step**k) for k in range(3))
    assert second - first == pytest.approx(third - second)


def test_counts_have_no_ticks_between_them() -> None:
    assert [label for _, label in linear_axis("chunks", 0, 1, 4, whole=True).ticks] == ["0", "1"]


@pytest.mark.parametrize(
    ("value", "step", "label"),
    [
        (0.25, 0.05, "0.25"),
        (0.3, 0.1, "0.3"),
        (12000, 2000, "12,000"),
        (0, 5, "0"),
        (-5, 5, "-5"),
        (1e-9, 1e-9, "1e-09"),
    ],
)
def test_a_label_has_as_many_decimals_as_its_step_needs(value: float, step: float, label: str) -> None:
    assert tick_label(value, step) == label


@given(wanted=st.lists(st.floats(0, 150), max_size=9).map(sorted))
def test_words_beside_a_chart_stay_apart_in_their_order_and_inside(wanted: list[float]) -> None:
    places = spread(wanted, 13, 0, 150)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(places))
    assert all(-1e-9 <= place <= 150 for place in places)
    if all(b - a >= 13 for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted), "where nothing is in the way nothing moves"


flags = st.lists(st.tuples(st.floats(0, 100), st.text("abc 0123.", min_size=1, max_size=20)), max_size=7)


@given(flags=flags)
def test_words_above_a_chart_do_not_overlap_on_a_telephone(flags: list[tuple[float, str]]) -> None:
    chart = empty_chart()
    for x, text in flags:
        chart.flag(x, text)
    rows: dict[str, list[tuple[float, float]]] = {}
    words = [element for element in parsed(chart).iter("text") if element.get("class") == "word flag-word"]
    assert sorted(word.text or "" for word in words) == sorted(text for _, text in flags)
    for word in words:
        x = float(word.attrib["x"].rstrip("%")) / 100 * NARROW
        width = len(word.text or "") * LETTER
        extent = (x - width, x) if word.get("text-anchor") == "end" else (x, x + width)
        rows.setdefault(word.attrib["y"], []).append(extent)
    for extents in rows.values():
        assert all(b[0] >= a[1] for a, b in pairwise(sorted(extents)))


def empty_chart(title: str = "title", text: str = "text") -> Chart:
    x, y = linear_axis("s", 0, 100, to_ticks=False), linear_axis("ms", 0, 100)
    return Chart("name", title, text, x, y)


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg())


def test_a_screen_reader_is_told_what_a_chart_shows() -> None:
    svg = parsed(empty_chart('Latency <of> "every" chunk & more', "from 1 to 2")).find("svg")
    assert svg is not None and svg.get("role") == "img"
    told = {element.get("id"): element.text for element in svg if element.tag in ("title", "desc")}
    assert [told[name] for name in svg.attrib["aria-labelledby"].split()] == [
        'Latency <of> "every" chunk & more',
        "from 1 to 2",
    ]


@given(points=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=50))
def test_every_dot_is_drawn(points: list[tuple[float, float]]) -> None:
    chart = empty_chart()
    chart.dots(points, "closed")
    (path,) = parsed(chart).iter("path")
    drawn = re.findall(r"M([\d.]+) ([\d.]+)h0", path.attrib["d"])
    expected = [(x * 10, chart.height - y / 100 * chart.height) for x, y in points]
    assert [tuple(map(float, place)) for place in drawn] == [pytest.approx(place, abs=0.06) for place in expected]


@given(heights=st.lists(st.floats(0, 100), min_size=2, max_size=200))
def test_steps_reach_every_height(heights: list[float]) -> None:
    chart = empty_chart()
    chart.steps([(100 * k / len(heights), height) for k, height in enumerate(heights)], "closed")
    (path,) = parsed(chart).iter("path")
    reached = {float(height) for height in re.findall(r"(?:V|M[\d.]+ )([\d.]+)", path.attrib["d"])}
    for height in heights:
        assert min(abs(chart.height * (1 - height / 100) - place) for place in reached) <= 0.06


def test_a_bar_of_one_among_thousands_is_seen() -> None:
    chart = Chart("name", "title", "text", linear_axis("ms", 0, 10), linear_axis("chunks", 0, 100_000))
    chart.bar(0, 1, 0, 1, "closed", "1 chunk <here>")
    (bar,) = parsed(chart).iter("rect")
    assert float(bar.attrib["height"]) >= 2
    assert [title.text for title in bar] == ["1 chunk <here>"]


def test_what_is_no_number_does_not_break_a_chart() -> None:
    axis = Axis("ms", 1.0, 10.0, ((1.0, "1"),), log=True)
    assert [axis.fraction(value) for value in (math.nan, math.inf, -math.inf, 0.0)] == [0.0, 1.0, 0.0, 0.0]
