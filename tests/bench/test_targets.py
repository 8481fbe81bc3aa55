"""A sleep in one stage is found in that stage; engine, policy and server are each timed where their boundary says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from flashed_robot import small_bundle

from pi0_edge.bench.opening import TargetRequest, opened_targets
from pi0_edge.bench.served_clients import ServedProtocol
from pi0_edge.bench.targets import RANDOM, PolicyTarget, RandomTarget, ServedTarget, StageTimer
from pi0_edge.bundle import open_bundle
from pi0_edge.errors import BenchError, ConfigError
from pi0_edge.latency.stages import NETWORK, WHOLE_NETWORK, Boundary, Stage
from pi0_edge.policy import Policy

pytestmark = [pytest.mark.real_time, pytest.mark.system]

SLEEP_S = 0.1
WITHIN = 0.05
CHUNKS = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that other programs delay a chunk less."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("bench"))


class Sleeper:
    """Sleeps before a call, and knows how long it really slept."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.slept_ms: list[float] = []
        self._call = call

    def __call__(self, *args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        time.sleep(SLEEP_S)
        self.slept_ms.append(1e3 * (time.perf_counter() - begin))
        return self._call(*args, **options)


PLACES: dict[Stage, tuple[Callable[[Policy], Any], str]] = {
    Stage.PREPROCESS: (lambda policy: policy.processor, "to_model_inputs"),
    Stage.VISION: (lambda policy: policy.engine.model.vision, "forward"),  # pyright: ignore[reportAttributeAccessIssue]
    Stage.PREFIX: (lambda policy: policy.engine.model.prefix, "forward"),  # pyright: ignore[reportAttributeAccessIssue]
    Stage.STATE: (lambda policy: policy.engine.model, "attend_state"),  # pyright: ignore[reportAttributeAccessIssue]
    Stage.EULER: (lambda policy: policy.engine.model, "embed_actions"),  # pyright: ignore[reportAttributeAccessIssue]
    Stage.POSTPROCESS: (lambda policy: policy.processor, "to_physical"),
}


@pytest.mark.parametrize("stage", PLACES, ids=lambda stage: stage.value)
def test_a_sleep_in_one_stage_is_found_there_within_five_percent(
    stage: Stage, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    policy = Policy.from_bundle(open_bundle(bundle))
    target = PolicyTarget(policy, "slow", Boundary.POLICY)
    normal = [target.ask(number) for number in range(CHUNKS)]
    owner, name = PLACES[stage]
    sleeper = Sleeper(getattr(owner(policy), name))
    monkeypatch.setattr(owner(policy), name, sleeper)
    slow, slept_ms = [], []
    for number in range(CHUNKS):
        slow.append(target.ask(number))
        slept_ms.append(sum(sleeper.slept_ms))  # ten sleeps in the Euler loop
        sleeper.slept_ms.clear()
    for other in (one for one in Stage if one.value in slow[0]):
        before = min(one[other.value] for one in normal)  # the fastest, which nothing else has held up
        if other is stage:
            rest = min(one[other.value] - slept for one, slept in zip(slow, slept_ms, strict=True))
            assert 0.0 <= rest < before + WITHIN * min(slept_ms), (before, rest)
        else:
            least = min(one[other.value] for one in slow)
            assert least < before + 0.3 * min(slept_ms), other  # after a sleep the caches are cold


def test_every_euler_step_stands_alone_and_in_the_loop(bundle: Path):
    target = PolicyTarget(Policy.from_bundle(open_bundle(bundle)), "steps", Boundary.ENGINE)
    stages = target.ask(0)
    steps = [ms for name, ms in stages.items() if name.startswith("Euler step")]
    assert len(steps) == target.policy.euler_steps == 10
    assert sum(steps) == pytest.approx(stages[Stage.EULER.value])
    assert [name for name in stages if name in set(NETWORK)] == [stage.value for stage in NETWORK]
    assert Stage.PREPROCESS.value not in stages  # the engine alone


def test_an_engine_of_one_graph_tells_its_sum_and_what_the_device_took():
    class Graph:
        tells_stages = False
        device_ms = 3.5
        on_stage = staticmethod(lambda _: None)

    timer = StageTimer(Graph())  # pyright: ignore[reportArgumentType]
    timer.begin()
    assert timer.stages(4.0) == {WHOLE_NETWORK: 4.0, "network on the device": 3.5}


def test_what_was_timed_is_told(bundle: Path):
    with opened_targets(TargetRequest(bundle, threads=1)) as [(target, opened)]:
        assert opened is not None
        found = target.policy
        assert (found.bundle_sha256, found.gate, found.scheme, found.engine) == (
            opened.sha256,
            "passed",
            "int8-w8a8",
            "cpu",
        )
        assert (found.threads, found.euler_steps, found.overrides) == (1, 10, ())
        assert found.cameras >= 1 and found.tokens > 1 and found.horizon == opened.config.horizon
        assert target.load_s is not None and target.load_s > 0.0
        vectors = opened.self_test()
        assert vectors is not None
        chunk = target.chunk(vectors.observations[0], int(vectors.noise_seeds[0, 0]))
        assert np.abs(chunk - vectors.chunks[0, 0]).max() < 0.2


@pytest.mark.parametrize("protocol", get_args(ServedProtocol))
def test_a_server_is_started_asked_and_ended(bundle: Path, protocol: ServedProtocol):
    with opened_targets(TargetRequest(bundle, Boundary.SERVED, threads=1, protocol=protocol)) as [(target, opened)]:
        assert isinstance(target, ServedTarget)
        stages = target.ask(0)
        assert set(stages) == {Stage.PREPROCESS.value, WHOLE_NETWORK, Stage.POSTPROCESS.value, Stage.TRANSPORT.value}
        assert all(ms > 0.0 for ms in stages.values())
        assert (target.policy.engine, target.policy.scheme) == ("cpu", "int8-w8a8")
        assert opened is not None and target.policy.bundle_sha256 == opened.sha256
        assert target.policy.protocol == protocol
        vectors = opened.self_test()
        assert vectors is not None
        chunk = target.chunk(vectors.observations[0], int(vectors.noise_seeds[0, 0]))
        assert np.abs(chunk - vectors.chunks[0, 0]).max() < 0.2


def test_random_weights_say_that_their_accuracy_means_nothing():
    with opened_targets(TargetRequest(None, Boundary.ENGINE, random="pi0-cube", cameras=1, tokens=4)) as [
        (target, none)
    ]:
        assert isinstance(target, RandomTarget) and none is None
        assert (target.policy.gate, target.policy.bundle_sha256, target.policy.tokens) == (RANDOM, "", 4)
        assert sum(target.ask(0)[stage.value] for stage in NETWORK) > 0.0


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (TargetRequest(None), "give a bundle or random weights"),
        (TargetRequest(Path("b"), random="pi0"), "give a bundle or random weights"),
        (TargetRequest(None, Boundary.POLICY, random="pi0"), "only the engine can be timed"),
        (TargetRequest(Path("b"), scheme="orin"), "a bundle brings its own scheme"),
        (TargetRequest(Path("b"), server="127.0.0.1:1"), "asked at the boundary served"),
        (TargetRequest(Path("b"), protocol="openpi"), "openpi is one of the boundary served"),
        (TargetRequest(Path("b"), Boundary.PATH, protocol="openpi"), "openpi is one of the boundary served"),
        (TargetRequest(Path("b"), Boundary.SERVED, api_key=Path("k")), "asked for by openpi's protocol alone"),
    ],
)
def test_what_contradicts_itself_is_refused(request_: TargetRequest, reason: str):
    with pytest.raises(BenchError, match=reason), opened_targets(request_):
        pass


def test_a_network_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="there is no network 'pi9'"):
        RandomTarget("pi9", "cpu", None, 2, 20)
    with pytest.raises(ConfigError, match="2 cameras and 900 tokens"):
        RandomTarget("pi0-cube", "cpu", None, 2, 900)
