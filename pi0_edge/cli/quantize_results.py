"""What `pi0-edge quantize` leaves behind: the report page, the bundle, and what it says on the terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pi0_edge.bundle import write_bundle
from pi0_edge.cli.output import Output
from pi0_edge.ptq.calibration import Calibration
from pi0_edge.ptq.candidate import Candidate
from pi0_edge.ptq.frame_checks import Inspection
from pi0_edge.ptq.frames import Frames
from pi0_edge.ptq.gate import GateReport
from pi0_edge.ptq.mix_search import Choice, ranked
from pi0_edge.ptq.report import ReportPage, render

Facts = list[tuple[str, str]]
SHOWN_GROUPS = 15


def facts_of(candidate: Candidate, checkpoint: Path, frames: Frames, inspected: Inspection, draws: int) -> Facts:
    """What was judged and on what, in words."""
    policy, report, source = candidate.policy, candidate.report, frames.source
    network = policy.engine.config
    before, after = report.bytes_before / 1e6, report.bytes_after / 1e6
    return [
        ("checkpoint", f"{checkpoint.name}, SHA-256 {policy.checkpoint_sha256[:16]}"),
        ("network", f"{network.variant}, {len(report.layers)} layers quantized"),
        ("robot", policy.processor.robot.name),
        ("engine", policy.engine.name),
        ("weights", f"{after:.4g} MB, {after / before:.0%} of the {before:.4g} MB before"),
        ("held-out frames", f"{inspected.frames} of {f'{source.kind} {source.path}'.strip()}"),
        ("their SHA-256", inspected.sha256[:16]),
        ("cameras", ", ".join(inspected.cameras)),
        ("noise", f"{draws} draws per frame, the same for fp32"),
    ]


def page_of(
    gate: GateReport,
    candidate: Candidate,
    facts: Facts,
    calibration: Calibration | None,
    ranking: Sequence[Choice],
) -> str:
    """The gate report as HTML."""
    source = {} if calibration is None else calibration.source.to_dict()
    described = [(name, str(value)) for name, value in source.items() if value not in ("", None)]
    damages = [(f"{choice.group} · {choice.level}", choice.damage) for choice in ranking]
    return render(ReportPage(gate, candidate.scheme.to_dict(), facts, described, damages))


def bundle(
    folder: Path,
    candidate: Candidate,
    gate: GateReport,
    html: str,
    calibration: Calibration | None,
    private_key: Path | None,
    replace: bool,
) -> None:
    """Writes the bundle, whatever the verdict.

    Raises:
        BundleError: If the folder is taken, or cannot be written.
    """
    policy = candidate.policy
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "gate_report.html"
        report.write_text(html)
        write_bundle(
            folder,
            state=candidate.state,
            config=policy.engine.config,
            scheme=candidate.scheme,
            processing=policy.processor.description(),
            source_sha256=policy.checkpoint_sha256,
            gate=gate.to_dict(),
            report_html=report,
            calibration=None if calibration is None else calibration.source.to_dict(),
            private_key=private_key,
            replace=replace,
        )


def show(speak: Output, scheme: str, gate: GateReport, ranking: Sequence[Choice]) -> None:
    """Tables of thresholds, joints and, where it was scanned, of the most sensitive layers."""
    if ranking:
        rows = [(choice.group, choice.level, choice.damage) for choice in ranking[:SHOWN_GROUPS]]
        title = f"the {len(rows)} of {len(ranking)} choices that damage the actions most"
        speak.table(title, ("layers", "as in", "mean squared relative error"), rows)
    rows = [(f.name, f.found, f.limit, "met" if f.passed else "MISSED", f.where) for f in gate.verdict.findings]
    speak.table(f"{scheme} against fp32", ("", "found", "at least", "", "where"), rows)
    joints = [(joint.name, joint.p50, joint.p99, joint.max) for joint in gate.joints]
    speak.table("error per joint, in the robot's own units", ("joint", "median", "99 %", "largest"), joints)
    if gate.success is not None:
        low, high = gate.success.interval
        speak.say(
            f"closed loop, {gate.success.seeds} seeds: success differs from fp32 by {gate.success.difference:+.1%}, "
            f"95 % interval {low:+.1%} to {high:+.1%}"
        )


def conclude(speak: Output, scheme: str, gate: GateReport, folder: Path | None, report: Path | None) -> None:
    """The verdict, last and plain."""
    if report is not None:
        speak.say(f"report: {report}")
    if folder is not None:
        speak.say(f"bundle: {folder}")
    if gate.verdict.passed:
        speak.say(f"PASS: {scheme} may be served")
        return
    for reason in gate.verdict.reasons:
        speak.say(f"- {reason}")
    refused = "" if folder is None else "; the bundle is refused unless --accept-failed-gate is given"
    speak.say(f"FAIL: {scheme} must not move a robot{refused}")


def ranking_of(choices: Sequence[Choice], untouched: str) -> list[Choice]:
    """What was quantized, worst first."""
    return [choice for choice in ranked(choices) if choice.level != untouched]
