"""Follows the telemetry of a released arm and keeps what its joints did."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import Tick
from firmware_bridge.errors import BridgeError, CalibrationError, StateError
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import JointFlag
from pi0_edge.run.calibration.servo_counts import ServoCounts

POSE_TICKS = 15
"""A pose is the median of so many ticks."""

STILL_COUNTS = 12
"""A joint that moved by more meanwhile, about one degree, was not held still."""

_NEWS_LIMIT_S = 3.0
_TORQUE_LIMIT_S = 2.0


class CountsRecorder:
    """The counts of every tick, collected in a thread of its own while the context lasts."""

    def __init__(self, ticks: Iterator[Tick], counts: ServoCounts) -> None:
        self._ticks = ticks
        self._counts = counts
        self._changed = threading.Condition()
        self._rows: list[NDArray[np.float64]] = []
        self._flags = np.zeros(len(counts.joints), np.uint8)
        self._problem: BridgeError | None = None
        self._end: BridgeError | None = None
        threading.Thread(target=self._collect, name="calibration-telemetry", daemon=True).start()

    def await_no_torque(self) -> None:
        """Waits until no servo holds its joint.

        Raises:
            CalibrationError: One still does after `_TORQUE_LIMIT_S`.
        """
        deadline = time.monotonic() + _TORQUE_LIMIT_S
        self.restart()
        while True:
            self._await_rows(len(self._rows) + 1)
            holds = (self._flags & JointFlag.TORQUE) != 0
            holding = [name for name, held in zip(self._counts.joints, holds, strict=True) if held]
            if not holding:
                return
            if time.monotonic() > deadline:
                raise CalibrationError(f"{', '.join(holding)} still holds its position; its servo took no RELEASE")

    def restart(self) -> None:
        """Forgets what was recorded."""
        with self._changed:
            self._rows.clear()
            self._problem = None

    def recorded(self) -> NDArray[np.float64]:
        """Counts since `restart`, [ticks, joints].

        Raises:
            BridgeError: What stood against one of these ticks: a silent servo, an arm that was armed, a lost bridge.
        """
        with self._changed:
            self._check()
            return np.array(self._rows)

    def pose(self, held: Sequence[int]) -> NDArray[np.float64]:
        """Where the joints are, counts [joints]: the median of the next `POSE_TICKS` ticks.

        Args:
            held: Places of the joints that have to be still meanwhile.

        Raises:
            CalibrationError: One of them moves.
            BridgeError: As `recorded`.
        """
        self.restart()
        self._await_rows(POSE_TICKS)
        rows = self.recorded()
        if moving := [self._counts.joints[place] for place in held if np.ptp(rows[:, place]) > STILL_COUNTS]:
            raise CalibrationError(f"{', '.join(moving)} moved while the pose was read; hold the arm still")
        return np.median(rows, axis=0)

    def _await_rows(self, count: int) -> None:
        with self._changed:
            told = self._changed.wait_for(
                lambda: len(self._rows) >= count or self._problem is not None or self._end is not None, _NEWS_LIMIT_S
            )
            self._check()
            if not told:
                raise CalibrationError(
                    f"no telemetry for {_NEWS_LIMIT_S:g} s: is the bridge's link to the firmware up?"
                )

    def _check(self) -> None:
        problem = self._end or self._problem
        if problem is not None:
            raise problem

    def _collect(self) -> None:
        try:
            for tick in self._ticks:
                self._take(tick)
            self._finish(CalibrationError("the telemetry of the bridge has ended"))
        except BridgeError as error:
            self._finish(error)

    def _take(self, tick: Tick) -> None:
        with self._changed:
            if tick.state in ACTIVE_STATES:
                self._end = StateError(f"the arm became {tick.state.name}: another client armed it; calibrate again")
            try:
                self._flags = tick.joint_flags
                self._rows.append(self._counts.of(tick.measured, tick.measurement_age_s, tick.joint_flags))
            except BridgeError as problem:
                self._problem = problem
            self._changed.notify_all()

    def _finish(self, error: BridgeError) -> None:
        with self._changed:
            self._end = self._end or error
            self._changed.notify_all()
