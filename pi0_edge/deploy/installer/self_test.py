"""The self-test of a release on the robot: `pi0-edge self-test` in the environment that will run it.

It runs as the user of the policy server, so that it may do no more than that.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.services import ACCOUNT
from pi0_edge.errors import DeployError

LIMIT_S = 1800.0
"""Longer than a full-size policy takes to load and to answer on the slowest board, in seconds."""
TRIAL_LIMIT_S = 540.0
"""The same of a server that is ready, in seconds: shorter than the timer that ends a trial without an installer."""


def run_self_test(
    robot: Robot, bundle: Path, environment: str, *, budget_ms: float | None, server: str | None = None
) -> dict[str, Any]:
    """Runs the gate's recorded observations through the engine that will run, and measures latency.

    Args:
        robot: Of this installer.
        bundle: Of the release.
        environment: SDK environment that will run it.
        budget_ms: Longest time that a chunk may take; None judges no time.
        server: host:port of a policy server to ask, instead of an engine of its own.

    Returns:
        The findings, as `pi0-edge self-test --json` prints them.

    Raises:
        DeployError: If it failed, with its reasons, or did not run.
    """
    settings = robot.settings
    runs = ("--engine", settings.engine, *_threads(settings.serve)) if server is None else ("--server", server)
    arguments = ["self-test", str(bundle), *runs, "--json"]
    if "--accept-failed-gate" in settings.serve:
        arguments.append("--accept-failed-gate")
    if budget_ms is not None:
        arguments += ["--budget-ms", str(budget_ms), "--chunks", str(settings.self_test_chunks)]
    found = run_in_environment(environment, arguments, limit_s=LIMIT_S if server is None else TRIAL_LIMIT_S)
    if "passed" not in found:
        raise DeployError(f"the self-test did not run: {found.get('error', found)}")
    reasons = [str(reason) for reason in found.get("reasons", ())]
    for finding in found.get("findings", ()):
        robot.tell(f"self-test, {finding['name']}: {finding['text']}")
    if not found["passed"]:
        raise DeployError(f"the self-test failed: {'; '.join(reasons)}")
    return found


def _service_account() -> dict[str, Any]:
    """Arguments of `subprocess.run` for the account of the policy server, with its groups and none of root's."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(ACCOUNT)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def _threads(serve: Sequence[str]) -> Sequence[str]:
    """As many as the policy server has."""
    place = serve.index("--threads") if "--threads" in serve else len(serve)
    return serve[place : place + 2]


def run_in_environment(environment: str, arguments: Sequence[str], *, limit_s: float) -> dict[str, Any]:
    """Runs a command of an SDK environment with `--json` and returns what it says.

    Raises:
        DeployError: If it does not start, takes too long, or says no JSON.
    """
    argv = [f"{environment}/bin/python", "-m", "pi0_edge.cli", *arguments]
    try:
        ran = subprocess.run(
            argv, capture_output=True, text=True, timeout=limit_s, check=False, cwd="/", **_service_account()
        )
    except subprocess.TimeoutExpired as error:
        raise DeployError(f"pi0-edge {arguments[0]} did not end within {limit_s:.0f} s") from error
    except (OSError, LookupError) as error:
        raise DeployError(f"pi0-edge {arguments[0]} does not run in {environment} ({error})") from error
    try:
        found = json.loads(ran.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise DeployError(
            f"pi0-edge {arguments[0]} in {environment} ended with {ran.returncode}: {ran.stderr[-500:]}"
        ) from error
    if not isinstance(found, dict):
        raise DeployError(f"pi0-edge {arguments[0]} said {found!r:.80}, expected an object")
    return found
