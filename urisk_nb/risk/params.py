"""The parameters of a run: each is checked, and put into one form, before anything runs.

A value that cannot be meant as given is refused with the likely one: alpha=5 with 0.05, a misspelt
name with the closest name.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import date
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import numpy as np

from urisk_nb.errors import InputError
from urisk_nb.risk.episodes import Episode, read_episodes
from urisk_nb.risk.values import (
    NUMBER,
    describe_type,
    find_closest,
    format_number,
    read_moment,
    read_number,
    show,
)

__all__ = [
    "JUDGE_REVIEW_BELOW",
    "MAX_PARALLEL",
    "RiskParams",
    "alpha_label",
    "read_parallel",
    "tail_mass",
]

WINDOW = re.compile(r"(\d{1,5})\s*([dwmy])[a-z]*", re.IGNORECASE)
MAX_JUDGES = 5
MAX_FACTORS = 20
LABELS = ("greedy", "calibrated")
MAX_PARALLEL = 256
JUDGE_REVIEW_BELOW = 0.53  # a less probable label of urisk-judge is to review
WINDOW_LIMIT = {"d": 36_525, "w": 5_218, "m": 1_200, "y": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskParams:
    """
    Everything that decides a run; recorded with it.

    Parameters
    ----------
    alpha
        Tail masses in (0, 0.5], the first is the main one; 0.05 gives `var_95` and `es_95`. A
        single number and "0.05,0.01" are accepted.
    start, end
        First and last date of the prices that are used, both included. A date, a timestamp or ISO
        text.
    window
        "2y", "6m", "12w" or "90d", counted back from `as_of` (or from `end`, if that is earlier).
        Not together with `start`.
    as_of
        Nothing after this date is used, neither prices nor evidence. Default: the last date of the
        prices.
    benchmark
        A column of the prices, "equal" (the equal-weighted mean of the table's own assets) or
        "given" (a Series was passed).
    price_column
        Name of the column or level of prices where several are given (Close, Adj Close). Default:
        the adjusted close, else the close.
    periods_per_year
        Overrides the factor that is read off each asset's own spacing.
    returns
        The prices are simple returns already.
    normalise
        Scale the weights to the sum 1.
    stress
        Dated episodes, each with a name: "covid=2020-02-19:2020-03-23", several between commas or
        semicolons, or a mapping of name to a pair of dates. They are read in all prices up to
        `as_of`, also in those before `start` or `window`.
    factors
        Columns of the prices that the returns are regressed on, or the names of a DataFrame of
        factors that was passed.
    factor_returns
        The DataFrame of factors holds simple returns, though the prices are prices.
    query
        Only sentences that bear on it are asked, whatever their number: those that share a content
        word with it, without endings. A chat model is told of it, too.
    labels
        "greedy": the label the model writes. "calibrated": the most probable label after
        subtracting the content-free prior, where the server gives log-probabilities. A decision
        model, such as urisk-judge, gives the most probable label and its probability either way.
    review_below
        A label with a lower probability does not count, and `table.review()` lists it; with 0 no
        probability is too low. Default: the threshold of urisk-judge where its labels count.
    families
        Path of a TOML file of families of distress, beside those of the package: docs/filings.md.
    judge
        Who labels: the name of a model, or of 2 to 5, between commas or in a list. Each sentence is
        asked of all of them; the labels of the first count (docs/judge.md). Default: the session's
        model, or urisk-judge beside the demo model.
    model
        Another name of `judge`.
    max_sentences, seed, llm, num_predict
        How the model is asked.

    Raises
    ------
    InputError
        A value cannot be meant as given; the message names the parameter, the value and what is
        allowed.
    """

    alpha: tuple[float, ...] = (0.05,)
    start: date | None = None
    end: date | None = None
    window: str | None = None
    as_of: date | None = None
    benchmark: str | None = None
    price_column: str | None = None
    periods_per_year: float | None = None
    returns: bool = False
    normalise: bool = False
    stress: tuple[Episode, ...] | None = None
    factors: tuple[str, ...] | None = None
    factor_returns: bool = False
    query: str | None = None
    families: str | None = None
    labels: str = "greedy"
    review_below: float | None = None
    max_sentences: int = 40
    seed: int = 1
    llm: bool = True
    model: str | None = None
    judge: tuple[str, ...] | None = None
    num_predict: int = 48

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                # Frozen for everyone else; here the value gets its one form
                object.__setattr__(self, one.name, _READERS[one.name](one.name, value))
        self._check_period()
        if self.model is not None:
            named = _read_judges("model", self.model)
            if self.judge not in (None, named):
                raise InputError(
                    f"judge={','.join(self.judge or ())!r} and model={self.model!r} both say who "
                    "labels.",
                    fix="give judge alone",
                )
            object.__setattr__(self, "judge", named)

    def _check_period(self) -> None:
        if self.start and self.window:
            raise InputError(
                f"start={self.start} and window={self.window!r} both say where the period begins.",
                fix="give one of the two",
            )
        for late_name, late in (("end", self.end), ("as_of", self.as_of)):
            if self.start and late and self.start > late:
                raise InputError(
                    f"start={self.start} is after {late_name}={late}.",
                    fix=f"swap them: start={late}, {late_name}={self.start}",
                )

    @classmethod
    def of(cls, **settings: Any) -> RiskParams:
        """
        Return parameters from loosely typed values: a magic's options, a recorded run.

        Raises
        ------
        InputError
            For a name that does not exist (the closest one is suggested), or a value that
            `RiskParams` refuses.
        """
        known = [one.name for one in fields(cls)]
        for name in settings:
            if name not in known:
                near = find_closest(name, known, 1)
                raise InputError(
                    f"there is no parameter {show(name)}.",
                    fix=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
                )
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        """
        Return JSON-able values by name, in the order of the fields.

        `RiskParams.of(**d)` reads them back.
        """
        return {name: _to_json(value) for name, value in asdict(self).items()}


def _to_json(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _to_json(one) for name, one in value.items()}
    return list(map(_to_json, value)) if isinstance(value, tuple) else value


def alpha_label(alpha: float) -> str:
    """
    Return the digits of the confidence level in a column's name.

    0.05 gives "95", 0.01 "99", 0.025 "975", 0.1 "90". It is decimal arithmetic on the shortest
    spelling of `alpha`, since 1 - 0.05 and its like have no exact binary value.
    """
    digits = str(1 - Decimal(repr(alpha))).removeprefix("0.").rstrip("0")
    return digits.ljust(2, "0")


def _read_alphas(_: str, given: object) -> tuple[float, ...]:
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    values = [given] if not isinstance(given, Iterable) else list(given)
    if not values:
        raise InputError("alpha is empty.", fix="alpha=0.05")
    masses = tuple(dict.fromkeys(map(tail_mass, values)))
    if len(set(map(alpha_label, masses))) < len(masses):
        raise InputError(
            f"two of alpha={list(masses)} have the same column name.", fix="keep one of them"
        )
    return masses


def tail_mass(value: object) -> float:
    """
    Return the mass of a tail as a fraction in (0, 0.5].

    Raises
    ------
    InputError
        For anything else; 5, 95 and 0.95 are answered with 0.05.
    """
    try:
        mass = float(value)  # type: ignore[arg-type]  # whatever it is, the error below names it
    except (TypeError, ValueError) as exc:
        text = str(value)
        raise InputError(
            f"alpha={show(value)} is not a number in (0, 0.5].",
            fix=f"alpha={format_number(float(text[:-1]) / 100)}"
            if re.fullmatch(r"\s*" + NUMBER + "%", text)
            else "alpha=0.05 (the mass of the tail)",
        ) from exc
    if isinstance(value, (bool, np.bool_)) or not 0 < mass <= 0.5:
        raise InputError(
            f"alpha={show(value)} is not a tail mass in (0, 0.5].", fix=_alpha_hint(mass)
        )
    return mass


def _alpha_hint(mass: float) -> str:
    """Return what was probably meant: people write 5, 95 and 0.95 for an alpha of 0.05."""
    if 0.5 < mass < 1:
        meant = 1 - mass
    elif 1 < mass <= 50:
        meant = mass / 100
    elif 50 < mass < 100:
        meant = 1 - mass / 100
    else:
        return "alpha=0.05 (the mass of the tail)"
    number = format_number(meant)
    return f"did you mean {number}? alpha={number} is the mass of the tail, as a fraction"


def _read_date(name: str, value: object) -> date:
    try:
        return read_moment(value).date()
    except ValueError as exc:
        raise InputError(
            f"{name}={show(value)} is not a date (year-month-day).", fix=f'{name}="2019-12-30"'
        ) from exc


def _read_window(_: str, value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not (match := WINDOW.fullmatch(text)):
        raise InputError(
            f"window={show(value)} is not a length of time.",
            fix='window="2y" ("2y", "6m", "12w" or "90d")',
        )
    count, unit = int(match[1]), match[2].lower()
    # "2 years" is clear to a reader, but one spelling keeps records comparable
    if text.lower() != f"{match[1]}{unit}":
        raise InputError(
            f"window={show(value)} is not in short form.",
            fix=f'did you mean window="{count}{unit}"?',
        )
    if not 0 < count <= WINDOW_LIMIT[unit]:
        raise InputError(
            f"window={show(value)} is not between 1{unit} and {WINDOW_LIMIT[unit]}{unit}.",
            fix='window="2y"',
        )
    return f"{count}{unit}"


def _read_text(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        extra = (
            '; pass a Series as benchmark= of the call, and "given" here'
            if name == "benchmark"
            else ""
        )
        raise InputError(f"{name} is {describe_type(value)}, not text.", fix=f'{name}="..."{extra}')
    if not value.strip() and name != "query":
        raise InputError(f"{name} is empty text.", fix=f"leave {name} out, or name one")
    return value.strip() or None


def _read_judges(name: str, value: object) -> tuple[str, ...]:
    """Return the names of the judges; a text has commas between them."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Iterable):
        raise InputError(
            f"{name} is {describe_type(value)}, not the name of a model.",
            fix=f'{name}="llama3.1", or several: {name}="urisk-judge,llama3.1"',
        )
    names = tuple(str(_read_text(name, one)) for one in given)
    if not 1 <= len(names) <= MAX_JUDGES:
        raise InputError(
            f"{name}={','.join(names)!r} names {len(names) or 'no'} models.",
            fix=f"name 1 to {MAX_JUDGES}: {name}={','.join(names[:MAX_JUDGES]) or 'urisk-judge'!r}",
        )
    return names


def _read_factors(name: str, value: object) -> tuple[str, ...]:
    """Return the names of factors; a text has commas between them."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, Iterable) or hasattr(value, "columns"):
        raise InputError(
            f"{name} is {describe_type(value)}, not names of columns.",
            fix=f'{name}="SPY,TLT"; pass a DataFrame as {name}= of the call',
        )
    names = tuple(str(_read_text(name, one)) for one in given)
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice or not 1 <= len(names) <= MAX_FACTORS:
        seen = f"{twice!r} twice" if twice else f"{len(names) or 'no'} columns"
        raise InputError(
            f"{name}={','.join(names)!r} names {seen}.",
            fix=f"name each of 1 to {MAX_FACTORS} factors once: "
            f"{name}={','.join(list(dict.fromkeys(names))[:MAX_FACTORS]) or 'SPY,TLT'!r}",
        )
    return names


def _read_path(name: str, value: object) -> str | None:
    return _read_text(name, str(value) if isinstance(value, PurePath) else value)


def _read_factor(_: str, value: object) -> float:
    number = read_number(value)
    if number is None or number <= 0:
        raise InputError(
            f"periods_per_year={show(value)} is not a positive number.",
            fix="periods_per_year=252 (days), 52 (weeks) or 12 (months)",
        )
    return number


def _read_probability(name: str, value: object) -> float:
    number = read_number(value)
    if number is not None and 0 <= number <= 1:
        return number
    percent = read_number(value.strip().removesuffix("%") if isinstance(value, str) else value)
    is_percent = 0 < (percent or 0.0) <= 100
    raise InputError(
        f"{name}={show(value)} is not a probability from 0 to 1.",
        fix=f"did you mean {format_number((percent or 0.0) / 100)}?"
        if is_percent
        else f"{name}=0.5",
    )


def _read_labels(_: str, value: object) -> str:
    if value in LABELS:
        return str(value)
    near = find_closest(str(value), LABELS, 1)
    raise InputError(
        f"labels={show(value)} is not one of {', '.join(LABELS)}.",
        fix=f"labels={near[0] if near else LABELS[0]!r}",
    )


def _read_switch(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}={show(value)} is not True or False.", fix=f"{name}=True")
    return bool(value)


def _read_whole(name: str, value: object, least: int, most: int | None = None) -> int:
    number = _parse_whole(value)
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise InputError(
            f"{name}={show(value)} is not a whole number {allowed}.", fix=f"{name}={max(least, 1)}"
        )
    return number


def _parse_whole(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9]{1,18}\s*", value):
        return int(value)
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # anything else ends in None
    except TypeError:
        return None


def read_parallel(given: object) -> int | None:
    """
    Return how many calls of a run may be in flight, or None where nothing was given.

    Raises
    ------
    InputError
        For anything but a whole number from 1 to 256, also one written as text.
    """
    return None if given is None else _read_whole("parallel", given, 1, MAX_PARALLEL)


_READERS: dict[str, Callable[[str, object], object]] = {
    "alpha": _read_alphas,
    **dict.fromkeys(("start", "end", "as_of"), _read_date),
    "window": _read_window,
    **dict.fromkeys(("benchmark", "price_column", "query", "model"), _read_text),
    "families": _read_path,
    "stress": lambda _, value: read_episodes(value),
    "factors": _read_factors,
    "judge": _read_judges,
    "labels": _read_labels,
    "review_below": _read_probability,
    "periods_per_year": _read_factor,
    **dict.fromkeys(("returns", "normalise", "llm", "factor_returns"), _read_switch),
    **dict.fromkeys(("max_sentences", "num_predict"), functools.partial(_read_whole, least=1)),
    "seed": functools.partial(_read_whole, least=0),
}
