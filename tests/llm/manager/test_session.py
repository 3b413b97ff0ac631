"""The session: calls share it, settings change over it, answers know where they came from."""

import asyncio
import contextlib
import copy
import json
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from fake_ollama import Rule
from harness import OllamaProgram, alive, children, eventually
from manager_env import SLOW, answers, free_url, in_thread, processes, scripted, server
from urisk_nb import errors, event_loop
from urisk_nb.llm.manager import Answer, LLMManager
from urisk_nb.server import model_server as server_module
from urisk_nb.settings import Engine

# Session ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_calls_share_one_load_and_one_connection():
    """
    Calls from threads and loops that come and go use one load and a handful of connections,
    whatever options they bring.
    """
    with server(Rule(answer=["ok"])) as other:
        manager = LLMManager.initialize_sync(url=other.url)
        for number in range(10):
            assert manager.generate_sync("hi", options={"seed": number}) == "ok"
            assert asyncio.run(manager.generate("hi", "you are short")) == "ok"
            assert manager.chat_sync([{"role": "user", "content": "hi"}]) == "ok"
            assert "".join(manager.stream_sync("hi")) == "ok"
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(manager.generate_sync, ["hi"] * 24)) == {"ok"}
        assert other.counters["loads"] == 1
        assert other.counters["connections_total"] <= 4
        assert other.counters["paths"]["/api/chat"] == 1 + 40 + 24


def test_what_changes_only_the_call_keeps_the_server():
    """
    Another timeout or model: the same session goes on with it, over the same process, the earlier
    timings kept.
    """
    first = scripted()
    first.generate_sync("hi")
    pid = first.pid
    second = LLMManager.initialize_sync(timeout_s=77)
    assert second is LLMManager.get_instance() is first
    assert (second.pid, second.settings.timeout_s, second.engine, len(second.calls)) == (
        pid,
        77,
        Engine.OLLAMA,
        1,
    )
    assert alive(pid)
    assert second.generate_sync("hi")


@pytest.mark.slow
def test_what_changes_the_server_starts_another():
    """Whether models of others may be used is set at its start: the first ends, one is left."""
    before = children()
    first = scripted()
    pid = first.pid
    second = LLMManager.initialize_sync(allow_cloud=True)
    assert second.pid != pid
    assert processes(before) == [second.pid]
    assert second.settings.engine is Engine.OLLAMA


@pytest.mark.slow
def test_a_change_that_fails_leaves_a_usable_session():
    """
    A mistyped model must not cost the session: what ran before still answers, or at least a plain
    start works again.
    """
    scripted()
    with pytest.raises(errors.ModelError):
        LLMManager.initialize_sync(model="nope")
    assert LLMManager.initialize_sync(model="llama3.1").generate_sync("hi")
    manager = LLMManager.get_instance()
    pid, before = manager.pid, manager.settings
    with pytest.raises(errors.ModelError):
        LLMManager.initialize_sync(model="nope", timeout_s=3)
    assert LLMManager.initialize_sync() is manager
    assert (manager.pid, manager.model, manager.settings) == (pid, "llama3.1", before)
    assert manager.generate_sync("hi").model == "llama3.1"


def test_a_call_under_way_survives_a_change_of_timeouts():
    """
    Starting again with another timeout does not cut off an answer that somebody else is waiting
    for.
    """
    with server(Rule(answer="a b c", token_ms=150)) as other:
        manager = LLMManager.initialize_sync(url=other.url, max_retries=0)
        with in_thread(manager.generate_sync, "hi") as call:
            eventually(lambda: other.counters["in_flight"] == 1)
            LLMManager.initialize_sync(timeout_s=77)
            assert call.result(10) == "a b c"


def test_a_call_under_way_keeps_the_model_that_it_was_asked_with():
    """
    Whose words an answer is must be true, even when the session goes on to another model meanwhile.
    """
    with server(
        Rule(answer="a b c", model="first:latest", token_ms=150), models=("first", "second")
    ) as other:
        manager = LLMManager.initialize_sync(url=other.url, model="first")
        with in_thread(manager.generate_sync, "hi") as call:
            eventually(lambda: other.counters["in_flight"] == 1)
            LLMManager.initialize_sync(model="second")
            assert call.result(10).model == "first"
        assert other.counters["recent"][0]["model"] == "first:latest"
        assert manager.generate_sync("hi").model == "second"


def test_a_change_is_told_to_its_end():
    """Who asks for another model sees it loaded and ready."""
    events = []
    with server(models=("first", "second")) as other:
        LLMManager.initialize_sync(url=other.url, model="first")
        LLMManager.initialize_sync(model="second", progress=events.append)
    assert [event.step for event in events][-2:] == ["loading", "ready"]
    assert "second" in events[-1].text


@pytest.mark.slow
def test_a_start_after_the_servers_end_finds_another():
    """
    The fix of a lost server says %urisk_start: that must bring the session back, with a server of
    ours if need be.
    """
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url, max_retries=0)
    OllamaProgram(os.environ["PATH"])
    with pytest.raises(errors.ServerNotRunning) as caught:
        manager.generate_sync("hi")
    assert "%urisk_start" in caught.value.fix
    manager = LLMManager.initialize_sync()
    assert "SCRIPTED" in manager.generate_sync("hi")
    assert manager.is_managed


@pytest.mark.slow
def test_another_model_after_a_crash_of_our_server():
    """A change finds the server down and starts it, as a call would."""
    manager = scripted()
    pid = manager.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    with pytest.raises(errors.PullFailed, match=r"server has: llama3\.1:latest"):
        LLMManager.initialize_sync(model="nope")


def test_an_ollama_that_is_a_wrapper_is_ours_too(ollama, program, tmp_path, monkeypatch):
    """
    Some packages put a script on the PATH that runs the real program as its child: that child's
    answer is our server's.
    """
    monkeypatch.setattr(server_module, "READY_S", 4.0)
    ollama(models=["llama3.1"])
    (tmp_path / "bin" / "ollama").rename(tmp_path / "bin" / "real")
    program(
        f"import subprocess, sys; sys.exit(subprocess.call([{str(tmp_path / 'bin' / 'real')!r}, "
        "*sys.argv[1:]]))"
    )
    before, url = children(), free_url()
    manager = LLMManager.initialize_sync(url=url)
    assert manager.is_managed
    manager.shutdown_sync()
    assert children() == before
    assert answers(url) is None


# Answers ------------------------------------------------------------------------------------------


def test_an_answer_knows_where_it_came_from():
    """
    It is a str with the model, the engine, the end, and phases that add up; the manager keeps its
    timing.
    """
    with server(Rule(answer="a b c", first_ms=60, token_ms=20)) as other:
        manager = LLMManager.initialize_sync(url=other.url)
        answer = manager.generate_sync("hi")
    assert answer == "a b c"
    assert isinstance(answer, Answer)
    told = (answer.model, answer.engine, answer.done_reason, answer.thinking)
    assert told == ("llama3.1:latest", "ollama", "stop", "")
    timing = answer.timing
    assert list(manager.calls) == [timing]
    assert timing.queue_s + timing.load_s + timing.prompt_s + timing.generation_s == pytest.approx(
        timing.server_total_s
    )
    assert (timing.tokens, timing.attempts) == (3, 1)
    assert timing.prompt_tokens == other.counters["recent"][0]["prompt_new"]
    assert 0.06 <= timing.first_token_s <= timing.total_s - 0.03
    assert timing.server_total_s <= timing.total_s
    assert timing.generation_s >= 0.04


def test_an_answer_goes_through_pickle_and_copy():
    """Dask and multiprocessing hand it on whole."""
    with server() as other:
        answer = LLMManager.initialize_sync(url=other.url).generate_sync("hi")
    for twin in (pickle.loads(pickle.dumps(answer)), copy.copy(answer), copy.deepcopy(answer)):
        assert twin == answer
        assert type(twin) is Answer
        assert (twin.model, twin.engine, twin.done_reason, twin.timing) == (
            answer.model,
            answer.engine,
            answer.done_reason,
            answer.timing,
        )


def test_an_answer_that_is_cut_says_so():
    """A limit on tokens ends with `length`."""
    with server(Rule(answer="a b c d")) as other:
        answer = LLMManager.initialize_sync(url=other.url).generate_sync(
            "hi", options={"num_predict": 2}
        )
        assert (answer, answer.done_reason) == ("a b", "length")


def test_a_question_is_asked_with_its_own_schema():
    """
    The bytes of a question go out with the session's model; what comes back keeps to the schema.
    """
    schema = {
        "type": "object",
        "required": ["risk", "severity"],
        "properties": {"risk": {"enum": ["legal", "none"]}, "severity": {"type": "integer"}},
    }
    message = {"role": "user", "content": "It was fined by the court."}
    payload = json.dumps({"format": schema, "messages": [message], "options": {"seed": 1}}).encode()
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url)
        for answer in (manager.ask_sync(payload), asyncio.run(manager.ask(payload))):
            assert json.loads(answer)["risk"] == "legal"


def test_a_stream_gives_pieces_and_then_the_answer():
    """
    Blocking and on any loop: the pieces are the answer, which is there at the end and not before.
    """
    with server(Rule(answer="one two three")) as other:
        manager = LLMManager.initialize_sync(url=other.url)
        stream = manager.stream_sync("hi")
        with pytest.raises(errors.NotInitialized, match="not ended"):
            _ = stream.answer
        pieces = list(stream)
        assert pieces == ["one", " two", " three"]
        assert stream.answer == "one two three"

        async def main():
            stream = manager.stream("hi")
            return [piece async for piece in stream], stream.answer

        for way in (asyncio.run, event_loop.run):
            assert way(main()) == (pieces, "one two three")
        assert len(manager.calls) == 3


def test_leaving_a_stream_stops_the_generation():
    """A loop that breaks off, blocking or not, frees the server for the next call."""
    with server(SLOW) as other:
        manager = LLMManager.initialize_sync(url=other.url)
        for _ in manager.stream_sync("slow"):
            break
        eventually(lambda: other.counters["aborted"] == 1 and not other.counters["in_flight"])

        async def main():
            async with contextlib.aclosing(aiter(manager.stream("slow"))) as pieces:
                async for _ in pieces:
                    break

        asyncio.run(main())
        eventually(lambda: other.counters["aborted"] == 2 and not other.counters["in_flight"])
        assert manager.generate_sync("next")
        assert [call.tokens > 0 for call in manager.calls] == [True]


@pytest.mark.parametrize("prompt", ["", "  \n", None, 3])
def test_a_prompt_without_text_is_refused(prompt):
    """Nothing is sent for it."""
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url)
        with pytest.raises(errors.InputError):
            manager.generate_sync(prompt)
        assert other.counters["paths"]["/api/chat"] == 1


def test_a_chat_without_messages_is_refused():
    """It would load the model and give an empty answer."""
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url)
        with pytest.raises(errors.InputError):
            manager.chat_sync([])


@pytest.mark.parametrize("value", [float("nan"), complex(1)])
def test_an_option_that_cannot_be_sent_is_refused(value):
    """Our error, with what was seen; not one of the JSON module."""
    with server() as other:
        manager = LLMManager.initialize_sync(url=other.url)
        with pytest.raises(errors.InputError):
            manager.generate_sync("hi", options={"seed": value})
