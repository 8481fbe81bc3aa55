"""The gate on the policy that comes with the package: what we recommend passes, what is deliberately bad does not."""

from __future__ import annotations

import pytest
import torch
from cli_runner import run

from pi0_edge.errors import MissingDependencyError

try:
    import pi0_edge.sim.aloha_transfer_cube  # noqa: F401 - the frames come from it
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

FRAMES = ["--calibration-frames", "16", "--held-out", "24", "--draws", "1", "--threads", "1", "--json"]


@pytest.mark.parametrize("scheme", ["orin", "int8-w8a8"])
def test_recommended_schemes_pass_with_room(scheme):
    ran = run("quantize", "--scheme", scheme, *FRAMES)
    assert ran.code == 0, ran.err
    assert min(ran.result["gate"]["cosine_whole"]) > 0.999


def test_four_bits_per_tensor_fail_and_are_not_served(tmp_path):
    ran = run("quantize", "--scheme", "int4-per-tensor", "--output", tmp_path / "bundle", *FRAMES)
    assert ran.code == 1
    assert ran.result["gate"]["verdict"]["passed"] is False
    served = run("serve", "--bundle", tmp_path / "bundle", "--listen", "127.0.0.1:0")
    assert served.code == 2
    assert "gate" in served.err and "--accept-failed-gate" in served.err
