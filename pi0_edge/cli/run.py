"""`pi0-edge run`: a policy moves a robot."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
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
    SchemeOption,
    SizesOption,
    ThreadsOption,
    TokenizerOption,
    TruncatePromptsOption,
)
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.run.leader_arm import LeaderArm
    from pi0_edge.run.policy_source import PolicySource
    from pi0_edge.run.problems import PreflightError
    from pi0_edge.run.robot_run import RobotRun, RunResult


def run(
    robot: Annotated[str, typer.Argument(help="The robot: a name, or its .yaml file.")],
    policy: Annotated[str | None, typer.Option(help="host:port of a policy server, instead of a bundle.")] = None,
    jpeg_quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Images go to the server as JPEG of this quality; else raw.")
    ] = None,
    bundle: BundleOption = None,
    checkpoint: CheckpointOption = None,
    cameras: Annotated[
        Path | None, typer.Option(help="YAML file with the source of each camera; else those of the robot file.")
    ] = None,
    bridge: Annotated[str, typer.Option(help="host:port of the bridge.")] = "127.0.0.1:50061",
    prompt: Annotated[str, typer.Option(help="What to do; the robot's default if not given.")] = "",
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="How long the arm is armed; without limit if not given.")
    ] = None,
    splice: Annotated[
        str | None,
        typer.Option(help="How a chunk enters: trained-rtc, rtc or hold-swap; else as certified, or the first."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="Serving certificate of the policy; else BUNDLE.certificate.json beside the bundle."),
    ] = None,
    replan_ticks: Annotated[
        int | None, typer.Option(min=1, help="Ticks between two observations; else those of certificate or robot file.")
    ] = None,
    training_profile: Annotated[
        Path | None, typer.Option(help="Profile of the training data; else that of bundle or checkpoint.")
    ] = None,
    accept_mismatch: Annotated[
        list[str] | None, typer.Option(help="Arm although this rule is broken; repeat for each.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Clear a fault or stop that was latched before.")] = False,
    hold: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for lost images or chunks.")] = 10.0,
    record: Annotated[Path | None, typer.Option(help="Keep the run in this new .mcap file.")] = None,
    rerun: Annotated[
        str | None, typer.Option(help="Show pictures and plots in Rerun: a new .rrd file, or `live`.")
    ] = None,
    leader: Annotated[str | None, typer.Option(help="Robot file of a leader arm: `t` takes over with it.")] = None,
    leader_port: Annotated[
        list[str] | None, typer.Option(help="Serial port of the leader's servos; repeat for each of its buses.")
    ] = None,
    engine: EngineOption = "cpu",
    scheme: SchemeOption = None,
    tokenizer: TokenizerOption = None,
    norm_stats: NormStatsOption = None,
    sizes: SizesOption = None,
    truncate_prompts: TruncatePromptsOption = False,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    threads: ThreadsOption = None,
    tls: Annotated[
        Path | None, typer.Option(help="Folder from `pi0-edge certificates`, to show to bridge and policy server.")
    ] = None,
    metrics_port: MetricsPortOption = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Print lines instead of a screen.")] = False,
    log_json: LogJsonOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a policy move a robot.

    Checks everything, arms, plays, and disarms. Keys: space pauses and resumes, p another prompt, l a label, t takes
    over and hands back, e or Esc emergency stop, q ends. Ctrl-C and SIGTERM end it too. Exit code 0 when the time is up
    or somebody asked to end, 3 refused, 4 fault of the firmware, 5 something was lost, 6 emergency stop.
    """
    from pi0_edge.protos.rpc.service_manager import ServiceManager

    manager = ServiceManager()
    with manager.starting("reading the program"):
        from pi0_edge.cli.loading import load_policy, load_training_profile_of
        from pi0_edge.errors import ConfigError
        from pi0_edge.latency.certificate import find_certificate, load_certificate
        from pi0_edge.protos.rpc.json_log import log_as_json
        from pi0_edge.run.leader_arm import LeaderArm
        from pi0_edge.run.life_cycle import Outcome
        from pi0_edge.run.loop import RunLimits
        from pi0_edge.run.policy_source import LocalPolicy, ServedPolicy
        from pi0_edge.run.problems import PreflightError
        from pi0_edge.run.robot_run import RobotRun
        from pi0_edge.run.service_reports import ServiceReports
        from pi0_edge.training_profile import load_training_profile

    if log_json:
        log_as_json()
    if policy is not None and (bundle is not None or checkpoint is not None):
        raise ConfigError("--policy is a server with a policy of its own; leave --bundle and --checkpoint out")
    if jpeg_quality is not None and policy is None:
        raise ConfigError("--jpeg-quality is for images that cross the network to --policy; here they do not")
    if (leader is None) != (not leader_port):
        raise ConfigError("--leader and --leader-port belong together: the arm's file, and where its servos are")
    out = Output(as_json)
    if policy is None:
        profile = load_training_profile_of(checkpoint, bundle, training_profile, public_key)
    else:
        profile = None if training_profile is None else load_training_profile(training_profile)
    certified = None if bundle is None else find_certificate(bundle)
    if certificate is not None:
        certified = load_certificate(certificate)
    source: PolicySource
    if policy is not None:
        source = ServedPolicy(policy, tls, jpeg_quality=jpeg_quality)
    else:
        with manager.starting("reading the policy"):
            loaded = load_policy(
                checkpoint=checkpoint,
                bundle=bundle,
                engine=engine,
                scheme=scheme,
                robot=None if bundle is not None else robot,
                tokenizer=tokenizer,
                sizes=sizes,
                public_key=public_key,
                accept_failed_gate=accept_failed_gate,
                threads=threads,
                norm_stats=norm_stats,
                truncate_prompts=truncate_prompts,
            )
        source = LocalPolicy(loaded, str(bundle or checkpoint or ""))
    accepted = [*(accept_mismatch or ()), *(["gate"] if accept_failed_gate else [])]
    limits = RunLimits(replan_ticks=replan_ticks, hold_s=hold)
    with contextlib.ExitStack() as stack:
        robot_run = stack.enter_context(
            RobotRun(
                robot,
                source,
                cameras,
                bridge,
                profile=profile,
                certificate=certified,
                accepted=accepted,
                record=record,
                splice=splice,
                clear=clear,
                limits=limits,
                tls=tls,
            )
        )
        stack.enter_context(_signals(robot_run))
        arm = None
        if leader is not None:
            arm = stack.enter_context(LeaderArm(leader, leader_port or (), robot_run.robot, robot_run.joints))
        stack.enter_context(_watched(robot_run, out, arm, rerun, metrics_port, not (no_dashboard or as_json)))
        robot_run.listen(stack.enter_context(ServiceReports(manager)))
        ended = _play(robot_run, prompt, seconds)
    if isinstance(ended, PreflightError):
        out.print(f"error: {ended}")
        out.finish({"outcome": Outcome.REFUSED.name, "problems": ended.problems})
        raise typer.Exit(Outcome.REFUSED.value)
    out.print(f"{ended.outcome.name}: {ended.reason}; the arm was armed for {ended.played_s:.1f} s")
    out.finish({"outcome": ended.outcome.name, "reason": ended.reason, "played_s": ended.played_s})
    raise typer.Exit(ended.outcome.value)


def _play(run: RobotRun, prompt: str, seconds: float | None) -> RunResult | PreflightError:
    """How the run ended, or why it did not begin: said after the screen is gone."""
    from pi0_edge.run.problems import PreflightError

    try:
        return run.play(prompt, seconds)
    except PreflightError as error:
        return error


@contextlib.contextmanager
def _watched(
    run: RobotRun, out: Output, leader: LeaderArm | None, rerun: str | None, metrics_port: int | None, dashboard: bool
) -> Iterator[None]:
    """Everything that shows the run: a screen with a keyboard or lines, Rerun, and figures for Prometheus."""
    from prometheus_client import CollectorRegistry

    from pi0_edge.protos.rpc.metrics import MetricsServer
    from pi0_edge.run.dashboard import Dashboard
    from pi0_edge.run.event_lines import EventLines
    from pi0_edge.run.figures import RunFigures
    from pi0_edge.run.interventions import KeyboardJog
    from pi0_edge.run.keyboard import RunKeys, listening
    from pi0_edge.run.metrics import RunMetrics
    from pi0_edge.run.rerun_viewer import RerunViewer

    keys, figures = RunKeys(run, KeyboardJog(run.joints), leader), RunFigures()
    run.listen(figures)
    with contextlib.ExitStack() as stack:
        if rerun is not None:
            viewer = stack.enter_context(RerunViewer(rerun, run.joints.names))
            run.listen(viewer)
            if viewer.address:
                out.print(f"pictures and plots: rerun {viewer.address}")
        if metrics_port is not None:
            registry = CollectorRegistry()
            registry.register(RunMetrics(run, figures))
            stack.enter_context(MetricsServer(metrics_port, registry))
        if dashboard and out.console.is_terminal:
            stack.enter_context(Dashboard(run, figures, keys, out.console).shown())
        else:
            run.listen(EventLines(out.print))
        stack.enter_context(listening(keys))
        yield


@contextlib.contextmanager
def _signals(run: RobotRun) -> Iterator[None]:
    """SIGINT and SIGTERM end the run, and the pre-flight at once; the second of them also what does not end."""
    from pi0_edge.run.life_cycle import Phase

    asked = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked or run.life.phase is Phase.CHECKING:
            raise KeyboardInterrupt
        asked = True
        run.stop("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
