"""The user's tokenizer file, as one small object: text to pieces, and the id of the beginning-of-sequence token.

π0 uses PaliGemma's SentencePiece model, which no checkpoint contains (except those LeRobot saves since 0.6.2). Both its
`tokenizer.model` and a `tokenizer.json` (PaliGemma's or Gemma's: the ids of text are the same) are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.errors import ConfigError, MissingDependencyError

FILES = ("tokenizer.model", "paligemma_tokenizer.model", "tokenizer.json")
_BOS_NAMES = ("<bos>", "<s>", "[BOS]")


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        pieces: Text to token ids, without any special token added.
        bos_id: Stands before every prompt.
        source: The file it was read from.
    """

    pieces: Callable[[str], list[int]]
    bos_id: int
    source: Path

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with BOS in front."""
        return [self.bos_id, *self.pieces(text)]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer.

    Args:
        path: A SentencePiece .model, a Hugging Face tokenizer.json, or a folder with one of them.

    Raises:
        ConfigError: If there is no tokenizer, it cannot be read, or it has no BOS token.
        MissingDependencyError: If the package that reads this kind of file is not installed.
    """
    file = find_tokenizer(Path(path))
    if file is None:
        raise ConfigError(f"{path} holds no tokenizer; expected PaliGemma's there, as {' or '.join(FILES)}")
    return _load_sentencepiece(file) if file.suffix == ".model" else _load_json(file)


def find_tokenizer(path: Path) -> Path | None:
    """The tokenizer file that `path` is, or that is in it or in its folder `tokenizer`."""
    if path.is_file():
        return path if path.suffix in (".model", ".json") else None
    candidates = (folder / name for folder in (path, path / "tokenizer") for name in FILES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _load_sentencepiece(file: Path) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingDependencyError(f"{file} is read with sentencepiece: pip install 'pi0-edge[policy]'") from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(file.read_bytes())
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{file} is not a SentencePiece model ({error}); download it again") from error
    if processor.bos_id() < 0:
        raise ConfigError(f"{file} has no BOS token; expected PaliGemma's tokenizer, in which it is 2")
    return Tokenizer(processor.EncodeAsIds, processor.bos_id(), file)


def _load_json(file: Path) -> Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError(f"{file} is read with tokenizers: pip install 'pi0-edge[policy]'") from error
    try:
        json.loads(file.read_text())  # the library's own errors say nothing about the file
        loaded = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(f"{file} is not a tokenizer.json ({error}); download it again") from error
    loaded.no_padding()
    loaded.no_truncation()
    bos_id = next((found for name in _BOS_NAMES if (found := loaded.token_to_id(name)) is not None), None)
    if bos_id is None:
        raise ConfigError(f"{file} has none of the BOS tokens {', '.join(_BOS_NAMES)}; expected PaliGemma's or Gemma's")
    return Tokenizer(lambda text: loaded.encode(text, add_special_tokens=False).ids, bos_id, file)
