"""Firmware that was built from other serial messages than those of this SDK."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from source_tree import ROOT

from pi0_edge.protos.serial_link import SCHEMA_HASH

OTHER_SCHEMA = 0x12345678


def image_of_other_messages(folder: Path) -> Path:
    """ALOHA's image for the emulated board, built in a folder that does not exist yet."""
    unwanted = shutil.ignore_patterns("build", "node_modules")
    shutil.copytree(ROOT / "firmware_bridge" / "firmware", folder, ignore=unwanted)
    header = folder / "core" / "serial_link.h"
    ours, text = f"0x{SCHEMA_HASH:08X}u", header.read_text()
    assert ours in text
    header.write_text(text.replace(ours, f"0x{OTHER_SCHEMA:08X}u"))
    made = subprocess.run(["make", "-s", "-C", str(folder), "lm3s6965evb"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder / "build" / "lm3s6965evb" / "firmware.elf"
