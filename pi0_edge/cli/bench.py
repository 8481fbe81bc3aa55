"""`pi0-edge bench`: latency on this machine, with its state and the accuracy beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pi0_edge.cli.bench_certify import certify
from pi0_edge.cli.bench_check import check
from pi0_edge.cli.bench_compare import compare
from pi0_edge.cli.bench_jitter import jitter
from pi0_edge.cli.options import AcceptFailedGateOption, JsonOption, PublicKeyOption, ThreadsOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.bench.opening import TargetRequest
    from pi0_edge.bench.receipt import Receipt
    from pi0_edge.bench.result import BenchResult
    from pi0_edge.bench.running import BenchPlan

FAILED = 1
_SECONDS_PER_MINUTE = 60.0

bench = typer.Typer(no_args_is_help=True)
bench.command("compare")(compare)
bench.command("check")(check)
bench.command("certify")(certify)
bench.command("jitter")(jitter)


@bench.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle that is timed.")] = None,
    boundary: Annotated[
        Literal["engine", "policy", "served", "path"],
        typer.Option(help="What is timed: the engine, the policy, a policy server, or from camera to servo command."),
    ] = "policy",
    engine: Annotated[
        str, typer.Option(help="What runs the network: cpu, cuda, tensorrt, openvino, or reference.")
    ] = "cpu",
    mode: Annotated[
        Literal["closed", "paced", "both"],
        typer.Option(help="closed: one chunk after the other; paced: at due times, as a robot asks."),
    ] = "both",
    seconds: Annotated[float, typer.Option(min=0, help="Of each run.")] = 60.0,
    minutes: Annotated[float | None, typer.Option(min=0, help="Instead of --seconds; 10 show what heat does.")] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Fewest of each run; 459 carry a 99th percentile.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Observations per second of a paced run; else as `run` replans.")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(min=0.001, help="What a chunk may take.")] = None,
    load: Annotated[
        list[str] | None, typer.Option(help="Runs beside it: cpu, memory, io or network; repeat it. Needs stress-ng.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another bundle, in turns with the first: two results for `bench compare`.")
    ] = None,
    random: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Instead of a bundle: pi0, pi05 or pi0-cube, random weights.")
    ] = None,
    scheme: Annotated[str | None, typer.Option(help="How random weights are quantized.")] = None,
    camera_count: Annotated[int, typer.Option(min=1, help="That random weights look through.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Of the prompt that random weights read.")] = 20,
    server: Annotated[
        str | None, typer.Option(help="host:port of a policy server with this bundle; else one is started.")
    ] = None,
    protocol: Annotated[
        Literal["grpc", "openpi"], typer.Option(help="What a policy server is asked with, at the boundary served.")
    ] = "grpc",
    openpi_api_key: Annotated[
        Path | None, typer.Option(help="File with the key, where an openpi server asks for one.")
    ] = None,
    tls: Annotated[
        Path | None, typer.Option(help="Folder from `pi0-edge certificates`, where the server asks for a certificate.")
    ] = None,
    robot: Annotated[
        str | None, typer.Option(help="Robot of the path, name or .yaml; the policy's own if not given.")
    ] = None,
    cameras: Annotated[
        Path | None, typer.Option(help="Cameras file of the path; else the robot's cameras, or synthetic images.")
    ] = None,
    bridge: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Bridge of the path; an emulated arm is started if not given.")
    ] = "emulated",
    output: Annotated[
        Path | None, typer.Option(help="Write OUTPUT.json with every sample and OUTPUT.html, a page for people.")
    ] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write a signed receipt; needs --private-key.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Sign the receipt with it (PEM).")] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="RECEIPT", help="Do again what a receipt says, with this bundle.")
    ] = None,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time a policy on this machine: warm-up, a closed run, a paced run, the gate's vectors, the machine's state.

    Exit code 1 where the result is void, or the receipt does not hold; the reasons are told.
    """
    if context.invoked_subcommand is not None:
        return
    from pi0_edge.bench.opening import TargetRequest
    from pi0_edge.bench.running import BenchPlan
    from pi0_edge.errors import BenchError
    from pi0_edge.latency.stages import Boundary

    if (receipt is None) != (private_key is None):
        raise BenchError("a receipt is signed: --receipt and --private-key go together")
    request = TargetRequest(
        bundle=bundle,
        boundary=Boundary.ENGINE if random is not None else Boundary(boundary),
        engine=engine,
        threads=threads,
        against=against,
        random=random,
        scheme=scheme,
        cameras=camera_count,
        tokens=tokens,
        server=server,
        protocol=protocol,
        api_key=openpi_api_key,
        tls=tls,
        robot=robot,
        camera_file=cameras,
        bridge=bridge,
        public_key=public_key,
        accept_failed_gate=accept_failed_gate,
    )
    plan = BenchPlan(
        modes=("closed", "paced") if mode == "both" and against is None else ("closed" if mode == "both" else mode,),
        seconds=seconds if minutes is None else minutes * _SECONDS_PER_MINUTE,
        chunks=chunks,
        period_s=None if rate is None else 1 / rate,
        budget_ms=budget_ms,
        loads=tuple(load or ()),
        command=("pi0-edge", *sys.argv[1:]),
    )
    _check_places(output, receipt, private_key)  # before minutes are spent
    out = Output(as_json)
    if verify is not None:
        _verify(out, verify, request, plan, public_key)
        return
    results = _run(out, request, plan)
    for place, result in enumerate(results):
        _show(out, result)
        _write(out, result, _numbered(output, place, len(results)))
    if receipt is not None and private_key is not None and results[0].verdict.valid:
        from pi0_edge.bench.receipt import write_receipt

        write_receipt(results[0], receipt, private_key)
        out.print(f"receipt: {receipt}")
    elif receipt is not None:
        out.print("no receipt: the result is void")
    told = [_told(result) for result in results]
    out.finish(told[0] if len(told) == 1 else {"results": told})
    if not all(result.verdict.valid for result in results):
        raise typer.Exit(FAILED)


def _check_places(output: Path | None, receipt: Path | None, private_key: Path | None) -> None:
    """Makes the folders of what is written, and reads the key that signs it."""
    from pi0_edge.bundle.keys import make_signature
    from pi0_edge.errors import BenchError

    for path in (output, receipt):
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BenchError(f"{path.parent} cannot be made ({error.strerror}); name another folder") from error
    if private_key is not None:
        make_signature(b"", private_key)


def _run(out: Output, request: TargetRequest, plan: BenchPlan) -> list[BenchResult]:
    from pi0_edge.bench.opening import opened_targets
    from pi0_edge.bench.running import run_bench

    request.check()
    with out.console.status("loading") as status, opened_targets(request) as targets:
        status.stop()
        with out.progress() as on_progress:
            return run_bench(targets, plan, own=request.own_processes, on_progress=on_progress)


def _verify(out: Output, path: Path, request: TargetRequest, plan: BenchPlan, public_key: Path | None) -> None:
    """Repeats the bench of a receipt: with its boundary, protocol, engine, runs and loads, whatever else was given."""
    from pi0_edge.bench.receipt import read_receipt, repetition, verify_repetition

    receipt = read_receipt(path, public_key)
    request, plan = repetition(receipt, request, plan)
    if public_key is None:
        out.print("who signed the receipt was not checked: give --public-key")
    result = _run(out, request, plan)[0]
    _show(out, result)
    found = verify_repetition(receipt, result)
    for comparison in found.comparisons:
        out.print(str(comparison))
    for reason in found.reasons:
        out.print(f"does not hold: {reason}")
    out.print(_held(receipt, found.holds))
    out.finish({"holds": found.holds, "reasons": found.reasons, "comparisons": found.comparisons, **_told(result)})
    if not found.holds:
        raise typer.Exit(FAILED)


def _held(receipt: Receipt, holds: bool) -> str:
    noise = ", ".join(f"{mode} {100 * share:.1f} %" for mode, share in receipt.noise.items())
    verdict = "HOLDS" if holds else "DOES NOT HOLD"
    return f"{verdict}: receipt of {receipt.result.started}, whose own runs wandered by {noise}"


def _show(out: Output, result: BenchResult) -> None:
    from pi0_edge.bench.report.summary import summary

    found = summary(result)
    out.print(found.title)
    for line in found.opening:
        out.print(line)
    for table in found.tables:
        out.table(table.title, table.columns, table.rows)
    for line in found.lines:
        out.print(line)


def _write(out: Output, result: BenchResult, output: Path | None) -> None:
    if output is None:
        return
    from pi0_edge.bench.report.page import write_page

    samples, page = output.with_name(f"{output.name}.json"), output.with_name(f"{output.name}.html")
    result.save(samples)
    write_page(result, page)
    out.print(f"written: {samples}, {page}")


def _numbered(output: Path | None, place: int, count: int) -> Path | None:
    """The name of one result of several."""
    return output if output is None or count == 1 else output.with_name(f"{output.name}-{place + 1}")


def _told(result: BenchResult) -> dict[str, object]:
    """The result without its samples and readings, with the figures."""
    from pi0_edge.bench.figures import figures_of

    told = result.to_dict()
    figures = {run.mode: figures_of(run) for run in result.runs}
    return {**{name: value for name, value in told.items() if name not in ("runs", "readings")}, "figures": figures}
