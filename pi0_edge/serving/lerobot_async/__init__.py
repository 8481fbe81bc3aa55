"""The stock asynchronous client of LeRobot, served without executing a pickle."""

from pi0_edge.serving.lerobot_async.server import FPS, LerobotAsyncServer, lerobot_listen
from pi0_edge.serving.lerobot_joints import check_units

__all__ = ["FPS", "LerobotAsyncServer", "check_units", "lerobot_listen"]
