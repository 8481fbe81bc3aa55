"""Builds the firmware's core as a library of this process, for any joint table, and loads it."""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import subprocess
from functools import cache
from pathlib import Path

from firmware_bridge.errors import EmulatorError
from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import JointTable
from pi0_edge.protos.serial_link import MAX_JOINTS

FIRMWARE = Path(__file__).parents[1] / "firmware"


class MotionLimits(ctypes.Structure):
    """`struct motion_limits`: units, and units per servo step."""

    _fields_ = [(name, ctypes.c_float) for name in ("minimum", "maximum", "max_step", "max_change")]


class JointMotion(ctypes.Structure):
    """`struct joint_motion`: units, and units per servo step."""

    _fields_ = [(name, ctypes.c_float) for name in ("position", "velocity")]


class MotionTarget(ctypes.Structure):
    """`struct motion_target`: units, and units per servo step."""

    _fields_ = [(name, ctypes.c_float) for name in ("position", "velocity", "change")]


class JointMeasurement(ctypes.Structure):
    """`struct joint_measurement`: unit, A, V, degrees Celsius, bits of `JointFlag`, servo steps."""

    _fields_ = [
        ("position", ctypes.c_float),
        ("current", ctypes.c_float),
        ("volts", ctypes.c_float),
        ("temperature", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("age", ctypes.c_uint8),
    ]


Motions = JointMotion * MAX_JOINTS


def build_core(table: JointTable, target: str) -> Path:
    """Compile a target of the firmware's Makefile with this joint table; returns the folder of what was made.

    Raises:
        EmulatorError: Make or the C compiler is missing, or the core does not compile.
    """
    missing = [program for program in ("make", "gcc") if shutil.which(program) is None]
    if missing:
        raise EmulatorError(
            f"{' and '.join(missing)} not installed; "
            "run `sudo apt-get install --no-install-recommends gcc libc6-dev make`"
        )
    name = f"{table.robot}_{table.limits_hash:08x}"
    build = FIRMWARE / "build" / "lockstep" / name
    build.mkdir(parents=True, exist_ok=True)
    folder = build.relative_to(FIRMWARE)
    argv = ["make", "-C", str(FIRMWARE), target, f"ROBOT={name}", f"ROBOTS={folder}", f"BUILD={folder}"]
    with (build / ".lock").open("w") as lock:  # another process may need the same library at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write_if_changed(build / f"{name}.c", write_table(table))
        made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise EmulatorError(f"the core of the firmware does not compile for {table.robot}: {made.stderr.strip()}")
    return build / "host"


@cache
def load_host_library(table: JointTable) -> ctypes.CDLL:
    """Return the library with this joint table compiled in; it holds one controller.

    Raises:
        EmulatorError: See `build_core`.
    """
    return _declare(ctypes.CDLL(str(build_core(table, "host") / "libfirmware.so")))


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.crc32_update.restype = ctypes.c_uint32
    library.joint_table_hash.restype = ctypes.c_uint32
    library.cobs_encode.restype = ctypes.c_size_t
    library.host_receive.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.host_take_sent.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.host_take_sent.restype = ctypes.c_size_t
    library.host_servo.argtypes = [ctypes.c_uint32, ctypes.c_uint32]
    library.host_press_estop.argtypes = [ctypes.c_bool]
    for measure in (library.host_measure, library.host_measure_near):
        measure.argtypes = [ctypes.c_uint8, ctypes.POINTER(JointMeasurement)]
    library.host_copy_motion.argtypes = [ctypes.POINTER(Motions)]
    library.host_control.restype = ctypes.c_void_p
    library.host_control_size.restype = ctypes.c_size_t
    library.motion_track.argtypes = [ctypes.c_void_p] * 4
    library.motion_track.restype = ctypes.c_uint8
    library.motion_stop.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library
