"""From a checkpoint to chunks over the network: quantize, judge against fp32, bundle, serve, ask.

python examples/python/quantize_and_serve.py bundles/cube [recordings/]   # frames; of the simulation where left out
"""

import sys
import time
from pathlib import Path

import numpy as np

from pi0_edge import Observation, Policy, PolicyClient, PolicyServer, quantize
from pi0_edge.shipped import shipped_checkpoint


def main(bundle: Path, frames: Path | None = None) -> None:
    """Quantizes the shipped policy, and asks its bundle for one chunk."""
    quantized = quantize(shipped_checkpoint(), "orin", frames, calibration_frames=16, held_out=8)
    print(f"{quantized.scheme.name}: {'passed' if quantized.passed else quantized.verdict.reasons}")
    quantized.write_bundle(bundle, replace=True)
    policy = Policy.from_bundle(bundle)  # refuses a bundle whose gate failed
    with PolicyServer(policy, "127.0.0.1:0") as server, PolicyClient(server.address) as client:
        client.wait_ready(10.0)
        observation = Observation({"top": np.zeros((112, 112, 3), np.uint8)}, np.zeros(14), "Transfer cube")
        chunk = client.infer(observation, tick=0, capture_time_ns=time.monotonic_ns())
        print(f"{chunk.horizon} actions of {chunk.action_dim} joints, the first: {chunk.actions[:14]}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
