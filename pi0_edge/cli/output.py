"""What a command prints: tables and progress for people, and with `--json` one line for programs.

With `--json` the last line of standard output is one compact JSON object, the result or {"error": ...}, and everything
for people goes to standard error. Values that JSON cannot hold (NaN, infinity) become null.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pi0_edge.json_values import to_json_values
from pi0_edge.progress import Progress, ProgressCallback

JSON_FLAG = "--json"


class Output:
    """The output of one command.

    Attributes:
        console: For people.
    """

    def __init__(self, as_json: bool) -> None:
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._as_json = as_json

    def print(self, text: str) -> None:
        """Prints one line for people, flushed at once and never wrapped."""
        self.console.print(escape(text))
        self.console.file.flush()

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Prints a table; columns of numbers are right-aligned."""
        table = Table(title=title, title_justify="left")
        cells = [tuple(row) for row in rows]
        for place, column in enumerate(columns):
            numbers = all(not isinstance(row[place], str) for row in cells)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in cells:
            table.add_row(*(escape(format_number(cell)) for cell in row))
        self.console.print(table, soft_wrap=False)

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """Shows what a function of the library reports, a bar with count, elapsed and remaining time for each stage."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as bars:
            tasks: dict[str, TaskID] = {}
            done: dict[str, int] = {}

            def show(progress: Progress) -> None:
                if progress.stage not in tasks or progress.done < done[progress.stage]:  # it begins again
                    tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total)
                done[progress.stage] = progress.done
                description = f"{progress.stage}: {progress.note}" if progress.note else progress.stage
                bars.update(tasks[progress.stage], completed=progress.done, description=description)

            yield show

    def finish(self, result: Mapping[str, object]) -> None:
        """Prints the result of the command where it was asked for; call it last."""
        if self._as_json:
            _write_line(result)


def write_error(message: str, arguments: Sequence[str], code: int) -> int:
    """Prints what was wrong, for people or as JSON, and returns `code`."""
    sys.stderr.write(f"error: {message}\n")
    if JSON_FLAG in arguments:
        _write_line({"error": message})
    return code


def format_number(value: object) -> str:
    """Four significant digits for a float, anything else as it is; what is just below 1 is not rounded up to it."""
    if isinstance(value, float):
        return f"{value:.6f}" if 0.999 < value < 1 else f"{value:.4g}"
    return str(value)


def _write_line(result: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(to_json_values(result), separators=(",", ":"), allow_nan=False) + "\n")
    sys.stdout.flush()
