"""
Families of distress: what the sentences of a long document are searched for, as data.

A file of families is TOML; docs/filings.md describes it. Patterns are searched in folded text
(`fold_text`). Of each pattern the longest stretch of plain letters that every match must have is
looked for first: most sentences need no regular expression at all.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import Any

from urisk_nb.errors import InputError
from urisk_nb.risk.values import find_closest, show

__all__ = [
    "Cue",
    "CueFinder",
    "Family",
    "fold_text",
    "has_core_words",
    "hash_families",
    "load_families",
    "make_finder",
    "read_families",
]

KEYS = ("category", "cap", "floor", "weight", "decisive", "core", "patterns")
MIN_LITERAL = 3
MAX_FINDERS = 4  # families of the user, whose finder is kept
MAX_REPEATS = 9  # of a group: more may take a search exponential time
_FOLDED = str.maketrans(
    "\u2018\u2019\u201c\u201d\u2010\u2011\u2012\u2013\u2014\u00a0", "''\"\"----- "
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_REPEATED = re.compile(r"\)(?:[*+]|\{(\d*)(,?)(\d*)\})")
_UNSAFE_TEXT = re.compile(r"\[[^\]]*\]|\\.")  # a bracket in it opens no group
# What stands for one character, or says how often it is repeated
_ONE_SIGN = re.compile(
    r"\\(?:x..|u.{4}|U.{8}|\d{1,3}|.)|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[^}]*\}", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """
    One pattern of a family.

    Attributes
    ----------
    pattern
        Searched in folded text.
    literals
        Every match has one of them in it; empty where that is not known.
    is_core
        Whether the words say the thing itself.
    """

    pattern: re.Pattern[str]
    literals: frozenset[str]
    is_core: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    One kind of distress.

    Attributes
    ----------
    name, category
        Its own name, and the category of risk that an event of it belongs to.
    cap
        The highest severity of an event, 0 to 5.
    floor
        The lowest severity of an alert, at most the cap: what its core words count for alone.
    weight
        How early its sentences are asked: 0 to 20.
    is_decisive
        Whether a reader must see each event of it.
    cues
        Its patterns, the core first.
    """

    name: str
    category: str
    cap: int
    floor: int
    weight: float
    is_decisive: bool
    cues: tuple[Cue, ...]


class CueFinder:
    """
    Finds the cues that can match a text: those of which it has a literal.

    A text of a hundred words has some of the hundreds of literals. So each literal is looked for
    only where three letters of it stand, the three that fewest other literals have.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self.cues = [(family, cue) for family in families for cue in family.cues]
        owners: dict[str, list[int]] = {}
        for place, (_, cue) in enumerate(self.cues):
            for literal in cue.literals:
                owners.setdefault(literal, []).append(place)
        counts = Counter(chain.from_iterable(map(_list_triples, owners)))
        self._by_triple: dict[str, list[tuple[str, list[int]]]] = {}
        for literal, places in owners.items():
            rarest = min(sorted(_list_triples(literal)), key=counts.__getitem__)
            self._by_triple.setdefault(rarest, []).append((literal, places))
        self._always = [place for place, (_, cue) in enumerate(self.cues) if not cue.literals]

    def find(self, text: str) -> list[tuple[Family, Cue]]:
        """Return the cues that can match a folded text, in the order of the families."""
        found = set(self._always)
        for triple in self._by_triple.keys() & _list_triples(text):
            for literal, places in self._by_triple[triple]:
                if literal in text:
                    found.update(places)
        return [self.cues[place] for place in sorted(found)]


@functools.lru_cache(MAX_FINDERS)
def make_finder(families: tuple[Family, ...]) -> CueFinder:
    """Return the finder of these families, made once."""
    return CueFinder(families)


def _list_triples(text: str) -> set[str]:
    return {text[start : start + MIN_LITERAL] for start in range(len(text) - MIN_LITERAL + 1)}


def fold_text(text: str) -> str:
    """Return the text as patterns read it: lower case, straight quotes, hyphens, single spaces."""
    return " ".join(text.translate(_FOLDED).lower().split())


@functools.cache
def load_families() -> tuple[Family, ...]:
    """Return the families that come with the package."""
    text = files("urisk_nb").joinpath("data/families.toml").read_text(encoding="utf-8")
    return read_families(text, "families.toml")


def has_core_words(texts: Iterable[str], families: Sequence[Family]) -> bool:
    """Return whether a text has core words of a decisive family; without them is no alert."""
    cues = [cue for family in families if family.is_decisive for cue in family.cues if cue.is_core]
    return any(
        cue.pattern.search(text)
        for text in map(fold_text, texts)
        for cue in cues
        if not cue.literals or any(one in text for one in cue.literals)
    )


def read_families(text: str, source: str, base: Sequence[Family] = ()) -> tuple[Family, ...]:
    """
    Return the families of a file, after those of `base`; the same name replaces.

    Parameters
    ----------
    text
        TOML: one table a family, ``[name]``.
    source
        What an error calls the file.
    base
        Families that are there already.

    Raises
    ------
    InputError
        It is no TOML, a key is missing, unknown or of another type, or a pattern is none, or could
        take a search very long.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InputError(
            f"{source} is not TOML: {exc}.",
            fix="write one table a family, and patterns in single quotation marks: "
            "patterns = ['lost its licen[sc]e']",
        ) from exc
    found = {family.name: family for family in base}
    for name, table in tables.items():
        found[name] = _read_family(name, table, f"{source}: [{show(name)}]")
    if not found:
        raise InputError(f"{source} has no family.", fix="see docs/filings.md for the format")
    return tuple(found.values())


def hash_families(families: Sequence[Family]) -> str:
    """Return twelve hexadecimal digits that change when a family changes."""
    parts = [
        [one.name, one.category, one.cap, one.floor, one.weight, one.is_decisive]
        + [(cue.pattern.pattern, cue.is_core) for cue in one.cues]
        for one in families
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _read_family(name: str, table: object, where: str) -> Family:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} is not a table.", fix="write [name], then its keys below it")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where} is not a name.", fix="use lower-case letters, digits and underscores"
        )
    for key in table:
        if key not in KEYS:
            near = find_closest(key, KEYS, 1)
            raise InputError(
                f"{where} has an unknown key {show(key)}.",
                fix=f"did you mean {near[0]}?" if near else f"use {', '.join(KEYS)}",
            )
    core, patterns = (list(_compile(table.get(key, []), key, where)) for key in KEYS[-2:])
    if not core and not patterns:
        raise InputError(f"{where} has no patterns.", fix="patterns = ['lost its licen[sc]e']")
    category = _require(table, "category", str, where, "category = 'credit'")
    is_decisive = _require({"decisive": False, **table}, "decisive", bool, where, "decisive = true")
    # A decisive family without words of its own core is decided by all of its words.
    cues = [(one, True) for one in core] + [(one, is_decisive and not core) for one in patterns]
    cap = int(_check_range(table, "cap", 5, where, default=3))
    return Family(
        name=name,
        category=category,
        cap=cap,
        floor=int(_check_range(table, "floor", cap, where, default=min(4, cap))),
        weight=_check_range(table, "weight", 20, where, default=6),
        is_decisive=is_decisive,
        cues=tuple(
            Cue(pattern=one, literals=_find_literals(one.pattern), is_core=is_core)
            for one, is_core in cues
        ),
    )


def _require(table: Mapping[str, Any], key: str, kind: type, where: str, fix: str) -> Any:
    value = table.get(key)
    if not isinstance(value, kind) or value == "":
        seen = f"has {key} = {show(value)}" if key in table else f"has no {key}"
        raise InputError(f"{where} {seen}.", fix=fix)
    return value


def _check_range(
    table: Mapping[str, Any], key: str, most: int, where: str, *, default: int
) -> float:
    value = table.get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_whole = key in ("cap", "floor")
    if not is_number or not 0 <= value <= most or (is_whole and value != int(value)):
        kind = "a whole number" if is_whole else "a number"
        raise InputError(f"{where} has {key} = {show(value)}.", fix=f"give {kind} from 0 to {most}")
    return float(value)


def _compile(given: object, key: str, where: str) -> Iterator[re.Pattern[str]]:
    if not isinstance(given, list) or not all(isinstance(one, str) and one for one in given):
        raise InputError(
            f"{where}: {key} is not a list of patterns.", fix=f"{key} = ['lost its licen[sc]e']"
        )
    for text in given:
        try:
            pattern = re.compile(text)
        except re.error as exc:
            raise InputError(
                f"{where}: {show(text)} is not a regular expression: {exc}.",
                fix="write it as Python's re takes it; a literal ( is \\(",
            ) from exc
        if pattern.search(""):
            raise InputError(
                f"{where}: {show(text)} matches an empty text, so every sentence.",
                fix="make a part of it necessary",
            )
        if re.search("[A-Z]", _UNSAFE_TEXT.sub("", text)):
            raise InputError(
                f"{where}: {show(text)} has a capital, and the text is searched in lower case.",
                fix="write it in lower case",
            )
        for repeat in _REPEATED.finditer(_UNSAFE_TEXT.sub("x", text)):
            most = (repeat[3] if repeat[2] else repeat[1]) or ""
            if not most.isdigit() or int(most) > MAX_REPEATS:
                raise InputError(
                    f"{where}: {show(text)} repeats a group without a limit, which can take a "
                    "search for ever.",
                    fix=f"repeat it at most {MAX_REPEATS} times, such as (?:\\w+ ){{0,3}}",
                )
        yield pattern


def _find_literals(pattern: str) -> frozenset[str]:
    """
    Return plain texts of which every match has at least one.

    Of each alternative the longest stretch outside of groups, else those of a group that is
    necessary. Empty where an alternative has none of three characters or more: such a pattern is
    searched in every sentence.
    """
    found: set[str] = set()
    for runs, groups in _list_alternatives(pattern):
        longest = max(runs, key=len, default="")
        choices = [frozenset((longest,)) if len(longest) >= MIN_LITERAL else frozenset()]
        if not choices[0]:
            choices = [_find_literals(group) for group in groups]
        best = max(choices, key=lambda one: min(map(len, one), default=0), default=frozenset())
        if not best:
            return frozenset()
        found |= best
    return frozenset(found)


def _list_alternatives(pattern: str) -> list[tuple[list[str], list[str]]]:
    """Return for each alternative its stretches of plain characters, and its necessary groups."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    run, depth, opened, at = "", 0, 0, 0
    while at < len(pattern):
        sign, whole = pattern[at], _ONE_SIGN.match(pattern, at)
        if sign == "(" and depth == 0:
            opened = at + 1
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0:
            is_needed = pattern[at + 1 : at + 2] not in ("?", "*", "{")
            if is_needed and not pattern.startswith(("?!", "?<", "?="), opened):
                found[-1][1].append(pattern[opened:at].removeprefix("?:"))
        if depth == 0 and (sign.isalnum() or sign in " -'&,/"):
            run += sign
        else:
            # A quantifier behind a character may leave it out.
            found[-1][0].append(run[:-1] if sign in "?*{" else run)
            run = ""
            if sign == "|" and depth == 0:
                found.append(([], []))
        at = whole.end() if whole else at + 1
    found[-1][0].append(run)
    return found
