"""The metrics of /metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest

from urisk_nb.llm.manager import LLMManager

__all__ = ["ServiceMetrics"]


class ServiceMetrics:
    """The metrics of one app, in a registry of its own: a process may have two apps."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        buckets = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
        self.calls = Counter(
            "urisk_calls", "Requests answered.", ["route", "status"], registry=registry
        )
        self.errors = Counter("urisk_errors", "Errors in answers.", ["kind"], registry=registry)
        self.seconds = Histogram(
            "urisk_call_seconds", "Whole requests.", ["route"], registry=registry, buckets=buckets
        )
        self.first_token = Histogram(
            "urisk_first_token_seconds",
            "From the last attempt to the first piece.",
            registry=registry,
            buckets=buckets,
        )
        self.in_flight = Gauge("urisk_in_flight", "Requests in flight.", registry=registry)
        self.restart_count = Gauge(
            "urisk_server_restarts",
            "Restarts of the model server.",
            registry=registry,
        )
        self.breaker = Enum(
            "urisk_breaker_state",
            "The circuit breaker of the model.",
            states=["closed", "half_open", "open"],
            registry=registry,
        )

        self.server_up = self._make_server_gauge("up", "Whether the model server is asked.")
        self.server_calls = self._make_server_gauge("in_flight", "Calls at the model server.")
        self.server_places = self._make_server_gauge("places", "Calls that it may have at once.")

    def _make_server_gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"urisk_server_{name}", what, ["server"], registry=self.registry)

    @contextlib.contextmanager
    def call(self, route: str) -> Iterator[list[int]]:
        """Count and time one request; append its status to the list."""
        seen = [499]  # as in nginx: the client left before there was an answer
        try:
            with self.in_flight.track_inprogress(), self.seconds.labels(route).time():
                yield seen
        except Exception:
            seen.append(500)
            raise
        finally:
            self.calls.labels(route, str(seen[-1])).inc()

    def render(self, manager: LLMManager | None) -> bytes:
        """Return the metrics as Prometheus reads them."""
        if manager is not None:
            now = manager.snapshot()
            self.restart_count.set(now.restart_count)
            self.breaker.state(now.breaker)
            for endpoint in manager.pool.endpoints:
                is_up = endpoint in manager.pool.present
                self.server_up.labels(endpoint.url).set(is_up and endpoint.server.failure is None)
                self.server_calls.labels(endpoint.url).set(endpoint.limiter.in_flight)
                self.server_places.labels(endpoint.url).set(endpoint.limiter.limit)
        return generate_latest(self.registry)
