"""Images with the time they were taken, from the cameras of a robot."""

from pi0_edge.cameras.images import CameraImage

__all__ = ["CameraImage"]
