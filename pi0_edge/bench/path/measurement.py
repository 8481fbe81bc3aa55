"""The whole path: from the time that stands in an image to the servo command that answers it (boundary B4).

    measurement = measure_path(PathRequest("aloha_sim", policy, profile=profile, seconds=30))
    measurement.samples.latency_ms, measurement.samples.stages_ms, measurement.remarks

A real run plays the policy on a real arm or on the emulated one; docs/bench/path.md says where each time is taken.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.emulated_arm import EmulatedArm, emulated_arm, emulated_robot
from pi0_edge.bench.path.held_policy import HeldPolicy
from pi0_edge.bench.path.listening import PathListener
from pi0_edge.bench.path.times import path_times
from pi0_edge.bench.samples import Samples
from pi0_edge.cameras import CameraSet
from pi0_edge.errors import BenchError
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.robots import CameraSettings, Robot, load_robot
from pi0_edge.run.life_cycle import Outcome
from pi0_edge.run.listeners import RunListener
from pi0_edge.run.loop import RunLimits
from pi0_edge.run.mismatch import RULES
from pi0_edge.run.policy_source import PolicySource, ServedPolicy, policy_source
from pi0_edge.run.preflight import camera_settings
from pi0_edge.run.robot_run import RobotRun, profile_of
from pi0_edge.training_profile import TrainingProfile

if TYPE_CHECKING:
    from pi0_edge.policy import Policy

EMULATED = "emulated"
"""In place of the address of a bridge: board, servos and bridge are started here."""

SYNTHETIC_IMAGE = "testsrc2=size=640x480:rate=30"
"""What the cameras show where none are named: FFmpeg's test picture, which moves, at the rate and size of a USB
camera."""

_REPLAYED = ("file", "folder", "lavfi")
_IMAGE_TIMES: Mapping[str, str] = {
    "exposure start": "the begin of the exposure, as the driver says",
    "frame end": "the end of the image's transfer, as the driver says: exposure and readout lie before it",
    "pipeline": "what the capturing pipeline says",
    "device": "what the camera's own clock says",
    "arrival": "when the image came here: exposure, readout and transport lie before it",
}


@dataclass(frozen=True)
class PathRequest:
    """What to measure.

    Attributes:
        robot: Robot, its name, or its file.
        policy: A loaded policy, the address of a policy server, or anything else that answers observations.
        cameras: Settings by camera, or a cameras file; None for those of the robot file, or where it has none for
            synthetic images.
        bridge: Address of a bridge on this machine, an emulated arm that runs, or `EMULATED`, which starts one.
        seconds: How long the arm is played.
        replan_ticks: Ticks between two observations, if the policy is fast enough.
        prompt: What to do; the default of the policy's robot where empty.
        profile: Of the training data, for the mismatch guard; that of the policy's bundle where None.
        accepted: Rules of the pre-flight that the user accepts by name. On an emulated arm, which nothing can break,
            all rules of the mismatch guard are accepted.
        splice: How a chunk enters; the best that the policy was trained for where None.
        hold: Whether chunks hold the arm still instead of moving it (see `held_policy`); where None, if the images are
            synthetic.
        listeners: See everything that happens, besides the bench.
        tls: Folder with authority, certificate and key, where bridge and policy server ask for a certificate.
    """

    robot: Robot | str | Path
    policy: Policy | PolicySource | str
    cameras: Mapping[str, CameraSettings] | str | Path | None = None
    bridge: str | EmulatedArm = EMULATED
    seconds: float = 30.0
    replan_ticks: int = 25
    prompt: str = ""
    profile: TrainingProfile | None = None
    accepted: Sequence[str] = ()
    splice: str | None = None
    hold: bool | None = None
    listeners: Sequence[RunListener] = ()
    tls: Path | None = None


@dataclass(frozen=True)
class PathMeasurement:
    """What was measured.

    Attributes:
        samples: One row for each chunk that was executed, in the order of time: due is the oldest image, begin the
            observation, end the servo command, or the timer interrupt where the command is not known.
        uncertainty_ms: float64 [n], bound of the error of the time of the timer interrupt.
        transport_ms: Part of the stage `transport` -> float64 [n].
        ages_ms: float64 [m], age of the image behind each executed tick, at its timer interrupt: the largest is the
            worst age of information.
        tick_late_ms: float64 [k], how late the timer interrupt of each tick ran, by the board's own counter.
        starved_ticks: In which the arm ran out of chunks.
        missed_ticks: Whose timer interrupt came a whole tick late.
        outcomes: Chunks by what became of them, names of `ChunkReport.Outcome`.
        not_executed: Accepted chunks that a newer one replaced before their first tick.
        servo_known: Whether the end is the servo command.
        capture_included: Whether the times of the images are those of a camera.
        held: Whether the arm was held still.
        time_sources: Camera -> what the time of its images is.
        control_hz: Of the firmware.
        replan_ticks: As asked for.
        emulated: Whether the arm is.
        metadata: Of the policy.
        overrides: Rules that the user of the run or of the policy overrode.
        remarks: What a reader must know, one sentence each.
    """

    samples: Samples
    uncertainty_ms: NDArray[np.float64]
    transport_ms: Mapping[str, NDArray[np.float64]]
    ages_ms: NDArray[np.float64]
    tick_late_ms: NDArray[np.float64]
    starved_ticks: int
    missed_ticks: int
    outcomes: Mapping[str, int]
    not_executed: int
    servo_known: bool
    capture_included: bool
    held: bool
    time_sources: Mapping[str, str]
    control_hz: float
    replan_ticks: int
    emulated: bool
    metadata: policy_pb2.PolicyMetadata
    overrides: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def worst_age_ms(self) -> float:
        """The oldest image that any tick acted on."""
        return float(self.ages_ms.max())


def measure_path(request: PathRequest) -> PathMeasurement:
    """Plays the policy, and measures every chunk on its way.

    Raises:
        BenchError: The run ended before its time, no chunk was executed, or the bridge runs by another clock.
        PreflightError: The arm was not armed; the error lists every reason.
        EmulatorError: The emulated arm does not start.
        Pi0EdgeError: Robot, cameras or policy cannot be used.
    """
    robot = request.robot if isinstance(request.robot, Robot) else load_robot(request.robot)
    source = policy_source(request.policy, request.tls)
    with ExitStack() as stack:
        stack.callback(source.close)
        metadata = source.metadata()
        named = camera_settings(request.cameras, robot)
        cameras = named or _synthetic_cameras(request, metadata)
        held = not named if request.hold is None else request.hold
        arm, address = stack.enter_context(_arm(request, robot))
        listener = PathListener()
        with RobotRun(
            robot,
            HeldPolicy(source) if held else source,
            cameras,
            address,
            profile=_profile(request),
            accepted=_accepted(request, emulated=arm is not None),
            listeners=[listener, *request.listeners],
            splice=request.splice,
            clear=arm is not None,
            limits=RunLimits(replan_ticks=request.replan_ticks),
            tls=request.tls,
        ) as run:
            seen = _CameraTimes(run)
            run.listen(seen)
            before, after = _play(run, request, listener, stack.enter_context(_client(address, request.tls)))
            ticks = listener.ticks(run.tick_period_s)
            times = path_times(
                listener.chunks, ticks, None if arm is None else arm.commands_left_s(), request.replan_ticks
            )
            overrides = run.overrides
        replayed = sorted(name for name, settings in cameras.items() if settings.kind in _REPLAYED)
        return PathMeasurement(
            samples=times.samples,
            uncertainty_ms=times.uncertainty_ms,
            transport_ms=times.transport_ms,
            ages_ms=times.ages_ms,
            tick_late_ms=ticks.late_ms,
            starved_ticks=after.counters.starved_ticks - before.counters.starved_ticks,
            missed_ticks=after.counters.missed_ticks - before.counters.missed_ticks,
            outcomes=dict(listener.outcomes),
            not_executed=times.not_executed,
            servo_known=arm is not None,
            capture_included=not replayed,
            held=held,
            time_sources=seen.sources,
            control_hz=1 / run.tick_period_s,
            replan_ticks=request.replan_ticks,
            emulated=arm is not None,
            metadata=metadata,
            overrides=overrides,
            remarks=tuple(_remarks(seen.sources, replayed, arm, held, isinstance(source, ServedPolicy))),
        )


def _play(
    run: RobotRun, request: PathRequest, listener: PathListener, client: BridgeClient
) -> tuple[bridge_pb2.Status, bridge_pb2.Status]:
    """Plays to the end; returns the bridge's status before and after."""
    before = client.status()
    result = run.play(request.prompt, request.seconds)
    if result.outcome is not Outcome.DONE:
        raise BenchError(f"the run ended after {result.played_s:.1f} of {request.seconds:g} s: {result.reason}")
    if not listener.chunks:
        said = f": {listener.refused}" if listener.refused else ""
        raise BenchError(f"no chunk was accepted in {result.played_s:.1f} s{said}; run for longer")
    return before, client.status()


class _CameraTimes:
    """A listener that keeps what the times of the images are.

    Attributes:
        sources: By camera.
    """

    def __init__(self, run: RobotRun) -> None:
        self.sources: dict[str, str] = {}
        self._run = run

    def on_observed(self, observed: object) -> None:
        cameras: CameraSet | None = self._run.cameras
        if not self.sources and cameras is not None:
            self.sources = {name: health.time_source or "arrival" for name, health in cameras.health().items()}

    def on_answered(self, answered: object) -> None:
        """Nothing."""

    def on_tick(self, tick: object) -> None:
        """Nothing."""

    def on_event(self, event: object) -> None:
        """Nothing."""


@contextmanager
def _arm(request: PathRequest, robot: Robot) -> Iterator[tuple[EmulatedArm | None, str]]:
    """The emulated arm, started where that was asked for, or None for a real one; and the address of its bridge."""
    if isinstance(request.bridge, EmulatedArm):
        yield request.bridge, request.bridge.bridge
    elif request.bridge == EMULATED:
        with (
            tempfile.TemporaryDirectory(prefix="pi0-edge-bench-") as folder,
            emulated_arm(emulated_robot(robot.action_names), Path(folder)) as arm,
        ):
            yield arm, arm.bridge
    else:
        yield None, request.bridge


@contextmanager
def _client(address: str, tls: Path | None) -> Iterator[BridgeClient]:
    with BridgeClient(address, "pi0-edge bench", tls) as client:
        client.wait_ready()
        yield client


def _profile(request: PathRequest) -> TrainingProfile | None:
    return request.profile if request.profile is not None else profile_of(request.policy)


def _accepted(request: PathRequest, emulated: bool) -> tuple[str, ...]:
    """Of an emulated arm, whatever the images show: nothing moves that could break."""
    of_guard = (*RULES, "missing-camera", "slow-policy") if emulated else ()
    return tuple(dict.fromkeys((*request.accepted, *of_guard)))


def _synthetic_cameras(request: PathRequest, metadata: policy_pb2.PolicyMetadata) -> Mapping[str, CameraSettings]:
    """For the cameras that the policy was trained with; for all of its robot where nobody knows."""
    profile = _profile(request)
    names = tuple(metadata.cameras) if profile is None else tuple(profile.cameras)
    return {name: CameraSettings(f"lavfi:{SYNTHETIC_IMAGE}", max_age_s=0.5, may_repeat=True) for name in names}


def _remarks(
    sources: Mapping[str, str], replayed: Sequence[str], arm: EmulatedArm | None, held: bool, served: bool
) -> Iterator[str]:
    if replayed:
        yield (
            f"capture not included: the images of {', '.join(replayed)} are replayed, and their time is when they were "
            "given out"
        )
    for name, source in sources.items():
        if name not in replayed:
            yield f"the time of an image of {name} is {_IMAGE_TIMES.get(source, source)}"
    if arm is None:
        yield "servo command not included: only an emulated servo bus says when it left; the end is the timer interrupt"
    else:
        yield "the board is emulated: its interrupts are as late as the processor that QEMU shares"
    if held:
        yield "the arm is held still: chunks have the time and the size of the policy's, and other actions"
    if not served:
        yield "the policy runs in this process: transport is the way between threads and to the bridge"
