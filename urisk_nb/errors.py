"""Every error that urisk_nb raises on purpose, each with its way out.

UriskError
    InputError (ValueError)               what the user gave: tickers, prices, evidence, parameters
    SettingsError (ValueError)            an environment variable, a line of .env or a flag
    PackageMissing (ImportError)          an optional package is not installed
    NotInitialized (RuntimeError)         the manager was asked for before it was started
    WrongThread (RuntimeError)            a blocking call was made on the loop's own thread
    ForkedError (RuntimeError)            a forked child used what belongs to its parent
    FetchFailed (OSError)                 the demo model could not be fetched
    JournalUnusable (OSError)             the journal cannot be read or written
    RunNotFound (LookupError)             the journal has no such run
    RecordChanged (ValueError)            a record of a run is not as it was written, or is gone
    RulesChanged (ValueError)             a run cannot be repeated: the rules have changed since
    ServerError
        OllamaNotInstalled                nothing to start
        ServerNotRunning (ConnectionError)  nothing answers, and we may not or cannot start it
        ServerStartFailed                 it was started and ended, or never became ready
            ProgramBroken (OSError)       the program cannot be run at all
            HomeNotWritable (PermissionError)  it cannot write its keys and models
            ServerCrashLoop               it ended after each of several restarts
        ServerTooOld                      its version is not supported
        PortTaken                         something else answers at the address
        AccessDenied (PermissionError)    a login is required, or yours was rejected
        TlsFailed (ConnectionError)       no https: the certificate is refused, or there is no TLS
        ServerOwnedByOtherUser (PermissionError)  the server belongs to another person's account
        ServerNotManaged (PermissionError)  only a server started here may be stopped
        ServerConnectionLost (ConnectionError)  the connection broke before the first token
        ClusterLost (ConnectionError)     no connection to the scheduler, or no worker
        WorkerLost (ConnectionError)      workers of a cluster ended during one call
        WorkersDiffer                     a worker has no urisk_nb, or another version or Python
        StreamInterrupted (ConnectionError)  it broke later; carries the partial text
        ServerTimeout (TimeoutError)      silent for longer than the limit
        ServerHung (TimeoutError)         accepts connections but does not answer
        CircuitOpen (ConnectionError)     it failed repeatedly, so calls are paused
        ServerBusy                        its queue is full (503)
        NotSupportedByServer              this kind of server lacks the feature (pull, unload, ...)
        RunnerCrashed                     the process that holds the model ended
        OutOfMemory (MemoryError)         memory ran out
            ModelTooLarge                 the model cannot fit on this machine
        ServerInternalError               any other 5xx
        BadRequest (ValueError)           the server does not accept the request (4xx)
        ProtocolError                     the reply does not follow the protocol
    ModelError
        ModelNotFound (LookupError)       the server has no such model
        ModelNameInvalid (ValueError)     no model can have this name
        ModelUnsuitable                   the model cannot do what was asked
        ModelsDiffer                      several servers have different models under one name
        PullFailed                        the model could not be downloaded
            DiskFull (OSError)            there is no space for it
        CloudModelBlocked (PermissionError)  a cloud model: the text would leave this machine
        ContextExceeded (ValueError)      the prompt is longer than the context window
        AnswerIncomplete                  the stream ended without its last object
        AnswerInvalid (ValueError)        the answer does not fit a schema; carries its text

Imports only the rule for text that is safe to print, so that every layer may raise and catch.
"""

from __future__ import annotations

import contextlib
import copyreg
from collections.abc import Iterator
from typing import Any, Self

from urisk_nb.terminal_text import visible

__all__ = [
    "AccessDenied",
    "AnswerIncomplete",
    "AnswerInvalid",
    "BadRequest",
    "CircuitOpen",
    "CloudModelBlocked",
    "ClusterLost",
    "ContextExceeded",
    "DiskFull",
    "FetchFailed",
    "ForkedError",
    "HomeNotWritable",
    "InputError",
    "JournalUnusable",
    "ModelError",
    "ModelNameInvalid",
    "ModelNotFound",
    "ModelTooLarge",
    "ModelUnsuitable",
    "ModelsDiffer",
    "NotInitialized",
    "NotSupportedByServer",
    "OllamaNotInstalled",
    "OutOfMemory",
    "PackageMissing",
    "PortTaken",
    "ProgramBroken",
    "ProtocolError",
    "PullFailed",
    "RecordChanged",
    "RulesChanged",
    "RunNotFound",
    "RunnerCrashed",
    "ServerBusy",
    "ServerConnectionLost",
    "ServerCrashLoop",
    "ServerError",
    "ServerHung",
    "ServerInternalError",
    "ServerNotManaged",
    "ServerNotRunning",
    "ServerOwnedByOtherUser",
    "ServerStartFailed",
    "ServerTimeout",
    "ServerTooOld",
    "SettingsError",
    "StreamInterrupted",
    "TlsFailed",
    "UriskError",
    "WorkerLost",
    "WorkersDiffer",
    "WrongThread",
]


class UriskError(Exception):
    """
    The base of all: what was seen, one way out, and facts for the record.

    Parameters
    ----------
    message
        What was seen, with values.
    fix
        One action, to copy and paste.
    facts
        Further values for logs and the journal; never shown by themselves.
    """

    def __init__(self, message: str, *, fix: str, **facts: Any) -> None:
        message, fix = visible(message), visible(fix)
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.facts = facts

    def __str__(self) -> str:
        # Again, since whoever passes an error on may add words to it.
        return visible(f"{self.message}\n  Fix: {self.fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own __reduce__ calls the class with args alone and would lose the
        # keyword-only fix. # typeshed leaves it out
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]

    def _render_traceback_(self) -> list[str]:
        """The two lines that a notebook shows; the cell still fails, so that Run All stops."""
        return [visible(f"{type(self).__name__}: {self.message}"), visible(f"  Fix: {self.fix}")]


class InputError(UriskError, ValueError):
    """Tickers, prices, evidence or parameters cannot be used as given."""


class SettingsError(UriskError, ValueError):
    """An environment variable, a line of .env or a flag has a value that cannot be used."""


class PackageMissing(UriskError, ImportError):
    """An optional package is needed and not installed."""


class NotInitialized(UriskError, RuntimeError):
    """The manager was asked for before it was started."""


class WrongThread(UriskError, RuntimeError):
    """A blocking call was made on the loop's own thread, where it would wait for itself."""


class ForkedError(UriskError, RuntimeError):
    """A forked child used a connection that belongs to its parent."""


class FetchFailed(UriskError, OSError):
    """The demo model could not be fetched or did not have the pinned content."""


class JournalUnusable(UriskError, OSError):
    """The journal cannot be read or written; no run ends for that."""


class RunNotFound(UriskError, LookupError):
    """The journal has no run of this id, or several begin like it."""


class RecordChanged(UriskError, ValueError):
    """A record of a run is not as it was written, or is not there any more."""


class RulesChanged(UriskError, ValueError):
    """A run cannot be repeated: this version asks, chooses or counts by other rules."""


class ServerError(UriskError):
    """Something about the server; its subclasses say what."""


class OllamaNotInstalled(ServerError):
    """No server answers and there is no engine on this machine to start."""


class ServerNotRunning(ServerError, ConnectionError):
    """Nothing answers at the address, and it may not or cannot be started from here."""


class ServerStartFailed(ServerError):
    """
    The server was started and ended, or never became ready; the tail of its log is in the message.
    """


class ProgramBroken(ServerStartFailed, OSError):
    """The server's program cannot be run: it is no program of this machine, or may not be run."""


class HomeNotWritable(ServerStartFailed, PermissionError):
    """The server cannot write the folder where it keeps its keys and models."""


class ServerCrashLoop(ServerStartFailed):
    """The server was started again as often as is sensible, and ended every time."""


class ServerTooOld(ServerError):
    """The server's version lacks what is needed here."""


class PortTaken(ServerError):
    """The address answers, but not as Ollama does."""


class AccessDenied(ServerError, PermissionError):
    """The server, or a proxy before it, wants a login, or does not accept the one that was sent."""


class TlsFailed(ServerError, ConnectionError):
    """No connection over https: the certificate is not trusted, or one side speaks no TLS."""


class ServerOwnedByOtherUser(ServerError, PermissionError):
    """The server runs under another person's account: evidence would go to a stranger."""


class ServerNotManaged(ServerError, PermissionError):
    """
    Only a server that was started here is ended or started again; another program may be using this
    one.
    """


class ServerConnectionLost(ServerError, ConnectionError):
    """The connection broke before the first token; asking again is safe."""


class ClusterLost(ServerError, ConnectionError):
    """The scheduler of a cluster does not answer, or no worker can answer."""


class WorkerLost(ServerError, ConnectionError):
    """Workers of a cluster ended during this call, which may be the cause."""


class WorkersDiffer(ServerError):
    """Workers of a cluster have no urisk_nb, or another version of it or of Python."""


class StreamInterrupted(ServerError, ConnectionError):
    """
    The connection broke after the first token.

    Attributes
    ----------
    partial
        The text that had arrived.
    """

    def __init__(self, message: str, *, fix: str, partial: str = "", **facts: Any) -> None:
        super().__init__(message, fix=fix, **facts)
        self.partial = partial


class ServerTimeout(ServerError, TimeoutError):
    """The server was silent for longer than the limit."""


class ServerHung(ServerError, TimeoutError):
    """The server accepts connections but does not answer, not even what its version is."""


class CircuitOpen(ServerError, ConnectionError):
    """The server failed several times in a row and is not asked again until a pause is over."""


class NotSupportedByServer(ServerError):
    """A server of this kind has no such thing: it pulls no models, say, or unloads none."""


class ServerBusy(ServerError):
    """The server's queue is full (503); trying again later is safe."""


class RunnerCrashed(ServerError):
    """The process that holds the model ended while loading or answering."""


class OutOfMemory(ServerError, MemoryError):
    """The model does not fit into memory."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Return an instance; by MemoryError's own `__new__`, copies could not be made."""
        return Exception.__new__(cls, *args)


class ModelTooLarge(OutOfMemory):
    """The model needs more memory than this machine can give."""


class ServerInternalError(ServerError):
    """The server failed in a way that has no better name (5xx)."""


class BadRequest(ServerError, ValueError):
    """The server does not accept the request (4xx)."""


class ProtocolError(ServerError):
    """The reply is not what Ollama says."""


class ModelError(UriskError):
    """Something about the model; its subclasses say what."""


class ModelNotFound(ModelError, LookupError):
    """The server has no model of this name."""


class ModelNameInvalid(ModelError, ValueError):
    """No model can have this name."""


class ModelUnsuitable(ModelError):
    """The model cannot do what was asked of it (chat, thinking, embedding)."""


class ModelsDiffer(ModelError):
    """The servers of a session have different models: their answers would not be one table."""


class PullFailed(ModelError):
    """The model could not be downloaded; what had arrived is kept and resumed."""


class DiskFull(PullFailed, OSError):
    """There is no space for the model."""


class CloudModelBlocked(ModelError, PermissionError):
    """A cloud model was named: the text would leave this machine."""


class ContextExceeded(ModelError, ValueError):
    """The prompt is longer than the context window."""


class AnswerIncomplete(ModelError):
    """
    The stream ended without its last object, so the answer cannot be trusted to be whole.

    Attributes
    ----------
    partial
        The text that had arrived.
    """

    def __init__(self, message: str, *, fix: str, partial: str = "", **facts: Any) -> None:
        super().__init__(message, fix=fix, **facts)
        self.partial = partial


class AnswerInvalid(ModelError, ValueError):
    """
    The answer is not what a schema wants, also after the model was told why.

    Attributes
    ----------
    answer
        The text of the answer.
    """

    def __init__(self, message: str, *, fix: str, answer: str = "", **facts: Any) -> None:
        super().__init__(message, fix=fix, **facts)
        self.answer = answer


def ungroup(error: BaseException) -> BaseException:
    """
    Return the error to raise in place of this one, with no exception group in it or behind it.

    Of a group it is the first error. A group behind an error (`__context__`: what was being handled
    when it was raised) is skipped. IPython prints an error with a group behind it and sends no
    error message, so that nbmake, nbval and papermill take the cell for a good one.
    """
    first = error
    while isinstance(first, BaseExceptionGroup):
        inner = first.exceptions[0]
        # It was made for the group and never raised: the group's stack is its own
        if inner.__traceback__ is None:
            inner.__traceback__ = first.__traceback__
        first = inner
    seen: set[int] = set()  # a chain may be a circle
    one: BaseException | None = first
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        while isinstance(one.__context__, BaseExceptionGroup):
            one.__context__ = one.__context__.__context__
        one = one.__context__
    return first


@contextlib.contextmanager
def raise_ungrouped() -> Iterator[None]:
    """
    Raise what is raised inside as `ungroup` returns it; a context manager, and a decorator of
    blocking functions.
    """
    try:
        yield
    except BaseException as error:
        first = ungroup(error)
        if first is error:
            raise
        try:
            raise first from error
        finally:
            first.__context__ = None  # Python has just put the group there
