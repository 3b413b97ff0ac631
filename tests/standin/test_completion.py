"""What llama.cpp is asked and how its replies are read, on a server of our own."""

import asyncio
import json

import pytest

from urisk_nb.risk.questions import SCHEMA as LABEL
from urisk_nb.standin import Ask, Finish, Model, Piece, Refused
from urisk_nb.standin.asks import options
from urisk_nb.standin.completion import answer, chat_payload, raw_payload
from urisk_nb.standin.upstream import UpstreamLost, UpstreamRefused, events

MODEL = Model(name="m:latest", size_bytes=1, digest="", modified_ns=0, context_length=4096)
SCHEMA = {"type": "object", "properties": {"risk": {"type": "string"}}}


def question(**rest):
    given = {
        "model": MODEL,
        "endpoint": "chat",
        "messages": ({"role": "user", "content": "x"},),
        "options": options({}),
        **rest,
    }
    return Ask(**given)


# ---- what is asked -------------------------------------------------------------------------------


def test_options_reach_llama_cpp_with_ollamas_defaults():
    """
    llama.cpp's own defaults differ (min_p, top_p), so every one is sent; the prefix cache is on.
    """
    sent = chat_payload(
        question(
            options=options(
                {"temperature": 0, "seed": 7, "num_predict": 48, "stop": ["."], "nonsense": 1}
            )
        )
    )
    assert {name: sent[name] for name in ("temperature", "seed", "max_tokens", "stop")} == {
        "temperature": 0,
        "seed": 7,
        "max_tokens": 48,
        "stop": ["."],
    }
    assert (sent["top_k"], sent["top_p"], sent["min_p"], sent["repeat_penalty"]) == (
        40,
        0.9,
        0.0,
        1.0,
    )
    assert sent["cache_prompt"] is True
    assert sent["stream"] is True
    assert "nonsense" not in sent


def test_a_schema_becomes_a_response_format_with_its_own_order_of_keys():
    """And `json` becomes any object."""
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    sent = chat_payload(question(format=schema))["response_format"]
    assert json.dumps(sent["json_schema"]["schema"]) == json.dumps(schema)
    assert chat_payload(question(format="json"))["response_format"]["json_schema"]["schema"] == {
        "type": "object"
    }
    assert "response_format" not in chat_payload(question())
    assert raw_payload(question(raw="x", format=schema))["json_schema"] == schema


@pytest.mark.parametrize(("asked", "sent"), [(-1, 1000), (0, 1), (5, 5), (10**9, 1000), (-5, 1000)])
def test_an_answer_is_bounded_by_ten_windows(asked, sent):
    """As in Ollama; 0 is one token on the chat path."""
    assert (
        chat_payload(question(options=options({"num_predict": asked}), num_ctx=100))["max_tokens"]
        == sent
    )


@pytest.mark.parametrize(
    ("given", "limit", "streamed"),
    [
        (SCHEMA, 48, False),
        (SCHEMA, 65, True),
        (SCHEMA, -1, True),
        (None, 48, True),
        ("json", 64, False),
    ],
)
def test_a_short_answer_held_to_a_schema_comes_in_one_piece(given, limit, streamed):
    """Nobody can use half of it; a long one, and free text, come as they are made."""
    assert (
        chat_payload(question(format=given, options=options({"num_predict": limit})))["stream"]
        is streamed
    )


def test_think_reaches_the_template():
    """Only where it was sent."""
    assert chat_payload(question(think=False))["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat_payload(question(think="low"))["chat_template_kwargs"] == {"enable_thinking": True}
    assert "chat_template_kwargs" not in chat_payload(question())


# ---- what comes back, from a server that we script -----------------------------------------------


def upstream(test, reply):
    """Run the test against a server that sends these bytes to whoever connects, then closes."""

    async def main():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            for part in reply if isinstance(reply, list) else [reply]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await asyncio.wait_for(
                test(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 10
            )

    return asyncio.run(main())


async def collect(address):
    return [event async for event in events(address, "/x", {"stream": True})]


async def collect_whole(address):
    return [event async for event in events(address, "/x", {"stream": False})]


def chunked(body, size=None):
    step = size or len(body)
    parts = [body[at : at + step] for at in range(0, len(body), step)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


STREAM = ': ping\n\ndata: {"a":"è"}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n'.encode()


@pytest.mark.parametrize("size", [None, 1, 7])
def test_events_are_read_from_any_chunks(size):
    """Lines and characters may be cut anywhere; comments are passed over."""
    assert upstream(collect, chunked(STREAM, size)) == [{"a": "è"}, {"a": 2}]


def test_events_are_read_from_any_segments():
    """The wire may cut the framing itself."""
    data = chunked(STREAM, 5)
    assert upstream(collect, [data[at : at + 1] for at in range(len(data))]) == [
        {"a": "è"},
        {"a": 2},
    ]


@pytest.mark.parametrize(
    "reply", [chunked(b'{"a": 1}', 3), b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}']
)
def test_an_answer_that_is_not_streamed_is_one_event(reply):
    """However its body is sent."""
    assert upstream(collect_whole, reply) == [{"a": 1}]


def test_half_an_answer_that_is_not_streamed_is_lost():
    """Not an event that says less."""
    with pytest.raises(UpstreamLost):
        upstream(collect_whole, b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a"')
    with pytest.raises(UpstreamLost):
        upstream(collect_whole, b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{"a"')


def test_another_status_carries_its_body():
    """llama.cpp's error, as it was sent."""
    body = b'{"error":{"code":400}}'
    with pytest.raises(UpstreamRefused) as caught:
        upstream(
            collect, b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
    assert (caught.value.status, caught.value.body) == (400, body)


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200", chunked(STREAM)[:-30], b"garbage\r\n\r\n", chunked(b"data: {\n\n")],
)
def test_a_broken_answer_is_lost(reply):
    """Not an end, and no other exception."""
    with pytest.raises(UpstreamLost):
        upstream(collect, reply)


def test_nobody_there_is_lost():
    """A refused connection."""
    with pytest.raises(UpstreamLost, match="does not answer"):
        asyncio.run(collect("http://127.0.0.1:9"))


def answered(ask, *found, tail=b"data: [DONE]\n\n"):
    async def test(address):
        return [item async for item in answer(address, ask, {})]

    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in found) + tail
    return upstream(test, chunked(body))


TIMINGS = {
    "cache_n": 33,
    "prompt_n": 1,
    "prompt_ms": 48.409,
    "predicted_n": 4,
    "predicted_ms": 31.4381,
}
END = {"choices": [{"finish_reason": "length", "index": 0, "delta": {}}], "timings": TIMINGS}


def delta(**rest):
    return {"choices": [{"finish_reason": None, "index": 0, "delta": rest}]}


def test_deltas_become_pieces_and_timings_become_counters():
    """
    Milliseconds to nanoseconds; cached and new tokens apart; the first delta without text is none.
    """
    items = answered(
        question(),
        delta(role="assistant", content=None),
        delta(reasoning_content="hm"),
        delta(content="A"),
        END,
    )
    assert items[:2] == [Piece(text="", thinking="hm"), Piece(text="A")]
    assert items[2] == Finish(
        reason="length",
        prompt_new=1,
        prompt_cached=33,
        prompt_ns=48_409_000,
        answered=4,
        answer_ns=31_438_100,
    )


def test_log_probabilities_take_ollamas_shape():
    """No token ids; top_logprobs only where asked for."""
    entry = {"id": 504, "token": "The", "bytes": [84], "logprob": -1.5}
    event = delta(content="The")
    event["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [entry, entry]}]}
    plain = {"token": "The", "bytes": [84], "logprob": -1.5}
    assert answered(question(top_logprobs=0), event, END)[0].logprobs == (plain,)
    assert answered(question(top_logprobs=1), event, END)[0].logprobs == (
        {**plain, "top_logprobs": [plain]},
    )


def test_completion_events_are_read_too():
    """The raw path has other names for the same things."""
    events = [
        {"content": " a", "stop": False},
        {"content": "", "stop": True, "stop_type": "eos", "timings": TIMINGS},
    ]
    piece, end = answered(question(raw="x", endpoint="generate"), *events)
    assert (piece.text, end.reason, end.answered) == (" a", "stop", 4)


def test_an_error_event_is_ollamas_error_line():
    """In the middle of a stream."""
    with pytest.raises(Refused) as caught:
        answered(
            question(),
            delta(content="A"),
            {"error": {"code": 500, "message": "no", "type": "server_error"}},
        )
    assert (
        caught.value.text == "llama-server chat error: map[code:500 message:no type:server_error]"
    )


def test_a_stream_without_an_end_is_an_error():
    """A crash must not look like an answer."""
    with pytest.raises(Refused) as caught:
        answered(question(), delta(content="A"))
    assert caught.value.text == "an error was encountered while running the model: unexpected EOF"


# ---- what is chosen, from a server that answers each path ----------------------------------------


class Llama:
    """
    Answers like llama.cpp's server: each sentence piece below is one token; keeps what it was
    asked.
    """

    def __init__(self, *chosen):
        self.asked, self._chosen = [], list(chosen)

    def reply(self, path, body):
        if path == "/apply-template":
            return {"prompt": "<user>" + body["messages"][-1]["content"] + "<assistant>"}
        if path == "/tokenize":
            return {"tokens": body["content"].replace(",", ":").split(":")}
        timings = {
            "cache_n": 30,
            "prompt_n": 12,
            "prompt_ms": 20.0,
            "predicted_n": 1,
            "predicted_ms": 1.5,
        }
        if body.get("n_predict") == 1:
            return {
                "content": self._chosen.pop(0),
                "stop": True,
                "stop_type": "limit",
                "timings": timings,
            }
        message = {"finish_reason": "stop", "index": 0, "message": {"content": "written"}}
        return {
            "choices": [message],
            "timings": timings,
            "content": "written",
            "stop": True,
            "completion_probabilities": [],
        }

    def answer(self, ask):
        async def main():
            async def serve(reader, writer):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path, size = (
                    head.split()[1],
                    int(head.lower().split("content-length:")[1].split()[0]),
                )
                body = json.loads(await reader.readexactly(size))
                self.asked.append((path, body))
                said = json.dumps(self.reply(path, body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            async with server:
                address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                return [item async for item in answer(address, ask, {"lora": "on"})]

        return asyncio.run(main())

    @property
    def completions(self):
        return [body for path, body in self.asked if path == "/completion"]


def label(**rest):
    return question(
        **{
            "format": LABEL,
            "options": options({"num_predict": 48, "seed": 3, "temperature": 0}),
            **rest,
        }
    )


def test_a_label_is_two_choices():
    """
    One token each, out of what the schema allows; what has to stand before is part of the prompt;
    the rest of the body is as ever.
    """
    llama = Llama("credit", "4")
    piece, end = llama.answer(label())
    assert piece == Piece(text='{"risk":"credit","severity":4}')
    assert [body["prompt"] for body in llama.completions] == [
        '<user>x<assistant>{"risk":"',
        '<user>x<assistant>{"risk":"credit","severity":',
    ]
    assert llama.completions[1]["grammar"] == r'root ::= "0}" | "1}" | "2}" | "3}" | "4}" | "5}"'
    sent = llama.completions[0]
    assert (
        sent["n_predict"],
        sent["seed"],
        sent["temperature"],
        sent["cache_prompt"],
        sent["lora"],
    ) == (1, 3, 0, True, "on")
    assert end.reason == "stop"


def test_the_counters_of_a_chosen_label():
    """
    The prompt without the opening put behind it; the answer's tokens with the end of its turn; the
    time of all after the prompt.
    """
    _, end = Llama("credit", "4").answer(label())
    # 42 were read at the first choice, two of them the answer's opening
    assert (end.prompt_new, end.prompt_cached) == (10, 30)
    assert end.answered == 4 + 1
    assert (end.prompt_ns, end.answer_ns) == (20_000_000, round((20 + 2 * 1.5) * 1e6))


def test_a_raw_prompt_is_not_put_into_a_template():
    """It stands as it is."""
    llama = Llama("credit", "4")
    llama.answer(label(raw="Said: ", endpoint="generate"))
    assert llama.completions[0]["prompt"] == 'Said: {"risk":"'
    assert [path for path, _ in llama.asked].count("/apply-template") == 0


def test_a_choice_that_is_none_lets_the_model_write():
    """Whatever llama.cpp said in its place; nobody sees the attempt."""
    llama = Llama("nonsense")
    assert [item.text for item in llama.answer(label()) if isinstance(item, Piece)] == ["written"]
    assert llama.asked[-1][0] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "rest",
    [
        {"top_logprobs": 0},
        {"options": options({"num_predict": 48, "stop": ["}"]})},
        {"options": options({"num_predict": 20})},
        {"format": SCHEMA, "options": options({"num_predict": 48})},
        {
            "model": Model(
                name="t",
                size_bytes=1,
                digest="",
                modified_ns=0,
                context_length=1,
                capabilities=("completion", "thinking"),
            )
        },
    ],
    ids=["log-probabilities", "stop", "may be cut", "free text", "thinks"],
)
def test_what_is_not_all_choice_is_written(rest):
    """Every token of it is the model's."""
    llama = Llama()
    assert [item.text for item in llama.answer(label(**rest)) if isinstance(item, Piece)] == [
        "written"
    ]
    assert [path for path, _ in llama.asked] == ["/v1/chat/completions"]
