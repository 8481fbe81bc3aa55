"""The simulated ALOHA and its scripted expert: seeds, setpoints, images, errors, success."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi0_edge.errors import ConfigError, MissingDependencyError, ObservationError

try:
    from pi0_edge.sim.aloha import CAMERAS, HOME, JOINT_NAMES
    from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
    from pi0_edge.sim.arm_kinematics import Waypoint, minimum_jerk
    from pi0_edge.sim.demonstration import demonstrate, disturbance_of, smooth_disturbance
    from pi0_edge.sim.expert import EPISODE_TICKS, TransferCubeExpert
    from pi0_edge.sim.opengl import opengl_errors
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

cube_x = st.floats(0.0, 0.2)
cube_y = st.floats(0.4, 0.6)


@pytest.fixture(scope="module")
def env():
    environment = AlohaTransferCube()
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def expert():
    return TransferCubeExpert()


def play(env, setpoints, seed):
    env.reset(seed)
    states = []
    for setpoint in setpoints:
        env.step(setpoint)
        states.append(env.state)
    return np.stack(states)


def red_pixels(image):
    return (image[..., 0] > 150) & (image[..., 1] < 80)


def test_cube_pose_depends_on_the_seed_only(env):
    env.reset(7)
    first = env.cube_pose
    env.reset(8)
    other = env.cube_pose
    np.random.seed(0)
    env.reset(7)
    np.testing.assert_array_equal(env.cube_pose, first)
    assert np.abs(other[:2] - first[:2]).max() > 1e-3
    assert 0 <= first[0] <= 0.2 and 0.4 <= first[1] <= 0.6


def test_reset_puts_the_arms_at_home_and_home_holds_them(env):
    states = play(env, [HOME] * 50, seed=3)
    assert states.dtype == np.float32 and states.shape == (50, len(JOINT_NAMES))
    assert np.abs(states - HOME).max() < 0.02


def test_an_episode_repeats_exactly(env, expert):
    setpoints = expert.setpoints((0.1, 0.5))[:120]
    np.testing.assert_array_equal(play(env, setpoints, 5), play(env, setpoints, 5))


def test_expert_succeeds_and_reward_climbs_to_four(env, expert):
    for seed in range(2000, 2008):
        env.reset(seed)
        rewards = []
        for setpoint in expert.setpoints((env.cube_pose[0], env.cube_pose[1])):
            env.step(setpoint)
            rewards.append(env.reward)
        assert env.success, f"seed {seed} ended with reward {env.reward}"
        assert rewards[0] == 0 and {2, 4} <= set(rewards)


def test_replay_for_another_cube_pose_fails(env, expert):
    """The setpoints depend on the cube: success is not an accident of the motion."""
    play(env, expert.setpoints((0.19, 0.41)), seed=0)
    assert not env.success


@settings(max_examples=25, deadline=None)
@given(cube_x, cube_y)
def test_setpoints_are_smooth_everywhere_the_cube_can_be(expert, x, y):
    setpoints = expert.setpoints((x, y))
    assert setpoints.shape == (EPISODE_TICKS, 14) and setpoints.dtype == np.float32
    path = np.concatenate([HOME[None], HOME[None], setpoints]).astype(np.float64)
    arms = [i for i, name in enumerate(JOINT_NAMES) if "gripper" not in name]
    assert np.abs(np.diff(path[:, arms], axis=0)).max() < 0.05
    assert np.abs(np.diff(path[:, arms], 2, axis=0)).max() < 0.004
    assert np.abs(np.diff(path, axis=0)).max() < 0.08
    grippers = path[:, [6, 13]]
    assert grippers.min() >= 0 and grippers.max() <= 1


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    st.lists(st.floats(-3, 3), min_size=2, max_size=2),
    st.integers(2, 90),
)
def test_minimum_jerk_ends_exactly_and_never_overshoots(start, stop, ticks):
    start, stop = np.array(start), np.array(stop)
    path = minimum_jerk(start, stop, ticks)
    assert path.shape == (ticks, 2)
    np.testing.assert_allclose(path[-1], stop, atol=1e-12)
    low, high = np.minimum(start, stop) - 1e-12, np.maximum(start, stop) + 1e-12
    assert ((path >= low) & (path <= high)).all()
    assert np.abs(np.diff(path, axis=0)).max(initial=0) <= 1.9 * np.abs(stop - start).max() / ticks + 1e-12


def test_waypoint_out_of_reach_is_refused(expert):
    with pytest.raises(ConfigError, match="out of reach"):
        expert._right.solve(Waypoint(0, (-1.5, 0.5, 0.2), 0, 0, 1.0), np.array(HOME[7:13], dtype=float))


@pytest.mark.parametrize("bad", [np.zeros(13), np.zeros((1, 14)), np.full(14, np.nan), np.full(14, np.inf)])
def test_bad_setpoint_is_refused_and_nothing_moves(env, bad):
    env.reset(1)
    before = env.state
    with pytest.raises(ObservationError, match="14 finite numbers"):
        env.step(bad)
    np.testing.assert_array_equal(env.state, before)


def test_unknown_camera_is_named_with_the_known_ones(env):
    env.reset(1)
    with pytest.raises(ConfigError, match=r"unknown camera 'wrist'.*top, angle"):
        env.render("wrist", 32, 32)


def test_images_have_the_asked_size_and_differ_by_camera(env):
    env.reset(1)
    images = {camera: env.render(camera, 48, 64) for camera in CAMERAS}
    assert all(image.shape == (48, 64, 3) and image.dtype == np.uint8 for image in images.values())
    assert len({image.tobytes() for image in images.values()}) == len(CAMERAS)


def test_policy_image_locates_the_cube(env):
    """Seen from ``top``, the cube is several pixels wide, whole, and its place in the image tells its place."""
    places, centres = [], []
    for seed in range(3000, 3012):
        env.reset(seed)
        red = red_pixels(env.render("top", 112, 112))
        rows, columns = np.nonzero(red)
        assert 40 < red.sum() < 150
        assert rows.min() > 2 and rows.max() < 109 and columns.min() > 2 and columns.max() < 109
        places.append(env.cube_pose[:2])
        centres.append((columns.mean(), rows.mean(), 1.0))
    fit, *_ = np.linalg.lstsq(np.array(centres), np.array(places), rcond=None)
    assert np.abs(np.array(centres) @ fit - np.array(places)).max() < 0.006


@pytest.mark.slow
def test_demonstration_stores_clean_actions_beside_disturbed_states(env, expert):
    clean = next(seed for seed in range(4000, 4100) if not disturbance_of(seed, 340).any())
    shaken = next(seed for seed in range(4000, 4100) if disturbance_of(seed, 340).std() > 0.008)
    deviations = {}
    for seed in (clean, shaken):
        episode = demonstrate(env, expert, seed)
        env.reset(seed)
        actions = expert.setpoints((env.cube_pose[0], env.cube_pose[1]))
        np.testing.assert_array_equal(episode.action, actions)
        assert episode.images.shape == (EPISODE_TICKS, 112, 112, 3)
        np.testing.assert_array_equal(episode.state[0], HOME)
        np.testing.assert_array_equal(episode.images[0], env.render("top", 112, 112))
        deviations[seed] = np.abs(play(env, actions, seed)[:-1] - episode.state[1:]).max()
    assert deviations[clean] == 0 and deviations[shaken] > 0.01


def test_disturbance_is_smooth_has_the_asked_size_and_spares_the_grippers():
    path = np.concatenate([smooth_disturbance(2000, 0.01, np.random.default_rng(seed)) for seed in range(4)])
    arms = np.delete(path, [6, 13], axis=1)
    assert not path[:, [6, 13]].any()
    assert 0.008 < arms.std() < 0.012
    steps = np.diff(smooth_disturbance(2000, 0.01, np.random.default_rng(9)), axis=0)
    assert np.abs(steps).max() < 0.003
    np.testing.assert_array_equal(disturbance_of(5, 100), disturbance_of(5, 100))


RENDER = """
import sys
from pi0_edge.errors import Pi0EdgeError
try:
    from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
    environment = AlohaTransferCube()
    environment.reset(0)
    environment.render()
    environment.close()
except Pi0EdgeError as error:
    sys.exit(f"{error}")
"""
NO_DISPLAY = {"DISPLAY": None, "WAYLAND_DISPLAY": None}
INHERITED = {
    "glfw": ({"MUJOCO_GL": "glfw", **NO_DISPLAY}, "unset MUJOCO_GL or set it to egl"),
    "glfw, dead display": ({"MUJOCO_GL": "glfw", **NO_DISPLAY, "DISPLAY": ":987"}, "unset MUJOCO_GL or set it to egl"),
    "unknown": ({"MUJOCO_GL": "bogus"}, "MUJOCO_GL='bogus' .*: unset MUJOCO_GL or set it to egl"),
    "capitals": ({"MUJOCO_GL": "EGL"}, "unset MUJOCO_GL or set it to egl"),
    "empty": ({"MUJOCO_GL": "", **NO_DISPLAY}, "MUJOCO_GL='' .*: unset MUJOCO_GL or set it to egl"),
    "off": ({"MUJOCO_GL": "off"}, "unset MUJOCO_GL or set it to egl"),
    "glx": ({"MUJOCO_GL": "glx", **NO_DISPLAY}, "unset MUJOCO_GL or set it to egl"),
    "platform": ({"PYOPENGL_PLATFORM": "glx"}, "PYOPENGL_PLATFORM='glx' .*: unset PYOPENGL_PLATFORM"),
    "device": ({"MUJOCO_EGL_DEVICE_ID": "99"}, "MUJOCO_EGL_DEVICE_ID='99' .*: unset MUJOCO_EGL_DEVICE_ID"),
    "no number": ({"MUJOCO_EGL_DEVICE_ID": "x"}, "MUJOCO_EGL_DEVICE_ID='x' .*: unset MUJOCO_EGL_DEVICE_ID"),
}
OPENGL = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")


@pytest.mark.parametrize(("variables", "advice"), INHERITED.values(), ids=INHERITED)
def test_what_another_project_asked_of_opengl_is_one_line(variables, advice):
    kept = {name: value for name, value in os.environ.items() if name not in OPENGL}
    changed = {**kept, **variables}
    result = subprocess.run(
        [sys.executable, "-c", RENDER],
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert re.search(rf"{advice}$", line), line


def test_missing_opengl_is_named_with_its_packages(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    for name in OPENGL[1:]:
        monkeypatch.delenv(name, raising=False)
    message = r"no off-screen OpenGL .* apt install libegl1 libgl1 libgl1-mesa-dri$"
    with pytest.raises(MissingDependencyError, match=message), opengl_errors():
        raise OSError("libEGL.so.1: cannot open shared object file")


def test_images_are_drawn_where_mujoco_was_imported_before():
    """As the kinematics of a workspace do: without MUJOCO_GL, mujoco would ask for a window."""
    code = (
        "import mujoco; from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube; "
        "table = AlohaTransferCube(); table.reset(0); print(table.render('top', 16, 16).mean() > 0)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in OPENGL}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "True", ran.stderr
