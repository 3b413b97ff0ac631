"""
Why a cell of the newer table is not that of the older one.

A cell follows from prices, from sentences and their labels, or from what the run was told. Each
cause here is read off the two runs: nothing is guessed, and where they do not tell, that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from urisk_nb.render.table_content import format_value
from urisk_nb.render.text_layout import format_count
from urisk_nb.risk.row_warnings import codes_in
from urisk_nb.risk.values import is_missing
from urisk_nb.table.explain import find_flags
from urisk_nb.table.run_settings import (
    EVIDENCE,
    JOINT,
    LABELS,
    PRICES,
    TAIL,
    WEIGHT,
    SettingChange,
)
from urisk_nb.table.sentence_pairs import (
    SentencePair,
    describe_correction,
    describe_count,
    describe_label,
)

__all__ = ["COSTS", "EDITED", "UNKNOWN", "Cause", "CellCauses", "differ", "kinds_of"]

UNKNOWN = "the records of the two runs do not tell"
EDITED = "the table was changed after its run"
MAX_SENTENCES = 3  # that a cause describes; more are counted
# They say which run it was and what it cost, never how risky something is
COSTS = ("run_id", "latency_s", "tokens", "attempts", "cached")
_DATA = ("first_obs", "last_obs", "n_obs", "n_missing", "as_of", "ann_factor", "period")
_OF_DATA = (*_DATA, "stale_days")
_JOINT = ("beta", "beta_se", "corr_bench", "n_joint")
_COMPONENTS = ("comp_vol_share", "comp_es", "comp_es_share")
_PREVIOUS = ("new", "changed", "gone", "share_repeated")
# What a count follows from whatever the sentences are, and what is left where they are the same
_FIRST_CAUSES = {
    **dict.fromkeys(_PREVIOUS, "the evidence or the previous documents"),
    "alerts": "the words of the evidence",
}
_LAST_CAUSES = {
    "sentences": "the evidence is longer or shorter by sentences that were not asked",
    "agreement": "further judges give other labels: table.judgements()",
}
_OF_PRICES = frozenset(
    (
        *("bad_data", "no_data", "extreme_total", "flat", "flat_benchmark", "gap", "jump"),
        *("jump_benchmark", "mixed_frequency", "no_drawdown", "short_history", "short_joint"),
        *("short_tail", "stale", "unlikely_returns", "unsorted", "bad_volume", "no_price_level"),
        *("no_volume", "short_volume"),
    )
)
_OF_BENCHMARK = frozenset(("short_joint", "flat_benchmark", "jump_benchmark"))
_OF_TAIL = frozenset(("short_tail",))
# The flags of the prices, and a column that has the same causes
_COLUMNS_OF_CODES = {
    _OF_PRICES - _OF_BENCHMARK - _OF_TAIL: "ret_total",
    _OF_BENCHMARK: "beta",
    _OF_TAIL: "var_",
}
_OF_LIST = frozenset(("alias", "duplicate", "no_weight"))
_UNLABELED = ("not_run", "model_error", "no_evidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """
    Why something changed.

    Attributes
    ----------
    text
        One line, never empty.
    quote
        The sentence that moved it most; None where no sentence did.
    """

    text: str
    quote: str | None = None


def differ(old: object, new: object, rtol: float = 0.0) -> bool:
    """
    Return whether two cells differ; two missing ones do not.

    Parameters
    ----------
    rtol
        How far apart two numbers may be, as a share of the larger one.
    """
    if _is_gap(old) or _is_gap(new):
        return _is_gap(old) != _is_gap(new)
    if _is_number(old) and _is_number(new):
        a, b = float(old), float(new)  # type: ignore[arg-type]  # numbers
        return a != b and not abs(a - b) <= rtol * max(abs(a), abs(b))
    return str(old) != str(new)


def _is_gap(value: object) -> bool:
    """Return whether a cell is missing; empty text is a value: no flag, no alert."""
    return not isinstance(value, str) and is_missing(value)


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool)


def kinds_of(name: str) -> set[str]:
    """Return which settings can move a column, or decide whether it is there."""
    if name.startswith("r_") or name == "p_top":
        return {LABELS}
    if name == "weight":
        return {WEIGHT}
    if name in _COMPONENTS:
        return {PRICES, WEIGHT, *((TAIL,) if name != "comp_vol_share" else ())}
    own = {PRICES} if find_flags(name, ()) is not None or name in _OF_DATA else set[str]()
    own |= {JOINT} if name in _JOINT else set()
    return own | ({TAIL} if name.startswith(("var_", "es_")) else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCauses:
    """
    What is known of one ticker in both runs.

    Attributes
    ----------
    old, new
        Its rows as the runs made them; empty where a run did not keep its rows.
    pairs
        Its sentences.
    settings
        What the runs were told otherwise.
    failures
        Why each run ended early, the older one first; None where it did not.
    """

    old: Mapping[str, Any]
    new: Mapping[str, Any]
    pairs: Sequence[SentencePair]
    settings: Sequence[SettingChange]
    failures: tuple[str | None, str | None] = (None, None)

    def find(self, name: str, old: object, new: object) -> Cause:
        """Return why a cell of the column of that name changed from `old` to `new`."""
        if self._is_edited(name, old, new):
            return Cause(text=EDITED)
        if name in COSTS:
            return Cause(text="another run: its name, and what it cost")
        if name in _OF_DATA or find_flags(name, ()) is not None:
            return self.find_of_prices(name)
        if name == "weight":
            told = self._tell(WEIGHT)
            return Cause(text=_join([*told, "the weights as they were given, or their sum"]))
        if name in _COMPONENTS:
            told = self._tell(*kinds_of(name))
            return Cause(text=_join([*told, "the weights as they were given, or their prices"]))
        return self._find_of_evidence(name, old, new)

    def _is_edited(self, name: str, old: object, new: object) -> bool:
        """Tell whether a cell is not what its run made: the user changed it."""
        pairs = ((self.old, old), (self.new, new))
        return any(row and (name not in row or differ(row[name], cell)) for row, cell in pairs)

    def _find_of_evidence(self, name: str, old: object, new: object) -> Cause:
        """Return what moved a column that follows from the evidence and its labels."""
        if name in ("flags", "status"):
            return self._find_of_codes(name, old, new)
        if name.startswith("r_"):
            return self.find_of_labels(name.removeprefix("r_"))
        if name in ("score", "level"):
            return self._find_of_score(name)
        if name.startswith("top_") or name == "p_top":
            return self._find_of_top(old, new)
        return self._find_of_counts(name)

    # Prices ---------------------------------------------------------------------------------------

    def find_of_prices(self, name: str) -> Cause:
        """Return what moved a metric: settings, the dates of the prices, or the prices."""
        parts = self._tell(*(kinds_of(name) or {PRICES}))
        parts += [
            f"{one}: {_format(one, self.old[one])} -> {_format(one, self.new[one])}"
            for one in _DATA
            if one != name and one in self.old and one in self.new
            if differ(self.old[one], self.new[one])
        ]
        if name not in _OF_DATA and (not parts or self._has_other_prices()):
            parts.append(self._describe_values(name))
        return Cause(text=_join(parts) or "the dates of the prices")

    def _has_other_prices(self) -> bool:
        """Tell whether the prices themselves differ: a metric moved, and nothing else explains."""
        if self._tell(PRICES) or any(
            differ(self.old.get(one), self.new.get(one)) for one in _DATA if one != "as_of"
        ):
            return False
        return any(differ(self.old.get(one), self.new.get(one)) for one in ("ret_total", "vol_ann"))

    def _describe_values(self, name: str) -> str:
        of_whom = " of the ticker or of the benchmark" if name in _JOINT else ""
        if is_missing(self.new.get("first_obs")):
            return f"the values of the prices{of_whom}"
        first, last = (_format(one, self.new[one]) for one in ("first_obs", "last_obs"))
        return f"the values of the prices{of_whom}, from {first} to {last}"

    # Codes ----------------------------------------------------------------------------------------

    def _find_of_codes(self, name: str, old: object, new: object) -> Cause:
        """Return why flags came or went, or why the status is another."""
        before, after = (set(codes_in([cell])) for cell in (old, new))
        added, gone = sorted(after - before), sorted(before - after)
        changed = {*added, *gone}
        parts, quote = [], None
        if name == "flags":
            parts += [f"added: {', '.join(added)}"] if added else []
            parts += [f"gone: {', '.join(gone)}"] if gone else []
        for codes, column in _COLUMNS_OF_CODES.items():
            if changed.intersection(codes):
                parts.append(self.find_of_prices(column).text)
        if changed & _OF_LIST:
            parts.append("the tickers and weights as they were given")
        if changed - _OF_PRICES - _OF_LIST - {"ok"}:
            cause = self.find_of_labels(None)
            parts.append(_drop_unknown(cause.text) or "the evidence and its labels")
            quote = cause.quote
        return Cause(text=_join(parts), quote=quote)

    # Labels ---------------------------------------------------------------------------------------

    def find_of_labels(self, category: str | None) -> Cause:
        """
        Return which sentences and which settings moved a rating.

        Parameters
        ----------
        category
            The category that is rated; None for whatever follows from all sentences.
        """
        moved = self._list_moved(category)
        parts = [*self._tell_states(), *_describe_pairs(moved), *self._tell(LABELS, EVIDENCE)]
        versions = [row.get("score_version") for row in (self.old, self.new)]
        if all(isinstance(one, str) for one in versions) and versions[0] != versions[1]:
            parts.append(f"score_version: {versions[0]} -> {versions[1]}")
        return Cause(text=_join(parts) or UNKNOWN, quote=moved[0].quote if moved else None)

    def _list_moved(self, category: str | None) -> list[SentencePair]:
        """Return the sentences that came, went or count otherwise, those that count most first."""
        moved = [
            pair
            for pair in self.pairs
            if (pair.is_moved or pair.kind == "changed")
            and (category is None or category in pair.categories)
        ]
        return sorted(moved, key=lambda pair: (not pair.is_moved, -pair.weight))

    def _find_of_score(self, name: str) -> Cause:
        """Return the ratings that moved, each with the sentences behind it."""
        if name == "level":
            cause = self._find_of_score("score")
            before, after = (_format("score", row.get("score")) for row in (self.old, self.new))
            return Cause(text=f"score {before} -> {after}; {cause.text}", quote=cause.quote)
        moved = [
            name.removeprefix("r_")
            for name in dict.fromkeys((*self.old, *self.new))
            if name.startswith("r_") and differ(self.old.get(name), self.new.get(name))
        ]
        ratings = [f"{name} {_rate(self.old, name)} -> {_rate(self.new, name)}" for name in moved]
        causes = [self.find_of_labels(name) for name in moved]
        known = [cause for cause in causes if cause.text != UNKNOWN]
        if not known:
            cause = self.find_of_labels(None)
            return Cause(text=_join([*ratings, cause.text]), quote=cause.quote)
        quote = next((cause.quote for cause in known if cause.quote), None)
        texts = dict.fromkeys(part for cause in known for part in cause.text.split("; "))
        return Cause(text=_join([*ratings, *texts]), quote=quote)

    def _find_of_top(self, old: object, new: object) -> Cause:
        """Return what moved the top risk and its sentence, of either run."""
        tops = {row.get("top_risk") for row in (self.old, self.new)} - {None}
        named = [one for one in tops if isinstance(one, str)]
        causes = [self.find_of_labels(one) for one in sorted(named)]
        known = [cause for cause in causes if cause.text != UNKNOWN] or [self.find_of_labels(None)]
        quote = next((cause.quote for cause in known if cause.quote), None)
        texts = dict.fromkeys(part for cause in known for part in cause.text.split("; "))
        if list(texts) == [UNKNOWN]:
            return Cause(text=self._describe_same_sentence(old, new))
        return Cause(text=_join(texts), quote=quote)

    def _describe_same_sentence(self, old: object, new: object) -> str:
        """Say what else a top sentence can differ in: its letters, its date, its probability."""
        if _is_number(old) and _is_number(new):
            return "the judge gives the same label of the sentence another probability"
        if (
            isinstance(old, str)
            and isinstance(new, str)
            and " ".join(old.split()).casefold() in (" ".join(new.split()).casefold())
        ):
            return "the same words with other capitals, punctuation or white space"
        return "sentences that count the same stand in another order, or have other dates"

    def _find_of_counts(self, name: str) -> Cause:
        """Return what moved a count: sentences, alerts, labels."""
        if name == "model":
            return Cause(text=_join([*self._tell(LABELS), *self._tell_states()]) or UNKNOWN)
        cause = self.find_of_labels(None)
        is_known = cause.text != UNKNOWN
        if first := _FIRST_CAUSES.get(name):
            return Cause(text=_join([first, cause.text if is_known else ""]), quote=cause.quote)
        return cause if is_known else Cause(text=_LAST_CAUSES.get(name, UNKNOWN))

    # What the runs were told ----------------------------------------------------------------------

    def _tell(self, *kinds: str) -> list[str]:
        return [str(one) for one in self.settings if not one.kinds.isdisjoint(kinds)]

    def _tell_states(self) -> list[str]:
        """Say where a run did not label the ticker."""
        said = []
        runs = (("older", self.old, self.failures[0]), ("newer", self.new, self.failures[1]))
        states = [row.get("status") for _, row, _ in runs]
        for (which, row, failure), status in zip(runs, states, strict=True):
            codes = codes_in([row.get("flags"), status])
            for code in _UNLABELED:
                if code in codes and states[0] != states[1]:
                    why = f" ({failure})" if failure and code == "not_run" else ""
                    said.append(f"{code} in the {which} run{why}")
        return said


def _describe_pairs(pairs: Sequence[SentencePair]) -> list[str]:
    """Return a part for each of the first sentences, and how many more there are."""
    said = [_describe_pair(pair) for pair in pairs[:MAX_SENTENCES]]
    more = len(pairs) - len(said)
    return [*said, f"{format_count(more, 'more sentence')}"] if more > 0 else said


def _describe_pair(pair: SentencePair) -> str:
    label, before = describe_label(pair.new), describe_label(pair.old)
    if pair.new is None:
        return f"a sentence is gone ({before})"
    if pair.old is None:
        return f"a sentence is new ({label})"
    wording = "reworded sentence" if pair.kind == "changed" else "same sentence"
    correction = describe_correction(pair.new, pair.old)
    by = f" ({correction})" if correction else ""
    if label != before:
        return f"the label of the {wording} changed from {before} to {label}{by}"
    old, new = describe_count(pair.old), describe_count(pair.new)
    if old != new:
        return f"the {wording} ({label}) {new}, before it {old}".replace("; ", ", ") + by
    return correction or f"a sentence is reworded ({label})"


def _rate(row: Mapping[str, Any], category: str) -> str:
    return format_value("", row.get(f"r_{category}"))


def _format(name: str, value: object) -> str:
    return format_value(name, value)


def _drop_unknown(text: str) -> str:
    return "" if text == UNKNOWN else text


def _join(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))
