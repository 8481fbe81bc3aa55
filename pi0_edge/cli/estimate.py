"""`pi0-edge estimate`: what a chunk would cost on a device that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.bench.calibrated import EstimateFrom
    from pi0_edge.estimation import ChunkEstimate, Device, StageEstimate

_DEFAULT = "orin-agx-64"
_DEVICES = f"{_DEFAULT}, orin-agx-32, orin-nx-16, orin-nano-super, thor or h200; else the first."


def estimate(
    device: Annotated[str | None, typer.Option(help=f"One of {_DEVICES}")] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Result or receipt of `bench`, by which its device is calibrated."),
    ] = None,
    cameras: Annotated[int, typer.Option(min=1, help="That deliver images.")] = 2,
    tokens: Annotated[int, typer.Option(min=0, help="Of the prompt.")] = 20,
    scheme: Annotated[str, typer.Option(help="How the network is quantized: name of a scheme or a .yaml.")] = "orin",
    model: Annotated[str, typer.Option(help="Sizes of the network: pi0 or pi05.")] = "pi0",
    steps: Annotated[int, typer.Option(min=1, help="Of the Euler loop.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Say what a chunk would cost on a device, in time and memory, without the device."""
    from pi0_edge.errors import ConfigError
    from pi0_edge.estimation.chunk import check_runs, estimate_chunk
    from pi0_edge.estimation.devices import find_device
    from pi0_edge.model import PRESETS
    from pi0_edge.quant.scheme_files import load_scheme

    if model not in PRESETS:
        raise ConfigError(f"model {model!r} is not known; expected one of {', '.join(PRESETS)}")
    out = Output(as_json)
    if measured is not None:
        if device is not None:
            raise ConfigError(f"--from {measured} says which device it is of; leave --device out")
        _estimate_from(out, measured, model, scheme, cameras, tokens, steps)
        return
    chosen = find_device(device or _DEFAULT)
    check_runs(chosen)
    found = estimate_chunk(chosen, PRESETS[model], load_scheme(scheme), cameras, tokens, steps)
    _show(out, found, f"{model}, {found.scheme}, {cameras} cameras, {tokens} tokens, {steps} steps")
    memory = {"weights": found.weight_bytes, "cache": found.cache_bytes, "total": found.total_bytes}
    out.finish(
        {
            "device": found.device.key,
            "scheme": found.scheme,
            "stages": [_plain(stage) for stage in found.stages],
            "floor_ms": found.floor_ms,
            "low_ms": found.low_ms,
            "expected_ms": found.expected_ms,
            "high_ms": found.high_ms,
            "rests_on_ms": found.rests_on,
            "launches": found.launches,
            "stale_prefix_ms": found.stale_prefix_ms,
            "unbuilt": found.unbuilt,
            "memory_bytes": memory,
            "fits": found.fits,
            "rates": found.device.reached,
            "measured": False,
        }
    )


def _estimate_from(out: Output, file: Path, model: str, scheme: str, cameras: int, tokens: int, steps: int) -> None:
    """The estimate for the device of a result, calibrated by it."""
    from pi0_edge.bench.calibrated import estimate_from, read_measured
    from pi0_edge.quant.scheme_files import load_scheme

    result = read_measured(file)
    found = estimate_from(result, model, load_scheme(scheme), cameras=cameras, tokens=tokens, steps=steps)
    scheme = found.uncalibrated.scheme
    _show_calibrated(out, found, f"{model}, {scheme}, {cameras} cameras, {tokens} tokens, {steps} steps")
    out.finish(
        {
            "device": found.device.key,
            "scheme": scheme,
            "from": result.id,
            "stages_ms": found.calibrated.stages_ms,
            "expected_ms": found.calibrated.expected_ms,
            "range_ms": found.calibrated.range_ms,
            "uncalibrated_ms": found.uncalibrated.stages_ms,
            "ratios": found.calibration.ratios,
            "rests_on": found.rests_on,
            "measured": False,
        }
    )


def _show_calibrated(out: Output, found: EstimateFrom, what: str) -> None:
    before, after = found.uncalibrated.stages_ms, found.calibrated.stages_ms
    rows = [(name, before[name], after[name] / before[name], after[name]) for name in after]
    total = found.calibrated.expected_ms
    rows.append(("chunk", sum(before.values()), total / sum(before.values()), total))
    columns = ("stage", "from data sheets, ms", "measured / expected", "calibrated, ms")
    out.table(f"{found.device.name}, calibrated: {what}", columns, rows)
    spread = found.calibrated.range_ms
    if spread is None:
        out.print("range: not known, as the stages were not measured apart")
    else:
        out.print(f"range: {spread[0]:.4g} to {spread[1]:.4g} ms, by the smallest and the largest ratio of a stage")
    for sentence in found.rests_on:
        out.print(sentence)


def _plain(stage: StageEstimate) -> dict[str, Any]:
    return {
        "name": stage.name,
        "floor_ms": stage.floor_ms,
        "low_ms": stage.low_ms,
        "expected_ms": stage.expected_ms,
        "high_ms": stage.high_ms,
        "rests_on_ms": stage.rests_on,
        "bound": stage.bound,
        "launches": stage.launches,
    }


def _show(out: Output, found: ChunkEstimate, what: str) -> None:
    device = found.device
    rows = [(s.name, s.floor_ms, s.low_ms, s.expected_ms, s.high_ms, s.bound, s.launches) for s in found.stages]
    rows.append(("chunk", found.floor_ms, found.low_ms, found.expected_ms, found.high_ms, "", found.launches))
    columns = ("stage", "floor, ms", "low", "expected", "high", "bound by", "launches")
    out.table(f"{device.name}: {what}", columns, rows)
    if found.unbuilt:
        out.print(found.unbuilt)
    if found.stale_prefix_ms is not None:
        out.print(
            f"with serve --stale-prefix, a chunk comes after {found.stale_prefix_ms:.3g} ms, from images that are "
            f"older by what the prefix takes; {found.expected_ms:.3g} ms of work remain for each"
        )
    out.print(
        f"memory: weights {found.weight_bytes / 1e9:.2f} GB, keys and values {found.cache_bytes / 1e6:.1f} MB, with "
        f"activations and a CUDA context {found.total_bytes / 1e9:.2f} of {device.memory_gb:g} GB: "
        f"{'fits' if found.fits else 'does not fit'}"
    )
    _show_bases(out, found)
    _show_rates(out, device)
    out.print(
        "floor: nothing can be faster. low to high: if all that a time rests on errs to one side. Everything is "
        "modelled: this software was not timed there."
    )


def _show_bases(out: Output, found: ChunkEstimate) -> None:
    from pi0_edge.estimation.kernel_times import SPREADS

    words = {
        "issue slots": "machine code of our kernels, its issue slots modelled (kernel_cycles.csv)",
        "rate measured": "a rate below that was measured on this device",
        "rate scaled": "a rate below that was measured on AGX Orin",
        "rate modelled": "a rate below that is assumed",
        "issue slots of Orin": "machine code of our kernels for Orin, as many cycles assumed here (kernel_cycles.csv)",
        "no such kernel": "no kernel of ours multiplies INT4: taken as the one for INT8",
        "launches": "starts of kernels and gaps between them, assumed",
    }
    rows = [
        (words[basis], value, f"{SPREADS[basis][0]:g} to {SPREADS[basis][1]:g}")
        for basis, value in sorted(found.rests_on.items(), key=lambda each: -each[1])
    ]
    out.table("what the expected time rests on", ("rests on", "ms", "may be times"), rows)


def _show_rates(out: Output, device: Device) -> None:
    units = {
        "gb_s": "memory, GB/s",
        "l2_gb_s": "cache, GB/s",
        "launch_us": "gap between kernels, µs",
        "ramp_us": "start of a kernel, µs",
    }
    rows = [
        (units.get(name, f"{name}, 10¹² operations/s"), device.sheet.get(name, ""), rate.value, rate.basis, rate.source)
        for name, rate in device.reached.items()
    ]
    out.table(f"rates; sheet: {device.sheet_source}", ("rate", "sheet", "reached", "basis", "source"), rows)
