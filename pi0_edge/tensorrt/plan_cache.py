"""Where built plans are kept: building takes minutes on a board, loading a second.

A plan belongs to one network, one GPU, one version of TensorRT and one shape, and all of them are in its path:

    <folder>/<network>/<GPU>-sm87-<builder>/attend-2-cameras-20-tokens.plan

A file starts with the SHA-256 of the plan behind it. One that is damaged is built again, as if it were not there.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import pi0_edge.model
import pi0_edge.tensorrt
from pi0_edge.quant.schemes import Scheme
from pi0_edge.tensorrt.programs import Shape

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class PlanKey:
    """What a plan belongs to.

    Attributes:
        network: From `network_digest`.
        gpu: Its name.
        capability: Its compute capability, major and minor.
        builder: What built it, with all versions that matter.
        shape: Of the observations.
        program: Its name.
    """

    network: str
    gpu: str
    capability: tuple[int, int]
    builder: str
    shape: Shape
    program: str

    @property
    def path(self) -> Path:
        """Below the folder of the cache."""
        machine = f"{self.gpu}-sm{self.capability[0]}{self.capability[1]}-{self.builder}"
        name = f"{self.program}-{self.shape.cameras}-cameras-{self.shape.tokens}-tokens.plan"
        return Path(self.network) / re.sub(r"[^A-Za-z0-9.]+", "-", machine) / name


class PlanCache:
    """A folder of plans. Plans hold code for the GPU, so only its owner may enter it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: PlanKey) -> bytes | None:
        """The plan, or None where there is none or the file is damaged."""
        try:
            content = (self.folder / key.path).read_bytes()
        except FileNotFoundError:
            return None
        digest, plan = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return plan if hashlib.sha256(plan).digest() == digest else None

    def store(self, key: PlanKey, plan: bytes) -> None:
        """Keeps a plan; another process sees all of it or nothing."""
        path = self.folder / key.path
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(plan).digest() + plan)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/pi0-edge/tensorrt`, with `~/.cache` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pi0-edge" / "tensorrt"


def network_digest(network: nn.Module, scheme: Scheme, *more: Path) -> str:
    """SHA-256 in hexadecimal of all that makes a network's programs: its tensors, its scheme, and our code.

    Not that of the bundle: two bundles that differ in their gate or robot share their plans, and a checkpoint has none.

    Args:
        network: With its quantization written out.
        scheme: Of its layers.
        more: Further files of our code that decide what a program is.
    """
    digest = hashlib.sha256(repr(scheme).encode())
    packages = [Path(package.__path__[0]) for package in (pi0_edge.model, pi0_edge.tensorrt)]
    for source in (*(path for folder in packages for path in sorted(folder.glob("*.py"))), *more):
        digest.update(source.read_bytes())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
