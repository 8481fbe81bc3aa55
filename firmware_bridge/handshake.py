"""Hello and Welcome: both sides must hold the same messages and the same joint table before anything moves."""

import time

from firmware_bridge.errors import LinkError, ProtocolError
from firmware_bridge.joints import RobotJoints
from firmware_bridge.link_session import LinkSession
from protos.serial_link import SCHEMA_HASH, Hello, Welcome

_HELLO_PERIOD_S = 0.1


def shake_hands(session: LinkSession, robot: RobotJoints, timeout_s: float) -> Welcome:
    """Asks the board who it is until it answers.

    Raises:
        LinkError: no answer within `timeout_s` seconds.
        ProtocolError: other messages, another joint table or another number of joints.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        session.send(Hello(SCHEMA_HASH))
        asked_at = time.monotonic()
        while (rest := asked_at + _HELLO_PERIOD_S - time.monotonic()) > 0.0:
            for message in session.receive(rest):
                if isinstance(message, Welcome):
                    _check(message, robot)
                    return message
    raise LinkError(_silence(session, timeout_s))


def _silence(session: LinkSession, timeout_s: float) -> str:
    counters = session.counters
    damaged = counters.crc_errors + counters.framing_errors
    if counters.frames:
        return f"the firmware sends telemetry but did not answer a Hello within {timeout_s:.1f} s; reset the board"
    if damaged:
        return (
            f"only garbage arrives ({damaged} damaged frames in {timeout_s:.1f} s): "
            "wrong baud rate, or another kind of device on this port"
        )
    return f"the port is silent for {timeout_s:.1f} s: is the board powered, flashed and on this port?"


def _check(welcome: Welcome, robot: RobotJoints) -> None:
    if welcome.schema_hash != SCHEMA_HASH:
        raise ProtocolError(
            f"the firmware was built from other serial messages (schema {welcome.schema_hash:#010x}) than this host "
            f"(schema {SCHEMA_HASH:#010x}): one of them is older; run `make firmware` here and flash the board again"
        )
    if welcome.joints != robot.count:
        raise ProtocolError(
            f"the firmware drives {welcome.joints} joints, robot {robot.name!r} has {robot.count}: "
            "choose the robot with --robot, or flash the firmware built for it"
        )
    if welcome.limits_hash != robot.limits_hash:
        raise ProtocolError(
            f"the firmware was built with another joint table (hash {welcome.limits_hash:#010x}) than robot "
            f"{robot.name!r} on this host (hash {robot.limits_hash:#010x}): run `make firmware`, flash the board again"
        )
