"""A run with the real parts: shipped policy on a server, bridge, firmware in QEMU, a camera above a simulated table."""

from __future__ import annotations

import importlib.util
import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from run_system import RunSystem, run_system
from watched_run import WatchedRun

from firmware_bridge.client import BridgeClient, Tick
from pi0_edge.policy import Policy
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.rpc.metrics import MetricsServer
from pi0_edge.protos.serial_link import JointFlag, State
from pi0_edge.run.figures import RunFigures
from pi0_edge.run.interventions import StreamedSetpoints
from pi0_edge.run.life_cycle import Outcome, Phase
from pi0_edge.run.metrics import RunMetrics
from pi0_edge.run.policy_source import LocalPolicy, ServedPolicy
from pi0_edge.run.problems import PreflightError
from pi0_edge.run.recording import RunRecording
from pi0_edge.run.recording.tick_replay import replay_ticks
from pi0_edge.run.robot_run import RobotRun
from pi0_edge.shipped import shipped_checkpoint

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="the extra [sim] is not installed"),
]


def state_of(system: RunSystem) -> State:
    with BridgeClient(system.bridge.address, "test") as bridge:
        return State(bridge.status().state)


def moved(ticks: list[Tick]) -> float:
    """The largest way of a joint."""
    return float(np.ptp([tick.executed for tick in ticks], axis=0).max())


def test_a_run_plays_chunks_of_the_policy_until_its_time_is_up(system: RunSystem):
    with WatchedRun(system, seconds=2.5) as watched:
        result = watched.end()
    assert (result.outcome, result.reason) == (Outcome.DONE, "the time is up")
    assert 2.5 <= result.played_s < 3.0
    assert watched.names == ["started", "certificate", "playing", "armed", "policy", "disarmed", "stopped"]
    accepted = [one for one in watched.answered if one.report.outcome == ChunkReport.ACCEPTED]
    assert len(accepted) >= 3 and len(watched.answered) <= len(watched.observed)
    of_chunks = {one.observed.tick for one in accepted}
    executed = [tick for tick in watched.ticks if tick.chunk_id]
    assert len(executed) > 50 and {tick.observed_tick for tick in executed} <= of_chunks
    begin = watched.wait("policy").tick
    assert begin == accepted[0].report.first_tick and executed[0].tick >= begin
    assert moved(executed) > 0.1
    assert state_of(system) == State.DISARMED


def test_an_observation_shows_its_tick_and_is_answered_by_a_chunk_that_continues_the_plan(system: RunSystem):
    with WatchedRun(system, seconds=2.0) as watched:
        watched.end()
    by_tick = {tick.tick: tick for tick in watched.ticks}
    for observed in watched.observed:
        np.testing.assert_array_equal(observed.state, by_tick[observed.tick].measured)
        assert set(observed.images) == {"top"} and observed.prompt == "Transfer cube"
        assert 0 <= (observed.time_ns - observed.images["top"].taken_ns) * 1e-9 < 0.5
    begin = watched.wait("policy").tick
    for observed in watched.observed:
        assert (observed.continuation is None) == (observed.tick < begin)
    assert len({observed.noise_seed for observed in watched.observed}) == len(watched.observed)


def test_a_run_is_recorded_and_its_figures_are_offered(system: RunSystem, tmp_path: Path):
    figures, registry = RunFigures(), CollectorRegistry()
    with WatchedRun(system, record=tmp_path / "run.mcap") as watched:
        watched.run.listen(figures)
        registry.register(RunMetrics(watched.run, figures))
        with MetricsServer(0, registry) as server:
            watched.wait("policy")
            watched.wait_ticks(40)
            with urllib.request.urlopen(f"http://{server.address}/metrics") as page:
                text = page.read().decode()
        watched.run.stop()
        watched.end()
    assert 'pi0_edge_run_phase{phase="PLAYING"} 1.0' in text
    assert float(re.findall(r'to_chunk_seconds{quantile="0.5"} (\S+)', text)[0]) > 0.005
    assert re.search(r'camera_rate_hertz{camera="top"} [12345]\d\.', text), text
    recording = RunRecording(tmp_path / "run.mcap")
    assert recording.closed and not recording.damage
    assert [one.message.tick for one in recording.ticks] == [tick.tick for tick in watched.ticks]
    assert [one.message.name for one in recording.events] == [event.name for event in watched.events]
    assert len(recording.answers) == len(watched.answered)
    assert len(recording.images("top")) > len(recording.observations)


def test_a_pause_holds_the_arm_still_and_resume_goes_on_from_a_new_observation(system: RunSystem):
    with WatchedRun(system) as watched:
        watched.wait("policy")
        watched.wait_ticks(30)
        watched.run.pause()
        watched.wait("disarmed")
        watched.wait_ticks(50)  # it brakes
        still, asked = watched.wait_ticks(25), len(watched.observed)
        assert {tick.state for tick in still} == {State.DISARMED} and moved(still) == 0.0
        watched.run.change_prompt("Transfer the cube")
        watched.run.resume()
        watched.wait("armed", 2)
        watched.wait_ticks(40)
        assert watched.observed[asked].tick > still[-1].tick and watched.observed[asked].continuation is None
        assert {one.prompt for one in watched.observed[asked:]} == {"Transfer the cube"}
        watched.run.label("good")
    assert watched.end().outcome is Outcome.DONE
    assert [watched.names.count(name) for name in ("paused", "armed", "disarmed", "prompt", "label")] == [1, 2, 2, 1, 1]


def test_a_person_takes_over_leads_the_arm_and_hands_back(system: RunSystem, tmp_path: Path):
    with WatchedRun(system, record=tmp_path / "run.mcap") as watched:
        watched.wait("policy")
        watched.wait_ticks(20)
        leader = StreamedSetpoints("leader arm", watched.run.joints)
        watched.run.take_over(leader)
        begin = watched.wait("person").tick
        target = watched.ticks[-1].executed.astype(np.float64)
        target[6] = 0.5
        for _ in range(60):
            leader.put(target)
            watched.wait_ticks(1)
        assert abs(watched.ticks[-1].executed[6] - 0.5) < 1e-3
        silent = watched.wait_ticks(30)  # the person says nothing any more
        assert moved(silent[-5:]) < 1e-3 and silent[-1].state == State.RUNNING
        observed = len(watched.observed)
        watched.run.hand_back()
        end = watched.wait("policy", 2).tick
        assert all(not begin <= one.report.first_tick < end for one in watched.answered if one.report.first_tick)
        assert watched.observed[observed].continuation is not None
        setpoints = [event for event in watched.events if event.name == "setpoints"]
        assert setpoints[0].tick == begin and len(setpoints) > 10
    assert watched.end().outcome is Outcome.DONE
    replayed = replay_ticks(RunRecording(tmp_path / "run.mcap"))
    assert replayed.difference is None, replayed.difference
    assert replayed.unknown == 0 and replayed.computed > 0.9 * replayed.ticks


def test_the_arm_is_held_while_a_camera_is_lost_and_goes_on_when_it_is_back(system: RunSystem):
    hidden = system.folder / "hidden"
    with WatchedRun(system) as watched:
        watched.wait("policy")
        system.images.rename(hidden)
        assert "camera top" in watched.wait("holding").text
        assert watched.run.life.phase is Phase.HOLDING and watched.wait("disarmed")
        hidden.rename(system.images)
        assert watched.wait("playing", 2).text == "what was missing is back"
        watched.wait("armed", 2)
    assert watched.end().outcome is Outcome.DONE


def test_a_stop_by_another_client_ends_the_run_and_a_new_run_has_to_clear_it(system: RunSystem):
    with WatchedRun(system) as watched, BridgeClient(system.bridge.address, "bystander") as bystander:
        watched.wait("policy")
        bystander.estop("smoke")
        result = watched.end()
    assert result.outcome is Outcome.ESTOPPED and "became ESTOP (ESTOP_COMMAND)" in result.reason
    assert state_of(system) == State.ESTOP
    with pytest.raises(PreflightError, match="arm-state: the arm is ESTOP; look at the arm"):
        WatchedRun(system, clear=False).run.play()
    with WatchedRun(system, seconds=0.5) as watched:
        assert watched.end().outcome is Outcome.DONE


def test_another_client_may_move_the_arm_while_the_run_is_paused(system: RunSystem):
    with WatchedRun(system) as watched, BridgeClient(system.bridge.address, "teleoperation") as other:
        watched.wait("policy")
        watched.run.pause()
        watched.wait("disarmed")
        watched.wait_ticks(25)
        other.arm(watched.run.joints.names)
        assert watched.wait("taken-over").text == "client 'teleoperation' of the bridge"
        watched.run.resume()
        assert watched.wait("not-resumed").text == "the arm is ARMED, expected DISARMED"
        other.disarm()
        watched.wait_ticks(5)
        watched.run.resume()
        watched.wait("armed", 2)
    assert watched.end().outcome is Outcome.DONE


def test_a_client_that_holds_the_arm_is_named(system: RunSystem):
    with BridgeClient(system.bridge.address, "somebody else") as other:
        other.arm(other.status().joint_names)
        try:
            with pytest.raises(PreflightError, match="arm-owner: client 'somebody else' holds the arm"):
                WatchedRun(system).run.play()
        finally:
            other.disarm()


def test_a_policy_without_a_training_profile_moves_nothing_unless_that_is_accepted_by_name(system: RunSystem):
    with pytest.raises(PreflightError) as refused:
        WatchedRun(system, profile=None).run.play()
    assert [problem.rule for problem in refused.value.problems] == ["missing-camera", "training-profile"]
    assert "give --accept-mismatch training-profile" in str(refused.value)
    accepted = ["missing-camera", "training-profile"]
    with WatchedRun(system, profile=None, accepted=accepted, seconds=0.5) as watched:
        assert watched.end().outcome is Outcome.DONE
    named = "overrides: accept-mismatch-missing-camera, accept-mismatch-training-profile"
    assert watched.wait("started").text.endswith(named)


def test_a_policy_in_this_process_answers_as_one_on_a_server(system: RunSystem):
    with WatchedRun(system, seconds=1.0) as watched:
        watched.end()
    served, local = ServedPolicy(system.policy.address), LocalPolicy(Policy.load(shipped_checkpoint()))
    assert served.metadata() == local.metadata()
    for observed in watched.observed[:2]:
        there, here = served.infer(observed), local.infer(observed)
        assert there.clock == here.clock and there.overrides == here.overrides
        np.testing.assert_allclose(there.actions, here.actions, atol=1e-5)
    compressed = ServedPolicy(system.policy.address, jpeg_quality=95)
    assert (served.image_encoding, compressed.image_encoding) == ("raw", "JPEG of quality 95")
    observed = watched.observed[0]
    difference = np.abs(np.subtract(compressed.infer(observed).actions, served.infer(observed).actions))
    assert 0.0 < difference.max() < 0.3  # its images were compressed, and are still the same images
    compressed.close()
    served.close()


@pytest.mark.slow
def test_the_policy_is_shown_what_the_servos_measured(aloha_image: Path, tmp_path: Path):
    with run_system(tmp_path, servos=True) as system, WatchedRun(system, seconds=3.0) as watched:
        assert watched.end().outcome is Outcome.DONE
    ticks = {tick.tick: tick for tick in watched.ticks}
    assert all(flags & JointFlag.MEASURED for tick in ticks.values() for flags in tick.joint_flags)
    lag = [np.abs(observed.state - ticks[observed.tick].executed).max() for observed in watched.observed[2:]]
    assert max(lag) > 1e-3
    for observed in watched.observed:
        np.testing.assert_array_equal(observed.state, ticks[observed.tick].measured)


def test_a_robot_that_fits_nothing_is_refused_with_all_problems_at_once(system: RunSystem, tmp_path: Path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text(f"front: {{source: 'folder:{tmp_path / 'nothing'}'}}\n")
    run = RobotRun("so101", system.policy.address, cameras, system.bridge.address, clear=True)
    with run, pytest.raises(PreflightError) as refused:
        run.play("fold the towel")
    rules = {problem.rule for problem in refused.value.problems}
    assert rules >= {"bridge-robot", "action-names", "state-dim", "missing-camera", "camera"}
    assert run.life.outcome is Outcome.REFUSED and state_of(system) == State.DISARMED


def test_no_part_answers(tmp_path: Path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("top: {source: 'lavfi:testsrc=size=64x64:rate=25'}\n")
    with RobotRun("aloha_sim", "127.0.0.1:9", cameras, "127.0.0.1:9") as run, pytest.raises(PreflightError) as refused:
        run.play()
    assert [problem.rule for problem in refused.value.problems] == ["bridge", "policy", "training-profile"]
