"""A recorded robot does not say where its cameras are plugged in."""

import dataclasses

from policy_builders import write_checkpoint

from pi0_edge.policy import Policy
from pi0_edge.processing import ObservationProcessor
from pi0_edge.robots import CameraSettings


def test_what_a_bundle_records_of_a_robot_holds_no_address_and_no_password(tmp_path):
    loaded = Policy.load(write_checkpoint(tmp_path / "checkpoint"), "reference").processor
    sources = {"top": CameraSettings("rtsp://admin:secret@10.0.0.7/live")}
    robot = dataclasses.replace(loaded.robot, camera_sources=sources)
    processor = ObservationProcessor(robot, loaded.tokenizer, loaded.normalization, loaded.config, loaded.settings)
    recorded = processor.description().robot
    assert "secret" not in str(recorded)
    assert recorded["cameras"] == loaded.robot.cameras
    assert processor.description() == loaded.description()
