"""Policy folders of pi0-edge in LeRobot's own π0 and π0.5: every parameter is taken, and the chunk is the same."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from checkpoint_builders import golden_state
from lerobot_policies import ROBOT, observation, saved
from numpy.testing import assert_allclose

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.checkpoints.lerobot_policy import write_lerobot_policy
from pi0_edge.policy import Policy
from pi0_edge.processing.loading import load_processor

PYTHON = os.environ.get("PI0_EDGE_LEROBOT_PYTHON")
"""An interpreter with LeRobot from 0.6 on and the transformers that it asks for."""

PROGRAM = Path(__file__).parents[2] / "apparatus" / "lerobot_policy_chunk.py"


def has_network() -> bool:
    """Whether LeRobot's π0 can be imported there; that of 0.4 wants a transformers which no index has."""
    asked = "from importlib.metadata import version as v; v('transformers'); print(v('lerobot'))"
    done = PYTHON and subprocess.run([PYTHON, "-c", asked], capture_output=True, text=True, check=False)
    return bool(done) and done.returncode == 0 and not done.stdout.startswith("0.4")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_network(), reason="PI0_EDGE_LEROBOT_PYTHON names no LeRobot >= 0.6 with transformers"),
]


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("relative", [False, True])
def test_lerobot_answers_the_same_chunk(tmp_path, variant, relative):
    robot = dataclasses.replace(ROBOT, delta_actions=(5, -1)) if relative else ROBOT
    ours = saved(tmp_path, variant, robot=robot)
    opened = open_checkpoint(ours)
    write_lerobot_policy(tmp_path / "theirs", opened, load_processor(ours, opened.infer_config()), "0.6")
    policy = Policy.load(ours, "reference")
    inputs, noise = policy.processor.to_model_inputs(observation()), policy.noise(5)
    seen = {**observation().images, "state": observation().state, "noise": noise.numpy()}
    np.savez(tmp_path / "inputs.npz", tokens=inputs.tokens[0].numpy(), **seen)
    (tmp_path / "sizes.json").write_text(json.dumps(dataclasses.asdict(golden_state(variant)[1])))
    files = ("theirs", "inputs.npz", "output.npz", "sizes.json")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [str(PYTHON), str(PROGRAM), *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "All keys loaded successfully!" in done.stdout
    expected = policy.infer(observation(), 5)
    with np.load(tmp_path / "output.npz") as found:
        assert_allclose(found["normalized"][0], expected.normalized[:, :6], atol=5e-5)
        assert_allclose(found["actions"][0], expected.actions, atol=1e-4)
