"""How late the chunks of a robot may be: the field `latency` of a robot file.

    latency:
      p99_ms: 180               # optional: what 99 of 100 chunks may take, in milliseconds
      misses: 0.001             # optional: largest share of periods without a new chunk; default 0, none at all
      replan_ticks: 20          # optional: ticks from one observation to the next; default 25
      boundary: served          # optional: what p99_ms is about: policy, served or path; default served

`pi0-edge bench check` judges a measurement by it, and `pi0-edge bench certify` and `pi0-edge run` replan as often as it
says. Neither the joint table of the firmware nor a bundle holds it: it belongs to one robot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

FELT_BOUNDARIES = ("policy", "served", "path")
"""What a robot can feel: an observation answered in its own process, by a policy server, or up to the servo command."""


@dataclass(frozen=True)
class LatencyLimits:
    """How late chunks may be; fields as in the YAML above.

    Attributes:
        p99_ms: What 99 of 100 chunks may take, in milliseconds; None where nobody said.
        misses: Largest share of periods that may pass without a new chunk.
        replan_ticks: Ticks from one observation to the next; None where nobody said.
        boundary: What `p99_ms` is about, one of `FELT_BOUNDARIES`.
    """

    p99_ms: float | None = None
    misses: float = 0.0
    replan_ticks: int | None = None
    boundary: str = "served"

    def mistakes(self) -> Iterator[str]:
        """What is wrong with it, each in words."""
        if self.p99_ms is not None and not (_is_number(self.p99_ms) and self.p99_ms > 0):
            yield f"p99_ms is {self.p99_ms!r}, expected milliseconds, > 0"
        if not (_is_number(self.misses) and 0 <= self.misses < 1):
            yield f"misses is {self.misses!r}, expected a share from 0 to below 1, such as 0.001"
        if self.replan_ticks is not None and not (type(self.replan_ticks) is int and self.replan_ticks > 0):
            yield f"replan_ticks is {self.replan_ticks!r}, expected a whole number of ticks from 1 on"
        if self.boundary not in FELT_BOUNDARIES:
            yield f"boundary is {self.boundary!r}, expected one of {', '.join(FELT_BOUNDARIES)}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
