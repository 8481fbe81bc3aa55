"""`pi0-edge flash`: a release to a robot, and what a robot does with its releases.

`flash HOST BUNDLE` sends; `flash VERB HOST` does something else. A robot whose name is one of the verbs needs another
name in ssh's configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pi0_edge.cli.fleet import (
    DEFAULT_STAGES,
    AtOnceOption,
    LimitOption,
    ReportOption,
    SoakMinutesOption,
    StagesOption,
    fleet_status,
    roll_out_release,
)
from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output

if TYPE_CHECKING:
    from pi0_edge.deploy.transfer.flashing import FlashResult
    from pi0_edge.deploy.transfer.robot_host import RobotHost

FAILED = 1
_ARGUMENT = "argument"
_VERB = f"{__name__}.verb"


class HostOrVerb(TyperGroup):
    """A group whose own arguments are read only where the first word is none of its commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads HOST BUNDLE and options in any order, or leaves all to the command that the first word names."""
        verb, given = bool(args) and args[0] in self.commands, ctx.params
        ctx.meta[_VERB], ctx.allow_interspersed_args = verb, not verb
        rest = super().parse_args(ctx, args)
        if verb:
            return rest
        if given.get("host") in self.commands:
            ctx.fail(f"{given['host']!r} is a command and no host here; write it first, or give the robot another name")
        if given.get("inventory") is not None:  # one word is left for HOST and BUNDLE: the bundle
            host, bundle = given.get("host"), given.get("bundle")
            given["host"], given["bundle"] = bundle and str(bundle), host and Path(host)
        if given.get("from_folder") is None and given.get("bundle") is None:
            ctx.fail("HOST and BUNDLE are needed, or BUNDLE and --inventory, or --from on the robot itself")
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        """Without HOST and BUNDLE where a command follows."""
        params = super().get_params(ctx)
        if ctx.meta.get(_VERB):
            return [param for param in params if param.param_type_name != _ARGUMENT]
        return params


flash = typer.Typer(cls=HostOrVerb, no_args_is_help=True)
flash.command("fleet-status")(fleet_status)

HostArgument = Annotated[str, typer.Argument(help="The robot: a name of ssh's configuration or an address.")]
SshConfigOption = Annotated[
    Path | None, typer.Option("--ssh-config", help="Configuration of ssh, instead of the user's own.")
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", help="Private key; else the one that `robot provision` made, or ssh's own.")
]


@flash.callback(invoke_without_command=True)
def send(
    host: Annotated[str | None, typer.Argument(help="The robot: a name of ssh's configuration or an address.")] = None,
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder of a bundle that `release sign` made a release.")
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="On the robot itself: a release on a USB stick, without HOST and BUNDLE."
        ),
    ] = None,
    no_commit: Annotated[
        bool,
        typer.Option("--no-commit", help="Leave it on trial; `flash commit`, `flash rollback` or a restart end it."),
    ] = False,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Longest time of a chunk, instead of the robot's own budget.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="Serving certificate: the robot compares its budget; else that beside the bundle."),
    ] = None,
    deadline: Annotated[
        float, typer.Option(min=0, help="Seconds in which a link that is lost is made again.")
    ] = 3600.0,
    bwlimit: Annotated[
        int | None, typer.Option(min=1, help="Most that is sent in a second, in units of 1024 bytes.")
    ] = None,
    accept_new_host: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Key of a robot that is not known here, compared on it.")
    ] = None,
    inventory: Annotated[
        Path | None, typer.Option(help="All robots of an inventory of ansible, in stages; without HOST.")
    ] = None,
    limit: LimitOption = "",
    stages: StagesOption = DEFAULT_STAGES,
    soak_minutes: SoakMinutesOption = 0.0,
    at_once: AtOnceOption = 8,
    report: ReportOption = None,
    ssh_config: SshConfigOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a release to a robot, which tests it, tries it, and commits it or takes it back by itself.

    With --inventory to many: one, then a tenth of them, then the rest, until one refuses it or takes it back.

    Interrupted, it goes on where it stopped when it is run again; the robot runs what it ran before. Exit code 1 where
    the robot refuses the release, takes it back, or is not reached.
    """
    from pi0_edge.deploy.transfer.robot_host import flash_from
    from pi0_edge.latency.certificate import load_certificate

    certified = None if certificate is None else load_certificate(certificate)
    if from_folder is not None:
        if host is not None or bundle is not None:
            raise typer.BadParameter("--from flashes the robot that it runs on: HOST and BUNDLE do not go with it")
        out, folder = Output(as_json), from_folder
        with _words(out), out.progress() as show:
            result = flash_from(
                folder,
                commit=not no_commit,
                budget_ms=budget_ms,
                certificate=certified,
                on_reason=out.print,
                on_progress=show,
            )
        _tell(out, result)
        return
    if inventory is not None and bundle is not None:
        if no_commit or accept_new_host is not None or host is not None or certificate is not None:
            raise typer.BadParameter(
                "--inventory goes with BUNDLE, and not with HOST, --no-commit, --accept-new-host or --certificate"
            )
        roll_out_release(
            *(Output(as_json), inventory, bundle),
            limit=limit,
            stages=stages,
            soak_minutes=soak_minutes,
            at_once=at_once,
            budget_ms=budget_ms,
            deadline_s=deadline,
            bwlimit_kbps=bwlimit,
            ssh_config=ssh_config,
            key=key,
            report_file=report,
        )
        return
    if host is None or bundle is None:
        return  # a command follows
    out = Output(as_json)
    with _words(out), out.progress() as show:
        robot = _robot(host, ssh_config, key, out, show)
        if accept_new_host is not None:
            robot.accept_host(accept_new_host)
        result = robot.flash(
            bundle,
            commit=not no_commit,
            budget_ms=budget_ms,
            certificate=certified,
            deadline_s=deadline,
            bwlimit_kbps=bwlimit,
        )
    _tell(out, result)


@flash.command()
def status(
    host: HostArgument, ssh_config: SshConfigOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show what a robot runs, what it would fall back to, and how it is."""
    out = Output(as_json)
    with _words(out):
        found = _robot(host, ssh_config, key, out).status()
    rows = [(name.replace("_", " "), _shown(value, name)) for name, value in found.items()]
    out.table(f"robot {host}", ("", ""), rows)
    out.finish(found)


@flash.command()
def history(
    host: HostArgument,
    count: Annotated[int, typer.Option(min=1, help="How many of the latest decisions.")] = 50,
    ssh_config: SshConfigOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a robot decided about its releases, and why; the latest last."""
    out = Output(as_json)
    with _words(out):
        entries = _robot(host, ssh_config, key, out).history(count)
    for entry in entries:
        at, event, release = _time(entry.get("at", 0)), entry.get("event", ""), entry.get("release") or "-"
        out.print(f"{at}  {event}  {release}  {entry.get('reason', '')}")
    out.finish({"entries": entries})


@flash.command()
def commit(
    host: HostArgument, ssh_config: SshConfigOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Commit the release that a robot has on trial."""
    _do(host, ssh_config, key, as_json, lambda robot: robot.commit(), "{release} is committed")


@flash.command()
def rollback(
    host: HostArgument,
    reason: Annotated[str, typer.Option(help="Why, for the robot's history.")] = "",
    ssh_config: SshConfigOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a robot back to the release before, and list the present one as bad."""
    _do(host, ssh_config, key, as_json, lambda robot: robot.rollback(reason), "{release} runs now")


@flash.command()
def gc(
    host: HostArgument, ssh_config: SshConfigOption = None, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Remove releases that a robot neither runs nor would fall back to."""
    _do(host, ssh_config, key, as_json, lambda robot: robot.gc(), "{bytes} bytes are free again: {removed}")


def _do(
    host: str,
    ssh_config: Path | None,
    key: Path | None,
    as_json: bool,
    verb: Callable[[RobotHost], dict[str, Any]],
    said: str,
) -> None:
    out = Output(as_json)
    with _words(out):
        answer = verb(_robot(host, ssh_config, key, out))
    out.print(said.format_map({name: _shown(value) for name, value in answer.items()}))
    out.finish(answer)


def _robot(
    host: str, ssh_config: Path | None, key: Path | None, out: Output, show: Callable[..., object] = lambda _: None
) -> RobotHost:
    from pi0_edge.deploy.transfer.robot_host import RobotHost

    return RobotHost(host, ssh_config=ssh_config, key=key, on_reason=out.print, on_progress=show)


@contextmanager
def _words(out: Output) -> Iterator[None]:
    """What the robot refused, or that it is not there, is exit code 1; what was wrong here stays an error."""
    from pi0_edge.deploy.session import RefusedError
    from pi0_edge.deploy.transfer.ssh import LinkLostError

    try:
        yield
    except (RefusedError, LinkLostError) as error:
        typer.echo(f"error: {error}", err=True)
        out.finish({"error": str(error)})
        raise typer.Exit(FAILED) from error


def _tell(out: Output, result: FlashResult) -> None:
    word = {"committed": "is committed", "trial": "is on trial; `pi0-edge flash commit` keeps it"}
    out.print(f"{result.release} {word.get(result.state, result.state)} ({result.seconds:g} s)")
    out.finish(dataclasses.asdict(result))


def _time(seconds: object) -> str:
    """Since the epoch, as the clock of this computer shows it."""
    return datetime.fromtimestamp(float(str(seconds))).strftime("%Y-%m-%d %H:%M:%S")


def _shown(value: object, name: str = "") -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one, name)}" for name, one in value.items()) or "-"
    if name.endswith("_at") and isinstance(value, int | float):
        return _time(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_shown, value)) or "none"
    return "-" if value in (None, "") else str(value)
