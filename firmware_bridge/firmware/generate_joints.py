"""Writes the firmware's joint tables: `python -m firmware_bridge.firmware.generate_joints my_arm.yaml [--check]`.

The robot `NAME` becomes `firmware_bridge/firmware/robots/NAME.c`. Numbers are printed with nine digits, enough for the
compiler to read back the same float32. `--check` writes nothing and exits with 1 where a table on disk differs from
what its robot file gives. Without arguments: every robot of the package that the firmware can drive and that lists
joints of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from firmware_bridge.firmware.joint_table import (
    Joint,
    JointTable,
    Servo,
    joint_table,
    load_joint_table,
    why_not_in_firmware,
)
from pi0_edge.errors import ConfigError
from pi0_edge.robots import load_robot, robot_file, robot_names

OUTPUT = Path(__file__).parent / "robots"


def write_table(table: JointTable) -> str:
    """Return the C source of one robot's joint table."""
    joints = "".join(_row(joint) for joint in table.joints)
    servos = "".join(_servo_row(servo) for servo in table.servos)
    listed = f"static const struct servo servos[] = {{\n{servos}}};\n\n{_bus_check(table)}" if servos else ""
    return (
        f"/* Joint table of {table.robot}, generated from its robot file by\n"
        " * `python -m firmware_bridge.firmware.generate_joints`. Do not edit. */\n"
        '#include "joint_table.h"\n\n'
        f"static const struct joint joints[] = {{\n{joints}}};\n\n"
        f"{listed}"
        "const struct joint_table joint_table = {\n"
        f'    .robot = "{table.robot}",\n'
        f"    .control_hz = {table.control_hz},\n"
        f"    .servo_hz = {table.servo_hz},\n"
        "    .count = sizeof joints / sizeof joints[0],\n"
        "    .joints = joints,\n"
        f"{_servo_fields(table) if servos else ''}"
        "};\n"
    )


def output_path(table: JointTable) -> Path:
    """Where the table of a robot belongs."""
    return OUTPUT / f"{table.robot}.c"


def is_current(table: JointTable) -> bool:
    """Whether the table on disk is the table of the robot."""
    path = output_path(table)
    return path.exists() and path.read_text() == write_table(table)


def shipped_tables() -> list[JointTable]:
    """The tables of the package's robots that the firmware can drive and that list joints of their own."""
    tables = []
    for name in robot_names():
        robot, listed = load_robot(name), yaml.safe_load(robot_file(name).read_text()).get("joints")
        if isinstance(listed, list) and why_not_in_firmware(robot) is None:
            tables.append(joint_table(robot))
    return tables


def _row(joint: Joint) -> str:
    fields = "".join(f"        .{name} = {_literal(value)},\n" for name, value in joint.numbers.items())
    return f'    {{\n        .name = "{joint.name}",\n        .unit = "{joint.unit}",\n{fields}    }},\n'


def _servo_row(servo: Servo) -> str:
    place = f".bus = {servo.bus}, .id = {servo.id}, .joint = {servo.joint}, .is_shadow = {str(servo.is_shadow).lower()}"
    scale = f".zero = {_literal(servo.zero)}, .per_unit = {_literal(servo.per_unit)}"
    return f"    {{{place}, {scale},\n     .current_unit = {_literal(servo.current_unit)}}},\n"


def _bus_check(table: JointTable) -> str:
    buses = table.bus.buses
    return (
        "#ifdef BOARD_BUSES /* of a back end that uses them */\n"
        f'_Static_assert({buses} <= BOARD_BUSES, "{table.robot} has {buses} servo buses, this board has fewer");\n'
        "#endif\n\n"
    )


def _servo_fields(table: JointTable) -> str:
    bus = table.bus
    volts = f".lowest_volts = {_literal(bus.lowest_volts)}, .highest_volts = {_literal(bus.highest_volts)}"
    return (
        "    .servo_count = sizeof servos / sizeof servos[0],\n"
        "    .servos = servos,\n"
        f"    .bus = {{.baud = {bus.baud}, .buses = {bus.buses}, .measure_steps = {bus.measure_steps},\n"
        f"            {volts}}},\n"
    )


def _literal(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def main() -> int:
    """Write or check the tables named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="generate_joints", description="Make the firmware's joint tables.")
    parser.add_argument("robots", nargs="*", help="robots by name or file; the package's own where none is named")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is stale")
    arguments = parser.parse_args()
    try:
        tables = [load_joint_table(robot) for robot in arguments.robots] or shipped_tables()
        stale = [table for table in tables if not is_current(table)]
        for table in stale:
            sys.stdout.write(f"{'stale' if arguments.check else 'writing'}: {output_path(table).name}\n")
            if not arguments.check:
                output_path(table).write_text(write_table(table))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
