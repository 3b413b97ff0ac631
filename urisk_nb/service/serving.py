"""The service as a process of its own: `urisk serve`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from urisk_nb.arguments import refuse_unknown, require
from urisk_nb.errors import InputError
from urisk_nb.service.app import create_app, read_token
from urisk_nb.service.guard import is_loopback
from urisk_nb.service.live_session import LiveSession
from urisk_nb.settings import DialectName, Engine, given_settings

__all__ = ["serve"]

GRACE_S = 5.0  # how long calls in flight may go on at the end
MAX_PORT = 65_535


class _Server(uvicorn.Server):
    """
    A server that ends in order.

    Calls in flight have GRACE_S; then the session ends, which tells each of them why. A session
    that cannot start ends the server.
    """

    session: LiveSession

    async def on_tick(self, counter: int) -> bool:
        if self.session.failure and not self.session.has_started:
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_calls())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_calls(self) -> None:
        await asyncio.sleep(GRACE_S)
        await self.session.end()


@refuse_unknown()
def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    url: str | None = None,
    api_key: str | None = None,
    headers: str | Mapping[str, str] | None = None,
    ca_file: Path | str | None = None,
    ca_folder: Path | str | None = None,
    model: str | None = None,
    engine: Engine | str | None = None,
    dialect: DialectName | str | None = None,
    gguf: Path | str | None = None,
    num_ctx: int | None = None,
    parallel: int | None = None,
    keep_alive: str | None = None,
    timeout_s: float | None = None,
    load_timeout_s: float | None = None,
    outage_wait_s: float | None = None,
    max_retries: int | None = None,
    auto_start: bool | None = None,
    keep_warm_s: float | None = None,
    data: Path | str | None = None,
    allow_shared: bool | None = None,
    allow_cloud: bool | None = None,
) -> None:
    """
    Serve until SIGTERM or SIGINT.

    At the end the calls in flight end, the session, and a model server that was started for it.

    Parameters
    ----------
    host, port
        Where to listen; anything but loopback needs a token.
    token
        Asked of every caller; default: URISK_SERVICE_TOKEN.
    url, model, engine, dialect, gguf, num_ctx, parallel, keep_alive, timeout_s, load_timeout_s
        Settings, as `LLMManager.initialize` takes them; None leaves each to the environment.
    outage_wait_s, max_retries, auto_start, keep_warm_s, data, allow_shared, allow_cloud
        Further settings, likewise.
    api_key, headers, ca_file, ca_folder
        How a server behind a login, or with a certificate of your company, is reached.

    Raises
    ------
    InputError
        The address is taken, or is open to others and there is no token.
    SettingsError, ServerError, ModelError
        The session could not be started.
    """
    overrides = given_settings(locals())
    token = read_token(token)
    require(isinstance(host, str) and host.strip(), "host", host, 'give text: host="127.0.0.1"')
    is_port = isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= MAX_PORT
    require(is_port, "port", port, f"give a whole number up to {MAX_PORT}, such as 8001")
    if token is None and not is_loopback(host):
        raise InputError(
            f"others can reach {host}, and there is no token.",
            fix="set URISK_SERVICE_TOKEN, or --host 127.0.0.1",
        )
    app = create_app(token=token, **overrides)
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(2 * GRACE_S),
        )
    )
    server.session = app.state.session
    with _listen(host, port) as listener:
        print(f"urisk_nb serves at http://{_format_address(listener)}; Ctrl-C ends it.", flush=True)
        try:
            server.run(sockets=[listener])
        except (SystemExit, KeyboardInterrupt):
            if not server.started:  # else uvicorn has ended in order, and only repeats the signal
                raise
    if server.session.failure and not server.session.has_started:
        raise server.session.failure


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as exc:
        raise InputError(
            f"Cannot listen on {host}:{port} ({exc}).", fix="choose another port: --port 8001"
        ) from exc
    # Inherited by each connection; asyncio sets it only where a socket names its protocol, and each
    # answer would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _format_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
