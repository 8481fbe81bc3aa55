"""What a robot runs and how it is, for people, for a fleet, and for the next decision."""

from __future__ import annotations

import json
import shutil
from typing import Any

from pi0_edge.board.readings import Board
from pi0_edge.deploy.installer.arm import read_arm
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import POLICY
from pi0_edge.deploy.launcher.slots import Slot, read_slots, read_trial
from pi0_edge.deploy.release import STATEMENT
from pi0_edge.errors import Pi0EdgeError


def status(robot: Robot) -> dict[str, Any]:
    """The state of a robot.

    Returns:
        {"name", "robot", "hardware", "current", "previous", "trial": slot or null, "sequence_floor", "bad": [...],
        "committed_at": Unix time, "service": state of the policy server, "arm": state or null or a reason why it is not
        known, "temperatures": {zone: °C}, "free_bytes": N}; a slot is {"release", "sequence", "environment", "gate",
        "scheme"}.
    """
    slots, layout = read_slots(robot.layout), robot.layout
    service = robot.services.state(POLICY)
    return {
        "name": robot.settings.name,
        "robot": robot.settings.robot,
        "hardware": robot.settings.hardware,
        "current": _described(layout, slots.current),
        "previous": _described(layout, slots.previous),
        "trial": _described(layout, read_trial(layout)),
        "sequence_floor": slots.sequence_floor,
        "bad": [{"release": bad.release, "reason": bad.reason} for bad in slots.bad],
        "committed_at": slots.committed_at,
        "service": service.active,
        "service_reason": "" if service.result == "success" else service.reason,
        "arm": _arm(robot),
        "temperatures": Board(layout.root).temperatures(),
        "free_bytes": shutil.disk_usage(layout.state).free,
    }


def _described(layout: Layout, slot: Slot | None) -> dict[str, Any] | None:
    if slot is None:
        return None
    described = {"release": slot.release, "sequence": slot.sequence, "environment": slot.environment}
    try:
        manifest = json.loads((layout.bundle(slot.release) / "manifest.json").read_bytes())
        statement = json.loads((layout.release(slot.release) / STATEMENT).read_bytes())
    except (OSError, ValueError) as error:
        return {**described, "problem": f"the release cannot be read: {error}"}
    gate = manifest.get("gate")
    verdict = "missing" if gate is None else "passed" if gate["verdict"]["passed"] else "failed"
    return {**described, "gate": verdict, "scheme": manifest["scheme"]["name"], "signed_at": statement["signed_at"]}


def _arm(robot: Robot) -> str | None:
    try:
        arm = read_arm(robot.settings)
    except Pi0EdgeError as error:
        return f"unknown: {error}"
    return None if arm is None else arm.state
