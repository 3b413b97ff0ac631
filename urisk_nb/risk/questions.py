"""What the model is asked, as exact bytes, and what counts as an answer.

A payload is canonical JSON of ``format``, ``messages`` and ``options``. It is hashed, cached and
compared, so it is put together by hand here and depends on no library's version. Everything before
the last message is the same for every sentence of a run: the server keeps it in its prefix cache
and reads only the sentence anew. Over 400 lines, of which the worked examples and the docstrings
are half.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from urisk_nb.errors import InputError
from urisk_nb.risk.answer_text import find_answer, is_only_thinking, quotes_object
from urisk_nb.risk.calibration import CONTENT_FREE, Token
from urisk_nb.risk.evidence import Sentence, clean_text
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.taxonomy import DEFAULT, NONE, SEVERITIES, Taxonomy

__all__ = [
    "EXAMPLES",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Example",
    "Form",
    "Label",
    "Message",
    "Purpose",
    "Question",
    "Reply",
    "answer",
    "build_content_free",
    "build_question",
    "check_examples",
    "choose_examples",
    "examples_hash",
    "messages",
    "parse",
    "repair",
    "schema",
]

SCHEMA_VERSION = "schema_v1"
Message = dict[str, str]
Purpose = Literal["label", "repair", "second", "severity", "prior"]
MAX_TOP_LOGPROBS = 20  # tokens at each place, the most that Ollama gives
PLACEHOLDER = "\x00sentence\x00"  # where the sentence stands in a payload that is made once a run

Form = Literal["examples", "decision"]
"""
How a model is asked: a chat model with the rules and worked examples. A decision model is given the
sentence and the categories, and answers with the probability of each label.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """
    One answer: the risk of a sentence and its severity, 0 to 5.

    0 reduces the risk; with ``none`` it is 0 and means nothing.
    """

    risk: str
    severity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A worked example: a sentence about an invented company, and the labels that it deserves."""

    text: str
    risk: str
    severity: int


def _example(risk: str, severity: int, text: str) -> Example:
    return Example(text=text, risk=risk, severity=severity)


# Both ends are of middle severity: a weak model repeats what it saw last, here and in reverse order
# (docs/prompts.md).
EXAMPLES: tuple[Example, ...] = (
    _example("legal", 3, "A regulator opened an investigation into Acme's pricing."),
    _example("operational", 0, "Acme opened its new plant on schedule."),
    _example(
        "business",
        4,
        "Acme lowered its revenue forecast for the year to 40 million dollars because of weak "
        "demand.",
    ),
    _example("operational", 4, "Hackers stole the records of 3 million Acme customers."),
    _example(
        "credit",
        4,
        "Acme must repay 900 million dollars of bonds next year and its rating was cut to junk.",
    ),
    _example("liquidity", 5, "Acme expects to run out of cash within nine months."),
    _example("none", 0, "The annual meeting takes place in Berlin."),
    _example(
        "governance",
        4,
        "Acme's auditor resigned and the chief financial officer left without notice.",
    ),
    _example("market", 1, "Higher commodity prices could affect results at some point."),
    _example(
        "market", 2, "A stronger dollar would reduce Acme's foreign sales by about 2 percent."
    ),
    _example(
        "business", 2, "Acme plans to buy a rival for 3 billion dollars and will keep its brand."
    ),
    _example(
        "legal",
        4,
        "Acme paid a 2.1 billion dollar penalty to settle charges that it misled regulators.",
    ),
    _example("governance", 2, "Acme will stop reporting sales by product."),
    _example("legal", 3, "Acme may have shared the personal data of its users without consent."),
    _example(
        "business",
        3,
        "Subscribers grew by 1 million, less than the 2 million that Acme had forecast.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    What a server answered to one question.

    Attributes
    ----------
    text, done_reason
        The message and why it ended; only ``stop`` counts as an answer.
    tokens, prompt_tokens
        Answered, and read, by the server's counters.
    seconds, attempts
        From the first attempt to the last token, and how many attempts it took.
    cached
        Answered without asking the server.
    error
        Why there is no answer, or None.
    logprobs
        The tokens with their log-probabilities, where they were asked for and the server gives
        them.
    has_thoughts
        The server gave the model's thoughts apart from the text.
    flags
        What is wrong with the exchange, whatever the answer says: ``prompt_cut``.
    """

    text: str
    done_reason: str | None
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 1
    cached: bool = False
    error: str | None = None
    logprobs: tuple[Token, ...] = ()
    has_thoughts: bool = False
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    One call: exact bytes, and what they are about.

    Attributes
    ----------
    key
        Sha256 of the payload, as hex: the same key is the same question, whoever asks.
    payload
        Canonical JSON with ``format``, ``messages`` and ``options``; model, stream and keep_alive
        are the sender's.
    purpose
        ``label`` (the first look), ``repair`` (its answer was no label), ``second`` (the examples
        in reverse order), ``severity`` (the risk is given, and only the severity is asked),
        ``prior`` (one of these about a sentence without content).
    taxonomy, query
        What a decision model is told in place of the chat: the categories, and what the reader
        asks about.
    """

    key: str
    payload: bytes
    ticker: str
    sentence: Sentence
    purpose: Purpose
    taxonomy: Taxonomy = DEFAULT
    query: str | None = None


def schema(taxonomy: Taxonomy, only: str | None = None) -> dict[str, Any]:
    """
    Return the JSON schema of an answer, with one risk alone where it is given.

    The properties are in alphabetical order, since one of a server's two paths sorts them.
    """
    return {
        "additionalProperties": False,
        "properties": {
            "risk": {"enum": list(taxonomy.labels) if only is None else [only], "type": "string"},
            "severity": {"enum": sorted(SEVERITIES), "type": "integer"},
        },
        "required": ["risk", "severity"],
        "type": "object",
    }


SCHEMA = schema(DEFAULT)


def _canonical(content: object) -> bytes:
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def examples_hash(examples: Sequence[Example]) -> str:
    """Return the sha256 over the worked examples in their order, as hex: what a run records."""
    return hashlib.sha256(_canonical([[e.text, e.risk, e.severity] for e in examples])).hexdigest()


def choose_examples(taxonomy: Taxonomy) -> tuple[Example, ...]:
    """Return the worked examples for these categories: one that is not among them is no answer."""
    return tuple(example for example in EXAMPLES if example.risk in taxonomy.labels)


def check_examples(examples: Sequence[Example], taxonomy: Taxonomy) -> None:
    """
    Check that each worked example carries labels that the model may answer.

    Raises
    ------
    InputError
        A label is not in the taxonomy, or a text is empty.
    """
    for example in examples:
        _, reason = parse(answer(example.risk, example.severity), "stop", taxonomy)
        if reason or not example.text.strip():
            raise InputError(
                f"the worked example {example.text[:60]!r} has labels {example.risk!r}, "
                f"{example.severity!r}: {reason or 'no text'}.",
                fix=f"use one of {', '.join(taxonomy.labels)} and a whole number from 0 to 5",
            )


def answer(risk: str, severity: int) -> str:
    """
    Return the compact JSON that is shown as an answer.

    It has ten to twelve tokens; free white space would make thirty.
    """
    return json.dumps({"risk": risk, "severity": severity}, separators=(",", ":"))


def rules(taxonomy: Taxonomy, query: str | None = None) -> str:
    """Return the system message: task, categories, anchors and the reader's question."""
    lines = [
        (
            "You are a financial risk analyst. Judge the sentence about a company: which risk it "
            "shows and how severe. "
            "Severity 0 means that it reduces the risk. Answer as compact JSON."
        ),
        "Risk categories:",
        *(f"{category.id}: {clean_text(category.definition)}" for category in taxonomy.categories),
        "Severity: "
        + ", ".join(f"{number} {anchor}" for number, anchor in SEVERITIES.items())
        + ".",
        f"{NONE}: not about a risk of this company",
    ]
    if query:
        lines.append(
            f"The reader asks about: {clean_text(query)}. "
            f"A sentence that does not bear on it is {NONE}."
        )
    return "\n".join(lines)


def messages(
    text: str, taxonomy: Taxonomy, examples: Sequence[Example], query: str | None = None
) -> list[Message]:
    """Return the chat: the rules, the worked examples as turns, and the sentence last."""
    chat = [("system", rules(taxonomy, query))]
    for example in examples:
        chat.append(("user", clean_text(example.text)))
        chat.append(("assistant", answer(example.risk, example.severity)))
    return [{"role": role, "content": content} for role, content in [*chat, ("user", text)]]


@functools.lru_cache(maxsize=64)
def _encode_around(
    *,
    taxonomy: Taxonomy,
    examples: tuple[Example, ...],
    form: Form,
    only: str | None,
    query: str | None,
    seed: int,
    num_predict: int,
    labels: str,
) -> tuple[bytes, bytes]:
    """Return a payload before and after its sentence: the same for every sentence of a run."""
    is_chat = form == "examples"
    alone = [{"role": "user", "content": PLACEHOLDER}]
    content: dict[str, Any] = {
        "format": schema(taxonomy, only),
        "messages": messages(PLACEHOLDER, taxonomy, examples, query) if is_chat else alone,
        "options": {"num_predict": num_predict, "seed": seed, "temperature": 0},
    }
    if labels == "calibrated" and is_chat:
        content |= {"logprobs": True, "top_logprobs": MAX_TOP_LOGPROBS}
    before, _, after = _canonical(content).rpartition(_canonical(PLACEHOLDER))
    return before, after


def build_question(
    sentence: Sentence,
    params: RiskParams,
    taxonomy: Taxonomy = DEFAULT,
    *,
    ticker: str = "",
    examples: Sequence[Example] = EXAMPLES,
    form: Form = "examples",
    reverse: bool = False,
    only: str | None = None,
) -> Question:
    """
    Return the question about one sentence.

    Parameters
    ----------
    sentence
        Only its cleaned text is sent; neither the company's name nor the sentence before it
        (docs/prompts.md has the measurement).
    params
        ``query``, ``seed`` and ``num_predict`` are part of the bytes; with calibrated labels so is
        the wish for log-probabilities.
    ticker
        For whom it is asked; not part of the bytes.
    form
        ``decision``: the bytes hold the sentence alone; the rest is put as System One asks it.
    reverse
        The second look: the worked examples in reverse order.
    only
        The risk that is given: how severe is it?
    """
    before, after = _encode_around(
        taxonomy=taxonomy,
        examples=tuple(reversed(examples)) if reverse else tuple(examples),
        form=form,
        only=only,
        query=params.query,
        seed=params.seed,
        num_predict=params.num_predict,
        labels=params.labels,
    )
    payload = before + _canonical(sentence.text) + after
    return Question(
        key=hashlib.sha256(payload).hexdigest(),
        payload=payload,
        ticker=ticker,
        sentence=sentence,
        purpose="severity" if only is not None else "second" if reverse else "label",
        taxonomy=taxonomy,
        query=params.query,
    )


def build_content_free(
    params: RiskParams,
    taxonomy: Taxonomy = DEFAULT,
    *,
    examples: Sequence[Example] = EXAMPLES,
    reverse: bool = False,
    only: str | None = None,
) -> tuple[Question, ...]:
    """
    Return the same question about sentences without content.

    What the model says to them it says whatever it reads.
    """
    documents = [
        Document(id=f"nothing{number}", ticker=None, text=text)
        for number, text in enumerate(CONTENT_FREE)
    ]
    questions = [
        build_question(
            Sentence(id=one.id, document=one, text=one.text, start=0, end=len(one.text)),
            params,
            taxonomy,
            examples=examples,
            reverse=reverse,
            only=only,
        )
        for one in documents
    ]
    return tuple(replace(question, purpose="prior") for question in questions)


def repair(question: Question, bad_reply: str, taxonomy: Taxonomy = DEFAULT) -> Question:
    """
    Return the one further question after an answer that was no label.

    It is the same chat, what was said, and what is wanted.
    """
    content = json.loads(question.payload)
    content["messages"] += [
        {"role": "assistant", "content": clean_text(bad_reply[:200]) or "{}"},
        {
            "role": "user",
            "content": "That is not an answer in the wanted form. Judge the same sentence again "
            "and answer only with "
            f'{{"risk":...,"severity":...}}, risk one of {", ".join(taxonomy.labels)}, severity a '
            "whole number from 0 to 5.",
        },
    ]
    payload = _canonical(content)
    return replace(
        question,
        key=hashlib.sha256(payload).hexdigest(),
        payload=payload,
        purpose="repair",
    )


def parse(
    text: str,
    done_reason: str | None,
    taxonomy: Taxonomy = DEFAULT,
    *,
    sentence: str = "",
    has_thoughts: bool = False,
) -> tuple[Label | None, str | None]:
    """
    Return the label in a reply, or None and the reason why it is no answer.

    Raises nothing, whatever the text. The reply is one JSON object, by itself or behind the model's
    thoughts or in a code fence; see `urisk_nb.risk.answer_text`.

    Parameters
    ----------
    text, done_reason
        Of the reply.
    sentence
        What was judged: an object that it holds is a quotation where it is not the whole reply.
    has_thoughts
        The server gave the model's thoughts apart from the text.

    Notes
    -----
    The schema is checked here although the server was told it: servers have been seen to ignore it.
    By hand, and in tests against a validator of JSON Schema Draft 2020-12: loading one takes
    seconds where JupyterLab's packages are installed, and there are two keys. The severity of
    ``none`` has no meaning and becomes 0.
    """
    if done_reason != "stop":
        so_far = ", and is only thinking" if _lacks_text(text, has_thoughts=has_thoughts) else ""
        return None, f"the answer did not end by itself (done_reason {done_reason!r}){so_far}"
    answer = find_answer(text)
    try:
        content = json.loads(answer, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        if _lacks_text(text, has_thoughts=has_thoughts):
            return None, "the model gave no text, only thinking"
        return None, "the answer is not JSON" if text.strip() else "the model gave no text"
    if answer != text.strip() and quotes_object(answer, sentence):
        return None, "the answer only repeats what the sentence says"
    if (fault := _fault(content, taxonomy)) is not None:
        return None, f"the answer is not in the schema: {fault[:120]}"
    risk = str(content["risk"])
    return Label(risk=risk, severity=0 if risk == NONE else int(content["severity"])), None


def _lacks_text(text: str, *, has_thoughts: bool) -> bool:
    """Return whether there are thoughts, and no text."""
    return is_only_thinking(text) or (has_thoughts and not text.strip())


def _fault(content: Any, taxonomy: Taxonomy) -> str | None:
    """Return why this is no object of the schema, or None."""
    if not isinstance(content, dict):
        return "it is not an object"
    if set(content) != {"risk", "severity"}:
        return f"it has the keys {sorted(content)}, not risk and severity"
    risk, severity = content["risk"], content["severity"]
    if not isinstance(risk, str) or risk not in taxonomy.labels:
        return f"risk is {risk!r}"
    if (
        isinstance(severity, bool)
        or not isinstance(severity, int | float)
        or severity not in SEVERITIES
    ):
        return f"severity is {severity!r}"
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice")
    return content
