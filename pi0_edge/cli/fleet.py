"""`pi0-edge flash --inventory` and `pi0-edge flash fleet-status`: many robots.

| exit code | meaning                                                                                |
|-----------|----------------------------------------------------------------------------------------|
| 0         | no robot refused the release or took it back; robots that are off are left for later   |
| 1         | a robot stopped the roll-out                                                           |
| 130       | Ctrl-C                                                                                 |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

STOPPED, INTERRUPTED = 1, 130

InventoryOption = Annotated[Path, typer.Option(help="The robots: an inventory of ansible, a file or a folder.")]
LimitOption = Annotated[str, typer.Option(help="Only robots of this pattern of ansible, such as 'site-a:!robot-7'.")]
StagesOption = Annotated[
    str, typer.Option(help="With --inventory: robots of each stage, or their share of those that lack the release.")
]
SoakMinutesOption = Annotated[
    float,
    typer.Option(min=0, help="With --inventory: watch those that have the release for so long before each stage."),
]
AtOnceOption = Annotated[
    int, typer.Option(min=1, help="With --inventory: robots of a stage that are sent the release at the same time.")
]
ReportOption = Annotated[
    Path | None, typer.Option(help="With --inventory: write what became of each robot there, as Markdown.")
]
SshConfigOption = Annotated[
    Path | None, typer.Option(help="Instead of your own configuration of ssh; the inventory's addresses go before it.")
]
KeyOption = Annotated[
    Path | None, typer.Option(help="Private key; else the one that `robot provision` made, or ssh's own.")
]

DEFAULT_STAGES = "1,10%,100%"


def roll_out_release(
    out: Output,
    inventory: Path,
    bundle: Path,
    *,
    limit: str = "",
    stages: str = DEFAULT_STAGES,
    soak_minutes: float = 0.0,
    at_once: int = 8,
    budget_ms: float | None = None,
    deadline_s: float = 3600.0,
    bwlimit_kbps: int | None = None,
    ssh_config: Path | None = None,
    key: Path | None = None,
    report_file: Path | None = None,
) -> None:
    """Rolls a release out to the robots of an inventory, and prints what became of each.

    Args:
        out: Of the command.
        inventory: File or folder of ansible.
        bundle: Of the release.
        limit: Only robots of this pattern.
        stages: Of `roll_out`, with commas between them.
        soak_minutes: Of `roll_out`, like the rest.
        at_once: Robots at the same time.
        budget_ms: Longest time that a chunk may take.
        deadline_s: After so long, a robot that cannot be reached any more is left.
        bwlimit_kbps: Most that is sent to one robot in a second, in units of 1024 bytes.
        ssh_config: Instead of the user's own.
        key: Private key of the user.
        report_file: Takes the report as Markdown.

    Raises:
        typer.Exit: With the exit codes above, where it did not end well.
    """
    from pi0_edge.deploy.fleet.report import COLUMNS
    from pi0_edge.deploy.fleet.roll_out import roll_out
    from pi0_edge.synced_files import save_synced

    report = roll_out(
        inventory,
        bundle,
        limit=limit,
        stages=_stages(stages),
        soak_minutes=soak_minutes,
        at_once=at_once,
        budget_ms=budget_ms,
        deadline_s=deadline_s,
        bwlimit_kbps=bwlimit_kbps,
        ssh_config=ssh_config,
        key=key,
        on_reason=out.print,
    )
    out.table(f"release {report.release}", COLUMNS, report.rows())
    out.print(report.summary)
    if report_file is not None:
        save_synced(report_file, report.to_markdown().encode())
        out.print(f"report: {report_file}")
    out.finish({"report": report, "complete": report.complete, "counts": report.counts})
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if report.stopped:
        raise typer.Exit(STOPPED)


def fleet_status(
    inventory: InventoryOption,
    limit: LimitOption = "",
    ssh_config: SshConfigOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what all robots of an inventory run, and how they are.

    Exit code 1 where a robot cannot be reached, or its policy server has failed.
    """
    import tempfile

    from pi0_edge.deploy.fleet.inventory import read_inventory, write_ssh_config
    from pi0_edge.deploy.fleet.states import STATE_COLUMNS, ask_states, state_rows

    out = Output(as_json)
    robots = read_inventory(inventory, limit)
    with tempfile.TemporaryDirectory(prefix="pi0-fleet-") as folder:
        config = Path(folder) / "ssh_config"
        write_ssh_config(config, robots, ssh_config)
        states = ask_states([robot.name for robot in robots], config, key=key)
    out.table(str(inventory), STATE_COLUMNS, state_rows(states))
    well = sum(state.known and state.service != "failed" for state in states)
    out.print(f"{well} of {len(states)} robots are well")
    out.finish({"robots": states, "well": well})
    if well < len(states):
        raise typer.Exit(STOPPED)


def _stages(given: str) -> Sequence[int | str]:
    words = [word.strip() for word in given.split(",")]
    return [int(word) if word.isdigit() else word for word in words]
