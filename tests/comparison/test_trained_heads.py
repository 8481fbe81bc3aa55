"""The short comparison as a person runs it; then its trained heads drive the arms through the real firmware.

Trained for seconds, they do not transfer the cube: what is asked for is that weights that were learned make chunks
that cross the line and are executed. Octo's head needs a training of its own for that: the first of its 20 steps
multiplies an error of the predicted noise by 31.6 (β is 0.999 there), so that an untrained one asks for jumps, which
the firmware refuses.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from cli_runner import run

from pi0_edge.errors import MissingDependencyError

try:
    from pi0_edge.comparison.backbone import load_frozen
    from pi0_edge.comparison.cell import train_cell
    from pi0_edge.comparison.clock import play_through_firmware
    from pi0_edge.comparison.places import Places
    from pi0_edge.comparison.plan import FULL, RT2_LONG, SHORT, VARIANTS
    from pi0_edge.comparison.run import compare_heads
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
@pytest.mark.parametrize("name", ["tinyvla-16", "rt2-50", "rt2-1"])
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


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
def test_octo_as_published_drives_the_arms_until_its_four_actions_are_over(tmp_path, aloha_image):
    octo = tuple(one for one in VARIANTS if one.name == "octo-4")
    budget = replace(
        FULL.tasks[1], episodes=8, held_out=1, backbone_s=5.0, tuning_s=1.0, cell_s=90.0, scenes=1, precise=1
    )
    few = replace(FULL, tasks=(budget,), variants=octo, timed=(), rates=(2e-3,), seeds=(0,), draws=8)
    compare_heads(tmp_path, replace(few, latency_s=0.5, latency_samples=50), workers=1)
    found = json.loads((tmp_path / "clock" / "octo-4" / "clock.json").read_text())
    assert found["accepted"] >= 1 and found["never_executed"] == 0
    assert found["starved"] > 0 and found["faults"] == [
        "STARVATION"
    ]  # a chunk of 80 ms ends before the next one is there
