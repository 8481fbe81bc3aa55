"""Where the PyTorch checkpoints of openpi, LeRobot and transformers keep our parameters.

All three follow Hugging Face's module names inside the towers and differ in the prefix before them. Two rules:

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
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pi0_edge.checkpoints.layout import TOWERS, Location, count_layers
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
_SINGLE = {
    "vision.patch_embedding": "{vision}embeddings.patch_embedding",
    "vision.final_norm": "{vision}post_layernorm",
    "projector": "{projector}",
    "expert.final_norm": "{expert}norm",
    "expert.final_norm.modulation": "{expert}norm.dense",
    "action_out_proj": "{out}action_out_proj",
}
_LAYER = re.compile(r"(vision|prefix|expert)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_DEAD_IN_LAST_LAYER = ("self_attn.q_proj", "self_attn.o_proj", "mlp.", "post_attention_layernorm")
_BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


@dataclass(frozen=True)
class Roots:
    """The prefix of the module names of each part."""

    vision: str
    projector: str
    prefix: str
    expert: str
    heads: tuple[str, ...]
    projections: str
    out: str = ""


_PALIGEMMA = "paligemma_with_expert.paligemma."
_EXPERT = "paligemma_with_expert.gemma_expert."
OPENPI = Roots(
    vision=f"{_PALIGEMMA}model.vision_tower.vision_model.",
    projector=f"{_PALIGEMMA}model.multi_modal_projector.linear",
    prefix=f"{_PALIGEMMA}model.language_model.",
    expert=f"{_EXPERT}model.",
    heads=(f"{_PALIGEMMA}lm_head.weight",),
    projections="",
)
TRANSFORMERS = Roots(
    vision="model.vlm.vision_tower.vision_model.",
    projector="model.vlm.multi_modal_projector.linear",
    prefix="model.vlm.language_model.",
    expert="model.dit.",
    heads=("lm_head.weight",),
    projections="embed_action_time.",
)


class TorchLayout:
    """Names of one PyTorch checkpoint family."""

    def __init__(self, name: str, roots: Roots, keys: Collection[str], strip: str = "") -> None:
        """Keys are those of the file; `strip` is the prefix of every name of this family ("model." or nothing)."""
        self.name = name
        self._roots = roots
        self._strip = strip
        self._keys = {key.removeprefix(strip) for key in keys}

    def locate(self, name: str) -> Location:
        """The key of one of our parameters; these layouts store each as an array of its own."""
        return Location(self._strip + self._key(name))

    def unused(self, key: str, prefix_depth: int) -> bool:
        """Token heads, prefix final norm, the dead part of the last prefix layer, normalization buffers."""
        key = key.removeprefix(self._strip)
        last = f"{self._roots.prefix}layers.{prefix_depth - 1}."
        heads = {*self._roots.heads, f"{_EXPERT}lm_head.weight", f"{self._roots.expert}embed_tokens.weight"}
        return (
            key in heads
            or key == f"{self._roots.prefix}norm.weight"
            or key.startswith(_BUFFERS)
            or (key.startswith(last) and key[len(last) :].startswith(_DEAD_IN_LAST_LAYER))
        )

    def layers(self, tower: str) -> int:
        """How many layers of `tower` are stored."""
        root = getattr(self._roots, tower) + ("encoder.layers." if tower == "vision" else "layers.")
        return count_layers(self._keys, root)

    def sizes(self) -> Mapping[str, int | str]:
        """Nothing beyond the shapes."""
        return {}

    def _key(self, name: str) -> str:
        if name == "token_embedding.weight":
            return self._token_table()
        if name == "vision.position_embedding":
            return f"{self._roots.vision}embeddings.position_embedding.weight"
        module, _, leaf = name.rpartition(".")
        if match := _LAYER.fullmatch(name):
            return self._layer_key(match[1], int(match[2]), match[3]) + f".{leaf}"
        roots = {tower: getattr(self._roots, tower) for tower in TOWERS}
        template = _SINGLE.get(module, f"{self._roots.projections}{self._projection(module)}")
        return template.format(**roots, projector=self._roots.projector, out=self._roots.out) + f".{leaf}"

    def _layer_key(self, tower: str, layer: int, module: str) -> str:
        if tower == "vision":
            return f"{self._roots.vision}encoder.layers.{layer}.{_VISION[module]}"
        return f"{getattr(self._roots, tower)}layers.{layer}.{_GEMMA[module]}"

    def _token_table(self) -> str:
        embedding = f"{self._roots.prefix}embed_tokens.weight"
        return next((key for key in (embedding, *self._roots.heads) if key in self._keys), embedding)

    def _projection(self, module: str) -> str:
        short = module.removeprefix("action_")
        renamed = module.startswith("action_time_mlp") and f"{module}.weight" not in self._keys
        return short if renamed and f"{short}.weight" in self._keys else module


def torch_layout(keys: Collection[str], path: Path, lerobot: bool) -> TorchLayout | None:
    """The PyTorch family that `keys` belong to, or None.

    Args:
        keys: All tensor names.
        path: Of the checkpoint, for messages.
        lerobot: Whether LeRobot's configuration is in the folder of the weights.

    Raises:
        CheckpointError: If the keys are those of a legacy LeRobot checkpoint or of unmerged adapters.
    """
    if any(".paligemma.language_model.model." in key for key in keys):
        raise CheckpointError(
            f"{path} is a legacy LeRobot checkpoint (0.3.3 or older: names contain paligemma.language_model.model), "
            "trained with other image padding and gripper constants; expected one of LeRobot 0.4 or newer. Take the "
            "newer release of the policy, or migrate and fine-tune it with LeRobot "
            "(python -m lerobot.processor.migrate_policy_normalization --pretrained-path <folder>)"
        )
    if any("lora_A" in key or "lora_B" in key for key in keys):
        raise CheckpointError(f"{path} holds LoRA adapters; expected merged weights: call merge_and_unload() and save")
    if any(key.startswith("model.paligemma_with_expert.") for key in keys):
        return TorchLayout("lerobot", OPENPI, keys, strip="model.")
    if any(key.startswith("paligemma_with_expert.") for key in keys):
        return TorchLayout("lerobot" if lerobot else "openpi-pytorch", OPENPI, keys)
    if any(key.startswith("model.dit.") for key in keys):
        flat = not any(key.startswith(TRANSFORMERS.vision) for key in keys)  # newer releases leave a level out
        roots = replace(TRANSFORMERS, vision="model.vlm.vision_tower.") if flat else TRANSFORMERS
        return TorchLayout("transformers", roots, keys)
    return None
