"""Choices of processing and integration that weights do not show: every writer of checkpoints has made its own.

    ===================  ==========================================================================================
    setting              meaning
    ===================  ==========================================================================================
    prompt_style         text, or text_and_state: the state is written into the prompt (openpi: discrete_state_input)
    prompt_cleaning      whether outer blanks, underscores and newlines of a text prompt are cleaned
    prompt_state_padded  whether the state in the prompt is padded with zeros to the network's width
    truncate_prompts     whether the end of an over-long prompt is cut off, with a warning, instead of refused
    resize_filter        pillow (antialiased, 8-bit), or torch (bilinear on floats, not antialiased)
    padding_value        what is beside an image that is not square, where black is -1
    still_joints         as_measured, or as_trained: a joint that stood still in training is shown where it stood then
    euler_steps          steps of the integration from noise to actions
    euler_times          accumulated (openpi), or exact (LeRobot, transformers): how their times are rounded
    normalization        a `Mode`, where the statistics are a norm_stats.json; recorded with the statistics
    ===================  ==========================================================================================

A user gives them in the SIZES file (`--config`) or in the argument `sizes`, among the sizes. docs/settings.md says
where each is read from and what happens where it is not recorded.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pi0_edge.errors import ConfigError
from pi0_edge.model.flow import EULER_STEPS
from pi0_edge.processing.normalization import Mode
from pi0_edge.processing.prompts import PromptStyle

BLACK = -1.0
"""Of an image in [-1, 1]; what openpi, and LeRobot from 0.5.0 on, put beside an image that is not square."""

LEROBOT_04_PADDING = -3.0
"""LeRobot 0.4 padded with -1 before it scaled from [0, 1] to [-1, 1]."""


class ResizeFilter(str, Enum):
    """How an image is scaled to the network's size."""

    PILLOW = "pillow"
    TORCH = "torch"


class StillJoints(str, Enum):
    """What the network is shown of a joint that did not move in training."""

    AS_MEASURED = "as_measured"
    AS_TRAINED = "as_trained"


class EulerTimes(str, Enum):
    """How the times of the Euler steps are rounded, see `pi0_edge.model.flow.euler_times`."""

    ACCUMULATED = "accumulated"
    EXACT = "exact"


@dataclass(frozen=True)
class ProcessingSettings:
    """The settings of one policy, as in the table above; the defaults are those of openpi's π0."""

    prompt_style: PromptStyle = PromptStyle.TEXT
    prompt_cleaning: bool = True
    prompt_state_padded: bool = False
    truncate_prompts: bool = False
    resize_filter: ResizeFilter = ResizeFilter.PILLOW
    padding_value: float = BLACK
    still_joints: StillJoints = StillJoints.AS_MEASURED
    euler_steps: int = EULER_STEPS
    euler_times: EulerTimes = EulerTimes.ACCUMULATED

    @classmethod
    def of_openpi(cls, variant: str) -> ProcessingSettings:
        """What openpi does by default for a variant, "pi0" or "pi05"."""
        return cls(prompt_style=PromptStyle.TEXT if variant == "pi0" else PromptStyle.TEXT_AND_STATE)

    @property
    def an_engine_may_scale(self) -> bool:
        """Whether what an engine does to camera images that it scales itself is what these settings say."""
        return self.resize_filter is ResizeFilter.PILLOW and self.padding_value == BLACK

    def to_dict(self) -> dict[str, Any]:
        """JSON values by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def parse_settings(content: Mapping[str, Any], origin: str = "the given settings") -> dict[str, Any]:
    """Settings by their own names, with the values that `ProcessingSettings` and `Mode` have.

    Args:
        content: Names of the table above, or those of openpi and LeRobot: discrete_state_input, num_inference_steps.
        origin: Named in errors.

    Raises:
        ConfigError: For an unknown name, a setting given twice with two values, or a value that it cannot have.
    """
    settings: dict[str, Any] = {}
    for name, value in content.items():
        if name not in _READERS:
            near = difflib.get_close_matches(str(name), _READERS, n=1, cutoff=0.0)
            raise ConfigError(f"{origin}: {name!r} is not a setting; did you mean {near[0]}?")
        setting, read, expected = _READERS[name]
        try:
            found = read(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{origin}: {name} is {value!r:.80}, expected {expected}") from error
        if settings.setdefault(setting, found) != found:
            raise ConfigError(f"{origin}: {setting} is given twice, as {settings[setting]} and {found}; keep one")
    return settings


def settings_in(content: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of a mapping of sizes and settings, such as a SIZES file, are settings; as they are written there."""
    return {name: value for name, value in (content or {}).items() if name in _READERS}


def sizes_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of such a mapping."""
    return {name: value for name, value in content.items() if name not in _READERS}


def setting_names() -> list[str]:
    """Every name that `parse_settings` understands."""
    return list(_READERS)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError
    return value


def _discrete_state_input(value: object) -> PromptStyle:
    return PromptStyle.TEXT_AND_STATE if _truth(value) else PromptStyle.TEXT


def _one_of(kind: type[Enum]) -> str:
    return f"one of {', '.join(member.value for member in kind)}"


_Reader = tuple[str, Callable[[Any], Any], str]
_STEPS: _Reader = ("euler_steps", _count, "a whole number from 1 on")
_READERS: dict[str, _Reader] = {
    "prompt_style": ("prompt_style", PromptStyle, _one_of(PromptStyle)),
    "discrete_state_input": ("prompt_style", _discrete_state_input, "true or false"),
    "prompt_cleaning": ("prompt_cleaning", _truth, "true or false"),
    "prompt_state_padded": ("prompt_state_padded", _truth, "true or false"),
    "truncate_prompts": ("truncate_prompts", _truth, "true or false"),
    "resize_filter": ("resize_filter", ResizeFilter, _one_of(ResizeFilter)),
    "padding_value": ("padding_value", _number, "a number, such as -1 (black) or -3 (LeRobot 0.4)"),
    "still_joints": ("still_joints", StillJoints, _one_of(StillJoints)),
    "euler_steps": _STEPS,
    "num_inference_steps": _STEPS,
    "euler_times": ("euler_times", EulerTimes, _one_of(EulerTimes)),
    "normalization": ("normalization", Mode, _one_of(Mode)),
}
"""By name: the setting, how its value is read, and what is expected of it."""
