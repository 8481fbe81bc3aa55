"""Writes docs/reference/commands.md from the functions behind the commands.

    python tools/command_reference.py            # writes the page
    python tools/command_reference.py --check    # exit code 1 where it is not current

It reads the functions' signatures, not what typer makes of them: that differs between releases of typer.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.models import ArgumentInfo, OptionInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "reference" / "commands.md"
HEAD = """# Commands

<!-- made by python tools/command_reference.py -->

Every command takes `--help`. With `--json` the result is the last line of standard output, as one JSON object. Exit
codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted ([errors](errors.md)).

| command | does |
|---|---|
"""
TYPES = {Path: "path", str: "text", int: "integer", float: "number"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command.

    Attributes:
        name: Of the function's parameter.
        kind: Its Python type.
        info: What typer is given for it.
        default: `inspect.Parameter.empty` where a value is required.
    """

    name: str
    kind: Any
    info: ArgumentInfo | OptionInfo
    default: Any

    @property
    def is_argument(self) -> bool:
        """Whether it is given by its place."""
        return isinstance(self.info, ArgumentInfo)

    @property
    def shown_name(self) -> str:
        """As it is typed."""
        if self.is_argument:
            return f"`{self.info.metavar or self.name.upper()}`"
        # Inside `Annotated`, typer takes what stands at the place of the default for the first name.
        first = [self.info.default] if isinstance(self.info.default, str) else []
        names = [*first, *(self.info.param_decls or ())] or [f"--{self.name.replace('_', '-')}"]
        return ", ".join(f"`{name}`" for name in names)

    @property
    def value(self) -> str:
        """What it takes; empty for a flag."""
        kind, repeated = _without_none(self.kind), ""
        if typing.get_origin(kind) is list:
            kind, repeated = typing.get_args(kind)[0], ", repeatable"
        if kind is bool:
            return ""
        if typing.get_origin(kind) is typing.Literal:
            return ", ".join(f"`{choice}`" for choice in typing.get_args(kind)) + repeated
        if isinstance(kind, type) and issubclass(kind, str) and hasattr(kind, "__members__"):
            return ", ".join(f"`{choice.value}`" for choice in kind.__members__.values()) + repeated
        return TYPES.get(kind, getattr(kind, "__name__", str(kind))) + _bounds(self.info) + repeated

    @property
    def shown_default(self) -> str:
        """The value where none is given."""
        if self.default is inspect.Parameter.empty:
            return "required"
        if self.default is None or self.default is False:
            return ""
        values = self.default if isinstance(self.default, (list, tuple)) else [self.default]
        return ", ".join(f"`{getattr(value, 'value', value)}`" for value in values)

    @property
    def row(self) -> str:
        """Of the table."""
        said = (self.info.help or "").replace("|", "\\|").replace("\n", " ")
        return f"| {self.shown_name} | {self.value} | {self.shown_default} | {said} |"


def reference() -> str:
    """The page."""
    from pi0_edge.cli.app import app

    found = list(commands("pi0-edge", app))
    rows = [f"| [`{name}`](#{_anchor(name)}) | {_summary(function)} |" for name, function in found]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(_section(name, function) for name, function in found)


def commands(prefix: str, app: typer.Typer) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every command with its full name, groups included."""
    for info in app.registered_commands:
        if info.callback is not None and not info.hidden:
            yield f"{prefix} {info.name or info.callback.__name__.replace('_', '-')}", info.callback
    for group in app.registered_groups:
        own = None if group.typer_instance is None else group.typer_instance.registered_callback
        if own is not None and own.callback is not None:  # a group that does something without a command
            yield f"{prefix} {group.name}", own.callback
        if group.typer_instance is not None:
            yield from commands(f"{prefix} {group.name}", group.typer_instance)


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """What a command takes, in the order of its signature."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *extras = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        infos = [extra for extra in extras if isinstance(extra, (ArgumentInfo, OptionInfo))]
        info = infos[0] if infos else OptionInfo()
        if not info.hidden:
            found.append(Parameter(name, kind, info, parameter.default))
    return found


def _section(name: str, function: Callable[..., Any]) -> str:
    taken = parameters(function)
    arguments = [parameter for parameter in taken if parameter.is_argument]
    options = [parameter for parameter in taken if not parameter.is_argument]
    usage = " ".join(
        [name, *(parameter.shown_name.strip("`") for parameter in arguments), *(["[OPTIONS]"] * bool(options))]
    )
    said = inspect.cleandoc(function.__doc__ or "")
    text = [f"## `{name}` {{ #{_anchor(name)} }}", "", "```text", usage, "```", "", said, ""]
    for title, rows in (("argument", arguments), ("option", options)):
        if rows:
            text += [
                f"| {title} | takes | default | |",
                "|---|---|---|---|",
                *(parameter.row for parameter in rows),
                "",
            ]
    return "\n".join(text)


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _summary(function: Callable[..., Any]) -> str:
    return inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _bounds(info: ArgumentInfo | OptionInfo) -> str:
    if info.min is None and info.max is None:
        return ""
    if info.max is None:
        return f" from {info.min}"
    return f" to {info.max}" if info.min is None else f" {info.min} to {info.max}"


def main() -> int:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is not current")
    check = parser.parse_args().check
    text = reference()
    if PAGE.is_file() and PAGE.read_text() == text:
        return 0
    if check:
        print(f"{PAGE.relative_to(ROOT)} is not current; run: python tools/command_reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
