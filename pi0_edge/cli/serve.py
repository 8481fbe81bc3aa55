"""`pi0-edge serve`: a policy behind a port."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import (
    AcceptFailedGateOption,
    BundleOption,
    CheckpointOption,
    EngineOption,
    JsonOption,
    LogJsonOption,
    MetricsPortOption,
    NormStatsOption,
    PublicKeyOption,
    RefuseUnfitStateOption,
    RobotOption,
    SchemeOption,
    SizesOption,
    ThreadsOption,
    TlsOption,
    TokenizerOption,
    TruncatePromptsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.serving.shared_policy import SharedPolicy, WayIn


def serve(
    listen: Annotated[str, typer.Option(help="host:port; port 0 takes a free one.")] = "127.0.0.1:50051",
    checkpoint: CheckpointOption = None,
    bundle: BundleOption = None,
    engine: EngineOption = "cpu",
    scheme: SchemeOption = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: NormStatsOption = None,
    sizes: SizesOption = None,
    truncate_prompts: TruncatePromptsOption = False,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    refuse_unfit_state: RefuseUnfitStateOption = False,
    threads: ThreadsOption = None,
    tls: TlsOption = None,
    insecure_allow_remote: Annotated[
        bool, typer.Option("--insecure-allow-remote", help="Listen beyond loopback, without any authentication.")
    ] = False,
    record: Annotated[Path | None, typer.Option(help="Keep the observations that are answered there.")] = None,
    record_limit: Annotated[int, typer.Option(min=1, help="MiB that this folder may hold.")] = 4096,
    stale_prefix: Annotated[
        float | None,
        typer.Option(help="With --engine cuda: plan from images up to so many ms older than the observation."),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.1, help="End with code 7 when 8 of 16 chunks take longer, in milliseconds.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Answer observations of several robots together, at most so many in one pass.")
    ] = 1,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0.0, max=1000.0, help="Longest time that an observation waits for those of others.")
    ] = 0.0,
    drain_s: Annotated[
        float, typer.Option(min=0.0, help="How long those that wait are still answered after SIGTERM.")
    ] = 2.0,
    openpi: Annotated[
        str | None, typer.Option(help="Answer openpi's robots too: port of loopback, such as 8000, or host:port.")
    ] = None,
    openpi_api_key: Annotated[
        Path | None, typer.Option(help="File with the key that openpi's robots must know.")
    ] = None,
    openpi_prompt: Annotated[
        str | None, typer.Option(help="For openpi's robots that send no prompt, such as ALOHA; else the robot's.")
    ] = None,
    lerobot_async: Annotated[
        str | None,
        typer.Option(help="Serve stock asynchronous clients of LeRobot too: host:port, or a port of loopback."),
    ] = None,
    lerobot_units: Annotated[
        str | None, typer.Option(help="Units of their joints: robot (those of the robot's file) or degrees.")
    ] = None,
    metrics_port: MetricsPortOption = None,
    log_json: LogJsonOption = False,
    as_json: JsonOption = False,
) -> None:
    """Answer observations with chunks over gRPC, and over other protocols beside it.

    SIGINT or SIGTERM ends it. Exit code 7 where too many chunks took longer than the budget.
    """
    from pi0_edge.protos.rpc.service_manager import ServiceManager

    manager = ServiceManager()
    with manager.starting("reading the program"):
        from pi0_edge.cli.loading import load_policy
        from pi0_edge.engine import find_engine
        from pi0_edge.errors import ConfigError, EndpointError
        from pi0_edge.protos.rpc.json_log import log_as_json
        from pi0_edge.protos.rpc.listen import POLICY_LISTEN, listen_host
        from pi0_edge.serving.inference_queue import Batching
        from pi0_edge.serving.latency_budget import LATE_EXIT_CODE
        from pi0_edge.serving.observation_recorder import ObservationRecorder
        from pi0_edge.serving.policy_server import serve_policy
        from pi0_edge.serving.shared_policy import check_batch

    if log_json:
        log_as_json()
    out = Output(as_json)
    # Before the weights are read, which may take minutes.
    try:
        listen_host(listen, authenticated=tls is not None, default=POLICY_LISTEN, allow_remote=insecure_allow_remote)
    except EndpointError as error:
        raise EndpointError(f"{error}. --tls takes certificates; --insecure-allow-remote opens it without") from error
    also: list[Callable[[SharedPolicy], WayIn]] = []
    if openpi is not None:
        also.append(_openpi_server(openpi, openpi_api_key, tls, insecure_allow_remote, openpi_prompt))
    elif openpi_api_key is not None or openpi_prompt is not None:
        raise ConfigError("--openpi-api-key and --openpi-prompt are of --openpi; give it, or leave them out")
    if lerobot_async is not None:
        also.append(_lerobot_server(lerobot_async, lerobot_units, insecure_allow_remote))
    elif lerobot_units is not None:
        raise ConfigError("--lerobot-units is of the clients of --lerobot-async; give both, or leave it out")
    if stale_prefix is not None and not find_engine(engine).has_stale_prefix:
        raise ConfigError("--stale-prefix needs two streams of a GPU; give --engine cuda with it, or leave it out")
    check_batch(batch, find_engine(engine))
    if batch_wait_ms and batch == 1:
        raise ConfigError("--batch-wait-ms is of --batch; give a batch of at least 2, or leave it out")
    recorder = None if record is None else ObservationRecorder(record, record_limit << 20)
    with manager.starting("reading the policy"):
        policy = load_policy(
            checkpoint=checkpoint,
            bundle=bundle,
            engine=engine,
            scheme=scheme,
            robot=robot,
            tokenizer=tokenizer,
            sizes=sizes,
            public_key=public_key,
            accept_failed_gate=accept_failed_gate,
            threads=threads,
            norm_stats=norm_stats,
            refuse_unfit_state=refuse_unfit_state,
            truncate_prompts=truncate_prompts,
        )
    if stale_prefix is not None:
        policy.allow_stale_prefix(stale_prefix / 1e3)

    def ready(address: str) -> None:
        out.print(f"policy ready on {address}")

    def also_ready(way: WayIn) -> None:
        out.print(f"{way.protocol} ready on {way.address}")

    atexit.register(gc.freeze)  # else all of torch is searched for garbage once more while the next release waits
    served = serve_policy(
        policy,
        listen,
        allow_remote=insecure_allow_remote,
        tls=tls,
        metrics_port=metrics_port,
        recorder=recorder,
        budget_ms=budget_ms,
        batching=Batching(batch, batch_wait_ms / 1e3),
        grace_s=drain_s,
        manager=manager,
        also=also,
        on_ready=ready,
        on_also_ready=also_ready,
    )
    out.print(f"policy server stopped after {served.chunks} chunks")
    result: dict[str, object] = {"chunks": served.chunks}
    if recorder is not None:
        recorder.close()
        out.print(f"{recorder.recorded} observations in {recorder.folder}, {recorder.left_out} left out")
        result |= {"recording": recorder.folder, "recorded": recorder.recorded, "left_out": recorder.left_out}
    if served.late:
        out.print(f"the policy is too slow: {served.late}")
        result["late"] = served.late
    out.finish(result)
    if served.late:
        raise typer.Exit(LATE_EXIT_CODE)


def _openpi_server(
    listen: str, api_key: Path | None, tls: Path | None, allow_remote: bool, prompt: str | None
) -> Callable[[SharedPolicy], WayIn]:
    """Makes the server of openpi's protocol; what is wrong with the options is said before the weights are read."""
    from pi0_edge.serving.openpi.access import listen_address, read_api_key
    from pi0_edge.serving.openpi.server import OpenpiServer

    key = None if api_key is None else read_api_key(api_key)
    listen_address(listen, tls=tls is not None, api_key=key is not None, allow_remote=allow_remote)
    return lambda shared: OpenpiServer(
        shared, listen, api_key=key, tls=tls, allow_remote=allow_remote, default_prompt=prompt
    )


def _lerobot_server(listen: str, units: str | None, allow_remote: bool) -> Callable[[SharedPolicy], WayIn]:
    """The same for LeRobot's asynchronous clients; they ask as often as the robot's control loop runs."""
    from pi0_edge.serving.lerobot_async import FPS, LerobotAsyncServer, check_units, lerobot_listen

    lerobot_listen(listen, allow_remote=allow_remote)
    check_units(units)

    def make(shared: SharedPolicy) -> WayIn:
        fps = shared.policy.processor.robot.control_hz or FPS
        return LerobotAsyncServer(shared, listen, fps=fps, allow_remote=allow_remote, units=units)

    return make
