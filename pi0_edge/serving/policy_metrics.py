"""Figures of a policy server for Prometheus: its release, the time of its chunks, the warmth of its computer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pi0_edge.board.readings import Board
from pi0_edge.bundle import Bundle
from pi0_edge.policy import Policy, PolicyChunk

STATEMENT = "release.json"
"""Beside the bundle of an installed release: the signed statement that makes it a release."""

_BUCKETS_S = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)

_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)

logger = logging.getLogger(__name__)


class PolicyMetrics:
    """What a policy server counts, besides its calls."""

    def __init__(
        self,
        policy: Policy,
        registry: CollectorRegistry,
        board: Board | None = None,
        budget_ms: float | None = None,
    ) -> None:
        """Begins counting.

        Args:
            policy: Whose figures they are.
            registry: Takes them.
            board: Whose temperatures they are; this computer's where None.
            budget_ms: Longest time that a chunk may take; None offers no figure of it.
        """
        self._unfit = Counter(
            "pi0_edge_unfit_states",
            "Observations whose state the policy was not trained on, by joint.",
            ("joint",),
            registry=registry,
        )
        self._seconds = Histogram(
            "pi0_edge_chunk_seconds",
            "How long chunks took, from the observation to actions in physical units.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._batch = Histogram(
            "pi0_edge_batch_size",
            "Requests that were answered together in one pass of the network.",
            buckets=_BATCHES,
            registry=registry,
        )
        self._waited = Histogram(
            "pi0_edge_queue_seconds",
            "How long requests waited for their turn.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._misses = Counter(
            "pi0_edge_deadline_misses", "Chunks that took longer than the budget.", registry=registry
        )
        labels = release_labels(policy)
        Info("pi0_edge_release", "The release that is served.", registry=registry).info(labels)
        if labels["sequence"]:  # a number besides the label: only numbers can be compared with those of yesterday
            Gauge("pi0_edge_release_sequence", "Its sequence.", registry=registry).set(int(labels["sequence"]))
        if budget_ms is not None:
            Gauge("pi0_edge_budget_seconds", "Longest time of a chunk.", registry=registry).set(budget_ms / 1e3)
        registry.register(_Temperatures(board or Board()))

    def on_unfit_state(self, joint: str) -> None:
        """A joint was where the policy never saw it."""
        self._unfit.labels(joint).inc()

    def on_chunk(self, chunk: PolicyChunk) -> None:
        """A chunk was made."""
        self._seconds.observe(chunk.total_ms / 1e3)

    def on_pass(self, waited_s: Sequence[float]) -> None:
        """A pass begins, with requests that waited so many seconds each."""
        self._batch.observe(len(waited_s))
        for seconds in waited_s:
            self._waited.observe(seconds)

    def on_miss(self) -> None:
        """It was late."""
        self._misses.inc()


def release_labels(policy: Policy) -> dict[str, str]:
    """Release, sequence, gate, scheme and robot; the first two are empty where it is no installed release."""
    statement = {} if policy.bundle is None else _statement(policy.bundle)
    return {
        "release": "" if policy.bundle is None or not statement else policy.bundle.folder.parent.name,
        "sequence": str(statement.get("sequence", "")),
        "gate": "" if policy.bundle is None else policy.bundle.gate,
        "scheme": policy.engine.scheme,
        "robot": str(statement.get("robot", policy.processor.robot.name)),
    }


def _statement(bundle: Bundle) -> dict[str, Any]:
    """What was signed about an installed bundle; the folder around it has the name of the release. Else nothing."""
    file = bundle.folder.parent / STATEMENT
    try:
        found = json.loads(file.read_bytes())
        if found["manifest_sha256"] != bundle.sha256:
            raise ValueError("it is about another bundle")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the figures tell no release: %s cannot be read: %s", file, error)
        return {}


class _Temperatures(Collector):
    """Reads the temperatures whenever somebody asks for figures."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The figure of each zone."""
        family = GaugeMetricFamily(
            "pi0_edge_temperature_celsius", "Temperatures of the computer, by thermal zone.", labels=("zone",)
        )
        for zone, degrees in self._board.temperatures().items():
            family.add_metric((zone,), degrees)
        yield family
