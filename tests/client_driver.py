"""What the tests of the client share: a client of a scripted server, or of raw bytes."""

import asyncio
import contextlib
import socket

from fake_ollama import Scenario, ScriptedBackend, serve
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.messages import ChatRequest
from urisk_nb.settings import Settings

LIMIT_S = 20
WORDS = "Ärger mit 株価 – drei Wörter mehr"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT_S))


@contextlib.asynccontextmanager
async def connected(url, transport=None, **flags):
    client = Client(Settings(url=url, **flags), transport)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def scripted(*rules, settings=None, **scenario):
    """A fake Ollama on this loop, and a client of it."""
    async with (
        serve(ScriptedBackend(Scenario(rules=rules, **scenario))) as server,
        connected(server.url, **(settings or {})) as client,
    ):
        yield server, client


@contextlib.asynccontextmanager
async def raw_server(reply, *, hold=False, reset=False):
    """
    A server that answers every connection with these bytes; `hold` keeps it open, `reset` cuts it
    off.
    """
    done = asyncio.Event()
    tasks = set()

    async def answer(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply)
            await writer.drain()
            if hold:
                await done.wait()
        if reset:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
            )
            writer.transport.abort()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        done.set()
        listener.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def body(text="hi", model="llama3.1", **rest):
    messages = [{"role": "user", "content": text}]
    fields = {"model": model, "keep_alive": "20m", "num_ctx": 4096}
    return ollama.encode_chat(ChatRequest(messages=messages, **fields, **rest))


async def said(client, text="hi", **rest):
    """Everything that a chat gives."""
    chunks = []
    final = await client.chat(body(text, **rest), chunks.append)
    assert chunks[-1] is final
    return chunks


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def reply(text, status="200 OK", kind="application/json"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(text)}"
    return f"{head}\r\n\r\n{text}".encode()
