# pyright: reportMissingImports=false
"""The simulated cube transfer of pi0-edge as an environment and as a robot of LeRobot, for trying the policy out.

Named by a flag, it registers both with LeRobot; the shipped policy was trained on its camera, not on gym-aloha's own::

    lerobot-eval --env.discover_packages_path=lerobot_policy_pi0_edge.cube_transfer --env.type=pi0_edge_cube …
    lerobot-rollout --robot.discover_packages_path=lerobot_policy_pi0_edge.cube_transfer --robot.type=pi0_edge_cube …
"""

from lerobot_policy_pi0_edge.cube_transfer.environment import CubeTransferConfig
from lerobot_policy_pi0_edge.cube_transfer.simulated_arms import SimulatedArms, SimulatedArmsConfig

__all__ = ["CubeTransferConfig", "SimulatedArms", "SimulatedArmsConfig"]
