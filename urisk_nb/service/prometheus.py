"""What /metrics shows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest

from urisk_nb.llm.manager import LLMManager

__all__ = ["Figures"]


class Figures:
    """What /metrics shows; a registry of its own, so that two apps in a process do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        buckets = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
        self.calls = Counter(
            "urisk_calls", "Requests answered.", ["route", "status"], registry=registry
        )
        self.errors = Counter(
            "urisk_errors", "Errors told to callers.", ["kind"], registry=registry
        )
        self.seconds = Histogram(
            "urisk_call_seconds", "Whole requests.", ["route"], registry=registry, buckets=buckets
        )
        self.first_token = Histogram(
            "urisk_first_token_seconds",
            "From the last try to the first piece.",
            registry=registry,
            buckets=buckets,
        )
        self.in_flight = Gauge("urisk_in_flight", "Requests under way.", registry=registry)
        self.restart_count = Gauge(
            "urisk_server_restarts",
            "Times that the model server was started again.",
            registry=registry,
        )
        self.breaker = Enum(
            "urisk_breaker_state",
            "The model's breaker.",
            states=["closed", "half_open", "open"],
            registry=registry,
        )

    @contextlib.contextmanager
    def call(self, route: str) -> Iterator[list[int]]:
        """One request; the list is given its status."""
        # As nginx has it: the caller left before there was an answer
        began_s, seen = time.monotonic(), [499]
        self.in_flight.inc()
        try:
            yield seen
        except Exception:
            seen.append(500)
            raise
        finally:
            self.in_flight.dec()
            self.calls.labels(route, str(seen[-1])).inc()
            self.seconds.labels(route).observe(time.monotonic() - began_s)

    def shown(self, manager: LLMManager | None) -> bytes:
        """The figures as Prometheus reads them."""
        if manager is not None:
            self.restart_count.set(manager.restart_count)
            self.breaker.state(manager.breaker())
        return generate_latest(self.registry)
