"""Which policy a run plays: the shipped checkpoint or another one under a scheme, or a bundle made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.splice import HoldSwap, RealTimeChunking
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
        scheme: How the checkpoint is quantized, where there is no bundle.
        bundle: A bundle of the checkpoint.
        accept_failed_gate: Whether its user overrides the accuracy gate of the bundle.
        checkpoint: A policy for the simulated ALOHA; the shipped one where None.
    """

    scheme: str = "int8-w8a8"
    bundle: Path | None = None
    accept_failed_gate: bool = False
    checkpoint: Path | None = None

    @property
    def source(self) -> Path:
        """The checkpoint, which the run is compared with in fp32."""
        return shipped_checkpoint() if self.checkpoint is None else self.checkpoint

    @property
    def splice(self) -> str:
        """How its chunks enter where nobody says: as real-time chunking, if its head has Euler steps to steer."""
        head = open_checkpoint(self.source).infer_config().head
        return RealTimeChunking.name if head == "flow" else HoldSwap.name

    def check(self) -> None:
        """Returns if the policy can be played and compared with its checkpoint.

        Raises:
            BundleError: If the bundle is refused, or its gate did not pass and is not overridden.
            CheckpointError: If there is no such checkpoint.
            ConfigError: If the bundle was made of another checkpoint.
            QuantizationError: If there is no such scheme.
        """
        opened = open_checkpoint(self.source)
        if self.bundle is None:
            find_scheme(self.scheme)
            return
        bundle = open_bundle(self.bundle)
        bundle.overrides_in_force(self.accept_failed_gate)
        if bundle.manifest.source_sha256 != combined_hash(opened.source_hashes()):
            source = "the shipped policy" if self.checkpoint is None else self.checkpoint
            raise ConfigError(
                f"{self.bundle} was not made of {source}, which the demo compares it with; name its own by --checkpoint"
            )

    def load(self) -> Policy:
        """The policy, in this process."""
        if self.bundle is not None:
            return Policy.from_bundle(self.bundle, accept_failed_gate=self.accept_failed_gate)
        return Policy.load(self.source, scheme=find_scheme(self.scheme))

    def serve_options(self) -> list[str]:
        """The options of `pi0-edge serve` for it."""
        if self.bundle is None:
            return ["--checkpoint", str(self.source), "--scheme", self.scheme]
        return ["--bundle", str(self.bundle), *(["--accept-failed-gate"] if self.accept_failed_gate else [])]
