"""Which computer this is and what it was started with: nothing here changes before the next start."""

from __future__ import annotations

import re
from pathlib import Path

from pi0_edge.board.files import text

_L4T = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_PRETTY_NAME = re.compile(r'^PRETTY_NAME="?([^"\n]+)', re.MULTILINE)
_PROCESSOR = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


def device_tree_model(root: Path) -> str:
    """As the device tree calls the computer; empty where it has none, such as a PC."""
    return text(root / "proc/device-tree/model")


def l4t_text(root: Path) -> str:
    """First line of the file that names the release of NVIDIA's Jetson Linux; empty without one."""
    return text(root / "etc/nv_tegra_release").partition("\n")[0]


def l4t_release(root: Path) -> str:
    """Release of NVIDIA's Jetson Linux, such as `36.4.3`; empty where it runs something else."""
    found = _L4T.search(l4t_text(root))
    return "" if found is None else f"{found[1]}.{found[2]}"


def model(root: Path) -> str:
    """Of the device tree, else the processor."""
    if tree := device_tree_model(root):
        return tree
    found = _PROCESSOR.search(text(root / "proc/cpuinfo"))
    return "" if found is None else found[1].strip()


def release(root: Path) -> str:
    """Of Jetson Linux, else the name in /etc/os-release."""
    if l4t := l4t_release(root):
        return l4t
    found = _PRETTY_NAME.search(text(root / "etc/os-release"))
    return "" if found is None else found[1].strip()


def kernel(root: Path) -> str:
    """Release of Linux, with `PREEMPT_RT` where it is built with real-time preemption."""
    version = text(root / "proc/version")
    found = re.match(r"Linux version (\S+)", version)
    name = text(root / "proc/sys/kernel/osrelease") or ("" if found is None else found[1])
    real_time = "PREEMPT_RT" in version or text(root / "sys/kernel/realtime") == "1"
    return f"{name} PREEMPT_RT".strip() if real_time else name


def boot_id(root: Path) -> str:
    """Another one after every start."""
    return text(root / "proc/sys/kernel/random/boot_id")
