"""
Replies that were damaged on the way, or come from a server with other ideas: never a hang, never an
exception that is not ours, never a label that the bytes do not say.

The replies are our own, in the form of real ones. What is damaged is drawn with fixed seeds.
"""

import asyncio
import itertools
import json
import random

import pytest

from urisk_nb.errors import UriskError
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama, openai, systemone
from urisk_nb.llm.messages import Chunk, Final
from urisk_nb.risk.questions import Label, parse
from urisk_nb.settings import DialectName, Settings

PIECES = ["{", '"', "risk", '":"', "legal", '",', '"severity', '":', "3", "}"]
ANSWER = Label(risk="legal", severity=3)
COUNTERS = {
    "total_duration": 81234567,
    "load_duration": 1234567,
    "prompt_eval_count": 942,
    "prompt_eval_duration": 30000000,
    "eval_count": 10,
    "eval_duration": 41000000,
}


def native(pieces=PIECES, **more):
    """A stream of JSON lines."""
    stamp = {"model": "smol", "created_at": "2026-11-24T11:51:22.276109511Z"}
    lines = [
        {**stamp, "message": {"role": "assistant", "content": one}, "done": False, **more}
        for one in pieces
    ]
    end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    return b"".join(
        json.dumps(one).encode() + b"\n" for one in [*lines, {**stamp, **end, **COUNTERS}]
    )


def events(pieces=PIECES):
    """A stream of server-sent events."""
    choices = [{"index": 0, "delta": {"content": one}, "finish_reason": None} for one in pieces]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    usage = {"choices": [], "usage": {"prompt_tokens": 942, "completion_tokens": 10}}
    said = [{"object": "chat.completion.chunk", "choices": [one]} for one in choices]
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in [*said, usage]) + (
        b"data: [DONE]\n\n"
    )


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Tue, 24 Nov 2026 11:51:22 GMT\r\nConnection: close\r\n"
)


def frame(body, chance):
    """The whole reply, with a length, in chunks, or ended by the end of the connection."""
    kind = chance.randrange(3)
    if kind == 0:
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == 1:
        return HEAD + b"\r\n" + body
    parts = split(body, chance)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def split(data, chance):
    """The same bytes in pieces, cut anywhere."""
    edges = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(6))})
    return [data[a:b] for a, b in itertools.pairwise(edges) if b > a]


def flip(data, chance):
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def cut(data, chance):
    return data[: chance.randrange(len(data))]


def double(data, chance):
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def lose(data, chance):
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:] if b - a < 200 else data[: a + 20] + data[a + 40 :]


def double_lines(data, chance):
    lines = data.splitlines(keepends=True)
    a, b = sorted(chance.randrange(len(lines) + 1) for _ in range(2))
    return b"".join(lines[:b] + lines[a:b] + lines[b:])


MUTATIONS = [flip, flip, cut, double, lose, double_lines]


def mutate(data, chance):
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        data = chance.choice(MUTATIONS)(data, chance) or data
    return data


def read_lines(body):
    """What the bytes say up to their first end: text and reason, read without our code."""
    text = ""
    for line in filter(None, body.split(b"\n")):
        one = json.loads(line)
        text += (one.get("message") or {}).get("content") or ""
        if one.get("done") is True:
            return text, one.get("done_reason")
    raise ValueError("no end")


def read_events(body):
    text, reason = "", None
    for block in body.replace(b"\r", b"\n").decode("utf-8", "replace").split("\n\n"):
        data = [line[5:].strip() for line in block.split("\n") if line.startswith("data:")]
        if data == ["[DONE]"]:
            break
        if not data:
            continue
        for choice in json.loads("\n".join(data)).get("choices") or ():
            text += (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or reason
    return text, reason


def label_of(read, body):
    """The label that the bytes say, or None."""
    try:
        text, reason = read(body)
        found = json.loads(text)
        label = Label(risk=found["risk"], severity=found["severity"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return label if reason == "stop" else None


async def ask_each(replies, dialect):
    """What the real client makes of each reply of a server on a socket: a label, or None."""
    waiting = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for piece in waiting.pop():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = Settings(
        url=f"http://127.0.0.1:{port}", dialect=dialect, timeout_s=2, load_timeout_s=2
    )
    labels = []
    async with server:
        for reply in replies:
            waiting[:] = [reply]
            client, texts = Client(settings), []
            try:
                async with asyncio.timeout(5):
                    final = await client.chat(
                        b"{}", lambda one, texts=texts: texts.append(one.text)
                    )
                labels.append(parse("".join(texts), final.done_reason)[0])
            except UriskError as exc:
                labels.append(None if exc.message and exc.fix else "an error without words")
            finally:
                await client.aclose()
    return labels


KINDS = {
    "native": (native(), read_lines, DialectName.OLLAMA),
    "thoughts": (native([*PIECES], thinking="hm"), read_lines, DialectName.OLLAMA),
    "events": (events(), read_events, DialectName.OPENAI),
}


def check(kind, count, seed):
    body, read, dialect = KINDS[kind]
    chance = random.Random(f"{kind} {seed}")
    bodies = [mutate(body, chance) for _ in range(count)]
    labels = asyncio.run(ask_each([split(frame(one, chance), chance) for one in bodies], dialect))
    for damaged, label in zip(bodies, labels, strict=True):
        assert label in (None, label_of(read, damaged)), damaged
    return labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_is_whole_is_a_label(kind):
    """However its bytes are cut and framed."""
    body, read, dialect = KINDS[kind]
    chance = random.Random(kind)
    replies = [split(frame(body, chance), chance) for _ in range(6)]
    assert asyncio.run(ask_each(replies, dialect)) == [ANSWER] * 6
    assert label_of(read, body) == ANSWER


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_replies(kind):
    check(kind, 15, "few")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_damaged_replies(kind):
    """Flipped, cut, doubled, lost bytes and lines, in any pieces: 900, and 100 damaged heads."""
    labels = check(kind, 300, "many")
    assert 10 < labels.count(ANSWER) < 290  # the damage is neither nothing nor all


@pytest.mark.slow
def test_a_hundred_damaged_heads():
    """Status, headers and framing: the label of a whole body, or an error of ours."""
    chance = random.Random("heads")
    replies = []
    for _ in range(100):
        head, _, body = frame(native(), chance).partition(b"\r\n\r\n")
        damaged = chance.choice([flip, double, lose])(head, chance)
        replies.append(split(damaged + b"\r\n\r\n" + body, chance))
    assert set(asyncio.run(ask_each(replies, DialectName.OLLAMA))) <= {None, ANSWER}


# Replies that are JSON, with other values than expected -------------------------------------------

ODD = [
    None,
    True,
    3,
    -1,
    1.5,
    10**400,
    "",
    "text",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"error": 3},
    "\x1b",
]
TOKEN = {"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "b", "logprob": -1.0}]}
OPENED = {
    "chat": (
        {
            "message": {"content": "a", "thinking": "b"},
            "done": True,
            **COUNTERS,
            "logprobs": [TOKEN],
        },
        ollama.decode_chat,
    ),
    "progress": (
        {"status": "a", "digest": "b", "total": 3, "completed": 1},
        ollama.decode_progress,
    ),
    "tags": ({"models": [{"name": "a", "digest": "b", "size": 3}]}, ollama.decode_models),
    "ps": (
        {"models": [{"name": "a", "size": 3, "size_vram": 1, "context_length": 4}]},
        ollama.decode_loaded_models,
    ),
    "show": ({"capabilities": ["a"], "model_info": {"a": 1}}, ollama.decode_card),
    "models": (
        {"data": [{"id": "a", "owned_by": "llamacpp", "aliases": ["b"], "meta": {"n_ctx": 4}}]},
        openai.decode_models,
    ),
    "props": (
        {"total_slots": 1, "default_generation_settings": {"n_ctx": 4}, "build_info": "b"},
        openai.decode_props,
    ),
    "event": (
        {
            "choices": [
                {
                    "delta": {"content": "a"},
                    "finish_reason": "stop",
                    "logprobs": {"content": [TOKEN]},
                }
            ],
            "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
            "timings": {"prompt_n": 1, "cache_n": 2, "prompt_ms": 1.5},
        },
        lambda content: list(
            openai.ChatDecoder().feed(f"data: {json.dumps(content)}\n\n".encode())
        ),
    ),
    "token": (
        {
            "choices": [
                {
                    "message": {"content": "a"},
                    "finish_reason": "length",
                    "logprobs": {"content": [TOKEN]},
                }
            ]
        },
        openai.decode_token,
    ),
    "smallest": ({"answers": {"a": {"probabilities": {"b": 0.5}}}}, systemone.decode_smallest),
    "error": (
        {"error": {"message": "a", "code": 3}},
        lambda content: ollama.decode_error(500, json.dumps(content)),
    ),
}


def list_places(content, at=()):
    yield at
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield from list_places(value, (*at, key))


def put(content, at, value):
    if not at:
        return value
    copy = content.copy()
    copy[at[0]] = put(content[at[0]], at[1:], value)
    return copy


@pytest.mark.parametrize("name", OPENED)
def test_any_value_in_any_place_of_a_reply(name):
    """Whatever stands where: a record, or an error of ours."""
    content, decode = OPENED[name]
    for at in list_places(content):
        for value in ODD:
            odd = put(content, at, value)
            if not isinstance(odd, dict):
                continue  # whoever reads the reply has checked that it is an object
            try:
                found = decode(odd)
            except UriskError:
                continue
            if isinstance(found, Chunk | Final):
                assert isinstance(found.text, str)
