"""Whether the shipped policy is there."""

from __future__ import annotations

from pi0_edge.doctor.check import Check
from pi0_edge.errors import CheckpointError
from pi0_edge.shipped import shipped_checkpoint


def checkpoint() -> Check:
    """The trained cube-transfer policy."""
    try:
        folder = shipped_checkpoint()
    except CheckpointError as error:
        return Check("shipped policy", "fail", str(error), "git checkout -- pi0_edge/assets")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Check("shipped policy", "pass", f"{folder} ({size / 1e6:.1f} MB)")
