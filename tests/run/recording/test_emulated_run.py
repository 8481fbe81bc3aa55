"""A run through the real bridge and the firmware on the emulated board replays bit for bit on this computer's core."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import CAMERA, PROMPT, description_of, picture

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient, ChunkStream, Tick
from firmware_bridge.emulator.board import EmulatedBoard, image_with_servos
from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.lockstep.host_library import FIRMWARE
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import RealTimeChunking
from pi0_edge.cameras import CameraImage
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import load_robot
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.recording import RunRecorder, RunRecording
from pi0_edge.run.recording.replay import replay
from pi0_edge.serving.messages import read_plan

pytestmark = [pytest.mark.real_time, pytest.mark.system]

DRIVEN = "aloha"
"""The robot of the firmware image; the policy's has the same joints."""


@pytest.fixture(params=["without servos", "with servos on a bus"])
def bridge(request: pytest.FixtureRequest, firmware_image: Path) -> Iterator[BridgeClient]:
    board = EmulatedBoard(firmware_image)
    if request.param == "with servos on a bus":
        image = image_with_servos(DRIVEN)
        options = ("lm3s6965evb", f"ROBOT={DRIVEN}", "ACTUATORS=dynamixel", f"BUILD=build/{DRIVEN}")
        subprocess.run(["make", "-s", "-C", str(FIRMWARE), *options], check=True)
        board = EmulatedBoard(image, servos=servos_at_home(load_robot(DRIVEN)))
    with board:
        server = BridgeServer(board.port, "127.0.0.1:0", DRIVEN)
        server.start()
        with BridgeClient(server.address, "pytest") as client:
            client.wait_ready()
            yield client
        server.stop()


def ask(policy: Policy, tick: Tick, scheduler: ChunkScheduler, number: int) -> tuple[Observed, np.ndarray]:
    continuation = scheduler.observe(tick.tick)
    image = CameraImage(picture(number), time.monotonic_ns(), number)
    observed = Observed(tick.tick, time.monotonic_ns(), {CAMERA: image}, tick.measured, PROMPT, number, continuation)
    plan = None if continuation is None else read_plan(continuation, 14)
    chunk = policy.infer(Observation({CAMERA: image.pixels}, tick.measured, PROMPT), number, plan)
    return observed, chunk.actions.astype(np.float32)


def play(policy: Policy, ticks: Iterator[Tick], stream: ChunkStream, recorder: RunRecorder, count: int) -> None:
    scheduler = ChunkScheduler(RealTimeChunking(), replan_ticks=4)
    for number in range(count):
        tick = next(ticks)
        recorder.on_tick(tick)
        while not scheduler.due(tick.tick):
            tick = next(ticks)
            recorder.on_tick(tick)
        observed, actions = ask(policy, tick, scheduler, number)
        recorder.on_observed(observed)
        stream.send(actions, tick.tick)
        report = stream.next_report(2.0)
        assert report is not None
        recorder.on_answered(Answered(observed, time.monotonic_ns(), actions, (), 1.0, 1.0, report))
        if report.outcome == ChunkReport.ACCEPTED:
            scheduler.entered(actions, report.first_tick)
        else:
            scheduler.lost()


def follow(ticks: Iterator[Tick], recorder: RunRecorder, count: int) -> None:
    for _, tick in zip(range(count), ticks, strict=False):
        recorder.on_tick(tick)


def test_what_the_board_did_is_computed_again_here(
    bridge: BridgeClient, policy: Policy, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "run.mcap"
    with RunRecorder(path, description_of(policy, robot=load_robot(DRIVEN))) as recorder, bridge.telemetry() as ticks:
        follow(ticks, recorder, 5)
        bridge.arm(recorder_joints(policy))
        recorder.on_event(Event(0, time.monotonic_ns(), "armed"))
        with bridge.play() as stream:
            play(policy, ticks, stream, recorder, 40)
            if bridge.status().state == State.RUNNING:
                bridge.disarm("the test ends")
            follow(ticks, recorder, 60)
    recording = RunRecording(path)
    accepted = [a for a in recording.answers if a.message.report.outcome == ChunkReport.ACCEPTED]
    assert len(accepted) > 20
    if "servos on a bus" in request.node.name:
        assert any(tick.message.measured != tick.message.executed for tick in recording.ticks)
    report = replay(recording, policy)
    assert report.exact, (report.differences, report.damage)
    assert report.ticks.computed > 100 and report.ticks.unknown == 0


def recorder_joints(policy: Policy) -> tuple[str, ...]:
    return tuple(policy.processor.robot.action_names)
