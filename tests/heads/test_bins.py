"""The 256 bins of RT-2 as OpenVLA has them, the missing centre included."""

from __future__ import annotations

import numpy as np
import torch

from pi0_edge.heads.rt2 import from_bins, to_bins

EDGES = np.linspace(-1, 1, 256)
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2


def openvla(actions: np.ndarray) -> np.ndarray:
    """`ActionTokenizer` of OpenVLA there and back, without the shift to the end of a vocabulary."""
    bins = np.digitize(np.clip(actions, -1, 1), EDGES)
    return CENTRES[np.clip(bins - 1, 0, len(CENTRES) - 1)]


def test_actions_come_back_as_from_openvla():
    rng = np.random.default_rng(0)
    actions = np.concatenate([rng.uniform(-1.3, 1.3, 5000), EDGES, CENTRES, [-1.0, 0.0, 1.0]])
    ours = from_bins(to_bins(torch.from_numpy(actions))).numpy()
    np.testing.assert_allclose(ours, openvla(actions), atol=1e-7)


def test_there_are_256_tokens_and_255_centres():
    every = torch.arange(256)
    assert torch.equal(to_bins(torch.tensor([-1.0, 1.0])), torch.tensor([0, 255]))
    assert len(from_bins(every).unique()) == 255
    assert from_bins(every[254:]).unique().numel() == 1


def test_a_bin_is_off_by_at_most_half_its_width():
    actions = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    assert (from_bins(to_bins(actions)) - actions).abs().max() <= 1 / 255 + 1e-6
