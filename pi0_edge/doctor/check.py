"""One finding about this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was looked at and what was found.

    Attributes:
        name: Of the thing.
        status: `fail` where the demo or the tests cannot run without it, `warn` where something else cannot.
        found: What is there.
        fix: The command that changes it; empty where nothing needs to change.
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
