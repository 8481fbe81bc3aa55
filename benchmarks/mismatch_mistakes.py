"""Mistakes that people make with a robot, planted into recorded episodes for `benchmarks.mismatch_guard`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.mismatch_episodes import Recorded
from pi0_edge.robots import Robot

GRIPPERS = [6, 13]
ARMS = [place for place in range(14) if place not in GRIPPERS]
DEGREES = np.where(np.isin(np.arange(14), ARMS), 180 / np.pi, 1.0)
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """What the guard gets to see of one episode.

    Attributes:
        robot: As it is set up.
        cameras: Those that are connected.
        states: float64 [n, 14].
        images: Camera -> uint8 [n, height, width, 3].
        chunks: float64 [n, horizon, 14].
        ticks: int [n].
        prompt: What to do.
        hz: How many ticks the clock really makes a second.
        stale: Cameras that deliver one image for ever.
        wider: `top` with another lens, [n, height, width, 3].
        others: Chunks of another episode, [m, horizon, 14].
    """

    robot: Robot
    cameras: tuple[str, ...]
    states: NDArray[np.float64]
    images: dict[str, Images]
    chunks: NDArray[np.float64]
    ticks: NDArray[np.int64]
    prompt: str
    hz: float
    stale: tuple[str, ...]
    wider: Images
    others: NDArray[np.float64]


def scene(recorded: Recorded, other: Recorded, robot: Robot, cameras: tuple[str, ...], prompt: str) -> Scene:
    """An episode as it was."""
    return Scene(
        robot=robot,
        cameras=cameras,
        states=recorded.states.astype(np.float64),
        images={camera: recorded.images[camera] for camera in cameras},
        chunks=recorded.chunks.astype(np.float64),
        ticks=recorded.ticks,
        prompt=prompt,
        hz=50.0,
        stale=(),
        wider=recorded.images["wider"],
        others=other.chunks.astype(np.float64),
    )


Plant = Callable[[Scene, np.random.Generator], Scene]


@dataclass(frozen=True)
class Mistake:
    """A kind of mistake.

    Attributes:
        name: In words.
        rules: Of the guard that name it rightly.
        plant: Makes it.
    """

    name: str
    rules: tuple[str, ...]
    plant: Plant


def mistakes() -> list[Mistake]:
    """All kinds, those about what is written down first."""
    return [*_of_setup(), *_of_joints(), *_of_actions(), *_of_cameras()]


def other_light(found: Scene, rng: np.random.Generator) -> Scene:
    """No mistake: other exposure, contrast, white balance and a camera that was nudged, the same in a whole episode."""
    gain, gamma = rng.uniform(0.75, 1.3), rng.uniform(0.8, 1.25)
    balance = 1 + rng.uniform(-0.07, 0.07, 3)
    shift = tuple(rng.integers(-1, 2, 2))

    def changed(images: Images) -> Images:
        levels = 255 * np.clip(gain * balance * (images / 255) ** gamma, 0, 1)
        noisy = levels + rng.normal(0, 2, levels.shape)
        return np.roll(np.clip(noisy, 0, 255).astype(np.uint8), shift, (1, 2))

    return replace(found, images={camera: changed(images) for camera, images in found.images.items()})


def _of_setup() -> list[Mistake]:
    return [
        Mistake("control rate set to 30 Hz", ("control-rate",), lambda s, _: _robot(s, control_hz=30.0)),
        Mistake("clock of 40 ticks a second", ("control-rate",), lambda s, _: replace(s, hz=40.0)),
        Mistake("layout with other joint names", ("joint-names",), _renamed),
        Mistake("another prompt", ("prompt",), lambda s, _: replace(s, prompt="Fold the towel")),
        Mistake("a camera is missing", ("camera-names",), lambda s, _: _without(s, s.cameras[-1])),
        Mistake("images of another shape", ("image-size",), lambda s, _: _resized(s, 112, 84)),
        Mistake("images of another size", ("image-size",), lambda s, _: _resized(s, 224, 224)),
    ]


def _of_joints() -> list[Mistake]:
    units = ("joint-units",)
    return [
        Mistake("degrees for radians", units, lambda s, _: replace(s, states=s.states * DEGREES)),
        Mistake("LeRobot's range of -100 to 100", units, _in_range),
        Mistake("gripper in percent", ("gripper-convention",), _percent),
        Mistake("gripper 0 and 1 exchanged", ("gripper-convention",), _exchanged),
        Mistake("a joint with the other sign", ("joint-sign",), _negated),
        Mistake("a joint with another zero, 0.2 to 0.6 rad", ("joint-zero", "joint-range"), _moved_zero),
        Mistake("a joint off by a quarter turn", ("joint-zero", "joint-range"), _quarter_turn),
        Mistake("two joints of an arm exchanged", ("joint-order",), _two_exchanged),
        Mistake("the two arms exchanged", ("joint-order",), lambda s, _: replace(s, states=np.roll(s.states, 7, 1))),
        Mistake("the gripper given first", ("joint-order",), lambda s, _: replace(s, states=np.roll(s.states, 1, 1))),
        Mistake("a pose that no episode began in", ("start-pose", "joint-range"), _other_pose),
    ]


def _of_actions() -> list[Mistake]:
    return [
        Mistake("relative actions for absolute ones", ("relative-actions",), _relative),
        Mistake("actions in degrees", ("first-action",), lambda s, _: replace(s, chunks=s.chunks * DEGREES)),
        Mistake("actions of a joint off by 0.3 to 1 rad", ("first-action", "relative-actions"), _shifted_actions),
        Mistake("every other chunk of another episode", ("chunk-overlap", "first-action"), _mixed_chunks),
    ]


def _of_cameras() -> list[Mistake]:
    turned, zoom, swapped = ("camera-turned",), ("camera-zoom",), ("camera-swapped",)
    return [
        Mistake("top and left camera swapped", swapped, lambda s, _: _swapped(s, "top", "left_wrist")),
        Mistake("left and right camera swapped", swapped, lambda s, _: _swapped(s, "left_wrist", "right_wrist")),
        Mistake("top mirrored", ("camera-mirrored",), _on("top", lambda x: x[:, :, ::-1])),
        Mistake("left mirrored", ("camera-mirrored",), _on("left_wrist", lambda x: x[:, :, ::-1])),
        Mistake("top upside down", turned, _on("top", lambda x: x[:, ::-1, ::-1])),
        Mistake("left upside down", turned, _on("left_wrist", lambda x: x[:, ::-1, ::-1])),
        Mistake("top turned by 90°", turned, _on("top", lambda x: np.rot90(x, 1, (1, 2)))),
        Mistake("top BGR for RGB", ("camera-colours",), _on("top", lambda x: x[..., ::-1])),
        Mistake("all cameras BGR for RGB", ("camera-colours",), _all_bgr),
        Mistake("top shows 1/1.35 of the width", zoom, _on("top", lambda x: _cropped(x, 83))),
        Mistake("top shows 1.35 times the width", zoom, lambda s, _: _image(s, "top", s.wider)),
        Mistake("top black", ("camera-black",), _on("top", lambda x: np.minimum(x, 2))),
        Mistake("top frozen from the beginning", ("camera-frozen",), lambda s, _: _frozen(s, 0)),
        Mistake("top frozen after 1 s, still delivering", ("camera-frozen",), _freezing),
    ]


def _robot(found: Scene, **changes: Any) -> Scene:
    return replace(found, robot=dataclasses.replace(found.robot, **changes))


def _renamed(found: Scene, rng: np.random.Generator) -> Scene:
    joints = tuple(found.robot.joints[place] for place in rng.permutation(14))
    return _robot(found, joints=joints, action_names=tuple(joint.name for joint in joints))


def _without(found: Scene, camera: str) -> Scene:
    kept = tuple(name for name in found.cameras if name != camera)
    return replace(found, cameras=kept, images={name: found.images[name] for name in kept})


def _resized(found: Scene, width: int, height: int) -> Scene:
    return replace(found, images={name: _scaled(images, width, height) for name, images in found.images.items()})


def _scaled(images: Images, width: int, height: int) -> Images:
    resample = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), resample)) for image in images])


def _in_range(found: Scene, rng: np.random.Generator) -> Scene:
    ends = np.array([joint.position for joint in found.robot.joints])
    share = (found.states - ends[:, 0]) / (ends[:, 1] - ends[:, 0])
    return replace(found, states=np.where(np.isin(np.arange(14), GRIPPERS), 100 * share, 200 * share - 100))


def _percent(found: Scene, rng: np.random.Generator) -> Scene:
    return replace(found, states=found.states * np.where(np.isin(np.arange(14), GRIPPERS), 100, 1))


def _exchanged(found: Scene, rng: np.random.Generator) -> Scene:
    states = found.states.copy()
    states[:, GRIPPERS] = 1 - states[:, GRIPPERS]
    return replace(found, states=states)


def _negated(found: Scene, rng: np.random.Generator) -> Scene:
    states = found.states.copy()
    states[:, rng.choice(ARMS)] *= -1
    return replace(found, states=states)


def _moved_zero(found: Scene, rng: np.random.Generator) -> Scene:
    states = found.states.copy()
    states[:, rng.choice(ARMS)] += rng.uniform(0.2, 0.6) * rng.choice([-1, 1])
    return replace(found, states=states)


def _quarter_turn(found: Scene, rng: np.random.Generator) -> Scene:
    states = found.states.copy()
    states[:, rng.choice(ARMS)] += np.pi / 2 * rng.choice([-1, 1])
    return replace(found, states=states)


def _two_exchanged(found: Scene, rng: np.random.Generator) -> Scene:
    order = list(range(14))
    one, other = rng.choice(6, 2, replace=False) + 7 * rng.integers(2)
    order[one], order[other] = other, one
    return replace(found, states=found.states[:, order])


def _other_pose(found: Scene, rng: np.random.Generator) -> Scene:
    ends = np.array([joint.position for joint in found.robot.joints])
    pose = rng.uniform(ends[:, 0], ends[:, 1])
    return replace(found, states=found.states - found.states[0] + pose)


def _relative(found: Scene, rng: np.random.Generator) -> Scene:
    base = np.where(np.isin(np.arange(14), GRIPPERS), 0.0, found.states)[:, None]
    return replace(found, chunks=found.chunks - base)


def _shifted_actions(found: Scene, rng: np.random.Generator) -> Scene:
    chunks = found.chunks.copy()
    chunks[..., rng.choice(ARMS)] += rng.uniform(0.3, 1.0) * rng.choice([-1, 1])
    return replace(found, chunks=chunks)


def _mixed_chunks(found: Scene, rng: np.random.Generator) -> Scene:
    chunks = found.chunks.copy()
    for place in range(1, len(chunks), 2):
        chunks[place] = found.others[rng.integers(len(found.others))]
    return replace(found, chunks=chunks)


def _image(found: Scene, camera: str, images: Images) -> Scene:
    return replace(found, images={**found.images, camera: images})


def _on(camera: str, change: Callable[[Images], Images]) -> Plant:
    return lambda found, _: _image(found, camera, np.ascontiguousarray(change(found.images[camera])))


def _swapped(found: Scene, one: str, other: str) -> Scene:
    return _image(_image(found, one, found.images[other]), other, found.images[one])


def _all_bgr(found: Scene, rng: np.random.Generator) -> Scene:
    images = {name: np.ascontiguousarray(images[..., ::-1]) for name, images in found.images.items()}
    return replace(found, images=images)


def _cropped(images: Images, side: int) -> Images:
    first = (images.shape[1] - side) // 2
    return _scaled(images[:, first : first + side, first : first + side], images.shape[2], images.shape[1])


def _frozen(found: Scene, place: int) -> Scene:
    images = found.images["top"].copy()
    images[place:] = images[place]
    return replace(_image(found, "top", images), stale=("top",))


def _freezing(found: Scene, rng: np.random.Generator) -> Scene:
    return replace(_frozen(found, 2), stale=())
