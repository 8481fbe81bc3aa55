"""Runs in the virtual machine of `vivid_machine`: opens vivid's cameras as a robot does, and breaks them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable

from vivid_machine import MARK

from pi0_edge.cameras import CameraImage, CameraSet, skew_s
from pi0_edge.cameras import v4l2_interface as v4l2
from pi0_edge.cameras.v4l2_device import controls, list_v4l2_cameras, open_device
from pi0_edge.errors import CameraError
from pi0_edge.robots import CameraSettings

NAMES = [f"/dev/v4l/by-path/platform-vivid.{number}-video-index0" for number in (0, 1)]


def say(step: str, **found: object) -> None:
    print(MARK + json.dumps({"step": step, **found}), flush=True)


def camera(number: int, **changes: object) -> CameraSettings:
    usual = {"width": 320, "height": 180, "fps": 5, "format": "YUYV", "discard_first": 2, "max_age_s": 1.0}
    return CameraSettings(f"v4l2:{NAMES[number]}", **{**usual, **changes})  # pyright: ignore[reportArgumentType]


def press(name: str, value: int = 1) -> None:
    """Sets a control of the first camera, as v4l2-ctl does from outside."""
    with open_device(NAMES[0]) as file:
        v4l2.ioctl(file, v4l2.S_CTRL, v4l2.Control(id=controls(file)[name].id, value=value))


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> float:
    begun = time.monotonic()
    while not condition() and time.monotonic() - begun < timeout_s:
        time.sleep(0.02)
    return time.monotonic() - begun


def newest(cameras: CameraSet) -> dict[str, CameraImage]:
    """As soon as there are any: an emulated processor pauses for longer than a camera may be silent."""
    for _ in range(400):
        try:
            return cameras.newest()
        except CameraError:
            time.sleep(0.05)
    return cameras.newest()


def refusal(settings: CameraSettings) -> str:
    try:
        with CameraSet({"front": settings}, open_timeout_s=20):
            return "opened"
    except CameraError as error:
        return str(error)


def list_and_refuse() -> None:
    there = list_v4l2_cameras()
    say("listed", names=[camera.names for camera in there], cards=[camera.card for camera in there])
    say("formats", first=[dataclasses.asdict(offered) for offered in there[0].formats[:2]])
    say("number", refusal=refusal(CameraSettings("v4l2:/dev/video0", 320, 180)))
    say("size", refusal=refusal(camera(0, width=333, height=181)))
    say("rate", refusal=refusal(camera(0, fps=7)))
    say("format", refusal=refusal(camera(0, format="MJPG")))
    say("control", refusal=refusal(camera(0, controls={"brightnes": 1})))
    say("absent", refusal=refusal(CameraSettings(f"v4l2:{NAMES[0].replace('vivid.0', 'vivid.7')}", 320, 180)))


def read_two() -> None:
    with CameraSet({"front": camera(0, controls={"gain_automatic": 0, "gain": 77}), "wrist": camera(1)}) as cameras:
        before = time.monotonic_ns()
        time.sleep(2.0)
        images = newest(cameras)
        now = time.monotonic_ns()
        with open_device(NAMES[0]) as file:
            gain = v4l2.Control(id=controls(file)["gain"].id)
            v4l2.ioctl(file, v4l2.G_CTRL, gain)
        say(
            "read",
            shapes=[image.pixels.shape for image in images.values()],
            taken_after_start=[image.taken_ns > before for image in images.values()],
            ages_s=[(now - image.taken_ns) / 1e9 for image in images.values()],
            skew_s=skew_s(images),
            gain=gain.value,
            in_use=refusal(camera(0)),
            health={name: dataclasses.asdict(found) for name, found in cameras.health().items()},
        )


def break_one() -> None:
    with CameraSet({"front": camera(0)}) as cameras:
        press("percentage_of_dropped_buffers", 50)
        wait_until(lambda: cameras.health()["front"].dropped > 3)
        say("dropped", dropped=cameras.health()["front"].dropped)
        press("percentage_of_dropped_buffers", 0)
        wait_until(lambda: not cameras.faults())
        for _ in range(3):
            press("inject_v4l2_buf_flag_error")
            time.sleep(0.45)
        say("damaged", dropped=cameras.health()["front"].dropped)
        wait_until(lambda: not cameras.faults())
        press("disconnect")
        noticed_s = wait_until(lambda: [f for f in cameras.faults().values() if f.kind == "unplugged"])
        fault = cameras.faults()["front"]
        back_s = wait_until(lambda: not cameras.faults())
        images = newest(cameras)
        say(
            "unplugged",
            noticed_s=noticed_s,
            kind=fault.kind,
            message=fault.message,
            back_s=back_s,
            openings=cameras.health()["front"].openings,
            shape=images["front"].pixels.shape,
        )


if __name__ == "__main__":
    list_and_refuse()
    read_two()
    break_one()
