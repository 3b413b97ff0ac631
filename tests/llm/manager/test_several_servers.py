"""A session over several servers: what they have to have in common, and who is left out."""

import asyncio
import contextlib
import hashlib

import pytest

from fake_ollama import Rule
from fake_openai import FakeOpenAI
from harness import eventually
from manager_env import free_url, server
from small_server import says, serve
from urisk_nb import LLMManager, event_loop
from urisk_nb.errors import (
    InputError,
    ModelNotFound,
    ModelsDiffer,
    PortTaken,
    ServerNotRunning,
    SettingsError,
)
from urisk_nb.llm.model_install import install_judge
from urisk_nb.server.model_server import ServerState

FINE = Rule(answer={"risk": "legal", "severity": 2})
ONE, OTHER = "1" * 64, "2" * 64


def model(digest=ONE, name="llama3.1"):
    return {"name": name, "digest": digest}


@contextlib.contextmanager
def group(*scenarios):
    """A server for each scenario, in threads; their addresses."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server(FINE, **scenario)).url for scenario in scenarios]


@pytest.fixture
def openai():
    """Start OpenAI-compatible servers on the loop."""
    started = []

    def start(*models, **more):
        started.append(event_loop.run(FakeOpenAI(models, **more).start()))
        return started[-1].url

    yield start
    for one in started:
        event_loop.run(one.stop())


def start(urls, **flags):
    return LLMManager.initialize_sync(url=urls, **flags)


def test_one_session_has_all_of_them():
    """A list, or text with commas; the places are the slots of all, until a number is given."""
    with group({}, {}, {}) as urls:
        manager = start(", ".join(urls))
        assert manager.url == ",".join(urls)
        assert [one.url for one in manager.pool.endpoints] == urls
        assert (manager.state, manager.parallel, manager.notes) == (ServerState.EXTERNAL, 3, ())
        assert start(urls) is manager
        assert start(urls, parallel=7) is manager
        assert [one.limiter.limit for one in manager.pool.endpoints] == [3, 2, 2]
        manager.parallel = 2  # a number for the session: no more in flight, on however many servers
        assert (manager.parallel, manager.limiter.limit) == (2, 2)
        with manager.allow_parallel(12):
            assert [one.limiter.limit for one in manager.pool.endpoints] == [4, 4, 4]
        assert manager.parallel == 2
        assert start(urls[0]) is not manager


def test_different_digests_are_refused_before_any_question():
    """The error names the servers, the model and the digests; its fix starts a session."""
    with group({"models": [model()]}, {"models": [model(OTHER)]}) as urls:
        with pytest.raises(ModelsDiffer, match=r"llama3.1") as caught:
            start(urls)
        assert LLMManager.find_instance() is None
        message, fix = caught.value.message, caught.value.fix
        seen = f"{urls[0]} has {ONE[:12]}, {urls[1]} has {OTHER[:12]}"
        assert seen in message
        assert start(fix.rpartition("%urisk_start --url ")[2]).url == urls[0]


def test_a_judge_has_to_be_the_same_too():
    """What is asked beside the session's model is compared when it is first named."""
    judges = [model(digest, "judge-7b") for digest in (ONE, OTHER)]
    with group(*({"models": [model(), judge]} for judge in judges)) as urls:
        manager = start(urls)
        with pytest.raises(ModelsDiffer, match="judge-7b"):
            event_loop.run(manager.ensure_model("judge-7b"))
        with pytest.raises(ModelsDiffer, match="judge-7b"):
            event_loop.run(manager.find_judges("judge-7b"))


def test_the_digest_of_a_judge_is_that_of_all_servers():
    """It is what answers in the journal are found by."""
    with group({"models": [model()]}, {"models": [model()]}) as urls:
        (judge,) = event_loop.run(start(urls).find_judges("llama3.1"))
    assert judge.digest == ONE


def test_a_model_that_one_server_lacks_is_pulled_there():
    """As it is for one server."""
    pulls = {"llama3.1": [{"status": "pulling manifest"}, {"status": "success"}]}
    with (
        server(FINE, models=[model()]) as has,
        server(FINE, models=[{**model(), "installed": False}], pulls=pulls) as lacks,
    ):
        start([has.url, lacks.url])
        assert lacks.counters["paths"]["/api/pull"] == 1
        assert "/api/pull" not in has.counters["paths"]


def test_a_model_that_a_server_cannot_pull_is_an_error_that_names_it(openai):
    """An OpenAI-compatible server has what it was started with."""
    urls = [openai("some-7b"), openai("other-7b", "third-7b")]
    with pytest.raises(ModelNotFound, match=urls[1]):
        start(urls, model="some-7b")


def test_openai_servers_are_compared_by_name_and_a_note_says_so(openai):
    """They tell no digest, so answers hold for this session alone; windows: the smallest."""
    urls = [openai("some-7b", window=8192), openai("some-7b", window=2048)]
    manager = start(urls)
    assert manager.model == "some-7b"
    assert manager.num_ctx == 2048
    assert any("Only the name of the model was compared" in note for note in manager.notes)
    (judge,) = event_loop.run(manager.find_judges("some-7b"))
    assert (judge.digest, bool(judge.session)) == ("", True)


def test_openai_servers_with_different_models_are_refused(openai):
    """Neither was named, and each has one of its own."""
    urls = [openai("some-7b"), openai("other-7b")]
    with pytest.raises(ModelsDiffer, match=f"{urls[0]} has some-7b, {urls[1]} has other-7b"):
        start(urls)


def test_each_server_is_asked_in_its_own_dialect(openai):
    """Ollama's wire and the other one beside it, with one model."""
    with group({"models": [model(name="some-7b")]}) as urls:
        urls.append(openai("some-7b"))
        manager = start(urls, model="some-7b", parallel=2)

        async def ask_both():
            return await asyncio.gather(*(manager.generate("Hello?") for _ in range(2)))

        answers = {str(answer.engine): answer for answer in event_loop.run(ask_both())}
        bodies = {record.server: record.body for record in manager.calls.records}
    assert set(answers) == {"ollama", "openai"}
    assert b'"keep_alive"' in bodies[urls[0]]
    assert b'"keep_alive"' not in bodies[urls[1]]
    for url, engine in zip(urls, ("ollama", "openai"), strict=True):
        assert answers[engine].request_hash == hashlib.sha256(bodies[url]).hexdigest()


def test_a_server_that_does_not_answer_is_left_out_with_a_note():
    """The session begins with the others; nothing is started at a free address."""
    with group({}) as urls:
        urls.insert(0, free_url())
        manager = start(urls)
        assert manager.lead.url == urls[1]
        assert manager.left_out == (f"{urls[0]} is left out: nothing answers.",)
        assert manager.generate_sync("Hello?")


def test_a_server_that_comes_later_is_taken_if_its_model_is_the_same():
    """Another digest keeps it out, and the note says why."""
    with group({"models": [model()]}) as urls:
        late = [free_url(), free_url()]
        manager = start([*urls, *late])
        ports = [int(url.rpartition(":")[2]) for url in late]
        with (
            server(FINE, port=ports[0], models=[model()]),
            server(FINE, port=ports[1], models=[model(OTHER)]),
        ):
            eventually(lambda: late[0] in [one.url for one in manager.pool.present])
            eventually(lambda: any("different models" in why for why in manager.left_out))
            assert late[1] not in [one.url for one in manager.pool.present]


def test_with_no_server_the_error_names_all():
    """Nothing is started, whatever OLLAMA_AUTO_START says."""
    urls = [free_url(), free_url()]
    with pytest.raises(ServerNotRunning, match="none of the 2 servers") as caught:
        start(urls, auto_start=True)
    assert all(url in str(caught.value) for url in urls)
    assert LLMManager.find_instance() is None


def test_something_else_at_an_address_is_an_error():
    """It is a mistake in the list: leaving it out would hide it."""
    page = says(404, b"Not here", "text/plain")
    with group({}) as urls, serve(handler=page) as other, pytest.raises(PortTaken, match="404"):
        start([*urls, other.url])


def test_auto_start_that_was_asked_for_has_no_effect_and_a_note_says_so():
    with group({}, {}) as urls:
        assert any(
            "OLLAMA_AUTO_START has no effect" in note for note in start(urls, auto_start=True).notes
        )


def test_a_list_that_cannot_be_is_refused_before_any_server():
    """Twice the same, nothing between two commas, too many; passwords are never shown."""
    for wrong in (
        ["http://a", "http://a"],
        "http://a,,http://b",
        [f"http://h{n}" for n in range(17)],
    ):
        with pytest.raises(SettingsError):
            start(wrong)
    with pytest.raises(SettingsError) as caught:
        start("http://me:hunter22@a,http://you:swordfish@b,http://c/api/chat")
    assert "hunter22" not in str(caught.value)
    assert "swordfish" not in str(caught.value)
    with pytest.raises(SettingsError, match="embedded"):
        start("http://a,http://b", engine="embedded")


def test_each_address_has_its_own_login():
    """And none of them is shown."""
    with group({}, {}) as urls:
        one, other = (url.replace("://", f"://user{n}:secret{n}@") for n, url in enumerate(urls))
        manager = start([one, other])
        sent = [e.settings.request_headers["Authorization"] for e in manager.pool.endpoints]
        assert len(set(sent)) == 2
        assert "secret" not in repr(manager) + repr(manager.settings) + manager.url
        changed = LLMManager.initialize_sync(url=[one, other.replace("secret1", "secret2")])
        assert changed is not manager


def test_a_session_without_a_model_takes_one_server():
    """`urisk install-judge` makes a model on one."""
    with pytest.raises(InputError, match="2 servers"):
        install_judge(print, url="http://a,http://b")
