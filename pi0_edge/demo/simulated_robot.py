"""The simulated ALOHA as a process of its own: it moves as its servos measure, and shows itself to the policy.

The firmware commands emulated servos, and these report where the joints are. The joints of the simulation follow them,
so that the pictures show the arm that was measured; the state that the policy gets is what the servo bus measured.

`python -m pi0_edge.demo.simulated_robot --bridge ADDRESS --policy ADDRESS ...` plays episodes and writes a `RunRecord`.
One line of JSON per finished episode goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from firmware_bridge.client import BridgeClient, ChunkStream, Tick
from firmware_bridge.errors import StateError
from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.robot import ACTIVE_STATES
from firmware_bridge.splice import client_splice
from pi0_edge.demo.policy_worker import PlayedChunk, PolicyWorker, Request
from pi0_edge.demo.run_record import RecordBuilder
from pi0_edge.demo.tick_follower import TickFollower, glide_home, ready_arm
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.evaluation.rollout import observe
from pi0_edge.protos import bridge_pb2
from pi0_edge.serving.policy_client import PolicyClient
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube
from pi0_edge.sim.tasks import TRANSFER_CUBE

FILM_EVERY_TICKS = 20
FILM_SIZE = (240, 320)
IMAGE_SIZE = 112
PROMPT = "Transfer cube"
STOP_TICKS = 25
"""Within so many ticks of the end of the stream, the follower has heard that the arm was stopped: half a second."""


class RecordedTicks(TickFollower):
    """Writes down what it follows.

    Attributes:
        record: Of this run.
        episode: The number of the present one; -1 between two.
    """

    def __init__(self, env: AlohaTransferCube, ticks: Iterator[Tick], record: RecordBuilder) -> None:
        super().__init__(env, ticks)
        self.record = record
        self.episode = -1

    def advance(self) -> Tick:
        """As `TickFollower.advance`."""
        tick = super().advance()
        self._write_down(tick, self.arrived_s)
        return tick

    def _write_down(self, tick: Tick, arrived: float) -> None:
        self.record.add(
            tick=tick.tick,
            tick_episode=self.episode,
            tick_counter_s=tick.counter / tick.counter_hz,
            tick_state=tick.state,
            tick_flags=tick.flags,
            tick_faults=tick.faults,
            tick_ring_level=tick.ring_level,
            tick_chunk=tick.chunk_id,
            tick_observed=tick.observed_tick,
            executed=tick.executed,
            measured=tick.measured,
            measurement_age_ms=1e3 * tick.measurement_age_s.max(),
            lag_ms=1e3 * (time.monotonic() - arrived),
        )
        if self.episode >= 0 and tick.tick % FILM_EVERY_TICKS == 0:
            film = self.env.render("angle", *FILM_SIZE)
            self.record.add(film=film, film_tick=tick.tick, film_episode=self.episode)


class SimulatedRobot:
    """Plays one episode at a time: observe, ask, execute."""

    def __init__(
        self, stream: ChunkStream, worker: PolicyWorker, follower: RecordedTicks, scheduler: ChunkScheduler
    ) -> None:
        self.stream = stream
        self.worker = worker
        self.follower = follower
        self.record = follower.record
        self.scheduler = scheduler

    def play_episode(self, number: int, seed: int) -> bool:
        """Resets the scene and lets the policy play until success, a fault of the firmware or the end of its time."""
        env, follower = self.follower.env, self.follower
        env.reset(seed)
        follower.episode = number
        start = follower.advance().tick
        while not env.success and follower.moving and follower.advance().tick - start < TRANSFER_CUBE.max_ticks:
            self._collect(self._finished(self.worker.poll))
            if self.scheduler.due(tick := self._tick()):
                observation = replace(observe(env, PROMPT, IMAGE_SIZE), state=self._last.measured)
                self.worker.submit(Request(tick, observation, self.scheduler.observe(tick)))
        self._collect(self._finished(lambda: self.worker.wait(1.0)))
        self.record.add(seed=seed, success=env.success, episode_ticks=self._tick() - start)
        follower.episode = -1
        return env.success

    @property
    def _last(self) -> Tick:
        return self.follower.last or self.follower.advance()

    def _tick(self) -> int:
        return self._last.tick

    def _finished(self, take: Callable[[], PlayedChunk | None]) -> PlayedChunk | None:
        """What the worker has finished; None where the firmware stopped the arm while the chunk was on its way.

        The bridge then ends the stream of chunks, and may do so some ticks before this process hears of the stop.
        """
        try:
            return take()
        except StateError:
            for _ in range(STOP_TICKS):
                if not self.follower.moving:
                    return None
                self.follower.advance()
            raise

    def _collect(self, played: PlayedChunk | None) -> None:
        if played is None:
            return
        request, chunk, report = played.request, played.chunk, played.report
        actions = np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)
        accepted = report.outcome == bridge_pb2.ChunkReport.ACCEPTED
        if accepted:
            self.scheduler.entered(actions, report.first_tick)
        else:
            self.scheduler.lost()
        self.record.add(
            chunk_episode=self.follower.episode,
            chunk_tick=request.tick,
            chunk_first_tick=report.first_tick if accepted else 0,
            chunk_begin_ns=played.begin_ns,
            chunk_received_ns=played.received_ns,
            chunk_confirmed_ns=played.confirmed_ns,
            chunk_stages_ms=[
                *(chunk.timing.preprocess_ms, chunk.timing.infer_ms, chunk.timing.postprocess_ms),
                *(report.splice_ms, report.serial_ms),
            ],
            chunk_outcome=report.outcome,
            actions=actions,
            image=request.observation.images["top"],
            state=request.observation.state,
        )


def run(bridge_address: str, policy_address: str, seeds: range, splice: str, execute: int, output: Path) -> None:
    """Plays one episode per seed and writes the record.

    Args:
        bridge_address: host:port.
        policy_address: host:port.
        seeds: Of the cube poses.
        splice: Name of the splice policy.
        execute: Ticks between two observations.
        output: The record.

    Raises:
        BridgeError: If the bridge does not answer or refuses.
        Pi0EdgeError: If the policy server does not answer or refuses.
    """
    record = RecordBuilder()
    policy = PolicyClient(policy_address)
    metadata = policy.metadata()
    spliced = client_splice(splice, metadata.trained_delay, metadata.refuses_continuation)
    with BridgeClient(bridge_address, name="simulated ALOHA") as bridge, bridge.telemetry() as ticks:
        bus_errors = bridge.status().counters.bus_errors
        follower = RecordedTicks(AlohaTransferCube(), ticks, record)
        follower.env.reset(seeds[0])
        follower.env.render("top", IMAGE_SIZE, IMAGE_SIZE)  # makes the OpenGL context before time matters
        follower.env.render("angle", *FILM_SIZE)
        try:
            for number, seed in enumerate(seeds):
                ready_arm(bridge, follower)
                with bridge.play() as stream, PolicyWorker(policy, stream) as worker:
                    robot = SimulatedRobot(stream, worker, follower, ChunkScheduler(spliced, execute))
                    glide_home(stream, follower)
                    success = robot.play_episode(number, seed)
                _say(episode=number, seed=seed, success=bool(success))
            if bridge.status().state in ACTIVE_STATES:
                bridge.disarm("the demo has ended")
            record.add(bus_errors=bridge.status().counters.bus_errors - bus_errors)
        finally:
            record.build().save(output)


def _say(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Runs the process; returns 1 after an error, which it says on standard output."""
    parser = argparse.ArgumentParser(prog="python -m pi0_edge.demo.simulated_robot")
    parser.add_argument("--bridge", required=True)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--first-seed", type=int, required=True)
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--execute", type=int, required=True, help="ticks between two observations")
    parser.add_argument("--splice", required=True, help="how a chunk enters: hold-swap, rtc or trained-rtc")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    try:
        run(options.bridge, options.policy, seeds, options.splice, options.execute, options.output)
    except Pi0EdgeError as error:
        _say(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
