"""
Other clients that send the requests of urisk_nb: raw httpx, ollama-python and langchain-ollama.

Each function returns the seconds that a client takes for requests that urisk_nb has sent; a request
is its body, as bytes. Imports and connections are not timed. `try_clients` leaves out clients that
are not installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

Request = tuple[bytes, dict[str, Any]]  # a body, and what it says
Send = Callable[[Request], Awaitable[None]]
HTTPX, OLLAMA, LANGCHAIN = "raw httpx", "ollama-python", "langchain-ollama"
_TAKEN = ("model", "messages", "format", "options", "keep_alive", "think")
PACKAGES = {OLLAMA: "ollama", LANGCHAIN: "langchain_ollama"}


def try_clients(url: str, body: bytes) -> tuple[list[str], list[str]]:
    """
    Ask with each client once; return those that work, and what is said of the others.

    One that is not installed, or whose version cannot ask this, does not end the measurement.
    """
    working, notes = [], []
    for name, package in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            notes.append(f"{name} is not installed")
            continue
        try:
            time_client(name, url, [body], 1, 1)
        except Exception as exc:  # noqa: BLE001 - whatever the other client raises
            traceback.print_exc()
            notes.append(f"{name} cannot be asked ({type(exc).__name__})")
        else:
            working.append(name)
    return [HTTPX, *working], notes


@asynccontextmanager
async def _open_httpx(url: str) -> AsyncIterator[Send]:
    async with httpx.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:

        async def send(request: Request) -> None:
            async with client.stream("POST", "/api/chat", content=request[0]) as reply:
                async for _ in reply.aiter_raw():
                    pass

        yield send


@asynccontextmanager
async def _open_ollama(url: str) -> AsyncIterator[Send]:
    from ollama import AsyncClient

    client = AsyncClient(host=url, trust_env=False)

    async def send(request: Request) -> None:
        # It knows no `truncate`, which urisk_nb sends; to the server the answer is the same
        given = {name: value for name, value in request[1].items() if name in _TAKEN}
        async for _ in await client.chat(**{**given, "stream": True}):
            pass

    yield send


@asynccontextmanager
async def _open_langchain(url: str) -> AsyncIterator[Send]:
    from langchain_ollama import ChatOllama

    made: dict[str, Any] = {}

    async def send(request: Request) -> None:
        asked = request[1]
        if asked["model"] not in made:
            made[asked["model"]] = ChatOllama(model=asked["model"], base_url=url)
        given = {name: asked[name] for name in ("format", "options", "keep_alive") if name in asked}
        pairs = [(one["role"], one["content"]) for one in asked["messages"]]
        async for _ in made[asked["model"]].astream(pairs, **given):
            pass

    yield send


_OPEN = {HTTPX: _open_httpx, OLLAMA: _open_ollama, LANGCHAIN: _open_langchain}


def time_client(name: str, url: str, bodies: Sequence[bytes], calls: int, workers: int) -> float:
    """Return the seconds that so many workers of a client take for so many calls."""

    async def main() -> float:
        requests = [(body, json.loads(body)) for body in bodies]
        async with _OPEN[name](url) as send:
            await send(requests[0])
            work = itertools.islice(itertools.cycle(requests), calls)

            async def worker() -> None:
                for request in work:
                    await send(request)

            began_s = time.perf_counter()
            await asyncio.gather(*(worker() for _ in range(workers)))
            return time.perf_counter() - began_s

    return asyncio.run(main())
