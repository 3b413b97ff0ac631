"""Dated episodes of stress: what a user writes, as names with a first and a last date."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date

from urisk_nb.errors import InputError
from urisk_nb.risk.values import describe_type, read_moment, show, strip_invisible

__all__ = ["Episode", "read_episodes"]

EXAMPLE = "covid=2020-02-19:2020-03-23"
MAX_EPISODES = 50
MAX_NAME_CHARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """
    A stretch of dates with a name.

    Attributes
    ----------
    name
        As given, visible characters, up to 40.
    start, end
        First and last date, both included; `end` is later.
    """

    name: str
    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.name}={self.start}:{self.end}"


def read_episodes(given: object) -> tuple[Episode, ...]:
    """
    Return the episodes in the order given.

    Parameters
    ----------
    given
        Text such as ``"covid=2020-02-19:2020-03-23; rates=2022-01-03:2022-10-14"`` with commas or
        semicolons between episodes, a mapping of name to ``"START:END"`` or to a pair of dates, or
        a list of `Episode` (or of their fields as mappings).

    Raises
    ------
    InputError
        A part is no episode, dates are in the wrong order, or a name is given twice. The message
        begins with "stress".
    """
    if isinstance(given, str):
        parts = [part.strip() for part in re.split(r"[,;]", given) if part.strip()]
        episodes = [_read_text(part) for part in parts]
    elif isinstance(given, Mapping):
        episodes = [_read_pair(name, dates) for name, dates in given.items()]
    elif isinstance(given, Iterable):
        episodes = [_read_record(one) for one in given]
    else:
        raise InputError(
            f"stress is {describe_type(given)}, not dated episodes.",
            fix=f'stress="{EXAMPLE}", or a mapping: '
            'stress={"covid": ("2020-02-19", "2020-03-23")}',
        )
    return _check(tuple(episodes))


def _check(episodes: tuple[Episode, ...]) -> tuple[Episode, ...]:
    if not 0 < len(episodes) <= MAX_EPISODES:
        raise InputError(
            f"stress has {len(episodes) or 'no'} episodes.",
            fix=f'give 1 to {MAX_EPISODES}: stress="{EXAMPLE}"',
        )
    names = [one.name for one in episodes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"stress={show(twice)} is the name of two episodes.", fix="give each its own name"
        )
    return episodes


def _read_text(part: str) -> Episode:
    name, sign, dates = part.partition("=")
    if not sign:
        raise InputError(f"stress={show(part)} is not NAME=START:END.", fix=f'stress="{EXAMPLE}"')
    return _read_pair(name, dates)


def _read_record(given: object) -> Episode:
    if isinstance(given, Episode):
        return given
    if isinstance(given, str):
        return _read_text(given)
    if isinstance(given, Mapping) and set(given) == {"name", "start", "end"}:
        return _read_pair(given["name"], (given["start"], given["end"]))
    raise InputError(f"stress={show(given)} is not an episode.", fix=f'stress="{EXAMPLE}"')


def _read_pair(name: object, dates: object) -> Episode:
    text = " ".join(strip_invisible(name).split()) if isinstance(name, str) else ""
    if not 0 < len(text) <= MAX_NAME_CHARS or not text.isprintable():
        raise InputError(
            f"stress={show(name)} is not a name of 1 to {MAX_NAME_CHARS} visible characters.",
            fix=f'stress="{EXAMPLE}"',
        )
    ends = dates.split(":") if isinstance(dates, str) else dates
    if not isinstance(ends, Iterable) or len(pair := list(ends)) != 2:
        raise InputError(
            f"stress={show(text)} has {show(dates)}, not two dates.", fix=f'stress="{EXAMPLE}"'
        )
    start, end = (_read_date(text, one) for one in pair)
    if start >= end:
        raise InputError(
            f"stress={show(text)} begins on {start} and ends on {end}.",
            fix=f'stress="{text}={end}:{start}"'
            if start > end
            else "give a last date after the first one",
        )
    return Episode(name=text, start=start, end=end)


def _read_date(name: str, value: object) -> date:
    try:
        return read_moment(value).date()
    except ValueError as exc:
        raise InputError(
            f"stress={show(name)}: {show(value)} is not a date (year-month-day).",
            fix=f'stress="{EXAMPLE}"',
        ) from exc
