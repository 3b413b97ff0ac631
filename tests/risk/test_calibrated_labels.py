"""
Calibrated labels in a run: a model whose probabilities are known, what is asked of it, and what
comes of it, to the digit.
"""

import json
import math
from dataclasses import replace

import pytest

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from pipeline_driver import drive, plan_for
from urisk_nb import RiskParams, assess
from urisk_nb.llm.manager import LLMManager
from urisk_nb.risk.calibration import CONTENT_FREE, Token
from urisk_nb.risk.questions import Reply, answer
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.table.risk_table import assemble

LABELS = DEFAULT.labels


def spread(**shares):
    """Probabilities over all labels: those given, and the rest shared among the others."""
    left = (1 - sum(shares.values())) / (len(LABELS) - len(shares))
    return {label: shares.get(label, left) for label in LABELS}


def digits(severity, share=0.6):
    return {str(digit): share if digit == severity else (1 - share) / 5 for digit in range(6)}


class Model:
    """
    Probabilities by text: of the risk, and of the severity given the risk. It writes the most
    probable, as greedy decoding does, within what the schema allows; and tells all.
    """

    def __init__(self, risks, severities, *, tells=True):
        self.risks, self.severities, self.tells = risks, severities, tells

    def __call__(self, question):
        body = json.loads(question.payload)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
        text = body["messages"][-1]["content"]
        risks = self.risks(text)
        risk = max(body["format"]["properties"]["risk"]["enum"], key=risks.get)
        severities = self.severities(text, risk)
        severity = max(severities, key=severities.get)
        tokens = [
            ('{"risk":"', None),
            (risk, risks),
            ('","severity":', None),
            (severity, severities),
            ("}", None),
        ]
        logprobs = tuple(self._token(*each) for each in tokens) if self.tells else ()
        return Reply(
            text=answer(risk, int(severity)),
            done_reason="stop",
            tokens=10,
            seconds=0.5,
            logprobs=logprobs,
        )

    def _token(self, text, shares):
        if shares is None:
            return Token(text=text, logprob=-0.01)
        return Token(
            text=text,
            logprob=math.log(shares[text]),
            top_logprobs=tuple((name, math.log(share)) for name, share in shares.items()),
        )


def run(model, text="Acme was fined.", **settings):
    plan = plan_for(text, labels="calibrated", **settings)
    labeled, batches = drive(plan, "AAA", model)
    return plan, labeled, [[question.purpose for question in batch] for batch in batches]


BIASED = spread(business=0.8, legal=0.05)


def test_a_label_is_what_the_sentence_adds():
    """
    Business to everything, a little less so to this sentence, and legal four times as much as to
    none: it is legal. The severity is asked with that label fixed, and corrected by what is said to
    nothing.
    """
    risks = {"Acme was fined.": spread(business=0.7, legal=0.2)}
    # To nothing it says 3 where the label is legal, and 2 where it is the one that it writes
    # itself.
    model = Model(
        lambda text: risks.get(text, BIASED),
        lambda text, risk: digits(2 if text in risks or risk != "legal" else 3, 0.5),
    )
    _, labeled, asked = run(model)
    assert asked == [
        ["label"],
        ["prior"] * len(CONTENT_FREE),
        ["severity"],
        ["prior"] * len(CONTENT_FREE),
    ]
    finding = labeled.findings[0]
    gains = {label: share / BIASED[label] for label, share in risks["Acme was fined."].items()}
    assert (finding.label.risk, finding.label.severity) == ("legal", 2)
    assert finding.p_label == pytest.approx(gains["legal"] / sum(gains.values()))
    # 0.5 for a digit of 0.1 before, 0.1 for one of 0.5 before, and 0.1 for 0.1 four times.
    assert finding.p_severity == pytest.approx(5 / (5 + 0.2 + 4))
    assert finding.flags == ()


def test_the_written_label_needs_no_further_call():
    """
    Its severity was told with it; only what is said to nothing is asked once more, given the label.
    """
    model = Model(
        lambda text: spread(legal=0.6) if "fined" in text else spread(),
        lambda text, risk: digits(3),
    )
    _, labeled, asked = run(model)
    assert asked == [["label"], ["prior"] * 4, ["prior"] * 4]
    assert labeled.findings[0].label.risk == "legal"


def test_a_sentence_that_adds_nothing_changes_nothing():
    """
    The model says to it what it says to nothing: the label stays the written one, with the share
    that all have.
    """
    model = Model(lambda text: BIASED, lambda text, risk: digits(3))
    _, labeled, asked = run(model)
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity) == ("business", 3)
    assert (finding.p_label, finding.p_severity) == (
        pytest.approx(1 / len(LABELS)),
        pytest.approx(1 / 6),
    )
    assert asked == [["label"], ["prior"] * 4, ["prior"] * 4]


def decide(question, risks, severities):
    """A decision model's reply: both answers, each with its rivals."""
    model = Model(lambda text: risks, lambda text, risk: severities)
    tells = json.loads(question.payload) | {"logprobs": True, "top_logprobs": 20}
    return model(replace(question, payload=json.dumps(tells).encode()))


@pytest.mark.parametrize("labels", ["greedy", "calibrated"])
def test_a_decision_models_probabilities_are_taken_as_they_are(labels):
    """
    Either way of labels: one question, however severe; nothing is asked about nothing and taken
    off, there is no second look, and no flag.
    """
    plan = replace(plan_for("Acme was fined.", labels=labels), form="decision")
    risks, severities = spread(business=0.7, legal=0.2), digits(5, 0.5)
    labeled, batches = drive(plan, "AAA", lambda question: decide(question, risks, severities))
    assert [[question.purpose for question in batch] for batch in batches] == [["label"]]
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity) == ("business", 5)
    assert (finding.p_label, finding.p_severity) == (pytest.approx(0.7), pytest.approx(0.5))
    assert finding.flags == ()
    table = assemble(plan, {"AAA": labeled}, run_id="r", model="m")
    assert table.loc["AAA", "p_top"] == finding.p_label
    assert list(table.report.findings["p_severity"]) == [finding.p_severity]
    assert table.report.meta["form"] == "decision"
    assert "examples_hash" not in table.report.meta


def test_a_decision_of_no_risk_has_no_severity():
    """Its probability is that of `none`; a severity of it means nothing."""
    plan = replace(plan_for("It rained."), form="decision")
    labeled, _ = drive(plan, "AAA", lambda one: decide(one, spread(none=0.6), digits(4, 0.9)))
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity) == ("none", 0)
    assert (finding.p_label, finding.p_severity) == (pytest.approx(0.6), None)


def test_a_decision_that_fails_is_asked_once():
    """It could not answer otherwise: no repair, and the reason stands in the row."""
    plan = replace(plan_for("Acme was fined."), form="decision")
    lost = Reply(text="", done_reason=None, error="the sentence is too long")
    labeled, batches = drive(plan, "AAA", lambda question: lost)
    assert [len(batch) for batch in batches] == [1]
    finding = labeled.findings[0]
    assert (finding.label, finding.reason, finding.p_label) == (None, lost.error, None)


def test_no_risk_has_no_severity():
    """Nothing more is asked about it."""
    model = Model(
        lambda text: spread(none=0.5) if "fined" in text else BIASED, lambda text, risk: digits(3)
    )
    _, labeled, asked = run(model)
    assert asked == [["label"], ["prior"] * 4]
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity, finding.p_severity) == ("none", 0, None)


def test_what_is_said_to_nothing_is_asked_once_for_all_sentences():
    """
    Three sentences, two labels: the prior of the risks once, that of the severities once for each
    label.
    """
    risks = {
        "It was fined.": spread(legal=0.5),
        "It was sued.": spread(legal=0.5),
        "It owes much.": spread(credit=0.5),
    }
    model = Model(lambda text: risks.get(text, spread()), lambda text, risk: digits(2))
    _, labeled, asked = run(model, " ".join(risks))
    assert asked == [["label"] * 3, ["prior"] * 4, ["prior"] * 8]
    assert [finding.label.risk for finding in labeled.findings] == ["legal", "legal", "credit"]


def test_a_grave_label_is_weighed_in_both_orders():
    """
    The second look has a prior of its own; the lower severity counts, the first look's
    probabilities stand.
    """
    risks = {"Acme was fined.": spread(legal=0.6)}
    model = Model(
        lambda text: risks.get(text, spread()), lambda text, risk: digits(5 if text in risks else 1)
    )
    _, labeled, asked = run(model)
    assert asked == [
        ["label"],
        ["prior"] * 4,
        ["prior"] * 4,
        ["second"],
        ["prior"] * 4,
        ["prior"] * 4,
    ]
    assert labeled.findings[0].label.severity == 5


def test_a_server_that_tells_nothing_gives_greedy_labels():
    """Flagged; nothing fails, nothing more is asked."""
    model = Model(
        lambda text: spread(business=0.7, legal=0.2), lambda text, risk: digits(2), tells=False
    )
    _, labeled, asked = run(model)
    assert asked == [["label"]]
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity, finding.p_label, finding.flags) == (
        "business",
        2,
        None,
        ("no_logprobs",),
    )


def test_greedy_labels_ask_as_before():
    """No word of log-probabilities in their bytes: what was answered yesterday is still known."""
    plan = plan_for("Acme was fined.")
    (batch,) = drive(
        plan, "AAA", lambda question: Reply(text=answer("legal", 2), done_reason="stop")
    )[1]
    assert sorted(json.loads(batch[0].payload)) == ["format", "messages", "options"]


def test_an_answer_that_is_no_label_is_repaired_and_not_weighed():
    """Its tokens belong to another question than the prior's."""
    model = Model(lambda text: spread(legal=0.6), lambda text, risk: digits(2))

    def broken(question):
        reply = model(question)
        return (
            Reply(text="?", done_reason="stop", logprobs=reply.logprobs)
            if question.purpose == "label"
            else reply
        )

    _, labeled, _ = run(broken)
    finding = labeled.findings[0]
    assert (finding.p_label, finding.flags) == (None, ("not_calibrated", "repaired"))


@pytest.mark.parametrize("purpose", ["severity", "prior"])
def test_a_further_call_that_fails_leaves_the_written_label(purpose):
    """Never a severity that nobody gave: the greedy label stands, flagged."""
    model = Model(
        lambda text: spread(business=0.7, legal=0.2) if "fined" in text else BIASED,
        lambda text, risk: digits(4),
    )

    def broken(question):
        only = len(json.loads(question.payload)["format"]["properties"]["risk"]["enum"]) == 1
        lost = Reply(text="", done_reason=None, error="the server was lost")
        return lost if question.purpose == purpose and only else model(question)

    _, labeled, _ = run(broken)
    finding = labeled.findings[0]
    assert (finding.label.risk, finding.label.severity, finding.p_label) == ("business", 4, None)
    assert "not_calibrated" in finding.flags


def test_the_table_shows_how_sure_the_model_was():
    """
    `p_top` beside the worst sentence, `p_label` and `p_severity` in the findings; greedy tables
    have no such column.
    """
    model = Model(
        lambda text: spread(legal=0.6) if "fined" in text else spread(),
        lambda text, risk: digits(3),
    )
    plan, labeled, _ = run(model)
    table = assemble(plan, {"AAA": labeled}, run_id="r", model="m")
    finding = labeled.findings[0]
    assert table.loc["AAA", "p_top"] == finding.p_label
    assert list(table.report.findings["p_label"]) == [finding.p_label]
    assert list(table.report.findings["p_severity"]) == [finding.p_severity]
    assert table.report.meta["params"]["labels"] == "calibrated"
    assert "p_top" not in assemble(plan_for("Acme was fined."), {}, run_id="r")


def test_the_sentences_are_shown_with_how_sure_the_model_was():
    """
    In both views, beside the severity; where nobody told it a dash, and with greedy labels no
    column.
    """
    model = Model(
        lambda text: spread(legal=0.6) if "fined" in text else spread(),
        lambda text, risk: digits(3),
    )
    plan, labeled, _ = run(model)
    table = assemble(plan, {"AAA": labeled}, run_id="r", model="m")
    assert f"{labeled.findings[0].p_label:.2f}" == "0.60"
    assert ">p_label</th>" in table._repr_html_()
    assert ">0.60</td>" in table._repr_html_()
    assert "legal        3  0.60  0.17  Acme was fined." in table.as_text(120)

    def partly(question):  # as where a further call failed
        reply = model(question)
        return (
            replace(reply, logprobs=())
            if "rain" in json.loads(question.payload)["messages"][-1]["content"]
            else reply
        )

    plan, labeled, _ = run(partly, "Acme was fined. It was a day of rain.")
    mixed = assemble(plan, {"AAA": labeled}, run_id="r", model="m")
    assert "   –  It was a day of rain." in mixed.as_text(120)
    model.tells = False
    plan, labeled, _ = run(model)
    greedy = assemble(plan, {"AAA": labeled}, run_id="r", model="m")
    assert "p_label" not in greedy._repr_html_()
    assert "legal        3  Acme was fined." in greedy.as_text(120)


# Over a socket ------------------------------------------------------------------------------------


class Served(ScriptedBackend):
    """
    The scripted backend with answers and probabilities by sentence and by the labels that the
    schema allows.
    """

    def _rule(self, ask):
        allowed = ask.format["properties"]["risk"]["enum"]
        shares, severity = (
            (spread(business=0.7, legal=0.2), digits(2, 0.5))
            if "fined" in ask.last
            else (BIASED, digits(3, 0.5))
        )
        risk, digit = max(allowed, key=shares.get), max(severity, key=severity.get)
        parts = [
            ('{"risk":"', None),
            (risk, shares),
            ('","severity":', None),
            (digit, severity),
            ("}", None),
        ]
        return Rule(
            answer=[text for text, _ in parts], logprobs=[logprobs(*part) for part in parts]
        )


def logprobs(text, shares):
    top_logprobs = [
        {"token": name, "logprob": math.log(share)} for name, share in (shares or {}).items()
    ]
    return {
        "token": text,
        "logprob": math.log(shares[text]) if shares else 0.0,
        "top_logprobs": top_logprobs,
    }


def test_the_whole_way_over_a_server():
    """
    Bytes of the wire to the table: the same figures as by hand, asked in ten calls, the rest known.
    """
    with running(Served(Scenario())) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        try:
            evidence = [{"ticker": ticker, "text": "Acme was fined."} for ticker in ("A", "B")]
            table = assess(
                "A, B",
                evidence=evidence,
                params=RiskParams.of(labels="calibrated"),
                manager=manager,
            )
            asked = len(manager.calls.records)
            assess(
                "C",
                evidence=[{"ticker": "C", "text": "Acme was fined again."}],
                params=RiskParams.of(labels="calibrated"),
                manager=manager,
            )
            again = len(manager.calls.records) - asked
        finally:
            manager.shutdown_sync()
    gains = {
        label: share / BIASED[label] for label, share in spread(business=0.7, legal=0.2).items()
    }
    assert list(table["top_risk"]) == ["legal", "legal"]
    assert list(table["r_legal"]) == [2, 2]
    assert list(table["p_top"]) == pytest.approx([gains["legal"] / sum(gains.values())] * 2)
    assert asked == 1 + 4 + 1 + 4, "the second ticker's questions were the first one's"
    assert again == 2, "what is said to nothing is known"
