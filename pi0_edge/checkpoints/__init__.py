"""Checkpoints of other projects, and our own, as one set of parameters under the names of `pi0_edge.model`.

`open_checkpoint` detects the layout of what it is given:

    ======================  =====================================================  ==============================
    layout                  recognised by                                          names, arrangement
    ======================  =====================================================  ==============================
    ``pi0-edge``            our own parameter names                                `native`
    ``openpi-pytorch``      module names of Hugging Face, see `torch_parts`        `torch_layout`
    ``lerobot``             the same, with ``model.`` or a LeRobot config.json     `torch_layout`
    ``transformers``        the same, with its config.json or ``dit.``             `torch_layout`
    ``openpi-jax``          an orbax folder (``params/`` with zarr arrays)         `orbax_layout`, `lora`
    ======================  =====================================================  ==============================

A LoRA adapter of PEFT is opened with its base, see `peft_adapter`.

A *source* reads arrays out of files, a *layout* says where each of our parameters is stored in a source, `Checkpoint`
joins the two, checks that nothing is missing, surplus or wrongly shaped, and streams the parameters one by one. Pickled
files are never opened. `pi0_edge.processing` reads the preprocessing (statistics, tokenizer, robot).

`save_checkpoint` writes our own layout, `save_lerobot_policy` that of LeRobot.
"""

from pi0_edge.checkpoints.checkpoint import Checkpoint
from pi0_edge.checkpoints.detect import open_checkpoint
from pi0_edge.checkpoints.lerobot_policy import save_lerobot_policy
from pi0_edge.checkpoints.native import save_checkpoint
from pi0_edge.checkpoints.sizes import load_sizes, parse_sizes

__all__ = ["Checkpoint", "load_sizes", "open_checkpoint", "parse_sizes", "save_checkpoint", "save_lerobot_policy"]
