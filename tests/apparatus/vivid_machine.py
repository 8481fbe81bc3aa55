"""A virtual machine with V4L2 cameras: Linux's driver vivid in QEMU, running this checkout's own Python.

The kernel of Debian boots from an initramfs that holds busybox and the modules; then the file system of this machine is
mounted read-only over 9P and entered, so that Python, the packages and the sources are those of the test. What a script
prints as JSON lines comes back over the serial port.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNEL_VARIABLE = "PI0_EDGE_TEST_KERNEL"
"""Names the folder into which Debian's package linux-image-…-amd64 was unpacked, where it is not installed."""
MARK = "JSON "
_MODULES = ("9pnet_virtio", "9p", "virtio_pci", "vivid")
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko {parameters}; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host
/bin/busybox mount -t proc none /host/proc
/bin/busybox mount -t sysfs none /host/sys
/bin/busybox mount -t devtmpfs none /host/dev
/bin/busybox mkdir -p /dev/shm /dev/v4l/by-path
/bin/busybox mount -t tmpfs none /host/dev/shm
number=0
for device in /dev/video*; do
    /bin/busybox ln -s ../../${{device##*/}} /dev/v4l/by-path/platform-vivid.$number-video-index0
    number=$((number + 1))
done
/bin/busybox chroot /host /usr/bin/env -i PATH=/usr/bin:/bin HOME=/dev/shm TMPDIR=/dev/shm PYTHONDONTWRITEBYTECODE=1 \\
    PYTHONPATH={root}:{root}/tests/apparatus {python} {script}
/bin/busybox echo "{mark}{{\\"exit\\": $?}}"
/bin/busybox poweroff -f
"""
_PARAMETERS = "n_devs=2 node_types=0x1,0x1 input_types=0,0"


def require_vivid_machine() -> Path:
    """The folder with the kernel; skips where something is missing."""
    missing = [name for name in ("qemu-system-x86_64", "busybox") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed (apt-get install qemu-system-x86 busybox-static)")
    for root in filter(None, (os.environ.get(KERNEL_VARIABLE), "/")):
        if _module_files(Path(root)).keys() >= set(_MODULES) and list(Path(root, "boot").glob("vmlinuz-*-amd64")):
            return Path(root)
    pytest.skip(f"no kernel with vivid: unpack Debian's linux-image-…-amd64 and set {KERNEL_VARIABLE} to that folder")


def run_in_vivid_machine(script: Path, folder: Path, timeout_s: float = 400.0) -> list[dict[str, Any]]:
    """What the script printed, one dict for each of its JSON lines; the last is {"exit": code}.

    Args:
        script: Runs there as this Python would run it here; devices are /dev/v4l/by-path/platform-vivid.N-video-index0.
        folder: For the initramfs.
        timeout_s: Until the machine is stopped.
    """
    root = require_vivid_machine()
    files = _module_files(root)
    order = _load_order(_MODULES, files)
    parameters = f"$([ $module = vivid ] && /bin/busybox echo {_PARAMETERS})"
    init = _INIT.format(
        modules=" ".join(order), parameters=parameters, root=ROOT, python=sys.executable, script=script, mark=MARK
    )
    content = {"init": init.encode(), "bin/busybox": Path(str(shutil.which("busybox"))).read_bytes()}
    content |= {f"modules/{name}.ko": files[name].read_bytes() for name in order}
    initramfs = folder / "initramfs.gz"
    initramfs.write_bytes(gzip.compress(_archive(content), 1))
    kernel = max(Path(root, "boot").glob("vmlinuz-*-amd64"))
    # fmt: off
    argv = [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1 loglevel=3",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
    ]
    # fmt: on
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    lines = [line[line.index(MARK) + len(MARK) :] for line in done.stdout.splitlines() if MARK in line]
    assert lines, f"the machine printed no result:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    results = [json.loads(line) for line in lines]
    assert results[-1] == {"exit": 0}, done.stdout[-3000:]
    return results[:-1]


def _module_files(root: Path) -> dict[str, Path]:
    return {path.stem.replace("-", "_"): path for path in root.glob("lib/modules/*-amd64/kernel/**/*.ko")}


def _load_order(names: tuple[str, ...], files: dict[str, Path]) -> list[str]:
    """The modules and what they depend on, each after what it needs."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        field = files[name].read_bytes().partition(b"\0depends=")[2].partition(b"\0")[0].decode()
        for needed in filter(None, field.replace("-", "_").split(",")):
            add(needed)
        order.append(name)

    for name in names:
        add(name)
    return order


def _archive(content: dict[str, bytes]) -> bytes:
    """A cpio archive in the format newc, with the folders that its files lie in."""
    folders = sorted({str(parent) for name in content for parent in Path(name).parents if str(parent) != "."})
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [(name, 0o100755, data) for name, data in content.items()]
    parts = []
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
        parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]
    return b"".join(parts)
