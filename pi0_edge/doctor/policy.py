"""Simulation and shipped policy."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from pi0_edge.doctor.check import Check, apt, pip
from pi0_edge.errors import CheckpointError
from pi0_edge.shipped import shipped_checkpoint

_RENDER_PROBE = (
    "from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube as Cube; env = Cube(); env.reset(0); "
    "assert env.render().std() > 5, 'the image is empty'; env.close()"
)
_RENDER_LIMIT_S = 120
OPENGL_PACKAGES = ("libegl1", "libgl1", "libgl1-mesa-dri")


def rendering() -> Check:
    """One image of the simulated ALOHA through EGL."""
    missing = [name for name in ("mujoco", "dm_control", "gym_aloha") if importlib.util.find_spec(name) is None]
    if missing:
        return Check("EGL rendering", "fail", f"{', '.join(missing)} not installed", pip("sim"))
    try:
        argv = [sys.executable, "-c", _RENDER_PROBE]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_RENDER_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Check("EGL rendering", "fail", f"no image within {_RENDER_LIMIT_S} s", apt(*OPENGL_PACKAGES))
    if ran.returncode:
        output = (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
        inherited = output.rpartition("): ")[2] if "no image can be drawn with" in output else ""
        return Check("EGL rendering", "fail", output[:200], inherited or apt(*OPENGL_PACKAGES))
    return Check("EGL rendering", "pass", "the simulated ALOHA renders")


def checkpoint() -> Check:
    """The trained cube-transfer policy."""
    try:
        folder = shipped_checkpoint()
    except CheckpointError as error:
        return Check("shipped policy", "fail", str(error), "git checkout -- pi0_edge/assets")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Check("shipped policy", "pass", f"{folder} ({size / 1e6:.1f} MB)")
