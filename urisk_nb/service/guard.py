"""Before any route: who asks, how much, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
from collections.abc import Mapping

from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from urisk_nb.service.prometheus import Figures
from urisk_nb.service.schemas import refusal_of
from urisk_nb.service.streams import CallerGone
from urisk_nb.settings import LOOPBACK

__all__ = ["Guard", "is_loopback"]

BODY_S = 30.0  # a request whose body takes longer gives its place up
CALLS = frozenset({"/chat", "/risk"})  # the routes that take a body
ROUTES = CALLS | frozenset(
    {"/health", "/health/ollama", "/health/llm", "/metrics", "/openapi.json"}
)


class Guard:
    """Before any route: who asks, how much, and how many at once."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        max_body_bytes: int,
        max_calls: int,
        figures: Figures,
    ) -> None:
        self.app, self.token, self.max_body_bytes, self.max_calls, self.figures = (
            app,
            token,
            max_body_bytes,
            max_calls,
            figures,
        )
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.figures.call(scope["path"] if scope["path"] in ROUTES else "other") as seen:

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.append(message["status"])
                await send(message)

            with contextlib.suppress(CallerGone):
                await self._answered(scope, receive, noted)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        refused, is_call = (
            self._stranger(scope, headers),
            scope["method"] == "POST" and scope["path"] in CALLS,
        )
        if refused is None and is_call:
            refused = self._too_much(headers)
        if refused is not None:
            await refused(scope, receive, send)
        elif is_call:
            await self._posted(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _stranger(self, scope: Scope, headers: Mapping[str, bytes]) -> Response | None:
        if self.token is not None:
            kind, _, given = headers.get("authorization", b"").partition(b" ")
            if scope["path"] == "/health" or (
                kind.lower() == b"bearer"
                and hmac.compare_digest(given.strip(), self.token.encode())
            ):
                return None
            return refusal_of(
                401,
                "the token is missing or wrong.",
                "send it: Authorization: Bearer ...",
                WWW_Authenticate="Bearer",
            )
        server = scope.get("server")
        if server is not None and server[1] is not None and not is_loopback(server[0]):
            return refusal_of(
                403,
                "without a token this service answers on loopback only.",
                "set URISK_SERVICE_TOKEN",
            )
        name = headers.get("host", b"").decode("latin-1")
        if not is_loopback(_name_of(name)):
            return refusal_of(
                403,
                f"the Host {name[:100]!r} is not this machine's loopback.",
                "ask for it as 127.0.0.1, or set a token",
            )
        return None

    def _too_much(self, headers: Mapping[str, bytes]) -> Response | None:
        kind = headers.get("content-type", b"").split(b";")[0].strip().lower()
        # Also what keeps web pages out: a browser asks before it sends this kind across sites
        if kind != b"application/json":
            return refusal_of(
                415, f"the body is {kind.decode('latin-1')[:100]!r}.", "send it as application/json"
            )
        if self.calls >= self.max_calls:
            return refusal_of(
                503,
                f"{self.calls} requests are waiting already.",
                "ask again later",
                Retry_After="1",
            )
        length = headers.get("content-length", b"0")
        return (
            self._too_large()
            if length.isdigit() and int(length[:20]) > self.max_body_bytes
            else None
        )

    def _too_large(self) -> Response:
        seen = f"the body is larger than {self.max_body_bytes} bytes."
        return refusal_of(413, seen, "ask about fewer tickers at a time", Connection="close")

    async def _posted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        try:
            body = await self._body(receive)
            if isinstance(body, Response):
                await body(scope, receive, send)
            else:
                await self.app(scope, _again(body, receive), send)
        finally:
            self.calls -= 1

    async def _body(self, receive: Receive) -> bytes | Response:
        parts = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while len(parts) <= self.max_body_bytes:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise CallerGone
                    parts += message.get("body", b"")
                    if not message.get("more_body"):
                        return (
                            bytes(parts) if len(parts) <= self.max_body_bytes else self._too_large()
                        )
        except TimeoutError:
            return refusal_of(
                408,
                f"the body did not come within {BODY_S:g} s.",
                "send it faster",
                Connection="close",
            )
        return self._too_large()


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever else comes: the caller's leaving."""
    parts = [body]

    async def replay() -> Message:
        return (
            {"type": "http.request", "body": parts.pop(), "more_body": False}
            if parts
            else await receive()
        )

    return replay


def is_loopback(host: str) -> bool:
    """
    Whether a host is this machine's loopback, by number or as localhost; no name is looked up.
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in LOOPBACK


def _name_of(host: str) -> str:
    """The Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
