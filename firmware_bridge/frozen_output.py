"""Notices a policy that answers new observations with the same moving chunk: its output is frozen, not its arm.

A network that samples noise never gives the same floats twice. A chunk that holds still may come as often as it likes.
"""

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import ChunkError

FROZEN_S = 1.0
"""How much newer an observation must be than the first that was answered with the same chunk."""


class FrozenOutput:
    """The chunk that came last, and the observation that it first answered."""

    def __init__(self) -> None:
        self._actions: NDArray[np.floating] | None = None
        self._first_observed = 0

    def check(self, actions: NDArray[np.floating], observed_tick: int, tick_period_s: float) -> None:
        """Takes the next chunk, [horizon, joints] in physical units, that answers the observation of a tick.

        Raises:
            ChunkError: the same chunk, in which joints move, has answered observations for longer than `FROZEN_S`.
        """
        if self._actions is None or not np.array_equal(actions, self._actions):
            self._actions, self._first_observed = actions.copy(), observed_tick
            return
        frozen_s = (observed_tick - self._first_observed) * tick_period_s
        if frozen_s > FROZEN_S and (actions != actions[0]).any():
            raise ChunkError(
                f"the policy answers with the same moving chunk since {frozen_s:.1f} s, whatever it observes: "
                "its output is frozen; restart it"
            )
