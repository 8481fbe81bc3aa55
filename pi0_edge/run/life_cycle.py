"""The life of a run: its phases, what leads from one to the next, how it ends, and what its exit code is.

| phase      | arm      | what happens                                                                    |
|------------|----------|---------------------------------------------------------------------------------|
| CHECKING   | disarmed | pre-flight                                                                      |
| PLAYING    | armed    | the policy moves the arm                                                        |
| PAUSED     | disarmed | a person asked for it; goes on when a person says so                            |
| HOLDING    | disarmed | images or chunks are missing; goes on by itself when they are back              |
| TAKEN_OVER | armed    | a person moves the arm                                                          |
| ENDED      | disarmed | nothing; SAFE or ESTOP where the firmware latched them, as the outcome says     |

A disarmed arm brakes as fast as its acceleration limits allow and holds its position with torque on (docs/safety.md):
no chunk moves it, and another client may take it. That is what a pause is for.
"""

from __future__ import annotations

import threading
from enum import Enum

from firmware_bridge.errors import StateError


class Phase(Enum):
    """Where a run stands."""

    CHECKING = "checking"
    PLAYING = "playing"
    PAUSED = "paused"
    HOLDING = "holding"
    TAKEN_OVER = "taken over"
    ENDED = "ended"


class Step(Enum):
    """What leads from one phase to another."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    HOLD = "hold"
    TAKE_OVER = "take over"
    HAND_BACK = "hand back"


class Outcome(Enum):
    """How a run has ended; the value is the exit code of `pi0-edge run`."""

    DONE = 0
    """The time is up, or somebody asked to stop."""
    REFUSED = 3
    """Pre-flight, policy, bridge or firmware refuse to work with this robot."""
    FAULT = 4
    """The firmware latched a fault; the arm is SAFE."""
    LOST = 5
    """Policy, camera, bridge or the right to move the arm were lost for longer than the run waits for them."""
    ESTOPPED = 6
    """Emergency stop; the arm is ESTOP."""


ARMED_PHASES = (Phase.PLAYING, Phase.TAKEN_OVER)

TRANSITIONS: dict[tuple[Phase, Step], Phase] = {
    (Phase.CHECKING, Step.START): Phase.PLAYING,
    (Phase.PLAYING, Step.PAUSE): Phase.PAUSED,
    (Phase.PLAYING, Step.HOLD): Phase.HOLDING,
    (Phase.PLAYING, Step.TAKE_OVER): Phase.TAKEN_OVER,
    (Phase.PAUSED, Step.RESUME): Phase.PLAYING,
    (Phase.PAUSED, Step.HOLD): Phase.HOLDING,
    (Phase.PAUSED, Step.TAKE_OVER): Phase.TAKEN_OVER,
    (Phase.HOLDING, Step.RESUME): Phase.PLAYING,
    (Phase.HOLDING, Step.PAUSE): Phase.PAUSED,
    (Phase.HOLDING, Step.TAKE_OVER): Phase.TAKEN_OVER,
    (Phase.TAKEN_OVER, Step.HAND_BACK): Phase.PLAYING,
    (Phase.TAKEN_OVER, Step.PAUSE): Phase.PAUSED,
}
"""Every phase may also end; ENDED is never left."""


class LifeCycle:
    """The phase of one run. One thread changes it, others may read.

    Attributes:
        phase: Where the run stands.
        reason: Why, in words.
        outcome: How it has ended; None before.
    """

    def __init__(self) -> None:
        self.phase = Phase.CHECKING
        self.reason = ""
        self.outcome: Outcome | None = None
        self._ended = threading.Event()

    @property
    def armed(self) -> bool:
        """Whether the arm is to be armed in this phase."""
        return self.phase in ARMED_PHASES

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.phase is Phase.ENDED

    def allows(self, step: Step) -> bool:
        """Whether the step is possible now."""
        return (self.phase, step) in TRANSITIONS

    def take(self, step: Step, reason: str = "") -> Phase:
        """Goes to the next phase, and returns it.

        Raises:
            StateError: The step is not possible in this phase.
        """
        if not self.allows(step):
            possible = ", ".join(one.value for phase, one in TRANSITIONS if phase is self.phase) or "nothing"
            raise StateError(f"a run that is {self.phase.value} cannot {step.value}; possible are: {possible}")
        self.phase, self.reason = TRANSITIONS[self.phase, step], reason
        return self.phase

    def end(self, outcome: Outcome, reason: str) -> None:
        """Ends the run; the first end is the one that counts."""
        if self.phase is Phase.ENDED:
            return
        self.phase, self.outcome, self.reason = Phase.ENDED, outcome, reason
        self._ended.set()

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Waits until the run has ended; False where it has not within `timeout_s` seconds."""
        return self._ended.wait(timeout_s)
