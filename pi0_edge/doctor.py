"""Checks whether this machine can run the demo, the tests, a robot; each finding names the command that fixes it.

It runs on a machine where nothing of the policy is installed; what is missing is then a finding. A check is a function
without arguments that returns a `Check`. To add one, write it in its group (machine, GPU, programs, simulation and
policy, robot) and list it in `_CHECKS`. It tries the thing itself where it can: a compiler compiles.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pi0_edge.cameras.v4l2_device import list_v4l2_cameras
from pi0_edge.errors import CheckpointError
from pi0_edge.installed_packages import foreign_fault, numpy_advice, pyserial_advice, upgrade, version_conflicts
from pi0_edge.shipped import shipped_checkpoint

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: `fail` where the demo or the tests cannot run without it, `warn` where something else cannot.
        found: What was found.
        fix: The command that fixes it; empty where nothing needs a fix.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def examine() -> Iterator[Check]:
    """Runs all checks and yields each as it finishes; one that ends in an error has failed."""
    return map(_outcome, _CHECKS)


def _outcome(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # of whatever package is broken here
        name = check.__name__.replace("_", " ")
        fix = foreign_fault(error) or "pip check"
        return Check(name, "fail", f"{type(error).__name__}: {error}", fix)


def apt(*packages: str) -> str:
    """The command that installs Debian packages."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"


def pip(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'pi0-edge[{extra}]'"


# The machine: interpreter, processor, memory, disk.

GIB = 2**30
DEMO_MEMORY = 3 * GIB
FULL_SIZE_MEMORY = 9 * GIB
DEMO_DISK = GIB
FULL_SIZE_DISK = 16 * GIB

_INTEGER_UNITS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "amx_int8": "AMX INT8",
    "asimddp": "Arm dot product",
    "i8mm": "Arm I8MM",
}
"""Flags in /proc/cpuinfo of instructions that multiply and add 8-bit integers."""


def python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 10):  # noqa: UP036
        return Check("Python", "fail", f"{found}; expected 3.10 or newer", apt("python3", "python3-venv"))
    return Check("Python", "pass", found)


def packages() -> Check:
    """Whether the Python packages that are installed have versions that fit."""
    conflicts = version_conflicts()
    if not conflicts:
        return Check("Python packages", "pass", "those that are installed have versions that fit")
    status: Status = "fail" if any(conflict.for_users for conflict in conflicts) else "warn"
    return Check("Python packages", status, "; ".join(map(str, conflicts)), upgrade(conflicts))


def processor() -> Check:
    """Whether the CPU has an integer dot product, without which INT8 is not faster."""
    flags = _cpu_flags()
    units = [name for flag, name in _INTEGER_UNITS.items() if flag in flags]
    found = f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(units) or 'no integer dot product'}"
    if not units:
        fix = "use --scheme fp32: INT8 works here but is not faster"
        return Check("processor", "warn", found, fix)
    return Check("processor", "pass", found)


def memory() -> Check:
    """Whether demo and full-size model fit into memory."""
    available = _available_memory()
    found, fix = f"{available / GIB:.1f} GiB available", "free -h; ps aux --sort=-rss"
    if available < DEMO_MEMORY:
        return Check("memory", "fail", f"{found}; the demo needs {DEMO_MEMORY // GIB} GiB", fix)
    if available < FULL_SIZE_MEMORY:
        return Check("memory", "warn", f"{found}; a full-size π0 needs {FULL_SIZE_MEMORY // GIB} GiB", fix)
    return Check("memory", "pass", found)


def disk() -> Check:
    """Free space in the working directory."""
    free = shutil.disk_usage(Path.cwd()).free
    found, fix = f"{free / GIB:.1f} GiB free in {Path.cwd()}", "df -h; du -xh --max-depth=2 | sort -h"
    if free < DEMO_DISK:
        return Check("disk", "fail", f"{found}; the demo needs {DEMO_DISK // GIB} GiB", fix)
    if free < FULL_SIZE_DISK:
        return Check("disk", "warn", f"{found}; a full-size checkpoint needs {FULL_SIZE_DISK // GIB} GiB", fix)
    return Check("disk", "pass", found)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def _available_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


# GPU and Jetson.

_BOARD = Path("/proc/device-tree/model")
_L4T = Path("/etc/nv_tegra_release")


def torch_build() -> Check:
    """Whether torch is installed, without which no network runs."""
    if importlib.util.find_spec("torch") is None:
        return Check("torch", "fail", "not installed (only the bridge works without it)", pip("policy"))
    try:
        import torch

        torch.zeros(1).numpy()
    except RuntimeError as error:
        return Check("torch", "fail", str(error), numpy_advice())
    except (ImportError, OSError) as error:
        return Check("torch", "fail", f"it cannot be imported: {error}", "pip install --force-reinstall torch")
    return Check("torch", "pass", f"{torch.__version__}, {torch.get_num_threads()} threads")


def cuda() -> Check:
    """Whether torch finds a GPU."""
    if importlib.util.find_spec("torch") is None:
        return Check("CUDA", "warn", "unknown without torch", pip("policy"))
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Check("CUDA", "pass", f"{torch.cuda.get_device_name()}, sm_{major}{minor}, CUDA {torch.version.cuda}")
    build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
    return Check("CUDA", "warn", f"no CUDA device (torch is {build}); the CPU engine is used", "nvidia-smi")


def jetson() -> Check:
    """Model and release of a Jetson."""
    board = _BOARD.read_bytes().decode(errors="replace").strip("\0") if _BOARD.is_file() else ""
    if "jetson" not in board.lower() and not _L4T.is_file():
        return Check("Jetson", "pass", "not a Jetson; nothing of it is needed here")
    release = _L4T.read_text(errors="replace").splitlines()[0] if _L4T.is_file() else ""
    if not release:
        return Check("Jetson", "warn", f"{board}, but {_L4T} is missing", "sudo apt-get install nvidia-jetpack")
    return Check("Jetson", "pass", f"{board}: {release}")


def nvcc() -> Check:
    """The CUDA compiler, which only building the kernels needs."""
    found = shutil.which("nvcc")
    if found:
        return Check("nvcc", "pass", found)
    return Check("nvcc", "warn", "not installed; only building CUDA kernels needs it", apt("nvidia-cuda-toolkit"))


# Programs that build, run and check the firmware.


def emulator() -> Check:
    """QEMU, which runs the firmware in demo and tests."""
    return _program("qemu-system-arm", "fail", apt("qemu-system-arm"))


def cross_compiler() -> Check:
    """The compiler of the firmware, with the C library that it needs."""
    fix = apt("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
    found = _program("arm-none-eabi-gcc", "fail", fix)
    flags = ("-mcpu=cortex-m3", "-mthumb", "--specs=nano.specs", "-ffreestanding", "-c")
    if found.status == "pass" and not _compiles("arm-none-eabi-gcc", "#include <string.h>\nint main;\n", flags):
        return Check(found.name, "fail", "found, but newlib is missing", fix)
    return found


def host_compiler() -> Check:
    """The compiler of the firmware's own tests, with its sanitizers."""
    fix = apt("gcc", "libc6-dev")
    found = _program("gcc", "fail", fix)
    flags = ("-fsanitize=address,undefined",)
    if found.status == "pass" and not _compiles("gcc", "#include <math.h>\nint main(void){return 0;}\n", flags):
        return Check(found.name, "fail", "found, but it cannot link with -fsanitize=address,undefined", fix)
    return found


def static_analysis() -> Check:
    """Cppcheck, which the tests run over the firmware."""
    return _program("cppcheck", "warn", apt("cppcheck"))


def unit_test_library() -> Check:
    """Cmocka, the library of the firmware's unit tests."""
    source = "#include <stdarg.h>\n#include <stddef.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <cmocka.h>\n"
    if shutil.which("gcc") and _compiles("gcc", f"{source}int main(void){{return 0;}}\n", ("-lcmocka",)):
        return Check("cmocka", "pass", "gcc links with it")
    return Check("cmocka", "warn", "not installed", apt("libcmocka-dev"))


def _program(name: str, status_if_missing: Status, fix: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check(name, status_if_missing, "not installed", fix)
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, status_if_missing, f"{path} does not run: {error}", fix)
    return Check(name, "pass", output.splitlines()[0] if output else path)


def _compiles(compiler: str, source: str, flags: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.c"
        file.write_text(source)
        argv = [compiler, str(file), *flags, "-o", str(file.with_suffix(".out"))]
        try:
            return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0
        except (OSError, subprocess.SubprocessError):
            return False


# Simulation and policy.

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


# The robot: serial ports, cameras, and real-time rights of the bridge.

LOCKED_MEMORY = 256 * 2**20
_LIMITS_FILE = "/etc/security/limits.d/90-pi0-edge.conf"


def serial_ports() -> Check:
    """Serial ports of this machine, and whether this user may open them."""
    if importlib.util.find_spec("serial") is None:
        return Check("serial ports", "warn", "pyserial is not installed", pip("bridge"))
    try:
        from serial.tools import list_ports
    except ImportError:
        return Check("serial ports", "fail", "the Python package `serial` is not pyserial", pyserial_advice())
    ports = sorted(port.device for port in list_ports.comports())
    if not ports:
        return Check("serial ports", "warn", "none; the demo needs none, a robot does", "ls -l /dev/tty*")
    closed = [port for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    if closed:
        fix = "sudo usermod -aG dialout $USER, then log out and in again"
        return Check("serial ports", "warn", f"no permission for {', '.join(closed)}", fix)
    return Check("serial ports", "pass", ", ".join(ports))


def cameras() -> Check:
    """V4L2 cameras of this machine, and whether this user may open them."""
    found = list_v4l2_cameras()
    if not found:
        return Check("cameras", "warn", "no V4L2 camera; the demo needs none, a robot does", "ls -l /dev/v4l/by-path")
    refused = [camera.refusal for camera in found if camera.refusal]
    if refused:
        return Check("cameras", "warn", "; ".join(refused), "sudo usermod -aG video $USER, then log out and in again")
    if importlib.util.find_spec("av") is None:
        return Check("cameras", "warn", "PyAV is not installed, which decodes their images", pip("cameras"))
    return Check("cameras", "pass", "; ".join(f"{camera.card} at {camera.names[0]}" for camera in found))


def scheduling() -> Check:
    """Whether a process may ask for SCHED_FIFO; tried on this process, then reset."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, *before)
    except (OSError, AttributeError):
        fix = f"echo '@dialout - rtprio 80' | sudo tee -a {_LIMITS_FILE}, then log in again"
        return Check("SCHED_FIFO", "warn", "not allowed; the bridge may be late under load", fix)
    return Check("SCHED_FIFO", "pass", "allowed")


def locked_memory() -> Check:
    """Whether a process may lock its memory against paging."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit / 2**20:.0f} MiB"
    if limit != resource.RLIM_INFINITY and limit < LOCKED_MEMORY:
        fix = f"echo '@dialout - memlock unlimited' | sudo tee -a {_LIMITS_FILE}, then log in again"
        return Check("locked memory", "warn", f"{found}; expected {LOCKED_MEMORY // 2**20} MiB or more", fix)
    return Check("locked memory", "pass", found)


_CHECKS: tuple[Callable[[], Check], ...] = (
    python,
    packages,
    processor,
    memory,
    disk,
    torch_build,
    cuda,
    jetson,
    nvcc,
    emulator,
    cross_compiler,
    host_compiler,
    static_analysis,
    unit_test_library,
    rendering,
    checkpoint,
    serial_ports,
    cameras,
    scheduling,
    locked_memory,
)
