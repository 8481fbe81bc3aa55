"""LeRobot's own commands with the plugin against the real server, and what a person reads where something is wrong.

They need an interpreter with LeRobot, the plugin and its extra `sim`; `PI0_EDGE_LEROBOT_PYTHON` names it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pi0_edge.certificates import issue_client, issue_server, make_authority
from pi0_edge.policy import Policy
from pi0_edge.protos.rpc.roles import Role
from pi0_edge.serving.policy_server import PolicyServer

PYTHON = os.environ.get("PI0_EDGE_LEROBOT_PYTHON")
ROOT = Path(__file__).parents[3]
SIMULATED = "lerobot_policy_pi0_edge.cube_transfer"


def has(command: str) -> bool:
    return PYTHON is not None and (Path(PYTHON).parent / command).exists()


pytestmark = [
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(
        not has("lerobot-eval"), reason="PI0_EDGE_LEROBOT_PYTHON names no interpreter beside LeRobot's commands"
    ),
]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(ROOT / "pi0_edge" / "assets" / "pi0_cube_transfer")


@pytest.fixture(scope="module")
def server(policy: Policy) -> Iterator[PolicyServer]:
    started = PolicyServer(policy, "127.0.0.1:0")
    started.start()
    yield started
    started.stop()


def lerobot(command: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(str(PYTHON)).parent / command)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    return subprocess.run(
        [program, *options], capture_output=True, text=True, timeout=1200, check=False, env=environment, cwd=folder
    )


def evaluate(folder: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = (f"--env.discover_packages_path={SIMULATED}", "--env.type=pi0_edge_cube", "--seed=10000")
    server = ("--policy.type=pi0_edge", f"--policy.server={address}")
    return lerobot("lerobot-eval", folder, *environment, *server, f"--output_dir={folder / 'out'}", *options)


def on_the_arms(address: str) -> tuple[str, ...]:
    robot = (f"--robot.discover_packages_path={SIMULATED}", "--robot.type=pi0_edge_cube", "--robot.seed=10000")
    return (*robot, "--policy.type=pi0_edge", f"--policy.server={address}", "--play_sounds=false")


def test_ten_of_ten_cubes_are_transferred_two_at_a_time(tmp_path, server):
    done = evaluate(tmp_path, server.address, "--eval.n_episodes=10", "--eval.batch_size=2")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert result["overall"]["pc_success"] == 100.0


@pytest.mark.skipif(not has("lerobot-rollout"), reason="this LeRobot has no lerobot-rollout: from 0.6 on")
@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_a_rollout_transfers_the_cube(tmp_path, server, inference):
    options = (f"--inference.type={inference}", "--fps=5", "--duration=90", "--return_to_initial_position=false")
    done = lerobot("lerobot-rollout", tmp_path, *on_the_arms(server.address), "--task=Transfer cube", *options)
    assert done.returncode == 0, done.stderr
    assert "cube transferred: yes" in done.stdout + done.stderr


@pytest.mark.skipif(has("lerobot-rollout"), reason="lerobot-record takes no policy from LeRobot 0.6 on")
def test_a_recording_under_the_policy_transfers_the_cube(tmp_path, server):
    dataset = ("repo_id=me/eval_cube", f"root={tmp_path / 'recorded'}", "single_task=Transfer cube", "fps=50")
    length = ("num_episodes=1", "episode_time_s=60", "push_to_hub=false")
    options = [f"--dataset.{option}" for option in (*dataset, *length)]
    done = lerobot("lerobot-record", tmp_path, *on_the_arms(server.address), *options)
    assert done.returncode == 0, done.stderr
    assert "cube transferred: yes" in done.stdout + done.stderr
    assert json.loads((tmp_path / "recorded" / "meta" / "info.json").read_text())["total_episodes"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (('--policy.cameras={"lens": "top"}',), "--policy.cameras names 'lens', and the robot has 'top'"),
        (('--policy.cameras={"top": "lens"}',), "the robot has a camera 'lens'"),
        (("--policy.joints=[a, b]",), "the client has the joints 'a, b', and the policy of"),
        (("--policy.tls=nowhere",), "nowhere"),
        (("--policy.server=127.0.0.1:9", "--policy.connect_timeout_s=2"), "127.0.0.1:9"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(tmp_path, server, options, words):
    done = evaluate(tmp_path, server.address, "--eval.n_episodes=1", "--eval.batch_size=1", *options)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Running rollout" not in done.stderr


def test_a_server_with_certificates_is_asked_with_the_robots_own(tmp_path, policy):
    make_authority(tmp_path / "authority")
    issue_server(tmp_path / "authority", tmp_path / "server", "gpu", ["127.0.0.1"])
    issue_client(tmp_path / "authority", tmp_path / "robot", "robot", Role.COMMAND)
    started = PolicyServer(policy, "127.0.0.1:0", tls=tmp_path / "server")
    started.start()
    once = ("--eval.n_episodes=1", "--eval.batch_size=1", "--env.episode_length=60")
    try:
        done = evaluate(tmp_path, started.address, *once, f"--policy.tls={tmp_path / 'robot'}")
        without = evaluate(tmp_path, started.address, *once, "--policy.connect_timeout_s=2")
    finally:
        started.stop()
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "eval_info.json").read_text())["overall"]["n_episodes"] == 1
    assert without.returncode != 0
    assert "give --policy.tls" in without.stderr


def test_a_folder_of_settings_is_a_policy(tmp_path, server):
    written = subprocess.run(
        [str(PYTHON), "-m", "lerobot_policy_pi0_edge.write_folder", "mine", f"--server={server.address}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert written.returncode == 0, written.stderr
    environment = (f"--env.discover_packages_path={SIMULATED}", "--env.type=pi0_edge_cube", "--env.episode_length=60")
    options = ("--policy.path=mine", "--eval.n_episodes=1", "--eval.batch_size=1", f"--output_dir={tmp_path / 'out'}")
    done = lerobot("lerobot-eval", tmp_path, *environment, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "eval_info.json").read_text())["overall"]["n_episodes"] == 1
