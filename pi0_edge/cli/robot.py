"""`pi0-edge robot`: the robots that come with the project, what a robot file of one's own says, and a simulated one."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output
from pi0_edge.cli.robot_calibration import calibrate_robot, import_calibration
from pi0_edge.cli.robot_provisioning import provision_robot
from pi0_edge.robots import Joint, Robot, Servo, load_robot, robot_names
from pi0_edge.robots.servos import COUNTS_PER_TURN

robot = typer.Typer(no_args_is_help=True, help="Robots: list and check them, calibrate an arm, simulate one.")
robot.command("calibrate")(calibrate_robot)
robot.command("import-calibration")(import_calibration)
robot.command("provision")(provision_robot)

RobotArgument = Annotated[str, typer.Argument(help="A name that `robot list` shows, or the path of a .yaml file.")]


@robot.command("list")
def list_robots(as_json: JsonOption = False) -> None:
    """Show the robots that come with the project."""
    from firmware_bridge.firmware.joint_table import why_not_in_firmware

    output = Output(as_json)
    robots = [load_robot(name) for name in robot_names()]
    refusals = {known.name: why_not_in_firmware(known) for known in robots}
    rows = [
        (known.name, known.action_dim, _rate(known), "yes" if refusals[known.name] is None else "no", known.description)
        for known in robots
    ]
    output.table("robots", ("name", "actions", "Hz", "firmware", "description"), rows)
    output.finish({"robots": robots, "not_in_firmware": {k: v for k, v in refusals.items() if v is not None}})


@robot.command()
def check(file: RobotArgument, as_json: JsonOption = False) -> None:
    """Explain a robot file: every mistake in it, or what policy and firmware will take it for.

    Exit code 2 where the file has mistakes, 1 where the firmware cannot drive the robot.
    """
    from firmware_bridge.firmware.joint_table import why_not_in_firmware

    output = Output(as_json)
    found = load_robot(file)
    refusal = why_not_in_firmware(found)
    output.table(
        f"joints of {found.name}",
        ("joint", "unit", "position", "velocity", "acceleration", "home"),
        [_row(joint) for joint in found.joints],
    )
    output.print(f"control rate: {_rate(found)} Hz; {found.servo_hz} servo steps a second")
    for joint in found.joints:
        if joint.closed is not None:
            output.print(f"{joint.name}: {joint.closed:g} closed, {joint.open:g} open")
    _print_servos(output, found)
    for camera, slot in found.cameras.items():
        others = [name for name, known in found.camera_aliases.items() if known == camera]
        source = found.camera_sources.get(camera)
        output.print(
            f"camera {camera}: {slot}"
            + (f"; also named {', '.join(others)}" if others else "")
            + (f"; images from {source.shown}" if source else "")
        )
    output.print(f"actions: {', '.join(found.action_labels)}")
    output.print(f"relative to the state: {_relative(found) or 'none'}; joint convention: {found.joint_convention}")
    warnings = list(_warnings(found))
    for warning in warnings:
        output.print(f"warning: {warning}")
    output.print("firmware: can drive it" if refusal is None else f"firmware: {refusal}")
    output.finish({"robot": found, "warnings": warnings, "not_in_firmware": refusal})
    if refusal is not None:
        raise typer.Exit(1)


@robot.command()
def simulate(
    output: Annotated[Path, typer.Option(help="Folder for cameras.yaml and the logs.")] = Path("runs/simulated"),
    listen: Annotated[str, typer.Option(help="host:port of the bridge; port 0 takes a free one.")] = "127.0.0.1:50061",
    camera_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the camera's RTSP server.")] = 8554,
    first_seed: Annotated[int, typer.Option(help="Pose of the first cube; training never saw 0 to 999.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Stand in for a robot: servos, firmware in QEMU, bridge, and a camera over RTSP above a simulated table.

    Prints the command that plays the shipped policy on it. Enter brings the arms home and lays the next cube; Ctrl-C or
    SIGTERM ends everything.
    """
    from pi0_edge.demo.robot_simulation import simulate_robot

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    out = Output(as_json)
    out.print("starting servos, firmware (QEMU), bridge and camera")
    cubes = simulate_robot(output, out.print, sys.stdin, listen=listen, camera_port=camera_port, first_seed=first_seed)
    done = sum(cube.transferred_s is not None for cube in cubes)
    out.print(f"{done} of {len(cubes)} cubes transferred")
    out.finish({"cubes": cubes})


def _rate(found: Robot) -> str:
    return "unknown" if found.control_hz is None else f"{found.control_hz:g}"


def _row(joint: Joint) -> tuple[object, ...]:
    position = "-" if joint.position is None else f"{joint.position[0]:g} to {joint.position[1]:g}"
    numbers = (joint.velocity, joint.acceleration, joint.home)
    return (joint.name, joint.unit, position, *("-" if number is None else number for number in numbers))


def _print_servos(output: Output, found: Robot) -> None:
    """The servos with the guards of their joints, and how busy their buses are."""
    from firmware_bridge.firmware.joint_table import busy_time_s

    bus = found.servo_bus
    if bus is None:
        return
    joints = {joint.name: joint for joint in found.joints}
    rows = [
        (
            servo.joint,
            f"{servo.id} on bus {servo.bus}",
            servo.model,
            _counts(servo),
            *(_guard(joints[servo.joint], name) for name in ("following_error", "current", "temperature")),
        )
        for servo in found.servos
    ]
    columns = ("joint", "ID", "model", "counts", "following error", "A", "°C")
    output.table(f"servos of {found.name} ({bus.protocol}); guards: the arm stops beyond them", columns, rows)
    output.print(
        f"servo buses: {bus.baud} baud, positions {bus.measure_hz} times a second, the arm runs at {bus.volts[0]:g} to "
        f"{bus.volts[1]:g} V"
    )
    for number in sorted({servo.bus for servo in found.servos}):
        busy_s = busy_time_s(bus, sum(servo.bus == number for servo in found.servos))
        output.print(f"bus {number}: goals and one reading take {1e3 * busy_s:.2f} of {1e3 / found.servo_hz:g} ms")


def _counts(servo: Servo) -> str:
    if servo.shadow_of is not None:
        return f"shadow of {servo.shadow_of}"
    if servo.counts is not None:
        return f"{servo.counts[0]:g} to {servo.counts[1]:g}"
    return f"zero {servo.zero:g}, direction {servo.direction}"


def _guard(joint: Joint, name: str) -> str:
    return f"{value:g}" if (value := getattr(joint, name)) else "none"


def _relative(found: Robot) -> str:
    labels, place, relative = found.action_labels, 0, []
    for run in found.delta_actions:
        relative += labels[place : place + run] if run > 0 else []
        place += abs(run)
    return ", ".join(relative)


def _warnings(found: Robot) -> list[str]:
    """What is allowed, and easily a mistake."""
    warnings = []
    if not found.cameras:
        warnings.append("it has no cameras; a policy needs at least one")
    if found.cameras and "base_0_rgb" not in found.cameras.values():
        warnings.append("no camera is mapped to base_0_rgb, the slot that π0 was pretrained to look through first")
    warnings += [
        f"{joint.name} has the unit ratio, but does not say which position is closed and which is open"
        for joint in found.joints
        if joint.unit == "ratio" and joint.closed is None
    ]
    if not found.action_names:
        warnings.append("its actions have no names; a bridge compares names before it arms, and would refuse it")
    if found.joints and not found.delta_actions:
        warnings.append("all its actions are absolute; fine-tuned checkpoints of openpi often predict changes")
    if found.servos and _are_uncalibrated(found):
        warnings.append(
            "every zero is 2048, as of an arm whose servos were set so; else `pi0-edge robot calibrate` measures them"
        )
    return warnings


def _are_uncalibrated(found: Robot) -> bool:
    """Whether every zero is in the middle of the turn: no arm that was measured is like that."""
    zeros = {servo.zero for servo in found.servos if servo.zero is not None}
    return zeros == {COUNTS_PER_TURN / 2}
