"""The robot: serial ports, cameras, and real-time rights of the bridge."""

from __future__ import annotations

import importlib.util
import os
import resource
from pathlib import Path

from pi0_edge.cameras.v4l2_device import list_v4l2_cameras
from pi0_edge.doctor.bridge_process import allowed_by_unit
from pi0_edge.doctor.check import Check, pip
from pi0_edge.installed_packages import pyserial_advice

_ROOT = Path("/")
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
        found = f"not allowed to this user{allowed_by_unit(_ROOT, 'LimitRTPRIO')}"
        return Check("SCHED_FIFO", "warn", f"{found}; without it the bridge may be late under load", fix)
    return Check("SCHED_FIFO", "pass", "allowed")


def locked_memory() -> Check:
    """Whether a process may lock its memory against paging."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    found = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit / 2**20:.0f} MiB"
    if limit != resource.RLIM_INFINITY and limit < LOCKED_MEMORY:
        fix = f"echo '@dialout - memlock unlimited' | sudo tee -a {_LIMITS_FILE}, then log in again"
        found += f"; expected {LOCKED_MEMORY // 2**20} MiB or more{allowed_by_unit(_ROOT, 'LimitMEMLOCK')}"
        return Check("locked memory", "warn", found, fix)
    return Check("locked memory", "pass", found)
