"""The result of a check, and the commands that most of them recommend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: `fail` where the demo or the tests cannot run without it, `warn` where something else cannot.
        found: What was found.
        fix: The command that fixes it; empty where nothing needs a fix.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def apt(*packages: str) -> str:
    """The command that installs Debian packages."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"


def pip(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'pi0-edge[{extra}]'"
