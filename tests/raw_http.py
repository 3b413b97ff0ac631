"""Raw requests over sockets of one's own, for what no well-behaved client would send."""

import asyncio
import contextlib
import json

LIMIT_S = 10


def chat_body(text="hi", **rest):
    return {"model": "llama3.1", "messages": [{"role": "user", "content": text}], **rest}


def head(body, path="/api/chat"):
    data = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )


OPENED = []


async def opened(server, data):
    """A connection that stays open until the test's end, unless the test closes it."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    OPENED.append(writer)
    writer.write(data)
    return reader, writer


async def whole_reply(reader):
    """Head and JSON body of one reply with a Content-Length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    length = next(int(line.split(": ")[1]) for line in lines if line.startswith("Content-Length"))
    return lines[0], json.loads(await reader.readexactly(length))


async def get(server, path):
    reader, writer = await opened(
        server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    data = await reader.read()
    writer.close()
    return json.loads(data.partition(b"\r\n\r\n")[2])


async def closing(coroutine):
    try:
        await asyncio.wait_for(coroutine, LIMIT_S)
    finally:
        for writer in OPENED:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        OPENED.clear()


def run(coroutine):
    asyncio.run(closing(coroutine))


def waiting_and_running(server):
    return server.counters["waiting"] + server.counters["in_flight"]


async def until_busy(server, count):
    await until(lambda: waiting_and_running(server) == count)


async def until(condition):
    """Let the loop turn until the condition holds; the test's time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0.001)
