"""What the run of a whole path tells besides its latencies, in rows that page and summary share."""

from __future__ import annotations

from pi0_edge.bench.report.wording import counted, milliseconds
from pi0_edge.bench.result import PathFigures

TITLE = "The arm"


def path_rows(path: PathFigures) -> list[tuple[str, str]]:
    """Name and text of each figure."""
    arm = "emulated" if path.emulated else "real"
    return [
        ("arm", f"{arm}, {'held still' if path.held else 'moved by the policy'}"),
        ("an observation every", counted(path.replan_ticks, "tick")),
        ("age of the image behind a tick", _tail(path.age_p50_ms, path.age_p99_ms, path.age_max_ms)),
        ("worst age of information", milliseconds(path.age_max_ms)),
        ("lateness of the timer interrupt", _tail(None, path.tick_late_p99_ms, path.tick_late_max_ms)),
        ("starved", counted(path.starved_ticks, "tick")),
        ("a whole tick late", counted(path.missed_ticks, "tick")),
        ("replaced before their first tick", counted(path.not_executed, "chunk")),
        ("uncertainty of the clock", f"at most {milliseconds(path.uncertainty_ms)}"),
    ]


def _tail(median: float | None, p99: float | None, worst: float) -> str:
    told = [] if median is None else [f"p50 {milliseconds(median)}"]
    told.append("p99: too few ticks" if p99 is None else f"p99 {milliseconds(p99)}")
    return ", ".join((*told, f"at most {milliseconds(worst)}"))
