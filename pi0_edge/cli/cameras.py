"""`pi0-edge cameras`: what is there, what each camera of a robot gives, and a still of each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output
from pi0_edge.errors import CameraError, ConfigError, MissingDependencyError
from pi0_edge.robots import CameraSettings, load_camera_file, load_robot

if TYPE_CHECKING:
    from pi0_edge.cameras import CameraHealth
    from pi0_edge.cameras.v4l2_device import V4l2Camera

MEASURED_S = 1.5
"""How long rates are measured."""


def cameras(
    robot: Annotated[
        str | None, typer.Option(help="Open the cameras of this robot (name or .yaml) and measure them.")
    ] = None,
    cameras: Annotated[Path | None, typer.Option(help="Open those of this .yaml, instead of a robot's.")] = None,
    stills: Annotated[Path | None, typer.Option(help="Write a PNG of each camera into this folder.")] = None,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds until each must have given good images.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """List the cameras of this machine, or open those of a robot and say how they do.

    Exit code 1 where a camera cannot be used.
    """
    output = Output(as_json)
    if robot is not None and cameras is not None:
        raise ConfigError("--robot and --cameras both say which cameras to open, expected one of them")
    if stills is not None:
        stills.mkdir(parents=True, exist_ok=True)
    if robot is None and cameras is None:
        result, usable = _list(output, stills, wait)
    else:
        result, usable = _open(output, _settings(robot, cameras), stills, wait)
    output.finish(result)
    if not usable:
        raise typer.Exit(1)


def _settings(robot: str | None, file: Path | None) -> Mapping[str, CameraSettings]:
    if file is not None:
        return load_camera_file(file)
    found = load_robot(str(robot))
    if not found.camera_sources:
        raise ConfigError(
            f"robot {robot} does not say where the images of {', '.join(found.cameras) or 'its cameras'} come from; "
            "give camera_sources in a robot file of your own, or --cameras FILE"
        )
    return found.camera_sources


def _list(output: Output, stills: Path | None, wait_s: float) -> tuple[dict[str, object], bool]:
    """What is plugged in; a still of each is taken one after the other, as two can be too much for one USB bus."""
    from pi0_edge.cameras.stills import usual_settings
    from pi0_edge.cameras.v4l2_device import list_v4l2_cameras

    found = list_v4l2_cameras()
    rows = [(f"v4l2:{camera.names[0]}", camera.card, camera.bus, _offers(camera)) for camera in found]
    output.table("V4L2 cameras", ("source", "what", "bus", "offers"), rows)
    if not found:
        output.print("no V4L2 camera is here; a robot file can also name GStreamer, RTSP, RealSense, files and folders")
    seen = _Seen()
    for camera in found:
        settings = usual_settings(camera)
        if camera.refusal:
            seen.problems[camera.names[0]] = camera.refusal
        elif stills is not None and settings is not None:
            seen.watch({camera.names[0]: settings}, stills, wait_s)
    _print(output, seen)
    return {"v4l2": found, "problems": seen.problems, "stills": seen.stills}, not seen.problems


def _open(
    output: Output, settings: Mapping[str, CameraSettings], stills: Path | None, wait_s: float
) -> tuple[dict[str, object], bool]:
    """All cameras of a robot at once, as the robot will open them."""
    seen = _Seen()
    with output.console.status("watching"):
        seen.watch(settings, stills, wait_s)
    rows = [
        (name, h.source, h.format or "-", f"{h.width}x{h.height}", h.rate_hz, h.dropped, h.time_source or "-")
        for name, h in seen.health.items()
    ]
    output.table("cameras", ("camera", "source", "format", "size", "Hz", "dropped", "time is"), rows)
    _print(output, seen)
    return {"cameras": seen.health, "problems": seen.problems, "stills": seen.stills}, not seen.problems


@dataclass
class _Seen:
    """What was found out about cameras, by name.

    Attributes:
        health: How each did.
        problems: Why one cannot be used.
        stills: Where its picture was written.
    """

    health: dict[str, CameraHealth] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    stills: dict[str, str] = field(default_factory=dict)

    def watch(self, settings: Mapping[str, CameraSettings], stills: Path | None, wait_s: float) -> None:
        """Opens cameras at once, waits until their images are good, and looks at them for a while."""
        from pi0_edge.cameras import Camera
        from pi0_edge.cameras.stills import write_still

        opened = {name: Camera(name, entry) for name, entry in settings.items()}
        try:
            deadline = time.monotonic() + wait_s
            for name, camera in opened.items():
                try:
                    camera.wait_for_image(max(0.0, deadline - time.monotonic()))
                except (CameraError, MissingDependencyError) as error:
                    self.problems[name] = str(error)
            time.sleep(MEASURED_S)
            for name, camera in opened.items():
                self.health[name] = health = camera.health()
                if health.fault is not None:
                    self.problems.setdefault(name, f"camera {name}: {health.fault.message}")
                if stills is not None and camera.last_seen is not None:
                    path = stills / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(name).name)}.png"
                    write_still(camera.last_seen.pixels, path)
                    self.stills[name] = str(path)
        finally:
            for camera in opened.values():
                camera.stop()
            for camera in opened.values():
                camera.close()


def _print(output: Output, seen: _Seen) -> None:
    for why in seen.problems.values():
        output.print(f"problem: {why}")
    for name, path in seen.stills.items():
        output.print(f"still of {name}: {path}")


def _offers(camera: V4l2Camera) -> str:
    """Formats with their sizes and fastest rates, a line each."""
    lines = {}
    for offered in camera.formats:
        rate = f"@{max(offered.rates):g}" if offered.rates else ""
        lines.setdefault(offered.format, []).append(f"{offered.width}x{offered.height}{rate}")
    return "\n".join(f"{code}: {', '.join(sizes)}" for code, sizes in lines.items()) or "-"
