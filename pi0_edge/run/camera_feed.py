"""Every image of every camera of a run, whether the policy is asked about it or not: for recordings and viewers."""

from __future__ import annotations

from collections.abc import Callable

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage, CameraSet
from pi0_edge.errors import CameraError
from pi0_edge.run.events import Answered, Event, Observed


class CameraFeed:
    """A listener that looks for new images at every tick; none while a camera is lost."""

    def __init__(self, cameras: CameraSet, on_image: Callable[[str, CameraImage], object]) -> None:
        """Feeds one receiver.

        Args:
            cameras: Open.
            on_image: Is given each new image with the name of its camera; returns at once.
        """
        self._cameras = cameras
        self._on_image = on_image
        self._given: dict[str, int] = {}

    def on_observed(self, observed: Observed) -> None:
        """Nothing."""

    def on_answered(self, answered: Answered) -> None:
        """Nothing."""

    def on_tick(self, tick: Tick) -> None:
        """Gives the images that are new."""
        try:
            images = self._cameras.newest()
        except CameraError:
            return
        for name, image in images.items():
            if self._given.get(name) != image.taken_ns:
                self._given[name] = image.taken_ns
                self._on_image(name, image)

    def on_event(self, event: Event) -> None:
        """Nothing."""
