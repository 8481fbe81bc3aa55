"""The supply of a bus: its voltage falls with the current of all servos, and can be pulled down for a while."""

import math
from dataclasses import dataclass

IDLE_AMPERES = 0.04
"""Of one servo, beside its motor: standby current of the XM430."""


@dataclass
class Supply:
    """A voltage source with an inner resistance.

    Attributes:
        open_volts: Without load.
        ohms: Of source and wires.
        volts: At the servos, as it was computed last.
        amperes: Of all servos, as it was computed last.
    """

    open_volts: float
    ohms: float
    volts: float = 0.0
    amperes: float = 0.0
    _forced_volts: float = 0.0
    _forced_until: float = -math.inf

    def __post_init__(self) -> None:
        self.volts = self.open_volts

    def force(self, volts: float, until: float) -> None:
        """Another open voltage until a time."""
        self._forced_volts, self._forced_until = volts, until

    def update(self, now: float, amperes: float) -> float:
        """The voltage at the servos when they draw so much."""
        open_volts = self._forced_volts if now < self._forced_until else self.open_volts
        self.amperes = amperes
        self.volts = max(0.0, open_volts - self.ohms * amperes)
        return self.volts
