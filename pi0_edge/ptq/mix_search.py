"""Which layers can be quantized how far: a ranking by damage to the actions, and the cheapest mix that passes the gate.

The damage of a choice is the mean squared relative error of the actions with only that group of layers quantized.
Errors of different groups are nearly independent, so their squares add, and the choices form a knapsack: per group one
format, as little cost as possible, damage within bounds. It is filled greedily, by damage per cost saved.

Pure numbers: how damage, cost and the gate are measured is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from pi0_edge.errors import QuantizationError


@dataclass(frozen=True)
class Choice:
    """One group of layers in one format, everything else untouched.

    Attributes:
        group: Of layers that always share a format.
        level: Name of the format's source, such as a scheme.
        damage: Mean squared relative error of the actions.
        cost: What the group costs in this format, in any unit that adds up over groups.
    """

    group: str
    level: str
    damage: float
    cost: float


@dataclass(frozen=True)
class Step:
    """One group goes over to a cheaper level.

    Attributes:
        choice: The level it takes.
        price: Damage added per cost saved.
    """

    choice: Choice
    price: float


@dataclass(frozen=True)
class Mix:
    """A level for every group.

    Attributes:
        levels: By group.
        cost: Sum over the groups.
        damage: Predicted: the sum over the groups.
        attempts: What was tried: how many of the steps were taken, and whether that passed, in the order of trying.
        steps: How many steps there were.
    """

    levels: Mapping[str, str]
    cost: float
    damage: float
    attempts: tuple[tuple[int, bool], ...]
    steps: int

    @property
    def taken(self) -> int:
        """How many steps the mix has taken."""
        return max(count for count, passed in self.attempts if passed)


def ranked(choices: Iterable[Choice]) -> list[Choice]:
    """Worst damage first; equal ones by name."""
    return sorted(choices, key=lambda choice: (-choice.damage, choice.group, choice.level))


def steps_by_price(choices: Iterable[Choice], start: str) -> list[Step]:
    """Every step from the start levels to ever cheaper ones, cheapest damage per saved cost first.

    Per group only the lower convex hull of (cost, damage) is walked: a level that saves less and damages more than a
    mix of its neighbours is never worth its price. Prices then rise along the hull, so the order over all groups keeps
    the order within each (the greedy solution of the multiple-choice knapsack, Sinha and Zoltners 1979, Operations
    Research 27).

    Args:
        choices: Of all groups and levels, the start levels included.
        start: The level where every group begins.

    Raises:
        QuantizationError: If a group lacks the start level, or has a level twice.
    """
    steps = []
    ordered = sorted(choices, key=lambda choice: choice.group)
    for group, members in groupby(ordered, key=lambda choice: choice.group):
        hull = _hull(group, list(members), start)
        steps += [
            Step(cheaper, (cheaper.damage - dearer.damage) / (dearer.cost - cheaper.cost))
            for dearer, cheaper in pairwise(hull)
        ]
    return sorted(steps, key=lambda step: (step.price, -step.choice.cost, step.choice.group))


def cheapest_mix(choices: Sequence[Choice], start: str, passes: Callable[[Mapping[str, str]], bool]) -> Mix | None:
    """Takes as many steps as pass, by bisection: about log2(steps) calls of `passes`, and the result has passed.

    Args:
        choices: Of all groups and levels, the start levels included.
        start: The level where every group begins.
        passes: Measures a mix, levels by group. It is taken to be monotonous: what fails does not pass with more.

    Returns:
        None where not even the start passes.

    Raises:
        QuantizationError: As `steps_by_price`.
    """
    steps = steps_by_price(choices, start)
    known = {(choice.group, choice.level): choice for choice in choices}
    attempts: list[tuple[int, bool]] = []

    def levels(taken: int) -> dict[str, str]:
        found = {group: start for group, level in known if level == start}
        return found | {step.choice.group: step.choice.level for step in steps[:taken]}

    def attempt(taken: int) -> bool:
        attempts.append((taken, passes(levels(taken))))
        return attempts[-1][1]

    best, too_many = 0, len(steps)
    if attempt(len(steps)):
        best = len(steps)
    elif not steps or not attempt(0):
        return None
    while too_many - best > 1:
        middle = (best + too_many) // 2
        best, too_many = (middle, too_many) if attempt(middle) else (best, middle)
    chosen = [known[pair] for pair in levels(best).items()]
    cost, damage = sum(choice.cost for choice in chosen), sum(choice.damage for choice in chosen)
    return Mix(levels(best), cost, damage, tuple(attempts), len(steps))


def _hull(group: str, members: list[Choice], start: str) -> list[Choice]:
    """From the start level to the cheapest, prices rising."""
    names = [choice.level for choice in members]
    if names.count(start) != 1 or len(set(names)) != len(names):
        raise QuantizationError(
            f"{group} has the levels {', '.join(names)}; expected each once, and {start} among them"
        )
    origin = members[names.index(start)]
    cheaper = sorted((c for c in members if c.cost < origin.cost), key=lambda c: (-c.cost, c.damage, c.level))
    hull = [origin]
    for choice in cheaper:
        while len(hull) > 1 and _price(hull[-2], hull[-1]) >= _price(hull[-2], choice):
            hull.pop()
        if choice.cost < hull[-1].cost:
            hull.append(choice)
    return hull


def _price(dearer: Choice, cheaper: Choice) -> float:
    return (cheaper.damage - dearer.damage) / (dearer.cost - cheaper.cost)
