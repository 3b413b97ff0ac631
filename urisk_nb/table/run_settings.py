"""What two runs were told, and which of it differs: parameters, judge, taxonomy, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SettingChange", "compare_benchmarks", "compare_settings"]

MAX_NAMED = 10  # tickers of a benchmark
PRICES, TAIL, JOINT, WEIGHT = "prices", "tail", "joint", "weight"
EVIDENCE, LABELS = "evidence", "labels"
EPISODES, FACTORS = "episodes", "factors"
ANY = frozenset((PRICES, TAIL, JOINT, WEIGHT, EVIDENCE, LABELS, EPISODES, FACTORS))
_OF_METRICS = frozenset((PRICES, TAIL, JOINT))
_OF_PERIOD = _OF_METRICS | {FACTORS}
_OF_CLOSES = _OF_PERIOD | {EPISODES}  # an episode is read in all prices up to the date of the run
_PARAMS = {
    "alpha": frozenset((TAIL,)),
    "start": _OF_PERIOD,
    "end": _OF_CLOSES | {EVIDENCE},
    "window": _OF_PERIOD,
    "as_of": _OF_CLOSES | {EVIDENCE},
    "benchmark": frozenset((JOINT,)),
    "price_column": _OF_CLOSES,
    "periods_per_year": _OF_METRICS,
    "returns": _OF_CLOSES,
    "normalise": frozenset((WEIGHT,)),
    # Episodes and factors have frames of their own, and move no cell of the table. Of an episode
    # that both runs have, its own dates tell more than the list of all.
    "stress": frozenset[str](),
    **dict.fromkeys(("factors", "factor_returns"), frozenset((FACTORS,))),
    "query": frozenset((EVIDENCE, LABELS)),
    "families": frozenset((EVIDENCE,)),
    "max_sentences": frozenset((EVIDENCE,)),
    "labels": frozenset((LABELS,)),
    "seed": frozenset((LABELS,)),
    "num_predict": frozenset((LABELS,)),
    "llm": frozenset((EVIDENCE, LABELS)),
}
# Told by the record of the judge, and by the threshold that was in force
_TOLD_ELSEWHERE = frozenset(("judge", "model", "review_below"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """
    Something that two runs were told otherwise.

    Attributes
    ----------
    name
        As the user gives it, or in words.
    old, new
        What each run was told; "not set" for nothing.
    kinds
        What it can move: ``prices``, ``tail`` (VaR and ES), ``joint`` (against the benchmark),
        ``weight``, ``evidence`` (which sentences there are), ``labels``, ``episodes`` and
        ``factors``.
    """

    name: str
    old: str
    new: str
    kinds: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name}: {self.old} -> {self.new}"


def compare_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[SettingChange]:
    """
    Return what differs between the records of two runs.

    Parameters
    ----------
    old, new
        ``report.meta`` of each. What decides a run is compared; what says when it ran is not.
    """
    return [
        SettingChange(name=name, old=_show(before), new=_show(after), kinds=kinds)
        for name, before, after, kinds in _iterate(old, new)
        if before != after
    ]


def compare_benchmarks(
    old: Mapping[str, Any], new: Mapping[str, Any], *tickers: Sequence[Any]
) -> list[SettingChange]:
    """
    Return whether the benchmark `equal` is the mean of other tickers.

    Parameters
    ----------
    old, new
        ``report.meta`` of each.
    tickers
        Those of the older run, then those of the newer one.
    """
    is_equal = all(meta.get("params", {}).get("benchmark") == "equal" for meta in (old, new))
    before, after = (sorted(map(str, names)) for names in tickers)
    if not is_equal or before == after:
        return []
    shown = [
        _show(names[:MAX_NAMED]) + (", ..." if names[MAX_NAMED:] else "")
        for names in (before, after)
    ]
    name = "tickers of the benchmark equal"
    return [SettingChange(name=name, old=shown[0], new=shown[1], kinds=frozenset((JOINT,)))]


def _iterate(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any, frozenset[str]]]:
    before, after = old.get("params", {}), new.get("params", {})
    for name in dict.fromkeys((*before, *after)):
        if name not in _TOLD_ELSEWHERE:
            yield name, before.get(name), after.get(name), _PARAMS.get(name, ANY)
    for name, (read, kinds) in _META.items():
        yield name, read(old), read(new), kinds
    if _list_judges(old) == _list_judges(new):  # of other judges it says nothing more
        yield "digest of the judge", _list_digests(old), _list_digests(new), frozenset((LABELS,))
    before, after = old.get("libraries", {}), new.get("libraries", {})
    for name in dict.fromkeys((*before, *after)):
        yield f"version of {name}", before.get(name), after.get(name), ANY


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not set"
    return ", ".join(map(_name_value, value)) if isinstance(value, list) else str(value)


def _name_value(value: Any) -> str:
    """Return an episode as the user gives it, and any other value as text."""
    if isinstance(value, Mapping) and {"name", "start", "end"} <= set(value):
        return f"{value['name']}={value['start']}:{value['end']}"
    return str(value)


def _list_judges(meta: Mapping[str, Any]) -> list[Any]:
    """Return the models that labeled; the one that was wanted where none has begun."""
    named = [one.get("model") for one in meta.get("judges", ())]
    return named or [model for model in (meta.get("model"),) if model]


def _list_digests(meta: Mapping[str, Any]) -> list[Any]:
    return [one["digest"][:12] for one in meta.get("judges", ()) if one.get("digest")]


def _name_taxonomy(meta: Mapping[str, Any]) -> str | None:
    version, content = meta.get("taxonomy_version"), meta.get("taxonomy_hash")
    return f"{version} ({content[:8]})" if version and content else version


def _cut_hash(content: str | None) -> str | None:
    return content[:12] if content else content


def _read_server(meta: Mapping[str, Any], name: str) -> Any:
    return meta.get("served_by", {}).get(name)


_META: dict[str, tuple[Callable[[Mapping[str, Any]], Any], frozenset[str]]] = {
    "judge": (_list_judges, frozenset((LABELS,))),
    "review_below": (lambda meta: meta.get("review_below"), frozenset((LABELS,))),
    "taxonomy": (_name_taxonomy, frozenset((LABELS, EVIDENCE))),
    "examples": (lambda meta: _cut_hash(meta.get("examples_hash")), frozenset((LABELS,))),
    "form": (lambda meta: meta.get("form"), frozenset((LABELS,))),
    "families of distress": (
        lambda meta: _cut_hash(meta.get("families_hash")),
        frozenset((EVIDENCE, LABELS)),
    ),
    "schema": (lambda meta: meta.get("schema_version"), frozenset((LABELS,))),
    "column of prices": (lambda meta: meta.get("price_column"), _OF_CLOSES),
    "adjusted prices": (lambda meta: meta.get("adjusted"), _OF_CLOSES),
    "engine": (lambda meta: _read_server(meta, "engine"), frozenset((LABELS,))),
    "version of the server": (lambda meta: _read_server(meta, "server"), frozenset((LABELS,))),
    "context window": (lambda meta: _read_server(meta, "num_ctx"), frozenset((LABELS,))),
}
