"""A whole comparison in seconds, on a network that learns nothing: files, resumption, report."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from comparison_cases import FLOW, MSE, PLAN, TASK, TINY

from firmware_bridge.errors import EmulatorError
from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import ConfigError, EngineError, MissingDependencyError, TrainingError

try:
    from pi0_edge.comparison import run
    from pi0_edge.comparison.backbone import AT_ONCE, load_frozen
    from pi0_edge.comparison.cell import train_cell
    from pi0_edge.comparison.places import Places
    from pi0_edge.comparison.run import best_rate, compare_heads
    from pi0_edge.heads import build_network
    from pi0_edge.sim.tasks import TWO_WAYS
    from pi0_edge.training.run import STRIDE, sample_batches
    from pi0_edge.training.samples import load_demonstrations
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root, notes = tmp_path_factory.mktemp("heads"), []
    content = compare_heads(root, PLAN, workers=0, on_progress=lambda progress: notes.append(progress))
    yield Places(root), content, notes
    torch.set_num_threads(threads)


def test_every_cell_is_in_the_report(finished):
    places, content, _ = finished
    assert [(row["variant"], row["episodes"]) for row in content["rows"]] == [("flow-50", 4), ("mse-50", 4)]
    assert len(content["cells"]) == 4 and len(content["latency"]) == 2
    flow, mse = content["rows"]
    assert flow["ways"]["paths"] == mse["ways"]["paths"] == 8
    page, text = ((places.root / name).read_text() for name in ("report.html", "report.md"))
    for told in (page, text):
        assert "flow-50, 2 steps" in told and "mse-50, one pass" in told and "re-implemented" in told
    assert "<svg" in page and not re.search(r'(?:src|href)="', page)
    assert json.loads((places.root / "report.json").read_text())["plan"]["seeds"] == [0, 1]


def test_progress_reaches_its_end(finished):
    _, _, notes = finished
    assert notes[-1].done == notes[-1].total
    recorded = dict.fromkeys(note.note for note in notes if note.note.endswith(" demonstrations"))
    assert list(recorded) == [*(f"{count} demonstrations" for count in range(4)), "two-ways: demonstrations"]
    assert [note.done for note in notes] == sorted(note.done for note in notes)


def test_cells_share_a_backbone_and_nothing_else(finished):
    places, _, _ = finished
    key, expert = "prefix.layers.0.attention.k.weight", "expert.layers.0.attention.q.weight"

    def weights(variant, seed):
        opened = open_checkpoint(places.cell(TASK, variant, seed) / "checkpoint")
        return {name: value.clone() for name, value in opened.tensors([key, expert])}

    first, second, other = weights(FLOW, 0), weights(FLOW, 1), weights(MSE, 0)
    assert torch.equal(first[key], second[key]) and torch.equal(first[key], other[key])
    assert not torch.equal(first[expert], second[expert])


def test_known_keys_and_values_are_those_of_the_backbone(finished):
    places, _, _ = finished
    frozen = load_frozen(places.backbone(TASK), places.demonstrations(TASK), TINY)
    network = build_network(TINY).eval()
    network.load_state_dict(frozen.weights, strict=False)
    shown = load_demonstrations(places.demonstrations(TASK), "top", STRIDE)
    counted = 0
    for episodes in (slice(0, 2), slice(2, 3)):
        samples = frozen.samples(50, episodes)
        inputs, chunks, context = samples.draw(16, np.random.default_rng(0))
        assert inputs.images.numel() == 0 and chunks.shape == (16, 50, 14)
        seen = sample_batches(frozen.processor, shown[episodes], TWO_WAYS.prompt, 50)
        images, same_chunks = seen.draw(16, np.random.default_rng(0))
        assert torch.equal(chunks, same_chunks) and torch.equal(inputs.tokens, images.tokens)
        with torch.inference_mode():
            wanted = network.attend_prefix(images)
        assert len(context.layers) == len(wanted.layers) == TINY.prefix.depth
        for known, computed in zip(context.layers, wanted.layers, strict=True):
            for half, whole in ((known.keys, computed.keys), (known.values, computed.values)):
                largest = whole.abs().max()
                assert (half - whole).abs().max() < 1e-3 * largest  # half precision
                assert (whole - whole.roll(1, 0)).abs().max() > 5e-3 * largest  # observations differ by more
            assert (computed.keys - computed.values).abs().max() > 2e-2 * computed.keys.abs().max()
        counted += len(samples.batches)
    assert counted == len(frozen.prefixes) > AT_ONCE


def test_the_same_call_does_nothing_again(finished):
    places, content, _ = finished
    before = {path: path.stat().st_mtime_ns for path in places.root.rglob("*.json") if "report" not in path.name}
    assert json.dumps(compare_heads(places.root, PLAN, workers=0)) == json.dumps(content)
    after = {path: path.stat().st_mtime_ns for path in places.root.rglob("*.json") if "report" not in path.name}
    assert after == before


def test_the_best_rate_is_that_of_the_lowest_held_out_loss(finished):
    places, _, _ = finished
    tried = {rate: json.loads(places.rate(TASK, MSE, rate).read_text())["held_out"] for rate in PLAN.rates}
    assert best_rate(PLAN, places, TASK, MSE) == min(tried, key=lambda rate: tried[rate])


def test_a_head_that_diverged_at_every_rate_is_named(finished, tmp_path):
    places = Places(tmp_path)
    (tmp_path / TASK.name / "rates").mkdir(parents=True)

    def tried(*losses):
        for rate, loss in zip(PLAN.rates, losses, strict=True):
            places.rate(TASK, MSE, rate).write_text(json.dumps({"rate": rate, "held_out": loss}))
        return best_rate(PLAN, places, TASK, MSE)

    assert tried(math.nan, 7.0) == PLAN.rates[1] and tried(3.0, math.inf) == PLAN.rates[0]
    with pytest.raises(TrainingError, match=r"two-ways: mse-50 diverged at every learning rate \(0.001, 0.01\)"):
        tried(math.nan, math.inf)
    places.rate(TASK, MSE, PLAN.rates[0]).write_text("{")
    with pytest.raises(ConfigError, match="delete it and run the command again"):
        best_rate(PLAN, places, TASK, MSE)


@pytest.mark.parametrize("variant", [FLOW, MSE])
def test_of_a_cell_that_diverged_nothing_is_written(finished, tmp_path, variant):
    places, _, _ = finished
    frozen = load_frozen(places.backbone(TASK), places.demonstrations(TASK), TINY)
    with pytest.raises(TrainingError, match=rf"two-ways: {variant.name}, seed 4, diverged"):
        train_cell(frozen, PLAN, TASK, variant, 4, math.nan, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


CLOCKED = dataclasses.replace(PLAN, clock_episodes=1)


@pytest.fixture
def clocked(finished, tmp_path, monkeypatch):
    """The finished comparison, which is to play through the firmware besides: two ways, in place of the cube."""
    shutil.copytree(finished[0].root, tmp_path / "clocked")
    places = Places(tmp_path / "clocked")
    (places.root / "plan.json").write_text(json.dumps(CLOCKED.to_dict()))
    for path in places.root.glob("report.*"):
        path.unlink()
    monkeypatch.setattr(run, "TRANSFER_CUBE", TWO_WAYS)
    monkeypatch.setattr(run, "require_qemu", lambda: "qemu")
    monkeypatch.setattr(run, "require_image", lambda image: None)
    return places


def test_what_the_clock_needs_is_asked_for_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TRANSFER_CUBE", TWO_WAYS)
    monkeypatch.setattr(run, "image_with_servos", lambda robot: tmp_path / "none.elf")
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))
        with pytest.raises(EmulatorError, match="qemu-system-arm is not installed"):
            compare_heads(tmp_path / "heads", CLOCKED, workers=0)
    monkeypatch.setattr(run, "require_qemu", lambda: "qemu")
    with pytest.raises(EmulatorError, match=r"none\.elf does not exist; run `make firmware`"):
        compare_heads(tmp_path / "heads", CLOCKED, workers=0)
    assert [path.name for path in (tmp_path / "heads").iterdir()] == ["plan.json"]


def test_the_report_is_there_before_the_clock(clocked, monkeypatch):
    def fail(*_):
        assert json.loads((clocked.root / "report.json").read_text())["clock"] == []
        raise EngineError("no board")

    monkeypatch.setattr(run, "play_through_firmware", fail)
    with pytest.raises(EngineError, match="no board"):
        compare_heads(clocked.root, CLOCKED, workers=0)
    assert (clocked.root / "report.html").exists()


def test_a_void_clock_is_played_again(clocked, monkeypatch):
    faults, played = {"flow-50": ["HEARTBEAT"], "mse-50": []}, []

    def play(variant, checkpoint, episodes, folder, say):
        played.append(variant.name)
        counts = dict.fromkeys(("ticks", "starved", "never_executed", "accepted", "chunks"), 1)
        found = {"variant": variant.name, "chunk_ms": 7.0, "faults": faults[variant.name], **counts}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clock.json").write_text(json.dumps(found))
        say("played")

    monkeypatch.setattr(run, "play_through_firmware", play)
    content, notes = compare_heads(clocked.root, CLOCKED, workers=0), []
    assert played == ["flow-50", "mse-50"]
    assert [one["faults"] for one in content["clock"]] == [["HEARTBEAT"], []]
    faults["flow-50"] = []
    content = compare_heads(clocked.root, CLOCKED, workers=0, on_progress=lambda one: notes.append(one.note))
    assert played == ["flow-50", "mse-50", "flow-50"] and "played" in notes
    assert [one["faults"] for one in content["clock"]] == [[], []]
    monkeypatch.setattr(run, "require_qemu", lambda: pytest.fail("nothing is left to play"))
    assert compare_heads(clocked.root, CLOCKED, workers=0) == content and len(played) == 3


def test_another_plan_needs_another_folder(finished):
    places, _, _ = finished
    with pytest.raises(ConfigError, match="another comparison"):
        compare_heads(places.root, dataclasses.replace(PLAN, batch=8), workers=0)
