"""Writes down the public interface: `python tools/public_api.py [--check]`.

`tests/data/public_api.txt` lists every name of `pi0_edge.__all__` with its signature. `--check` exits with 1 where the
list is not what the code gives. The list's fingerprint must stand in CHANGELOG.md: whoever changes the public interface
writes there what changed.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pi0_edge

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "data" / "public_api.txt"


def describe() -> str:
    """Every public name with its signature, one per line."""
    lines = [line for name in sorted(pi0_edge.__all__) if name != "__version__" for line in _lines(name)]
    return "".join(f"{line}\n" for line in lines)


def fingerprint(text: str) -> str:
    """Twelve hexadecimal digits that change with the list."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _lines(name: str) -> Iterator[str]:
    value = getattr(pi0_edge, name)
    if isinstance(value, type) and issubclass(value, Exception):
        yield f"{name}({value.__bases__[0].__name__})"
    elif isinstance(value, type):
        yield f"{name}{_signature(value)}"
        yield from (f"{name}.{line}" for line in _members(value))
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {', '.join(sorted(value))}"


def _members(kind: type) -> Iterator[str]:
    for name, member in sorted(vars(kind).items()):
        if name.startswith("_"):
            continue
        function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if inspect.isfunction(function):
            yield f"{name}{_signature(function)}"
        elif isinstance(function, property):
            yield name


def _signature(function: object) -> str:
    signature = inspect.signature(function)  # pyright: ignore[reportArgumentType]
    return str(signature)


def main() -> int:
    """Writes or checks the list."""
    parser = argparse.ArgumentParser(description="Write down the public interface.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the list is stale")
    check = parser.parse_args().check
    text = describe()
    stale = not LIST.is_file() or LIST.read_text() != text
    if stale and not check:
        LIST.write_text(text)
    print(f"public interface {fingerprint(text)}{': the list is stale' if stale and check else ''}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
