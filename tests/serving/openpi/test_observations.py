"""What openpi's robots send, as observations; and what is wrong, by field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from openpi_messages import aloha, droid, libero, picture, write

from pi0_edge.errors import ObservationError
from pi0_edge.processing import Method, Schedule, load_robot
from pi0_edge.robots import Robot

pytest.importorskip("msgpack", reason="needs the extra openpi")

from pi0_edge.serving.openpi.observations import DROID_ROWS, OpenpiRequest, read_request


def read(message: dict[str, Any], robot: str | Robot, prompt: str | None = None) -> OpenpiRequest:
    return read_request(write(message), load_robot(robot) if isinstance(robot, str) else robot, prompt)


def test_aloha_has_channels_first_and_no_prompt():
    asked = read(aloha(), "aloha", "fold the towel")
    assert list(asked.observation.images) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]  # cam_low is of no use
    np.testing.assert_array_equal(asked.observation.images["cam_high"], picture(seed=0))
    np.testing.assert_array_equal(asked.observation.images["cam_right_wrist"], picture(seed=3))
    np.testing.assert_array_equal(asked.observation.state, np.linspace(-0.4, 0.4, 14))
    assert (asked.observation.prompt, asked.plan, asked.rows) == ("fold the towel", None, None)
    assert read(aloha(), "aloha").observation.prompt is None


def test_a_wrist_camera_may_be_missing():
    asked = read(aloha(("cam_high", "cam_left_wrist")), "aloha")
    assert list(asked.observation.images) == ["cam_high", "cam_left_wrist"]


@pytest.mark.parametrize(("robot", "camera"), [("aloha_sim", "top"), ("aloha_sim_openpi", "cam_high")])
def test_the_simulated_aloha_finds_its_camera_by_openpis_name(robot: str, camera: str):
    asked = read(aloha(("cam_high",)), robot)
    np.testing.assert_array_equal(asked.observation.images[camera], picture(seed=0))


@pytest.mark.parametrize("robot", ["droid", "droid_joint_position"])
def test_droid_has_flat_keys_and_takes_ten_rows(robot: str):
    asked = read(droid(), robot)
    np.testing.assert_array_equal(asked.observation.images["exterior_image_1_left"], picture(seed=1))
    np.testing.assert_array_equal(asked.observation.images["wrist_image_left"], picture(seed=2))
    np.testing.assert_array_equal(asked.observation.state, [*np.linspace(-0.4, 0.4, 7), 0.5])
    assert asked.observation.prompt == "Transfer cube"
    assert asked.rows == DROID_ROWS == 10


@pytest.mark.parametrize("gripper", [0.5, np.array([0.5]), np.array(0.5), np.float32(0.5), [0.5]])
def test_droids_gripper_may_be_a_number(gripper: object):
    assert np.asarray(read({**droid(), "observation/gripper_position": gripper}, "droid").observation.state)[7] == 0.5


def test_libero_has_flat_keys():
    asked = read(libero(), "libero")
    np.testing.assert_array_equal(asked.observation.images["image"], picture(seed=1))
    np.testing.assert_array_equal(asked.observation.images["wrist_image"], picture(seed=2))
    np.testing.assert_array_equal(asked.observation.state, np.linspace(-0.4, 0.4, 8))
    assert asked.rows is None


def test_a_robot_of_this_sdk_may_use_its_own_names_aliases_and_slots():
    message = {"state": np.zeros(6), "images": {"front": picture(), "left_wrist_0_rgb": picture(seed=1)}}
    asked = read(message, "so101")
    np.testing.assert_array_equal(asked.observation.images["front"], picture())
    np.testing.assert_array_equal(asked.observation.images["wrist"], picture(seed=1))


@pytest.mark.parametrize("shape", [(224, 224), (480, 640), (1, 7), (3, 5)])
def test_images_have_any_size_and_either_order(shape: tuple[int, int]):
    image = picture(*shape)
    for sent in (image, image.transpose(2, 0, 1)):
        if sent.shape == (3, 5, 3):
            continue  # 3 rows: read as channels first, as openpi does
        asked = read({**libero(), "observation/image": sent}, "libero")
        np.testing.assert_array_equal(asked.observation.images["image"], image)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8"])
def test_floats_are_levels_from_0_to_1_exactly(dtype: str):
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    asked = read({**libero(), "observation/image": (levels / 255).astype(dtype)}, "libero")
    np.testing.assert_array_equal(asked.observation.images["image"], levels)


@pytest.mark.parametrize("prompt", ["pick π", np.asarray("pick π"), "pick π".encode()])
def test_a_prompt_is_a_text_of_any_kind(prompt: object):
    assert read({**droid(), "prompt": prompt}, "droid").observation.prompt == "pick π"


def test_vectors_may_be_lists_and_further_keys_are_ignored():
    message = {**libero(), "observation/state": [0.5] * 7 + [1], "observation/extra": picture(), "note": {"a": [None]}}
    np.testing.assert_array_equal(read(message, "libero").observation.state, [0.5] * 7 + [1.0])


def test_a_continuation_is_a_running_plan():
    rows = np.linspace(-1, 1, 42).reshape(3, 14)
    short = read({**aloha(), "continuation": {"actions": rows, "delay": 2}}, "aloha").plan
    assert short is not None
    np.testing.assert_array_equal(short.actions, rows)
    assert (short.delay, short.method, short.schedule) == (2, Method.GUIDED, Schedule.LINEAR)
    assert (short.overlap, short.max_weight) == (10, 10.0)
    whole = {"actions": rows.tolist(), "delay": 1, "method": "FROZEN_PREFIX", "schedule": "exp", "overlap": 3}
    plan = read({**aloha(), "continuation": {**whole, "max_weight": 5}}, "aloha").plan
    assert plan is not None
    np.testing.assert_array_equal(plan.actions, rows)
    assert (plan.delay, plan.method, plan.schedule) == (1, Method.FROZEN_PREFIX, Schedule.EXP)
    assert (plan.overlap, plan.max_weight) == (3, 5.0)


ROWS = np.zeros((3, 7))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no images": (
        {"observation/image": None, "observation/wrist_image": picture()[:0]},
        r"observation/image is a NoneType",
    ),
    "levels": ({"observation/image": picture().astype("<i4")}, r"observation/image has dtype int32"),
    "floats": ({"observation/image": np.full((4, 4, 3), 1.5)}, r"observation/image has levels from 1.5 to 1.5"),
    "not a number": ({"observation/image": np.full((4, 4, 3), np.nan)}, r"observation/image has levels from nan"),
    "grey": ({"observation/image": picture()[..., 0]}, r"observation/image has shape \[24, 32\]"),
    "no rows": ({"observation/image": picture()[:0]}, r"observation/image has shape \[0, 32, 3\]"),
    "list": ({"observation/image": [[[0]]]}, r"observation/image is a list"),
    "state missing": ({"observation/state": None}, r"observation/state is not there"),
    "state short": ({"observation/state": np.zeros(7)}, r"observation/state has 7 numbers, expected 8 \(libero\)"),
    "state deep": ({"observation/state": np.zeros((1, 8))}, r"observation/state has shape \[1, 8\]"),
    "state text": ({"observation/state": "zeros"}, r"observation/state has str, expected"),
    "state texts": ({"observation/state": ["0"] * 8}, r"observation/state has str, expected"),
    "state bools": ({"observation/state": np.zeros(8, bool)}, r"observation/state has array of bool"),
    "state ragged": ({"observation/state": [[1], [1, 2]]}, r"observation/state is a list of different lengths"),
    "state infinite": ({"observation/state": np.full(8, np.inf)}, r"observation/state has values that are not finite"),
    "state beyond float32": ({"observation/state": np.full(8, 1e300)}, r"observation/state has values that are not"),
    "state large": ({"observation/state": np.zeros(100_000)}, r"observation/state has array of float64 \[100000\]"),
    "prompt number": ({"prompt": 7}, r"prompt is a int, expected a sentence"),
    "prompt long": ({"prompt": "x" * 5000}, r"prompt has 5000 characters"),
    "prompt bytes": ({"prompt": b"\xff\xfe"}, r"prompt is bytes that are not UTF-8"),
    "images list": ({"images": []}, r"images is a list, expected a map"),
    "unknown camera": ({"images": {"cam_hihg": picture()}}, r"images has the camera 'cam_hihg', which libero does not"),
    "camera twice": ({"images": {"image": picture()}}, r"images has the camera 'image' under two names"),
    "plan number": ({"continuation": 7}, r"continuation has int; expected a map with actions and delay"),
    "plan typo": (
        {"continuation": {"actions": ROWS, "delay": 1, "ovelap": 2}},
        r"continuation has the fields 'actions', 'delay', 'ovelap'",
    ),
    "plan wide": (
        {"continuation": {"actions": np.zeros((3, 8)), "delay": 1}},
        r"continuation.actions has shape \[3, 8\]",
    ),
    "plan delay": ({"continuation": {"actions": ROWS, "delay": -1}}, r"continuation.delay is -1"),
    "plan delay float": ({"continuation": {"actions": ROWS, "delay": 1.0}}, r"continuation.delay is 1.0"),
    "plan method": ({"continuation": {"actions": ROWS, "delay": 1, "method": "x"}}, r"continuation.method is 'x'"),
    "plan schedule": ({"continuation": {"actions": ROWS, "delay": 1, "schedule": 3}}, r"continuation.schedule is 3"),
    "plan weight": (
        {"continuation": {"actions": ROWS, "delay": 1, "max_weight": -1}},
        r"continuation.max_weight is -1",
    ),
    "plan weight nan": ({"continuation": {"actions": ROWS, "delay": 1, "max_weight": np.nan}}, r"max_weight is nan"),
    "plan weight bool": ({"continuation": {"actions": ROWS, "delay": 1, "max_weight": True}}, r"max_weight is True"),
    "plan nan": ({"continuation": {"actions": ROWS * np.nan, "delay": 1}}, r"continuation.actions has values that are"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_by_field(changes: dict[str, Any], said: str):
    with pytest.raises(ObservationError, match=said):
        read({**libero(), **changes}, "libero")


def test_a_message_without_a_camera_names_the_cameras():
    with pytest.raises(
        ObservationError, match=r"images is empty; expected at least one camera of droid: exterior_image_1"
    ):
        read({"state": np.zeros(8)}, "droid")
    with pytest.raises(ObservationError, match=r"the message is a list, expected a map"):
        read_request(write([1]), load_robot("droid"))


def test_a_noise_seed_is_taken_and_stock_clients_send_none():
    assert read(aloha(), "aloha").noise_seed is None
    for seed in (0, 7, 2**64 - 1):
        assert read({**droid(), "noise_seed": np.int64(seed) if seed < 8 else seed}, "droid").noise_seed == seed


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7", [7], np.zeros(3)])
def test_another_noise_seed_is_refused(seed: object):
    with pytest.raises(ObservationError, match=r"noise_seed"):
        read({**droid(), "noise_seed": seed}, "droid")
