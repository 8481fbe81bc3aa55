"""Deletes what no slot names: releases, environments, and what was received and never installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from pi0_edge.deploy.installer.environments import remove_environments
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.slots import read_slots, read_trial
from pi0_edge.synced_files import sync_folder


def collect_garbage(robot: Robot) -> dict[str, object]:
    """Keeps the current release, the one before it and what is on trial.

    Returns:
        {"removed": [ID, …], "bytes": N}: releases, and bytes that the disk has free again.
    """
    layout, slots = robot.layout, read_slots(robot.layout)
    kept = [slot for slot in (slots.current, slots.previous, read_trial(layout)) if slot is not None]
    before = shutil.disk_usage(layout.state).free
    releases = {slot.release for slot in kept}
    for grave in set(_folders(layout.releases)) - set(layout.installed()):
        shutil.rmtree(grave, ignore_errors=True)
        robot.tell(f"deleted: {grave.name} is what was left of a release when the power was cut")
    removed = [folder.name for folder in layout.installed() if folder.name not in releases]
    for name in removed:
        delete_release(layout, name)
        robot.record("deleted", f"no slot names release {name}")
    for leftover in (*_folders(layout.incoming), *_folders(layout.staging)):
        if leftover != layout.basis:
            shutil.rmtree(leftover, ignore_errors=True)
            robot.tell(f"deleted: {leftover.name[:12]} was received and never installed")
    environments = {Path(slot.environment).name for slot in kept} | {Path(robot.settings.environment).name}
    for environment in remove_environments(layout, environments):
        robot.record("deleted", f"no slot names the SDK environment {environment}")
    return {"removed": removed, "bytes": max(0, shutil.disk_usage(layout.state).free - before)}


def make_basis(robot: Robot) -> None:
    """Lays hard links of the running release where rsync compares with them: root's own and read-only."""
    layout, current = robot.layout, read_slots(robot.layout).current
    shutil.rmtree(layout.basis, ignore_errors=True)
    if current is None or not layout.staging.is_dir():
        return
    place = layout.basis / "bundle"
    place.mkdir(parents=True)
    for file in layout.bundle(current.release).iterdir():
        (place / file.name).hardlink_to(file)


def delete_release(layout: Layout, release_id: str) -> None:
    """Moves it out of sight first: what a power cut leaves of it is no release.

    Args:
        layout: Of the robot.
        release_id: Of an installed release that no slot names.
    """
    grave = layout.deleted(release_id)
    shutil.rmtree(grave, ignore_errors=True)  # of the same release, deleted and installed before
    layout.release(release_id).rename(grave)
    sync_folder(layout.releases)
    shutil.rmtree(grave, ignore_errors=True)


def _folders(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.is_dir() else []
