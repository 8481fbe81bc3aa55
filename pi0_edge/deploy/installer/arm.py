"""What the arm does and what its board runs, as the bridge tells it, or the board itself where no bridge runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from firmware_bridge.rpc_errors import translated
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.errors import DeployError, EndpointError
from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc
from pi0_edge.protos.rpc.tls import open_channel
from pi0_edge.protos.serial_link import State

UNKNOWN = "UNKNOWN"
_HELD = {State.DISARMED.name, State.SAFE.name, State.ESTOP.name}
_CALL_LIMIT_S = 3.0
_IDENTIFY_LIMIT_S = 60.0  # Python with its packages starts in 10 s on a slow board that has just booted
_STARTING_S = 10.0  # a bridge that starts has its port some seconds before it answers
_PORT_IN_USE = "in use by another program"
_DOWN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class ArmState:
    """What the bridge, or the board itself, says.

    Attributes:
        state: Name of the arm's state; UNKNOWN where nobody can tell it.
        held: Whether nothing can move the arm: it is DISARMED, SAFE or ESTOP.
        limits_hash: Of the joint table on the board; None where nobody can tell it.
        protocol_version: Of the serial messages that the board speaks; None where they are not those of this SDK, or
            nobody can tell them.
        link_up: Whether the board answers.
        told_by: "bridge", or "board" where no bridge runs and the board was asked on its serial port.
        moving: Whether the arm still moved while the board was asked, as it does when it brakes.
        owner: Client of the bridge that holds the arm; empty where none does.
        problem: Why the bridge's link is down; empty where the board answers.
    """

    state: str
    held: bool
    limits_hash: int | None
    protocol_version: int | None
    link_up: bool
    told_by: str
    moving: bool = False
    owner: str = ""
    problem: str = ""


def read_arm(settings: RobotSettings, python: str = sys.executable) -> ArmState | None:
    """Asks the bridge, or the board where no bridge runs.

    Args:
        settings: Of the robot.
        python: Interpreter of the SDK environment that speaks with the board.

    Returns:
        None where this robot has no bridge.

    Raises:
        DeployError: If neither answers.
    """
    if settings.bridge is None:
        return None
    deadline = time.monotonic() + _STARTING_S
    while True:
        try:
            return ask_bridge(settings)
        except BridgeDownError as error:
            try:
                return ask_board(settings, python)
            except DeployError as second:
                if _PORT_IN_USE not in str(second) or time.monotonic() > deadline:
                    raise DeployError(f"{error}; the board itself was asked, too: {second}") from second


def require_held(settings: RobotSettings) -> str:
    """Checks that nothing moves the arm.

    Returns:
        A reason for the log.

    Raises:
        DeployError: If the arm is armed or moves, or nobody can tell.
    """
    arm = read_arm(settings)
    if arm is None:
        return "this robot has no bridge, so that no arm can move"
    return check_held(arm)


def check_held(arm: ArmState) -> str:
    """As `require_held`, of a state that was read."""
    if not arm.link_up:
        raise DeployError(
            f"nobody can tell whether the arm moves: the link of the bridge is down ({arm.problem}); mend it, or stop "
            "the bridge, then run the command again"
        )
    if arm.owner:
        raise DeployError(
            f"the arm is {arm.state} and client {arm.owner!r} holds it; end that client, then run the command again"
        )
    if not arm.held:
        raise DeployError(f"the arm is {arm.state}; disarm it, then run the command again")
    return f"the arm is held: {arm.state}, says the {arm.told_by}"


class BridgeDownError(DeployError):
    """No bridge answers."""


def ask_bridge(settings: RobotSettings) -> ArmState:
    """What the bridge says.

    Raises:
        BridgeDownError: If none answers.
        DeployError: If it answers with a refusal.
    """
    address = settings.bridge or ""
    try:
        status = _status(address, _tls_folder(settings))
    except EndpointError as error:
        raise DeployError(f"the bridge cannot be asked: {error}") from error
    except grpc.RpcError as error:
        kind = BridgeDownError if error.code() in _DOWN else DeployError  # pyright: ignore[reportAttributeAccessIssue]
        raise kind(str(translated(error, address))) from error
    if not status.link_up:
        return ArmState(UNKNOWN, False, None, None, False, "bridge", problem=status.problem or "no reason given")
    state = State(status.state).name
    return ArmState(
        state=state,
        held=state in _HELD and not status.owner,
        limits_hash=status.limits_hash,
        protocol_version=status.protocol_version or None,
        link_up=True,
        told_by="bridge",
        owner=status.owner,
    )


def ask_board(settings: RobotSettings, python: str = sys.executable) -> ArmState:
    """What the board says on its serial port; no bridge may run.

    Args:
        settings: Of the robot; `bridge_arguments` names the port.
        python: Interpreter of the SDK environment that asks: its messages are the ones that the board is expected to
            speak.

    Raises:
        DeployError: If the board does not answer, or no port is known.
    """
    if _option(settings.bridge_arguments, "--port") is None:
        raise DeployError("robot.json names no --port in bridge_arguments; name the serial port of the board there")
    told = _identify(settings.bridge_arguments, python)
    return ArmState(
        state=str(told["state"]),
        held=bool(told["held"]),
        limits_hash=told["limits_hash"],
        protocol_version=told["protocol_version"],
        link_up=True,
        told_by="board",
        moving=bool(told["moving"]),
    )


def _identify(bridge_arguments: Sequence[str], python: str) -> dict[str, Any]:
    """What `pi0-edge bridge --identify` of an environment says; a process, because that environment may be another."""
    argv = [python, "-m", "pi0_edge.cli", "bridge", *bridge_arguments, "--identify", "--json"]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_IDENTIFY_LIMIT_S, check=False)
    except OSError as error:
        raise DeployError(f"{python} cannot be run ({error}); is the SDK environment complete?") from error
    except subprocess.TimeoutExpired as error:
        raise DeployError(f"`pi0-edge bridge --identify` did not end within {_IDENTIFY_LIMIT_S:.0f} s") from error
    try:
        told = json.loads(ran.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        told = {"error": f"`pi0-edge bridge --identify` ended with {ran.returncode}: {ran.stderr.strip()[-400:]}"}
    if "error" in told:
        raise DeployError(str(told["error"]))
    return told


def _status(address: str, tls: Path | None) -> bridge_pb2.Status:
    with open_channel(address, tls) as channel:
        return bridge_pb2_grpc.RobotBridgeStub(channel).GetStatus(bridge_pb2.StatusRequest(), timeout=_CALL_LIMIT_S)


def _tls_folder(settings: RobotSettings) -> Path | None:
    """The certificate of `pi0-edge run`, which is a client of the bridge, where the bridge asks for one."""
    if _option(settings.bridge_arguments, "--tls") is None:
        return None
    folder = _option(settings.run_arguments, "--tls")
    if folder is None:
        raise DeployError(
            "the bridge asks for certificates (--tls in bridge_arguments), and robot.json names none of a client; name "
            "the folder of one with the role observe or command as --tls in run_arguments"
        )
    return Path(folder)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option among the arguments of a command."""
    for place, argument in enumerate(arguments):
        if argument == name:
            return next(iter(arguments[place + 1 :]), "")
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None
