"""`pi0-edge self-test`: whether this machine runs a bundle as it was judged, and fast enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import AcceptFailedGateOption, JsonOption, PublicKeyOption, ThreadsOption
from pi0_edge.cli.output import Output


def self_test(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    engine: Annotated[
        str | None,
        typer.Option(help="What runs the network: cpu (if not given), cuda, tensorrt, openvino, or reference."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="host:port of a policy server with this bundle; it is asked instead.")
    ] = None,
    tls: Annotated[
        Path | None, typer.Option(help="Folder from `pi0-edge certificates`, where the server asks for a certificate.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="What the 90th percentile of the latency may be, in ms; else no limit.")
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Chunks that are timed against the budget.")] = 64,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    accept_missing_self_test: Annotated[
        bool, typer.Option("--accept-missing-self-test", help="Pass a bundle without vectors: its accuracy is unknown.")
    ] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether this machine runs a bundle as it was judged, and fast enough.

    Exit code 1 where it does not.
    """
    from pi0_edge.cli.loading import use_threads
    from pi0_edge.errors import ConfigError
    from pi0_edge.self_test import run_self_test

    if server is None and tls is not None:
        raise ConfigError("--tls is about a server; give --server with it")
    if server is not None and (engine is not None or threads is not None):
        raise ConfigError("--server has its own engine and threads; leave --engine and --threads out")
    use_threads(threads)
    out = Output(as_json)
    with out.progress() as on_progress:
        report = run_self_test(
            bundle,
            engine or "cpu",
            server=server,
            tls=tls,
            budget_ms=budget_ms,
            chunks=chunks,
            public_key=public_key,
            accept_failed_gate=accept_failed_gate,
            accept_missing_self_test=accept_missing_self_test,
            on_progress=on_progress,
        )
    for finding in report.findings:
        out.print(f"{'ok' if finding.passed else 'NO'}  {finding}")
    for override in report.overrides:
        out.print(f"--  the user overrides a rule: {override}")
    asked = f"engine {report.engine}" if server is None else f"the server at {server}, engine {report.engine}"
    out.print(f"{'PASS' if report.passed else 'FAIL'}: {bundle} on {asked}, {report.chunks} chunks")
    out.finish(report.to_dict())
    if not report.passed:
        raise typer.Exit(1)
