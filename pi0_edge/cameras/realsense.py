"""The colour images of an Intel RealSense, through its own library."""

from __future__ import annotations

import time

import numpy as np

from pi0_edge.cameras.source import READ_TIMEOUT_S, LostCameraError, Picture, Source
from pi0_edge.errors import CameraError, MissingDependencyError
from pi0_edge.robots import CameraSettings

try:
    import pyrealsense2 as rs  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise MissingDependencyError(
        f"RealSense cameras need pyrealsense2 ({error}): pip install 'pi0-edge[realsense]'"
    ) from error

SETTLING = 15
"""Images dropped after opening, while exposure settles."""


class RealsenseSource(Source):
    """One RealSense, by its serial number."""

    discard_first = SETTLING

    def __init__(self, settings: CameraSettings) -> None:
        """Starts its colour stream.

        Raises:
            CameraError: If it is not there or offers no such stream.
        """
        self._serial = settings.address
        there = serial_numbers()
        if self._serial not in there:
            raise CameraError(f"there is no RealSense {self._serial}; connected are {', '.join(there) or 'none'}")
        self.fps = settings.fps
        config = rs.config()
        config.enable_device(self._serial)
        # Zero leaves a value to the camera.
        size_and_rate = settings.width or 0, settings.height or 0, rs.format.rgb8, round(settings.fps or 0)
        config.enable_stream(rs.stream.color, *size_and_rate)
        self._pipeline = rs.pipeline()
        try:
            self._pipeline.start(config)
        except RuntimeError as error:
            raise CameraError(
                f"RealSense {self._serial} cannot give {settings.width}x{settings.height} RGB at {settings.fps} images "
                f"a second ({error}); `rs-enumerate-devices` shows what it offers"
            ) from error

    def read(self) -> Picture | None:
        """The next colour image."""
        try:
            came, frames = self._pipeline.try_wait_for_frames(int(READ_TIMEOUT_S * 1e3))
        except RuntimeError as error:
            raise LostCameraError(f"RealSense {self._serial} is gone ({error})") from error
        if not came and self._serial not in serial_numbers():
            raise LostCameraError(f"RealSense {self._serial} is gone")
        frame = frames.get_color_frame() if came else None
        if not frame:
            return None
        arrived_ns = time.monotonic_ns()
        stamp_ns = None
        if frame.get_frame_timestamp_domain() == rs.timestamp_domain.global_time:
            # Milliseconds of the system's clock, to which the library fits the camera's.
            stamp_ns = int(frame.get_timestamp() * 1e6) - (time.time_ns() - time.monotonic_ns())
        self.time_source = "arrival" if stamp_ns is None else "device"
        pixels = np.array(frame.get_data(), np.uint8)
        return Picture(pixels, arrived_ns, stamp_ns, int(frame.get_frame_number()), "rgb8")

    def close(self) -> None:
        """Stops its stream."""
        self._pipeline.stop()


def serial_numbers() -> list[str]:
    """Those of the cameras that are connected."""
    return [device.get_info(rs.camera_info.serial_number) for device in rs.context().query_devices()]
