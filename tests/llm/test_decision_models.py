"""
Judges of others over the wire: decision models and chat models, on Ollama and elsewhere, with a
query, a taxonomy of one's own, and both kinds of labels; and how a decision model gets into memory.
"""

import contextlib
import json
import math

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from fake_openai import FakeOpenAI
from urisk_nb import assess, errors, event_loop, process_state
from urisk_nb.llm import letters
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy

SENTENCES = ["A storm closed the mine.", "The court fined the storm insurer."]
EVIDENCE = {"ACME": SENTENCES}
DECIDED = {
    SENTENCES[0]: {"risk": {"operational": 0.7, "none": 0.2}, "severity": {"3": 0.6, "4": 0.3}},
    SENTENCES[1]: {"risk": {"legal": 0.9}, "severity": {"4": 0.8}},
}
WRITTEN = {
    SENTENCES[0]: {"risk": "operational", "severity": 3},
    SENTENCES[1]: {"risk": "legal", "severity": 2},
}
OWN = Taxonomy(
    version="mine",
    categories=(
        Category(id="operational", name="Mines", definition="mines that stop"),
        Category(id="legal", name="Courts", definition="what a court says"),
    ),
)
CLEF = {"name": "clef", "capabilities": ("decision", "vision")}
NIMBLE = {"name": "nimble", "capabilities": ("completion", "decision")}
RULES = (
    *(Rule(contains=text, endpoint="systemone", answer=said) for text, said in DECIDED.items()),
    *(Rule(contains=text, endpoint="chat", answer=said) for text, said in WRITTEN.items()),
)


@pytest.fixture(autouse=True)
def ended():
    process_state.forget("priors")
    yield
    with contextlib.suppress(errors.NotInitialized):
        LLMManager.get_instance().shutdown_sync()


@contextlib.contextmanager
def ollama(*rules, models=("llama3.1", CLEF, NIMBLE), **scenario):
    """An Ollama with a chat model and two decision models; one of them chats, too."""
    scripted = Scenario(models=models, rules=(*rules, *RULES), num_ctx=8192, **scenario)
    with running(ScriptedBackend(scripted)) as server:
        yield server


@contextlib.contextmanager
def other(**rest):
    """Another server with a chat model and, where it decides, a decision model."""
    fake = FakeOpenAI(("some-7b", "kev"), **rest)
    event_loop.run(fake.start())
    try:
        yield fake
    finally:
        event_loop.run(fake.stop())


def decided(server):
    """The System One requests, without the smallest ones."""
    return [
        one["body"]
        for one in server.counters["recent"]
        if one["endpoint"] == "systemone" and "risk" in one["body"]["questions"]
    ]


def of(table):
    findings = table.report.findings
    return list(zip(findings["risk"], findings["severity"], strict=True))


WAYS = {
    "plain": {},
    "query": {"query": "storm damage"},
    "own taxonomy": {"taxonomy": OWN},
    "calibrated": {"labels": "calibrated"},
}


def ask(manager, judge, way):
    """A table by this judge, asked in one of the ways."""
    given = dict(WAYS[way])
    beside = {name: given.pop(name) for name in ("query", "taxonomy") if name in given}
    params = {"judge": judge, **given}
    return assess("ACME", evidence=EVIDENCE, manager=manager, params=params, **beside)


@pytest.mark.parametrize("way", WAYS)
def test_a_decision_model_on_ollama(way):
    """
    It is given our categories with their definitions, and the query; its most probable answers are
    the labels, with their probabilities, whatever kind of labels was wanted.
    """
    with ollama() as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        table = ask(manager, "clef", way)
        sent = decided(server)
    findings = table.report.findings
    assert of(table) == [("operational", 3), ("legal", 4)]
    assert findings["p_label"].tolist() == pytest.approx([0.7, 0.9])
    assert findings["p_severity"].tolist() == pytest.approx([0.6, 0.8])
    assert [one["state"] for one in sent] == SENTENCES, "each sentence once"
    categories = (OWN if way == "own taxonomy" else DEFAULT).categories
    criteria = sent[0]["questions"]["risk"]["criteria"]
    assert list(criteria) == [*(one.id for one in categories), "none"]
    assert criteria["legal"] == {one.id: one.definition for one in categories}["legal"]
    assert ("storm damage" in sent[0]["questions"]["risk"]["instructions"]) == (way == "query")
    assert sent[0]["keep_alive"] == "20m"
    assert table.loc["ACME", "status"] == "ok"


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_model_on_ollama(way):
    """It writes JSON by a schema of our categories; the rules in its prompt have the query."""
    with ollama() as server:
        manager = LLMManager.initialize_sync(url=server.url, model="clef")
        table = ask(manager, "llama3.1", way)
        bodies = [json.loads(record.body) for record in manager.calls.records]
    assert of(table) == [("operational", 3), ("legal", 2)]
    own = [one for one in bodies if one["messages"][-1]["content"] in SENTENCES]
    assert [one["messages"][-1]["content"] for one in own[:2]] == SENTENCES
    labels = (OWN if way == "own taxonomy" else DEFAULT).labels
    assert own[0]["format"]["properties"]["risk"]["enum"] == list(labels)
    assert ("storm damage" in own[0]["messages"][0]["content"]) == (way == "query")
    assert own[0].get("logprobs", False) == (way == "calibrated")
    probable = table.report.findings["p_label"].notna().all()
    assert probable == (way == "calibrated")


@pytest.mark.parametrize("way", WAYS)
def test_a_decision_model_elsewhere(way):
    """vLLM and the like list no capabilities: a smallest question shows it, once."""
    said = json.dumps({"risk": {"legal": 0.9}, "severity": {"4": 0.8}})
    with other(decides={"kev": said}) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="some-7b")
        table = ask(manager, "kev", way)
        sent = [body for _, path, body in server.requests if path == "/v1/systemone"]
    assert of(table) == [("legal", 4), ("legal", 4)]
    assert table.report.findings["p_label"].tolist() == pytest.approx([0.9, 0.9])
    assert [one["state"] for one in sent] == ["-", *SENTENCES]
    labels = (OWN if way == "own taxonomy" else DEFAULT).labels
    assert list(sent[1]["questions"]["risk"]["criteria"]) == list(labels)
    assert ("storm damage" in sent[1]["questions"]["risk"]["instructions"]) == (way == "query")
    assert "keep_alive" not in sent[0]


@pytest.mark.parametrize("decides", [None, {"kev": "{}"}], ids=["404", "501"])
@pytest.mark.parametrize("way", WAYS)
def test_a_chat_model_elsewhere(way, decides):
    """A server without the route, and one that has it for another model: JSON by a schema."""
    with other(decides=decides) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="kev")
        table = ask(manager, "some-7b", way)
        paths = [path for _, path, _ in server.requests]
        bodies = [body for _, path, body in server.requests if path.endswith("completions")]
    first = (OWN if way == "own taxonomy" else DEFAULT).ids[0]
    assert of(table) == [(first, 0), (first, 0)]
    assert paths.count("/v1/systemone") == 1
    assert ("storm damage" in bodies[0]["messages"][0]["content"]) == (way == "query")
    flags = table.loc["ACME", "flags"].split(";")
    assert ("no_logprobs" in flags) == (way == "calibrated")


def letter(text, share, rival):
    """One letter of the judge with its probability; the rest is a rival's."""
    shares = [(text, share), (rival, 1 - share)]
    entry = {"token": text, "logprob": math.log(share), "bytes": None}
    top = [{"token": one, "logprob": math.log(p), "bytes": None} for one, p in shares]
    return {"answer": [text], "logprobs": [{**entry, "top_logprobs": top}]}


@pytest.mark.parametrize("way", ["plain", "query", "calibrated"])
def test_our_judge_on_ollama_beside_a_decision_model(way):
    """
    One asked for letters, the other for a decision, whatever kind of labels was wanted; a query
    chooses the sentences of both.
    """
    judge = {"name": "urisk-judge", "info": {letters.TEMPLATE: "..."}}
    rules = (
        Rule(regex="risk:$", endpoint="generate", **letter("E", 0.8, "A")),
        Rule(regex="severity:$", endpoint="generate", **letter("D", 0.6, "A")),
    )
    with ollama(*rules, models=("llama3.1", CLEF, judge)) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        table = ask(manager, "urisk-judge,clef", way)
    assert of(table) == [("legal", 3), ("legal", 3)]
    assert [one["method"] for one in table.report.meta["judges"]] == ["letters", "decision"]
    assert table.report.findings["p_label"].tolist() == pytest.approx([0.8, 0.8], abs=1e-6)
    assert table.report.findings["agreement"].tolist() == [0.0, 1.0]
    assert len(table.judgements()) == 4


# In memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["clef", "nimble"])
def test_a_decision_model_is_loaded_once_and_kept(model):
    """
    Ollama refuses it a chat, also the empty one that loads other models; and one that chats would
    be loaded with the window of a chat, and again for the first decision.
    """
    with ollama() as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1", keep_alive="2h")
        loads = server.counters["loads"]
        event_loop.run(manager.ensure_model(model))
        (loaded,) = (
            one for one in event_loop.run(manager.loaded_models()) if one.name == f"{model}:latest"
        )
        assess("ACME", evidence=EVIDENCE, manager=manager, params={"judge": model})
        assert server.counters["loads"] == loads + 1
        assert loaded.num_ctx == 8192, "its own window, not the session's"
        event_loop.run(manager.unload(model))
        names = [one.name for one in event_loop.run(manager.loaded_models())]
        assert names == ["llama3.1:latest"]


def test_a_decision_model_is_pulled_if_missing():
    """As the session's model is; then it labels."""
    missing = {**CLEF, "installed": False}
    with ollama(models=("llama3.1", missing)) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        table = assess("ACME", evidence=EVIDENCE, manager=manager, params={"judge": "clef"})
        assert server.counters["paths"]["/api/pull"] == 1
    assert of(table) == [("operational", 3), ("legal", 4)]


def test_a_decision_model_as_the_sessions_own_labels_and_does_not_chat():
    """It starts, and `%%ask` ends with what to use."""
    with ollama() as server:
        manager = LLMManager.initialize_sync(url=server.url, model="clef")
        assert of(assess("ACME", evidence=EVIDENCE, manager=manager)) == [
            ("operational", 3),
            ("legal", 4),
        ]
        with pytest.raises(errors.ModelUnsuitable, match="does not support chat") as caught:
            manager.generate_sync("hi")
    assert "instruct model" in caught.value.fix


def test_a_load_that_fails_says_why():
    """The server's own words, and no sentence is asked."""
    words = "model requires more system memory (9 GiB) than is available (2 GiB)"
    with ollama(Rule(endpoint="systemone", status=500, error=words)) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1", max_retries=0)
        with pytest.raises(errors.UriskError, match="more system memory"):
            assess("ACME", evidence=EVIDENCE, manager=manager, params={"judge": "clef"})
        assert decided(server) == []


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ({"status": 400, "error": "input exceeds context length"}, None),
        ({"status": 500, "error": "input (700 tokens) is too large to process."}, None),
        ({"status": 400, "error": "criteria must contain 2–26 candidates"}, errors.ModelUnsuitable),
    ],
    ids=["too long", "too long for a batch", "too many categories"],
)
def test_what_a_decision_model_refuses(refusal, kind):
    """A sentence that is too long has no label and the run goes on; a taxonomy ends it."""
    rule = Rule(contains=SENTENCES[0], endpoint="systemone", **refusal)
    with ollama(rule) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1", max_retries=0)
        if kind is not None:
            with pytest.raises(kind) as caught:
                assess("ACME", evidence=EVIDENCE, manager=manager, params={"judge": "clef"})
            assert "fewer categories" in caught.value.fix
            return
        table = assess("ACME", evidence=EVIDENCE, manager=manager, params={"judge": "clef"})
    findings = table.report.findings
    assert findings["status"].tolist() == ["unjudged", "judged"]
    assert refusal["error"].split(".")[0] in findings["reason"][0]
