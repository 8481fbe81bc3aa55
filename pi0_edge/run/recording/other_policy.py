"""What another policy would have answered in a recorded run, in the units of the accuracy gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from pi0_edge.errors import EngineError, ObservationError, QuantizationError, RecordingError
from pi0_edge.json_values import to_json_values
from pi0_edge.pages import html
from pi0_edge.policy import Policy
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq import figures
from pi0_edge.ptq.gate import GateReport, compare
from pi0_edge.ptq.trace import Trace
from pi0_edge.ptq.verdict import DEFAULT_THRESHOLDS
from pi0_edge.run.recording.chunk_replay import asked_chunks, why_not_exact
from pi0_edge.run.recording.run_recording import RunRecording


@dataclass(frozen=True)
class ChunkFigures:
    """How far one chunk of the other policy is from the recorded one.

    Attributes:
        number: In the order of the file, from 1.
        tick: Of its observation.
        cosine: Between both chunks, normalized actions.
        largest: Largest difference of an action in the robot's units; NaN where there is no chunk.
        joint: Of that difference.
        refusal: Why the other policy gives no chunk; empty where it gives one.
    """

    number: int
    tick: int
    cosine: float
    largest: float
    joint: str
    refusal: str


@dataclass(frozen=True)
class OtherPolicyReport:
    """The comparison.

    Attributes:
        gate: The figures of the accuracy gate, the recorded chunks as its reference. Its verdict is about these chunks
            alone and does not replace the gate of a bundle.
        chunks: One entry per chunk.
        caveat: Why the observations are not exactly those of the run, in words; empty where they are.
    """

    gate: GateReport
    chunks: tuple[ChunkFigures, ...]
    caveat: str

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        chunks = [to_json_values(vars(chunk)) for chunk in self.chunks]
        return {"gate": self.gate.to_dict(), "chunks": chunks, "caveat": self.caveat}

    def worst(self) -> ChunkFigures:
        """The chunk that is farthest from the recorded one."""
        return min(self.chunks, key=lambda chunk: -1.0 if np.isnan(chunk.cosine) else chunk.cosine)


def compare_other(
    recording: RunRecording, policy: Policy, on_progress: ProgressCallback | None = None
) -> OtherPolicyReport:
    """Asks another policy what the recorded one was asked: the same images, state, prompt, noise and continuation.

    Raises:
        RecordingError: If the policy commands other joints or has another horizon, or the run has no chunk.
    """
    robot, described = policy.processor.robot, recording.description
    if tuple(robot.action_labels) != described.joint_names:
        raise RecordingError(
            f"the other policy commands {', '.join(robot.action_labels)}; the recorded robot "
            f"has {', '.join(described.joint_names)}"
        )
    if not recording.answers:
        raise RecordingError(f"{recording.path} holds no chunk to compare with")
    horizon = recording.answers[0].message.chunk.horizon
    if policy.engine.config.horizon != horizon:
        raise RecordingError(f"the other policy has a horizon of {policy.engine.config.horizon}, the run of {horizon}")
    shape = (len(recording.answers), 1, horizon, robot.action_dim)
    reference, other = (Trace(np.full(shape, np.nan), np.full(shape, np.nan), {}, {}) for _ in range(2))
    stage = Stage("chunks of the other policy", shape[0], on_progress)
    asked = list(asked_chunks(recording))
    for place, one in enumerate(asked):
        reference.physical[place, 0] = one.actions
        normalized = policy.processor.to_normalized(one.actions, one.observation)
        reference.normalized[place, 0] = normalized[:, : shape[-1]]
        try:
            chunk = one.infer(policy)
        except (EngineError, QuantizationError, ObservationError) as reason:
            other.refusals[place, 0] = str(reason)
        else:
            actions = chunk.actions.astype(np.float32)  # as recorded ones are
            other.physical[place, 0] = actions
            other.normalized[place, 0] = policy.processor.to_normalized(actions, one.observation)[:, : shape[-1]]
        stage.advance()
    ticks = [one.asked.message.tick for one in asked]
    names = [f"chunk {one.number} (tick {tick})" for one, tick in zip(asked, ticks, strict=True)]
    gate = compare(reference, other, robot.action_labels, DEFAULT_THRESHOLDS, names)
    return OtherPolicyReport(
        gate, _per_chunk(reference, other, gate, ticks, robot.action_labels), why_not_exact(recording)
    )


def _per_chunk(
    reference: Trace, other: Trace, gate: GateReport, ticks: Sequence[int], names: Sequence[str]
) -> tuple[ChunkFigures, ...]:
    found = []
    for place, tick in enumerate(ticks):
        errors = np.abs(other.physical[place, 0] - reference.physical[place, 0])
        given = bool(np.isfinite(errors).all())
        joint = names[int(errors.max(0).argmax())] if given else ""
        largest = float(errors.max()) if given else float("nan")
        refusal = other.refusals.get((place, 0), "")
        found.append(ChunkFigures(place + 1, tick, gate.cosine_whole[place], largest, joint, refusal))
    return tuple(found)


def comparison_page(report: OtherPolicyReport, recorded: str, other: str) -> str:
    """The figures as one HTML page that refers to nothing outside.

    Args:
        report: The comparison.
        recorded: The recording and its policy, in words.
        other: The other policy, in words.
    """
    gate = report.gate
    worst = report.worst()
    rows = "".join(
        f"<tr><td>{escape(joint.name)}</td><td>{joint.p50:.4g}</td><td>{joint.p99:.4g}</td><td>{joint.max:.4g}</td></tr>"
        for joint in gate.joints
    )
    head = "<tr><th>joint</th><th>median</th><th>99th percentile</th><th>largest</th></tr>"
    drift = figures.drift_plot(gate.drift, gate.verdict.thresholds.executed) if gate.drift.rms else ""
    parts = [
        f"<h1>{escape(other)} in {escape(recorded)}</h1>",
        f"<p>{len(report.chunks)} chunks, asked the same with the same noise. Farthest: chunk {worst.number} of tick "
        f"{worst.tick}, cosine {worst.cosine:.6f}.</p>",
        f"<p>{escape(report.caveat)}</p>" if report.caveat else "",
        "<h2>How close each chunk is to the recorded one</h2>",
        figures.cosine_histogram(gate.cosine_whole, gate.cosine_executed, gate.verdict.thresholds),
        "<h2>Difference per joint, in the robot's own units</h2>",
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>",
        "<h2>Difference along the chunk</h2>",
        drift,
    ]
    return html.page(other, "\n".join(part for part in parts if part))
