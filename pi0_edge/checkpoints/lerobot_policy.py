"""Writes a checkpoint as a policy folder of LeRobot.

config.json                  type pi0 or pi05, sizes, cameras, state and actions
policy_preprocessor.json     LeRobot's steps before the network, with a file of statistics
policy_postprocessor.json    and after it
tokenizer.json/.model        for pi0-edge; LeRobot fetches PaliGemma's by its name
model.safetensors            the weights, see `lerobot_weights`
"""

from __future__ import annotations

from pathlib import Path

import torch

from pi0_edge.checkpoints.checkpoint import Checkpoint
from pi0_edge.checkpoints.lerobot_weights import check_sizes, lerobot_dtype, write_lerobot_weights
from pi0_edge.checkpoints.native import WEIGHTS, copy_tokenizer
from pi0_edge.errors import ConfigError
from pi0_edge.model import Pi0
from pi0_edge.processing.lerobot_pipelines import Release, lerobot_files
from pi0_edge.processing.processor import ObservationProcessor
from pi0_edge.synced_files import make_folder_synced, save_synced


def save_lerobot_policy(
    folder: Path, checkpoint: Checkpoint, processor: ObservationProcessor, release: Release = "0.6"
) -> None:
    """Writes the folder; the weights come last, so a folder with a model.safetensors is complete.

    Args:
        folder: Created if needed; files of these names in it are replaced.
        checkpoint: The weights, in any layout.
        processor: Of the policy, with the sizes of its network.
        release: Which LeRobot is to read it: 0.4, or 0.6 for 0.5.1 and later.

    Raises:
        ConfigError: If LeRobot has no network of these sizes, its steps cannot do what the policy needs, or the folder
            is that of the checkpoint.
        CheckpointError: If the checkpoint does not fit the network.
    """
    check_sizes(processor.config, str(checkpoint.path))
    write_lerobot_policy(folder, checkpoint, processor, release)


def write_lerobot_policy(
    folder: Path, checkpoint: Checkpoint, processor: ObservationProcessor, release: Release
) -> None:
    """As `save_lerobot_policy`, for sizes that LeRobot does not have, too."""
    if folder.resolve() == checkpoint.folder.resolve():
        raise ConfigError(f"{folder} is the folder of the checkpoint; give another one, it would be overwritten")
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in Pi0(processor.config).named_parameters()}
    checkpoint.check(shapes)
    dtypes = checkpoint.dtypes(shapes)
    files = lerobot_files(processor, lerobot_dtype(dtypes), release)
    make_folder_synced(folder)
    (folder / WEIGHTS).unlink(missing_ok=True)
    for name, content in files.items():
        save_synced(folder / name, content)
    copy_tokenizer(processor.tokenizer.source, folder)
    write_lerobot_weights(folder / WEIGHTS, checkpoint.tensors(shapes), shapes, dtypes)
