"""Which policy a run plays: the shipped checkpoint under a scheme, or a bundle made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pi0_edge.bundle import open_bundle
from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy, combined_hash
from pi0_edge.quant import find_scheme
from pi0_edge.shipped import shipped_checkpoint


@dataclass(frozen=True)
class PolicyChoice:
    """What the policy server of a run loads.

    Attributes:
        scheme: How the shipped checkpoint is quantized, where there is no bundle.
        bundle: A bundle of the shipped checkpoint.
        accept_failed_gate: Whether its user overrides the accuracy gate of the bundle.
    """

    scheme: str = "int8-w8a8"
    bundle: Path | None = None
    accept_failed_gate: bool = False

    def check(self) -> None:
        """Returns if the policy can be played and compared with the shipped one.

        Raises:
            BundleError: If the bundle is refused, or its gate did not pass and is not overridden.
            ConfigError: If the bundle was made of another checkpoint.
            QuantizationError: If there is no such scheme.
        """
        if self.bundle is None:
            find_scheme(self.scheme)
            return
        bundle = open_bundle(self.bundle)
        bundle.overrides_in_force(self.accept_failed_gate)
        if bundle.manifest.source_sha256 != combined_hash(open_checkpoint(shipped_checkpoint()).source_hashes()):
            raise ConfigError(f"{self.bundle} was not made of the shipped policy, which the demo compares it with")

    def load(self) -> Policy:
        """The policy, in this process."""
        if self.bundle is not None:
            return Policy.from_bundle(self.bundle, accept_failed_gate=self.accept_failed_gate)
        return Policy.load(shipped_checkpoint(), scheme=find_scheme(self.scheme))

    def serve_options(self) -> list[str]:
        """The options of `pi0-edge serve` for it."""
        if self.bundle is None:
            return ["--checkpoint", str(shipped_checkpoint()), "--scheme", self.scheme]
        return ["--bundle", str(self.bundle), *(["--accept-failed-gate"] if self.accept_failed_gate else [])]
