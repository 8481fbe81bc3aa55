"""`pi0-edge replay`: computes a recorded run again, or asks another policy what it would have done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import (
    AcceptFailedGateOption,
    BundleOption,
    JsonOption,
    NormStatsOption,
    PublicKeyOption,
    RobotOption,
    SizesOption,
    ThreadsOption,
    TokenizerOption,
)
from pi0_edge.cli.output import Output
from pi0_edge.cli.recording import RecordingArgument
from pi0_edge.synced_files import save_synced

if TYPE_CHECKING:
    from pi0_edge.policy import Policy
    from pi0_edge.run.recording import RunDescription, RunRecording

NOT_THE_SAME = 1


def replay(
    run: RecordingArgument,
    policy: Annotated[
        Path | None, typer.Option(help="Another bundle or checkpoint: show what it would have done instead.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint that played the run, if it is not where it was.")
    ] = None,
    bundle: BundleOption = None,
    engine: Annotated[str | None, typer.Option(help="What runs the network; that of the run if not given.")] = None,
    scheme: Annotated[str | None, typer.Option(help="How it is quantized; as in the run if not given.")] = None,
    ticks_only: Annotated[
        bool, typer.Option("--ticks-only", help="Compute the ticks again, without a policy.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="With --policy: write the figures there, as .html.")] = None,
    robot: RobotOption = None,
    tokenizer: TokenizerOption = None,
    sizes: SizesOption = None,
    norm_stats: NormStatsOption = None,
    public_key: PublicKeyOption = None,
    accept_failed_gate: AcceptFailedGateOption = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute a recorded run again, chunk by chunk and tick by tick, and compare every bit."""
    from pi0_edge.cli.loading import load_policy
    from pi0_edge.errors import ConfigError
    from pi0_edge.output_paths import check_output_path
    from pi0_edge.run.recording import RunRecording

    check_output_path("--report", report, (".html",))
    if report is not None and policy is None:
        raise ConfigError("--report holds the figures of another policy; give one with --policy")
    if policy is not None and (checkpoint is not None or bundle is not None or ticks_only):
        raise ConfigError("--policy asks another policy; leave --checkpoint, --bundle and --ticks-only out")
    read = RunRecording(run)
    out = Output(as_json)
    if ticks_only:
        _replay(out, read, None)
        return
    described = read.description
    checkpoint, bundle = _chosen(policy, checkpoint, bundle, described)
    recorded_scheme = described.policy.scheme if policy is None and bundle is None else None
    loaded = load_policy(
        checkpoint=checkpoint,
        bundle=bundle,
        engine=engine or described.policy.engine or "cpu",
        scheme=scheme if scheme is not None or engine is not None else recorded_scheme,
        robot=robot,
        tokenizer=tokenizer,
        sizes=sizes,
        norm_stats=norm_stats,
        public_key=public_key,
        accept_failed_gate=accept_failed_gate,
        threads=described.threads if threads is None else threads,
    )
    if policy is None:
        _replay(out, read, loaded)
    else:
        _compare(out, read, loaded, policy, report)


def _chosen(
    policy: Path | None, checkpoint: Path | None, bundle: Path | None, described: RunDescription
) -> tuple[Path | None, Path | None]:
    """Checkpoint and bundle to load: what was given, or else what the recording names."""
    from pi0_edge.bundle.checksums import MANIFEST
    from pi0_edge.checkpoints import open_checkpoint
    from pi0_edge.errors import RecordingError
    from pi0_edge.policy import combined_hash
    from pi0_edge.shipped import shipped_checkpoint

    if checkpoint is not None or bundle is not None:
        return checkpoint, bundle
    source = policy
    if source is None:
        named = described.policy_source
        if named and Path(named).exists():
            source = Path(named)
        elif described.policy.checkpoint_sha256 == combined_hash(open_checkpoint(shipped_checkpoint()).source_hashes()):
            source = shipped_checkpoint()
        else:
            where = f"at {named}" if named else "somewhere that the recording does not name"
            raise RecordingError(
                f"the policy that played the run was {where}, which is not a folder here; give it with --checkpoint or "
                "--bundle, or compute the ticks alone with --ticks-only"
            )
    return (None, source) if (source / MANIFEST).is_file() else (source, None)


def _replay(out: Output, read: RunRecording, loaded: Policy | None) -> None:
    from pi0_edge.run.recording.replay import replay as run_replay

    with out.progress() as on_progress:
        found = run_replay(read, loaded, on_progress)
    ticks, chunks = found.ticks, found.chunks
    for damage in found.damage:
        out.print(f"{'cut off' if damage.cut else 'DAMAGED'}: {damage}")
    for difference in found.differences:
        out.print(f"DIFFERS: {difference}")
    if chunks.why_not:
        out.print(f"chunks: not compared bit for bit: {chunks.why_not}")
    else:
        out.print(f"chunks: {chunks.computed} of {chunks.chunks} are the same bit for bit")
    out.print(
        f"ticks: {ticks.computed} of {ticks.ticks} are the same bit for bit; in {ticks.resting} the arm rested, "
        f"{ticks.unknown} executed setpoints that are not in the recording"
    )
    out.print("bit-exact" if found.exact else "the ticks are bit-exact" if found.same else "NOT the same")
    out.finish(found.to_dict())
    if not (found.exact or (found.same and loaded is None)):
        raise typer.Exit(NOT_THE_SAME)


def _compare(out: Output, read: RunRecording, loaded: Policy, policy: Path, report: Path | None) -> None:
    from pi0_edge.run.recording.other_policy import compare_other, comparison_page

    with out.progress() as on_progress:
        found = compare_other(read, loaded, on_progress)
    if found.caveat:
        out.print(f"its observations are not exactly those of the run: {found.caveat}")
    columns = ("chunk", "tick", "cosine", "largest difference", "joint")
    rows = [(one.number, one.tick, one.cosine, one.largest, one.refusal or one.joint) for one in found.chunks]
    out.table(f"{policy} against the recorded chunks", columns, rows)
    joints = [(joint.name, joint.p50, joint.p99, joint.max) for joint in found.gate.joints]
    out.table("difference per joint, in its unit", ("joint", "median", "99th percentile", "largest"), joints)
    worst = found.worst()
    out.print(f"farthest: chunk {worst.number} of tick {worst.tick}, cosine {worst.cosine:.6f}")
    if report is not None:
        save_synced(report, comparison_page(found, read.path.name, policy.name).encode())
        out.print(f"figures: {report}")
    out.finish({**found.to_dict(), "report": report})
