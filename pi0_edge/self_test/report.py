"""What a self-test found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pi0_edge.latency.percentiles import Latency


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What: bundle, vectors, instructions, accuracy, latency or memory.
        passed: Whether it is as it must be.
        text: What was found, in a sentence.
    """

    name: str
    passed: bool
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(frozen=True)
class SelfTestReport:
    """All findings, and the figures.

    Attributes:
        findings: In the order in which they were found.
        engine: What ran the network.
        bundle_sha256: Of the bundle's manifest, in hexadecimal.
        load_s: Until the bundle was verified and, without a server, ready to answer, in seconds.
        latency: Of the timed chunks, or of the vectors where there is no budget; None where nothing was answered.
        chunks: How many chunks were made.
        peak_memory_mb: Most memory that this process ever held, in 10^6 bytes; None where a server answered.
        overrides: Rules that the user overrode by name.
    """

    findings: tuple[Finding, ...]
    engine: str
    bundle_sha256: str
    load_s: float
    latency: Latency | None
    chunks: int
    peak_memory_mb: float | None
    overrides: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything is as it must be."""
        return all(finding.passed for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it failed, one sentence each; empty where it passed."""
        return tuple(str(finding) for finding in self.findings if not finding.passed)

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "findings": [vars(finding) for finding in self.findings],
            "load_s": self.load_s,
            "latency_ms": None if self.latency is None else self.latency.to_dict(),
            "chunks": self.chunks,
            "peak_memory_mb": self.peak_memory_mb,
            "engine": self.engine,
            "bundle_sha256": self.bundle_sha256,
            "overrides": list(self.overrides),
        }
