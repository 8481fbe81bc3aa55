"""Where the parts of the network are in a PyTorch checkpoint, found by the names inside each part.

Projects and their releases put the same modules below different ones (`paligemma_with_expert.paligemma.model.`,
`model.vlm.`, `module.`) and add or drop levels (`vision_model.`, `language_model.model.`). The names inside a part are
the same in all of them: a vision tower has `encoder.layers.0.layer_norm1`, a Gemma has `layers.0.mlp.gate_proj`, a
projection is called `action_in_proj`. What stands before them is the *root* of the part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.checkpoints.layout import Entry
from pi0_edge.errors import CheckpointError

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Levels that torch.compile, FSDP and activation checkpointing add, at any place."""

_VISION = re.compile(
    r"((?:.*\.)?)(?:encoder\.layers\.\d+\.(?:layer_norm[12]|self_attn|mlp)\..+"
    r"|embeddings\.(?:patch|position)_embedding\..+|post_layernorm\.(?:weight|bias))"
)
_GEMMA = re.compile(
    r"((?:.*\.)?)(?<!encoder\.)layers\.\d+\."
    r"(?:(?:input|post_attention)_layernorm|self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\..+"
)
_PROJECTOR = re.compile(r"((?:.*\.)?multi_modal_projector(?:\.linear)?\.)(?:weight|bias)")
_PROJECTION = re.compile(
    r"((?:.*\.)?)(state_proj|action_in_proj|action_out_proj|(?:action_)?time_mlp_(?:in|out))\.(?:weight|bias)"
)
_TOKEN_HEAD = re.compile(r"((?:.*\.)?)lm_head\.weight")
_EXPERT_WORDS = re.compile(r"expert(?!\.paligemma)|\bdit\b|action")

_PALIGEMMA = "paligemma_with_expert.paligemma."
_OPENPI = {
    "vision": f"{_PALIGEMMA}model.vision_tower.vision_model.",
    "projector": f"{_PALIGEMMA}model.multi_modal_projector.linear.",
    "prefix": f"{_PALIGEMMA}model.language_model.",
    "expert": "paligemma_with_expert.gemma_expert.model.",
}
"""Where openpi has the parts: what a message names where a checkpoint lacks all of a part."""

BUFFERS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""LeRobot's buffers of normalization; not needed, the processor files have the statistics."""

PROJECTIONS = ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out")


@dataclass(frozen=True)
class Parts:
    """Roots of the parts; each is empty or ends with a dot.

    Attributes:
        vision: Before `encoder.layers.0.` of the vision tower.
        projector: Before `weight` of the image projector.
        prefix: Before `layers.0.` of the Gemma that reads images and words.
        expert: Before `layers.0.` of the action expert.
        projections: Before the name of each projection, by that name.
        heads: Token heads of the prefix.
        unused_heads: Other token heads.
    """

    vision: str
    projector: str
    prefix: str
    expert: str
    projections: Mapping[str, str]
    heads: tuple[str, ...]
    unused_heads: tuple[str, ...]


def without_wrappers(keys: Iterable[str], path: Path) -> dict[str, str]:
    """The stored key by the key without the levels that wrappers of torch add.

    Raises:
        CheckpointError: If two keys become the same.
    """
    stored: dict[str, str] = {}
    for key in keys:
        name = _WRAPPERS.sub("", key)
        if name in stored:
            raise CheckpointError(f"{path} holds both {stored[name]} and {key}, expected one of them; save it again")
        stored[name] = key
    return stored


def find_parts(entries: Mapping[str, Entry], path: Path) -> Parts | None:
    """The parts of a π0 network among these arrays, or None where they are of another network.

    Args:
        entries: The arrays, by key without wrappers.
        path: Of the checkpoint, for messages.

    Raises:
        CheckpointError: If a part is there more than once, or the two Gemmas cannot be told apart.
    """
    gemmas = _roots(_GEMMA, entries)
    projections = {name: root for name in PROJECTIONS if (root := _projection_root(name, entries, path)) is not None}
    if not gemmas or not projections.keys() & {"action_in_proj", "action_out_proj"}:
        return None
    common = _common_root(entries)
    prefix, expert = _prefix_and_expert(gemmas, entries, projections, path)
    prefix = _default("prefix", common) if prefix is None else prefix
    expert = _default("expert", common) if expert is None else expert
    elsewhere = Counter(projections.values()).most_common(1)[0][0]
    heads = [key for key in entries if _TOKEN_HEAD.fullmatch(key)]
    of_prefix = [head for head in heads if _shared_levels(head, prefix) >= _shared_levels(head, expert)]
    return Parts(
        vision=_only(_roots(_VISION, entries), "vision towers", path, _default("vision", common)),
        projector=_only(_roots(_PROJECTOR, entries), "image projectors", path, _default("projector", common)),
        prefix=prefix,
        expert=expert,
        projections={name: projections.get(name, elsewhere) for name in PROJECTIONS},
        heads=tuple(of_prefix),
        unused_heads=tuple(head for head in heads if head not in of_prefix),
    )


def _roots(pattern: re.Pattern[str], entries: Iterable[str]) -> Counter[str]:
    """How many keys each root has."""
    return Counter(match[1] for key in entries if (match := pattern.fullmatch(key)))


def _projection_root(name: str, entries: Iterable[str], path: Path) -> str | None:
    """A π0 checkpoint may call its `action_time_mlp_*` `time_mlp_*`, as LeRobot accepts too."""
    names = {name, name.removeprefix("action_")} if "time_mlp" in name else {name}
    matches = (match for key in entries if (match := _PROJECTION.fullmatch(key)) and match[2] in names)
    found = Counter(match[1] for match in matches)
    return _only(found, f"{name} layers", path, "") if found else None


def _only(roots: Counter[str], what: str, path: Path, default: str) -> str:
    """The root with the most keys, or an error where another one has more than half as many: a second such part."""
    ranked = roots.most_common()
    if not ranked:
        return default
    if len(ranked) > 1 and 2 * ranked[1][1] > ranked[0][1]:
        raise _several(path, what, [root for root, _ in ranked[:2]])
    return ranked[0][0]


def _several(path: Path, what: str, roots: list[str]) -> CheckpointError:
    places = " and ".join(repr(root.rstrip(".")) for root in sorted(roots))
    return CheckpointError(
        f"{path} holds several {what}, below {places}; expected one network: save the one to deploy alone (an average "
        "of the weights in training is often the other)"
    )


def _prefix_and_expert(
    roots: Counter[str], entries: Mapping[str, Entry], projections: Mapping[str, str], path: Path
) -> tuple[str | None, str | None]:
    """Which Gemma is which: by the words in its root, else by the width that the projections of actions have."""
    most = roots.most_common(1)[0][1]
    found = sorted(root for root, count in roots.items() if 2 * count > most or len(roots) <= 2)
    if len(found) > 2:
        raise _several(path, "stacks of Gemma layers", found)
    shared = _shared_levels(f"{found[0]}.", found[-1]) if len(found) == 2 else 0
    by_name = [root for root in found if _EXPERT_WORDS.search(".".join(root.split(".")[shared:]))]
    experts = by_name if len(by_name) == 1 else [root for root in found if _reads_actions(root, entries, projections)]
    if len(found) == 2 and len(experts) != 1:
        raise CheckpointError(
            f"{path} holds the Gemmas {found[0]!r} and {found[1]!r}, and neither their names nor their widths tell "
            "which one is the action expert; expected a name with 'expert' in it"
        )
    prefixes = [root for root in found if root not in experts]
    return (prefixes or [None])[0], (experts or [None])[0]


def _reads_actions(root: str, entries: Mapping[str, Entry], projections: Mapping[str, str]) -> bool:
    """Whether most layers are as wide as what `action_in_proj` gives."""
    action = entries.get(f"{projections.get('action_in_proj', '')}action_in_proj.weight")
    keys = (key for key in entries if key.startswith(f"{root}layers.") and key.endswith("self_attn.k_proj.weight"))
    widths = Counter(entries[key].shape[-1] for key in keys)
    return action is not None and bool(widths) and widths.most_common(1)[0][0] == action.shape[0]


def _default(part: str, common: str) -> str:
    return common + _OPENPI[part]


def _common_root(keys: Iterable[str]) -> str:
    """The levels that all keys begin with, apart from buffers of normalization."""
    split = [key.split(".")[:-1] for key in keys if not key.startswith(BUFFERS)]
    common: list[str] = []
    for levels in zip(*split, strict=False):
        if len(set(levels)) > 1:
            break
        common.append(levels[0])
    return "".join(f"{level}." for level in common)


def _shared_levels(key: str, root: str) -> int:
    """How many levels two names begin with in common."""
    shared = 0
    for one, other in zip(key.split(".")[:-1], root.split("."), strict=False):
        if one != other:
            break
        shared += 1
    return shared
