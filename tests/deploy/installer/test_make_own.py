"""What was received becomes root's own: nothing in it can change after it was verified."""

from __future__ import annotations

import mmap
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pi0_edge.deploy.installer.taking import make_own
from pi0_edge.errors import DeployError

NOBODY = 65534


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A folder as the sending account leaves it."""
    folder = tmp_path / "received"
    (folder / "bundle").mkdir(parents=True)
    for name in ("a", "bundle/b"):
        (folder / name).write_bytes(b"x" * 5000)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    return folder


def test_owner_and_modes(received: Path) -> None:
    make_own(received)
    for path in (received, *received.rglob("*")):
        status = path.stat()
        assert status.st_uid == os.geteuid()
        assert stat.S_IMODE(status.st_mode) == (0o755 if path.is_dir() else 0o444)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another account")
def test_the_account_that_sent_it_can_write_nothing_any_more(received: Path) -> None:
    received.parent.chmod(0o755)
    for folder in received.parents:
        if folder.stat().st_mode & 0o005 != 0o005:
            pytest.skip(f"another account cannot enter {folder}")
    make_own(received)
    write = f"open({str(received / 'bundle' / 'b')!r}, 'r+')"
    create = f"open({str(received / 'bundle' / 'new')!r}, 'w')"
    rename = f"__import__('os').rename({str(received / 'a')!r}, {str(received / 'c')!r})"
    for attempt in (write, create, rename):
        ran = subprocess.run([sys.executable, "-I", "-c", attempt], user=NOBODY, capture_output=True, check=False)
        assert b"PermissionError" in ran.stderr, attempt


def test_a_file_that_is_still_open_to_write_is_refused(received: Path) -> None:
    with (received / "bundle" / "b").open("r+b"), pytest.raises(DeployError, match="still being written"):
        make_own(received)
    make_own(received)


def test_a_file_that_is_mapped_to_write_is_refused_although_it_is_closed(received: Path) -> None:
    file = os.open(received / "a", os.O_RDWR)
    mapped = mmap.mmap(file, 100)
    os.close(file)
    with pytest.raises(DeployError, match="still being written"):
        make_own(received)
    mapped.close()
    make_own(received)


def test_an_open_reader_is_no_hindrance(received: Path) -> None:
    with (received / "a").open("rb"):
        make_own(received)


@pytest.mark.parametrize("kind", ["link", "link to a folder", "second name", "pipe", "socket", "dangling link"])
def test_anything_but_plain_files_and_folders_is_refused(received: Path, tmp_path: Path, kind: str) -> None:
    place, outside = received / "bundle" / "c", tmp_path / "outside"
    outside.write_text("precious")
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "link to a folder":
        place.symlink_to(tmp_path)
    elif kind == "second name":
        place.hardlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(place.parent)  # the whole path is longer than a socket's may be
            listener.bind("c")
            os.chdir(here)
    before = outside.stat()
    with pytest.raises(DeployError, match="expected"):
        make_own(received)
    after = outside.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid), "what lies outside is left alone"
