"""A robot's computer as a whole emulated machine: aarch64, its own kernel, its own disk, its own power switch.

The image is built once (`build/aarch64`, from the package sources of this machine; about ten minutes), or lies where
PI0_EDGE_AARCH64_IMAGE says. Every machine has a copy of its disk. `cut` kills the emulator: what the guest had not
written to its disk is lost, as when the power goes. Nothing leaves the guest, and only ssh enters it.

It is about 50 times slower than this machine: no latency of it means anything, and limits of time must be wide.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from source_tree import ROOT

FOLDER = ROOT / "build" / "aarch64"
IMAGE_VARIABLE = "PI0_EDGE_AARCH64_IMAGE"
ROBOT_NAME = "robot"
PROGRAMS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",  # of the wheel that the machine installs
}
BUILDERS = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "ssh-keygen": "openssh-client"}
BOOT_S, STOP_S = 900.0, 300.0
MEMORY_MB = 2048
_ALIAS = "edge"  # what the image's known_hosts calls it


def image() -> Path:
    """The folder of the image."""
    return Path(os.environ.get(IMAGE_VARIABLE) or FOLDER / "image").resolve()


@cache
def why_no_machine() -> str | None:
    """Builds the image where it is missing; says why no machine can run here."""
    if not sys.platform.startswith("linux"):
        return "the emulated machine needs Linux"
    whole = (image() / "disk.img").exists()
    programs = PROGRAMS if whole else {**PROGRAMS, **BUILDERS}
    missing = {package for program, package in programs.items() if shutil.which(program) is None}
    if missing:
        return f"not installed: apt-get install {' '.join(sorted(missing))}"
    if not whole and os.geteuid() != 0:
        return f"building the image of the machine needs root; or name one by {IMAGE_VARIABLE}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return None if (image() / "disk.img").exists() else _build()


def _build() -> str | None:
    image().mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_suffix("").with_name("aarch64_image.sh")
    ran = subprocess.run(["bash", str(script), str(image())], capture_output=True, text=True, check=False)
    said = ran.stderr.strip().rpartition("\n")[2]
    return f"the image of the machine cannot be built: {said}" if ran.returncode else None


class Aarch64Machine:
    """One machine. It is not running until `start`.

    Attributes:
        name: Of the machine; it is its folder's.
        ssh_config: A file for ssh -F: `root` may log in to `robot`; see `ssh_config_for`.
        disk: Its disk, a raw file.
    """

    def __init__(self, name: str, disk: Path | None = None, processors: int = 1) -> None:
        """Gives it a disk.

        Args:
            name: Of the machine; one of that name goes on with the disk that is there.
            disk: What its disk is a copy of, if it has none; None takes that of the image.
            processors: How many it has.
        """
        self.name = name
        self.folder = FOLDER / "machines" / name
        self.disk = self.folder / "disk.img"
        self._processors = processors
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.disk.exists():
            copy_disk(disk or image() / "disk.img", self.disk)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.ssh_config = self.ssh_config_for("root", image() / "id_ed25519")
        atexit.register(self.cut)

    def start(self, stick: Path | None = None, limit_s: float = BOOT_S) -> float:
        """Switches it on and waits until ssh answers.

        Args:
            stick: Image of a second disk, which it only reads; see `make_stick`.
            limit_s: Longest time.

        Returns:
            Seconds that it took.
        """
        assert self._process is None, f"{self.name} runs already"
        begun = time.monotonic()
        argv = ["qemu-system-aarch64", "-M", "virt,gic-version=3", "-accel", "tcg,thread=multi,tb-size=512"]
        argv += ["-cpu", "neoverse-n1"]  # its instructions are those of the Cortex-A78AE of an Orin
        argv += ["-smp", str(self._processors), "-m", str(MEMORY_MB), "-nodefaults", "-nographic", "-no-user-config"]
        argv += ["-kernel", str(image() / "vmlinuz"), "-initrd", str(image() / "initrd.img")]
        argv += ["-append", "root=/dev/vda rw console=ttyAMA0 quiet systemd.show_status=0 mitigations=off"]
        argv += ["-drive", f"if=none,id=disk,file={self.disk},format=raw,cache=writeback,discard=unmap"]
        argv += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
        if stick is not None:
            argv += ["-drive", f"if=none,id=stick,file={stick},format=raw,readonly=on"]
            argv += ["-device", "virtio-blk-pci,drive=stick"]
        argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"]
        argv += ["-device", "virtio-net-pci,netdev=net,romfile=", "-serial", f"file:{self.folder / 'console'}"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - begun > limit_s:
                said = [(self.folder / name).read_text(errors="replace")[-1500:] for name in ("log", "console")]
                raise AssertionError(f"{self.name} does not answer after {limit_s:g} s\n{said[0]}\n{said[1]}")
            time.sleep(1)
        return time.monotonic() - begun

    def cut(self) -> None:
        """Cuts the power: SIGKILL to the emulator."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Shuts it down properly."""
        if self._process is not None:
            self.run("systemctl poweroff", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            self.cut()

    def drop(self) -> None:
        """Ends it and forgets its disk."""
        self.cut()
        atexit.unregister(self.cut)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self, command: str, *, check: bool = True, stdin: str | None = None, limit_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of a shell in it as root.

        Raises:
            AssertionError: If it fails and `check` is set.
        """
        argv = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", ROBOT_NAME, command]
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False, **given)  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert ran.returncode == 0 or not check, f"{command}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran

    def read(self, inside: str) -> str:
        """The text of a file in it; empty where there is none."""
        return self.run(f"cat {inside} 2>/dev/null", check=False).stdout

    def ssh_config_for(self, user: str, key: Path | None) -> Path:
        """A file for ssh -F.

        Args:
            user: Who logs in where the caller does not say.
            key: Private key; None offers none.
        """
        lines = [
            f"Host {ROBOT_NAME}",
            "    HostName 127.0.0.1",
            f"    Port {self._port}",
            f"    User {user}",
            f"    HostKeyAlias {_ALIAS}",
            f"    UserKnownHostsFile {image() / 'known_hosts'}",
            "    GlobalKnownHostsFile none",
            "    LogLevel ERROR",
            "    IdentitiesOnly yes",
            f"    IdentityFile {key or 'none'}",
        ]
        file = self.folder / f"ssh_config_{user}"
        file.write_text("\n".join(lines) + "\n")
        return file

    def _answers(self) -> bool:
        argv = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", ROBOT_NAME, "true"]
        try:
            return (
                subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False


def copy_disk(source: Path, target: Path) -> None:
    """Copies a sparse disk; a copy that was interrupted has not its name."""
    partial = target.with_suffix(".partial")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, partial], check=True)
    partial.rename(target)


def make_stick(folder: Path, stick: Path) -> Path:
    """Makes a second disk with the content of a folder, as a USB stick would have it."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    stick.unlink(missing_ok=True)
    argv = ["mkfs.ext4", "-q", "-L", "STICK", "-d", str(folder), str(stick), f"{int(size * 1.2 / 2**20) + 64}M"]
    subprocess.run(argv, check=True, capture_output=True)
    return stick
