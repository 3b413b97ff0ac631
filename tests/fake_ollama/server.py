"""Running the app: on the caller's loop, or in a thread of its own.

Knows: listeners, loops, the orderly end.
Does not know: the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

from fake_ollama.app import OllamaApp
from fake_ollama.backend import Backend, Hooks


class Server:
    """A fake Ollama that serves. Made by `serve` and `running`."""

    def __init__(self, app: OllamaApp, host: str, port: int) -> None:
        self._app = app
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return (
            f"http://[{self.host}]:{self.port}"
            if ":" in self.host
            else f"http://{self.host}:{self.port}"
        )

    @property
    def counters(self) -> dict[str, Any]:
        """
        What `GET /urisk/counters` shows, without asking over HTTP. May be read from any thread.
        """
        return self._app.snapshot()

    def lose(self, model: str) -> None:
        """Tell that a model's runner died while nobody used it. On the server's loop."""
        self._app.loaded_models.lose(model)


@contextlib.asynccontextmanager
async def serve(
    backend: Backend,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    queue: int = 512,
    hooks: Hooks | None = None,
) -> AsyncIterator[Server]:
    """A fake Ollama on this loop, for as long as the block runs.

    Parameters
    ----------
    backend
        What answers: a `ScriptedBackend`, a llama.cpp backend, or your own. It is closed at the
        end.
    host, port
        Where to listen; port 0 takes a free one, see `Server.url`.
    queue
        Requests that may wait for a load; more get 503.
    hooks
        For a process that is nothing but this server.

    Raises
    ------
    OSError
        The address is taken or not ours.

    Notes
    -----
    At the end of the block, and on a cancel, the listener and every connection are closed at once,
    without waiting for answers.

    Examples
    --------
    >>> import asyncio
    >>> from fake_ollama import ScriptedBackend, serve
    >>> async def where():
    ...     async with serve(ScriptedBackend()) as server:
    ...         return server.url.rpartition(":")[0]
    >>> asyncio.run(where())
    'http://127.0.0.1'
    """
    hooks = hooks or Hooks()
    app = OllamaApp(backend, loopback=_is_loopback(host), queue=queue, hooks=hooks)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio 3.11 logs a traceback for each of its own that is cancelled.
        task = asyncio.ensure_future(app.connection(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, host, port, backlog=1024)

    def cut() -> None:
        listener.close()
        for task in tasks:
            task.cancel()

    hooks.crash = hooks.crash or cut
    try:
        yield Server(app, host, listener.sockets[0].getsockname()[1])
    finally:
        cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.loaded_models.close()
        await backend.close()


def listen_error(exc: OSError, host: str, port: int) -> str:
    """Why there is no listener, in the one line that Ollama writes."""
    reason = (
        "address already in use"
        if exc.errno == errno.EADDRINUSE
        else (exc.strerror or str(exc)).lower()
    )
    return f"Error: listen tcp {f'[{host}]' if ':' in host else host}:{port}: bind: {reason}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def running(
    backend: Backend, *, host: str = "127.0.0.1", port: int = 0, queue: int = 512
) -> Iterator[Server]:
    """A fake Ollama in a thread of its own, for as long as the block runs. For code that
    has no loop.

    Parameters and errors are those of `serve`. Blocks until it listens, and at the end until its
    thread has ended.

    Examples
    --------
    >>> import urllib.request
    >>> from fake_ollama import ScriptedBackend, running
    >>> with running(ScriptedBackend()) as server:
    ...     print(urllib.request.urlopen(server.url).read().decode())
    Ollama is running
    """
    ready: Future[tuple[Server, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        async with serve(backend, host=host, port=port, queue=queue) as server:
            stop = asyncio.Event()
            ready.set_result((server, asyncio.get_running_loop(), stop))
            await stop.wait()

    def body() -> None:
        try:
            asyncio.run(main())
        except BaseException as exc:  # handed to the thread that waits
            if ready.done():
                raise
            ready.set_exception(exc)

    thread = threading.Thread(target=body, name="urisk-fake_ollama", daemon=True)
    thread.start()
    server, loop, stop = ready.result()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
