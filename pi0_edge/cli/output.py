"""What a command says: tables and progress for people, and with `--json` one line for programs.

With `--json` the last line of standard output is one compact JSON object, the result or {"error": ...}, and everything
for people goes to standard error. Values that JSON cannot hold (NaN, infinity) become null.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

JSON_FLAG = "--json"


class Output:
    """Where one command speaks.

    Attributes:
        console: For people.
    """

    def __init__(self, as_json: bool) -> None:
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._as_json = as_json

    def say(self, text: str) -> None:
        """One line for people, flushed at once and never wrapped."""
        self.console.print(escape(text))
        self.console.file.flush()

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; columns of numbers are right-aligned."""
        table = Table(title=title, title_justify="left")
        cells = [tuple(row) for row in rows]
        for place, column in enumerate(columns):
            numbers = all(not isinstance(row[place], str) for row in cells)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in cells:
            table.add_row(*(escape(format_number(cell)) for cell in row))
        self.console.print(table, soft_wrap=False)

    def progress(self) -> Progress:
        """A progress bar with count, elapsed and remaining time; a context manager."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)

    def finish(self, result: Mapping[str, object]) -> None:
        """The result of the command; call it last."""
        if self._as_json:
            _write_line(result)


def write_error(message: str, arguments: Sequence[str], code: int) -> int:
    """Says what was wrong, for people or as JSON, and returns `code`."""
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
    sys.stdout.write(json.dumps(_plain(result), separators=(",", ":"), allow_nan=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """The same in types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
