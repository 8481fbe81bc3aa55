"""`pi0-edge certificates`: an authority, and the folders of servers and clients for mutual TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi0_edge.cli.options import JsonOption
from pi0_edge.cli.output import Output
from pi0_edge.errors import ConfigError

certificates = typer.Typer(no_args_is_help=True, help="Make and show certificates: who may reach a robot, and as what.")

_ROLES = ("estop", "observe", "command")

AuthorityArgument = Annotated[Path, typer.Argument(help="Folder of the authority.")]
FolderArgument = Annotated[Path, typer.Argument(help="Folder to make; it goes to that machine, and only there.")]
NameOption = Annotated[str | None, typer.Option(help="Name in logs and limits; that of the folder if not given.")]
DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")]


@certificates.command()
def authority(
    folder: Annotated[Path, typer.Argument(help="Folder to make. Whoever has its key can make every certificate.")],
    name: Annotated[str, typer.Option(help="Name of the authority.")] = "pi0-edge",
    days: DaysOption = 3650,
    as_json: JsonOption = False,
) -> None:
    """Make an authority, once, on a machine that is no robot."""
    from pi0_edge.certificates import make_authority

    out = Output(as_json)
    make_authority(folder, name, days)
    out.print(f"authority {name} in {folder}: keep it off the robots and their network")
    out.finish({"authority": folder, "name": name, "days": days})


@certificates.command()
def server(
    authority: AuthorityArgument,
    folder: FolderArgument,
    host: Annotated[list[str], typer.Option(help="Host name or address that clients reach it by; may be repeated.")],
    name: NameOption = None,
    days: DaysOption = 365,
    as_json: JsonOption = False,
) -> None:
    """Make the folder of a policy server or a bridge."""
    from pi0_edge.certificates import issue_server

    out = Output(as_json)
    issue_server(authority, folder, name or folder.name, host, days)
    out.print(f"{folder} is a server at {', '.join(host)} for {days} days: pass it with --tls")
    out.finish({"folder": folder, "name": name or folder.name, "hosts": host, "days": days})


@certificates.command()
def client(
    authority: AuthorityArgument,
    folder: FolderArgument,
    role: Annotated[str, typer.Option(help=f"What it may do: {', '.join(_ROLES)}; each includes those before.")],
    name: NameOption = None,
    days: DaysOption = 365,
    as_json: JsonOption = False,
) -> None:
    """Make the folder of a client."""
    from pi0_edge.certificates import issue_client
    from pi0_edge.protos.rpc.roles import Role

    out = Output(as_json)
    if role not in _ROLES:
        raise ConfigError(f"role {role!r} is not known; expected one of {', '.join(_ROLES)}")
    issue_client(authority, folder, name or folder.name, Role[role.upper()], days)
    out.print(f"{folder} is a client with the role {role} for {days} days")
    out.finish({"folder": folder, "name": name or folder.name, "role": role, "days": days})


@certificates.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder of a server, a client or an authority.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a certificate is, and until when it is valid."""
    from pi0_edge.certificates import read_certificate
    from pi0_edge.protos.rpc.tls_files import AUTHORITY_FILE, CERTIFICATE_FILE

    out = Output(as_json)
    own = folder / CERTIFICATE_FILE
    facts = read_certificate(own if own.exists() else folder / AUTHORITY_FILE)
    description = {
        "name": facts.name,
        "kind": facts.kind,
        "role": facts.role or None,
        "hosts": list(facts.hosts),
        "begins": facts.begins.isoformat(),
        "ends": facts.ends.isoformat(),
        "authority": facts.issuer,
    }
    rows = [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in description.items()]
    out.table(str(folder), ("what", "value"), [(name, value) for name, value in rows if value])
    out.finish(description)
