"""The documentation names files that exist, shows state diagrams without a network, and the navigation is complete."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
TOPS = r"(?:pi0_edge|firmware_bridge|quant|protos|tests|tools|docs|examples|benchmarks)"
PATH = re.compile(rf"`({TOPS}/[\w./-]*\w/?)`")
OF_THE_GUIDES = re.compile(r"plans/sm_|my_|desk_arm|autocast|silu|vision_int8|NAME")
"""Files that a reader of the guides makes, or a measurement on a GPU."""


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_files_that_exist(page: Path) -> None:
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        pytest.skip("it names what is gone")
    named = [path for path in PATH.findall(text) if not OF_THE_GUIDES.search(path)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_state_diagram_has_every_state_and_transition() -> None:
    text = (ROOT / "docs" / "safety.md").read_text()
    diagram = text.split("```mermaid\n")[1].split("```")[0]
    drawn = tool("state_diagram").draw(diagram)
    assert drawn.count("<rect") == 6
    assert drawn.count("<path d=") == diagram.count("-->") + 1  # and the tip of the arrows
    for name in ("DISARMED", "ARMED", "RUNNING", "STARVED", "SAFE", "ESTOP"):
        assert f">{name}</text>" in drawn


def test_the_command_reference_knows_flags_defaults_and_choices() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert "| `--listen` | text | `127.0.0.1:50051` |" in page
    assert "| `--scan-by` | `part`, `block`, `linear` | `block` |" in page
    assert "| `--accept-failed-gate` |  |  |" in page
