"""Whatever lies in the package and is no program is installed with it."""

from __future__ import annotations

import re
import subprocess

import pytest
from source_tree import ROOT


def patterns() -> list[re.Pattern[str]]:
    """Those of `pi0_edge` in pyproject.toml; Python 3.10 has no reader of its own for that format."""
    text = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools.package-data]")[1]
    listed = re.findall(r'"([^"]+)"', text.split("pi0_edge = [")[1].split("\n]")[0])
    return [re.compile(re.escape(pattern).replace(r"\*", "[^/]*")) for pattern in listed]


def test_every_file_of_the_package_is_installed() -> None:
    argv = ["git", "ls-files", "pi0_edge"]
    listed = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode:
        pytest.skip("needs a checkout: an archive does not say what belongs to it")
    files = [name.removeprefix("pi0_edge/") for name in listed.stdout.splitlines()]
    data = {name for name in files if not name.endswith(".py") and not (ROOT / "pi0_edge" / name).is_symlink()}
    assert "bench/report/page.css" in data
    missing = {name for name in data if not any(pattern.fullmatch(name) for pattern in patterns())}
    assert missing == set()
