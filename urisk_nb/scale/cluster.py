"""
A session over a Dask cluster: the interface that a run needs of a manager, served by the workers.

Queued questions are sent in batches, in order, each batch to the server with the most room. A
server that fails is left out and its questions go to another one, as in `llm/pool.py` for the
servers of one process. Questions that a worker had not answered when it ended are sent again.

Over 400 lines: free slots and absent servers depend on each other, as in `llm/pool.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import os
import platform
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from urisk_nb import event_loop
from urisk_nb.errors import (
    ClusterLost,
    InputError,
    ModelsDiffer,
    ServerNotRunning,
    UriskError,
    WorkerLost,
)
from urisk_nb.llm.agreement import ModelAgreement
from urisk_nb.llm.limiter import WantedParallel
from urisk_nb.llm.pool import LEAVES, MAX_CRASHED, MOVES, share_out
from urisk_nb.llm.resilience import InRun, retry_rule_for
from urisk_nb.llm.run_calls import is_suspect
from urisk_nb.scale import steps
from urisk_nb.scale.checks import build_differences_error, check_client, find_differences
from urisk_nb.scale.cluster_server import LOOKAHEAD, ClusterServer, build_away_error
from urisk_nb.scale.jobs import Jobs
from urisk_nb.scale.worker import WorkerPlace, describe_worker
from urisk_nb.settings import Engine, load

if TYPE_CHECKING:
    from distributed import Client

    from urisk_nb.llm.answers import Answer
    from urisk_nb.llm.labels import Judge
    from urisk_nb.risk.questions import Question

__all__ = ["ClusterSession"]

AWAY = (*LEAVES, ClusterLost, WorkerLost)  # errors that leave a server out
MAX_LOST = 2  # workers that may end with one question before it is asked alone
REPLACED_S = 15.0  # how long a run waits for a replacement of a worker; a nanny starts one

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call:
    """A question that is queued or sent, and its failures so far."""

    question: Question | bytes
    model: str
    is_suspect: bool
    answer: asyncio.Future[Answer]
    failed: dict[ClusterServer, UriskError] = field(default_factory=dict)
    batch: _SentBatch | None = None

    @property
    def key(self) -> str | bytes:
        """Identifies the question, also when it is sent again."""
        return self.question if isinstance(self.question, bytes) else self.question.key


@dataclass(slots=True, eq=False)
class _SentBatch:
    """A batch that was sent to a server."""

    calls: Sequence[_Call]
    task: asyncio.Task[None] | None = None


class ClusterSession:
    """
    A `ModelSession` over the workers of a Dask cluster, for one run.

    Created by `ClusterSession.open`. Used on the event loop of urisk_nb.

    Attributes
    ----------
    settings
        The caller's: how long to wait for an outage, and what is forwarded to the workers.
    model, judge
        As the workers' servers agree on them.
    left_out
        Workers that joined later but cannot take part, each with the reason.
    """

    def __init__(self, client: Client, model: str | None = None) -> None:
        self.settings = load(**({} if model is None else {"model": model}))
        given = self.settings.model_fields_set
        self._overrides = {
            name: getattr(self.settings, name) for name in steps.FORWARDED if name in given
        }
        self.model = self.judge = self.settings.model
        self.left_out: dict[str, str] = {}
        self._jobs = Jobs(client, self._handle_lost_workers, self._handle_new_workers)
        self._servers: dict[str, ClusterServer] = {}
        self._agreement = ModelAgreement()
        self._models: tuple[str, ...] = ()  # in addition to the session's own
        self._judges: dict[str, Judge] = {}
        self._queue: deque[_Call] = deque()
        # How many workers ended with a question; kept if the run asks it again after an outage
        self._lost: Counter[str | bytes] = Counter()
        self._wanted = WantedParallel(self._share_calls)
        self._watches: dict[ClusterServer, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_dispatch_due = False
        self._is_back = asyncio.Event()  # a server is present, for the first time or again
        self._session_id = secrets.token_hex(8)  # identifies answers of a model without a digest

    # Start ----------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, client: Client, *, model: str | None = None) -> ClusterSession:
        """
        Open a session over the workers of a cluster, check them, and make the model ready.

        Parameters
        ----------
        client
            A blocking Dask client.
        model
            The model that answers; default: the caller's setting, else each worker's.

        Raises
        ------
        InputError, PackageMissing
            This client cannot be used.
        WorkersDiffer
            A worker has another version of Python or urisk_nb, or no urisk_nb.
        ModelsDiffer
            Servers have different models.
        ClusterLost
            There is no worker, or the scheduler does not answer.
        ServerError, ModelError
            No server can be used.
        """
        check_client(client)
        session = cls(client, model)
        try:
            await event_loop.call(session._open())
        except BaseException:
            await event_loop.call(session._close())
            raise
        return session

    async def close(self) -> None:
        """Close the session; the workers and their model servers keep running for the next run."""
        await event_loop.call(self._close())

    async def _open(self) -> None:
        await self._jobs.open()
        workers = self._jobs.workers
        if differences := find_differences(await self._jobs.list_versions()):
            raise build_differences_error(differences)
        for address, place in (await self._describe(workers)).items():
            if isinstance(place, OSError):  # it ended just now
                self.left_out[address] = _describe_connection_failure(place)
            elif isinstance(place, Exception):
                raise _prefix_message(place, f"the worker {address}")
            else:
                _check_place(place, address)
                self._add_worker(address, place)
        await self._jobs.install()
        await self._each(self._admit)
        lead = self._lead
        if lead.report is not None:
            self.model, self.judge = lead.report.model, lead.report.judge

    async def _close(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._jobs.close()

    async def _describe(self, workers: Collection[str]) -> dict[str, WorkerPlace | Exception]:
        found = await self._jobs.ask_workers(describe_worker, self._overrides, workers=workers)
        return dict(sorted(found.items()))

    def _add_worker(self, address: str, place: WorkerPlace) -> ClusterServer:
        server = self._servers.setdefault(place.server, ClusterServer(place.server))
        server.workers.append(address)
        return server

    async def _each(self, action: Callable[[ClusterServer], Awaitable[T]]) -> list[T]:
        """
        Run an action on each present server and return the results; leave out those that fail.

        If all fail because their workers ended, another worker of a host is used, or one that
        replaces them.

        Raises
        ------
        UriskError
            Every server failed, or one failed in a way that leaving it out would hide.
        """
        given, is_lost = await self._try_each(action)
        if not given and is_lost and await self._await_present():
            given, _ = await self._try_each(action)
        if not given:
            raise self._build_away_error()
        return given

    async def _try_each(
        self, action: Callable[[ClusterServer], Awaitable[T]]
    ) -> tuple[list[T], bool]:
        """Return the results of an action, and whether some are missing because a worker ended."""
        asked = [one for one in self._servers.values() if one.absence is None]
        asked = asked or [*self._servers.values()]
        found = await asyncio.gather(*map(action, asked), return_exceptions=True)
        given: list[T] = []
        for server, result in zip(asked, found, strict=True):
            if not isinstance(result, BaseException):
                given.append(result)
            elif isinstance(result, AWAY):
                self._leave_out(server, result)
            elif isinstance(result, ModelsDiffer):  # it names the servers
                raise result
            else:
                raise _prefix_message(result, server.label)
        is_lost = any(isinstance(result, WorkerLost) for result in found)
        return given, is_lost or not all(server.workers for server in asked) or not asked

    async def _await_present(self) -> bool:
        """Wait for a server until lost workers had time to be replaced; return if one is there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLACED_S):
                while not self._has_present:
                    self._is_back.clear()
                    await self._is_back.wait()
        return self._has_present

    def _build_away_error(self) -> UriskError:
        """Return why no server can be asked; name the workers if no server is known."""
        if self._servers:
            return build_away_error([*self._servers.values()])
        seen = "; ".join(f"the worker {one} {why}" for one, why in self.left_out.items())
        return ClusterLost(
            f"no worker of the cluster at {self._jobs.address} can be asked ({seen}).",
            fix="look at the logs of the workers, then run the cell once more",
        )

    async def _admit(self, server: ClusterServer) -> ClusterServer:
        """Make a server ready, for the first time or again; raise if it cannot be used."""
        report = await self._run(server, steps.connect, self._overrides, self._models)
        with _suggest_cluster_fix():
            self._agreement.check_names({server.label: report.model})
        if self._judges:
            await self._find_judges_of(server, tuple(self._judges))
        server.take_back(report)
        self._is_back.set()
        self._share_calls()
        return server

    async def _find_judges_of(
        self, server: ClusterServer, models: tuple[str, ...]
    ) -> tuple[ClusterServer, tuple[Judge, ...]]:
        judges = await self._run(server, steps.find_judges, self._overrides, models)
        with _suggest_cluster_fix():
            for judge in judges:
                self._agreement.check_digests(judge.model, {server.label: judge.digest})
                self._agreement.check_methods(judge.model, {server.label: judge.method})
        return server, judges

    async def _run(
        self, server: ClusterServer, step: Callable[..., Awaitable[T]], *args: object
    ) -> T:
        return await self._jobs.run(server.asker, step, *args)

    # Models ---------------------------------------------------------------------------------------

    async def ensure_model(self, *models: str) -> None:
        """Make further models ready on all servers, as `LLMManager.ensure_model` does."""
        self._models = tuple(dict.fromkeys((*self._models, *models)))
        await event_loop.call(self._each(self._admit))

    async def find_judges(self, *models: str) -> tuple[Judge, ...]:
        """Return how each model labels, which is the same on all servers."""
        return await event_loop.call(self._find_judges(models))

    async def _find_judges(self, models: tuple[str, ...]) -> tuple[Judge, ...]:
        found = dict(await self._each(lambda server: self._find_judges_of(server, models)))
        of_lead = found[next(one for one in self._servers.values() if one in found)]
        self._judges.update(
            {
                judge.model: replace(
                    judge,
                    digest=self._agreement.find_digest(judge.model),
                    session=self._session_id,
                )
                for judge in of_lead
            }
        )
        return tuple(self._judges[model] for model in models)

    # Calls ----------------------------------------------------------------------------------------

    async def ask(self, question: Question | bytes, model: str | None = None) -> Answer:
        """Return the answer to a question; cancelling stops it on its server, too."""
        return await event_loop.call(self._ask(question, model or self.model))

    async def _ask(self, question: Question | bytes, model: str) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        call = _Call(question, model, is_suspect(), answer)
        self._queue.append(call)
        self._schedule_dispatch()
        try:
            return await answer
        finally:
            if call in self._queue:
                self._queue.remove(call)
            self._cancel_abandoned_batch(call.batch)

    def _cancel_abandoned_batch(self, batch: _SentBatch | None) -> None:
        """Cancel a batch if no caller waits for its answers any more."""
        if batch is None or batch.task is None or batch.task.done():
            return
        if all(call.answer.cancelled() for call in batch.calls):
            batch.task.cancel()

    def _schedule_dispatch(self) -> None:
        """Dispatch the queue in the next loop iteration, so that batches are full."""
        if not self._is_dispatch_due:
            self._is_dispatch_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send batches while servers have room; fail all questions if no server is present."""
        self._is_dispatch_due = False
        while self._queue:
            if not any(server.is_present for server in self._servers.values()):
                self._watch_absent_servers()
                self._fail_all()
                return
            server = self._find_room(self._queue[0])
            if server is None:
                return
            batch = _SentBatch(self._take_calls(server))
            for call in batch.calls:
                call.batch = batch
            server.in_flight += len(batch.calls)
            batch.task = self._create_task(self._send(server, batch))

    def _fail_all(self) -> None:
        for call in self._queue:
            if not call.answer.done():
                call.answer.set_exception(build_away_error([*self._servers.values()]))
        self._queue.clear()

    def _find_room(self, call: _Call) -> ClusterServer | None:
        """Return the server with the most room, preferably one that has not failed this call."""
        present = [server for server in self._servers.values() if server.is_present]
        candidates = [server for server in present if server not in call.failed] or present
        best = max(candidates, key=lambda server: server.room)
        return best if best.room > 0 else None

    def _take_calls(self, server: ClusterServer) -> list[_Call]:
        """
        Take the next questions for a server off the queue.

        At most as many as it answers at once, and not more than its share of the queue. A question
        with which a worker ended is sent by itself.
        """
        with_room = sum(one.room > 0 for one in self._servers.values())
        limit = min(server.slots, server.room, -(-len(self._queue) // with_room))
        taken = [self._queue.popleft()]
        while self._queue and len(taken) < limit:
            first, following = taken[0], self._queue[0]
            is_same = (first.model, first.is_suspect) == (following.model, following.is_suspect)
            if not is_same or server in following.failed:
                break
            if self._lost[first.key] or self._lost[following.key]:
                break
            taken.append(self._queue.popleft())
        return taken

    async def _send(self, server: ClusterServer, sent: _SentBatch) -> None:
        """Send a batch to a server, and give each call its answer or error."""
        first = sent.calls[0]
        judge = self._judges.get(first.model)
        batch = steps.Batch(
            questions=tuple(steps.lighten(call.question) for call in sent.calls),
            model=first.model,
            overrides=self._overrides,
            parallel=server.share,
            is_suspect=first.is_suspect,
            setting=None if judge is None else judge.setting,
        )
        try:
            replies = await self._run(server, steps.answer, batch)
        except AWAY as exc:
            for call in sent.calls:
                self._note_lost(call, exc)
        except Exception as exc:  # noqa: BLE001  a bug in urisk_nb ends the run, not only this task
            for call in sent.calls:
                _end(call, exc)
        else:
            for call, answer in zip(sent.calls, replies.answers, strict=True):
                self._note_answer(server, call, answer)
            if judge is not None and judge.setting is not None and replies.setting is not None:
                judge.setting.take_over(replies.setting)
        finally:
            server.in_flight -= len(sent.calls)
            self._schedule_dispatch()

    def _note_answer(self, server: ClusterServer, call: _Call, answer: Answer | UriskError) -> None:
        if not isinstance(answer, UriskError):
            server.note_answer()
            if not call.answer.done():
                call.answer.set_result(answer)
            return
        if isinstance(answer, WorkerLost):
            self._note_lost(call, answer)
            return
        if isinstance(answer, LEAVES) and server.is_present:
            self._leave_out(server, answer)
        call.failed[server] = answer
        if self._may_move(call, answer):
            self._queue_again(call)
        elif self._has_present:
            _end(call, answer)
        else:
            _end(call, _add_reasons(answer, [*self._servers.values()]))

    def _note_lost(self, call: _Call, error: UriskError) -> None:
        """Queue a question again if its worker was lost; fail it after too many losses."""
        self._lost[call.key] += isinstance(error, WorkerLost)
        max_lost = 1 if call.is_suspect else MAX_LOST
        if isinstance(error, WorkerLost) and self._lost[call.key] < max_lost:
            self._queue_again(call)
        else:
            _end(call, error)

    def _queue_again(self, call: _Call) -> None:
        """Queue a question before those that were never sent, after others that were."""
        if call.answer.done():
            return
        call.batch = None
        retried = sum(1 for one in self._queue if one.failed or self._lost[one.key])
        self._queue.insert(retried, call)

    def _may_move(self, call: _Call, error: UriskError) -> bool:
        """Return whether a failed question goes to another server at once."""
        if not isinstance(error, MOVES):
            return False
        rules = [retry_rule_for(one).in_run for one in call.failed.values()]
        max_crashed = 1 if call.is_suspect else MAX_CRASHED
        others = any(one.is_present and one not in call.failed for one in self._servers.values())
        return rules.count(InRun.ALONE) < max_crashed and others

    # Servers that are away ------------------------------------------------------------------------

    @property
    def _has_present(self) -> bool:
        return any(server.is_present for server in self._servers.values())

    def _leave_out(
        self, server: ClusterServer, error: UriskError, *, is_soon: bool = False
    ) -> None:
        server.leave_out(copy.copy(error), is_soon=is_soon)
        self._share_calls()
        self._watch_absent_servers()

    def _watch_absent_servers(self) -> None:
        for server in self._servers.values():
            task = self._watches.get(server)
            if not server.is_present and (task is None or task.done()):
                self._watches[server] = self._create_task(self._await_return(server))

    async def _await_return(self, server: ClusterServer) -> None:
        """Check a server in growing pauses until it is back."""
        while not server.is_present:
            absence = server.absence
            if absence is not None:
                await asyncio.sleep(max(0.0, absence.until_s - time.monotonic()))
            await self._check_server(server)
        self._schedule_dispatch()

    async def _check_server(self, server: ClusterServer) -> None:
        """Use a server again if it can be used; otherwise keep the latest error. Never raises."""
        try:
            await self._admit(server)
        except UriskError as exc:
            server.leave_out(exc)
        except Exception as exc:  # noqa: BLE001  nobody awaits this: the error is shown instead
            seen = f"it could not be checked: {exc!r}."
            server.leave_out(ServerNotRunning(seen, fix="report this as a bug of urisk_nb"))

    async def is_up(self, model: str | None = None) -> bool:  # noqa: ARG002  it has all of them
        """Return whether a server can be used; if none can, check all of them now."""
        return await event_loop.call(self._is_up())

    async def _is_up(self) -> bool:
        if self._has_present or not self._jobs.is_connected:
            return self._has_present and self._jobs.is_connected
        checks = {self._create_task(self._check_server(one)) for one in self._servers.values()}
        while checks and not self._has_present:  # one may load its model for minutes
            _, checks = await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED)
        return self._has_present

    # Workers --------------------------------------------------------------------------------------

    def _handle_lost_workers(self, workers: Collection[str]) -> None:
        """Let another worker query each server whose worker has ended."""
        for server in self._servers.values():
            if not server.workers:
                continue
            was = server.asker
            server.workers[:] = [one for one in server.workers if one not in workers]
            if was in workers:
                error = ClusterLost(
                    f"the worker {was} has ended.", fix="start another one on its host"
                )
                self._leave_out(server, error, is_soon=bool(server.workers))

    def _handle_new_workers(self, workers: Collection[str]) -> None:
        self._create_task(self._add_late_workers(workers))

    async def _add_late_workers(self, workers: Collection[str]) -> None:
        """Add workers that joined later; those that cannot take part are named under the table."""
        try:
            differences = find_differences(await self._jobs.list_versions())
            self.left_out.update({one: differences[one] for one in workers if one in differences})
            equal = [one for one in workers if one not in differences]
            places = await self._describe(equal) if equal else {}
        except UriskError:
            return  # the cluster is away again
        for address, place in places.items():
            if isinstance(place, OSError):
                self.left_out[address] = _describe_connection_failure(place)
                continue
            if isinstance(place, Exception):
                self.left_out[address] = f"says: {getattr(place, 'message', place)}"
                continue
            server = self._add_worker(address, place)
            if server.workers == [address]:
                self._create_task(self._check_new_server(server))

    async def _check_new_server(self, server: ClusterServer) -> None:
        await self._check_server(server)
        if server.is_present:
            self._schedule_dispatch()
        else:
            self._watch_absent_servers()

    def _create_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine until the session ends, outside the context of any cell."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def list_left_out(self) -> tuple[str, ...]:
        """Return a sentence for each late worker and each server that took no part."""
        workers = [
            f"The worker {address} took no part: it {why.rstrip('.')}."
            for address, why in self.left_out.items()
        ]
        servers = [
            f"The server {one.label} took no part: {one.absence.error.message}"
            for one in self._servers.values()
            if one.report is None and one.absence is not None
        ]
        return (*workers, *servers)

    # Facts ----------------------------------------------------------------------------------------

    def allow_parallel(self, least: int | None) -> AbstractContextManager[None]:
        """Share a run's requested parallel calls among the servers; None: their own limits."""
        return self._wanted.hold(least)

    def _share_calls(self) -> None:
        servers = [one for one in self._servers.values() if one.report is not None]
        if not servers:
            return
        slots = [server.slots for server in servers]
        most = self._wanted.most
        shares = share_out(most, slots) if most else [None] * len(slots)
        for server, share in zip(servers, shares, strict=True):
            server.share = share

    @property
    def _lead(self) -> ClusterServer:
        servers = [*self._servers.values()]
        return next((one for one in servers if one.is_present), servers[0])

    @property
    def _reports(self) -> list[steps.ServerReport]:
        return [one.report for one in self._servers.values() if one.report is not None]

    @property
    def engine(self) -> Engine:
        """The engine of the first server."""
        report = self._lead.report
        return self.settings.engine if report is None else report.engine

    @property
    def version(self) -> str:
        """The version of the first server."""
        report = self._lead.report
        return "" if report is None else report.version

    @property
    def url(self) -> str:
        """The scheduler's address, with the number of servers."""
        count = len(self._servers)
        return f"{self._jobs.address} ({count} {'server' if count == 1 else 'servers'})"

    @property
    def num_ctx(self) -> int:
        """The smallest context window of the servers in tokens; 0: no server reports it."""
        return min(filter(None, (report.num_ctx for report in self._reports)), default=0)

    @property
    def slots(self) -> int:
        """How many calls all servers answer at once."""
        return sum(report.slots for report in self._reports) or 1

    @property
    def parallel(self) -> int:
        """How many calls a run makes at once: those in flight, and each server's next batch."""
        return max(LOOKAHEAD * self.slots, self._wanted.most)

    @property
    def is_managed(self) -> bool:
        """False: the workers manage their servers."""
        return False


def _end(call: _Call, error: BaseException) -> None:
    """Fail a call with its own copy of an error, since a run changes the message."""
    if not call.answer.done():
        call.answer.set_exception(copy.copy(error))


def _add_reasons(error: UriskError, servers: Sequence[ClusterServer]) -> UriskError:
    """Return a copy of an error whose message says why no server can be used."""
    error, away = copy.copy(error), build_away_error(servers)
    error.message, error.args, error.fix = away.message, (away.message,), away.fix
    return error


def _check_place(place: WorkerPlace, address: str) -> None:
    if (place.host, place.pid) == (platform.node(), os.getpid()):
        raise InputError(
            f"the worker {address} of this client runs in this process, so a cluster has no "
            "effect.",
            fix="leave the client out; or, outside of a Dask task, use processes: "
            "LocalCluster(processes=True)",
        )


def _describe_connection_failure(error: OSError) -> str:
    """Say of a worker that it could not be asked, behind "it"."""
    return f"could not be reached ({type(error).__name__})"


@contextlib.contextmanager
def _suggest_cluster_fix() -> Iterator[None]:
    """Give ModelsDiffer a fix that suits a cluster."""
    try:
        yield
    except ModelsDiffer as exc:
        exc.fix = "install the same model on each host of the cluster, then run the cell again"
        raise


def _prefix_message(error: BaseException, prefix: str) -> BaseException:
    """Put the name of a server or worker before the message of a UriskError."""
    if isinstance(error, UriskError):
        error.message = f"{prefix}: {error.message}"
        error.args = (error.message,)
    return error
