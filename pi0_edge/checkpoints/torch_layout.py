"""Where the PyTorch checkpoints of openpi, LeRobot and transformers keep our parameters.

All three follow Hugging Face's module names inside the parts of the network; `torch_parts` finds what stands before
them. Two rules:

* The token table is stored as `lm_head`, as `embed_tokens`, or as both. LeRobot since 0.5 stores both, and they can
  diverge after fine-tuning; `embed_tokens` is then the one in use.
* A π0 checkpoint may call its `action_time_mlp_*` `time_mlp_*`, as LeRobot accepts too.

Not needed for inference and allowed to be there: the expert's token head, the prefix's final norm, everything of the
last prefix layer but its keys and values, and LeRobot's normalization buffers. Legacy LeRobot checkpoints (up to 0.3.3)
are refused: they were trained with another image padding and other gripper constants, so loading their weights alone
would give a policy that is quietly wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pi0_edge.checkpoints.layout import Entry, Location, count_layers
from pi0_edge.checkpoints.torch_parts import BUFFERS, PROJECTIONS, Parts, find_parts, without_wrappers
from pi0_edge.errors import CheckpointError

_VISION = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_GEMMA = {
    "attention_norm": "input_layernorm",
    "attention_norm.modulation": "input_layernorm.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp_norm.modulation": "post_attention_layernorm.dense",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
MERGE_ADAPTERS = (
    "merge them with PEFT (PeftModel.from_pretrained(policy, folder).merge_and_unload()) and save the policy"
)

_LAYER = re.compile(r"(vision|prefix|expert)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_DEAD_IN_LAST_LAYER = ("self_attn.q_proj", "self_attn.o_proj", "mlp.", "post_attention_layernorm")


class TorchLayout:
    """The names of one PyTorch checkpoint."""

    def __init__(self, name: str, parts: Parts, stored: Mapping[str, str]) -> None:
        """Takes the roots of its parts, and the stored key by the key without the levels of wrappers."""
        self.name = name
        self._parts = parts
        self._stored = stored
        self._names = {key: name for name, key in stored.items()}
        self._single = {
            "vision.patch_embedding": f"{parts.vision}embeddings.patch_embedding",
            "vision.final_norm": f"{parts.vision}post_layernorm",
            "projector": parts.projector.removesuffix("."),
            "expert.final_norm": f"{parts.expert}norm",
            "expert.final_norm.modulation": f"{parts.expert}norm.dense",
        }

    def locate(self, name: str) -> Location:
        """The key of one of our parameters; these checkpoints store each as an array of its own."""
        key = self._key(name)
        return Location(self._stored.get(key, key))

    def unused(self, key: str, prefix_depth: int) -> bool:
        """Token heads, prefix final norm, the dead part of the last prefix layer, normalization buffers."""
        name = self._names[key]
        parts = self._parts
        last = f"{parts.prefix}layers.{prefix_depth - 1}."
        return (
            name in {*parts.heads, *parts.unused_heads, f"{parts.expert}embed_tokens.weight"}
            or name == f"{parts.prefix}norm.weight"
            or name.startswith(BUFFERS)
            or (name.startswith(last) and name[len(last) :].startswith(_DEAD_IN_LAST_LAYER))
        )

    def layers(self, tower: str) -> int:
        """How many layers of `tower` are stored."""
        root = getattr(self._parts, tower) + ("encoder.layers." if tower == "vision" else "layers.")
        return count_layers(self._stored, root)

    def sizes(self) -> Mapping[str, int | str]:
        """Nothing beyond the shapes."""
        return {}

    def _key(self, name: str) -> str:
        if name == "token_embedding.weight":
            return self._token_table()
        if name == "vision.position_embedding":
            return f"{self._parts.vision}embeddings.position_embedding.weight"
        if match := _LAYER.fullmatch(name):
            return self._layer_key(match[1], int(match[2]), match[3]) + f".{match[4]}"
        module, _, leaf = name.rpartition(".")
        return f"{self._single.get(module) or self._projection(module)}.{leaf}"

    def _layer_key(self, tower: str, layer: int, module: str) -> str:
        if tower == "vision":
            return f"{self._parts.vision}encoder.layers.{layer}.{_VISION[module]}"
        return f"{getattr(self._parts, tower)}layers.{layer}.{_GEMMA[module]}"

    def _token_table(self) -> str:
        embedding = f"{self._parts.prefix}embed_tokens.weight"
        return next((key for key in (embedding, *self._parts.heads) if key in self._stored), embedding)

    def _projection(self, module: str) -> str:
        """π0.5 has `time_mlp_*`, and so may a π0 checkpoint have in place of its `action_time_mlp_*`."""
        known = module if module in PROJECTIONS else f"action_{module}"
        root, short = self._parts.projections[known], known.removeprefix("action_")
        renamed = "time_mlp" in known and f"{root}{known}.weight" not in self._stored
        return root + (short if renamed and f"{root}{short}.weight" in self._stored else module)


def torch_layout(entries: Mapping[str, Entry], path: Path, writer: str | None) -> TorchLayout | None:
    """The layout of a PyTorch checkpoint of π0, or None where these arrays are of another network.

    Args:
        entries: The arrays by their keys.
        path: Of the checkpoint, for messages.
        writer: Which project wrote the config.json in the folder of the weights, if one is known.

    Raises:
        CheckpointError: If the checkpoint is one of legacy LeRobot, holds unmerged adapters, or several networks.
    """
    stored = without_wrappers(entries, path)
    if any(".paligemma.language_model.model." in key for key in stored):
        raise CheckpointError(
            f"{path} is a legacy LeRobot checkpoint (0.3.3 or older: names contain paligemma.language_model.model), "
            "trained with other image padding and gripper constants; expected one of LeRobot 0.4 or newer. Take the "
            "newer release of the policy, or migrate and fine-tune it with LeRobot "
            "(python -m lerobot.processor.migrate_policy_normalization --pretrained-path <folder>)"
        )
    if any("lora_A" in key or "lora_B" in key for key in stored):
        raise CheckpointError(f"{path} holds LoRA adapters; expected merged weights: {MERGE_ADAPTERS}")
    parts = find_parts({name: entries[key] for name, key in stored.items()}, path)
    return None if parts is None else TorchLayout(_family(parts, stored, writer), parts, stored)


def _family(parts: Parts, stored: Mapping[str, str], writer: str | None) -> str:
    """Who wrote it: as its config.json says, else as its names look."""
    if writer in ("lerobot", "transformers"):
        return writer
    if any(key.removeprefix("module.").startswith("model.paligemma_with_expert.") for key in stored):
        return "lerobot"
    return "transformers" if ".dit." in f".{parts.expert}" else "openpi-pytorch"
