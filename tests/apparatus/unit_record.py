"""Units that only remember what was asked of them: for thousands of sequences that no systemd could run."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi0_edge.deploy.launcher.services import ServiceState


@dataclass
class UnitRecord:
    """`Services` whose policy server has always just failed with `result`."""

    result: str = "watchdog"
    exit_code: int = 0
    active: str = "failed"
    waits: bool = False
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def start(self, unit: str) -> None:
        self.started.append(unit)

    def stop(self, unit: str) -> None:
        self.stopped.append(unit)

    def restart(self, unit: str) -> None:
        self.started.append(unit)

    def state(self, unit: str) -> ServiceState:
        return ServiceState(self.active, self.result, self.exit_code, 0, self.waits)
