"""A release from staging to commit: each step says why, and can be run again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pi0_edge.board.readings import Board
from pi0_edge.deploy.installer.arm import read_arm, require_held
from pi0_edge.deploy.installer.certified import certified_budget
from pi0_edge.deploy.installer.environments import find_environment, install_environment, installed_version
from pi0_edge.deploy.installer.firmware import Firmware, check_firmware
from pi0_edge.deploy.installer.firmware_writing import is_half_written
from pi0_edge.deploy.installer.installed import firmware_in, running_firmware
from pi0_edge.deploy.installer.offer import verified_offer
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.installer.self_test import run_in_environment, run_self_test
from pi0_edge.deploy.installer.taking import take_release
from pi0_edge.deploy.installer.trial import commit_trial, try_release
from pi0_edge.deploy.launcher.services import POLICY
from pi0_edge.deploy.launcher.slots import Slot, read_proof, read_slots, read_trial
from pi0_edge.deploy.release import SDK_FOLDER, SDK_TARGET, Release
from pi0_edge.errors import DeployError
from pi0_edge.latency.certificate import Certificate

_DOCTOR_LIMIT_S = 300.0


def install(
    robot: Robot,
    manifest_sha256: str,
    *,
    budget_ms: float | None,
    commit: bool,
    certificate: Certificate | None = None,
) -> dict[str, Any]:
    """Takes what was received, tests it, tries it, and commits it.

    Args:
        robot: Of this installer.
        manifest_sha256: Of the release in staging.
        budget_ms: Longest time that a chunk may take; None takes that of the robot's settings.
        commit: Whether to commit it after the trial; else it stays on trial until `commit`, `rollback` or a power cut.
        certificate: What its chunks were measured to take on such a robot; None where nobody sent that.

    Returns:
        {"state": "committed" or "trial", "release": ID, "sequence": N, "self_test": findings or null}.

    Raises:
        DeployError: If a check, the self-test or the trial failed. What ran before then runs.
    """
    verified = verified_offer(robot, manifest_sha256)
    release = verified.release
    if _runs(robot, release) == "committed":
        robot.tell(f"nothing to do: {release.id} is what runs")
        return _result("committed", release, None)
    budget_ms = robot.settings.budget_ms if budget_ms is None else budget_ms
    budget_ms = certified_budget(robot, certificate, manifest_sha256, budget_ms)
    found: dict[str, Any] | None = None
    proof = read_proof(robot.layout) if _runs(robot, release) == "trial" else None
    if proof is None:  # also where the installer of an earlier trial is gone before it decided
        folder = take_release(robot, verified)
        shutil.rmtree(robot.layout.staging / manifest_sha256, ignore_errors=True)
        environment = _environment(robot, release, folder)
        _examine(robot, environment)
        firmware = _firmware(robot, release, folder, environment)
        found = _test(robot, folder / "bundle", str(environment), budget_ms)
        slot = Slot(release.id, release.sequence, str(environment))
        proof = try_release(robot, release, slot, budget_ms, firmware)
    if not commit:
        robot.record("on trial", f"{proof}; `pi0-edge flash commit` keeps it, a power cut ends it", release)
        return _result("trial", release, found)
    commit_trial(robot)
    robot.record("committed", proof, release)
    return _result("committed", release, found)


def _runs(robot: Robot, release: Release) -> str | None:
    trial, current = read_trial(robot.layout), read_slots(robot.layout).current
    if trial is not None and trial.release == release.id:
        return "trial"
    return "committed" if current is not None and current.release == release.id else None


def _environment(robot: Robot, release: Release, folder: Path) -> Path:
    """The SDK environment that runs a release: the one it brings, else one that is there and fits."""
    if (folder / SDK_TARGET).is_file():
        environment = install_environment(robot.layout, folder / SDK_FOLDER, robot.tell, robot.on_progress)
        robot.tell(f"SDK: {environment}, which the release brings")
    else:
        current = read_slots(robot.layout).current
        own = Path(robot.settings.environment if current is None else current.environment)
        fits = (version := installed_version(own)) is not None and Version(version) in SpecifierSet(release.sdk)
        found = own if fits else find_environment(robot.layout, release.sdk)
        if found is None:
            raise DeployError(
                f"the release needs pi0-edge {release.sdk}, and this robot runs {version or 'none'}; sign it with "
                "--sdk-folder, so that it brings its SDK"
            )
        environment = found
        robot.tell(f"SDK: {environment}, pi0-edge {installed_version(environment)} of {release.sdk}")
    return environment


def _examine(robot: Robot, environment: Path) -> None:
    """`pi0-edge doctor` on the board: what fails there would fail in service."""
    found = run_in_environment(str(environment), ["doctor", "--on-robot", "--json"], limit_s=_DOCTOR_LIMIT_S)
    failed = [check for check in found.get("checks", ()) if check["status"] == "fail"]
    if failed:
        reasons = "; ".join(f"{check['name']}: {check['found']} (mend it: {check['fix']})" for check in failed)
        raise DeployError(f"this computer cannot run it: {reasons}")
    warned = [check["name"] for check in found.get("checks", ()) if check["status"] == "warn"]
    robot.tell(f"doctor: nothing fails{'; it warns of ' + ', '.join(warned) if warned else ''}")


def _test(robot: Robot, bundle: Path, environment: str, budget_ms: float | None) -> dict[str, Any]:
    """The self-test, beside the running service where memory allows that."""
    board = Board(robot.layout.root)
    size = sum(file.stat().st_size for file in bundle.iterdir())
    needed, available = 2 * size + 2**30, board.available_memory
    if available is None:
        robot.tell("memory: this computer does not say how much is available; the service runs on beside the self-test")
        available = needed
    stopped = needed > available and read_slots(robot.layout).current is not None
    if stopped:
        robot.tell(require_held(robot.settings))
        robot.tell(f"the service stops for the self-test: {needed >> 20} MiB needed, {available >> 20} MiB available")
        robot.services.stop(POLICY)
    events = board.over_current_events()
    try:
        found = run_self_test(robot, bundle, environment, budget_ms=budget_ms)
        _check_board(robot, board, events)
        return found
    finally:
        if stopped:
            robot.services.start(POLICY)


def _check_board(robot: Robot, board: Board, before: Mapping[str, int]) -> None:
    """Temperature and power after the self-test: a board that throttles under it will be late in service."""
    rose = [f"{name} {before.get(name, 0)} → {n}" for name, n in board.over_current_events().items() if name != "oc3"
            and n > before.get(name, 0)]  # fmt: skip
    if alerts := (*board.throttling(), *rose):
        raise DeployError(
            f"the board slows itself down under the self-test ({', '.join(alerts)}); look at cooling, power supply and "
            "power mode, then run the command again"
        )
    zones = ", ".join(f"{zone} {degrees:.0f} °C" for zone, degrees in board.temperatures().items())
    robot.tell(f"temperature: {zones or 'this computer has no sensor that says'}; it does not throttle")


def _firmware(robot: Robot, release: Release, folder: Path, environment: Path) -> Firmware | None:
    """What is written to the microcontroller in the trial; None where it runs what the release needs.

    Raises:
        DeployError: If it does not, and cannot be written or brought back.
    """
    wanted, running = firmware_in(release, folder), running_firmware(robot)
    if is_half_written(robot.layout) and wanted.image is not None:
        robot.tell("firmware: writing the microcontroller was cut off; it is written again in the trial")
        return wanted
    reason = check_firmware(robot.settings, wanted, running, read_arm(robot.settings, f"{environment}/bin/python"))
    if reason is None:
        robot.tell("firmware: nothing has to be written to the microcontroller")
        return None
    robot.record("firmware", reason, release)
    return wanted


def _result(state: str, release: Release, found: dict[str, Any] | None) -> dict[str, Any]:
    return {"state": state, "release": release.id, "sequence": release.sequence, "self_test": found}
