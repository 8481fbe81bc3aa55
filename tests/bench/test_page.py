"""The page is whole and needs nothing else, its figures are those of the samples, and no text of others acts."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bench_results
import pytest
from bench_results import bench_result, closed_run, later, paced_run

from pi0_edge.bench.energy import energies_of_run
from pi0_edge.bench.figures import figures_of
from pi0_edge.bench.report.page import DATA_ID, page, write_page
from pi0_edge.bench.report.wording import accuracy_text, percentiles
from pi0_edge.bench.result import BenchResult, parse_result
from pi0_edge.errors import BenchError

VOID = {"meta"}
"""Elements that have no end."""


class Elements(HTMLParser):
    """Every element of a page with its attributes and text, each of which must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag not in ("script", "style"))


@cache
def made(name: str) -> tuple[BenchResult, str]:
    result = bench_results.ALL[name]()
    return result, page(result)


def main_of(html: str) -> ElementTree.Element:
    """The visible part, which is well-formed XML too: every chart in it is."""
    return ElementTree.fromstring(html[html.index("<main>") : html.index("</main>") + len("</main>")])


def data_of(html: str) -> Any:
    found = re.findall(rf'<script type="application/json" id="{DATA_ID}">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def words(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def section(html: str, title: str) -> ElementTree.Element:
    return next(part for part in main_of(html).iter("section") if words(part.find("h2") or part[0]) == title)


@pytest.mark.parametrize("name", bench_results.ALL)
def test_the_page_is_well_formed_and_says_everything(name: str) -> None:
    result, html = made(name)
    elements = Elements(html)
    assert elements.found[0][0] == "html"
    main = main_of(html)
    ids = [element.attrib["id"] for element in main.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    for chart in (element for element in main.iter("svg") if element.get("class") == "chart"):
        assert [child.tag for child in chart][:2] == ["title", "desc"]
        assert set(chart.attrib["aria-labelledby"].split()) <= set(ids)
        assert all((child.text or "").strip() for child in list(chart)[:2])
    told = elements.text()
    policy = result.policy
    for fact in (
        policy.name,
        policy.scheme,
        policy.engine,
        accuracy_text(result),
        "B2 policy",
        *result.verdict.reasons,
    ):
        assert fact in told
    assert "nan" not in re.sub(r"[a-z]{3,}", lambda m: m[0] if m[0] == "nan" else "", told.lower()).split()


@pytest.mark.parametrize("name", bench_results.ALL)
def test_nothing_comes_from_outside(name: str) -> None:
    _, html = made(name)
    assert re.search(r"//\w|www\.", html) is None
    assert re.search(r"url\(|@import|import\(|fetch\(|XMLHttp|WebSocket", html) is None
    elements = Elements(html)
    assert {tag for tag, _ in elements.found} & {"link", "img", "iframe", "object", "embed", "base", "a"} == set()
    attributes = {name for _, attributes in elements.found for name in attributes}
    assert attributes & {"src", "href", "srcset", "style"} == set()
    assert [name for name in attributes if name.startswith("on")] == []


def test_the_policy_of_content_names_the_script_and_the_style() -> None:
    _, html = made("whole")
    allowed = next(str(a["content"]) for tag, a in Elements(html).found if a.get("http-equiv"))
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (*style, *script)]
    assert allowed == f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"


@pytest.mark.parametrize("name", bench_results.ALL)
def test_the_whole_result_is_in_the_page(name: str) -> None:
    result, html = made(name)
    assert data_of(html) == json.loads(json.dumps(result.to_dict()))
    again = parse_result(data_of(html), "the page")
    assert [run.samples.due_ns.tolist() for run in again.runs] == [run.samples.due_ns.tolist() for run in result.runs]
    assert page(again) == html


@pytest.mark.parametrize("name", ["whole", "few", "random"])
def test_every_sample_is_drawn(name: str) -> None:
    result, html = made(name)
    for run in result.runs:
        chart = next(svg for svg in main_of(html).iter("svg") if svg.get("id") == f"timeline-{run.mode}")
        paths = [path for path in chart.iter("path") if path.attrib["class"].startswith("dots")]
        assert sum(path.attrib["d"].count("M") for path in paths) == len(run.samples)
        stalled = sum(path.attrib["d"].count("M") for path in paths if "stall" in path.attrib["class"])
        assert stalled == figures_of(run).stalls


@pytest.mark.parametrize("name", ["whole", "few", "void", "random"])
def test_figures_are_those_of_the_samples(name: str) -> None:
    result, html = made(name)
    table = next(section(html, "Figures").iter("table"))
    rows = {words(row[0]): [words(cell) for cell in row[1:]] for row in table.iter("tr")}
    for place, run in enumerate(result.runs):
        figures = figures_of(run)
        assert rows["chunks"][place] == f"{len(run.samples):,}"
        assert {name: rows[name][place] for name, _ in percentiles(figures.latency)} == dict(
            percentiles(figures.latency)
        )
        assert float(rows["max"][place].split()[0]) == pytest.approx(run.samples.latency_ms.max(), rel=1e-3)
        if figures.latency.p99_ms is None:
            assert rows["p99"][place] == f"not enough: {len(run.samples)} of 459 samples"
        if figures.misses is not None:
            assert rows["missed"][place].startswith(f"{figures.misses.count:,} of {figures.misses.expected:,} ")


@pytest.mark.parametrize("name", bench_results.ALL)
def test_no_speed_stands_without_its_accuracy(name: str) -> None:
    result, html = made(name)
    cards = [element for element in main_of(html).iter("article")]
    assert len(cards) == sum(bool(len(run.samples)) for run in result.runs)
    for card in [*cards, *main_of(html).iter("caption")]:
        assert accuracy_text(result) in words(card)


def test_a_void_result_says_so_before_any_figure() -> None:
    result, html = made("void")
    told = Elements(html[html.index("<main>") : html.index("</main>") + len("</main>")]).text()
    assert told.index("VOID") < told.index(" ms")
    for reason in result.verdict.reasons:
        assert told.index(reason) < told.index(" ms")
    assert all(words(card).count("void") == 1 for card in main_of(html).iter("article"))
    assert "VOID" not in made("whole")[1]


def test_stalls_and_what_they_cost_are_told() -> None:
    result, html = made("whole")
    figures = figures_of(result.runs[0])
    told = words(section(html, "Every chunk"))
    assert f"{figures.stalls} of 1,200 chunks stalled" in told
    assert f"would have missed {figures.would_miss} periods" in told


def test_every_miss_is_listed_or_counted() -> None:
    run = paced_run(400, dict.fromkeys(range(5, 400, 10), 30.0))
    html = page(bench_result([run]))
    part = section(html, "Misses")
    rows = list(part.iter("tr"))[1:]
    moments = int(((run.samples.skipped > 0) | (run.samples.latency_ms > 100)).sum())
    assert moments == 80 and len(rows) == 25
    assert f"{moments - len(rows)} more are in the data" in words(part)
    assert words(rows[0]) == f"{(run.samples.due_ns[5] - run.samples.due_ns[0]) * 1e-9:.3f} s 5 {words(rows[0][2])} yes"
    assert words(rows[1]).split()[-1] == "1", "the period that the chunk before took"


def test_a_board_without_sensors_says_so_in_words() -> None:
    told = words(section(made("random")[1], "Power, temperature and clocks"))
    assert "no power rails" in told and "no temperatures" in told and "no clocks" in told
    whole = section(made("whole")[1], "Power, temperature and clocks")
    assert [svg.get("id") for svg in whole.iter("svg") if svg.get("class") == "chart"] == [
        "board-rails-mw",
        "board-temperatures-c",
        "board-clocks-mhz",
    ]
    assert {"VDD_GPU_SOC", "tj", "memory"} <= {(text.text or "") for text in whole.iter("text")}


def test_energy_is_told_by_groups_of_rails() -> None:
    result, html = made("whole")
    told = words(section(html, "Power, temperature and clocks"))
    energies = [energy for run in result.runs for energy in energies_of_run(result, run)]
    assert {energy.group for energy in energies} == {"compute", "module"}
    for energy in energies:
        assert f"{energy.mean_w:.3g} W {energy.per_chunk_j:.3g} J {energy.per_action_j:.3g} J" in told
    assert "Energy" not in words(section(made("random")[1], "Power, temperature and clocks"))


def test_throttling_is_marked_where_it_was() -> None:
    assert 'class="band throttled"' not in made("whole")[1]
    found = made("void")[1]
    assert found.count('class="band throttled"') == 3 * 6, "six readings in each of three charts"
    assert "The board throttled" in found


def test_what_is_missing_is_said() -> None:
    told = Elements(made("empty")[1]).text()
    assert "No chunk was timed" in told and "The board was not read" in told and "No chunk was made to warm up" in told
    random = Elements(made("random")[1]).text()
    assert "This engine tells no stages" in random and "single steps are not known" in random


def test_the_command_can_be_copied() -> None:
    command = "".join(section(made("whole")[1], "Make it again").find("pre").itertext())  # pyright: ignore
    assert command == "pi0-edge bench --bundle 'bundles/fold towel' --boundary policy --minutes 4"


HOSTILE = "\"'></title></script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\x00\x1b[2J\u202e\ud800\n]]>"


def poisoned(value: Any) -> Any:
    """The same with something hostile in every text, names included."""
    if isinstance(value, str):
        return value + HOSTILE
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: poisoned(getattr(value, name)) for name in names})
    if isinstance(value, Mapping):
        return {key + HOSTILE: poisoned(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(item) for item in value)
    return value


@pytest.mark.parametrize("name", ["void", "random", "empty"])
def test_no_text_of_others_acts(name: str) -> None:
    clean, html = made(name)
    result = poisoned(clean)
    assert all(HOSTILE in text for text in (result.policy.name, result.boundary, *result.software))
    poisoned_html = page(result)
    poisoned_html.encode()
    before, after = Elements(html), Elements(poisoned_html)
    kinds = {tag for tag, _ in before.found}
    assert {tag for tag, _ in after.found} <= kinds | {"details", "summary"}
    assert sum(tag == "script" for tag, _ in after.found) == 2
    assert not {"src", "onerror", "href", "style"} & {key for _, attributes in after.found for key in attributes}
    main_of(poisoned_html)
    visible = after.text()
    assert "<script>alert(1)</script>" in visible, "it is shown as it is"
    assert all(letter.isprintable() or letter == "\n" for letter in visible)
    assert data_of(poisoned_html) == json.loads(json.dumps(result.to_dict())), "the data is as it was"


def test_two_pages_of_a_result_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_page(bench_result(), tmp_path / f"{name}.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.html", "two.html"]


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be written"):
        write_page(bench_results.empty_result(), tmp_path / "missing" / "page.html")


def test_odd_samples_have_a_page() -> None:
    """One chunk; chunks of no time; chunks that are all the same; one that took a minute."""
    one, none = closed_run(1), closed_run(50)
    none = dataclasses.replace(none, samples=dataclasses.replace(none.samples, end_ns=none.samples.due_ns))
    same = dataclasses.replace(none, samples=dataclasses.replace(none.samples, end_ns=none.samples.due_ns + 10**7))
    for run in (one, none, same, closed_run(60, {30: 60_000.0}), later(paced_run(3), 5)):
        html = page(bench_result([run]))
        main_of(html)
        assert "Every chunk" in html


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium to run the script of the page")
def test_a_browser_runs_the_script_and_nothing_else(tmp_path: Path) -> None:
    write_page(poisoned(bench_results.few_samples()), tmp_path / "page.html")
    argv = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    argv += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "CONSOLE" not in ran.stderr, "neither an error nor something that the policy of content refused"
    assert re.search(r'<button type="button" id="save">', ran.stdout), "the script has shown the button"
    assert 'class="tip"' in ran.stdout
