"""The scheduler of the C++ client and that of the Python client, asked the same: the same answers, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from cpp_client import CHECKS, CheckClient, build_with

from firmware_bridge.replanning import ChunkScheduler
from firmware_bridge.splice import client_splice
from pi0_edge.errors import ConfigError

pytestmark = pytest.mark.slow  # the library is built first

JOINTS = 3
RUNS = 60
STEPS = 120


@pytest.fixture(scope="module")
def check(installed_cpp_client: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckClient:
    return CheckClient(build_with(installed_cpp_client, CHECKS, tmp_path_factory.mktemp("check")) / "check_client")


def hexadecimal(values: np.ndarray) -> str:
    return " ".join(float(value).hex() for value in np.float32(values).ravel())


class Both:
    """What is asked, as lines, and what the Python scheduler answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[list[str | float]] = []

    def say(self, line: str, *answer: str | float) -> None:
        self.asked.append(line)
        self.answers.append(list(answer))


def follow(both: Both, draw: random.Random) -> None:
    """A random life of one scheduler: chunks that come late, early, never, and plans that run out."""
    trained_delay = draw.choice([0, 3, 8])
    name: str = draw.choice(["hold-swap", "rtc", "trained-rtc"] if trained_delay else ["hold-swap", "rtc"])
    replan_ticks = draw.randint(1, 40)
    scheduler = ChunkScheduler(client_splice(name, trained_delay), replan_ticks)
    both.say(f"new {name} {trained_delay} {replan_ticks}", name)
    tick, asked_at = draw.randint(0, 2**31), -1
    for _ in range(STEPS):
        tick += draw.choice([0, 1, 1, 1, 2, 30])
        due = scheduler.due(tick)
        both.say(f"due {tick}", float(due), scheduler.delay)
        setpoint = scheduler.setpoint(tick)
        both.say(f"setpoint {tick}", *([] if setpoint is None else setpoint.tolist()))
        if due:
            asked_at = tick
            plan = scheduler.observe(tick)
            if plan is None:
                both.say(f"observe {tick}", "none")
            else:
                head = (plan.delay, plan.method, plan.schedule, plan.overlap, plan.max_weight)
                both.say(f"observe {tick}", *map(float, head), *plan.actions)
        elif asked_at >= 0 and draw.random() < 0.3:
            if draw.random() < 0.2:
                scheduler.lost()
                both.say("lost", "lost")
            else:
                rows = draw.randint(1, 50)
                values = [draw.uniform(-3, 3) for _ in range(rows * JOINTS)]
                actions = np.array(values, np.float32).reshape(rows, JOINTS)
                first = max(tick, asked_at) + draw.randint(1, 4)
                scheduler.entered(actions, first)
                both.say(
                    f"entered {first} {JOINTS} {hexadecimal(actions)}",
                    scheduler.plan.first_tick,
                    len(scheduler.plan.setpoints),
                )
            asked_at = -1


def numbers(line: str) -> list[str | float]:
    def read(word: str) -> str | float:
        try:
            return float.fromhex(word) if "x" in word else float(word)
        except ValueError:
            return word

    return [read(word) for word in line.split()]


def test_the_schedulers_agree(check: CheckClient):
    both, draw = Both(), random.Random(20)
    for _ in range(RUNS):
        follow(both, draw)
    said = check("scheduler", stdin="\n".join(both.asked))
    assert len(said) == len(both.asked)
    for line, answer, found in zip(both.asked, both.answers, said, strict=True):
        assert numbers(found) == answer, line[:80]
    continued = [answer for line, answer in zip(both.asked, both.answers, strict=True) if line.startswith("observe")]
    assert 100 < sum(answer != ["none"] for answer in continued) < len(continued)


@pytest.mark.parametrize("name", ["linear-blend", "trained-rtc", ""])
def test_a_splice_that_the_policy_does_not_allow_is_refused_as_in_python(check: CheckClient, name: str):
    (said,) = check("splice", name, "0")
    with pytest.raises(ConfigError) as refused:
        client_splice(name, 0)
    assert said == f"ConfigError: {refused.value}"
