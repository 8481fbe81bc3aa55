"""Images with the time they were taken, from the cameras of a robot.

    with CameraSet(robot.camera_sources) as cameras:
        images = cameras.newest()  # camera -> CameraImage; a CameraError names the camera that cannot be used

What a robot file says about its cameras is in `pi0_edge.robots.camera_sources`. Sources are opened late: only what a
camera needs has to be installed.
"""

from pi0_edge.cameras.camera import Camera, CameraHealth
from pi0_edge.cameras.camera_set import CameraSet
from pi0_edge.cameras.images import CameraImage, skew_s
from pi0_edge.cameras.source import TimeSource
from pi0_edge.cameras.watch import CameraFault, FaultKind

__all__ = [
    "Camera",
    "CameraFault",
    "CameraHealth",
    "CameraImage",
    "CameraSet",
    "FaultKind",
    "TimeSource",
    "skew_s",
]
