"""The guard of the shipped policy in front of the simulated robot that it was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pi0_edge.cameras import CameraImage
from pi0_edge.errors import MissingDependencyError
from pi0_edge.robots import load_robot
from pi0_edge.run.mismatch import MismatchGuard
from pi0_edge.shipped import shipped_checkpoint
from pi0_edge.training_profile import find_training_profile


@pytest.fixture(scope="module")
def at_rest():
    """Ten observations of the start of an episode that training never saw."""
    try:
        from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

        env = AlohaTransferCube()
        env.reset(3)
        state, image = env.state, env.render()
        env.close()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return [(state, {"top": CameraImage(image, 20_000_000 * k, k)}) for k in range(10)]


@pytest.fixture(scope="module")
def guard():
    return MismatchGuard(
        find_training_profile(shipped_checkpoint()),
        load_robot("aloha_sim"),
        cameras=["top"],
        prompt="Transfer cube",
    )


def test_the_simulated_robot_may_be_armed(guard, at_rest):
    assert guard.before_arming(at_rest) == []


def test_degrees_and_exchanged_colours_are_refused(guard, at_rest):
    scale = np.where(np.arange(14) % 7 == 6, 1, 180 / np.pi)
    wrong = [
        (scale * state, {"top": replace(images["top"], pixels=images["top"].pixels[..., ::-1])})
        for state, images in at_rest
    ]
    assert [(found.rule, found.refuses) for found in guard.before_arming(wrong)] == [
        ("joint-units", True),
        ("camera-colours", True),
    ]
