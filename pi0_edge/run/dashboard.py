"""What a person sees while a run is under way: one screen of the terminal, drawn anew eight times a second."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from firmware_bridge.client import Tick
from firmware_bridge.robot import RobotJoints
from pi0_edge.protos.serial_link import RING_DEPTH, Fault, JointFlag, State
from pi0_edge.run.figures import RunFigures
from pi0_edge.run.keyboard import HELP, RunKeys
from pi0_edge.run.life_cycle import Phase
from pi0_edge.run.metrics import camera_health

if TYPE_CHECKING:
    from pi0_edge.run.robot_run import RobotRun

DRAWN_PER_S = 8
BAR_WIDTH = 16

_HEAD_ROWS = 5
_FIGURE_ROWS = 8
_LEAST_EVENTS, _MOST_EVENTS = 3, 12

_PHASE_STYLES = {
    Phase.CHECKING: "bold black on white",
    Phase.PLAYING: "bold black on green",
    Phase.PAUSED: "bold black on yellow",
    Phase.HOLDING: "bold black on yellow",
    Phase.TAKEN_OVER: "bold white on blue",
    Phase.ENDED: "bold white on red",
}
_STATE_STYLES = {State.SAFE: "bold red", State.ESTOP: "bold white on red", State.STARVED: "yellow"}
_JOINT_COLUMNS = ("", "joint", "commanded", "measured", "difference", "within its limits", "current", "age", "")
_NUMBERS = {"commanded": 10, "measured": 10, "difference": 10, "current": 8, "age": 7}
"""Columns of numbers, and how wide they are at least, so that the table does not jump."""
_WRONG = "bold red"


class Dashboard:
    """Draws one run."""

    def __init__(self, run: RobotRun, figures: RunFigures, keys: RunKeys, console: Console) -> None:
        """Takes what it shows, and where."""
        self._console = console
        self._run = run
        self._figures = figures
        self._keys = keys

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Takes over the terminal while the context lasts; warnings of the log become events."""
        handlers: list[logging.Handler] = [_WarningsBecomeEvents(self._run)]
        root = logging.getLogger()
        before, root.handlers = root.handlers, handlers
        try:
            with Live(get_renderable=self.draw, console=self._console, screen=True, refresh_per_second=DRAWN_PER_S):
                yield
        finally:
            root.handlers = before

    def draw(self) -> RenderableType:
        """The screen as it is now; where the terminal is low, the table of joints is cut."""
        head, foot = self._head(), self._foot()
        spare = self._console.height - _HEAD_ROWS - _FIGURE_ROWS - (self._run.joints.count + 3) - 1
        events = min(max(spare - 2, _LEAST_EVENTS), _MOST_EVENTS)
        layout = Layout()
        layout.split_column(
            Layout(head, size=_HEAD_ROWS),
            Layout(name="figures", size=_FIGURE_ROWS),
            Layout(self._joints(), size=self._run.joints.count + 3 if spare > _LEAST_EVENTS else None),
            Layout(self._events(events), size=events + 2),
            Layout(foot, size=1),
        )
        layout["figures"].split_row(Layout(self._chunks()), Layout(self._cameras()))
        return layout

    def _head(self) -> RenderableType:
        run, tick = self._run, self._figures.tick
        line = Text(f" {run.life.phase.value.upper()} ", style=_PHASE_STYLES[run.life.phase])
        line.append(f"  {run.robot.name}", style="bold default on default")
        if tick is not None:
            line.append("   arm ", style="default on default")
            line.append(tick.state.name, style=_STATE_STYLES.get(tick.state, "green on default"))
            faults = ", ".join(fault.name or "" for fault in Fault if tick.faults & fault)
            line.append(f" {faults} {tick.fault_joint}" if faults else "", style=_WRONG)
        line.append(f"   {_time(run.played_s, run.seconds)}", style="default on default")
        line.append(f"   {run.life.reason}", style="default on default")
        line.truncate(self._console.width - 4, overflow="ellipsis")
        lines = [line, Text.assemble(("prompt  ", "dim"), run.prompt or "–")]
        if overrides := run.overrides:
            lines.append(Text(f" overridden: {', '.join(overrides)} ", style="bold white on red"))
        return Panel(Group(*lines), title="pi0-edge run", title_align="left", border_style="dim")

    def _joints(self) -> RenderableType:
        table = Table(expand=True, box=None, pad_edge=False, header_style="dim")
        for name in _JOINT_COLUMNS:
            width = _NUMBERS.get(name)
            table.add_column(name, justify="left" if width is None else "right", no_wrap=True, min_width=width)
        tick, joints = self._figures.tick, self._run.joints
        if tick is not None:
            jogging = self._run.life.phase is Phase.TAKEN_OVER and self._keys.leader is None
            for place, name in enumerate(joints.names):
                chosen = jogging and place == self._keys.jog.selected
                table.add_row(
                    "►" if chosen else " ", name, *_joint_cells(tick, joints, place), style="bold" if chosen else ""
                )
        return Panel(table, title="joints", title_align="left", border_style="dim")

    def _chunks(self) -> RenderableType:
        figures, tick = self._figures, self._figures.tick
        table = Table.grid(padding=(0, 2))
        chunk, network = figures.to_chunk_ms(), figures.infer_ms()
        age = figures.age(self._run.tick_period_s)
        table.add_row("observation to chunk", f"{chunk[0]:.0f} / {chunk[1]:.0f} ms", "[dim]p50 / p99[/]")
        table.add_row("network", f"{network[0]:.0f} / {network[1]:.0f} ms", "[dim]p50 / p99[/]")
        table.add_row("age of information", f"{1e3 * age.p50_s:.0f} / {1e3 * age.p99_s:.0f} ms", "[dim]p50 / p99[/]")
        level = 0 if tick is None else tick.ring_level
        table.add_row("ring of setpoints", f"{level} ticks", _bar(level / RING_DEPTH, 12))
        outcomes = ", ".join(f"{count} {name.lower()}" for name, count in sorted(figures.outcomes.items()))
        table.add_row("chunks", outcomes or "–", "")
        return Panel(table, title=self._run.policy_name, title_align="left", border_style="dim")

    def _cameras(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, health in camera_health(self._run).items():
            age = "–" if health.age_s is None else f"{1e3 * health.age_s:.0f} ms"
            size = "" if health.width is None else f"{health.width}×{health.height}"
            fault = "" if health.fault is None else Text(f"{health.fault.kind}: {health.fault.message}", style=_WRONG)
            table.add_row(name, f"{health.rate_hz:.1f}/s", f"age {age}", size, f"{health.dropped} lost", fault)
        return Panel(table, title="cameras", title_align="left", border_style="dim")

    def _events(self, count: int) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic_ns()
        for event in list(self._figures.events)[-count:]:
            ago = f"{(now - event.time_ns) * 1e-9:.0f} s ago"
            table.add_row(Text(ago, style="dim", justify="right"), Text(event.name, style="bold"), Text(event.text))
        return Panel(table, title="events", title_align="left", border_style="dim")

    def _foot(self) -> RenderableType:
        if self._keys.editing:
            return Text.assemble((f" {self._keys.editing}: ", "bold black on white"), f" {self._keys.text}▏")
        if self._keys.said:
            return Text(self._keys.said, style=_WRONG)
        taken_over = self._run.life.phase is Phase.TAKEN_OVER
        return Text(self._keys.help_while_leading if taken_over else HELP, style="dim")


class _WarningsBecomeEvents(logging.Handler):
    """The screen is drawn over; what the log would have printed there is shown among the events."""

    def __init__(self, run: RobotRun) -> None:
        super().__init__(logging.WARNING)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        self._run.note("warning", record.getMessage())


def _joint_cells(tick: Tick, joints: RobotJoints, place: int) -> list[RenderableType]:
    """Everything about one joint but its name."""
    commanded, measured = float(tick.executed[place]), float(tick.measured[place])
    share = (measured - joints.lower[place]) / (joints.upper[place] - joints.lower[place])
    flags = JointFlag(int(tick.joint_flags[place]))
    if not flags & JointFlag.MEASURED:
        unknown = Text("–", style="dim")
        return [
            _position(commanded),
            unknown,
            unknown,
            _marker(float(share)),
            unknown,
            unknown,
            Text("not measured", style="dim"),
        ]
    errors = [
        flag.name or "" for flag in JointFlag if flags & flag and flag not in (JointFlag.MEASURED, JointFlag.TORQUE)
    ]
    if not flags & JointFlag.TORQUE:
        errors.insert(0, "no torque")
    return [
        _position(commanded),
        _position(measured),
        f"{round(commanded - measured, 3) + 0.0:+.3f}",
        _marker(float(share)),
        f"{float(tick.current[place]):.2f} A",
        f"{1e3 * float(tick.measurement_age_s[place]):.0f} ms",
        Text(", ".join(errors), style=_WRONG),
    ]


def _position(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no minus before a zero


def _marker(share: float) -> Text:
    """Where a position lies between its limits."""
    place = int(np.clip(share, 0, 1) * (BAR_WIDTH - 1) + 0.5)
    style = "yellow" if share < 0.02 or share > 0.98 else "green"
    return Text.assemble(("─" * place, "dim"), ("●", style), ("─" * (BAR_WIDTH - 1 - place), "dim"))


def _bar(share: float, width: int) -> Text:
    full = int(np.clip(share, 0, 1) * width + 0.5)
    return Text.assemble(("█" * full, "green"), ("░" * (width - full), "dim"))


def _time(played_s: float, seconds: float | None) -> str:
    return f"{played_s:.0f} s" if seconds is None else f"{played_s:.0f} of {seconds:.0f} s"
