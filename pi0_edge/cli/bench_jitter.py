"""`pi0-edge bench jitter`: how late a thread of the bridge wakes up here, and how evenly the firmware ticks."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

LIGHT_LOAD = 0.5
"""Load average per processor below which a test is told to be one without load."""


def jitter(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long; ten minutes for a result to rely on.")] = 60.0,
    interval_us: Annotated[int, typer.Option(min=100, help="Between two due times, in microseconds.")] = 1000,
    bridge: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A running bridge: its firmware's ticks are measured too.")
    ] = None,
    tls: Annotated[Path | None, typer.Option(help="Folder with certificate and key, where the bridge asks.")] = None,
    priority: Annotated[
        int, typer.Option(min=0, max=99, help="SCHED_FIFO of the thread, as a drop-in gives it to the bridge; 0: none.")
    ] = 0,
    cpus: Annotated[str, typer.Option(metavar="0-2,5", help="Processors of the thread; all if not given.")] = "",
    cyclictest: Annotated[
        bool, typer.Option("--cyclictest", help="Run cyclictest (rt-tests) afterwards, for as long.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how late a thread with the settings of the bridge wakes up.

    Let the policy serve, the cameras stream and the disk write meanwhile: without load it proves nothing.
    """
    from firmware_bridge.bridge.jitter import COLUMNS, TICKS_REMARK, measure_jitter
    from firmware_bridge.bridge.thread_settings import ThreadSettings
    from firmware_bridge.client import BridgeClient

    out = Output(as_json)
    started_with = ThreadSettings(priority=priority, cpus=_processors(cpus))
    with nullcontext() if bridge is None else BridgeClient(bridge, "jitter", tls) as client:
        if client is not None:
            client.wait_ready()
        with out.console.status(f"measuring for {seconds:g} s"):
            result = measure_jitter(seconds, interval_us, client, started_with, with_cyclictest=cyclictest)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    out.table(f"lateness; thread: {result.settings}; interval {interval_us} µs", COLUMNS, result.rows())
    out.table("wake-ups by lateness", ("lateness", "wake-ups"), result.histogram_rows())
    worst = ", ".join(f"{late_us:.0f} µs at {at_s:.3f} s" for at_s, late_us in result.worst(5))
    out.print(f"latest: {worst}")
    if result.ticks is not None:
        periods = f"{result.ticks.shortest_ms:.3f} to {result.ticks.longest_ms:.3f} ms"
        out.print(f"periods of the firmware: {periods} of {result.ticks.period_ms:g}; missing: {result.ticks.missing}")
        out.print(TICKS_REMARK)
    if cyclictest and result.cyclictest is None:
        out.print("cyclictest is not installed: sudo apt-get install --no-install-recommends rt-tests")
    out.print(f"load average of the last minute: {load:.2f} per processor")
    if load < LIGHT_LOAD:
        out.print("this was measured without load, and proves nothing of a robot that works")
    out.finish({**result.to_dict(), "load_per_processor": load})


def _processors(cpus: str) -> frozenset[int]:
    from pi0_edge.doctor.kernel_files import processors
    from pi0_edge.errors import ConfigError

    if cpus and not processors(cpus):
        raise ConfigError(f"--cpus is {cpus!r}; give processors such as 3 or 0-2,5")
    return processors(cpus)
