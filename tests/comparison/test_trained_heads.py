"""The short comparison as a person runs it; then its trained heads drive the arms through the real firmware.

Trained for seconds, they do not transfer the cube: what is asked for is that weights that were learned make chunks
that cross the line and are executed.
"""

from __future__ import annotations

import json
import shutil

import pytest
from cli_runner import run

from pi0_edge.errors import MissingDependencyError

try:
    from pi0_edge.comparison.backbone import load_frozen
    from pi0_edge.comparison.cell import train_cell
    from pi0_edge.comparison.clock import play_through_firmware
    from pi0_edge.comparison.places import Places
    from pi0_edge.comparison.plan import RT2_LONG, SHORT, VARIANTS
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = [pytest.mark.real_time, pytest.mark.slow]
CUBE = SHORT.tasks[1]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads") / "short"
    ran = run("compare-heads", "--output", root, "--short", "--json")
    assert ran.code == 0, ran.err
    return root, ran.result


def test_the_short_comparison_plays_every_head_on_both_tasks(compared):
    root, result = compared
    rows = {(row["task"], row["variant"]) for row in result["rows"]}
    assert len(rows) == 12 and (root / "report.html").exists()
    assert {one["variant"] for one in result["latency"]} >= {"rt2-50", "octo-4"}
    assert json.loads((root / "report.json").read_text())["rows"] == result["rows"]


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
@pytest.mark.parametrize("name", ["octo-50", "tinyvla-16", "rt2-50", "rt2-1"])
def test_a_trained_head_drives_the_arms(compared, tmp_path, aloha_image, name):
    root, _ = compared
    variant = next(one for one in (*VARIANTS, RT2_LONG) if one.name == name)
    checkpoint = Places(root).cell(CUBE, variant, 0) / "checkpoint"
    if not checkpoint.exists():  # the comparison times it and does not train it
        frozen = load_frozen(Places(root).backbone(CUBE), Places(root).demonstrations(CUBE), SHORT.network)
        train_cell(frozen, SHORT, CUBE, variant, 0, 1e-3, checkpoint.parent)
    found = play_through_firmware(variant, checkpoint, 1, tmp_path)
    assert found["variant"] == name and json.loads((tmp_path / "clock.json").read_text()) == found
    if name == "rt2-1":  # its only action is over before the chunk has crossed the line
        assert (found["accepted"], found["never_executed"]) == (0, 1)
    else:
        assert found["accepted"] >= 3 and found["ticks"] > 50
