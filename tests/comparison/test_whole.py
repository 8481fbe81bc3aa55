"""A whole comparison in seconds, on a network that learns nothing: files, resumption, report."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from comparison_cases import FLOW, MSE, PLAN, TASK, TINY

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import ConfigError, MissingDependencyError

try:
    from pi0_edge.comparison.backbone import load_frozen
    from pi0_edge.comparison.places import Places
    from pi0_edge.comparison.run import best_rate, compare_heads
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)


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
    samples = frozen.samples(50, slice(0, 2))
    inputs, chunks, context = samples.draw(4, np.random.default_rng(0))
    assert inputs.images.numel() == 0 and chunks.shape == (4, 50, 14)
    assert context.layers[0].keys.shape == (4, 4 + len(samples.batches.tokens), 1, 8)
    held_out = frozen.samples(50, slice(2, 3))
    assert len(samples.batches) + len(held_out.batches) == len(frozen.prefixes)


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


def test_another_plan_needs_another_folder(finished):
    places, _, _ = finished
    with pytest.raises(ConfigError, match="another comparison"):
        compare_heads(places.root, dataclasses.replace(PLAN, batch=8), workers=0)
