"""
How a question about one sentence is asked: in the best way that the server offers, decided once a
model.

A decision model gives every label its probability in one pass (System One). llama.cpp's own server
is asked for one token at each place where the schema leaves a choice, and reports its
log-probabilities (constrained decoding). Any other server writes JSON that it holds to a schema.

Each way is a generator of requests that is given the replies: it can be tested without a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Generator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from urisk_nb.errors import BadRequest, ModelError, ProtocolError
from urisk_nb.llm import constrained_decoding
from urisk_nb.llm.client import Client, OnChunk
from urisk_nb.llm.dialects import openai, systemone
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import ChatRequest, Chunk, Final, TokenLogprob
from urisk_nb.risk.taxonomy import NONE, SEVERITIES

if TYPE_CHECKING:
    from urisk_nb.risk.questions import Question

__all__ = ["LabelMethod", "LabelReader", "ask_by_choices", "ask_by_decision"]

MIN_PROBABILITY = 1e-9
Requests = Generator[bytes, Any, tuple[Chunk, Final] | None]
"""Yields bodies, is sent the JSON of their replies, and returns the answer; None: ask for JSON."""


class LabelMethod(StrEnum):
    """How a question is asked."""

    DECISION = "decision"  # System One: the probability of every answer, no text
    CHOICES = "choices"  # one token where the schema leaves a choice, the rest is put there
    SCHEMA = "schema"  # JSON, held to a schema by the server


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
        self._lock = asyncio.Lock()

    def reset(self) -> None:
        """Decide anew at the next question: another server may answer by then."""
        self._methods.clear()

    async def find_method(self, model: str) -> LabelMethod:
        """Return how this model is asked; the first call asks the server what it can do."""
        if model not in self._methods:
            async with self._lock:  # several workers begin at once
                if model not in self._methods:
                    self._methods[model] = await self._choose(model)
        return self._methods[model]

    async def _choose(self, model: str) -> LabelMethod:
        with contextlib.suppress(BadRequest, ProtocolError):  # some servers have no such route
            if systemone.CAPABILITY in await self._client.read_capabilities(model):
                return LabelMethod.DECISION
        if not self._client.dialect.can(Feature.GRAMMAR):
            return LabelMethod.SCHEMA
        try:
            # llama.cpp does not list what its model can do: a smallest question shows it.
            body = systemone.encode_decision(model=model, state="-", questions=SMALLEST)
            await self._client.post(systemone.PATH, body, systemone.decode_error)
        except (ModelError, BadRequest, ProtocolError):
            return LabelMethod.CHOICES
        return LabelMethod.DECISION

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
        client, method = self._client, await self.find_method(request.model)
        path, decode_error, requests = client.dialect.chat_path, client.dialect.decode_error, None
        if method is LabelMethod.DECISION and question is not None:
            path, decode_error = systemone.PATH, systemone.decode_error
            requests = ask_by_decision(question, request)
        elif method is LabelMethod.CHOICES and (choices := _find_choices(request)):
            requests = ask_by_choices(request, choices)
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
                if method is LabelMethod.DECISION or "prefill" not in str(
                    exc.facts.get("said", "")
                ):
                    raise
                self._methods[request.model] = LabelMethod.SCHEMA
                break
        return await client.chat(body, on_chunk)


SMALLEST = {"q": systemone.TypedQuestion(instructions="?", criteria={"a": None, "b": None})}


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
    taxonomy, risk = question.taxonomy, question.risk
    questions = systemone.build_label_questions(
        {category.id: category.definition for category in taxonomy.categories},
        tuple(SEVERITIES.values()),
        none=NONE,
        risk=risk,
        query=question.query,
    )
    content = yield systemone.encode_decision(
        model=request.model,
        state=question.sentence.text,
        questions=questions,
        keep_alive=request.keep_alive,
    )
    probabilities, prompt_tokens = systemone.decode_decision(content, questions)
    tokens = (
        TokenLogprob(text='{"risk":"', logprob=0.0),
        _to_token(probabilities.get("risk", {risk or "": 1.0}), '",'),
        TokenLogprob(text='"severity":', logprob=0.0),
        _to_token(probabilities["severity"], "}"),
    )
    chunk = Chunk(text="".join(token.text for token in tokens), logprobs=tokens)
    return chunk, Final(done_reason="stop", prompt_tokens=prompt_tokens)


def _to_token(probabilities: Mapping[str, float], end: str) -> TokenLogprob:
    """
    Return the most probable answer as a token, with the others as its rivals; the first of equals
    wins.
    """
    logs = {name + end: math.log(max(MIN_PROBABILITY, p)) for name, p in probabilities.items()}
    text = max(logs, key=lambda name: logs[name])
    rivals = tuple((name, log) for name, log in logs.items() if name != text)
    return TokenLogprob(text=text, logprob=logs[text], top_logprobs=rivals)
