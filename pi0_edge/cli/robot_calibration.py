"""`pi0-edge robot calibrate` and `import-calibration`: the robot file of one arm."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output
from pi0_edge.errors import ConfigError
from pi0_edge.output_paths import check_output_path
from pi0_edge.robots import Robot, load_robot, robot_file
from pi0_edge.robots.calibration.joint_calibration import CalibratedRobot, JointCalibration, calibrated
from pi0_edge.robots.calibration.robot_text import robot_text, write_robot

if TYPE_CHECKING:
    from pi0_edge.robots.calibration.lerobot_file import LeRobotMotor

OutputOption = Annotated[Path, typer.Option(help="The new robot file, a .yaml; its name becomes that of the robot.")]
WidenOption = Annotated[bool, typer.Option("--widen", help="Let limits become wider than those of ROBOT.")]
AcceptRangeOption = Annotated[
    list[str] | None, typer.Option(help="Joint whose range may be much smaller than in ROBOT; may be repeated.")
]


def calibrate_robot(
    robot: Annotated[str, typer.Argument(help="The robot that bridge and firmware run with: name, or .yaml file.")],
    output: OutputOption,
    bridge: Annotated[str, typer.Option(help="host:port of the bridge.")] = "127.0.0.1:50061",
    widen: WidenOption = False,
    accept_range: AcceptRangeOption = None,
    tls: Annotated[Path | None, typer.Option(help="Folder with certificates, if the bridge asks for one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find zero, direction and range of every joint by moving the arm by hand.

    The arm loses its torque. Each step waits for Enter; without a terminal, for a line of standard input.
    """
    from firmware_bridge.client import BridgeClient
    from pi0_edge.cli.calibration_person import EnteringPerson
    from pi0_edge.run.calibration.procedure import calibrate_arm

    out = Output(as_json)
    described = load_robot(robot)
    _check_output(output)
    accepted = _joints(described, accept_range)
    put_in = partial(calibrated, described, name=output.stem, widen=widen, accept_range=accepted)
    with BridgeClient(bridge, name="calibration", tls=tls) as client:
        client.wait_ready()
        found = calibrate_arm(client, described, EnteringPerson(out), put_in)
    new = put_in(found)
    _write(robot, output, new, f"Calibrated on {_today()} from {described.name} by `pi0-edge robot calibrate`.")
    _report(out, output, found, new)


def import_calibration(
    lerobot: Annotated[Path, typer.Argument(help="LeRobot's calibration file of the arm, a .json.")],
    robot: Annotated[str, typer.Argument(help="The robot to start from: a name, or a .yaml file.")],
    output: OutputOption,
    widen: WidenOption = False,
    accept_range: AcceptRangeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take zero, direction and range of every joint from LeRobot's calibration of the arm."""
    from pi0_edge.robots.calibration.lerobot_file import calibrations_of, read_lerobot_file

    out = Output(as_json)
    described = load_robot(robot)
    _check_output(output)
    motors = read_lerobot_file(lerobot)
    found = calibrations_of(described, motors)
    new = calibrated(described, found, output.stem, widen=widen, accept_range=_joints(described, accept_range))
    _write(robot, output, new, f"Imported on {_today()} from LeRobot's calibration {lerobot.name} of the arm.")
    _print_meanings(out, described, motors)
    _report(out, output, found, new)


def _check_output(output: Path) -> None:
    check_output_path("--output", output, (".yaml", ".yml"))
    if output.exists():
        raise ConfigError(f"--output {output} exists already; give a new name, or move the old file away")
    if not (output.stem.isascii() and output.stem.isidentifier()):
        raise ConfigError(f"--output {output}: its name becomes the robot's; use letters, digits and underscores")


def _joints(robot: Robot, named: Sequence[str] | None) -> Sequence[str]:
    known = [joint.name for joint in robot.joints]
    if unknown := [name for name in named or () if name not in known]:
        raise ConfigError(f"--accept-range {unknown[0]}: {robot.name} has the joints {', '.join(known)}")
    return named or ()


def _write(source: str, output: Path, new: CalibratedRobot, heading: str) -> None:
    """Writes the file if the firmware can drive what it describes."""
    from firmware_bridge.firmware.joint_table import joint_table

    joint_table(new.robot)
    write_robot(output, robot_text(robot_file(source).read_text(), new.robot, heading))


def _report(out: Output, output: Path, found: Sequence[JointCalibration], new: CalibratedRobot) -> None:
    robot = new.robot
    rows = [
        (each.joint, _counts(each), *each.reached, *(joint.position or (0.0, 0.0)))
        for each, joint in zip(found, robot.joints, strict=True)
    ]
    out.table(f"calibration of {robot.name}", ("joint", "counts", "lowest", "highest", "minimum", "maximum"), rows)
    for note in new.notes:
        out.print(note)
    bus = robot.servo_bus
    steps = [
        f"python -m firmware_bridge.firmware.generate_joints {output}",
        f"make -C firmware_bridge/firmware stm32f4 ROBOT={robot.name} ACTUATORS={bus.protocol if bus else 'simulated'}",
        "flash the board (docs/boards.md); rp2040 in place of stm32f4 for a Pico",
        f"pi0-edge bridge --port PORT --robot {output}",
    ]
    out.print(f"wrote {output}. Next, in this order; until the board is flashed, a bridge with this file refuses it:")
    for number, step in enumerate(steps, 1):
        out.print(f"  {number}. {step}")
    out.finish({"robot": robot, "file": output, "calibration": found, "notes": new.notes, "next": steps})


def _counts(found: JointCalibration) -> str:
    if found.counts is not None:
        return f"{found.counts[0]:g} to {found.counts[1]:g}"
    return f"zero {found.zero:g}, direction {found.direction}"


def _print_meanings(out: Output, robot: Robot, motors: dict[str, LeRobotMotor]) -> None:
    out.print("what LeRobot's numbers are in the new file:")
    for joint in robot.joints:
        motor, (lowest, highest) = motors[joint.name], joint.position or (0.0, 1.0)
        if joint.unit != "rad":
            out.print(f"  {joint.name}: 0 to 100 is {lowest:g} to {highest:g} {joint.unit}")
            continue
        out.print(
            f"  {joint.name}: 1 degree is {motor.rad_of_degrees(1):.6f} rad, 0 degrees is 0 rad; "
            f"100 of -100 to 100 is {motor.rad_of_percent(100):.4f} rad"
        )


def _today() -> str:
    return datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
