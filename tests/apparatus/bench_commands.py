"""Runs `check` and `certify` of `pi0-edge bench` in this process, with the exit codes of the console script."""

from __future__ import annotations

import contextlib
import io

import typer
from cli_runner import Ran

from pi0_edge.cli.bench_certify import certify
from pi0_edge.cli.bench_check import check
from pi0_edge.errors import Pi0EdgeError

_COMMANDS = typer.Typer(pretty_exceptions_enable=False)
_COMMANDS.command()(check)
_COMMANDS.command()(certify)


def run_bench_command(*arguments: object) -> Ran:
    """Runs one of them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _COMMANDS([str(argument) for argument in arguments], standalone_mode=False) or 0
        except Pi0EdgeError as error:
            err.write(f"error: {error}\n")
            code = 2
    return Ran(code, out.getvalue(), err.getvalue())
