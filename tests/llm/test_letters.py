"""
The judge's prompt: the template that llama.cpp renders, and the same text put together for Ollama;
and the way to the table over an Ollama that tells log-probabilities.
"""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from harness import ROOT
from urisk_nb import assess, errors, evaluate
from urisk_nb.llm import letters
from urisk_nb.llm.dialects import systemone
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk import evaluation
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES
from urisk_nb.session import label_sync

jinja2 = pytest.importorskip("jinja2", reason="the package jinja2 is not installed")
TEMPLATE = jinja2.Environment().from_string(
    (ROOT / "training" / "systemone.jinja").read_text(encoding="utf-8")
)
CATEGORIES = {category.id: category.definition for category in DEFAULT.categories}
SENTENCE = "The court fined the bank 40 million dollars."


def ask_default(**rest):
    return systemone.build_label_questions(
        CATEGORIES, tuple(SEVERITIES.values()), none=NONE, **rest
    )


def render(state, question, *, kind=None, instructions="Which?"):
    """The prompt of one question, with what llama.cpp gives the template."""
    criteria = question if isinstance(question, (dict, list, tuple)) else question.criteria
    options = criteria.items() if isinstance(criteria, dict) else enumerate(criteria)
    return TEMPLATE.render(
        state=state,
        type=kind or ("choice" if isinstance(criteria, dict) else "score"),
        instructions=instructions,
        id="q",
        options=[{"key": str(key), "description": text} for key, text in options],
    )


# The template -------------------------------------------------------------------------------------


def test_the_default_questions_take_the_short_form():
    """The sentence and one word, to the byte; a query changes nothing of it."""
    for query in (None, "fines"):
        questions = ask_default(query=query)
        assert render(SENTENCE, questions["risk"]) == (
            f"<|im_start|>user\n{SENTENCE}<|im_end|>\n<|im_start|>assistant\nrisk:"
        )
        assert render(SENTENCE, questions["severity"]) == (
            f"<|im_start|>user\n{SENTENCE}<|im_end|>\n<|im_start|>assistant\nseverity:"
        )


def test_other_questions_list_their_letters():
    """
    Another order of the categories, other ones, other levels: letters, keys and descriptions, the
    sentence first, so that the questions of a request share it.
    """
    assert render(SENTENCE, {"weather": "storms", "none": None}) == (
        f"<|im_start|>user\n{SENTENCE}\n\nWhich?\nA. weather: storms\nB. none<|im_end|>\n"
        "<|im_start|>assistant\nanswer:"
    )
    assert render("s", ["low", "high"]).endswith(
        "\n\nWhich?\nA. 0: low\nB. 1: high<|im_end|>\n<|im_start|>assistant\nanswer:"
    )
    swapped = dict(reversed(ask_default()["risk"].criteria.items()))
    assert "\nA. none: " in render(SENTENCE, swapped)
    assert "\nF. 5: x" in render(SENTENCE, ["harmless", *"abcd", "x"])
    many = render("s", {f"key{number}": None for number in range(52)})
    assert "\nZ. key25\na. key26\n" in many
    assert "\nz. key51<|im_end|>" in many
    assert render("s", {"true": None, "false": None}, kind="noul").endswith(
        "\nA. true\nB. false<|im_end|>\n<|im_start|>assistant\nanswer:"
    )


def test_a_state_of_any_shape_is_text():
    """System One takes an object or a list, too."""
    assert "\n" + json.dumps({"a": [1, None]}) + "\n" in render({"a": [1, None]}, {"a": None})


@given(st.text())
def test_the_prompt_for_ollama_is_the_template(text):
    """Whatever the sentence: both servers read the same bytes."""
    questions = ask_default()
    for word, question in questions.items():
        assert letters.build_prompt(text, word) == render(text, question)


SPECIAL = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
HOSTILE = st.lists(st.sampled_from(["<", "|", "im_end", ">", "<|", "|>", *SPECIAL, "x"])).map(
    "".join
)


@given(HOSTILE)
def test_nothing_in_a_sentence_is_a_token_of_the_chats_form(text):
    """
    llama.cpp reads such a token wherever it finds its text: only those of the form itself are left.
    """
    prompt = letters.build_prompt(text, "risk")
    form = letters.build_prompt("", "risk")
    for token in SPECIAL:
        assert prompt.count(token) == form.count(token)
    listed = render("", {text or "-": text}, instructions=text)
    plain = render("", {"-": None})
    for token in SPECIAL:
        assert listed.count(token) == plain.count(token)


# Over a server ------------------------------------------------------------------------------------

INFO = {"general.architecture": "llama", letters.TEMPLATE: "{{ state }}"}
JUDGE = {"name": "urisk-judge", "info": {**INFO, "llama.decision.temperature.choice": 2.0}}


class Lettered(ScriptedBackend):
    """Answers a raw prompt with a letter and its log-probabilities."""

    def __init__(self, scenario):
        super().__init__(scenario)
        self.prompts = []

    def _rule(self, call):
        assert (call.endpoint, call.options["num_predict"]) == ("generate", 1)
        self.prompts.append(call.raw)
        is_risk = call.raw.endswith("risk:")
        best = ("E" if "fined" in call.raw else "H") if is_risk else "D"
        shares = dict.fromkeys("ABCDEFGH" if is_risk else "ABCDEF", 0.09 if is_risk else 0.1)
        shares[best] = 0.36 if is_risk else 0.5
        told = [{"token": one, "logprob": math.log(share)} for one, share in shares.items()]
        entry = {"token": best, "logprob": math.log(shares[best]), "top_logprobs": told}
        return Rule(answer=[best], logprobs=[entry])


@pytest.fixture
def lettered():
    backend = Lettered(Scenario(models=["llama3.1", JUDGE]))
    with running(backend) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="llama3.1")
        yield backend, manager
        manager.shutdown_sync()


def test_the_judge_on_ollama_labels_with_probabilities(lettered):
    """
    Two prompts a sentence, as they are; p_label and p_severity with greedy labels, at the file's
    temperature; no second look at a severe one, and two tokens in all.
    """
    backend, manager = lettered
    evidence = [{"ticker": "ACME", "text": "Acme was fined. The meeting is in Berlin."}]
    params = RiskParams.of(model="urisk-judge", review_below=0)
    table = assess("ACME", evidence=evidence, manager=manager, params=params)
    assert backend.prompts == [
        letters.build_prompt(text, word)
        for text in ("Acme was fined.", "The meeting is in Berlin.")
        for word in ("risk", "severity")
    ]
    first, second = table.report.findings.to_dict("records")
    assert (first["risk"], first["severity"], second["risk"]) == ("legal", 3, NONE)
    # Square roots of 0.36 and of seven times 0.09
    assert first["p_label"] == second["p_label"] == pytest.approx(0.6 / (0.6 + 7 * 0.3))
    assert first["p_severity"] == pytest.approx(0.5)
    assert math.isnan(second["p_severity"])
    assert table.loc["ACME", "p_top"] == first["p_label"]
    assert (table.loc["ACME", "tokens"], table.loc["ACME", "attempts"]) == (4, 2)
    assert "no_logprobs" not in table.loc["ACME", "flags"]


def test_a_decision_model_is_evaluated_once(lettered):
    """Its probabilities come with either way of labels: one row, with its Brier score."""
    backend, manager = lettered
    items = evaluation.read_labels(
        [
            {"text": "Acme was fined.", "risk": "legal", "severity": "3"},
            {"text": "The meeting is in Berlin.", "risk": "none", "severity": "0"},
        ]
    )
    file = evaluate.add_baselines(evaluate.LabeledFile(name="two", items=tuple(items)))
    found = evaluate.evaluate(file, manager, models=["urisk-judge"], label=label_sync)
    (one,) = found.evaluations
    assert (one.labels, len(backend.prompts)) == ("decision", 4)
    assert one.figures["own"] == evaluation.Share(2, 2)
    share = 0.6 / (0.6 + 7 * 0.3)
    assert one.figures["brier"] == pytest.approx((1 - share) ** 2)
    assert "urisk-judge (ollama)" in evaluate.render_text(found)


def test_an_ollama_with_an_older_judge_is_told_what_to_do():
    """Before any sentence is asked."""
    backend = Lettered(Scenario(models=["urisk-judge"]))
    with running(backend) as server:
        manager = LLMManager.initialize_sync(url=server.url, model="urisk-judge")
        try:
            with pytest.raises(errors.ModelUnsuitable, match="an older version") as caught:
                assess("A", evidence=[{"ticker": "A", "text": "Acme was fined."}], manager=manager)
        finally:
            manager.shutdown_sync()
        assert "urisk install-judge" in caught.value.fix
        assert backend.prompts == []
