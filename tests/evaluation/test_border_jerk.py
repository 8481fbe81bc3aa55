"""The jerk at the borders of chunks, from setpoints whose jerk is known."""

from __future__ import annotations

import numpy as np
import pytest

from pi0_edge.evaluation.statistics import split_jerk


def test_a_step_shows_at_its_border_alone():
    setpoints = np.zeros((30, 2))
    setpoints[12:, 0] = 0.001
    border, inside = split_jerk(setpoints, [0, 12, 20], control_hz=50)
    assert border[:3, 0].tolist() == pytest.approx([125.0, -250.0, 125.0])
    assert (border[3:] == 0).all() and (border[:, 1] == 0).all()
    assert len(border) == 6 and len(border) + len(inside) == 27
    assert (inside == 0).all()


def test_a_cubic_has_the_same_jerk_everywhere():
    seconds = np.arange(40)[:, None] / 50
    border, inside = split_jerk(seconds**3, [5, 15, 25], control_hz=50)
    assert np.concatenate([border, inside]) == pytest.approx(6.0)


def test_the_wait_before_the_first_chunk_is_neither_border_nor_inside():
    setpoints = np.zeros((20, 1))
    setpoints[4:] = 1.0
    border, inside = split_jerk(setpoints, [4, 10], control_hz=50)
    assert (border == 0).all() and (inside == 0).all()
