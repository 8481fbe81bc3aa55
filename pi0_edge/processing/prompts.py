r"""The prompt as π0 and π0.5 were trained to read it (formats of openpi).

    π0     "{text}\n", the newline as a piece of its own
    π0.5   "Task: {text}, State: {b0 b1 …};\nAction: ", with the normalized state in 256 bins over [-1, 1]

The text is cleaned first: outer blanks off, underscores and newlines to blanks. LeRobot's π0 and transformers do not
clean, and only see to a newline at the end; the two agree on every prompt that needs no cleaning.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from pi0_edge.processing.tokenizer import Tokenizer

STATE_BINS = 256


class PromptStyle(str, Enum):
    """What the prompt contains."""

    TEXT = "text"
    TEXT_AND_STATE = "text_and_state"


def clean(text: str) -> str:
    """Outer blanks off, "_" and newline to a blank."""
    return text.strip().replace("_", " ").replace("\n", " ")


def state_bins(state: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bin numbers of a normalized state: 0..255 over [-1, 1), -1 below and 255 above, as openpi counts them."""
    edges = np.linspace(-1.0, 1.0, STATE_BINS + 1)[:-1]
    return np.digitize(state, bins=edges) - 1


def prompt_with_state(text: str, state: NDArray[np.float64]) -> str:
    """The π0.5 prompt; `state` is normalized and not padded."""
    return f"Task: {clean(text)}, State: {' '.join(map(str, state_bins(state)))};\nAction: "


def prompt_tokens(
    tokenizer: Tokenizer, text: str, state: NDArray[np.float64], style: PromptStyle, cleaned: bool = True
) -> list[int]:
    """Token ids of a prompt, with BOS; `cleaned` is about text alone: with the state it always is."""
    if style is PromptStyle.TEXT_AND_STATE:
        return tokenizer.encode(prompt_with_state(text, state))
    if not cleaned:
        return tokenizer.encode(text if text.endswith("\n") else f"{text}\n")
    return tokenizer.encode(clean(text)) + tokenizer.pieces("\n")
