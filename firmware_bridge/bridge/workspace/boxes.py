"""How far a frame is inside or outside of the boxes of its workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.bridge.workspace.settings import Box, WorkspaceSettings

_AXES = "xyz"


class Rule(Protocol):
    """What one frame must keep to."""

    @property
    def frame(self) -> int:
        """Place of the frame in the file."""
        ...

    def clearance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far the ball around a frame may still move in any direction, metres, [n]; negative outside.

        Args:
            points: [n, 3], metres, in the world of the model.
        """
        ...

    def describe(self, point: NDArray[np.float64]) -> str:
        """What the frame does at a point where the clearance is too small, with the box, axis and face."""
        ...


@dataclass(frozen=True)
class AllowedBoxes:
    """The frame lies in at least one of these boxes."""

    frame: int
    name: str
    boxes: tuple[Box, ...]
    kept: float  # radius and margin, metres

    def clearance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `Rule.clearance`: of the box in which the frame is deepest, to its nearest face."""
        return np.max([_depths(box, points).min(axis=1) for box in self.boxes], axis=0) - self.kept

    def describe(self, point: NDArray[np.float64]) -> str:
        """As `Rule.describe`."""
        box = max(self.boxes, key=lambda box: _depths(box, point[None]).min())
        face = int(_depths(box, point[None])[0].argmin())
        return f"{self.name} leaves the allowed box {box.name} {_face(face, 'above', 'below')}"


@dataclass(frozen=True)
class ForbiddenBox:
    """The frame lies outside of this box."""

    frame: int
    name: str
    box: Box
    kept: float  # radius and margin, metres

    def clearance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """As `Rule.clearance`: to the face that is farthest, which is no more than the distance."""
        return -_depths(self.box, points).min(axis=1) - self.kept

    def describe(self, point: NDArray[np.float64]) -> str:
        """As `Rule.describe`."""
        face = int(_depths(self.box, point[None])[0].argmin())
        return f"{self.name} enters the forbidden box {self.box.name} from {_face(face, 'above', 'below')}"


def rules(settings: WorkspaceSettings) -> Iterator[Rule]:
    """What every frame must keep to."""
    for place, frame in enumerate(settings.frames):
        kept = frame.radius + settings.margin
        allowed = tuple(box for box in settings.allowed if frame.name in box.frames)
        if allowed:
            yield AllowedBoxes(place, frame.name, allowed, kept)
        for box in settings.forbidden:
            if frame.name in box.frames:
                yield ForbiddenBox(place, frame.name, box, kept)


def _depths(box: Box, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far points lie behind the six faces, metres, [n, 6]: those at the low ends of x, y, z, then the others."""
    return np.concatenate([points - box.lowest, box.highest - points], axis=1)


def _face(face: int, high: str, low: str) -> str:
    return f"{low if face < 3 else high} its {'min' if face < 3 else 'max'} {_AXES[face % 3]}"
