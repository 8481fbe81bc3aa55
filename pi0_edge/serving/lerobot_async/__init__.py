"""The stock asynchronous client of LeRobot, served without executing a pickle."""

from pi0_edge.serving.lerobot_async.robot_match import check_units
from pi0_edge.serving.lerobot_async.server import FPS, LerobotAsyncServer, lerobot_listen

__all__ = ["FPS", "LerobotAsyncServer", "check_units", "lerobot_listen"]
