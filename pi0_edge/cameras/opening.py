"""Opens the source that settings ask for; what it needs is imported only then."""

from __future__ import annotations

from pi0_edge.cameras.source import Source
from pi0_edge.errors import ConfigError
from pi0_edge.robots import CameraSettings


def open_source(settings: CameraSettings) -> Source:
    """Opens a camera.

    Raises:
        CameraError: If it is not there or cannot do what the settings ask for.
        MissingDependencyError: If a package that it needs is not installed.
    """
    match settings.kind:
        case "v4l2":
            from pi0_edge.cameras.v4l2 import V4l2Source

            return V4l2Source(settings)
        case "rtsp" | "rtsps":
            from pi0_edge.cameras.network_stream import NetworkSource

            return NetworkSource(settings)
        case "gstreamer":
            from pi0_edge.cameras.gstreamer import GstreamerSource

            return GstreamerSource(settings)
        case "realsense":
            from pi0_edge.cameras.realsense import RealsenseSource

            return RealsenseSource(settings)
        case "file" | "lavfi":
            from pi0_edge.cameras.played_video import PlayedVideo

            return PlayedVideo(settings)
        case "folder":
            from pi0_edge.cameras.image_folder import ImageFolder

            return ImageFolder(settings)
    raise ConfigError(f"source is {settings.source!r}, of a kind that is not known")
