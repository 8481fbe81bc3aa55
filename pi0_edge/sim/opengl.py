"""Which OpenGL draws the simulated images, and what to do where none does.

EGL draws without a display, and is what is asked for where MUJOCO_GL is not set. The variable is often inherited from
another project; mujoco and dm_control each read it once, when they are imported, and end in errors of their own where
its word is unknown or its library finds no display. Where something else of this process, such as the kinematics of a
workspace, has imported mujoco without the variable, mujoco is made to read it again.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pi0_edge.errors import MissingDependencyError

_reads_again = "MUJOCO_GL" not in os.environ and "mujoco.gl_context" in sys.modules
os.environ.setdefault("MUJOCO_GL", "egl")

_PACKAGES = "apt install libegl1 libgl1 libgl1-mesa-dri"


@contextmanager
def opengl_errors() -> Iterator[None]:
    """Turns whatever mujoco and its OpenGL raise inside into one line that says what to do.

    Raises:
        MissingDependencyError: If something was raised, but what is missing in the Python packages themselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GLFW warns before it fails
        try:
            _let_mujoco_read_again()
            yield
        except ModuleNotFoundError:
            raise
        except Exception as error:  # what PyOpenGL, GLFW and mujoco raise depends on which library is missing
            raise MissingDependencyError(_advice(error)) from error


def _let_mujoco_read_again() -> None:
    global _reads_again
    if _reads_again:
        importlib.reload(sys.modules["mujoco.gl_context"])
        _reads_again = False


def _advice(error: Exception) -> str:
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    asked = os.environ["MUJOCO_GL"]
    if asked != "egl":
        return f"no image can be drawn with MUJOCO_GL={asked!r} ({said}): unset MUJOCO_GL or set it to egl"
    for name in ("PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID"):
        value = os.environ.get(name)
        if value is not None and value.lower() != "egl":
            return f"no image can be drawn with {name}={value!r} ({said}): unset {name}"
    return f"mujoco found no off-screen OpenGL for MUJOCO_GL={asked} ({said}): {_PACKAGES}"
