"""Figures for Prometheus: what every server counts, and the HTTP port that offers it on loopback."""

import logging
from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from pi0_edge.errors import EndpointError

_HOST = "127.0.0.1"  # figures have no authentication; a scraper or its tunnel runs on this machine

logger = logging.getLogger(__name__)


class CallMetrics:
    """Counts the calls of one server, by method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter("pi0_edge_calls", "Calls that have ended.", ("method", "code"), registry=registry)
        self._seconds = Histogram(
            "pi0_edge_call_seconds", "How long calls other than streams took.", ("method",), registry=registry
        )

    def count(self, method: str, code: grpc.StatusCode) -> None:
        """One call has ended."""
        self._calls.labels(method, code.name).inc()

    def timed(self, method: str) -> AbstractContextManager[object]:
        """Measures a call other than a stream."""
        return self._seconds.labels(method).time()


class MetricsServer:
    """`/metrics` on loopback while the context lasts.

    Attributes:
        address: Where it listens, host:port.
    """

    def __init__(self, port: int, registry: CollectorRegistry) -> None:
        """Begins to listen.

        Args:
            port: On loopback; 0 takes a free one.
            registry: What is offered.

        Raises:
            EndpointError: The port is taken.
        """
        try:
            self._server, self._thread = start_http_server(port, _HOST, registry)
        except OSError as error:
            raise EndpointError(
                f"cannot offer metrics on {_HOST}:{port} ({error.strerror}); name another port"
            ) from error
        self.address = f"{_HOST}:{self._server.server_port}"
        logger.info("metrics on http://%s/metrics", self.address)

    def __enter__(self) -> "MetricsServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
