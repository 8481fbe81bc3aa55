"""Height and width of a camera's images from what ``meta/info.json`` says about its feature.

LeRobot writes ``[height, width, channels]``, openpi's converters and much older LeRobot ``[channels, height, width]``.
``names`` says which; where it does not, either is possible and the images decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = 3
_AXES = ("height", "width", "channel")


def possible_shapes(feature: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The shapes (height, width, 3) that images of a feature may have; empty where it describes no colour image."""
    shape = feature.get("shape")
    if not isinstance(shape, Sequence) or len(shape) != len(_AXES):
        return ()
    axes = _named_axes(feature.get("names"))
    if axes is not None and shape[axes[2]] == COLOURS:
        return (tuple(shape[axis] for axis in axes),)
    # Not named, or named against their own sizes.
    orders = ((0, 1, 2), (1, 2, 0))
    return tuple(tuple(shape[axis] for axis in order) for order in orders if shape[order[2]] == COLOURS)


def _named_axes(names: object) -> tuple[int, ...] | None:
    """Where height, width and channels stand in the shape; None where the names do not say."""
    if not isinstance(names, Sequence) or len(names) != len(_AXES):
        return None
    words = [str(name).lower().removesuffix("s") for name in names]
    words = ["channel" if word in ("c", "rgb", "color", "colour") else word for word in words]
    words = [{"h": "height", "w": "width"}.get(word, word) for word in words]
    return tuple(words.index(axis) for axis in _AXES) if sorted(words) == sorted(_AXES) else None
