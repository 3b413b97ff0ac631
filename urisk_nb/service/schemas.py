"""
What is sent and taken, as JSON: requests that are checked before anything is asked, answers,
problems.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import date
from http import HTTPStatus
from typing import Annotated, Any

import pandas as pd
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from urisk_nb.errors import UriskError
from urisk_nb.llm.answers import Answer
from urisk_nb.service.statuses import status_of

__all__ = [
    "Answered",
    "Cell",
    "Chat",
    "Evidence",
    "Json",
    "Options",
    "Problem",
    "Risk",
    "Wide",
    "dumped",
    "problem_of",
    "records_of",
    "refusal_of",
    "refused",
    "reply_to",
    "take_snapshot",
]


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Options(_Taken):
    """
    How an answer is made. What would load the model again for everybody (num_ctx, num_gpu, ...) is
    the service's own.
    """

    temperature: float | None = Field(None, ge=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**31)
    num_predict: int | None = Field(None, ge=1, le=65_536)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0, le=10)
    stop: list[str] | None = Field(None, max_length=16)


class Chat(_Taken):
    """A prompt, and how it is to be answered."""

    prompt: str = Field(min_length=1)
    system_prompt: str | None = None
    options: Options = Options()
    stream: bool = False


Cell = str | int | float | None
Number = Annotated[float, Field(ge=-1e300, le=1e300)]


class Wide(_Taken):
    """Prices, a column for each ticker."""

    dates: list[str]
    columns: dict[str, list[Number | None]]


class Evidence(_Taken):
    """A document about one company; the ticker `*` counts for all of them."""

    text: str
    ticker: str
    date: str | None = None
    source: str | None = None
    id: str | None = None


class Risk(_Taken):
    """What `assess` takes, as data: no path is read here."""

    tickers: list[str] | dict[str, Number]
    prices: Wide | list[dict[str, Cell]] | None = None
    evidence: list[Evidence] | None = None
    query: str | None = None
    benchmark: str | None = None
    params: dict[str, Cell | bool | list[Number]] = Field(default_factory=dict)


class Problem(BaseModel):
    """An error: its name, what was seen, what to do."""

    error: str
    message: str
    fix: str


class Answered(BaseModel):
    """An answer. Seconds in `timing`; null where the server gave no counter."""

    text: str
    model: str
    engine: str
    done_reason: str
    timing: dict[str, float | int | str | None]


class Json(JSONResponse):
    """A reply as JSON."""

    def render(self, content: Any) -> bytes:
        """
        ASCII only: half of a surrogate pair, which JSON may carry, is in no encoding. NaN is no
        JSON.
        """
        return dumped(content)


def dumped(content: Any) -> bytes:
    """JSON, without white space and without NaN."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """A cell as JSON has it: nothing for what is missing or not finite, ISO text for a date."""
    if (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value == value.normalize() else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def records_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, as JSON has them."""
    columns = {
        str(name): [_plain(value) for value in frame[name].tolist()] for name in frame.columns
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def take_snapshot(answer: Answer) -> dict[str, Any]:
    """An answer with what it knows of itself."""
    timing = {name: _plain(value) for name, value in dataclasses.asdict(answer.timing).items()}
    facts = {
        "model": answer.model,
        "engine": str(answer.engine),
        "done_reason": answer.done_reason,
    }
    return {"text": str(answer), **facts, "timing": timing}


def problem_of(error: UriskError) -> dict[str, str]:
    """An error of ours as callers get it."""
    return {"error": type(error).__name__, "message": error.message, "fix": error.fix}


def refused(status: int, problem: Mapping[str, Any], **headers: str) -> Response:
    """A problem with its status."""
    return Json(
        problem, status, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def refusal_of(status: int, message: str, fix: str, **headers: str) -> Response:
    """A refusal that is HTTP's own affair."""
    name = HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")
    return refused(status, {"error": name, "message": message, "fix": fix}, **headers)


def reply_to(error: UriskError) -> Response:
    """An error of ours as a reply, with the time to come back where it is known."""
    wait_s = error.facts.get("retry_after_s") or error.facts.get("left_s")
    headers = {} if wait_s is None else {"Retry_After": str(max(1, math.ceil(wait_s)))}
    return refused(status_of(error), problem_of(error), **headers)
