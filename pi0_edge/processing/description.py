"""What is recorded of a processor, so that it can be built again from a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi0_edge.errors import ConfigError

RECORDED: dict[str, type] = {"robot": dict, "normalization": dict, "prompt_style": str, "settings": dict}
"""The JSON values, by name; the other fields are files beside them."""


@dataclass(frozen=True)
class ProcessingDescription:
    """What `ObservationProcessor.description` gives and `restore_processor` takes.

    Attributes:
        robot: The robot layout, as `parse_robot` reads it.
        normalization: Of "state" and "actions": {"mode": name of a `Mode`, "eps": float}.
        prompt_style: Value of a `PromptStyle`.
        settings: The other fields of `ProcessingSettings`, as it writes them. What is absent was recorded before there
            was a choice: openpi's, which is then what the policy was judged with.
        norm_stats: Statistics in openpi's format; None where they are in a norm_stats.json.
        tokenizer: File of the tokenizer; None where it is in the folder that holds the description.
    """

    robot: dict[str, Any]
    normalization: dict[str, Any]
    prompt_style: str
    settings: dict[str, Any] = field(default_factory=dict)
    norm_stats: dict[str, dict[str, list[float]]] | None = None
    tokenizer: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON values; statistics and tokenizer are files of their own."""
        return {name: getattr(self, name) for name in RECORDED}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], origin: str) -> ProcessingDescription:
        """The inverse of `to_dict`.

        Args:
            content: The JSON values.
            origin: The file they are from, for error messages.

        Raises:
            ConfigError: If a value is missing or of another type.
        """
        content = {"settings": {}, **content}
        for name, kind in RECORDED.items():
            if not isinstance(content.get(name), kind):
                raise ConfigError(
                    f"{origin} records {content.get(name)!r:.80} as {name}, expected a {kind.__name__}; save it again"
                )
        return cls(**{name: content[name] for name in RECORDED})
