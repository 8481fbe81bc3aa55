"""Joint positions from `sensor_msgs/JointState`, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ObservationError


def names_any(message: Any, names: Sequence[str]) -> bool:
    """Whether a message is about any of these joints; another source may report other joints on the same topic."""
    return not set(names).isdisjoint(message.name)


def read_joints(message: Any, names: Sequence[str]) -> NDArray[np.float64]:
    """The positions of the joints with these names, in this order.

    Args:
        message: With `name` and `position`; joints that were not asked for may be among them, in any order.
        names: Whose positions.

    Returns:
        [len(names)], in the units of the message.

    Raises:
        ObservationError: If one is missing, comes twice or is not a finite number, or the lists differ in length.
    """
    reported = list(message.name)
    if len(reported) != len(message.position):
        raise ObservationError(
            f"a joint state of {len(reported)} names and {len(message.position)} positions, expected as many of both"
        )
    if missing := [name for name in names if name not in reported]:
        raise ObservationError(
            f"a joint state without {', '.join(missing)}; it has {', '.join(reported) or 'no joints'}. All joints of "
            "the policy must come in one message: see joint_state_broadcaster or joint_state_publisher"
        )
    if twice := [name for name in names if reported.count(name) > 1]:
        raise ObservationError(f"a joint state with {', '.join(twice)} more than once; expected each joint once")
    positions = np.array([message.position[reported.index(name)] for name in names], np.float64)
    if not np.isfinite(positions).all():
        bad = [f"{name} at {value}" for name, value in zip(names, positions, strict=True) if not np.isfinite(value)]
        raise ObservationError(f"a joint state with {', '.join(bad)}, expected finite positions")
    return positions
