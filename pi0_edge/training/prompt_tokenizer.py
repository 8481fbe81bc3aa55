"""A small tokenizer for policies trained from scratch, in the same file format as Gemma's `tokenizer.json`.

A real π0 brings PaliGemma's 257k vocabulary. A policy trained on a handful of prompts needs a byte-level vocabulary
that can still spell anything: Gemma's special tokens (pad 0, eos 1, bos 2, unk 3), the 256 bytes, and merges for its
prompts.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>"]


def write_prompt_tokenizer(prompts: list[str], vocab_size: int, path: Path) -> None:
    """Trains a byte-level BPE on the prompts and writes it to `path`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{prompt}\n" for prompt in prompts], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
