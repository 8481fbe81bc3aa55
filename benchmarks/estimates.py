"""The table of docs/estimate.md: what chunks are expected to take on devices that are not here.

    python -m benchmarks.estimates [scheme …]

Nothing is measured. It is one command, so that the figures of the page can be written again when kernels change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pi0_edge.estimation import ChunkEstimate, estimate
from pi0_edge.latency.stages import NETWORK

ORIN_SCHEMES = ("orin", "int8-w8a8", "int8-w8a16", "fp8-w8a16", "bf16")
OTHERS = ("orin-agx-32", "orin-nx-16", "orin-nano-super", "thor", "h200")


def milliseconds(found: ChunkEstimate) -> str:
    """Expected, and the range."""
    return f"**{found.expected_ms:.0f}** ({found.low_ms:.0f} to {found.high_ms:.0f})"


def row(name: str, found: ChunkEstimate) -> str:
    """One row of the table of AGX Orin."""
    stages = [f"{found.stages_ms.get(stage, 0):.1f}" for stage in NETWORK]
    stale = "–" if found.stale_prefix_ms is None else f"{found.stale_prefix_ms:.0f}"
    cells = [name, f"{found.floor_ms:.0f}", milliseconds(found), *stages, str(found.launches), stale]
    return f"| {' | '.join(cells)} |"


def main(schemes: Sequence[str]) -> None:
    """Prints the tables."""
    print(
        "| scheme | floor | expected (low to high) | vision | prefix | state | Euler loop | launches | stale prefix |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for scheme in schemes or ORIN_SCHEMES:
        print(row(f"`{scheme}`", estimate("orin-agx-64", scheme=scheme)), flush=True)
    print(row("`orin`, three cameras", estimate("orin-agx-64", cameras=3)))
    for steps in (5, 2, 1):
        print(row(f"`orin`, {steps} steps", estimate("orin-agx-64", steps=steps)))
    for device in OTHERS:
        print(f"{device}, orin: {milliseconds(estimate(device))}", flush=True)
    for scheme in ("bf16", "orin", "fp8-w8a8"):
        print(f"h200, {scheme}, three cameras: {milliseconds(estimate('h200', scheme=scheme, cameras=3))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
