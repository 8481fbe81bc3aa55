"""Where a folder keeps its weights, and what a user meant who named another folder or a model on a hub."""

from __future__ import annotations

import re
from pathlib import Path

from pi0_edge.checkpoints.native import WEIGHTS
from pi0_edge.checkpoints.safetensors_source import INDEX

LISTED = 3
"""How many checkpoints a message offers."""

_DEPTH = 4
"""How many levels below a folder are searched; LeRobot's training puts its weights three levels below its output."""

_FOLDERS = 2000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_URI = re.compile(r"([a-z0-9]+):/+(.+)")
"""With one slash where the text has been a `Path`."""

_DOWNLOADS = {"gs": ", for example gsutil -m cp -r {} .", "s3": ", for example aws s3 cp --recursive {} ."}


def find_safetensors(path: Path) -> Path | None:
    """The .safetensors file or index of a checkpoint: itself, in the folder, or in LeRobot's `pretrained_model`."""
    if path.is_file():
        return path
    candidates = (folder / name for folder in (path, path / "pretrained_model") for name in (WEIGHTS, INDEX))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def find_orbax(path: Path) -> Path | None:
    """The folder of an orbax item: `params` in the folder, or the folder itself."""

    def holds_arrays(folder: Path) -> bool:
        return (folder / "manifest.ocdbt").is_file() or any(folder.glob("params.*/.zarray"))

    return next((folder for folder in (path / "params", path) if holds_arrays(folder)), None)


def checkpoints_below(folder: Path) -> list[Path]:
    """Up to `LISTED` checkpoints below a folder that is none itself, the latest training step first."""
    found: list[Path] = []
    level, seen = [folder], 0
    for _ in range(_DEPTH):
        level = [child for parent in level for child in _folders(parent)]
        seen += len(level)
        if seen > _FOLDERS:
            break
        found += [child for child in level if _holds_checkpoint(child)]
        level = [child for child in level if child not in found]
    return sorted(found, key=_step, reverse=True)[:LISTED]


def advice_on(given: str, expected: str) -> str:
    """What to do about a path that does not exist: a checkpoint near it, a download, or what is expected of a path."""
    path = Path(given)
    near = checkpoints_below(path.parent) if path.parent != Path() and path.parent.is_dir() else []
    if near:
        return f"did you mean {' or '.join(map(str, near))}?"
    uri = _URI.fullmatch(given)
    scheme, rest = ("", given) if uri is None else (uri[1], uri[2])
    if _HUB_ID.fullmatch(rest) and scheme in ("", "hf"):
        return (
            f"expected {expected}. If it is a model on Hugging Face, fetch it and give the folder: hf download {rest} "
            f"--local-dir {path.name} (pip install huggingface_hub)"
        )
    if scheme:
        download = _DOWNLOADS.get(scheme, "").format(f"{scheme}://{rest}")
        return f"expected a path on this machine: download it first{download}"
    return f"expected {expected}"


def _holds_checkpoint(folder: Path) -> bool:
    """Whether it does, as far as this user may look and it still is there: a search must not end at one folder."""
    try:
        return find_safetensors(folder) is not None or find_orbax(folder) is not None
    except OSError:
        return False


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(child for child in parent.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []


def _step(path: Path) -> tuple[int, int, str]:
    """Order of the training steps in names such as 20000 and 020000; a link named `last` goes first."""
    steps = [int(part) for part in path.parts if part.isdigit()]
    return (1 if "last" in path.parts else 0, steps[-1] if steps else -1, str(path))
