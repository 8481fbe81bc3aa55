"""All cameras of a robot: the newest image of each, taken at nearly the same time, or an error that names a camera."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

from pi0_edge.cameras.camera import Camera, CameraHealth
from pi0_edge.cameras.images import CameraImage, skew_s
from pi0_edge.cameras.watch import CameraFault
from pi0_edge.errors import CameraError, ConfigError, MissingDependencyError, Pi0EdgeError
from pi0_edge.robots import CameraSettings

OPEN_TIMEOUT_S = 10.0
"""A network camera that has to send a key frame first can take several seconds."""

SKEW_PERIODS = 2
"""Cameras that run freely are up to one period apart, and one lost image adds another."""


class CameraSet:
    """The cameras of a robot, open from `__enter__` to `__exit__`.

        with CameraSet(robot.camera_sources) as cameras:
            images = cameras.newest()  # {"front": CameraImage, "wrist": CameraImage}
            print(skew_s(images), cameras.health()["front"].rate_hz)

    A camera that was lost is opened again by itself; until its images are good again, `newest` raises and `faults`
    says why and since when.

    Attributes:
        settings: By camera.
    """

    def __init__(
        self,
        settings: Mapping[str, CameraSettings],
        max_skew_s: float | None = None,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        """Opens nothing yet.

        Args:
            settings: By camera, as in `Robot.camera_sources` or from `load_camera_file`.
            max_skew_s: Longest time between the images of one observation; two periods of the slowest camera where
                None, 67 ms at 30 images a second: free-running cameras are up to one period apart, and a lost image
                adds one.
            open_timeout_s: How long opening waits for the first good image of every camera.

        Raises:
            ConfigError: If there is no camera.
        """
        if not settings:
            raise ConfigError("no camera has a source; give camera_sources in the robot file, or a file of their own")
        self.settings = dict(settings)
        self._max_skew_s = max_skew_s
        self._open_timeout_s = open_timeout_s
        self._cameras: dict[str, Camera] = {}

    def __enter__(self) -> CameraSet:
        """Opens all cameras at once and waits for a good image of each.

        Raises:
            CameraError: If one cannot be opened or gives no good image; the message names every such camera.
            MissingDependencyError: If a package that one needs is not installed.
        """
        self._cameras = {name: Camera(name, settings) for name, settings in self.settings.items()}
        deadline = time.monotonic() + self._open_timeout_s
        refusals: list[Pi0EdgeError] = []
        for camera in self._cameras.values():
            try:
                camera.wait_for_image(max(0.0, deadline - time.monotonic()))
            except (CameraError, MissingDependencyError) as error:
                refusals.append(error)
            except BaseException:
                self.close()
                raise
        if refusals:
            self.close()
            raise refusals[0] if len(refusals) == 1 else CameraError("\n".join(map(str, refusals)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras, in the order of their settings."""
        return tuple(self.settings)

    @property
    def max_skew_s(self) -> float:
        """Longest time between the images of one observation, seconds."""
        if self._max_skew_s is not None:
            return self._max_skew_s
        return SKEW_PERIODS * max((camera.period_s for camera in self._open_cameras().values()), default=0.0)

    def newest(self, max_age_s: float | None = None) -> dict[str, CameraImage]:
        """The newest image of every camera; `skew_s` of it says how far apart they were taken.

        Args:
            max_age_s: Longest time since an image was taken; what its camera's settings say where None.

        Raises:
            CameraError: If a camera has a fault, its image is too old, or images were taken too far apart; the message
                names every such camera.
        """
        images, refusals = {}, []
        for name, camera in self._open_cameras().items():
            image, fault = camera.newest, camera.fault
            now_ns = time.monotonic_ns()
            limit_s = camera.settings.max_age_s if max_age_s is None else max_age_s
            if fault is not None:
                for_s = (now_ns - fault.since_ns) / 1e9
                refusals.append(f"camera {name} is not usable since {for_s:.1f} s ({fault.kind}): {fault.message}")
            elif image is None:
                refusals.append(f"camera {name} has given no image yet")
            elif (now_ns - image.taken_ns) / 1e9 > limit_s:
                age_s = (now_ns - image.taken_ns) / 1e9
                refusals.append(f"camera {name}: its newest image is {age_s:.3f} s old, expected at most {limit_s:g} s")
            else:
                images[name] = image
        if refusals:
            raise CameraError("\n".join(refusals))
        self._check_skew(images)
        return images

    def faults(self) -> dict[str, CameraFault]:
        """The cameras whose images cannot be used now, and why and since when."""
        found = {name: camera.fault for name, camera in self._open_cameras().items()}
        return {name: fault for name, fault in found.items() if fault is not None}

    def health(self) -> dict[str, CameraHealth]:
        """How each camera does."""
        return {name: camera.health() for name, camera in self._open_cameras().items()}

    def close(self) -> None:
        """Closes all cameras."""
        cameras, self._cameras = self._cameras, {}
        for camera in cameras.values():
            camera.stop()
        for camera in cameras.values():
            camera.close()

    def _open_cameras(self) -> dict[str, Camera]:
        if not self._cameras:
            raise CameraError("the cameras are not open; use `with CameraSet(...) as cameras`")
        return self._cameras

    def _check_skew(self, images: Mapping[str, CameraImage]) -> None:
        found_s = skew_s(images)
        if found_s <= self.max_skew_s:
            return
        by_time = sorted(images, key=lambda name: images[name].taken_ns)
        raise CameraError(
            f"camera {by_time[0]} was taken {found_s * 1e3:.0f} ms before camera {by_time[-1]}, expected at most "
            f"{self.max_skew_s * 1e3:.0f} ms; take the same rate and kind of connection for both, or allow more skew"
        )
