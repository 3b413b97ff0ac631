"""Labels that a model writes: one question finds out the setting, whatever the server speaks."""

import asyncio
import json

import pytest

from urisk_nb import errors
from urisk_nb.llm.answers import count_least_tokens, find_faults
from urisk_nb.llm.dialects import ollama, openai
from urisk_nb.llm.labels import LabelMethod, LabelReader
from urisk_nb.llm.messages import Chunk, Final, Think, parse_question
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.questions import build_question

TEXT = "The company was fined 2 billion dollars."
LABEL = '{"risk":"legal","severity":2}'
DIALECTS = {"ollama": ollama.DIALECT, "openai": openai.DIALECT, "llama.cpp": openai.LLAMA_CPP}


def think_of(body):
    """What a request says of thinking, read from its bytes."""
    content = json.loads(body)
    kwargs = content.get("chat_template_kwargs", {})
    said = content.get("think", kwargs.get("enable_thinking"))
    return {None: Think.UNSET, False: Think.OFF, True: Think.ON}[said]


class Model:
    """A client whose model keeps to its schema with one setting only."""

    def __init__(self, dialect, works, wait_s=0.0, error=None):
        self.dialect, self.works, self.wait_s, self.error = dialect, works, wait_s, error
        self.asked = []

    async def chat(self, body, on_chunk):
        think = think_of(body)
        self.asked.append(think)
        await asyncio.sleep(self.wait_s)
        if self.error is not None and think is not self.dialect.think_settings[0]:
            raise self.error
        on_chunk(Chunk(text=LABEL if think is self.works else "Perhaps."))
        on_chunk(final := Final(done_reason="stop"))
        return final


async def label(reader, client):
    """Ask one question; what was handed over."""
    document = Document(id="d", ticker="ACME", text=TEXT)
    sentence = Sentence(id="s", document=document, text=TEXT, start=0, end=len(TEXT))
    question, chunks = build_question(sentence, RiskParams()), []
    request = parse_question(question.payload, model="m", keep_alive="20m", num_ctx=4096)
    reader._methods["m"] = LabelMethod.SCHEMA
    body = client.dialect.encode_chat(request)
    await reader.ask(question, request, body, chunks.append)
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("name", DIALECTS)
def test_each_setting_of_each_wire_is_found(name):
    dialect = DIALECTS[name]
    for place, works in enumerate(dialect.think_settings):
        client = Model(dialect, works)
        reader = LabelReader(client)
        assert asyncio.run(label(reader, client)) == LABEL
        assert client.asked == list(dialect.think_settings[: place + 1])
        assert asyncio.run(label(reader, client)) == LABEL
        assert client.asked[-1] is works
        assert len(client.asked) == place + 2
        reader.reset()
        assert not reader.writer.find_setting("m").is_known


@pytest.mark.parametrize("works", [Think.OFF, Think.UNSET, None])
def test_of_many_at_once_one_finds_out(works):
    """Each of the others costs the call that it had begun, and one more where that was no label."""

    async def main():
        client = Model(ollama.DIALECT, works, wait_s=0.001)
        reader = LabelReader(client)
        texts = await asyncio.gather(*(label(reader, client) for _ in range(8)))
        return client, reader.writer.find_setting("m"), texts

    client, setting, texts = asyncio.run(main())
    assert set(texts) == {"Perhaps." if works is None else LABEL}
    tried = {Think.OFF: 0, Think.UNSET: 1, None: 2}[works]
    again = 7 if works is Think.UNSET else 0
    assert len(client.asked) == 8 + tried + again
    assert setting.is_ignored is (works is None)


def test_a_server_that_is_lost_meanwhile_leaves_the_setting_open():
    """The next question finds it out, and none waits for ever."""
    lost = errors.ServerConnectionLost("gone", fix="ask again")

    async def main():
        client = Model(ollama.DIALECT, Think.UNSET, error=lost)
        reader = LabelReader(client)
        with pytest.raises(errors.ServerConnectionLost):
            await label(reader, client)
        client.error = None
        return await asyncio.wait_for(label(reader, client), 2)

    assert asyncio.run(main()) == LABEL


def test_a_label_by_chance_takes_the_advice_back():
    """Not every answer ignores the schema."""

    async def main():
        client = Model(ollama.DIALECT, None)
        reader = LabelReader(client)
        await label(reader, client)
        setting = reader.writer.find_setting("m")
        seen = [setting.is_ignored]
        client.works = Think.OFF
        await label(reader, client)
        return [*seen, setting.is_ignored]

    assert asyncio.run(main()) == [True, False]


# Counters of the prompt ---------------------------------------------------------------------------

CACHED = [
    ({"usage": {"prompt_tokens": 900, "prompt_tokens_details": {"cached_tokens": 880}}}, 900),
    ({"usage": {"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 880}}}, 900),
    ({"timings": {"prompt_n": 20, "cache_n": 880}}, 900),
    ({"usage": {"prompt_tokens": 20}, "timings": {"prompt_n": 20, "cache_n": 880}}, 900),
    ({"usage": {"prompt_tokens": 20, "prompt_tokens_details": None}}, 20),
]


@pytest.mark.parametrize(("counters", "tokens"), CACHED)
def test_cached_tokens_were_read_too(counters, tokens):
    """Whether they are part of the count or stand apart."""
    event = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], **counters}
    decoder = openai.ChatDecoder()
    items = list(decoder.feed(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()))
    assert items[-1].prompt_tokens == tokens


def test_no_recorded_answer_raises_an_alarm(request):
    """Of the real servers' replies that are kept with the tests."""
    path = request.config.rootpath / "tests/data/ollama_transcripts.jsonl"
    seen = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            sent = json.loads(row["request"]["body"])
            messages = sent.get("messages") or [{"content": sent["prompt"]}]
            lines = ollama.JsonLines(ollama.decode_chat)
            items = [*lines.feed("".join(row["chunks"]).encode()), *lines.finish()]
        except (ValueError, TypeError, AttributeError, KeyError, errors.UriskError):
            continue  # no chat
        if isinstance(items[-1], Final) and items[-1].prompt_tokens:
            seen += 1
            text = "".join(item.text for item in items)
            assert not find_faults(text, "", items[-1], messages)
            assert count_least_tokens(messages) <= items[-1].prompt_tokens
    assert seen > 10


def test_a_picture_is_no_text():
    """Its base64 would be thousands of words."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "a+b/" * 9999}}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}]
    assert count_least_tokens(messages) == 3
    assert not find_faults("A cat.", "", Final(prompt_tokens=300), messages)
