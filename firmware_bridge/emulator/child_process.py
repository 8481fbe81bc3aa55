"""Starts helper processes that end with the process that started them.

Run as a script, this file is the launcher that asks the kernel for that, then becomes the helper. The request is
made after `exec` and not in a forked copy of the caller, because a fork of a caller that uses gRPC does not
work. The kernel kills the child when the *thread* that started it ends, so start children from a thread that
lives as long as they are needed. A child gets a session of its own: Ctrl-C reaches only the parent, which stops
its children in order.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_URGENT = -15  # niceness


def start_child(
    argv: Sequence[str],
    *,
    log: Path,
    cpus: frozenset[int] = frozenset(),
    urgent: bool = False,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process that is killed when the calling thread ends.

    Args:
        argv: Program and arguments.
        log: File that receives its standard error, and its standard output unless `stdout` says otherwise.
        cpus: Processors it may run on; all where empty.
        urgent: Goes before other processes where this user may ask for that.
        stdout: `subprocess.PIPE` to read its standard output.
    """
    launch_options = [str(os.getpid()), ",".join(map(str, sorted(cpus))), str(int(urgent))]
    with log.open("ab") as sink:
        destination: int | IO[bytes] = sink if stdout is None else stdout
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *launch_options, *argv],
            stdin=subprocess.DEVNULL,
            stdout=destination,
            stderr=sink,
            cwd=Path(__file__).parents[2],  # so that `-m firmware_bridge...` is found without an installation
            start_new_session=True,
        )


def stop_child(child: subprocess.Popen[bytes], grace_s: float = 2.0) -> None:
    """Asks a child to end, and kills it where it does not within `grace_s` seconds."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _exec(parent: str, cpus: str, urgent: str, *argv: str) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if cpus:
            os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    if os.getppid() != int(parent):  # it died before the request took effect
        return
    if urgent == "1":
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, _URGENT)
    os.execvp(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    _exec(*sys.argv[1:])
