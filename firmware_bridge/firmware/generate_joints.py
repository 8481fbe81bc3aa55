"""Makes the firmware's joint tables: `python -m firmware_bridge.firmware.generate_joints robots/aloha.yaml [--check]`.

Each `firmware_bridge/robots/NAME.yaml` becomes `firmware_bridge/firmware/robots/NAME.c`. Numbers are printed with
nine digits, enough for the compiler to read back the same float32. `--check` writes nothing and exits with 1 where a
table on disk is not what its source gives.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from firmware_bridge.errors import ConfigError
from firmware_bridge.firmware.joint_table import Joint, JointTable, load_joint_table

OUTPUT = Path(__file__).parent / "robots"
ROBOTS = Path(__file__).parents[1] / "robots"


def write_table(table: JointTable) -> str:
    """Return the C source of one robot's joint table."""
    rows = "".join(_row(joint) for joint in table.joints)
    return (
        f"/* Joint table of {table.robot}, made from firmware_bridge/robots/{table.robot}.yaml by\n"
        " * `python -m firmware_bridge.firmware.generate_joints`. Do not edit. */\n"
        '#include "joint_table.h"\n\n'
        f"static const struct joint joints[] = {{\n{rows}}};\n\n"
        "const struct joint_table joint_table = {\n"
        f'    .robot = "{table.robot}",\n'
        f"    .control_hz = {table.control_hz},\n"
        f"    .servo_hz = {table.servo_hz},\n"
        "    .count = sizeof joints / sizeof joints[0],\n"
        "    .joints = joints,\n"
        "};\n"
    )


def output_path(source: Path) -> Path:
    """Return where the table of `source` belongs."""
    return OUTPUT / f"{source.stem}.c"


def is_current(source: Path) -> bool:
    """Whether the table on disk is what `source` gives; `ConfigError` where `source` is wrong."""
    path = output_path(source)
    return path.exists() and path.read_text() == write_table(load_joint_table(source))


def _row(joint: Joint) -> str:
    numbers = {
        "minimum": joint.minimum,
        "maximum": joint.maximum,
        "velocity": joint.velocity,
        "acceleration": joint.acceleration,
        "home": joint.home,
        "resolution": joint.resolution,
    }
    fields = "".join(f"        .{name} = {_literal(value)},\n" for name, value in numbers.items())
    return f'    {{\n        .name = "{joint.name}",\n        .unit = "{joint.unit}",\n{fields}    }},\n'


def _literal(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def main() -> int:
    """Write or check the tables named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="generate_joints", description="Make the firmware's joint tables.")
    parser.add_argument("sources", nargs="*", type=Path, help="joint tables (YAML); all robots where none is named")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a table is stale")
    arguments = parser.parse_args()
    try:
        stale = [source for source in arguments.sources or sorted(ROBOTS.glob("*.yaml")) if not is_current(source)]
        for source in stale:
            sys.stdout.write(f"{'stale' if arguments.check else 'writing'}: {output_path(source).name}\n")
            if not arguments.check:
                output_path(source).write_text(write_table(load_joint_table(source)))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
