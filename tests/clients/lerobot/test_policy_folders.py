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
"""An interpreter with LeRobot; from 0.6 on with the transformers that it asks for."""

APPARATUS = Path(__file__).parents[2] / "apparatus"


def asked(code: str) -> str:
    """What LeRobot's interpreter prints; nothing where there is none, or the code fails."""
    if PYTHON is None:
        return ""
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


RELEASE = asked("from importlib.metadata import version; print(version('lerobot'))")
HAS_TRANSFORMERS = bool(asked("from importlib.metadata import version; print(version('transformers'))"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RELEASE, reason="PI0_EDGE_LEROBOT_PYTHON names no interpreter that has LeRobot"),
]


def run_there(program: str, folder: Path, *names: str) -> str:
    """Runs a program of the apparatus on files of the folder, and gives back what it prints."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    command = [str(PYTHON), str(APPARATUS / program), *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_its_config_and_pipelines_do_what_ours_do(tmp_path, variant):
    release = "0.4" if RELEASE.startswith("0.4") else "0.6"
    ours = saved(tmp_path, variant, prompt_state_padded=variant == "pi05" and release == "0.4")
    opened = open_checkpoint(ours)
    processor = load_processor(ours, opened.infer_config())
    write_lerobot_policy(tmp_path / "theirs", opened, processor, release)
    seen, chunk = observation(), np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", image=seen.images["top"], state=seen.state, actions=chunk)
    run_there("lerobot_policy_files.py", tmp_path, "theirs", "inputs.npz", "output.npz")
    padded = np.pad(chunk, ((0, 0), (0, processor.config.action_dim - 6)))
    with np.load(tmp_path / "output.npz") as found:
        assert_allclose(found["state"][0], processor.normalization.state.forward(seen.state), atol=1e-5)
        assert_allclose(found["actions"][0], processor.to_physical(padded, seen), atol=1e-5)
        assert found["horizon"] == processor.config.horizon


@pytest.mark.skipif(
    RELEASE.startswith("0.4") or not HAS_TRANSFORMERS,
    reason="needs LeRobot >= 0.6 with the transformers that it asks for; 0.4 asks for one that no index has",
)
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
    printed = run_there("lerobot_policy_chunk.py", tmp_path, "theirs", "inputs.npz", "output.npz", "sizes.json")
    assert "All keys loaded successfully!" in printed
    expected = policy.infer(observation(), 5)
    with np.load(tmp_path / "output.npz") as found:
        assert_allclose(found["normalized"][0], expected.normalized[:, :6], atol=5e-5)
        assert_allclose(found["actions"][0], expected.actions, atol=1e-4)
