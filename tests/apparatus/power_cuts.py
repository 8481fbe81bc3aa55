"""Every power cut that a run could have had: records all writes of a real ext4, then mounts it as after each cut.

    cuts = cut_states(prepare=install_old, run=install_new, check=which_is_there, states=300)
    assert not cuts.torn

`prepare`, `run` and `check` get the root of the file system. `prepare` makes the state before, `run` is what is cut,
and `check` looks at the disk after each cut: it returns a word for a good state and raises for any other.

The disk is exported by qemu-storage-daemon through FUSE and mounted through a loop device. QEMU's `blklogwrites`
records every write and every flush in their order. A power cut keeps each write before the last flush, and of those
after it any part: none, a prefix, any subset, or a prefix whose last write is torn between two sectors. Each state is
mounted anew, so that ext4 replays its journal as it does at boot, after a check of the file system where it must be:
a superblock can be torn. A disk that lies about its flushes is not modelled.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4
MAGIC = 0x6A736677736872
TOOLS = ("qemu-storage-daemon", "mkfs.ext4", "e2fsck", "dumpe2fs", "mount", "umount")
PATIENCE_S = 10.0
_OWN_MOUNTS = 0x00020000
PREFIX = f"power-cuts-{os.getpid()}-"


class Write(NamedTuple):
    """One entry of the log: `content` at byte `offset`; a flush may have no content."""

    offset: int
    content: bytes
    flags: int


@dataclass
class Cuts:
    """What was found after all cuts of one run.

    Attributes:
        good: How often `check` returned which word.
        torn: A line for each state that `check` refused, with where the cut was.
        writes: How many writes the run made.
        flushes: How many of them were flushes.
        run_s: Duration of the run, in seconds.
    """

    good: Counter[str] = field(default_factory=Counter)
    torn: list[str] = field(default_factory=list)
    writes: int = 0
    flushes: int = 0
    run_s: float = 0.0


@cache
def why_no_recorder() -> str | None:
    """Reason why power cuts cannot be recorded on this machine; None where they can."""
    if os.geteuid() != 0:
        return "recording power cuts needs root, which mounts file systems"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} is not installed"
    if absent := [node for node in ("/dev/fuse", "/dev/loop-control") if not Path(node).exists()]:
        return f"this machine has no {' and no '.join(absent)}"
    try:
        cut_states(lambda root: None, lambda root: (root / "file").touch(), lambda root: "there", states=1)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no recorded disk can be mounted here: {error}"
    return None


def cut_states(
    prepare: Callable[[Path], object],
    run: Callable[[Path], object],
    check: Callable[[Path], str],
    states: int,
    seed: int = 0,
    size_mib: int = 32,
) -> Cuts:
    """Cuts the power at many moments of a run.

    Args:
        prepare: Makes the state before; all of it is on the disk when the run begins.
        run: What is cut. It leaves no file open.
        check: Looks at the disk after a cut: a word for a good state. Any exception means that the state is torn.
        states: How many cuts.
        seed: Fixes the moments, and what of the writes after the last flush is kept.
        size_mib: Of the disk.

    Raises:
        OSError: If the disk cannot be mounted or unmounted.
        subprocess.SubprocessError: If one of the tools fails.
    """
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=memory) as scratch, _own_mounts():
        recorded = RecordedDisk(Path(scratch), size_mib)
        with recorded.mounted() as root:
            prepare(root)
        begin = time.monotonic()
        with recorded.recording() as root:
            run(root)
            run_s = time.monotonic() - begin
        found = Cuts(writes=len(recorded.writes), flushes=len(recorded.flushes), run_s=run_s)
        for name in recorded.cut(states, random.Random(seed)):
            with recorded.booted() as root:
                try:
                    word = check(root)
                except Exception as error:
                    found.torn.append(f"{name}: {type(error).__name__}: {error}")
                else:
                    found.good[word] += 1
        return found


class RecordedDisk:
    """An ext4 file system in a file, whose writes can be recorded and cut.

    Attributes:
        writes: Of the recorded run, in their order.
        flushes: Places in `writes` after which everything before is on the disk.
    """

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        self.writes: list[Write] = []
        self.flushes: list[int] = []
        self._image, self._before = folder / "disk.img", folder / "before.img"
        self._root = folder / "root"
        self._root.mkdir()
        self._image.touch()
        os.truncate(self._image, size_mib * 2**20)
        _tool("mkfs.ext4", "-q", "-F", self._image)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The root of the disk as it is now."""
        with _mounted(self._image, self._root) as root:
            yield root

    @contextmanager
    def booted(self) -> Iterator[Path]:
        """The same; a file system that cannot be mounted is repaired before, as it is at boot."""
        if _superblock_is_torn(self._image):
            _tool("e2fsck", "-y", self._image, accepted=(0, 1))
        with self.mounted() as root:
            yield root

    @contextmanager
    def recording(self) -> Iterator[Path]:
        """The root of the disk, every write of which is recorded."""
        _copy(self._image, self._before)
        log, exported = self.folder / "log", self.folder / "exported"
        log.touch()
        os.truncate(log, 64 * 2**30)  # all of it a hole: the length of the longest log
        exported.touch()
        with _exported(self._image, log, exported) as source, _mounted(source, self._root) as root:
            yield root
        self.writes = list(_read_log(log))
        self.flushes = [place for place, write in enumerate(self.writes) if write.flags & (FLUSH | FUA)]
        log.unlink()

    def cut(self, states: int, chance: random.Random) -> Iterator[str]:
        """Turns the disk into its state after one cut of the recorded run after another; yields what each was.

        Half of the moments are spread over the writes, and half over the spans between two flushes: a rename is one
        write of many thousands, and has a span of its own.
        """
        count, spans = len(self.writes), [0, *(place + 1 for place in self.flushes), len(self.writes) + 1]
        moments = [chance.randrange(count + 1) for _ in range(states // 2)]
        for _ in range(states - len(moments)):
            span = chance.randrange(len(spans) - 1)
            moments.append(chance.randrange(spans[span], max(spans[span + 1], spans[span] + 1)))
        applied = 0
        for moment in sorted(min(moment, count) for moment in moments):
            durable = max((place + 1 for place in self.flushes if place < moment), default=0)
            _apply(self._before, self.writes[applied:durable])
            applied = durable
            kind, loose = _part_of(self.writes[durable:moment], chance)
            _copy(self._before, self._image)
            _apply(self._image, loose)
            yield f"cut after {moment} of {count} writes, {kind} of the {moment - durable} since the last flush"


def _part_of(loose: list[Write], chance: random.Random) -> tuple[str, list[Write]]:
    """Which writes since the last flush reach the disk."""
    kind = chance.choice(("all", "any subset", "all, the last torn,", "none")) if loose else "all"
    if kind == "none":
        return kind, []
    if kind == "any subset":
        return kind, [write for write in loose if chance.random() < 0.5]
    if kind == "all, the last torn,":
        *whole, last = loose
        kept = chance.randrange(len(last.content) // SECTOR + 1) * SECTOR
        return kind, [*whole, last._replace(content=last.content[:kept])]
    return kind, loose


def _read_log(path: Path) -> Iterator[Write]:
    """The writes in their order; the format is that of the kernel's dm-log-writes."""
    with path.open("rb") as file:
        magic, version, count, size = struct.unpack("<QQQI", file.read(28))
        if (magic, version) != (MAGIC, 1):
            raise OSError(f"{path} is no log of blklogwrites")
        file.seek(size)
        for _ in range(count):
            sector, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
            file.seek(size - 32, os.SEEK_CUR)
            length = sectors * SECTOR
            yield Write(sector * SECTOR, bytes(length) if flags & DISCARD else file.read(length), flags)


def _apply(image: Path, writes: list[Write]) -> None:
    with image.open("r+b") as file:
        for write in writes:
            file.seek(write.offset)
            file.write(write.content)


@contextmanager
def _own_mounts() -> Iterator[None]:
    """Nobody else sees what is mounted: a container that starts meanwhile has a copy of every mount that it sees."""
    here = Path.cwd()
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _succeed(libc.unshare(_OWN_MOUNTS), "unshare")
        try:
            _tool("mount", "--make-rprivate", "/")
            yield
        finally:
            _succeed(libc.setns(before, _OWN_MOUNTS), "setns")
            os.chdir(here)
    finally:
        os.close(before)


def _succeed(code: int, call: str) -> None:
    if code:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def _exported(image: Path, log: Path, exported: Path) -> Iterator[Path]:
    """A file that is the image, and whose writes go into the log."""
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            *("--blockdev", f"driver=file,node-name=disk,filename={image}"),
            *("--blockdev", f"driver=file,node-name=log,filename={log}"),
            *("--blockdev", f"driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size={SECTOR}"),
            *("--export", f"type=fuse,id=export,node-name=logged,mountpoint={exported},writable=on"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait(lambda: exported.stat().st_size > 0 or daemon.poll() is not None, "qemu-storage-daemon to export a disk")
        if daemon.poll() is not None:
            raise OSError(f"qemu-storage-daemon ended: {daemon.communicate()[1].strip()}")
        yield exported
        daemon.terminate()  # it completes the log and ends its mount
        daemon.wait(PATIENCE_S)
    finally:
        if daemon.poll() is None:
            daemon.kill()
            subprocess.run(["umount", "--lazy", exported], check=False, capture_output=True)
        daemon.communicate()


@contextmanager
def _mounted(image: Path, root: Path) -> Iterator[Path]:
    """An image mounted through a loop device, which its unmounting gives back."""
    with ExitStack() as stack:
        # commit=1: the journal is written each second, so that a run of seconds has more than one state of it
        _tool("mount", "-t", "ext4", "-o", "loop,commit=1", image, root)
        stack.callback(_unmount, root)
        yield root
    _wait(lambda: not _loops_of(image), f"the loop device of {image} to be given back")


def _unmount(root: Path) -> None:
    for _ in range(20):
        if subprocess.run(["umount", root], check=False, capture_output=True).returncode == 0:
            return
        gc.collect()  # a mapped file keeps the file system busy until it is collected
        time.sleep(0.05)
    subprocess.run(["umount", "--lazy", root], check=False)
    raise OSError(f"{root} is still in use: a file in it is open or mapped; close it before the callable returns")


def _loops_of(image: Path) -> list[Path]:
    return [found for found in Path("/sys/block").glob("loop*/loop/backing_file") if _text(found) == str(image)]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # given back meanwhile
        return ""


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > until:
            raise OSError(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.005)


def _superblock_is_torn(image: Path) -> bool:
    return subprocess.run(["dumpe2fs", "-h", image], check=False, capture_output=True).returncode != 0


def _tool(*command: str | Path, accepted: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in accepted:
        raise OSError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def _copy(source: Path, target: Path) -> None:
    _tool("cp", "--sparse=always", source, target)
