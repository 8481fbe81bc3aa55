"""The bridge's metrics for Prometheus: results of chunks, faults, e-stops, and the state of the link."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from firmware_bridge.errors import LinkError
from firmware_bridge.link.link import FirmwareLink
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, State, Telemetry


class BridgeMetrics:
    """Counts events when they occur; the state of the link is read at each request for metrics."""

    def __init__(self, link: FirmwareLink, registry: CollectorRegistry) -> None:
        """Begins at zero.

        Args:
            link: The microcontroller.
            registry: Takes the figures.
        """
        self._chunks = Counter("pi0_edge_chunks", "Chunks reported.", ("outcome",), registry=registry)
        self._retransmissions = Counter("pi0_edge_retransmissions", "Fragments sent again.", registry=registry)
        self._skipped = Counter("pi0_edge_skipped_actions", "Actions past due on entry.", registry=registry)
        self._faults = Counter("pi0_edge_faults", "Faults that the firmware latched.", ("fault",), registry=registry)
        self._estops = Counter("pi0_edge_estops", "Times the arm became ESTOP.", registry=registry)
        for outcome in ChunkReport.Outcome.keys():  # noqa: SIM118  # an enum of protobuf is no dictionary
            self._chunks.labels(outcome)
        for fault in Fault:
            self._faults.labels(fault.name)
        self._known_faults = 0
        self._known_state: int = State.DISARMED
        registry.register(_LinkCollector(link))

    def on_report(self, report: ChunkReport) -> None:
        """Counts the result of a chunk."""
        self._chunks.labels(ChunkReport.Outcome.Name(report.outcome)).inc()
        self._retransmissions.inc(report.retransmissions)
        self._skipped.inc(report.skipped)

    def on_telemetry(self, telemetry: Telemetry) -> None:
        """Counts new faults and stops. Called in the link's reader thread."""
        for fault in Fault:
            if telemetry.faults & ~self._known_faults & fault:
                self._faults.labels(fault.name).inc()
        if telemetry.state == State.ESTOP and self._known_state != State.ESTOP:
            self._estops.inc()
        self._known_faults, self._known_state = telemetry.faults, telemetry.state


class _LinkCollector(Collector):
    """The state of arm and link at the time of the request."""

    def __init__(self, link: FirmwareLink) -> None:
        self._link = link

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("pi0_edge_link_up", "Whether the firmware answers.", float(self._link.up))
        if (telemetry := self._link.telemetry) is not None:
            state = GaugeMetricFamily("pi0_edge_arm_state", "1 for the state of the arm.", labels=("state",))
            for one in State:
                state.add_metric((one.name,), float(one == telemetry.state))
            yield state
            yield GaugeMetricFamily("pi0_edge_ring_level", "Setpoints due after this tick.", telemetry.ring_level)
        if (counters := self._link.counters) is not None:
            for name, value in vars(counters).items():
                yield CounterMetricFamily(f"pi0_edge_firmware_{name}", f"{name} of the firmware since it began.", value)
        try:
            round_trip = self._link.clock.round_trip_s
        except LinkError:
            return
        yield GaugeMetricFamily("pi0_edge_round_trip_seconds", "Round trip to the firmware.", round_trip)
