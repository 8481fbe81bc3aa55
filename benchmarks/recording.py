"""What it costs to record a run, and to read it: `python -m benchmarks.recording`.

Images are renders of the simulated ALOHA (480x640) with sensor noise of σ = 2 of 255, each other than the last. The run
is 30 seconds of three cameras at 30 images per second, 50 ticks per second, and two observations per second, put into
the recorder as fast as it takes them; the processor time is that of its thread.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe_machine
from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.protos.serial_link import Fault, State, TickFlag
from pi0_edge.robots import load_robot
from pi0_edge.run.events import Observed
from pi0_edge.run.recording import RunDescription, RunRecorder, RunRecording
from pi0_edge.run.recording.recorder import RunRecorder as Recorder
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

CAMERAS = ("top", "left_wrist", "right_wrist")
SECONDS, IMAGES_HZ, TICKS_HZ, OBSERVATIONS_HZ = 30, 30, 50, 2
SIZE = (480, 640)


def noisy_images(count: int) -> list[NDArray[np.uint8]]:
    """Renders with noise, uint8 [480, 640, 3]."""
    env, rng = AlohaTransferCube(), np.random.default_rng(0)
    env.reset(0)
    images = []
    for view in ("top", "angle"):
        clean = env.render(view, *SIZE).astype(np.float32)
        for _ in range(count // 2):
            images.append(np.clip(clean + rng.normal(0, 2, clean.shape), 0, 255).astype(np.uint8))
    return images


def encodings() -> dict[str, Callable[[NDArray[np.uint8]], bytes]]:
    """The candidates, by name."""

    def saved(pixels: NDArray[np.uint8], kind: str, **options: object) -> bytes:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, kind, **options)
        return content.getvalue()

    return {
        "raw": lambda pixels: pixels.tobytes(),
        "PNG, level 1": lambda pixels: saved(pixels, "PNG", compress_level=1),
        "PNG, level 6": lambda pixels: saved(pixels, "PNG", compress_level=6),
        "JPEG, quality 90": lambda pixels: saved(pixels, "JPEG", quality=90),
    }


def tick(number: int) -> Tick:
    """A tick of 14 joints."""
    values = np.full(14, 0.001 * number, np.float32)
    zeros, flags = np.zeros(14, np.float32), np.zeros(14, np.uint8)
    return Tick(
        number, number, 1, State.RUNNING, Fault(0), 40, 1, TickFlag.EXECUTED, values, number, 0.0, values, zeros,
        zeros, flags, "",
    )  # fmt: skip


class Measured(Recorder):
    """A recorder that knows the processor time of its thread."""

    thread_s = 0.0

    def _run(self) -> None:
        super()._run()
        self.thread_s = time.thread_time()


def record(folder: Path, images: list[NDArray[np.uint8]]) -> tuple[Path, float, float, float]:
    """The run; returns file, processor seconds of the thread, and the slowest and mean call in microseconds."""
    description = RunDescription(load_robot("aloha"), PolicyMetadata(model="pi0"))
    path = folder / "run.mcap"
    calls: list[float] = []

    def told(call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        calls.append(1e6 * (time.perf_counter() - began))

    recorder: RunRecorder = Measured(path, description, waiting_bytes=1 << 33)
    with recorder:
        for number in range(SECONDS * 150):  # 150 is a multiple of all three rates
            now = time.monotonic_ns()
            shown = {camera: CameraImage(images[(number + k) % len(images)], now, number) for k, camera in
                     enumerate(CAMERAS)}  # fmt: skip
            if number % (150 // TICKS_HZ) == 0:
                told(lambda number=number: recorder.on_tick(tick(number)))
            if number % (150 // IMAGES_HZ) == 0:
                for camera in CAMERAS:
                    told(lambda camera=camera, shown=shown: recorder.on_image(camera, shown[camera]))
            if number % (150 // OBSERVATIONS_HZ) == 0:
                seen = Observed(number, now, shown, np.zeros(14, np.float32), "fold", 1)
                told(lambda seen=seen: recorder.on_observed(seen))
            while recorder._waiting_bytes > 64 << 20:  # as a run that does not outpace the recorder
                time.sleep(0.01)
    assert recorder.ended is None, recorder.ended
    assert isinstance(recorder, Measured)
    return path, recorder.thread_s, max(calls), float(np.mean(calls))


def main() -> int:
    """Prints the figures."""
    argparse.ArgumentParser(description="What it costs to record a run, and to read it.").parse_args()
    say = sys.stdout.write
    for name, text in describe_machine().items():
        say(f"{name:>20}  {text}\n")
    say("\nan image of 480x640, mean of 20\n")
    images = noisy_images(20)
    for name, encode in encodings().items():
        began = time.process_time()
        sizes = [len(encode(image)) for image in images]
        taken = 1e3 * (time.process_time() - began) / len(images)
        say(f"{name:>20}  {np.mean(sizes) / 1e3:7.1f} kB  {taken:6.2f} ms\n")
    with tempfile.TemporaryDirectory() as folder:
        path, thread_s, slowest_us, mean_us = record(Path(folder), images)
        size = path.stat().st_size
        began = time.process_time()
        recording = RunRecording(path)
        read_s = time.process_time() - began
        say(f"\na run of {SECONDS} s\n{'file':>20}  {size / 1e6:.1f} MB, {size / 1e6 / SECONDS:.2f} MB/s\n")
        say(f"{'recorder':>20}  {thread_s:.2f} s of its thread, {100 * thread_s / SECONDS:.1f} % of one core\n")
        say(f"{'call of the run':>20}  {mean_us:.0f} us mean, {slowest_us:.0f} us slowest\n")
        say(f"{'reading it':>20}  {read_s:.2f} s, {len(recording.ticks)} ticks\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
