"""Whether the simulation renders: one picture, in a process of its own, because OpenGL may take a process down."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from pi0_edge.doctor.check import Check, apt, pip

_PROBE = (
    "from pi0_edge.sim.aloha_transfer_cube import AlohaTransferCube as Cube; env = Cube(); env.reset(0); "
    "assert env.render().std() > 5, 'the picture is empty'; env.close()"
)
_LIMIT_S = 120
OPENGL_PACKAGES = ("libegl1", "libgl1", "libgl1-mesa-dri")


def rendering() -> Check:
    """One picture of the simulated ALOHA through EGL."""
    missing = [name for name in ("mujoco", "dm_control", "gym_aloha") if importlib.util.find_spec(name) is None]
    if missing:
        return Check("EGL rendering", "fail", f"{', '.join(missing)} not installed", pip("sim"))
    try:
        argv = [sys.executable, "-c", _PROBE]
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Check("EGL rendering", "fail", f"no picture within {_LIMIT_S} s", apt(*OPENGL_PACKAGES))
    if ran.returncode:
        said = (ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1]
        return Check("EGL rendering", "fail", said[:200], apt(*OPENGL_PACKAGES))
    return Check("EGL rendering", "pass", "the simulated ALOHA renders")
