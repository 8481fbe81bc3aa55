"""The gate report for people: one self-contained HTML page, verdict first, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from pi0_edge.engine.cpu import CpuEngine
from pi0_edge.pages import html
from pi0_edge.ptq import figures
from pi0_edge.ptq.candidate import Candidate
from pi0_edge.ptq.frame_checks import Inspection
from pi0_edge.ptq.gate import GateReport, JointError


@dataclass(frozen=True)
class ReportPage:
    """The content of the page.

    Attributes:
        gate: The measurements and the verdict.
        scheme: The scheme as data.
        facts: What was judged and on what, as (name, value) in words: checkpoint, engine, frames, size.
        calibration: Where the activation ranges come from, as (name, value); empty where none were needed.
        ranking: Damage to the actions per group of layers, worst first; empty where nothing was scanned.
    """

    gate: GateReport
    scheme: Mapping[str, Any]
    facts: Sequence[tuple[str, str]]
    calibration: Sequence[tuple[str, str]] = ()
    ranking: Sequence[tuple[str, float]] = ()


def facts_about(
    candidate: Candidate, checkpoint: str | Path, inspection: Inspection, draws: int, teacher: str | Path | None = None
) -> tuple[tuple[str, str], ...]:
    """What was judged and on what, as (name, value) in words."""
    policy, report, source = candidate.policy, candidate.report, inspection.fit.source
    before, after = report.bytes_before / 1e6, report.bytes_after / 1e6
    return (
        ("checkpoint", f"{Path(checkpoint).name}, SHA-256 {policy.checkpoint_sha256[:16]}"),
        ("network", f"{policy.engine.config.kind}, {len(report.layers)} layers quantized"),
        ("Euler steps", str(policy.processor.settings.euler_steps)),
        *([] if teacher is None else [("teacher", Path(teacher).name)]),
        ("robot", policy.processor.robot.name),
        ("engine", policy.engine.name),
        *([("instructions", _instructions(policy.engine))] if isinstance(policy.engine, CpuEngine) else []),
        ("weights", f"{after:.4g} MB, {after / before:.0%} of the {before:.4g} MB before"),
        ("held-out frames", f"{inspection.frames} of {f'{source.kind} {source.path}'.strip()}"),
        ("their SHA-256", inspection.sha256[:16]),
        *([("left out of them", "; ".join(inspection.left_out))] if inspection.left_out else []),
        ("cameras", ", ".join(inspection.cameras)),
        ("noise", f"{draws} draws per frame, the same for fp32"),
    )


def _instructions(engine: CpuEngine) -> str:
    """Whether stacks run depends on the processor, and what attention is in with it, so that the page says it."""
    if engine.instructions == "none":
        return "none: layers run one by one, attention is torch's"
    return f"{engine.instructions}, attention in INT8"


def render(page: ReportPage) -> str:
    """The page as HTML; nothing in it refers to anything outside."""
    name = str(page.scheme["name"])
    sections = [
        _banner(page.gate, name),
        html.section("What was judged", html.definitions(page.facts)),
        html.section("Thresholds", _thresholds(page.gate)),
        html.section("How close each chunk is to fp32", _cosines(page.gate)),
        html.section("Beside the teacher", _distribution(page.gate)),
        html.section("Error per joint", _joints(page.gate.joints)),
        html.section("Error along the chunk", _drift(page.gate)),
        html.section("Where the error enters", _inner(page.gate)),
        html.section("Closed loop", _success(page.gate)),
        html.section("Sensitivity", _ranking(page.ranking)),
        html.section("Calibration", html.definitions(page.calibration)),
        html.section("Scheme", _scheme(page.scheme)),
    ]
    passed = "passed" if page.gate.verdict.passed else "failed"
    return html.page(f"{name}: {passed}", "\n".join(section for section in sections if section))


def _banner(gate: GateReport, scheme: str) -> str:
    verdict = gate.verdict
    word, css = ("PASSED", "passed") if verdict.passed else ("FAILED", "failed")
    meaning = "may be served" if verdict.passed else "must not move a robot"
    lead = f"<strong>{escape(scheme)}</strong> {meaning}."
    detail = f"{gate.observations} held-out observations, {gate.draws} noise draws each, against fp32 on the same noise"
    if verdict.passed:
        worst = [finding for finding in verdict.findings if finding.name.startswith("worst")]
        detail += ": " + ", ".join(f"{finding.name} {finding.found:.6f}" for finding in worst)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    listed = f'<ul class="reasons">{reasons}</ul>' if reasons else ""
    return f'<header class="{css}"><h1>{word}</h1><p class="lead">{lead}</p>{listed}<p>{escape(detail)}.</p></header>'


def _thresholds(gate: GateReport) -> str:
    rows = []
    for finding in gate.verdict.findings:
        mark = '<span class="ok">met</span>' if finding.passed else '<span class="miss">missed</span>'
        rows.append((escape(finding.name), _number(finding.found), finding.asked, mark, escape(finding.where)))
    return html.table(("", "found", "asked", "", "where"), rows)


def _cosines(gate: GateReport) -> str:
    text = (
        "One cosine per chunk, of normalized actions. The axis shows the distance from 1 on a logarithmic scale: "
        "one division to the left is ten times closer."
    )
    plots = figures.cosine_histogram(gate.cosine_whole, gate.cosine_executed, gate.verdict.thresholds)
    return f"<p>{text}</p>{plots}"


def _distribution(gate: GateReport) -> str:
    report = gate.distribution
    if report is None:
        return ""
    text = (
        f"{report.draws} chunks per observation beside as many of the teacher, from other noise, over "
        f"{report.observations} observations; the teacher has two modes in {report.two_modes} of them. The last column "
        "is the teacher against itself, from two sets of seeds: what is chance."
    )
    names = {
        "energy": "energy distance, 0 to 1",
        "shift": "shift of the mean chunk, in spreads",
        "spread": "spread, as a share of the teacher's",
        "stray": "stray from the teacher's chunks, in spreads",
        "mode_share": "share of a mode, difference",
        "between": "chunks between two modes, difference",
        "flips": "gripper flips per chunk",
    }
    rows = []
    for name, words in names.items():
        found, chance = getattr(report.candidate, name), getattr(report.itself, name)
        if found is not None:
            rows.append((escape(words), _number(found), _number(chance)))
    return f"<p>{escape(text)}</p>" + html.table(("", "candidate", "teacher"), rows)


def _joints(joints: Sequence[JointError]) -> str:
    if not joints:
        return ""
    largest = max(joint.max for joint in joints) or 1.0

    def bar(joint: JointError) -> str:
        marks = (("third", joint.max), ("second", joint.p99), ("first", joint.p50))
        return "".join(f'<i class="bar {css}" style="width:{100 * value / largest:.2f}%"></i>' for css, value in marks)

    rows = [
        (escape(j.name), _number(j.p50), _number(j.p99), _number(j.max), f'<div class="bars">{bar(j)}</div>')
        for j in joints
    ]
    text = "Absolute difference to fp32 over all actions of all chunks, in the robot's own units."
    return f"<p>{text}</p>" + html.table(("joint", "median", "99th percentile", "largest", ""), rows, wide=4)


def _drift(gate: GateReport) -> str:
    if not gate.drift.rms:
        return ""
    text = "Does the error grow towards the end of the chunk? Over all chunks and joints, in normalized units."
    return f"<p>{text}</p>{figures.drift_plot(gate.drift, gate.verdict.thresholds.executed)}"


def _inner(gate: GateReport) -> str:
    if gate.inner is None:
        return ""
    text = (
        "Relative to fp32. Every Euler step reads the cached keys and values again, so an error in them counts ten "
        "times; an error of the velocity counts once."
    )
    left, right = figures.cache_plot(gate.inner), figures.velocity_plot(gate.inner)
    return f'<p>{text}</p><div class="columns"><div>{left}</div><div>{right}</div></div>'


def _success(gate: GateReport) -> str:
    pairing = gate.success
    if pairing is None:
        return ""
    low, high = pairing.interval
    beside = "fp32" if gate.distribution is None else "the teacher"
    first, second = pairing.both + pairing.only_first, pairing.both + pairing.only_second
    text = (
        f"{pairing.seeds} simulated episodes with the same seeds: {beside} succeeds in {first}, the candidate in "
        f"{second}. That is a difference of {100 * pairing.difference:+.1f} points, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f} (paired, method 10 of Newcombe 1998)."
    )
    cells = [(f"{beside} succeeds", str(pairing.both), str(pairing.only_first))]
    cells.append((f"{beside} fails", str(pairing.only_second), str(pairing.neither)))
    plot = figures.success_plot(pairing.difference, pairing.interval, gate.verdict.thresholds.success_loss)
    return f"<p>{text}</p>" + html.table(("", "candidate succeeds", "candidate fails"), cells) + plot


def _ranking(ranking: Sequence[tuple[str, float]]) -> str:
    if not ranking:
        return ""
    text = (
        "Each group of layers quantized alone, the rest in fp32: mean squared relative error of the actions, "
        "worst first. Small damages of different groups add up."
    )
    return f"<p>{text}</p>{figures.damage_plot(ranking)}"


def _scheme(scheme: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(scheme), sort_keys=False, allow_unicode=True, width=100)
    return f"<p>As data; <code>pi0-edge quantize --scheme FILE.yaml</code> takes it.</p><pre>{escape(text)}</pre>"


def _number(value: float) -> str:
    return f"{value:.6f}" if 0.9 < abs(value) < 1 else f"{value:.4g}"
