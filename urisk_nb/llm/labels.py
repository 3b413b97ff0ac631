"""
How a question about one sentence is asked: in the best way that the server offers, decided once a
model.

A decision model gives every label its probability in one pass (System One); so does the judge of
this package on Ollama, asked for one letter a question. llama.cpp's own server is asked for one
token at each place where the schema leaves a choice, and reports its log-probabilities (constrained
decoding). Any other server writes JSON that it holds to a schema.

Each way is a generator of requests that is given the replies: it can be tested without a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import (
    BadRequest,
    ModelError,
    ModelUnsuitable,
    ProtocolError,
)
from urisk_nb.llm import constrained_decoding, letters
from urisk_nb.llm.client import Client, DecodeError, OnChunk
from urisk_nb.llm.dialects import ollama, openai, systemone
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import (
    JUDGE,
    ChatRequest,
    Chunk,
    Final,
    ModelCard,
    TokenLogprob,
    is_judge,
)
from urisk_nb.llm.written_labels import LabelWriter, SchemaSetting
from urisk_nb.risk.taxonomy import NONE, SEVERITIES, Taxonomy

if TYPE_CHECKING:
    from urisk_nb.risk.questions import Form, Question

__all__ = [
    "Judge",
    "LabelMethod",
    "LabelReader",
    "ask_by_choices",
    "ask_by_decision",
    "ask_by_letters",
    "build_questions",
]

MIN_PROBABILITY = 1e-9
Requests = Generator[bytes, Any, tuple[Chunk, Final] | None]
"""Yields bodies, is sent the JSON of their replies, and returns the answer; None: ask for JSON."""


class LabelMethod(StrEnum):
    """How a question is asked."""

    DECISION = "decision"  # System One: the probability of every answer, no text
    LETTERS = "letters"  # the judge on Ollama: the same, read from one token a question
    CHOICES = "choices"  # one token where the schema leaves a choice, the rest is put there
    SCHEMA = "schema"  # JSON, held to a schema by the server

    @property
    def is_decision(self) -> bool:
        """Whether the reply has the probability of every label."""
        return self in (LabelMethod.DECISION, LabelMethod.LETTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """
    A model that labels, and how it is asked.

    Attributes
    ----------
    model
        Its name, as it was given.
    digest
        Of the model, as the server tells it, or of its file where urisk_nb started the server;
        empty where neither is known.
    session
        Which session asks it. Where there is no digest, its answers hold for this session alone.
    setting
        Of a model that writes its labels; it is found out at the first ones.
    """

    model: str
    method: LabelMethod
    digest: str = ""
    session: str = field(default="", compare=False)
    setting: SchemaSetting | None = field(default=None, compare=False)

    @property
    def form(self) -> Form:
        """What a question to it holds."""
        return "decision" if self.method.is_decision else "examples"

    @property
    def record(self) -> dict[str, str | None]:
        """What a run records of it, JSON-able."""
        record = {
            "model": self.model,
            "digest": self.digest or None,
            "method": str(self.method),
            "form": self.form,
        }
        return record if self.setting is None else record | {"think": str(self.setting.think)}

    @property
    def advice(self) -> str:
        """What to do where no setting makes it keep to the schema; empty else."""
        if self.setting is None or not self.setting.is_ignored:
            return ""
        tried = ", ".join(self.setting.choices)
        return (
            f"{self.model} gives no label ({self.setting.reason}), with any setting of think "
            f"({tried}). Label with another model: --judge NAME, such as urisk-judge or an "
            "instruct model that does not think."
        )


class LabelReader:
    """
    Asks questions and returns their answers as compact JSON; used on one loop.

    Parameters
    ----------
    client
        Who is asked.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods: dict[str, LabelMethod] = {}
        self._digests: dict[str, str] = {}
        self._temperatures: dict[str, float] = {}  # of the judge's two questions, on Ollama
        self._lock = asyncio.Lock()
        self.writer = LabelWriter(client)

    def reset(self) -> None:
        """Decide anew at the next question: another server may answer by then."""
        self._methods.clear()
        self.writer.reset()

    async def find_method(self, model: str, digest: str = "") -> LabelMethod:
        """
        Return how this model is asked; the first call asks the server what it can do.

        With another digest than before it asks again: the model was installed anew under its name,
        and may be asked in another way or have other temperatures.
        """
        if digest and self._digests.setdefault(model, digest) != digest:
            self.reset()
            self._digests[model] = digest
        if model not in self._methods:
            async with self._lock:  # several workers begin at once
                if model not in self._methods:
                    self._methods[model] = await self._choose(model)
        return self._methods[model]

    async def _choose(self, model: str) -> LabelMethod:
        client = self._client
        card = await client.read_card(model)
        if systemone.CAPABILITY in card.capabilities:
            return LabelMethod.DECISION
        if is_judge(model):
            return await self._choose_for_judge(card)
        # Where the judge's adapter is loaded, the server's decisions are the judge's, whoever is
        # asked: this is the model beneath it.
        if not client.dialect.can(Feature.CAPABILITIES) and JUDGE not in client.props.adapters:
            # These servers do not list what a model can do: a smallest question shows it.
            with contextlib.suppress(ModelError, BadRequest, ProtocolError):
                await self._decide_smallest(model)
                return LabelMethod.DECISION
        return LabelMethod.CHOICES if client.dialect.can(Feature.GRAMMAR) else LabelMethod.SCHEMA

    async def _choose_for_judge(self, card: ModelCard) -> LabelMethod:
        """
        Return how urisk-judge is asked: it was trained to answer with letters and writes no JSON.

        Raises ModelUnsuitable where it cannot be asked.
        """
        if self._client.dialect.can(Feature.CAPABILITIES):
            self._temperatures = letters.read_temperatures(card.info)
            return LabelMethod.LETTERS
        try:
            await self._decide_smallest(JUDGE)
        except (ModelError, BadRequest, ProtocolError) as exc:
            raise ModelUnsuitable(
                f"{self._client.settings.url} does not serve {JUDGE} as a decision model: "
                f"{exc.message}",
                fix="use the embedded engine (%urisk_start --engine embedded --url "
                "http://127.0.0.1:11500), Ollama with `urisk install-judge`, or llama.cpp's own "
                "server from b11361 on with the file that this command makes",
            ) from exc
        return LabelMethod.DECISION

    async def _decide_smallest(self, model: str) -> None:
        """Ask a smallest question, and check the reply; raise what a refusal means."""
        body = systemone.encode_smallest(model=model)
        content = await self._client.post(systemone.PATH, body, systemone.decode_error)
        systemone.decode_smallest(content)  # LM Studio answers an unknown route with 200 and words

    async def ask(
        self, question: Question | None, request: ChatRequest, body: bytes, on_chunk: OnChunk
    ) -> Final:
        """
        Ask and return the end of the answer.

        Parameters
        ----------
        question
            What is asked about; None where only the chat is known, which then is sent as it is.
        request, body
            The same as a chat, and the chat's bytes.
        on_chunk
            Called with the answer, in one piece where it is not written.
        """
        client = self._client
        if question is None and not client.dialect.can(Feature.GRAMMAR):
            return await client.chat(body, on_chunk)
        method = await self.find_method(request.model)
        path, decode_error, requests = self._open_requests(method, question, request)
        content = None
        while requests is not None:
            try:
                content = await client.post(path, requests.send(content), decode_error)
            except StopIteration as end:
                if end.value is None:
                    break
                answer: tuple[Chunk, Final] = end.value
                on_chunk(answer[0])
                return answer[1]
            except BadRequest as exc:
                # A template that always thinks takes no beginning of an answer: JSON it is, from
                # now on.
                if method.is_decision or "prefill" not in str(exc.facts.get("said", "")):
                    raise
                self._methods[request.model] = LabelMethod.SCHEMA
                break
        async with self.writer.open(question, request, body, on_chunk) as writing:
            while True:
                with writing.attempt():
                    await client.chat(writing.body, writing.take)
                if await writing.is_done():
                    return writing.hand_over()

    def _open_requests(
        self, method: LabelMethod, question: Question | None, request: ChatRequest
    ) -> tuple[str, DecodeError, Requests | None]:
        """Return where to ask, what a refusal means, and the requests; None: the chat alone."""
        if method is LabelMethod.DECISION and question is not None:
            return systemone.PATH, systemone.decode_error, ask_by_decision(question, request)
        if method is LabelMethod.LETTERS and question is not None:
            requests = ask_by_letters(question, request, self._temperatures)
            return letters.PATH, ollama.decode_error, requests
        dialect = self._client.dialect
        choices = _find_choices(request) if method is LabelMethod.CHOICES else None
        by_choices = ask_by_choices(request, choices) if choices else None
        return dialect.chat_path, dialect.decode_error, by_choices


# Constrained decoding -----------------------------------------------------------------------------


def _find_choices(request: ChatRequest) -> tuple[constrained_decoding.Choice, ...] | None:
    """Return the choices that are all there is to the answer, or None: the model writes it."""
    choices = constrained_decoding.find_choices(request.schema)
    limit = request.options.get("num_predict", -1)
    if choices is None or request.options.get("stop"):
        return None
    is_enough = limit < 0 or constrained_decoding.max_answer_bytes(choices) <= limit
    return choices if is_enough else None


def ask_by_choices(
    request: ChatRequest, choices: Sequence[constrained_decoding.Choice]
) -> Requests:
    """
    Ask llama.cpp for one token at each choice; the log-probabilities are those of the written
    answer.

    The counters are the sums over the requests. The time to read what the second and later ones add
    to the prompt is time of the answer, as it would be had the model written it.
    """
    steps = constrained_decoding.decode(choices)
    tokens: list[TokenLogprob] = []
    finals: list[Final] = []
    try:
        prefill, options = next(steps)
        while True:
            grammar = constrained_decoding.build_grammar(options)
            content = yield openai.encode_token(request, prefill=prefill, grammar=grammar)
            token, final = openai.decode_token(content)
            tokens.append(token)
            finals.append(final)
            prefill, options = steps.send(token.text)
    except StopIteration as end:
        pieces = end.value
    if pieces is None:
        return None
    reported = [
        tokens[number // 2] if number % 2 else TokenLogprob(text=piece, logprob=0.0)
        for number, piece in enumerate(pieces)
        if piece
    ]
    chunk = Chunk(text="".join(pieces), logprobs=tuple(reported))
    first, *others = finals
    spent_ns = sum(f.generation_ns for f in finals) + sum(f.prompt_ns for f in others)
    return chunk, Final(
        done_reason="stop",
        prompt_tokens=first.prompt_tokens,
        prompt_ns=first.prompt_ns,
        tokens=len(tokens),
        generation_ns=spent_ns,
    )


# System One ---------------------------------------------------------------------------------------


def ask_by_decision(question: Question, request: ChatRequest) -> Requests:
    """
    Ask a decision model for the probabilities of every risk and severity.

    The answer is the compact JSON of the most probable ones. Its tokens carry the probabilities as
    log-probabilities, so that it is read like a written label.
    """
    questions = build_questions(question.taxonomy, question.query)
    content = yield systemone.encode_decision(
        model=request.model,
        state=question.sentence.text,
        questions=questions,
        keep_alive=request.keep_alive,
    )
    probabilities, prompt_tokens = systemone.decode_decision(content, questions)
    return _to_chunk(probabilities), Final(done_reason="stop", prompt_tokens=prompt_tokens)


def build_questions(taxonomy: Taxonomy, query: str | None) -> dict[str, systemone.TypedQuestion]:
    """Return what a decision model is asked about each sentence: the risk, and the severity."""
    return systemone.build_label_questions(
        {category.id: category.definition for category in taxonomy.categories},
        tuple(SEVERITIES.values()),
        none=NONE,
        query=query,
    )


# Letters ------------------------------------------------------------------------------------------


def ask_by_letters(
    question: Question, request: ChatRequest, temperatures: Mapping[str, float]
) -> Requests:
    """
    Ask the judge on Ollama for the letter of the risk, and for that of the severity.

    The answer is the same as a decision's, and so are its tokens. The counters are the sums. The
    order of the categories decides which letter is whose, so only the default ones are asked.

    Parameters
    ----------
    temperatures
        By question, `risk` and `severity`.
    """
    asked = {"risk": question.taxonomy.labels, "severity": tuple(map(str, SEVERITIES))}
    probabilities, finals = {}, []
    for word, answers in asked.items():
        prompt = letters.build_prompt(question.sentence.text, word)
        content = yield ollama.encode_letter(request, prompt)
        final = ollama.decode_chat(content)
        if not isinstance(final, Final):
            raise ProtocolError(
                f"the reply of {letters.PATH} is not done: {str(content)[:80]!r}.",
                fix="update Ollama (ollama.com/download)",
            )
        finals.append(final)
        probabilities[word] = letters.read_probabilities(
            final.logprobs, answers, temperatures[word]
        )
    counters = ("total_ns", "load_ns", "prompt_tokens", "prompt_ns", "tokens", "generation_ns")
    sums = {name: sum(getattr(final, name) for final in finals) for name in counters}
    return _to_chunk(probabilities), Final(done_reason="stop", **sums)


# The answer of both -------------------------------------------------------------------------------


def _to_chunk(probabilities: Mapping[str, Mapping[str, float]]) -> Chunk:
    """Return the most probable answers as a written label, each with its rivals."""
    tokens = (
        TokenLogprob(text='{"risk":"', logprob=0.0),
        _to_token(probabilities["risk"], '",'),
        TokenLogprob(text='"severity":', logprob=0.0),
        _to_token(probabilities["severity"], "}"),
    )
    return Chunk(text="".join(token.text for token in tokens), logprobs=tokens)


def _to_token(probabilities: Mapping[str, float], end: str) -> TokenLogprob:
    """
    Return the most probable answer as a token, with the others as its rivals; the first of equals
    wins.
    """
    logs = {name + end: math.log(max(MIN_PROBABILITY, p)) for name, p in probabilities.items()}
    text = max(logs, key=lambda name: logs[name])
    rivals = tuple((name, log) for name, log in logs.items() if name != text)
    return TokenLogprob(text=text, logprob=logs[text], top_logprobs=rivals)
