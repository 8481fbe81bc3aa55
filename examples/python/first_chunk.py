"""Loads the policy that comes with the project and answers one observation with one chunk.

python examples/python/first_chunk.py
"""

import numpy as np

from pi0_edge import Observation, Policy
from pi0_edge.shipped import shipped_checkpoint

policy = Policy.load(shipped_checkpoint(), engine="cpu")
robot = policy.processor.robot
image = np.zeros((480, 640, 3), np.uint8)  # RGB, as a camera delivers it
home = [joint.home or 0.0 for joint in robot.joints]
chunk = policy.infer(Observation(images={"top": image}, state=home, prompt="Transfer cube"))

horizon, joints = chunk.actions.shape
print(f"{horizon} actions of {joints} joints in {chunk.infer_ms:.0f} ms; the first one:")
for joint, position in zip(robot.joints, chunk.actions[0], strict=True):
    print(f"  {joint.name:20s} {position:7.3f} {joint.unit}")
