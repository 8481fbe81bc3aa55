"""The rules of the mismatch guard by name, and what it says where one of them is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pi0_edge.errors import ConfigError

Rule = Literal[
    "training-profile",
    "joint-names",
    "control-rate",
    "prompt",
    "camera-names",
    "image-size",
    "joint-range",
    "joint-units",
    "joint-sign",
    "joint-zero",
    "joint-order",
    "gripper-convention",
    "start-pose",
    "first-action",
    "relative-actions",
    "chunk-overlap",
    "camera-black",
    "camera-frozen",
    "camera-swapped",
    "camera-mirrored",
    "camera-turned",
    "camera-colours",
    "camera-zoom",
    "camera-view",
]

RULES: dict[Rule, str] = {
    "training-profile": "the policy comes with a profile of its training data, made for this robot",
    "joint-names": "the joints have the names and the order of the training data",
    "control-rate": "actions are executed as often as in the training data, in the settings and on the clock",
    "prompt": "the prompt is one of those of the training data",
    "camera-names": "the cameras are those of the training data",
    "image-size": "images have the size of those in the training data",
    "joint-range": "every joint is where it was in the training data",
    "joint-units": "joints are in the units of the training data, not in degrees or in a range of -100 to 100",
    "joint-sign": "every joint turns in the direction of the training data",
    "joint-zero": "every joint has the zero of the training data",
    "joint-order": "no two joints, and not the two arms, are exchanged",
    "gripper-convention": "0 and 1 mean the same ends of a gripper, and it is not in percent",
    "start-pose": "the robot stands where an episode of the training data began",
    "first-action": "a chunk begins as near to the joints as an action of the training data",
    "relative-actions": "the actions of a chunk are positions, not differences from the present joints",
    "chunk-overlap": "successive chunks agree about the time that both plan",
    "camera-black": "no camera is black",
    "camera-frozen": "every camera delivers new images",
    "camera-swapped": "no camera shows what another one should",
    "camera-mirrored": "no camera is mirrored",
    "camera-turned": "no camera is turned or upside down",
    "camera-colours": "red and blue are not exchanged (BGR for RGB)",
    "camera-zoom": "every camera has the field of view of the training data",
    "camera-view": "every camera shows something like the training data",
}
"""What each rule expects, in one sentence. All of them can be accepted by name."""

OVERRIDE_PREFIX = "accept-mismatch-"
"""How the override of a rule is called in logs, answers and recordings, before the name of the rule."""


@dataclass(frozen=True)
class Mismatch:
    """One difference between the robot here and the one that the policy was trained on.

    Attributes:
        rule: Its name, a key of `RULES`.
        subject: The joint or camera, as the robot calls it; empty where it is about the whole robot.
        text: What was found, what was expected and what to do.
        refuses: Whether the robot must not be armed, or must stop; else it is a warning.
        accepted: Whether the user accepted this rule by name; it then never refuses.
    """

    rule: Rule
    subject: str
    text: str
    refuses: bool
    accepted: bool = False

    def __str__(self) -> str:
        if self.accepted:
            return f"{self.rule} (accepted by name): {self.text}"
        if self.refuses:
            return f"{self.rule}: {self.text}; to move it nevertheless, give --accept-mismatch {self.rule}"
        return f"{self.rule} (warning): {self.text}"


def checked_rules(names: Iterable[str]) -> tuple[Rule, ...]:
    """The rules that a user accepts, without repetitions, in the order of `RULES`.

    Raises:
        ConfigError: If there is no rule of such a name.
    """
    names = list(names)
    if unknown := [name for name in names if name not in RULES]:
        raise ConfigError(f"there is no mismatch rule {unknown[0]!r}; the rules are {', '.join(RULES)}")
    return tuple(rule for rule in RULES if rule in names)


def accept(found: Iterable[Mismatch], accepted: Iterable[Rule]) -> list[Mismatch]:
    """The same mismatches, of which those of accepted rules no longer refuse."""
    names = set(accepted)
    return [
        replace(mismatch, refuses=False, accepted=True) if mismatch.rule in names else mismatch for mismatch in found
    ]
