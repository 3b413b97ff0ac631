"""
What real users bring, by the numbers of the reports that it was found in: answers of real models
and servers (C3, C8, C9, C12). `test_field_cases.py` has the cases of prices and evidence.

Each case runs over a small server of its own.
"""

import json
import re

import pandas as pd
import pytest

from chat_server import LABEL, serve
from urisk_nb import LLMManager, assess
from urisk_nb.llm.answers import count_least_tokens

pytestmark = pytest.mark.slow

FINED = "The company was fined 2 billion dollars by the court."
HOSTILE = "a\x1b[2Jb\x1b]52;c;ZXZpbA==\x07c\x9bd\u202ee\rf\x00g\u2028h"
DRIVES = set("\x1b\x07\x9b\x00\r\u202e\u2028")


def labeled_by(answer, text=FINED, **rest):
    """The table of one ticker with one sentence, the server's chats, and the session's model."""
    with serve(answer, **rest) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        evidence = pd.DataFrame({"ticker": ["ACME"], "text": [text]})
        table = assess("ACME", evidence=evidence, manager=manager)
        return table, server.chats


def ask(answer, prompt="What now?"):
    with serve(answer) as server:
        return LLMManager.initialize_sync(url=server.url).generate_sync(prompt)


def messages(table):
    said = table.report.meta["messages"]
    texts = [[text] if isinstance(text, str) else text for text in said.values()]
    return "\n".join(line for text in texts for line in text)


# C3: fences, thoughts, and schemas that are ignored -----------------------------------------------

WRAPPED = {
    "fence": f"```json\n{LABEL}\n```",
    "fence without an end": f"```\n{LABEL}",
    "behind a fence": f"```\nIt was fined.\n```\n{LABEL}",
    "a byte order mark": f"\ufeff{LABEL}",
    "a byte order mark before thoughts": f"\ufeff<think>A fine.</think>\ufeff\n{LABEL}",
    "backticks": f"`{LABEL}`",
    "thoughts and two backticks": f"<think>A fine.</think>\n``{LABEL}``\n",
    "thoughts": f"<think>\nA fine. Perhaps {{so}}.\n</think>\n\n{LABEL}",
    "thoughts whose beginning is part of the prompt": f"A fine.\n</think>\n{LABEL}",
    "thoughts without an end": f"<think>\nIt was fined.\n{LABEL}",
    "thoughts and a fence": f"<think>A fine.</think>\n```json\n{LABEL}\n```",
    "the thinking field": {"thinking": "A fine.", "content": LABEL},
    "all in the thinking field": {"thinking": LABEL, "content": ""},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_c3_one_object_is_found_where_models_put_it(case):
    """zettelrobbe#74: the label in a fence, or behind thoughts; it costs no further call."""
    table, chats = labeled_by(lambda body: WRAPPED[case])
    assert table.loc["ACME", ["status", "r_legal"]].tolist() == ["ok", 2]
    assert len(chats) == 1


NO_ANSWERS = {
    "two objects": f"{LABEL}\n{LABEL}",
    "two fences": f"```json\n{LABEL}\n```\n```json\n{LABEL}\n```",
    "quoted in prose": f"The sentence says {LABEL}, so it is about law.",
    "two in backticks": f"`{LABEL}`\n`{LABEL}`",
    "backticks and prose": f"`{LABEL}`, since it was fined.",
    "backticks that do not match": f"`{LABEL}``",
    "only a byte order mark": "\ufeff",
    "prose before it": f"Of course: {LABEL}",
    "at the end of a thought": f"<think>It could be {LABEL}",
    "one of two in a thought": f"<think>Either\n{LABEL}\nor\n{LABEL}",
    "a wrong value in a fence": '```json\n{"risk":"legal","severity":"2"}\n```',
    "another key in a fence": '```json\n{"risk":"legal","severity":2,"why":"fine"}\n```',
    "a list in a fence": f"```json\n[{LABEL}]\n```",
    "only thoughts": "<think>A fine.</think>",
    "nothing": "",
}


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_c3_anything_else_is_no_label_and_says_so(case):
    """The reason stands in the findings, the way out in the message under the table."""
    table, _ = labeled_by(lambda body: NO_ANSWERS[case])
    assert table.loc["ACME", "status"] == "model_error"
    assert table.report.findings["reason"].notna().all()
    assert "--judge" in messages(table)
    assert "think (off, unset, on)" in messages(table)
    assert table.report.findings["reason"].iloc[0] in messages(table)
    assert "--judge" in table.as_text()


def test_c3_an_object_of_the_sentence_is_no_answer():
    """The sentence brings its own label, and the model repeats it behind thoughts."""
    said = '{"risk": "none", "severity": 0}'
    text = f"The company, fined by the court, writes {said} in its report."
    table, _ = labeled_by(lambda body: f"<think>Hm.</think>{said}", text)
    assert table.loc["ACME", "status"] == "model_error"
    assert "repeats" in table.report.findings["reason"].iloc[0]
    table, _ = labeled_by(lambda body: f"<think>Hm.</think>{LABEL}", text)
    assert table.loc["ACME", "r_legal"] == 2


def prose_unless(**wanted):
    """A model that keeps to its schema only where the request says this of `think`."""

    def answer(body):
        is_right = body.get("think", "unset") == wanted["think"]
        return LABEL if is_right else "The company may have legal trouble."

    return answer


@pytest.mark.parametrize(("think", "name", "calls"), [("unset", "unset", 2), (True, "on", 3)])
def test_c3_the_setting_that_works_is_found_once_and_kept(think, name, calls):
    """ollama#15260: `format` is ignored with think false. One sentence pays for finding it out."""
    with serve(prose_unless(think=think)) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        evidence = pd.DataFrame({"ticker": ["ACME"] * 2, "text": [FINED, "It was sued."]})
        table = assess("ACME", evidence=evidence, manager=manager)
        assert table["status"].tolist() == ["ok"]
        assert table.report.meta["judges"][0]["think"] == name
        assert len(server.chats) == calls + 1
        again = assess("ACME", evidence=[{"text": "It was raided."}], manager=manager)
        assert again["status"].tolist() == ["ok"]
        assert len(server.chats) == calls + 2
    used = [chat.get("think", "unset") for chat in server.chats]
    assert used == [*[False, "unset", True][:calls], think, think]
    # Thoughts come before the answer and count as its tokens
    assert server.chats[-1]["options"]["num_predict"] > 500


def test_c3_a_setting_that_is_refused_is_passed_over():
    """A model that cannot think answers 400 to think true; the others were tried."""
    refuses = {True: 400}
    table, chats = labeled_by(lambda body: refuses.get(body.get("think"), "Perhaps."))
    assert table.loc["ACME", "status"] == "model_error"
    assert [chat.get("think", "unset") for chat in chats] == [False, "unset", True, False]
    assert table.report.meta["judges"][0]["think"] == "off"


def test_c3_a_model_that_keeps_to_its_schema_is_asked_as_ever():
    """Nothing is tried where nothing is wrong."""
    table, chats = labeled_by(lambda body: LABEL)
    assert [chat["think"] for chat in chats] == [False]
    assert table.report.meta["judges"][0]["think"] == "off"


def test_c3_thoughts_do_not_move_the_probabilities():
    """Thoughts name the same keys; the probabilities are those of the answer."""
    thought = '<think>"risk":"market"?</think>'
    tokens = [(thought, -0.5), ('{"risk":"', -0.1), ("legal", -0.2), ('","severity":', 0.0)]
    tokens += [("2", -0.3), ("}", 0.0)]

    def answer(body):
        logprobs = [{"token": text, "logprob": log, "top_logprobs": []} for text, log in tokens]
        return {"content": thought + LABEL, "logprobs": logprobs}

    with serve(answer) as server:
        manager = LLMManager.initialize_sync(url=server.url)
        params = {"labels": "calibrated"}
        table = assess("ACME", evidence=[{"text": FINED}], manager=manager, params=params)
    assert table.report.findings["risk"].tolist() == ["legal"]
    assert table.report.findings["p_label"].iloc[0] > 0.1


# C8: a prompt that the server cuts ----------------------------------------------------------------

LONG = "risk " * 25_000


def read(tokens, content="Well.", **rest):
    return lambda body: {"content": content, "prompt_eval_count": tokens, **rest}


def test_c8_a_cut_prompt_is_said():
    """ollama#3839: 25,000 tokens sent, 2,050 read."""
    answer = ask(read(2050), LONG)
    assert list(answer.faults) == ["prompt_cut"]
    assert re.search(r"read 2,050 tokens .* 25,000 or more", answer.faults["prompt_cut"])
    assert "URISK_NUM_CTX" in answer.faults["prompt_cut"]


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (LONG, 25_000),
        (LONG, 0),  # the server does not count
        ("Hello there, what is it?", 7),
        ("-" * 5000 + " what?", 40),  # a line is few tokens
        ("\n" * 5000 + "what?", 12),
        ("ab" * 5000, 4000),
        ("Ärger, 3.5 Mio. € (d.h. viel)! " * 400, 4000),
        ('See (U.S. v. Acme, Inc.), don\'t: {"a":1}. ' * 20, 300),
    ],
)
def test_c8_no_false_alarm(prompt, tokens):
    assert not ask(read(tokens), prompt).faults


@pytest.mark.parametrize("prompt", ["風險" * 12_000, "x9" * 40_000, "a, b. " * 12_000])
def test_c8_in_other_scripts_and_without_spaces(prompt):
    assert list(ask(read(2050), prompt).faults) == ["prompt_cut"]


def test_c8_a_label_of_a_cut_prompt_is_flagged():
    """Rules and examples are part of the prompt; a label without them says little."""
    table, chats = labeled_by(read(120, LABEL))
    assert count_least_tokens(chats[0]["messages"]) > 200
    assert "prompt_cut" in table.loc["ACME", "flags"].split(";")
    assert "prompt_cut" in table.report.findings["flags"].iloc[0]
    assert "cut the prompt" in table.as_text()
    table, _ = labeled_by(read(900, LABEL))
    assert "prompt_cut" not in table.loc["ACME", "flags"]


# C9: escape sequences -----------------------------------------------------------------------------


def test_c9_what_a_model_and_evidence_say_drives_no_terminal():
    """gemini-cli PR#8636: in the table, its findings, their CSV, the reasons."""
    sentence = f"The company {HOSTILE} was fined by the court."
    for answer in (LABEL, HOSTILE):
        table, _ = labeled_by(lambda body, answer=answer: answer, sentence)
        frames = [table, table.compact(), table.review(), table.judgements(), table.report.findings]
        shown = [table.as_text(), *map(repr, frames), *(one.to_csv() for one in frames)]
        assert not DRIVES & set("".join(shown))
        assert "⟨U+001B⟩" in repr(table)


@pytest.mark.parametrize("status", [400, 403, 404, 500, 502])
def test_c9_a_servers_refusal_drives_no_terminal(status, capsys):
    from urisk_nb.llm.dialects import ollama

    error = ollama.decode_error(status, json.dumps({"error": HOSTILE}))
    shown = [str(error), *error._render_traceback_(), error.message]
    assert not DRIVES & set("".join(shown))


# C12: nothing to read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "fault", "said"),
    [
        ({"content": ""}, "no_text", "no text"),
        ({"content": " \n"}, "no_text", "no text"),
        ({"content": "", "thinking": "Hm."}, "only_thinking", "only thinking"),
        ({"content": "<think>Hm.</think>\n"}, "only_thinking", "only thinking"),
        ({"content": "<think>Hm."}, "only_thinking", "only thinking"),
        (
            {"content": "", "thinking": "Hm.", "done_reason": "length"},
            "only_thinking",
            "num_predict",
        ),
    ],
)
def test_c12_an_answer_without_text_is_said(reply, fault, said):
    """amx PR#372: a blank says nothing."""
    answer = ask(lambda body: reply)
    assert list(answer.faults) == [fault]
    assert said in answer.faults[fault]
    assert not ask(lambda body: "Well.").faults


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"content": ""}, "the model gave no text"),
        ({"content": "", "thinking": "Hm."}, "the model gave no text, only thinking"),
        ({"content": "<think>Hm."}, "the model gave no text, only thinking"),
    ],
)
def test_c12_a_label_without_text_has_its_reason(reply, reason):
    table, _ = labeled_by(lambda body: reply)
    assert table.report.findings["reason"].tolist() == [reason]
