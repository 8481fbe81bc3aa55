"""The report page: self-contained, complete, well-formed, the same bytes for the same numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.evaluation.statistics import Pairing
from pi0_edge.pages.svg import linear_axis, log_axis
from pi0_edge.ptq.gate import GateReport, InnerError, compare
from pi0_edge.ptq.report import ReportPage, _instructions, render
from pi0_edge.ptq.trace import Trace
from pi0_edge.ptq.verdict import Thresholds

SECTIONS = ["What was judged", "Thresholds", "How close each chunk is to fp32", "Error per joint"]
SECTIONS += ["Error along the chunk", "Where the error enters", "Closed loop", "Sensitivity", "Calibration", "Scheme"]
VOID = {"meta", "line", "rect", "polyline", "circle"}


class Page(HTMLParser):
    """Tags, attributes and text, with a check that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID or tag in ("rect", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def measured(noise: float = 1e-3) -> GateReport:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(8, 3, 50, 6))
    candidate = reference + noise * rng.normal(size=reference.shape)
    made = [Trace(actions, actions, {}, {}) for actions in (reference, candidate)]
    report = compare(made[0], made[1], [f"joint_{k}" for k in range(6)], Thresholds(), success=Pairing(95, 2, 1, 2))
    return replace(report, inner=InnerError((0.01, 0.02), (0.03, 0.01), tuple(0.01 * k for k in range(10))))


def page(gate: GateReport) -> ReportPage:
    scheme = {"name": "mix", "purpose": "a test", "rules": [{"layers": ["*.mlp.*"], "weights": "int8"}]}
    ranking = [("vision.layers.0.mlp", 1e-4), ("prefix.layers.3.qkv", 2e-6)]
    return ReportPage(gate, scheme, [("checkpoint", "cube")], [("frames", "32")], ranking)


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        ("AVX512_VNNI", "AVX512_VNNI, attention in INT8"),
        ("AVX2", "AVX2, attention in INT8"),
        ("none", "none: layers run one by one, attention is torch's"),
    ],
)
def test_the_page_says_in_what_attention_was_judged(instructions: str, words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CpuEngine, "instructions", instructions)
    assert _instructions(CpuEngine.__new__(CpuEngine)) == words


def test_the_page_holds_every_section_and_figure():
    html = render(page(measured()))
    parsed = Page(html)
    assert parsed.texts["h1"] == ["PASSED"]
    assert parsed.texts["h2"] == SECTIONS
    labels = [value for tag, name, value in parsed.attributes if (tag, name) == ("svg", "aria-label")]
    assert labels == [
        "Histogram of the cosine of the whole chunk",
        "Histogram of the cosine of the first 25 actions",
        "Error along the chunk",
        "Error of the keys and values per layer",
        "Error of the velocity per Euler step",
        "Difference in closed-loop success",
    ]
    assert {"joint_0", "joint_5", "vision.layers.0.mlp"} <= set(parsed.texts["td"])
    assert "name: mix" in parsed.texts["pre"][0]


def test_the_page_refers_to_nothing_outside():
    html = render(page(measured()))
    parsed = Page(html)
    assert not [found for found in parsed.attributes if found[1] in ("src", "href", "srcset", "data", "action")]
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe|<img", html)


def test_every_figure_is_well_formed_and_stays_inside_its_frame():
    for svg in re.findall(r"<svg.*?</svg>", render(page(measured(0.3))), re.DOTALL):
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for mark in root.iter():
            for name, limit in (("x", width), ("x1", width), ("cx", width), ("y", height), ("y1", height)):
                assert 0 <= float(mark.attrib.get(name, 0)) <= limit, ElementTree.tostring(mark)


def test_the_same_numbers_give_the_same_bytes():
    assert render(page(measured())) == render(page(measured()))


def test_the_page_of_a_failed_gate_begins_with_the_reasons():
    gate = measured(0.3)
    html = render(page(gate))
    parsed = Page(html)
    assert parsed.texts["h1"] == ["FAILED"]
    assert parsed.texts["li"] == list(gate.verdict.reasons)
    assert html.index("FAILED") < html.index("What was judged")
    assert "must not move a robot" in html


def test_sections_without_measurements_are_left_out():
    gate = replace(measured(), inner=None, success=None)
    html = render(ReportPage(gate, {"name": "int8"}, [("checkpoint", "cube")]))
    absent = {"Where the error enters", "Closed loop", "Sensitivity", "Calibration"}
    assert Page(html).texts["h2"] == [title for title in SECTIONS if title not in absent]


def test_a_candidate_without_any_chunk_still_gets_a_page():
    reference = np.random.default_rng(0).normal(size=(8, 3, 50, 6))
    nothing = np.full_like(reference, np.nan)
    refused = {(place, draw): "activations are NaN" for place in range(8) for draw in range(3)}
    made = Trace(reference, reference, {}, {}), Trace(nothing, nothing, {}, refused)
    gate = compare(made[0], made[1], list("abcdef"), Thresholds())
    parsed = Page(render(ReportPage(gate, {"name": "int4"}, [])))
    assert parsed.texts["h1"] == ["FAILED"]


def test_names_are_text_and_never_markup():
    hostile = "<script>alert('x')</script>"
    html = render(ReportPage(measured(), {"name": hostile}, [(hostile, hostile)], [(hostile, "&")], [(hostile, 1.0)]))
    Page(html)
    assert "<script" not in html


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e3), st.integers(1, 12))
def test_linear_axes_cover_their_values_with_round_ticks(low: float, span: float, count: int):
    axis = linear_axis("", low, low + span, count)
    slack = 1e-6 * (abs(low) + span)
    assert axis.low <= low + slack and axis.high >= low + span - slack
    assert 2 <= len(axis.ticks) <= 2.5 * count + 3


@given(st.floats(1e-9, 1e3), st.floats(1, 1e6))
def test_logarithmic_axes_cover_their_values_with_whole_decades(low: float, factor: float):
    axis = log_axis("", low, low * factor)
    assert axis.low <= low * 1.0001 and axis.high >= low * factor * 0.9999
    assert axis.fraction(axis.low) == 0 and axis.fraction(axis.high) == pytest.approx(1)
