"""Loading streams: beside the model itself, far less than a fifth of its size is ever resident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

SCRIPT = """
import resource, sys
import torch
torch.set_num_threads(1)
from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.model import Pi0

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

checkpoint = open_checkpoint(sys.argv[1])
with torch.device("meta"):
    model = Pi0(checkpoint.infer_config())
model = model.to(torch.bfloat16).to_empty(device="cpu")
for parameter in model.parameters():
    parameter.data.zero_()  # the whole model is resident before loading starts
loaded = sum(parameter.nbytes for parameter in model.parameters())
before = status("VmRSS")
checkpoint.load_into(model)
print(loaded, status("VmHWM") - before, float(model.token_embedding.weight[-1, 0]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc (Linux)")
def test_peak_memory_while_loading(tmp_path):
    import torch

    from pi0_edge.checkpoints import save_checkpoint
    from pi0_edge.model import GemmaConfig, Pi0, Pi0Config, VisionConfig

    config = Pi0Config(
        "pi0",
        VisionConfig(width=256, depth=2, mlp_dim=1024, heads=4),
        GemmaConfig(width=1024, depth=3, mlp_dim=4096, heads=8, kv_heads=1, head_dim=64),
        GemmaConfig(width=256, depth=3, mlp_dim=1024, heads=8, kv_heads=1, head_dim=64),
        vocab_size=16384,
    )
    with torch.device("meta"):
        model = Pi0(config)
    state = {name: torch.full(p.shape, 0.5) for name, p in model.named_parameters()}
    save_checkpoint(tmp_path, state, config)
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded, extra, value = result.stdout.split()
    assert value == "0.5"
    assert int(extra) < 0.2 * int(loaded), (
        f"{int(extra) / 2**20:.1f} MiB beside a model of {int(loaded) / 2**20:.1f} MiB"
    )
