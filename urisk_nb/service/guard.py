"""The guard before any route: who asks, how much, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from urisk_nb.service.prometheus import ServiceMetrics
from urisk_nb.service.schemas import build_refusal

__all__ = ["Guard", "is_loopback"]

MAX_BODY_S = 30.0  # a request whose body takes longer is refused
POST_ROUTES = frozenset({"/chat", "/risk"})  # the routes that take a body
ROUTES = POST_ROUTES | frozenset(
    {"/health", "/health/ollama", "/health/llm", "/metrics", "/openapi.json"}
)


class Guard:
    """Middleware that checks who asks, how much, and how many at once."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        max_body_bytes: int,
        max_calls: int,
        metrics: ServiceMetrics,
    ) -> None:
        self.app, self.token, self.metrics = app, token, metrics
        self.max_body_bytes, self.max_calls = max_body_bytes, max_calls
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.metrics.call(scope["path"] if scope["path"] in ROUTES else "other") as seen:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.append(message["status"])
                await send(message)

            with contextlib.suppress(ClientDisconnect):
                await self._handle(scope, receive, send_and_note)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        is_call = scope["method"] == "POST" and scope["path"] in POST_ROUTES
        refusal = self._check_caller(scope, headers)
        if is_call and refusal is None:
            refusal = self._check_request(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif not is_call:
            await self.app(scope, receive, send)
        else:
            self.calls += 1
            try:
                body = await self._read_body(scope, receive)
                if isinstance(body, Response):
                    await body(scope, receive, send)
                else:
                    await self.app(scope, _replay(body, receive), send)
            finally:
                self.calls -= 1

    def _check_caller(self, scope: Scope, headers: Headers) -> Response | None:
        if self.token is not None:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if scope["path"] == "/health" or (
                kind.lower() == "bearer"
                and hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
            ):
                return None
            return build_refusal(
                401,
                "the token is missing or wrong.",
                "send it: Authorization: Bearer ...",
                {"WWW-Authenticate": "Bearer"},
            )
        server = scope.get("server")
        if server is not None and server[1] is not None and not is_loopback(server[0]):
            return build_refusal(
                403,
                "without a token this service answers on loopback only.",
                "set URISK_SERVICE_TOKEN",
            )
        name = headers.get("host", "")
        if not is_loopback(_host_name(name)):
            return build_refusal(
                403,
                f"the Host {name[:100]!r} is not this machine's loopback.",
                "ask for it as 127.0.0.1, or set a token",
            )
        return None

    def _check_request(self, headers: Headers) -> Response | None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        # Also what keeps web pages out: a browser asks before it sends this kind across sites
        if kind != "application/json":
            return build_refusal(415, f"the body is {kind[:100]!r}.", "send it as application/json")
        if self.calls >= self.max_calls:
            return build_refusal(
                503,
                f"{self.calls} requests are waiting already.",
                "ask again later",
                {"Retry-After": "1"},
            )
        length = headers.get("content-length", "0")
        is_larger = length.isdigit() and int(length[:20]) > self.max_body_bytes
        return self._refuse_size() if is_larger else None

    def _refuse_size(self) -> Response:
        seen = f"the body is larger than {self.max_body_bytes} bytes."
        return build_refusal(
            413, seen, "ask about fewer tickers at a time", {"Connection": "close"}
        )

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | Response:
        body = bytearray()
        try:
            async with asyncio.timeout(MAX_BODY_S):
                async for chunk in Request(scope, receive).stream():
                    body += chunk
                    if len(body) > self.max_body_bytes:
                        return self._refuse_size()
        except TimeoutError:
            return build_refusal(
                408,
                f"the body did not come within {MAX_BODY_S:g} s.",
                "send it faster",
                {"Connection": "close"},
            )
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receiver of the body that was read, and then of whatever else comes."""
    parts = [body]

    async def replay() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return replay


def is_loopback(host: str) -> bool:
    """Return whether a host is loopback, by number or as localhost; no name is looked up."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _host_name(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
