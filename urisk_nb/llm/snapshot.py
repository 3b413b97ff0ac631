"""
The session at one moment, for display: status, dashboard, alerts, service, doctor.

Two speeds: what the manager knows by itself costs microseconds (`manager.snapshot()`); what the
server and the system are asked for (models in memory, processes) is a `ServerProbe`, takes
milliseconds, and is taken more seldom. Nothing here is HTML.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from urisk_nb.errors import NotSupportedByServer, UriskError
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import LoadedModel, is_demo, is_same_model
from urisk_nb.llm.resilience import BreakerState
from urisk_nb.risk.row_warnings import LABELED_BY
from urisk_nb.server import port
from urisk_nb.server.memory_usage import MemoryUsage, measure_memory
from urisk_nb.server.model_server import ServerState
from urisk_nb.settings import Engine

if TYPE_CHECKING:
    from urisk_nb.llm.calls import CallRecord
    from urisk_nb.llm.endpoint import Endpoint
    from urisk_nb.llm.manager import LLMManager

__all__ = [
    "NOT_STARTED",
    "STARTING",
    "EndpointSnapshot",
    "ServerProbe",
    "SessionSnapshot",
    "describe_server",
    "probe_server",
    "session_notes",
    "snapshot_without_session",
    "take_snapshot",
]

ENGINES = {
    Engine.OLLAMA: "Ollama",
    Engine.EMBEDDED: "Embedded engine (llama.cpp)",
    Engine.OPENAI: "OpenAI-compatible server",
}
NOTES = {
    **LABELED_BY,
    "demo_ask": "The demo model (135 million parameters) answers %%ask. It writes well and knows "
    "little.",
}
PROBE_S = 2.0
TROUBLES = {
    ServerState.CRASHED: "ended, and is being started again",
    ServerState.FAILED: "not running",
    ServerState.HUNG: "does not answer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProbe:
    """
    What the server and the system said when they were asked.

    Attributes
    ----------
    loaded_models
        The models in the server's memory; None where it did not answer, or where such a server
        does not say.
    problem, fix
        Why it did not answer, and what to do.
    memory
        What its processes hold, where this account may see them.
    owner
        The account that it runs under, where the system reports it.
    pid
        Its process; 0 where this account may not see it, None where it has just gone.
    """

    loaded_models: tuple[LoadedModel, ...] | None = None
    problem: str = ""
    fix: str = ""
    memory: MemoryUsage | None = None
    owner: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSnapshot:
    """
    One of several servers at one moment.

    Attributes
    ----------
    url, label
        Its address, and which server it is, with its version.
    in_flight, limit
        Calls that it works on for this process, and how many there may be.
    breaker
        Of the session's model.
    why_out
        Why it is not asked for now; empty where it is.
    """

    url: str
    label: str
    in_flight: int = 0
    limit: int = 1
    breaker: BreakerState = BreakerState.CLOSED
    why_out: str = ""

    @property
    def state(self) -> str:
        """What becomes of calls: `ready`, `circuit open`, or `left out`."""
        if self.why_out:
            return "left out"
        is_closed = self.breaker is BreakerState.CLOSED
        return "ready" if is_closed else f"circuit {self.breaker.replace('_', '-')}"

    def __str__(self) -> str:
        busy = f"{self.in_flight} of {self.limit} in flight"
        why = f": {self.why_out}" if self.why_out else f", {busy}"
        return f"{self.label or 'server'} at {self.url}, {self.state}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSnapshot:
    """
    The session at one moment; without a session, all but `at` and `now_s` are empty.

    Attributes
    ----------
    at, now_s
        The moment: UTC, and on the monotonic clock of the calls.
    state, server_label, is_managed, is_shared
        See ServerState; one line that names the server; whether a guardian of this user keeps it,
        and for several kernels.
    features
        What a server of this kind can do.
    model, num_ctx, parallel, slots
        Who answers, with how many tokens of context; calls in flight at most; the server's slots, 0
        where unknown.
    other_num_ctx
        The context that the session's model was last seen in memory with, where it was another than
        the session's, and when that was.
    records, live
        Calls that have ended, the oldest first; calls in flight.
    servers
        Each of several servers; empty where there is one.
    """

    at: datetime
    now_s: float
    state: ServerState = ServerState.STOPPED
    server_label: str = ""
    features: frozenset[Feature] = frozenset(Feature)
    is_managed: bool = False
    is_shared: bool = False
    other_num_ctx: tuple[int, float] | None = None
    model: str = ""
    num_ctx: int = 0
    parallel: int = 1
    slots: int = 0
    in_flight: int = 0
    waiting: int = 0
    restart_count: int = 0
    breaker: BreakerState = BreakerState.CLOSED
    failure: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()
    log: str = ""
    records: tuple[CallRecord, ...] = ()
    live: tuple[CallRecord, ...] = ()
    probe: ServerProbe = ServerProbe()
    servers: tuple[EndpointSnapshot, ...] = ()

    @property
    def is_loaded(self) -> bool | None:
        """
        Whether the session's model is in the server's memory; None where it did not report that.
        """
        if self.probe.loaded_models is None:
            return None
        return any(is_same_model(self.model, loaded.name) for loaded in self.probe.loaded_models)

    @property
    def longest_wait_s(self) -> float:
        """For how long the first of the calls that wait here has waited."""
        return max(
            (record.elapsed_s(self.now_s) for record in self.live if record.started_s is None),
            default=0.0,
        )


STARTING = "a session is being started"
NOT_STARTED = "no session: nothing was started in this kernel, or it was stopped"


def snapshot_without_session(*, is_starting: bool = False) -> SessionSnapshot:
    """Return what there is to show where no session runs: whether one is being started."""
    state = ServerState.STARTING if is_starting else ServerState.STOPPED
    return SessionSnapshot(at=datetime.now(UTC), now_s=time.monotonic(), state=state)


def take_snapshot(manager: LLMManager, probe: ServerProbe | None = None) -> SessionSnapshot:
    """Return what the manager knows now, with a probe of the server that was taken before."""
    server, limiter = manager.server, manager.limiter
    return SessionSnapshot(
        at=datetime.now(UTC),
        now_s=time.monotonic(),
        state=server.state,
        server_label=describe_server(manager),
        features=manager.dialect.features,
        is_managed=manager.is_managed,
        is_shared=server.lease is not None and server.lease.lease_count > 1,
        model=manager.model,
        num_ctx=manager.num_ctx,
        parallel=manager.parallel,
        slots=_count_slots(manager),
        in_flight=limiter.in_flight,
        waiting=limiter.waiting,
        restart_count=server.restart_count,
        breaker=manager.breaker(),
        failure=None if server.failure is None else (server.failure.message, server.failure.fix),
        notes=tuple(manager.notes),
        log="" if server.lease is None else str(server.lease.facts["log"]),
        records=manager.calls.records,
        live=manager.calls.live,
        probe=probe or ServerProbe(),
        servers=_list_servers(manager),
    )


def _count_slots(manager: LLMManager) -> int:
    """Return the slots of all servers; 0 where one does not tell."""
    slots = [endpoint.server.known_slots for endpoint in manager.pool.endpoints]
    return sum(slots) if all(slots) else 0


def _list_servers(manager: LLMManager) -> tuple[EndpointSnapshot, ...]:
    pool, now_s = manager.pool, time.monotonic()
    if pool.is_single:
        return ()
    return tuple(_take_one(manager, endpoint, now_s) for endpoint in pool.endpoints)


def _take_one(manager: LLMManager, endpoint: Endpoint, now_s: float) -> EndpointSnapshot:
    absence = manager.pool.absences.get(endpoint)
    return EndpointSnapshot(
        url=endpoint.url,
        label=_name_kind(endpoint) if endpoint.server.version or absence is None else "",
        in_flight=endpoint.limiter.in_flight,
        limit=endpoint.limiter.limit,
        breaker=endpoint.retrying.breakers[manager.model].state(now_s),
        why_out="" if absence is None else absence.describe(endpoint.url),
    )


async def probe_server(manager: LLMManager, before: ServerProbe | None = None) -> ServerProbe:
    """
    Ask the server for its models and the system for its processes; never raises. On the manager's
    loop.
    """
    try:
        # Shorter than the limit of a call: a server that is well says this at once.
        async with asyncio.timeout(PROBE_S):
            loaded_models: tuple[LoadedModel, ...] | None = None
            try:
                loaded_models = tuple(await manager.loaded_models())
            except NotSupportedByServer:
                await manager.models()  # such a server shows no more than that it answers
        problem = fix = ""
    except UriskError as exc:
        loaded_models, problem, fix = None, exc.message, exc.fix
    except TimeoutError:
        loaded_models, problem = (
            None,
            f"{manager.lead.url} takes connections and did not answer within {PROBE_S:g} s.",
        )
        fix = "Wait, or restart it."
    settings = manager.lead.settings
    pid = _pid(manager, before) if settings.is_loopback else 0
    memory = measure_memory(pid) if pid else None
    owner = ""
    if before is not None and pid == before.pid:
        owner = before.owner
    elif settings.is_loopback:
        owner = _account(port.owner_uid(settings.port))
    # A process that is gone is looked for anew the next time; one that may not be seen is not,
    # since looking takes a while.
    return ServerProbe(
        loaded_models=loaded_models,
        problem=problem,
        fix=fix,
        memory=memory,
        owner=owner,
        pid=pid if memory or not pid else None,
    )


def _pid(manager: LLMManager, before: ServerProbe | None) -> int:
    """Return the server's process; 0 where this account may not see it."""
    if manager.pid is not None:
        return manager.pid
    if before is not None and before.pid is not None and not before.problem:
        return before.pid
    return port.listener(manager.lead.settings.port) or 0


def _account(uid: int | None) -> str:
    if uid is None:
        return ""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def describe_server(manager: LLMManager) -> str:
    """Return one line: which server, its version, its address, and who started it."""
    whose, lease = TROUBLES.get(manager.state, "already running"), manager.server.lease
    if manager.state is ServerState.MANAGED and lease is not None:
        is_shared = lease.facts["leases"] > 1
        kept = (
            "shared with another kernel of yours" if is_shared else "kept warm from the last kernel"
        )
        whose = "started here" if lease.is_starter else kept
    count, away = len(manager.pool.endpoints), len(manager.pool.absences)
    others = "" if count == 1 else f" and {count - 1} other server{'s' * (count > 2)}"
    others += f" ({away} left out)" if away else ""
    return f"{_name_kind(manager.lead)} at {manager.lead.url}{others}, {whose}"


def _name_kind(endpoint: Endpoint) -> str:
    engine, version = endpoint.server.engine, endpoint.server.version
    is_llama_cpp = engine is Engine.OPENAI and endpoint.client.dialect.name == "llama.cpp"
    what = "llama.cpp" if is_llama_cpp else ENGINES[engine]
    return f"{what} {version}" if version else what


def session_notes(manager: LLMManager) -> list[str]:
    """Return what the user must know about who answers: sentences."""
    judged, is_demo_model = manager.judge != manager.model, is_demo(manager.model)
    holds = {
        "demo_model": is_demo_model and not judged,
        "demo_ask": is_demo_model and judged,
        "small_judge": judged,
    }
    known = [NOTES[code] for code, it_does in holds.items() if it_does]
    return [*known, *(f"{text[0].upper()}{text[1:]}." for text in manager.server_notes)]
