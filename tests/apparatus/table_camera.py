"""A camera above the simulated table, as a process: the simulation follows telemetry, and its images go to a folder.

A reset of the board puts the table back to its beginning.

`python table_camera.py BRIDGE FOLDER` writes FOLDER/table.bmp anew 25 times a second, and says "ready" after the first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from firmware_bridge.client import BridgeClient, Tick
from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube

EVERY_TICKS = 2
SIDE = 112
SEED = 0
MOST_MISSED = 50


def show(table: AlohaTransferCube, folder: Path) -> None:
    """Writes what the camera sees now, so that no reader meets half an image."""
    written = folder / "next"
    Image.fromarray(table.render("top", SIDE, SIDE)).save(written, "BMP")
    os.replace(written, folder / "table.bmp")


def follow(ticks: Iterator[Tick], table: AlohaTransferCube, folder: Path) -> None:
    """Moves the arms of the simulation to where those of the firmware are."""
    last = next(ticks)
    for tick in ticks:
        if tick.tick < last.tick:  # the board was reset: its joints are at home
            table.reset(SEED)
        for _ in range(min(tick.tick - last.tick, MOST_MISSED)):
            table.step(tick.measured)
        if tick.tick // EVERY_TICKS != last.tick // EVERY_TICKS:
            show(table, folder)
        last = tick


def main() -> None:
    address, folder = sys.argv[1], Path(sys.argv[2])
    table = AlohaTransferCube()
    table.reset(SEED)
    show(table, folder)
    with BridgeClient(address, "table camera") as bridge, bridge.telemetry() as ticks:
        print("ready", flush=True)
        follow(ticks, table, folder)


if __name__ == "__main__":
    main()
