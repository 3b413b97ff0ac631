"""
How a question is asked: System One, one letter, constrained decoding, or a JSON schema; decided
once a model, with the same label whichever way, and nothing lost where a way fails.
"""

import asyncio
import json
import math

import pytest

from urisk_nb import errors
from urisk_nb.llm import constrained_decoding, letters
from urisk_nb.llm.dialects import ollama, openai, systemone
from urisk_nb.llm.labels import (
    LabelMethod,
    LabelReader,
    ask_by_choices,
    ask_by_decision,
    ask_by_letters,
)
from urisk_nb.llm.messages import Final, ModelCard, ServerProps, parse_question
from urisk_nb.risk import calibration, questions
from urisk_nb.risk.evidence import Sentence
from urisk_nb.risk.inputs import Document, RiskParams
from urisk_nb.risk.taxonomy import DEFAULT
from urisk_nb.settings import Settings

TEXT = "The company was fined 2 billion dollars."
DIGITS = [str(number) for number in range(6)]


def question_of(**rest):
    document = Document(id="d", ticker="ACME", text=TEXT)
    sentence = Sentence(id="s", document=document, text=TEXT, start=0, end=len(TEXT))
    query = rest.pop("query", None)
    params = RiskParams(labels=rest.pop("labels", "calibrated"), query=query)
    return questions.build_question(sentence, params, **rest)


def request_of(question, model="m"):
    return parse_question(question.payload, model=model, keep_alive="20m", num_ctx=4096)


def drive(requests, replies):
    """What was sent, and what came out, with these replies."""
    sent, content, replies = [], None, list(replies)
    try:
        while True:
            sent.append(json.loads(requests.send(content)))
            content = replies.pop(0)
    except StopIteration as end:
        return sent, end.value


def token(text, logprob, *top, prompt=(40, 5.0), answer_ms=0.001):
    """A reply of llama.cpp to the question for one token."""
    others = [{"token": name, "logprob": value} for name, value in top]
    entry = {"token": text, "logprob": logprob, "top_logprobs": others}
    return {
        "choices": [
            {
                "finish_reason": "length",
                "message": {"content": text},
                "logprobs": {"content": [entry]},
            }
        ],
        "usage": {"prompt_tokens": prompt[0], "completion_tokens": 1},
        "timings": {
            "prompt_n": prompt[0],
            "prompt_ms": prompt[1],
            "predicted_n": 1,
            "predicted_ms": answer_ms,
        },
    }


# Constrained decoding -----------------------------------------------------------------------------


def choices_of(request):
    return constrained_decoding.find_choices(request.schema)


def test_a_label_is_two_tokens():
    """
    One token each is asked for, behind what stands already; the rest is put there, and the
    counters are the sums.
    """
    request = request_of(question_of())
    replies = [
        token("legal", -0.1, ("legal", -0.1), ("market", -2.5)),
        token("4", -0.7, ("4", -0.7), ("3", -0.9), prompt=(50, 3.0), answer_ms=1.0),
    ]
    sent, (chunk, final) = drive(ask_by_choices(request, choices_of(request)), replies)
    assert [body["messages"][-1]["content"] for body in sent] == [
        '{"risk":"',
        '{"risk":"legal","severity":',
    ]
    assert all((body["max_tokens"], body["stream"]) == (1, False) for body in sent)
    assert sent[1]["grammar"] == 'root ::= "0}" | "1}" | "2}" | "3}" | "4}" | "5}"'
    assert chunk.text == '{"risk":"legal","severity":4}'
    assert final == Final(
        done_reason="stop", prompt_tokens=40, prompt_ns=5_000_000, tokens=2, generation_ns=4_001_000
    )


def test_the_log_probabilities_are_read_as_those_of_a_written_label():
    """What stands between the choices is certain; the probabilities are the server's own."""
    request = request_of(question_of())
    replies = [
        token("legal", math.log(0.7), ("legal", math.log(0.7)), ("market", math.log(0.2))),
        token("4", math.log(0.6), ("4", math.log(0.6)), ("3", math.log(0.3))),
    ]
    _, (chunk, _) = drive(ask_by_choices(request, choices_of(request)), replies)
    assert "".join(one.text for one in chunk.logprobs) == chunk.text
    risks = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    severities = calibration.distribution(tokens_of(chunk), "severity", DIGITS)
    assert math.exp(risks["legal"]) == pytest.approx(0.7)
    assert math.exp(risks["market"]) == pytest.approx(0.2)
    assert math.exp(severities["3"]) == pytest.approx(0.3)


def tokens_of(chunk):
    return [
        calibration.Token(text=one.text, logprob=one.logprob, top_logprobs=one.top_logprobs)
        for one in chunk.logprobs
    ]


def test_a_token_that_fits_nothing_gives_up():
    """The server did not keep to the grammar: the caller asks for JSON instead."""
    request = request_of(question_of())
    _, found = drive(ask_by_choices(request, choices_of(request)), [token("poem", -1.0)])
    assert found is None


# System One ---------------------------------------------------------------------------------------


def decision(risks, severities):
    return {
        "answers": {
            "risk": {"probabilities": {**dict.fromkeys(DEFAULT.labels, 0.0), **risks}},
            "severity": {"probabilities": {**dict.fromkeys(DIGITS, 0.0), **severities}},
        },
        "usage": {"input_tokens": 46},
    }


def test_a_decision_becomes_the_label_of_its_most_probable_answers():
    """Both answers, and all probabilities as they were given."""
    question = question_of(query="fines")
    reply = decision({"legal": 0.6, "market": 0.3, "none": 0.1}, {"4": 0.5, "3": 0.5})
    (sent,), (chunk, final) = drive(ask_by_decision(question, request_of(question)), [reply])
    assert (sent["state"], sent["model"], sent["keep_alive"]) == (TEXT, "m", "20m")
    assert list(sent["questions"]["risk"]["criteria"]) == list(DEFAULT.labels)
    assert "fines" in sent["questions"]["risk"]["instructions"]
    label, reason = questions.parse(chunk.text, final.done_reason)
    assert (label.risk, label.severity, reason) == ("legal", 3, None)  # of equals the lower
    risks = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    assert math.exp(risks["market"]) == pytest.approx(0.3)
    assert math.exp(risks["none"]) == pytest.approx(0.1)
    assert math.exp(calibration.distribution(tokens_of(chunk), "severity", DIGITS)["4"]) == 0.5
    assert final.prompt_tokens == 46


def test_a_small_probability_is_kept():
    """Down to 1e-9, which stands for 0."""
    question = question_of()
    reply = decision({"legal": 0.9999, "market": 1e-4, "credit": 1e-12}, {"0": 1.0})
    _, (chunk, _) = drive(ask_by_decision(question, request_of(question)), [reply])
    found = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    assert math.exp(found["market"]) == pytest.approx(1e-4)
    assert math.exp(found["credit"]) == math.exp(found["none"]) == pytest.approx(1e-9)


@pytest.mark.parametrize("risk", DEFAULT.labels)
def test_labels_that_begin_alike_are_told_apart(risk):
    """A token is a whole label and what ends it."""
    question = question_of()
    reply = decision({risk: 1.0}, {"0": 1.0})
    _, (chunk, _) = drive(ask_by_decision(question, request_of(question)), [reply])
    found = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    assert max(found, key=found.get) == risk


# Letters ------------------------------------------------------------------------------------------


def letter(text, *top, prompt=20):
    """A reply of Ollama to the question for one letter."""
    others = [{"token": name, "logprob": math.log(share)} for name, share in top]
    shares = dict(top)
    entry = {"token": text, "logprob": math.log(shares[text]), "top_logprobs": others}
    return {
        "model": "m",
        "response": text,
        "done": True,
        "done_reason": "length",
        "prompt_eval_count": prompt,
        "prompt_eval_duration": 1000,
        "eval_count": 1,
        "eval_duration": 10,
        "total_duration": 2000,
        "load_duration": 300,
        "logprobs": [entry],
    }


ONES = {"risk": 1.0, "severity": 1.0}


def test_letters_become_the_label_of_the_most_probable_ones():
    """
    Two questions, each a prompt as it is; A is the first category and severity 0. The counters are
    the sums, and the end is that of a label.
    """
    question = question_of(form="decision")
    replies = [
        letter("E", ("E", 0.6), ("A", 0.2), ("H", 0.1)),
        letter("D", ("D", 0.5), ("E", 0.4), prompt=21),
    ]
    sent, (chunk, final) = drive(ask_by_letters(question, request_of(question), ONES), replies)
    assert [body["prompt"] for body in sent] == [
        f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n{word}:"
        for word in ("risk", "severity")
    ]
    label, reason = questions.parse(chunk.text, final.done_reason)
    assert (label.risk, label.severity, reason) == ("legal", 3, None)
    # What the letters told leave, 0.1, is no letter's: the other five have the least of the two
    risks = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    whole = 0.6 + 0.2 + 0.1 + 5 * 0.1
    assert math.exp(risks["legal"]) == pytest.approx(0.6 / whole)
    assert math.exp(risks["market"]) == pytest.approx(0.2 / whole)
    assert math.exp(risks["business"]) == pytest.approx(0.1 / whole)
    assert final == Final(
        done_reason="stop",
        prompt_tokens=41,
        prompt_ns=2000,
        tokens=2,
        generation_ns=20,
        total_ns=4000,
        load_ns=600,
    )


def test_a_letter_that_is_not_told_is_no_more_probable_than_one_that_is():
    """Ollama tells twenty tokens: what they leave may be much, and is of many others."""
    (token,) = ollama.decode_chat(letter("A", ("A", 0.5), ("B", 0.1))).logprobs
    shares = letters.read_probabilities([token], DEFAULT.labels, 1.0)
    assert shares["market"] == pytest.approx(0.5 / (0.5 + 7 * 0.1))
    assert shares["credit"] == shares["none"] == pytest.approx(0.1 / (0.5 + 7 * 0.1))


def test_each_question_has_its_temperature():
    """Square roots at 2, squares at one half."""
    question = question_of(form="decision")
    all_risks = [(one, 0.16 if one == "A" else 0.12) for one in "ABCDEFGH"]
    all_levels = [(one, 0.4 if one == "B" else 0.12) for one in "ABCDEF"]
    replies = [letter("A", *all_risks), letter("B", *all_levels)]
    temperatures = {"risk": 2.0, "severity": 0.5}
    _, (chunk, _) = drive(ask_by_letters(question, request_of(question), temperatures), replies)
    risks = calibration.distribution(tokens_of(chunk), "risk", DEFAULT.labels)
    levels = calibration.distribution(tokens_of(chunk), "severity", DIGITS)
    assert math.exp(risks["market"]) == pytest.approx(0.4 / (0.4 + 7 * math.sqrt(0.12)))
    assert math.exp(levels["1"]) == pytest.approx(0.16 / (0.16 + 5 * 0.0144))


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        ({**letter("E", ("E", 1.0)), "logprobs": None}, errors.ServerTooOld, "0.12.11"),
        (letter(" the", (" the", 0.9), ("\n", 0.1)), errors.ModelUnsuitable, "install-judge"),
        ({**letter("E", ("E", 1.0)), "done": False}, errors.ProtocolError, "update Ollama"),
    ],
    ids=["no log-probabilities", "no letter", "not done"],
)
def test_what_is_no_letter_is_an_error_with_a_way_out(reply, kind, said):
    """Never a label that nobody gave."""
    question = question_of(form="decision")
    with pytest.raises(kind) as caught:
        drive(ask_by_letters(question, request_of(question), ONES), [reply])
    assert said in caught.value.fix


# Which way ----------------------------------------------------------------------------------------


class Scripted:
    """A client that answers by a list, and keeps what it was asked."""

    settings = Settings(url="http://127.0.0.1:1")

    def __init__(self, dialect, *replies, capabilities=(), info=None, adapters=()):
        self.dialect, self.replies, self.capabilities = dialect, list(replies), capabilities
        self.info, self.props = info or {}, ServerProps(adapters=adapters)
        self.asked = []

    async def read_card(self, model):
        self.asked.append("capabilities")
        return ModelCard(capabilities=frozenset(self.capabilities), info=self.info)

    async def post(self, path, body, decode_error):
        self.asked.append(path)
        reply = self.replies.pop(0)
        if isinstance(reply, tuple):
            raise decode_error(*reply)
        return reply

    async def chat(self, body, on_chunk):
        self.asked.append("chat")
        return Final(done_reason="stop")


def ask(client, *asked, model="m"):
    """Ask each question over one reader; what was handed over."""

    async def main():
        reader, chunks = LabelReader(client), []
        for question in asked:
            request = request_of(question, model)
            body = client.dialect.encode_chat(request)
            await reader.ask(question, request, body, chunks.append)
        return [chunk.text for chunk in chunks], await reader.find_method(model)

    return asyncio.run(main())


NO_DECISION = (501, '{"error":{"message":"This model is not a decision model"}}')
LABEL = [token("legal", -0.1), token("4", -0.7)]


def test_a_decision_model_on_ollama():
    """Told by its capabilities, once."""
    reply = decision({"legal": 1.0}, {"4": 1.0})
    client = Scripted(ollama.DIALECT, reply, reply, capabilities=["decision"])
    texts, method = ask(client, question_of(), question_of(labels="greedy"))
    assert texts == ['{"risk":"legal","severity":4}'] * 2
    assert method is LabelMethod.DECISION
    assert client.asked == ["capabilities", systemone.PATH, systemone.PATH]


def test_a_chat_model_on_ollama_writes_json():
    """No grammar of ours goes over that wire."""
    client = Scripted(ollama.DIALECT, capabilities=["completion"])
    _, method = ask(client, question_of())
    assert method is LabelMethod.SCHEMA
    assert client.asked == ["capabilities", "chat"]


def test_a_chat_model_on_llama_cpp_is_asked_for_choices():
    """Whether it decides is asked once; each label is two requests."""
    client = Scripted(openai.LLAMA_CPP, NO_DECISION, *LABEL, *LABEL)
    texts, method = ask(client, question_of(), question_of(labels="greedy"))
    assert texts == ['{"risk":"legal","severity":4}'] * 2
    assert method is LabelMethod.CHOICES
    assert client.asked == ["capabilities", systemone.PATH, *["/v1/chat/completions"] * 4]


SMALLEST = {"answers": {"q": {"probabilities": {"a": 1, "b": 0}}}}


def test_a_decision_model_on_llama_cpp():
    """The smallest question tells it."""
    client = Scripted(openai.LLAMA_CPP, SMALLEST, decision({"none": 1.0}, {"0": 1.0}))
    texts, method = ask(client, question_of())
    assert (texts, method) == (['{"risk":"none","severity":0}'], LabelMethod.DECISION)


def test_beneath_the_judges_adapter_is_a_chat_model():
    """
    The server's decisions are the judge's, whoever is asked: the demo model, named, is asked for
    choices, and the judge decides.
    """
    client = Scripted(openai.LLAMA_CPP, *LABEL, adapters=("urisk-judge",))
    _, method = ask(client, question_of())
    assert method is LabelMethod.CHOICES
    assert client.asked == ["capabilities", *["/v1/chat/completions"] * 2]
    reply = decision({"none": 1.0}, {"0": 1.0})
    client = Scripted(openai.LLAMA_CPP, SMALLEST, reply, adapters=("urisk-judge",))
    _, method = ask(client, question_of(), model="urisk-judge")
    assert method is LabelMethod.DECISION
    assert client.asked == ["capabilities", systemone.PATH, systemone.PATH]


TRAINED = {letters.TEMPLATE: "...", "llama.decision.temperature.choice": 2.0}


def test_the_judge_on_ollama_is_asked_for_letters():
    """It is known by the template in its file, which also tells the temperatures."""
    replies = [
        letter("A", *[(one, 0.16 if one == "A" else 0.12) for one in "ABCDEFGH"]),
        letter("F", ("F", 1.0)),
    ]
    client = Scripted(ollama.DIALECT, *replies, capabilities=["completion"], info=TRAINED)
    texts, method = ask(client, question_of(form="decision"), model="urisk-judge:latest")
    assert (texts, method) == (['{"risk":"market","severity":5}'], LabelMethod.LETTERS)
    assert client.asked == ["capabilities", letters.PATH, letters.PATH]


@pytest.mark.parametrize(
    ("info", "temperatures"),
    [
        ({}, {"risk": 1.0, "severity": 1.0}),
        ({"llama.decision.temperature.score": 0.5}, {"risk": 1.0, "severity": 0.5}),
        (
            {
                "llama.decision.temperature.choice": 2.0,
                "llama.decision.temperature.choice.6_10": 3.0,
                "llama.decision.temperature.choice.3_5": 4.0,
            },
            {"risk": 3.0, "severity": 1.0},
        ),
        ({"llama.decision.temperature.choice": "warm"}, {"risk": 1.0, "severity": 1.0}),
        ({"llama.decision.temperature.choice": -2.0}, {"risk": 1.0, "severity": 1.0}),
        ({"llama.decision.temperature.score": 0}, {"risk": 1.0, "severity": 1.0}),
    ],
)
def test_temperatures_are_read_as_llama_cpp_reads_them(info, temperatures):
    """That of six to ten answers before that of the type, and 1 where there is none."""
    assert letters.read_temperatures({letters.TEMPLATE: "...", **info}) == temperatures


@pytest.mark.parametrize("temperature", [1e-320, 1e-3, 1.0, 1e300])
def test_any_temperature_leaves_probabilities(temperature):
    """The most probable letter stays so, and nothing is lost to the range of a float."""
    (token,) = ollama.decode_chat(letter("A", ("A", 0.5), ("B", 0.3), ("C", 0.2))).logprobs
    shares = letters.read_probabilities([token], ("a", "b", "c"), temperature)
    assert math.fsum(shares.values()) == pytest.approx(1)
    assert shares["a"] >= shares["b"] >= shares["c"] >= 0
    assert (shares["a"] == 1) == (temperature < 0.01)


def test_an_older_judge_on_ollama_is_told():
    """It wrote JSON, and its letters would mean nothing."""
    client = Scripted(ollama.DIALECT, capabilities=["completion"])
    with pytest.raises(errors.ModelUnsuitable, match="older version") as caught:
        ask(client, question_of(), model="urisk-judge")
    assert "urisk install-judge" in caught.value.fix
    assert client.asked == ["capabilities"]


@pytest.mark.parametrize(
    ("dialect", "reply"),
    [
        (openai.DIALECT, {"error": "Unexpected endpoint or method. (POST /v1/systemone)"}),
        (openai.DIALECT, (404, '{"detail":"Not Found"}')),
        (openai.LLAMA_CPP, (404, '{"error":{"message":"File Not Found","code":404}}')),
        (openai.LLAMA_CPP, (501, '{"error":{"message":"This model is not a decision model"}}')),
    ],
    ids=["LM Studio", "others", "an old llama.cpp", "a chat model"],
)
def test_a_judge_without_system_one_is_told(dialect, reply):
    """It was trained for no other way of answering; the error says where it can be asked."""
    client = Scripted(dialect, reply)
    with pytest.raises(errors.ModelUnsuitable, match="as a decision model") as caught:
        ask(client, question_of(), model="urisk-judge")
    for way in ("embedded engine", "urisk install-judge", "b11361"):
        assert way in caught.value.fix


@pytest.mark.parametrize(
    "options", [{"stop": ["x"]}, {"num_predict": 5}], ids=["stop", "cut short"]
)
def test_an_answer_that_may_be_cut_is_written(options):
    """Where the options could end it early, nothing is put there by us."""
    question = question_of()
    content = json.loads(question.payload)
    content["options"] |= options
    client = Scripted(openai.LLAMA_CPP, NO_DECISION)

    async def main():
        request = parse_question(
            json.dumps(content).encode(), model="m", keep_alive=0, num_ctx=4096
        )
        await LabelReader(client).ask(question, request, b"", lambda _: None)

    asyncio.run(main())
    assert client.asked == ["capabilities", systemone.PATH, "chat"]


def test_a_template_that_takes_no_beginning_is_asked_for_json_from_then_on():
    """It always thinks; the refusal costs one request, once."""
    refusal = (
        400,
        '{"error":{"message":"Assistant response prefill is incompatible with enable_thinking."}}',
    )
    client = Scripted(openai.LLAMA_CPP, NO_DECISION, refusal)
    _, method = ask(client, question_of(), question_of())
    assert method is LabelMethod.SCHEMA
    assert client.asked == ["capabilities", systemone.PATH, "/v1/chat/completions", "chat", "chat"]


def test_a_decision_model_is_never_asked_for_json():
    """It writes none, whatever the words of a refusal."""
    refusal = (400, '{"error":"prefill is not supported"}')
    client = Scripted(ollama.DIALECT, refusal, capabilities=["decision"])
    with pytest.raises(errors.BadRequest, match="prefill"):
        ask(client, question_of())
    assert client.asked == ["capabilities", systemone.PATH]


def test_another_refusal_is_an_error():
    """What the server does not accept is not asked in another way."""
    client = Scripted(openai.LLAMA_CPP, NO_DECISION, (400, '{"error":{"message":"no"}}'))
    with pytest.raises(errors.BadRequest):
        ask(client, question_of())


def test_several_workers_ask_once_which_way():
    """Twenty questions at once: the server is asked what it can do once."""
    client = Scripted(openai.LLAMA_CPP, NO_DECISION)

    async def main():
        reader = LabelReader(client)
        await asyncio.gather(*(reader.find_method("m") for _ in range(20)))
        reader.reset()
        client.replies.append(NO_DECISION)
        await reader.find_method("m")

    asyncio.run(main())
    assert client.asked == ["capabilities", systemone.PATH] * 2


def test_a_model_that_was_installed_again_is_looked_at_again():
    """Its digest is another one: how the one before was asked says nothing of it."""
    client = Scripted(openai.LLAMA_CPP, NO_DECISION, NO_DECISION)

    async def main():
        reader = LabelReader(client)
        for digest in ("d1", "d1", "", "d2", "d2"):
            await reader.find_method("m", digest)

    asyncio.run(main())
    assert client.asked == ["capabilities", systemone.PATH] * 2
