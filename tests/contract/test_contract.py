"""
What our client may count on, whoever answers: the scripted server and Ollama over Ollama's own
wire, llama.cpp's own server over the OpenAI-compatible one.

A fact that a server has no word for is skipped with its reason.
"""

import asyncio
import json

import pytest

from urisk_nb.errors import BadRequest, ContextExceeded, InputError, NotSupportedByServer
from urisk_nb.llm.client import Client
from urisk_nb.llm.dialects import ollama
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.labels import LabelMethod, LabelReader
from urisk_nb.llm.messages import ChatRequest, Chunk, Final, find_model
from urisk_nb.settings import Settings

pytestmark = pytest.mark.contract

# The same in every request: another value would load the model again; Ollama raises less than this
# for vision models.
NUM_CTX = 2048
STORY = "Write a very long story."
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["risk", "severity"],
    "properties": {
        "risk": {"type": "string", "enum": ["legal", "business", "none"]},
        "severity": {"type": "integer", "enum": [0, 1, 2, 3, 4, 5]},
    },
}


def ask(server, text, *, schema=None, logprobs=None, **options):
    return ChatRequest(
        model=server.model,
        messages=[{"role": "user", "content": text}],
        keep_alive="5m",
        num_ctx=NUM_CTX,
        options={"temperature": 0, "seed": 1, "num_predict": 8, **options},
        schema=schema,
        top_logprobs=logprobs,
        logprobs=None if logprobs is None else True,
    )


def with_client(server, use):
    """Run `use(client)` on a loop of its own with a client that knows the server's dialect."""

    async def main():
        client = Client(Settings(url=server.url, num_ctx=NUM_CTX, timeout_s=120))
        try:
            await client.probe()
            return await use(client)
        finally:
            await client.aclose()

    return asyncio.run(main())


async def collect(client, request, on_chunk=lambda _: None):
    items = []

    def take(item):
        items.append(item)
        on_chunk(item)

    await client.chat(client.dialect.encode_chat(request), take)
    return items


def chat(server, text, **rest):
    return with_client(server, lambda client: collect(client, ask(server, text, **rest)))


def text_of(items):
    return "".join(item.text for item in items)


def test_its_dialect_is_found_and_its_model_is_listed(server):
    """A probe finds the wire; the list of models has the one that is asked."""

    async def use(client):
        return client.dialect, await client.list_models()

    dialect, models = with_client(server, use)
    assert dialect.name in ("ollama", "llama.cpp")
    assert find_model(server.model, models) is not None


def test_what_it_cannot_do_is_one_clear_error(server):
    """The models in memory are listed, or it is said that this server does not list them."""

    async def use(client):
        if client.dialect.can(Feature.LOADED_MODELS):
            load = ollama.encode_load(model=server.model, keep_alive="5m", num_ctx=NUM_CTX)
            await client.load(load)
            assert server.model in [model.name for model in await client.list_loaded_models()]
        else:
            with pytest.raises(NotSupportedByServer, match=r"llama\.cpp server at .* cannot list"):
                await client.list_loaded_models()

    with_client(server, use)


def test_an_answer_comes_in_chunks_and_ends_once(server):
    """The chunks come one by one, the end last."""
    *chunks, final = chat(server, STORY)
    assert len(chunks) > 1
    assert all(type(chunk) is Chunk for chunk in chunks)
    assert isinstance(final, Final)


def test_the_end_counts_tokens_and_time(server):
    """Each above zero, in nanoseconds; where the whole is told, the parts are within it."""
    final = chat(server, "Hello, who are you?")[-1]
    assert final.prompt_tokens > 0
    assert final.tokens > 0
    assert min(final.prompt_ns, final.generation_ns) > 0
    assert final.total_ns == 0 or final.prompt_ns + final.generation_ns <= final.total_ns


def test_num_predict_cuts_and_says_length(server):
    """Three tokens, and no more."""
    final = chat(server, STORY, num_predict=3)[-1]
    assert (final.done_reason, final.tokens) == ("length", 3)


def test_the_same_question_has_the_same_answer(server):
    """At temperature 0."""
    assert text_of(chat(server, "Name two colors.")) == text_of(chat(server, "Name two colors."))


def test_an_answer_obeys_its_schema(server):
    """Valid at the first try, and ended by itself."""
    import jsonschema

    *chunks, final = chat(
        server, "Acme was fined 5 billion dollars.", schema=SCHEMA, num_predict=64
    )
    assert final.done_reason == "stop"
    jsonschema.validate(json.loads(text_of(chunks)), SCHEMA)


def test_a_label_is_asked_in_the_servers_best_way(server):
    """Compact JSON of the schema; with log-probabilities of both values where they are told."""
    import jsonschema

    async def use(client):
        items, reader = [], LabelReader(client)
        request = ask(server, "Acme was fined.", schema=SCHEMA, num_predict=64, logprobs=5)
        final = await reader.ask(None, request, client.dialect.encode_chat(request), items.append)
        return items, final, await reader.find_method(server.model)

    items, final, method = with_client(server, use)
    assert final.done_reason == "stop"
    jsonschema.validate(json.loads(text_of(items)), SCHEMA)
    told = [token for item in items for token in item.logprobs]
    if method is LabelMethod.CHOICES:
        assert final.tokens == 2
        assert "".join(token.text for token in told) == text_of(items)
        assert sum(len(token.top_logprobs) > 1 for token in told) == 2


def test_log_probabilities_are_those_of_the_answer(server):
    """Each token with its logarithm and its rivals."""
    items = chat(server, "Name two colors.", logprobs=3)
    told = [token for item in items for token in item.logprobs]
    if not told:
        pytest.skip("this server gives no log-probabilities")
    assert "".join(token.text for token in told) == text_of(items)
    assert all(token.logprob <= 0 and len(token.top_logprobs) <= 3 for token in told)


def test_a_prompt_that_is_too_long_is_refused(server):
    """It is an error, before the first token; the next question is answered."""
    with pytest.raises(ContextExceeded):
        chat(server, "word " * 6000)
    assert isinstance(chat(server, "Hello")[-1], Final)


def test_options_of_a_wrong_type_are_refused(server):
    """Not ignored, and not a crash."""
    with pytest.raises(BadRequest):
        chat(server, "Hello", temperature="warm")


def test_an_option_that_the_wire_has_no_word_for_is_refused(server):
    """It is never dropped silently; Ollama's own wire has words for all of its options."""
    if server.is_native:
        pytest.skip("Ollama's own wire takes every option of Ollama")
    with pytest.raises(InputError, match="mirostat"):
        chat(server, "Hello", mirostat=2)


def test_a_client_that_leaves_frees_the_slot(server):
    """
    In the middle of an answer of thousands of tokens: the next one comes long before that would
    have ended.
    """

    async def use(client):
        came = asyncio.Event()
        story = ask(server, STORY, num_predict=1900)
        call = asyncio.create_task(collect(client, story, lambda _: came.set()))
        await came.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(20):
            return await collect(client, ask(server, "Hello", num_predict=2))

    assert isinstance(with_client(server, use)[-1], Final)


def test_two_questions_at_once_are_both_answered(server):
    """One after the other or side by side, each with its own end."""

    async def use(client):
        return await asyncio.gather(
            *(collect(client, ask(server, text)) for text in ("Hello", "Good morning"))
        )

    for items in with_client(server, use):
        assert [isinstance(item, Final) for item in items].count(True) == 1


def test_many_answers_one_after_the_other(server):
    """A connection that the server closes between two answers is no error."""

    async def use(client):
        return [(await collect(client, ask(server, "Hi", num_predict=1)))[-1] for _ in range(12)]

    assert all(isinstance(final, Final) for final in with_client(server, use))
