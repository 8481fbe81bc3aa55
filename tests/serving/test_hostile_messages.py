"""Hostile messages to every way in of the policy server at once: refusals, no executed code, and good clients answered.

The long run, with servers in processes of their own, is `python -m benchmarks.hostile_messages`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import torch
from hostile_pickles import hostile_pickles
from hostile_requests import hostile_commands, hostile_observations, right_observation
from lerobot_stand_in import LerobotStandIn
from policy_builders import write_checkpoint

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")

from hostile_frames import hostile_talks
from hostile_peers import Tally, attack_grpc, attack_lerobot, attack_openpi
from watched_server import asking

from pi0_edge.policy import Policy
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.protos.rpc.unreadable import MOST_FIELDS, has_too_many_fields
from pi0_edge.robots import load_robot
from pi0_edge.serving.lerobot_async import LerobotAsyncServer
from pi0_edge.serving.messages import MOST_VALUES
from pi0_edge.serving.openpi.server import OpenpiServer
from pi0_edge.serving.policy_server import PolicyServer

torch.set_num_threads(1)

POLICY_SERVICE = "pi0_edge.v1.PolicyService"


@dataclass
class Ways:
    policy: PolicyServer
    openpi: OpenpiServer
    lerobot: LerobotAsyncServer


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    policy = Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")
    with PolicyServer(policy, "127.0.0.1:0") as server, OpenpiServer(server.shared, "0") as openpi:
        lerobot = LerobotAsyncServer(server.shared, "0")
        lerobot.start()
        yield Ways(server, openpi, lerobot)
        lerobot.stop()


def good_answers(ways: Ways) -> None:
    with grpc.insecure_channel(ways.policy.address) as channel:
        chunk = policy_pb2_grpc.PolicyServiceStub(channel).Infer(right_observation(), timeout=30)
    assert len(chunk.actions) == chunk.horizon * chunk.action_dim


def test_all_ways_refuse_at_once_and_answer_a_good_client(ways: Ways, tmp_path: Path) -> None:
    stand_in = LerobotStandIn(tmp_path, [joint.name for joint in load_robot("aloha_sim").joints])
    right = {name: stand_in.vector(name) for name in ("config", "observation")}
    stand_in.close()
    canary = tmp_path / "canary"
    tallies = [Tally(), Tally(), Tally()]
    failed: list[BaseException] = []

    def attack(*work: object) -> None:
        try:
            work[0](*work[1:])  # pyright: ignore[reportCallIssue]
        except BaseException as error:
            failed.append(error)

    attacks = [
        (attack_grpc, ways.policy.address, POLICY_SERVICE, 300, 7, tallies[0]),
        (attack_openpi, ways.openpi.address, 250, 7, tallies[1]),
        (attack_lerobot, ways.lerobot.address, 300, 7, tallies[2], canary, right),
    ]
    children = psutil.Process().children()
    with asking(lambda: good_answers(ways), 0.3) as good:
        threads = [threading.Thread(target=attack, args=work) for work in attacks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert [tally.wrong for tally in tallies] == [[], [], []]
    assert [tally.sent for tally in tallies] == [300, 250, 300]
    assert all(tally.refused.total() > 0.7 * tally.sent for tally in tallies), tallies
    assert good.failed == [] and good.answers > 0
    assert not canary.exists()
    assert psutil.Process().children() == children


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x0a\x00" * (1 << 20), "too many fields"),
        (b"\x15\0\0\0\0" * (1 << 16), "too many fields"),
        (right_observation(state=[0.1] * (MOST_VALUES + 1)).SerializeToString(), "state holds 16385 values"),
        (
            right_observation(
                continuation=policy_pb2.Continuation(actions=[0.1] * (MOST_VALUES + 14))
            ).SerializeToString(),
            "continuation.actions holds 16398 values",
        ),
    ],
    ids=["images", "unpacked state", "state", "continuation"],
)
def test_what_is_small_to_send_and_large_to_hold_is_refused_unread(ways: Ways, data: bytes, words: str) -> None:
    with grpc.insecure_channel(ways.policy.address) as channel, pytest.raises(grpc.RpcError, match=words) as refused:
        channel.unary_unary(f"/{POLICY_SERVICE}/Infer")(data, timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # pyright: ignore[reportAttributeAccessIssue]


def test_fields_are_counted_to_the_limit() -> None:
    right = right_observation().SerializeToString()
    count = len(right_observation().ListFields())
    assert not has_too_many_fields(right)
    assert not has_too_many_fields(right + b"\x28\x07" * (MOST_FIELDS - count))
    assert has_too_many_fields(right + b"\x28\x07" * (MOST_FIELDS - count + 1))
    for cut in (b"", b"\x0a", b"\x0a\xff", b"\xff" * 30, right[:-1], b"\x0b" * 100):
        assert not has_too_many_fields(cut)


def test_the_same_seed_sends_the_same_messages() -> None:
    makers = [
        hostile_observations,
        hostile_commands,
        hostile_talks,
        lambda seed: hostile_pickles(seed, Path("canary"), [b"right"]),
    ]
    for make in makers:
        first, again, other = (list(itertools.islice(make(seed), 40)) for seed in (3, 3, 4))
        assert first == again != other
        assert len({str(message) for message in first}) > 25


def test_what_arrives_as_right_is_answered(ways: Ways) -> None:
    """Else the refusals above would mean nothing."""
    good_answers(ways)
    tally = Tally()
    tally.add("answered", "", True, "a message that had to be refused")
    tally.add("INTERNAL", "our fault", True, "x")
    tally.add("hang", "no end", False, "x")
    assert len(tally.wrong) == 3


def test_the_corpora_of_the_fuzzers_show_no_fault() -> None:
    import lerobot_target
    import policy_target
    from run import read_corpus

    for name, target in (("lerobot", lerobot_target), ("policy", policy_target)):
        for data in read_corpus(name):
            target.check(data)
    assert policy_pb2.Observation.FromString(read_corpus("policy")[0][1:]) is not None
