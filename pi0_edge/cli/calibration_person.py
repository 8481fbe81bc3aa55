"""The person who moves the arm, in a terminal or through lines on standard input."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from rich.live import Live
from rich.table import Table

from firmware_bridge.errors import BridgeError, CalibrationError
from pi0_edge.cli.output import Output
from pi0_edge.run.calibration.procedure import JointRange, Step

_REFRESH_S = 0.1


class EnteringPerson:
    """Presses Enter when a step is done; without a terminal, a line of standard input says so."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._at_terminal = sys.stdin.isatty()

    def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
        """Shows the step and waits for Enter, meanwhile with the ranges in a table that follows the arm.

        Raises:
            CalibrationError: Standard input ends.
        """
        self._output.print(f"\n{step.text}\nThen press Enter.")
        if ranges is None or not self._output.console.is_terminal:
            _read_line()
        else:
            self._read_line_beside(ranges)

    def try_again(self, problem: str) -> bool:
        """Says what went wrong; at a terminal the step is repeated, Ctrl-C ends the calibration."""
        if self._at_terminal:
            self._output.print(f"Not yet: {problem}. Once more, or Ctrl-C to give up.")
        return self._at_terminal

    def _read_line_beside(self, ranges: Callable[[], Sequence[JointRange]]) -> None:
        ended: list[CalibrationError] = []

        def read() -> None:
            try:
                _read_line()
            except CalibrationError as error:
                ended.append(error)

        reader = threading.Thread(target=read, name="standard-input", daemon=True)
        reader.start()
        with Live(console=self._output.console, auto_refresh=False) as live:
            while reader.is_alive():
                live.update(_table(ranges), refresh=True)
                reader.join(_REFRESH_S)
        if ended:
            raise ended[0]


def _read_line() -> None:
    if not sys.stdin.readline():
        raise CalibrationError("standard input ended before the calibration; nothing was written")


def _table(ranges: Callable[[], Sequence[JointRange]]) -> Table | str:
    try:
        rows = ranges()
    except BridgeError as problem:
        return str(problem)
    table = Table(title="counts of the servos", title_justify="left")
    for column in JointRange._fields:
        table.add_column(column, justify="left" if column == "joint" else "right")
    for row in rows:
        table.add_row(row.joint, f"{row.lowest:.0f}", f"{row.now:.0f}", f"{row.highest:.0f}")
    return table
