"""Where the frames of a workspace are in the model, and how far each joint can move them.

The model is read by MuJoCo, from MJCF or URDF, and only its kinematics are used. MuJoCo is imported when the first
model is read: a bridge without a workspace runs where it is not installed. docs/workspace.md says why MuJoCo.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's classes come from compiled modules without type stubs.

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.workspace.settings import Frame, ModelJoint, WorkspaceSettings, advice, check
from firmware_bridge.robot import RobotJoints
from pi0_edge.errors import ConfigError, MissingDependencyError

_LIMIT_TOLERANCE = 0.01  # of the range of the model's joint; files round their limits
_LEAST = 1e-6  # mass and inertia of links without one; they do not matter for positions


def _mujoco() -> Any:
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a workspace needs MuJoCo to read its model ({error}): pip install 'pi0-edge[workspace]'"
        ) from error
    except Exception as error:  # what it raises about OpenGL depends on MUJOCO_GL and on the libraries
        raise MissingDependencyError(
            f"MuJoCo cannot be loaded ({type(error).__name__}: {error}); a workspace draws nothing: set "
            "MUJOCO_GL=disable"
        ) from error
    return mujoco


class FramePositions(NamedTuple):
    """The frames at n positions of the joints.

    Attributes:
        points: float64 [n, frames, 3], metres, in the world of the model.
        reach: float64 [n, frames], metres: how far a frame can be from its point while every joint is within its
            half-width of the position.
    """

    points: NDArray[np.float64]
    reach: NDArray[np.float64]


@dataclass(frozen=True)
class _Moved:
    """A joint of the model, with the joint of the robot that moves it."""

    number: int  # of the model's joint
    address: int  # in qpos
    robot_joint: int
    scale: float
    offset: float
    slides: bool


class Kinematics:
    """The frames of one workspace in its model."""

    def __init__(self, settings: WorkspaceSettings, robot: RobotJoints) -> None:
        """Reads the model.

        Raises:
            ConfigError: The model cannot be read, or does not fit file or robot; the message lists all mistakes.
            MissingDependencyError: MuJoCo is not installed.
        """
        self._mujoco = _mujoco()
        self._model = _read(self._mujoco, settings.model)
        self._data = self._mujoco.MjData(self._model)
        check(settings.path, self._mistakes(settings, robot))
        for name, position in settings.held.items():
            self._data.qpos[self._model.joint(name).qposadr[0]] = position
        self._moved = [self._joint(joint, robot) for joint in settings.joints]
        self._frames = settings.frames
        self._bodies = [self._body(frame) for frame in settings.frames]
        self._chains = [self._chain(body) for body in self._bodies]
        self._scales = np.array([joint.scale for joint in self._moved])
        self._offsets = np.array([joint.offset for joint in self._moved])
        self._sources = [joint.robot_joint for joint in self._moved]
        self._addresses = [joint.address for joint in self._moved]
        self._numbers = [joint.number for joint in self._moved]

    def at(self, positions: NDArray[np.float64], half_widths: NDArray[np.float64]) -> FramePositions:
        """The frames at some positions of the joints.

        The reach of a frame follows from the joints between it and the world, from the tip to the base. Let the joints
        behind joint j have moved the frame by at most D. Joint j itself stays, because none of them moves it. A hinge
        that turns by at most δ moves the frame by at most δ (r + D), with r the distance of the point from its axis; a
        slide by δ. So D grows to D + δ (r + D), or D + δ. The order does not matter: the joints end in the same place.

        Args:
            positions: [n, joints of the robot], units.
            half_widths: [n, joints of the robot], units: each joint is within so much of its position.
        """
        values = positions[:, self._sources] * self._scales + self._offsets
        turns = half_widths[:, self._sources] * np.abs(self._scales)
        count = len(values)
        points = np.empty((count, len(self._frames), 3))
        anchors, axes = np.empty((count, len(self._moved), 3)), np.empty((count, len(self._moved), 3))
        model, data, kinematics = self._model, self._data, self._mujoco.mj_kinematics
        for row in range(count):
            data.qpos[self._addresses] = values[row]
            kinematics(model, data)
            anchors[row], axes[row] = data.xanchor[self._numbers], data.xaxis[self._numbers]
            for place, frame in enumerate(self._frames):
                points[row, place] = self._point(frame, place)
        reach = np.empty((count, len(self._frames)))
        for place, chain in enumerate(self._chains):
            reach[:, place] = self._reach(points[:, place], anchors, axes, turns, chain)
        return FramePositions(points, reach)

    def _point(self, frame: Frame, place: int) -> NDArray[np.float64]:
        data = self._data
        if frame.kind == "site":
            number = self._model.site(frame.of).id
            return data.site_xpos[number] + data.site_xmat[number].reshape(3, 3) @ frame.offset
        number = self._bodies[place]
        return data.xpos[number] + data.xmat[number].reshape(3, 3) @ frame.offset

    def _reach(
        self,
        points: NDArray[np.float64],
        anchors: NDArray[np.float64],
        axes: NDArray[np.float64],
        turns: NDArray[np.float64],
        chain: Sequence[int],
    ) -> NDArray[np.float64]:
        """How far the joints of a chain, given from tip to base, can move its frame, [n]."""
        moved = np.zeros(len(points))
        for place in chain:
            turn = turns[:, place]
            if self._moved[place].slides:
                moved = moved + turn
            else:
                distance = np.linalg.norm(np.cross(axes[:, place], points - anchors[:, place]), axis=1)
                moved = moved + turn * (distance + moved)
        return moved

    def _joint(self, joint: ModelJoint, robot: RobotJoints) -> _Moved:
        found = self._model.joint(joint.joint)
        slides = int(found.type[0]) == int(self._mujoco.mjtJoint.mjJNT_SLIDE)
        place = robot.names.index(joint.robot_joint)
        return _Moved(int(found.id), int(found.qposadr[0]), place, joint.scale, joint.offset, slides)

    def _body(self, frame: Frame) -> int:
        found = self._model.body(frame.of) if frame.kind == "body" else self._model.site(frame.of)
        return int(found.id if frame.kind == "body" else found.bodyid[0])

    def _joints_above(self, body: int) -> Iterator[int]:
        """The joints between a body and the world, from the body to the world."""
        while body > 0:
            first, count = int(self._model.body_jntadr[body]), int(self._model.body_jntnum[body])
            yield from reversed(range(first, first + count))
            body = int(self._model.body_parentid[body])

    def _chain(self, body: int) -> list[int]:
        places = {joint.number: place for place, joint in enumerate(self._moved)}
        return [places[number] for number in self._joints_above(body) if number in places]

    def _mistakes(self, settings: WorkspaceSettings, robot: RobotJoints) -> Iterator[str]:
        joints = [self._model.joint(number).name for number in range(self._model.njnt)]
        for joint in settings.joints:
            if joint.joint not in joints:
                hint = advice(joint.joint, joints)
                yield f"joints: {joint.robot_joint}: the model has no joint {joint.joint!r}; {hint}"
            else:
                yield from self._mistakes_in_limits(joint, robot)
        for name in settings.held:
            if name not in joints:
                yield f"held: the model has no joint {name!r}; {advice(name, joints)}"
            elif not self._is_hinge_or_slide(name):
                yield f"held: {name!r} is neither a hinge nor a slide of the model"
        known = {
            "body": [self._model.body(number).name for number in range(self._model.nbody)],
            "site": [self._model.site(number).name for number in range(self._model.nsite)],
        }
        given = {joint.joint for joint in settings.joints} | set(settings.held)
        for frame in settings.frames:
            if frame.of not in known[frame.kind]:
                hint = advice(frame.of, known[frame.kind])
                yield f"frames: {frame.name}: the model has no {frame.kind} {frame.of!r}; {hint}"
                continue
            names = [joints[number] for number in self._joints_above(self._body(frame))]
            if not any(joint.joint in names for joint in settings.joints):
                yield f"frames: {frame.name}: no joint under joints moves {frame.kind} {frame.of!r}"
            for name in names:
                if name not in given:
                    yield (
                        f"frames: {frame.name} is moved by the model's joint {name!r}; say under joints which joint of "
                        "the robot it is, or under held where it stays"
                    )

    def _is_hinge_or_slide(self, joint: str) -> bool:
        kinds = self._mujoco.mjtJoint
        return int(self._model.joint(joint).type[0]) in (int(kinds.mjJNT_HINGE), int(kinds.mjJNT_SLIDE))

    def _mistakes_in_limits(self, joint: ModelJoint, robot: RobotJoints) -> Iterator[str]:
        if not self._is_hinge_or_slide(joint.joint):
            yield f"joints: {joint.robot_joint}: {joint.joint!r} is neither a hinge nor a slide of the model"
            return
        found = self._model.joint(joint.joint)
        if not self._model.jnt_limited[found.id]:
            return
        place = robot.names.index(joint.robot_joint)
        ends = sorted(joint.scale * end + joint.offset for end in (robot.lower[place], robot.upper[place]))
        lowest, highest = map(float, found.range)
        allowed = _LIMIT_TOLERANCE * (highest - lowest)
        if ends[0] < lowest - allowed or ends[1] > highest + allowed:
            yield (
                f"joints: {joint.robot_joint} moves {joint.joint!r} from {ends[0]:g} to {ends[1]:g}, but the model's "
                f"joint goes from {lowest:g} to {highest:g}; check scale and offset, and the limits of robot and model"
            )


def _read(mujoco: Any, path: Path) -> Any:
    """The compiled model; of a URDF its links and joints alone, so that no mesh file is needed."""
    try:
        if path.suffix == ".urdf":
            spec = mujoco.MjSpec.from_string(_without_shapes(path))
            spec.compiler.boundmass, spec.compiler.boundinertia = _LEAST, _LEAST
        else:
            spec = mujoco.MjSpec.from_file(str(path))
        spec.compiler.fusestatic = False  # a link on a fixed joint may be a frame
        return spec.compile()
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"the model {path} cannot be read ({' '.join(str(error).split())})") from error


def _without_shapes(path: Path) -> str:
    tree = ElementTree.fromstring(path.read_text())  # noqa: S314 - expat expands no external entities
    for link in tree.iter("link"):
        for name in ("visual", "collision"):
            for shape in link.findall(name):
                link.remove(shape)
    return ElementTree.tostring(tree, encoding="unicode")
