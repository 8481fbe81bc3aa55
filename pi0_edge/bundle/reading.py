"""Opens a bundle: everything is checked before anything is used."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import Tensor

from pi0_edge.bundle.checksums import MANIFEST_FILES, read_manifest
from pi0_edge.bundle.file_list import SELF_TEST, TRAINING_PROFILE
from pi0_edge.bundle.files import refuse_changed, verify_files
from pi0_edge.bundle.manifest import Manifest, parse_manifest
from pi0_edge.bundle.self_test_vectors import SelfTestVectors, parse_self_test
from pi0_edge.bundle.shards import map_shards
from pi0_edge.errors import BundleError, ConfigError, QuantizationError
from pi0_edge.model.config import Pi0Config
from pi0_edge.processing import ObservationProcessor
from pi0_edge.processing.loading import restore_processor
from pi0_edge.quant.schemes import Scheme
from pi0_edge.robots import parse_robot
from pi0_edge.training_profile import TrainingProfile, load_training_profile

GateState = Literal["passed", "failed", "missing"]
ACCEPT_FAILED_GATE = "accept-failed-gate"
"""Name of the only rule of a bundle that its user can override: that its gate must have passed."""


class Bundle:
    """A bundle whose files were all verified; made by `open_bundle`.

    Attributes:
        folder: Its path, links resolved.
        manifest: What it is.
        sha256: Of the manifest, and thereby of everything in the bundle.
        config: Sizes of the network.
        scheme: How its layers are quantized.
    """

    def __init__(self, folder: Path, manifest: Manifest, sha256: str, verified: dict[str, os.stat_result]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256
        self.config: Pi0Config = manifest.config
        self.scheme = _scheme(manifest)
        self._verified = verified

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The network's tensors by name, as views of the mapped files: nothing is read before it is used.

        Raises:
            BundleError: If a shard cannot be mapped or, in the end, if one was changed after it had been verified.
        """
        yield from map_shards(self.folder / name for name in self.manifest.shards)
        refuse_changed(self.folder, self._verified)

    def processor(self) -> ObservationProcessor:
        """Robot layout, tokenizer and normalization, all from the bundle.

        Raises:
            BundleError: If they do not fit together, or a file was changed after it had been verified.
            MissingDependencyError: If the package that reads this kind of tokenizer is not installed.
        """
        recorded = dataclasses.replace(self.manifest.processing, tokenizer=self.folder / self.manifest.tokenizer)
        try:
            processor = restore_processor(self.folder, recorded, self.config)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"the processing recorded in {self.folder} is unusable: {error}") from error
        refuse_changed(self.folder, self._verified)
        return processor

    def training_profile(self) -> TrainingProfile | None:
        """What the training data looked like; None in a bundle that does not say.

        Raises:
            BundleError: If it cannot be used, or was changed after it had been verified.
        """
        if TRAINING_PROFILE not in self.manifest.files:
            return None
        try:
            profile = load_training_profile(self.folder / TRAINING_PROFILE)
        except ConfigError as error:
            raise BundleError(f"the training profile in {self.folder} is unusable: {error}") from error
        refuse_changed(self.folder, self._verified)
        return profile

    def self_test(self) -> SelfTestVectors | None:
        """Observations with the chunks of fp32, for the self-test on a robot; None in a bundle without them.

        Raises:
            BundleError: If they cannot be used, or were changed after they had been verified.
        """
        if SELF_TEST not in self.manifest.files:
            return None
        try:
            robot = parse_robot(self.manifest.processing.robot, "the robot of the bundle")
            vectors = parse_self_test((self.folder / SELF_TEST).read_bytes(), self.config, robot)
        except (BundleError, ConfigError, OSError) as error:
            raise BundleError(f"the self-test vectors in {self.folder} are unusable: {error}") from error
        refuse_changed(self.folder, self._verified)
        return vectors

    @property
    def gate(self) -> GateState:
        """Verdict of the accuracy gate."""
        if self.manifest.gate is None:
            return "missing"
        return "passed" if self.manifest.gate.passed else "failed"

    @property
    def gate_reasons(self) -> tuple[str, ...]:
        """Why the gate failed; empty where it passed or is missing."""
        return () if self.manifest.gate is None else self.manifest.gate.reasons

    def overrides_in_force(self, accept_failed_gate: bool) -> tuple[str, ...]:
        """Names of the rules that are overridden when this bundle moves a robot; none where its gate passed.

        Args:
            accept_failed_gate: Whether its user takes responsibility for a gate that failed or is missing.

        Raises:
            BundleError: If the gate failed or is missing and `accept_failed_gate` is not set.
        """
        if self.gate == "passed":
            return ()
        if not accept_failed_gate:
            failed = f"its accuracy gate failed ({'; '.join(self.gate_reasons) or 'no reason recorded'})"
            why = failed if self.gate == "failed" else "it never went through the accuracy gate"
            raise BundleError(
                f"{self.folder} is not served: {why}; quantize it with a better scheme, or override the gate with "
                f"--{ACCEPT_FAILED_GATE}"
            )
        return (ACCEPT_FAILED_GATE,)


def open_bundle(folder: Path, *, public_key: Path | None = None) -> Bundle:
    """Verifies a bundle, every byte of it, and opens it.

    Args:
        folder: Of the bundle; may be a link to one.
        public_key: Whose signature is required; see `pi0_edge.bundle.keys`.

    Raises:
        BundleError: If anything is missing, surplus, truncated, changed, of a newer format, or not signed as required.
        MissingDependencyError: If a signature is required and `cryptography` is not installed.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; expected a bundle, which `pi0-edge quantize` makes")
    resolved = folder.resolve()
    try:
        content = read_manifest(resolved, public_key)
        manifest = parse_manifest(content)
        verified = verify_files(resolved, manifest.files, allowed_extra=MANIFEST_FILES)
        return Bundle(resolved, manifest, hashlib.sha256(content).hexdigest(), verified)
    except BundleError as error:
        raise BundleError(f"{folder} is refused: {error}") from error


def _scheme(manifest: Manifest) -> Scheme:
    try:
        return Scheme.from_dict(manifest.scheme)
    except QuantizationError as error:
        raise BundleError(f"the scheme {manifest.scheme['name']!r} is unknown to this pi0-edge: {error}") from error
