"""The serving certificate: with which replanning interval and splice a robot can run a policy, by measured latency.

All of it is in ticks of P = 1000 / control_hz milliseconds. docs/time.md defines the words, docs/real-time-chunking.md
the schedule, which `firmware_bridge.replanning.ChunkScheduler` keeps. A chunk of H actions that answers the observation
of tick T plans the ticks T + 1 to T + H. Where it enters at tick E, its delay is d = E - T - 1. The formulae:

Delay of a latency L. The observation of tick T is taken before tick T + 1. `policy` and `served` end when the chunk is
    there, at t < T + 1 + L / P. Then it needs w ticks on the serial line, and the firmware has a guard of G = 2 ticks:
    E = ceil(t + w) + G (`firmware_bridge.bridge.player`). With the link l = 1 + w + G this is E <= T + ceil(L / P + l).
    `path` ends at the servo command of tick E and contains the link, so that there l = 0. In both

        d = ceil(L / P + l) - 1         and, turned round, L = (d + 1 - l) * P is the longest latency of a delay d.

Starvation. One inference runs at a time. It begins r ticks after the one before, or when the chunk before has entered:
    after max(r, d + 1) ticks. The next chunk enters at T + max(r, d + 1) + d + 1, and the plan before it ends at T + H.
    So the ring holds a setpoint for every tick exactly where, for all chunks,

        max(r, d + 1) + d <= H          or d <= D = min(H - r, floor((H - 1) / 2)).

    The arm starves above the latency of D; the margin lies between that and the longest latency that was measured.

Worst age of information. The last tick that a chunk determines is the one before the next chunk enters,
    T + max(r, d + 1) + d: replanning interval and delay after its observation. The age that the image had in the
    observation comes on top.

        age = (max(r, d + 1) + d) * P

`replan_interval` chooses r as wanted, or shorter where H - d is. The splice is the best one for the delay
(docs/real-time-chunking.md): `trained-rtc` where the policy was trained with prefixes as long as the delay, else `rtc`;
`hold-swap` where the policy server takes no plan.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.errors import BenchError
from pi0_edge.json_files import read_json_object
from pi0_edge.latency.stages import Boundary
from pi0_edge.synced_files import save_synced

SCHEMA = "pi0-edge-serving-certificate"
VERSION = 1

SPLICES = ("trained-rtc", "rtc", "hold-swap")
"""Splices that a robot's own program chooses, the best first."""

REPLAN_TICKS = 25
"""Ticks between two observations where nobody says another number."""

_RATE_TOLERANCE = 0.01
_ROUNDING = 1e-9
"""Of a tick: what sums of floating-point numbers are off by must not cost a whole one."""


def delay_of(latency_ms: float, control_hz: float, link_ticks: float) -> int:
    """The largest delay, in ticks, of a chunk that takes so long.

    Args:
        latency_ms: Of the chunk, within its boundary, in milliseconds.
        control_hz: Ticks per second.
        link_ticks: What the boundary does not contain: l in the text above, 0 for `path`.
    """
    return max(0, math.ceil(latency_ms * control_hz / 1000 + link_ticks - _ROUNDING) - 1)


def longest_latency_ms(delay: int, control_hz: float, link_ticks: float) -> float:
    """The longest latency, in milliseconds, whose delay is no larger than `delay` ticks; the inverse of `delay_of`."""
    return (delay + 1 - link_ticks) * 1000 / control_hz


def longest_delay(horizon: int, replan_ticks: int) -> int:
    """The largest delay, in ticks, with which the ring of setpoints never starves; below 0 where none does: D above.

    Args:
        horizon: Actions in a chunk.
        replan_ticks: Ticks between two observations.
    """
    return min(horizon - replan_ticks, (horizon - 1) // 2)


def replan_interval(horizon: int, delay: int, wanted: int) -> int | None:
    """Ticks between two observations: as wanted, or fewer, so that a delay never starves the ring.

    Args:
        horizon: Actions in a chunk.
        delay: The largest delay, in ticks.
        wanted: Ticks that the robot would like.

    Returns:
        The interval; None where two delays do not fit in a chunk, so that no interval is short enough.
    """
    chosen = min(wanted, horizon - delay)
    return chosen if delay <= longest_delay(horizon, max(chosen, 1)) else None


@dataclass(frozen=True)
class Certificate:
    """What a robot can run with, and what that was measured of.

    Attributes:
        result: Id of the bench result.
        measured: When it was measured, coordinated universal time, ISO 8601.
        bundle_sha256: Of the bundle's manifest.
        policy: Name of the bundle, for people.
        engine: What ran it.
        scheme: How it is quantized.
        board: Model of the computer; empty where it does not say.
        power_mode: Number and name of its power mode; empty where it has none.
        boundary: What the latencies are about: `policy`, `served` or `path`.
        control_hz: Rate of the robot's control loop.
        horizon: Actions in a chunk.
        samples: How many chunks were timed.
        p50_ms: Median of their latencies, in milliseconds.
        p99_ms: That 99 of 100 did not exceed.
        longest_ms: The longest.
        link_ticks: From the end of `served` to the first tick that the chunk can change, in ticks: l above.
        replan_ticks: Ticks between two observations.
        splice: How a chunk enters the plan: `trained-rtc`, `rtc` or `hold-swap`.

    Raises:
        BenchError: If a value is not possible, or the ring of setpoints would starve at the longest latency.
    """

    result: str
    measured: str
    bundle_sha256: str
    policy: str
    engine: str
    scheme: str
    board: str
    power_mode: str
    boundary: str
    control_hz: float
    horizon: int
    samples: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    link_ticks: float
    replan_ticks: int
    splice: str

    def __post_init__(self) -> None:
        if found := list(self._mistakes()):
            raise BenchError(f"the certificate is not possible: {'; '.join(found)}; certify again")

    def _mistakes(self) -> Iterator[str]:
        numbers = (self.control_hz, self.p50_ms, self.p99_ms, self.longest_ms, self.link_ticks)
        if not all(map(math.isfinite, numbers)) or self.control_hz <= 0 or self.link_ticks < 0:
            yield f"its numbers are {numbers}, expected finite ones, with a rate above 0"
            return
        if not 0 <= self.p50_ms <= self.p99_ms <= self.longest_ms:
            yield f"its latencies are {self.p50_ms:g}, {self.p99_ms:g} and {self.longest_ms:g} ms, expected to rise"
        if min(self.horizon, self.samples, self.replan_ticks) < 1:
            yield f"horizon {self.horizon}, {self.samples} samples, {self.replan_ticks} ticks: expected 1 or more"
        if self.boundary not in set(Boundary) - {Boundary.ENGINE}:
            yield f"its boundary is {self.boundary!r}, expected policy, served or path"
        if self.splice not in SPLICES:
            yield f"its splice is {self.splice!r}, expected one of {', '.join(SPLICES)}"
        if self.margin_ticks < 0:
            yield (
                f"the ring of setpoints starves above {self.starves_above_ms:g} ms, and a chunk took "
                f"{self.longest_ms:g} ms"
            )

    @property
    def tick_ms(self) -> float:
        """Milliseconds of a tick."""
        return 1000 / self.control_hz

    @property
    def delay_ticks(self) -> int:
        """The delay that 99 of 100 chunks do not exceed."""
        return delay_of(self.p99_ms, self.control_hz, self._outside_ticks)

    @property
    def longest_delay_ticks(self) -> int:
        """The delay of the longest latency that was measured."""
        return delay_of(self.longest_ms, self.control_hz, self._outside_ticks)

    @property
    def starves_above_ms(self) -> float:
        """The longest latency, within the boundary, with which the ring of setpoints never starves."""
        return longest_latency_ms(longest_delay(self.horizon, self.replan_ticks), self.control_hz, self._outside_ticks)

    @property
    def budget_ms(self) -> float:
        """The same of `served`, whatever the boundary is: what a self-test can judge.

        Not above 0 where the link alone takes longer, as it can for a `path` of few ticks.
        """
        return longest_latency_ms(longest_delay(self.horizon, self.replan_ticks), self.control_hz, self.link_ticks)

    @property
    def margin_ms(self) -> float:
        """How much longer than the longest measured one a chunk may take until the ring starves."""
        return self.starves_above_ms - self.longest_ms

    @property
    def margin_ticks(self) -> int:
        """The same in whole ticks of delay."""
        return longest_delay(self.horizon, self.replan_ticks) - self.longest_delay_ticks

    @property
    def worst_age_ms(self) -> float:
        """How long before a tick, at most, the observation behind it was taken."""
        return (max(self.replan_ticks, self.longest_delay_ticks + 1) + self.longest_delay_ticks) * self.tick_ms

    @property
    def _outside_ticks(self) -> float:
        return 0.0 if self.boundary == Boundary.PATH else self.link_ticks

    def differences(
        self,
        *,
        bundle_sha256: str | None = None,
        engine: str | None = None,
        scheme: str | None = None,
        horizon: int | None = None,
        control_hz: float | None = None,
        board: str = "",
        power_mode: str = "",
    ) -> Iterator[str]:
        """Where it was measured of something else than what is to run, one sentence each.

        Args:
            bundle_sha256: Of the bundle; empty where there is none. None, as everywhere here, compares nothing.
            engine: That will run it.
            scheme: How the policy is quantized.
            horizon: Actions in its chunks.
            control_hz: Rate of the robot.
            board: Model of the computer; empty compares nothing.
            power_mode: Of the computer; empty compares nothing.
        """
        if bundle_sha256 is not None and bundle_sha256 != self.bundle_sha256:
            found = f"the bundle {bundle_sha256[:12]}" if bundle_sha256 else "a policy without a bundle"
            yield f"it is of the bundle {self.bundle_sha256[:12]} ({self.policy}), and this is {found}"
        for what, found, expected in (
            ("engine", engine, self.engine),
            ("scheme", scheme, self.scheme),
            ("horizon", horizon, self.horizon),
        ):
            if found is not None and found != expected:
                yield f"it is of the {what} {expected}, and here it is {found}"
        if control_hz is not None and abs(control_hz / self.control_hz - 1) > _RATE_TOLERANCE:
            yield f"it is of a robot with {self.control_hz:g} ticks per second, and this one has {control_hz:g}"
        for what, found, expected in (("computer", board, self.board), ("power mode", power_mode, self.power_mode)):
            if found and expected and found != expected:
                yield f"it is of the {what} {expected}, and here it is {found}"

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has; what follows from the measurement stands under `follows`, for those who read it."""
        follows = ("delay_ticks", "longest_delay_ticks", "starves_above_ms", "margin_ms", "margin_ticks", "budget_ms")
        derived = {name: getattr(self, name) for name in (*follows, "worst_age_ms")}
        return {"schema": SCHEMA, "version": VERSION, **dataclasses.asdict(self), "follows": derived}

    def save(self, path: Path) -> None:
        """Writes the JSON file, whole or not at all.

        Raises:
            BenchError: If it cannot be written.
        """
        try:
            save_synced(path, (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise BenchError(f"{path} cannot be written ({error.strerror})") from error


def parse_certificate(read: Mapping[str, Any], name: str) -> Certificate:
    """The certificate that an object holds; `name` stands in errors. What it says under `follows` is computed anew.

    Raises:
        BenchError: If it holds none, one of a version that is not known here, or one that is not possible.
    """
    if read.get("schema") != SCHEMA or read.get("version") != VERSION:
        found = f"{read.get('schema')} version {read.get('version')}"
        raise BenchError(f"{name} holds {found}, expected {SCHEMA} version {VERSION}; certify again")
    try:
        values: dict[str, Any] = {
            field.name: _KINDS[str(field.type)](read[field.name]) for field in dataclasses.fields(Certificate)
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BenchError(f"{name} is incomplete ({error!r}); certify again") from error
    try:
        return Certificate(**values)
    except BenchError as error:
        raise BenchError(f"{name}: {error}") from error


_KINDS = {"str": str, "int": int, "float": float}


def load_certificate(path: Path) -> Certificate:
    """Reads the JSON file of a certificate.

    Raises:
        BenchError: If it is none, or cannot be used.
    """
    advice = "give the file that `pi0-edge bench certify` wrote"
    return parse_certificate(read_json_object(path, BenchError, advice), str(path))


def certificate_file(bundle: Path) -> Path:
    """Where the certificate of a bundle lies: beside its folder, as its release does."""
    bundle = bundle.absolute()
    return bundle.with_name(f"{bundle.name}.certificate.json")


def find_certificate(bundle: Path) -> Certificate | None:
    """The certificate beside the folder of a bundle; None where there is none.

    Raises:
        BenchError: If it cannot be used.
    """
    file = certificate_file(bundle)
    return load_certificate(file) if file.exists() else None
