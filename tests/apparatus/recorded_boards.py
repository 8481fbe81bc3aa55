"""Lays the boards of `tests/data/boards` out below a root folder, as `Board` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

BOARDS = Path(__file__).resolve().parents[1] / "data" / "boards"
NAMES = ("agx-orin", "orin-nano", "orin-nx", "thor", "x86")

_ESCAPE = re.compile(r"\\(\\|0|x[0-9a-f]{2})")


def lay_out(name: str, root: Path) -> Path:
    """Writes the files of a recorded board below a folder that is made, and returns the folder."""
    return lay_out_text((BOARDS / f"{name}.txt").read_text(), root)


def lay_out_text(recording: str, root: Path) -> Path:
    """The same of the text of a recording (see `pi0_edge.board.record`)."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in entries(recording):
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.mkdir()  # the kernel answers with EAGAIN or so, a folder with EISDIR
        else:
            file.write_bytes(content)
    return root


def entries(recording: str) -> Iterator[tuple[str, bytes | None]]:
    """Path and content of every file; None where it fails to be read."""
    lines = recording.split("\n")
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if not line or line.startswith("#"):
            continue
        if line.endswith(" fails") and " = " not in line:
            yield line.removesuffix(" fails"), None
        elif line.endswith(":") and " = " not in line:
            begin = position
            while position < len(lines) and (not lines[position] or lines[position].startswith("    ")):
                position += 1
            block = lines[begin:position]
            while block and not block[-1]:
                block.pop()
            yield line[:-1], b"".join(_bytes(one[4:]) + b"\n" for one in block)
        else:
            path, separator, content = line.partition(" = ")
            if not separator:
                path, content = line.removesuffix(" ="), ""
            assert path.startswith("/"), f"line {position} is no entry: {line}"
            bare = content.endswith("\\") and len(content) - len(content.rstrip("\\")) & 1
            yield path, _bytes(content[:-1]) if bare else _bytes(content) + b"\n"


def _bytes(written: str) -> bytes:
    found, position = [], 0
    for escape in _ESCAPE.finditer(written):
        found.append(written[position : escape.start()].encode())
        meant = escape[1]
        found.append({"\\": b"\\", "0": b"\0"}.get(meant) or bytes.fromhex(meant[1:]))
        position = escape.end()
    return b"".join([*found, written[position:].encode()])
