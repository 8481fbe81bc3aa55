"""What a serving certificate says about the time of a chunk on this robot."""

from __future__ import annotations

from pi0_edge.board.readings import Board
from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.errors import DeployError
from pi0_edge.latency.certificate import Certificate


def certified_budget(
    robot: Robot, certificate: Certificate | None, manifest_sha256: str, budget_ms: float | None
) -> float | None:
    """The longest time that a chunk may take: the budget, and not more than the arm bears by the certificate.

    A certificate that was measured with another engine or computer says nothing about this robot, and is not used.

    Args:
        robot: Of this installer.
        certificate: That came with the request; None where there was none.
        manifest_sha256: Of the release.
        budget_ms: Of the request or the robot's settings; None where neither has one.

    Returns:
        Milliseconds; None judges no time.

    Raises:
        DeployError: If the certificate is of another bundle, or leaves no time for a chunk.
    """
    if certificate is None:
        return budget_ms
    if others := list(certificate.differences(bundle_sha256=manifest_sha256)):
        raise DeployError(f"the serving certificate does not belong to the release: {others[0]}; certify the release")
    state = Board(robot.layout.root).state(processes=False)
    engine = robot.settings.engine
    if others := list(certificate.differences(engine=engine, board=state.model, power_mode=state.power_mode)):
        robot.tell(f"certificate: it is not used, for {'; '.join(others)}")
        return budget_ms
    most = certificate.budget_ms
    if most <= 0:
        raise DeployError("the serving certificate leaves no time for a chunk; certify a result of the boundary served")
    bears = f"certificate: the arm starves above {most:.4g} ms"
    if budget_ms is None:
        robot.tell(f"{bears}; that is the budget, as neither the robot nor its user gives one")
        return most
    if budget_ms > most:
        robot.tell(f"{bears}; that is the budget, as the {budget_ms:g} ms of robot or user are more")
        return most
    robot.tell(f"{bears}; the budget of {budget_ms:g} ms is less")
    return budget_ms
