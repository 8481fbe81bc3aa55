"""Gives out stored images at the times at which a camera would."""

from __future__ import annotations

import time

from pi0_edge.cameras.source import READ_TIMEOUT_S

_LATEST_S = 0.5


class Pacing:
    """When each image of a recording is due, counted from the first."""

    def __init__(self) -> None:
        self._start_ns: int | None = None

    def wait(self, offset_s: float) -> bool:
        """Waits for an image, at most as long as one `read` may take.

        Args:
            offset_s: How long after the first image it is due. A reader that is half a second late begins to count
                anew: images are not played faster than they were recorded.

        Returns:
            Whether it is due now; ask again where not.
        """
        now_ns = time.monotonic_ns()
        offset_ns = int(offset_s * 1e9)
        if self._start_ns is None or now_ns - (self._start_ns + offset_ns) > _LATEST_S * 1e9:
            self._start_ns = now_ns - offset_ns
        left_s = (self._start_ns + offset_ns - now_ns) / 1e9
        time.sleep(min(max(left_s, 0.0), READ_TIMEOUT_S))
        return left_s <= READ_TIMEOUT_S
