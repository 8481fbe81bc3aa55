"""Each head once through the whole path: its policy server, the bridge, the firmware in QEMU, the simulated arms.

The weights are random: what is asked for is that chunks of any length are made, entered and executed, not that the cube
is transferred.
"""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from policy_builders import CONFIG, DIMS, PROMPT

from pi0_edge.checkpoints import save_checkpoint
from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.demo.run import run_demo
from pi0_edge.demo.run_record import RunRecord
from pi0_edge.heads import HEADS, build_network
from pi0_edge.processing import Mode, Normalization, Normalizer, ObservationProcessor, load_robot
from pi0_edge.processing.settings import ProcessingSettings
from pi0_edge.processing.tokenizer import load_tokenizer
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import TickFlag
from pi0_edge.sim.aloha import HOME
from pi0_edge.training.run import write_prompt_tokenizer

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed"),
]

HORIZONS = {"rt2": 50, "octo": 50, "tinyvla": 16, "mse": 50}
"""RT-2's single action and Octo's four are over before a chunk has crossed the line, and 30 actions of RT-2 before the
next 30 are made."""


def write_policy(folder, head):
    """A policy whose chunks stay so close to the arms' rest that no limit is met.

    Random weights give noise, and a hundredth of a radian from tick to tick is more than arms can do.
    """
    config = dataclasses.replace(CONFIG, head=head, real_dims=DIMS, horizon=HORIZONS[head])
    torch.manual_seed(2)
    folder.mkdir(parents=True)
    write_prompt_tokenizer([PROMPT], config.vocab_size, folder / "tokenizer.json")
    mean = HOME.astype(np.float64)
    state = Normalizer(Mode.OPENPI_ZSCORE, {"mean": mean, "std": np.full(DIMS, 0.5)})
    actions = Normalizer(Mode.OPENPI_ZSCORE, {"mean": mean, "std": np.full(DIMS, 0.002)})
    settings = dataclasses.replace(ProcessingSettings.of_openpi("pi0"), euler_steps=HEADS[head].steps)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    normalization = Normalization(state, actions)
    processor = ObservationProcessor(load_robot("aloha_sim"), tokenizer, normalization, config, settings)
    save_checkpoint(folder, build_network(config).state_dict(), config, processor.description())
    return folder


@pytest.mark.parametrize("head", HORIZONS)
def test_a_head_drives_the_arms_through_the_firmware(tmp_path, aloha_image, head, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a network this small only waits for a second thread
    choice = PolicyChoice(checkpoint=write_policy(tmp_path / "policy", head))
    assert choice.splice == "hold-swap"
    summary = run_demo(tmp_path / "demo", episodes=1, first_seed=0, choice=choice)
    run = RunRecord.load(tmp_path / "demo" / "record.npz")
    during = run.tick_episode == 0
    assert (run.chunk_outcome == ChunkReport.ACCEPTED).sum() >= 3
    assert (run.tick_flags[during] & TickFlag.EXECUTED.value > 0).sum() > 50
    assert summary.faults == []
    entered = np.unique(run.tick_chunk[during & (run.tick_chunk > 0)])
    assert len(entered) >= 3  # chunks of this policy were executed, one after the other
