"""A robot of your own: reads its file, shows what policy and bridge see, and writes the firmware's joint table.

In the folder of the repository::

    python examples/python/own_robot/own_robot.py tables
    make -C firmware_bridge/firmware rp2040 ROBOT=desk_arm ROBOTS=$PWD/tables
    pi0-edge serve --checkpoint CHECKPOINT --robot examples/python/own_robot/desk_arm.yaml
    pi0-edge bridge --port /dev/ttyACM0 --robot examples/python/own_robot/desk_arm.yaml
"""

import sys
from pathlib import Path

from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.robot import load_joints
from pi0_edge import load_robot

FILE = Path(__file__).with_name("desk_arm.yaml")

robot = load_robot(FILE)
joints = load_joints(FILE)
print(f"policy: {robot.state_dim} state and {robot.action_dim} action dimensions, cameras {', '.join(robot.cameras)}")
print(f"bridge: {', '.join(joints.names)}; limits hash {joints.limits_hash:08x}")

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
table = folder / f"{robot.name}.c"
table.write_text(write_table(joint_table(robot)))
print(f"firmware: {table}")
