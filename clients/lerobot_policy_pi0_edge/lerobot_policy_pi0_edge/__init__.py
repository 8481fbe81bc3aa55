"""A policy of LeRobot whose network runs in a pi0-edge policy server: `--policy.type=pi0_edge --policy.server=…`."""

from lerobot_policy_pi0_edge.configuration_pi0_edge import Pi0EdgeConfig

__all__ = ["Pi0EdgeConfig"]
