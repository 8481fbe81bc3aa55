"""The parts that pages have in common: the frame with its style, sections, tables and lists of facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources


def page(title: str, body: str) -> str:
    """A whole page; nothing in it refers to anything outside.

    Args:
        title: In words.
        body: HTML.
    """
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    page_head = f"<head>{head}{viewport}\n<style>\n{style()}</style></head>"
    return f'<!doctype html>\n<html lang="en">\n{page_head}\n<body>\n{body}\n</body>\n</html>\n'


def style() -> str:
    """The style sheet of all pages."""
    return (resources.files("pi0_edge.pages") / "page.css").read_text()


def section(title: str, content: str) -> str:
    """A part of a page with its heading; nothing where there is no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of (name, value) in words."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{rows}</dl>" if rows else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], wide: int | None = None) -> str:
    """A table.

    Args:
        columns: Their names, in words.
        rows: Cells in HTML.
        wide: The column that takes the room that is left.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    cells = (
        "".join(f'<td class="{"wide" if k == wide else "cell"}">{cell}</td>' for k, cell in enumerate(row))
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in cells)}</tbody></table>"
