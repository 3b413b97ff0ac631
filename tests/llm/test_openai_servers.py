"""
Sessions over OpenAI-compatible servers: found by probing or named, their model taken, what they
cannot do said; a small server as vLLM or LM Studio look, and llama.cpp's own with real weights.
"""

import asyncio
import contextlib
import math

import pytest

from fake_openai import FakeOpenAI
from harness import eventually, launch_llamacpp
from urisk_nb import assess, errors, event_loop
from urisk_nb.llm.client import Client
from urisk_nb.llm.labels import LabelMethod
from urisk_nb.llm.manager import LLMManager
from urisk_nb.llm.snapshot import probe_server
from urisk_nb.notebook import dashboard, magics, panels
from urisk_nb.server.model_server import ServerState
from urisk_nb.settings import Engine, Settings

EVIDENCE = {"ACME": ["The company was fined 2 billion dollars by regulators."]}


@contextlib.contextmanager
def serve(*models, **rest):
    """The small server, on the package's own loop."""
    fake = FakeOpenAI(models or ("some-7b",), **rest)
    event_loop.run(fake.start())
    try:
        yield fake
    finally:
        event_loop.run(fake.stop())


@pytest.fixture(autouse=True)
def ended():
    yield
    with contextlib.suppress(errors.NotInitialized):
        LLMManager.get_instance().shutdown_sync()


def start(fake, **rest):
    return LLMManager.initialize_sync(url=fake.url, **rest)


def test_the_one_model_of_a_server_is_taken_and_that_is_said():
    """Nobody named one: the only one answers, and a note says which."""
    with serve() as fake:
        manager = start(fake)
        assert (manager.model, manager.judge) == ("some-7b", "some-7b")
        assert (manager.engine, manager.dialect.name, manager.version) == (
            Engine.OPENAI,
            "openai",
            "vllm",
        )
        assert (manager.num_ctx, manager.slots, manager.state) == (8192, 1, ServerState.EXTERNAL)
        assert manager.notes == ("No model was named: this server has only some-7b.",)
        assert manager.snapshot().notes == manager.notes
        answer = manager.generate_sync("hi", options={"seed": 1, "num_predict": 4})
        assert (answer, answer.engine, answer.done_reason) == ("Hello world", "openai", "stop")
        assert (answer.timing.tokens, answer.timing.prompt_tokens) == (2, 7)
        assert math.isnan(answer.timing.queue_s)
        sent = fake.requests[-1][2]
        assert (sent["max_tokens"], sent["seed"], sent["model"]) == (4, 1, "some-7b")
        assert "keep_alive" not in sent


def test_the_other_names_of_the_one_model_are_told():
    """A llama.cpp server may have the judge so; the path of its file is told nowhere."""
    with serve("/home/me/some-7b.gguf", owner="llamacpp", aliases=["urisk-judge"]) as fake:
        (note,) = start(fake).notes
        assert note == "No model was named: this server has only some-7b.gguf (also urisk-judge)."


class BesideTheJudge(FakeOpenAI):
    """llama.cpp's own server with the judge's adapter, and System One where it is said so."""

    system_one = True
    adapters = ("urisk-judge",)

    async def _reply(self, writer, path, body):
        if path == "/lora-adapters":
            entries = [
                {"id": number, "path": f"/p/{name}.gguf", "scale": 1.0}
                for number, name in enumerate(self.adapters)
            ]
            self._send(writer, 200, entries)
        elif path == "/v1/systemone" and self.system_one:
            options = {
                name: one["criteria"]
                if isinstance(one["criteria"], dict)
                else [str(level) for level in range(len(one["criteria"]))]
                for name, one in body["questions"].items()
            }
            answers = {
                name: {
                    "probabilities": {key: 0.7 if not at else 0.1 for at, key in enumerate(keys)}
                }
                for name, keys in options.items()
            }
            self._send(writer, 200, {"answers": answers, "usage": {"input_tokens": 40}})
        else:
            await super()._reply(writer, path, body)


@contextlib.contextmanager
def beside_the_judge(**kinds):
    fake = BesideTheJudge(("smollm2-135m",), owner="llamacpp", aliases=["urisk-judge"])
    fake.system_one = kinds.get("system_one", True)
    fake.adapters = kinds.get("adapters", fake.adapters)
    event_loop.run(fake.start())
    try:
        yield fake
    finally:
        event_loop.run(fake.stop())


def test_the_judge_decides_and_chats_are_without_its_adapter():
    """
    A run is one request a sentence, with both questions and the probabilities of both; every chat
    of the model beneath turns the adapter off.
    """
    with beside_the_judge() as fake:
        manager = start(fake)
        assert (manager.model, manager.judge) == ("smollm2-135m", "urisk-judge")
        table = assess(["ACME"], evidence=EVIDENCE, manager=manager)
        sent = [body for _, path, body in fake.requests if path == "/v1/systemone"]
        assert [list(body["questions"]) for body in sent] == [["q"], ["risk", "severity"]]
        assert sent[-1]["model"] == "urisk-judge"
        (finding,) = table.report.findings.to_dict("records")
        assert (finding["risk"], finding["severity"]) == ("market", 0)
        assert finding["p_label"] == pytest.approx(0.7 / 1.4)
        assert finding["p_severity"] == pytest.approx(0.7 / 1.2)
        manager.generate_sync("hi")
        assert fake.requests[-1][2]["lora"] == [{"id": 0, "scale": 0.0}]
        manager.ask_sync(b'{"messages":[{"role":"user","content":"hi"}]}')
        assert fake.requests[-1][2]["lora"] == [{"id": 0, "scale": 0.0}]


def test_of_several_adapters_the_judges_is_left_out_and_the_judge_has_it():
    """By its number on this server; a chat with the judge itself says nothing of it."""
    chat = b'{"messages":[{"role":"user","content":"hi"}]}'
    with beside_the_judge(adapters=("style", "urisk-judge")) as fake:
        manager = start(fake)
        manager.ask_sync(chat)
        assert fake.requests[-1][2]["lora"] == [{"id": 1, "scale": 0.0}]
        fake.models = (*fake.models, "urisk-judge")
        manager.ask_sync(chat, "urisk-judge")
        assert fake.requests[-1][2]["model"] == "urisk-judge"
        assert "lora" not in fake.requests[-1][2]


def test_a_server_without_system_one_cannot_serve_the_judge():
    """One request tells it, before any sentence is asked; the row stays, with its metrics."""
    with beside_the_judge(system_one=False) as fake:
        manager = start(fake)
        with pytest.raises(errors.ModelUnsuitable, match="as a decision model") as caught:
            assess(["ACME"], evidence=EVIDENCE, manager=manager)
        assert "llama.cpp" in caught.value.fix
        assert list(caught.value.partial["status"]) == ["not_run"]
        assert [path for _, path, _ in fake.requests].count("/v1/systemone") == 1


def test_a_second_start_says_each_note_once():
    """
    What the model before needed is taken back, what holds still stands once; a start that fails
    changes nothing.
    """
    with serve("some-7b", aliases=["other"]) as fake:
        manager = start(fake, keep_alive="1h")
        note, kept = manager.notes
        assert note == "No model was named: this server has only some-7b (also other)."
        assert kept.startswith("OLLAMA_KEEP_ALIVE has no effect")
        for _ in range(2):
            with pytest.raises(errors.ModelNotFound) as caught:
                start(fake, model="nope")
            assert "It has: some-7b (also other)." in caught.value.message
            assert manager.notes == (note, kept)
        for name in ("other", "some-7b"):
            assert start(fake, model=name) is manager
            assert manager.notes == (kept,)


def test_an_option_that_the_server_does_not_take_is_named():
    """In plain words, with those that it takes."""
    with serve() as fake, pytest.raises(errors.InputError) as caught:
        start(fake).generate_sync("hi", options={"foo": 1})
    assert caught.value.message == "this server does not take the option 'foo'."


def test_a_stream_comes_in_pieces():
    """As the server gives them; leaving in the middle reaches it."""
    with serve(answer=("a", "b", "c", "d")) as fake:
        manager = start(fake)
        assert list(manager.stream_sync("hi")) == ["a", "b", "c", "d"]
        fake.token_s = 0.05
        for piece in manager.stream_sync("hi"):
            assert piece == "a"
            break
        eventually(lambda: not manager.limiter.in_flight, 2, "the end of the call")


def test_a_model_is_named_exactly_as_the_server_has_it():
    """vLLM knows exact names only; one that is not there is an error that lists what is."""
    with serve("Org/Some-7B", "other") as fake:
        assert start(fake, model="org/some-7b").model == "Org/Some-7B"
        with pytest.raises(errors.ModelNotFound, match=r"has no model 'mine'.*Org/Some-7B, other"):
            start(fake, model="mine")


def test_several_models_and_none_named():
    """Nothing is guessed."""
    with serve("one", "two") as fake:
        with pytest.raises(errors.ModelNotFound, match="several models") as caught:
            start(fake)
        assert "OLLAMA_MODEL=one" in caught.value.fix


@pytest.mark.parametrize("given", ["", "/v1"])
def test_an_address_with_a_path(given):
    """Behind a proxy, and as the documents of such servers write it."""
    with serve(prefix="/team") as fake:
        fake.url += given
        manager = start(fake)
        assert manager.generate_sync("hi") == "Hello world"
        assert manager.url == fake.url


def test_a_server_behind_a_path_is_never_started(monkeypatch):
    """Nothing answers there: it is said, and nothing is started in its place."""
    with serve() as fake:
        address = fake.url
    with pytest.raises(errors.ServerNotRunning, match="not started from here"):
        LLMManager.initialize_sync(url=f"{address}/team/v1")


def test_the_wire_may_be_named():
    """A named wire is the only one that is tried."""
    with serve() as fake:
        assert start(fake, dialect="openai").dialect.name == "openai"
        assert [path for _, path, _ in fake.requests if path == "/api/version"] == []
        with pytest.raises(errors.PortTaken, match="it is not Ollama"):
            start(fake, dialect="ollama")
        with pytest.raises(errors.PortTaken, match="answered by the openai engine"):
            start(fake, dialect="auto", engine="ollama")
        with pytest.raises(errors.SettingsError, match="engine is 'openai'; wanted: auto"):
            start(fake, engine="openai")


@pytest.mark.parametrize("what", ["unload", "loaded_models"])
def test_what_it_cannot_do_is_one_clear_error(what):
    """No such thing on this wire: said with the name of the server, and nothing is sent."""
    with serve() as fake:
        manager = start(fake)
        before = len(fake.requests)
        with pytest.raises(errors.NotSupportedByServer, match=r"the openai server at .* cannot"):
            event_loop.run(getattr(manager, what)())
        assert len(fake.requests) == before


def test_settings_that_mean_nothing_here_are_said():
    """The window and the keep-alive were named by the user and are the server's own."""
    with serve() as fake:
        notes = " ".join(start(fake, num_ctx=2048, keep_alive="1h").notes)
        assert "URISK_NUM_CTX has no effect here: this server's window has 8192 tokens" in notes
        assert "OLLAMA_KEEP_ALIVE has no effect here" in notes


def test_a_risk_table_by_a_json_schema():
    """A server that has neither decisions nor grammars writes JSON, held to the schema."""
    with serve() as fake:
        manager = start(fake)
        table = assess(["ACME"], evidence=EVIDENCE, manager=manager)
        assert table.loc["ACME", "judged"] == 1
        assert table.report.meta["served_by"] == {
            "model": "some-7b",
            "engine": "openai",
            "server": "vllm",
            "url": manager.url,
            "num_ctx": 8192,
        }
        sent = fake.requests[-1][2]
        assert sent["response_format"]["json_schema"]["schema"]["required"] == ["risk", "severity"]


def test_a_server_without_schemas_ends_a_table_with_what_to_use_instead():
    """`response_format` is refused: the run says so, and that no call of yours is wrong."""
    with serve() as fake:
        manager = start(fake)
        fake.status, fake.error = 400, "response_format is not supported"
        with pytest.raises(errors.NotSupportedByServer, match="hold an answer to a JSON schema"):
            assess(["ACME"], evidence=EVIDENCE, manager=manager)


def test_a_key_that_is_wanted_is_said():
    """401 on the list of models is no other program: it lets nobody in."""

    class Closed(FakeOpenAI):
        async def _reply(self, writer, path, body):
            if path == "/v1/models":
                self._send(writer, 401, {"error": {"message": "Missing API key"}})
            else:
                await super()._reply(writer, path, body)

    fake = Closed()
    event_loop.run(fake.start())
    try:
        with pytest.raises(errors.AccessDenied, match="Missing API key"):
            start(fake)
    finally:
        event_loop.run(fake.stop())


@pytest.fixture(scope="module")
def llama(demo_model):
    """With the demo weights."""
    with launch_llamacpp(demo_model) as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_llama_cpp_started_by_hand_answers_and_labels(llama):
    """
    Chat and labels over one server of others: both models by their names, each asked in its way,
    the window and the slots as it tells them, its phases in the timing.
    """
    manager = LLMManager.initialize_sync(url=llama)
    assert (manager.engine, manager.dialect.name) == (Engine.OPENAI, "llama.cpp")
    assert (manager.model, manager.judge) == ("smollm2-135m", "urisk-judge")
    assert (manager.num_ctx, manager.slots) == (4096, 1)
    answer = manager.generate_sync("Name two colors.", options={"num_predict": 4, "temperature": 0})
    assert (answer.done_reason, answer.timing.tokens) == ("length", 4)
    timing = answer.timing
    assert min(timing.prompt_s, timing.generation_s) > 0
    spent_s = timing.queue_s + timing.load_s + timing.prompt_s + timing.generation_s
    assert spent_s == pytest.approx(timing.total_s)
    found = []
    for labels in ("greedy", "calibrated"):
        table = assess(["ACME"], evidence=EVIDENCE, manager=manager, params={"labels": labels})
        found += table.report.findings.to_dict("records")
        assert (table.loc["ACME", "tokens"], table.loc["ACME", "attempts"]) == (0, 1)
    assert found[0]["risk"] == found[1]["risk"]
    assert 1 / 8 < found[0]["p_label"] == pytest.approx(found[1]["p_label"], abs=0.02)
    by_name = {"labels": "greedy", "model": "smollm2-135m"}
    table = assess(["ACME"], evidence=EVIDENCE, manager=manager, params=by_name)
    assert table.loc["ACME", "tokens"] >= 2
    assert asyncio.run(methods(manager)) == {
        "urisk-judge": LabelMethod.DECISION,
        "smollm2-135m": LabelMethod.CHOICES,
    }
    now = manager.snapshot(event_loop.run(probe_server(manager)))
    assert now.server_label.startswith("llama.cpp ")
    assert now.server_label.endswith(f"at {llama}, already running")
    assert (now.probe.problem, now.is_loaded, now.slots, now.num_ctx) == ("", None, 1, 4096)
    assert (now.is_managed, now.state) == (False, ServerState.EXTERNAL)
    head = panels.render_head(now)
    assert "Ready" in head
    assert "does not list the models in its memory" in head


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_judge_knows_a_fine(llama):
    """By its own weights, and sure of it."""
    manager = LLMManager.initialize_sync(url=llama)
    table = assess(["ACME"], evidence=EVIDENCE, manager=manager)
    (finding,) = table.report.findings.to_dict("records")
    assert (finding["risk"], finding["p_label"] > 0.9) == ("legal", True)


async def methods(manager):
    return dict(manager.lead.labels._methods)


@pytest.mark.slow
@pytest.mark.parametrize("header", ["llama.cpp", "nginx"])
def test_a_llama_cpp_server_that_loads_is_waited_for(header):
    """
    `Loading model` means wait: the session begins when it is ready. A proxy may have replaced the
    header.
    """
    busy = [503, 503]

    class Loading(FakeOpenAI):
        async def _reply(self, writer, path, body):
            status = busy.pop() if busy and path == "/v1/models" else 200
            if path != "/api/version" and status == 200:
                await super()._reply(writer, path, body)
            else:
                self._send(
                    writer, max(404, status), {"error": {"message": "Loading model"}}, header
                )

    fake = Loading()
    event_loop.run(fake.start())
    try:
        assert start(fake).model == "some-7b"
    finally:
        event_loop.run(fake.stop())


def test_a_server_that_is_gone_keeps_its_session_and_its_calls(capsys):
    """
    It was not started here, and nothing takes its place: the session says that nothing answers,
    until the server is back.
    """
    fake = FakeOpenAI()
    event_loop.run(fake.start())
    try:
        manager = start(fake, auto_start=False)
        manager.generate_sync("hi")
    finally:
        event_loop.run(fake.stop())
    gone = f"nothing answers at {fake.url}"
    with pytest.raises(errors.ServerNotRunning, match=gone):
        LLMManager.initialize_sync()
    assert LLMManager.get_instance() is manager
    assert (manager.state, len(manager.calls)) == (ServerState.FAILED, 1)
    now = manager.snapshot()
    assert now.failure == (f"{gone}.", "start that server again, then %urisk_start")
    assert now.server_label.endswith("not running")
    magics._show_status()
    said = capsys.readouterr().out
    assert gone in said
    assert "not started" not in said
    assert gone in dashboard.take_picture()[0]
    event_loop.run(fake.start(int(fake.url.rpartition(":")[2])))
    try:
        assert LLMManager.initialize_sync() is manager
        assert (manager.state, manager.server.failure) == (ServerState.EXTERNAL, None)
        assert manager.generate_sync("hi") == "Hello world"
        assert len(manager.calls) == 2
    finally:
        event_loop.run(fake.stop())
    event_loop.run(manager.check_external())
    assert manager.state is ServerState.FAILED
    with serve() as other:
        assert start(other).url == other.url
        assert manager.state is ServerState.STOPPED


class OnlyChat(FakeOpenAI):
    """Has no list of models; refuses a chat without messages, as such servers do."""

    chat_path = "/v1/chat/completions"

    async def _reply(self, writer, path, body):
        if path != self.chat_path:
            self._send(writer, 404, {"detail": "Not Found"})
        elif not body["messages"]:
            self._send(writer, 400, {"error": {"message": "messages is empty"}})
        else:
            await super()._reply(writer, "/v1/chat/completions", body)


def test_a_server_without_a_list_of_models():
    """Chat is enough where wire and model were named; else it is asked for them."""
    fake = OnlyChat()
    event_loop.run(fake.start())
    try:
        with pytest.raises(errors.PortTaken):
            start(fake)
        with pytest.raises(errors.PortTaken):
            start(fake, dialect="openai")
        manager = start(fake, dialect="openai", model="some-7b")
        assert manager.generate_sync("hi") == "Hello world"
        assert event_loop.run(manager.lead.client.probe()) == ""
        fake.chat_path = "/elsewhere"
        manager.shutdown_sync()
        with pytest.raises(errors.PortTaken):
            start(fake, dialect="openai", model="some-7b")
    finally:
        event_loop.run(fake.stop())


def test_a_probe_tells_the_dialect_again_after_another_server_took_the_place():
    """What was found is kept until it is asked for anew."""

    async def main(url):
        client = Client(Settings(url=url))
        try:
            await client.probe()
            assert client.dialect.name == "openai"
            client.forget_dialect()
            assert client.dialect.name == "openai"
            await client.probe()
            assert client.dialect.name == "openai"
        finally:
            await client.aclose()

    with serve() as fake:
        asyncio.run(main(fake.url))


TEMPLATE = (
    "{{ state }}\n{{ id }}?\n{% for option in options %}{{ option.key }}"
    "{% if option.description %}: {{ option.description }}{% endif %}\n{% endfor %}Answer:"
)


@pytest.fixture(scope="module")
def decision_model(demo_model, tmp_path_factory):
    """The demo weights as a decision model: three keys on top of the file."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    source = gguf.GGUFReader(demo_model)
    path = tmp_path_factory.mktemp("decision") / "decision.gguf"
    out = gguf.GGUFWriter(path, "llama")
    for one in source.fields.values():
        if not one.name.startswith("GGUF.") and one.name != "general.architecture":
            kind, inner = one.types[0], one.types[-1]
            is_list = kind == gguf.GGUFValueType.ARRAY
            out.add_key_value(one.name, one.contents(), kind, sub_type=inner if is_list else None)
    out.add_string("llama.decision.type", "openjev")
    out.add_string("tokenizer.chat_template.systemone", TEMPLATE)
    out.add_array("tokenizer.chat_templates", ["systemone"])
    for one in source.tensors:
        out.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    yield path
    path.unlink()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_decision_model_labels_by_system_one(decision_model):
    """
    Any GGUF with a decision head is asked through System One: one request a label, probabilities of
    every category and severity, no token written. Untrained, its labels mean nothing.
    """
    with launch_llamacpp(decision_model) as url:
        manager = LLMManager.initialize_sync(url=url)
        assert manager.model == "decision"
        table = assess(
            ["ACME"], evidence=EVIDENCE, manager=manager, params={"labels": "calibrated"}
        )
        assert table.loc["ACME", "judged"] == 1
        assert table.loc["ACME", "tokens"] == 0
        (finding,) = table.report.findings.to_dict("records")
        assert 0 < finding["p_label"] <= 1
        assert asyncio.run(methods(manager)) == {"decision": LabelMethod.DECISION}
        assert manager.generate_sync("hi", options={"num_predict": 2}).timing.tokens == 2
