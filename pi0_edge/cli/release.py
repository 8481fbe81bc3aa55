"""`pi0-edge release`: what is made on a workstation for robots to install."""

from __future__ import annotations

import typer

from pi0_edge.cli.release_sdk import sdk

release = typer.Typer(no_args_is_help=True, help="Make what robots install.")
release.command("sdk")(sdk)
