"""The JSON of requests, answers and errors. A request is checked before anything is asked."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from urisk_nb.errors import UriskError
from urisk_nb.llm.answers import Answer
from urisk_nb.service.statuses import status_of
from urisk_nb.table.record_rows import to_json

__all__ = [
    "AnswerBody",
    "Cell",
    "ChatBody",
    "ErrorBody",
    "EvidenceBody",
    "JsonResponse",
    "OptionsBody",
    "RiskBody",
    "WidePrices",
    "build_error_response",
    "build_refusal",
    "encode_answer",
    "encode_error",
    "encode_json",
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class OptionsBody(_Body):
    """
    How an answer is made.

    Options that would load the model again for everybody (num_ctx, num_gpu, ...) are not taken.
    """

    temperature: float | None = Field(None, ge=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**31)
    num_predict: int | None = Field(None, ge=1, le=65_536)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0, le=10)
    stop: list[str] | None = Field(None, max_length=16)


class ChatBody(_Body):
    """A prompt, and how to answer it."""

    prompt: str = Field(min_length=1)
    system_prompt: str | None = None
    options: OptionsBody = OptionsBody()
    stream: bool = False


Cell = str | int | float | None
Number = Annotated[float, Field(ge=-1e300, le=1e300)]


class WidePrices(_Body):
    """Prices, a column for each ticker."""

    dates: list[str]
    columns: dict[str, list[Number | None]]


class EvidenceBody(_Body):
    """A document about one company; the ticker `*` counts for all of them."""

    text: str
    ticker: str
    date: str | None = None
    source: str | None = None
    id: str | None = None


class RiskBody(_Body):
    """The arguments of `assess`, as data: no path is read here."""

    tickers: list[str] | dict[str, Number]
    prices: WidePrices | list[dict[str, Cell]] | None = None
    evidence: list[EvidenceBody] | None = None
    query: str | None = None
    benchmark: str | None = None
    params: dict[str, Cell | bool | list[Number] | list[str]] = Field(default_factory=dict)


class ErrorBody(BaseModel):
    """An error: its name, what was seen, what to do."""

    error: str
    message: str
    fix: str


class AnswerBody(BaseModel):
    """
    An answer. Seconds in `timing`; null where the server gave no counter.

    `faults` says what is wrong with it, a sentence for each code: `no_text`, `only_thinking`,
    `prompt_cut`.
    """

    text: str
    model: str
    engine: str
    done_reason: str
    faults: dict[str, str]
    timing: dict[str, float | int | str | None]


class JsonResponse(JSONResponse):
    """A response as JSON."""

    def render(self, content: Any) -> bytes:
        """Return ASCII: JSON may carry half of a surrogate pair, which no encoding has."""
        return encode_json(content)


def encode_json(content: Any) -> bytes:
    """Return JSON without white space and without NaN."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def encode_answer(answer: Answer) -> dict[str, Any]:
    """Return an answer with its model, engine, faults and timing."""
    timing = dataclasses.asdict(answer.timing)
    return {
        "text": str(answer),
        "model": answer.model,
        "engine": str(answer.engine),
        "done_reason": answer.done_reason,
        "faults": dict(answer.faults),
        "timing": {name: to_json(value) for name, value in timing.items()},
    }


def encode_error(error: UriskError) -> dict[str, str]:
    """Return name, message and fix of an error."""
    return {"error": type(error).__name__, "message": error.message, "fix": error.fix}


def build_refusal(
    status: int, message: str, fix: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a refusal that has no error class of its own."""
    name = HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")
    return JsonResponse({"error": name, "message": message, "fix": fix}, status, headers)


def build_error_response(error: UriskError) -> Response:
    """Return an error as a response, with Retry-After where the wait is known."""
    wait_s = error.facts.get("retry_after_s") or error.facts.get("left_s")
    headers = {} if wait_s is None else {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return JsonResponse(encode_error(error), status_of(error), headers)
