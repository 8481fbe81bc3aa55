"""Starts helper processes that never outlive the process that started them.

The kernel kills the child when the *thread* that started it ends, so start children from a thread that lives
as long as they are needed. A child gets a session of its own: Ctrl-C reaches only the parent, which stops its
children in order.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_URGENT = -15  # niceness


def _prepare(cpus: frozenset[int] | None, urgent: bool) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the request took effect
            os._exit(1)
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
        if urgent:
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, _URGENT)

    return prepare


def start_child(
    argv: Sequence[str],
    *,
    log: Path,
    cpus: frozenset[int] | None = None,
    urgent: bool = False,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process that dies with the calling thread.

    Args:
        argv: program and arguments.
        log: file that receives its standard error, and its standard output unless `stdout` says otherwise.
        cpus: processors it may run on; all where None.
        urgent: goes before other processes where this user may ask for that.
        stdout: `subprocess.PIPE` to read its standard output.
    """
    with log.open("ab") as sink:
        destination: int | IO[bytes] = sink if stdout is None else stdout
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=destination,
            stderr=sink,
            cwd=Path(__file__).parents[1],  # so that `-m firmware_bridge...` is found without an installation
            start_new_session=True,
            preexec_fn=_prepare(cpus, urgent),
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
