"""`pi0-edge recording`: what is in a recording of a run, saving a cut one, and making a dataset of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.run.recording import RunRecording

recording = typer.Typer(name="recording", help="Recordings of runs.", no_args_is_help=True)

RecordingArgument = Annotated[Path, typer.Argument(help="RUN.mcap, or RUN.mcap.partial of a run that was killed.")]


@recording.command()
def info(run: RecordingArgument, as_json: JsonOption = False) -> None:
    """Show what is in a recording, and whether all of it can be read."""
    from pi0_edge.run.recording import RunRecording
    from pi0_edge.run.recording.tick_inputs import SETPOINTS

    read = RunRecording(run)
    out = Output(as_json)
    facts = _facts(read)
    out.table(str(run), ("", ""), [(name.replace("_", " "), str(value)) for name, value in facts.items()])
    told = [event.message for event in read.events if event.message.name != SETPOINTS]
    for event in told:
        out.print(f"tick {event.tick}: {event.name}  {event.text}".rstrip())
    for damage in read.damage:
        out.print(f"{'cut off' if damage.cut else 'DAMAGED'}: {damage}")
    events = [{"tick": event.tick, "name": event.name, "text": event.text} for event in told]
    damage = [{"offset": d.place.offset, "size": d.place.size, "reason": d.reason, "cut": d.cut} for d in read.damage]
    out.finish({**facts, "events": events, "damage": damage, "description": read.description.metadata()})
    if any(not damage.cut for damage in read.damage):
        raise typer.Exit(1)


@recording.command()
def recover(
    run: RecordingArgument,
    output: Annotated[Path, typer.Argument(help="New file, RUN.mcap.")],
    as_json: JsonOption = False,
) -> None:
    """Write what can be read of a cut or damaged recording as a whole one."""
    from pi0_edge.run.recording.recovery import recover as run_recovery

    report = run_recovery(run, output)
    out = Output(as_json)
    for damage in report.damage:
        out.print(f"left out: {damage}")
    out.print(f"{sum(report.messages.values())} messages are in {output}")
    damage = [str(damage) for damage in report.damage]
    out.finish({"output": output, "messages": report.messages, "left_out": damage})


@recording.command()
def export(
    run: RecordingArgument,
    output: Annotated[Path, typer.Option(help="New or empty folder for the dataset.")],
    label: Annotated[list[str] | None, typer.Option(help="Only episodes with this label; repeat for several.")] = None,
    max_image_age: Annotated[float, typer.Option(min=0.0, help="Oldest image of a frame, seconds.")] = 0.1,
    as_json: JsonOption = False,
) -> None:
    """Write a recording as a LeRobotDataset v3.0, for training and calibration."""
    from pi0_edge.run.recording import RunRecording
    from pi0_edge.run.recording.dataset import export_dataset

    out = Output(as_json)
    with out.progress() as on_progress:
        report = export_dataset(RunRecording(run), output, tuple(label or ()), max_image_age, on_progress)
    for reason in report.left_out:
        out.print(f"left out: {reason}")
    out.print(f"{report.episodes} episodes, {report.frames} frames ({report.by_person} of a person) are in {output}")
    out.finish({"dataset": output, **vars(report)})


def _facts(read: RunRecording) -> dict[str, object]:
    from pi0_edge.run.recording.episodes import episodes_of

    description = read.description
    ticks = [tick.message for tick in read.ticks]
    seconds = (ticks[-1].tick - ticks[0].tick) / (description.robot.control_hz or 1.0) if ticks else 0.0
    policy = description.policy
    return {
        "robot": description.robot.name,
        "policy": f"{policy.model}, engine {policy.engine} ({policy.scheme})",
        "seconds": round(seconds, 2),
        "ticks": len(ticks),
        "observations": len(read.observations),
        "chunks": len(read.answers),
        "images": sum(len(read.images(camera)) for camera in read.cameras),
        "cameras": ", ".join(read.cameras),
        "episodes": len(episodes_of(read)),
        "lossless": read.lossless,
        "closed": read.closed,
    }
