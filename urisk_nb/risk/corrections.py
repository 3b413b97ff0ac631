"""What a person asks to correct, checked: which sentence is meant, and which label it is to have.

Pure: the findings of a run and what was given in, a record out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from urisk_nb.errors import InputError
from urisk_nb.risk.evidence import clean_text
from urisk_nb.risk.labeling import Finding, TickerFindings
from urisk_nb.risk.overrides import Override
from urisk_nb.risk.questions import Label
from urisk_nb.risk.taxonomy import NONE, SEVERITIES, Taxonomy
from urisk_nb.risk.values import find_closest, fold_name, read_number, show

__all__ = ["Correction", "build_override"]

MAX_NAMED = 5  # sentences or tickers that an error names
MAX_QUOTE_CHARS = 60
MAX_WHY_CHARS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """
    What `RiskTable.override` was given, unchecked.

    Attributes
    ----------
    evidence
        The id of a sentence, or words of it.
    risk, severity
        The label that it is to have.
    why
        The reason.
    ticker
        Whose sentence; None where only one ticker has it.
    remove
        Take the correction back that is in force.
    """

    evidence: Any
    risk: Any = None
    severity: Any = None
    why: Any = ""
    ticker: Any = None
    remove: bool = False


def build_override(
    ticker_findings: Sequence[TickerFindings],
    taxonomy: Taxonomy,
    correction: Correction,
    *,
    who: str,
    made_at: datetime,
    model: str | None = None,
) -> Override:
    """
    Return the record of a correction.

    Parameters
    ----------
    ticker_findings
        What the model found.
    taxonomy
        The categories that a label may name.
    who, made_at, model
        The person, the moment, and the judge whose labels count.

    Raises
    ------
    InputError
        No sentence is meant, or several; the label is none of the taxonomy; there is no reason.
    """
    why = _read_why(correction.why)
    label = _read_label(correction, taxonomy)
    symbol, finding = _find_sentence(ticker_findings, correction)
    return Override(
        ticker=symbol,
        text=finding.sentence.text,
        label=label,
        why=why,
        who=who,
        made_at=made_at,
        model=model,
        model_label=finding.label,
        p_label=finding.p_label,
        source=finding.sentence.document.source,
        date=finding.sentence.document.date,
    )


# The label ----------------------------------------------------------------------------------------


def _read_why(given: object) -> str:
    if not isinstance(given, str) or not given.strip():
        raise InputError(
            "a correction needs a reason.",
            fix='say it: why="the fine was paid in 2021"',
        )
    if len(given) > MAX_WHY_CHARS:
        raise InputError(
            f"the reason has {len(given)} characters, more than {MAX_WHY_CHARS}.",
            fix="say it in fewer words, and name the document that has the rest",
        )
    return given.strip()


def _read_label(correction: Correction, taxonomy: Taxonomy) -> Label | None:
    """Return the label that is to count; None where a correction is taken back."""
    if correction.remove:
        if correction.risk is not None or correction.severity is not None:
            raise InputError(
                "remove=True takes a correction back, and a label was given, too.",
                fix="leave out risk= and severity=, or leave out remove=",
            )
        return None
    risk = correction.risk.strip().lower() if isinstance(correction.risk, str) else None
    if risk not in taxonomy.labels:
        raise InputError(
            f"risk={show(correction.risk)} is no category of this run.",
            fix=f"use one of {', '.join(taxonomy.labels)}",
        )
    return Label(risk=risk, severity=_read_severity(risk, correction.severity))


def _read_severity(risk: str, given: object) -> int:
    if risk == NONE and given is None:
        return 0
    number = read_number(given)
    if risk == NONE:
        if number != 0:
            raise InputError(
                f"severity={show(given)} was given with the risk {NONE!r}, which has none.",
                fix="leave out severity=",
            )
        return 0
    if number is None or number not in SEVERITIES:
        anchors = ", ".join(f"{level} ({meaning})" for level, meaning in SEVERITIES.items())
        raise InputError(
            f"severity={show(given)} is not a whole number from 0 to 5.",
            fix=f"use one of {anchors}",
        )
    return int(number)


# The sentence -------------------------------------------------------------------------------------

Found = tuple[str, Finding]
_PLAIN_MARKS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)


def _find_sentence(ticker_findings: Sequence[TickerFindings], correction: Correction) -> Found:
    """Return the one sentence that is meant, with its ticker."""
    given = correction.evidence
    if not isinstance(given, str) or not given.strip():
        raise InputError(
            f"evidence={show(given)} names no sentence.",
            fix="give its id, as in table.report.findings, or words of it",
        )
    every = _list_sentences(ticker_findings, correction.ticker)
    found = _match(every, given)
    if not found:
        others = _match(_list_sentences(ticker_findings, None), given)
        raise _build_unknown_error(every, given, others)
    if len({finding.sentence.text for _, finding in found}) > 1:
        raise _build_ambiguous_error(found, given)
    if len(found) > 1:
        names = ", ".join(symbol for symbol, _ in found[:MAX_NAMED])
        raise InputError(
            f"{len(found)} tickers have this sentence: {names}.",
            fix=f"say whose it is: ticker={found[0][0]!r}",
        )
    return found[0]


def _list_sentences(ticker_findings: Sequence[TickerFindings], ticker: object) -> list[Found]:
    """Return the sentences of a ticker, or of all; one that stands in several places once each."""
    labeled = [one for one in ticker_findings if one.findings]
    if ticker is not None:
        symbols = [one.symbol for one in labeled]
        wanted = next((one for one in symbols if fold_name(str(ticker)) == fold_name(one)), None)
        if wanted is None:
            near = find_closest(str(ticker), symbols, MAX_NAMED) or symbols[:MAX_NAMED]
            raise InputError(
                f"ticker={show(ticker)} has no labeled sentence.", fix=f"one of {', '.join(near)}"
            )
        labeled = [one for one in labeled if one.symbol == wanted]
    return [(one.symbol, finding) for one in labeled for finding in one.findings]


def _match(every: Iterable[Found], given: str) -> list[Found]:
    """Return what has this id, else these words, else what contains them; each sentence once."""
    every, words = list(every), _fold(given)
    tests = (
        lambda finding: finding.sentence.id == given.strip(),
        lambda finding: _fold(finding.sentence.text) == words,
        lambda finding: bool(words) and words in _fold(finding.sentence.text),
    )
    for is_meant in tests:
        found = {
            (symbol, finding.sentence.text): (symbol, finding)
            for symbol, finding in reversed(every)  # of equal ones the first stays
            if is_meant(finding)
        }
        if found:
            return list(found.values())[::-1]
    return []


def _fold(text: str) -> str:
    """Return a text as it is compared: documents have curly marks, keyboards have straight ones."""
    return clean_text(text).translate(_PLAIN_MARKS).casefold()


def _build_unknown_error(every: Sequence[Found], given: str, others: Sequence[Found]) -> InputError:
    """Say what there is; `others`: the sentences of other tickers that are meant."""
    if others:
        return InputError(
            f"no labeled sentence of {every[0][0]} has the id or the words {show(given)}, but one "
            f"of {others[0][0]} has.",
            fix=f"say ticker={others[0][0]!r}",
        )
    by_text = {finding.sentence.text: finding for _, finding in every}
    ids = [finding.sentence.id for _, finding in every]
    near = [by_text[text] for text in find_closest(clean_text(given), by_text, MAX_NAMED)]
    near = near or [one for _, one in every if one.sentence.id in find_closest(given, ids)]
    near = near or [finding for _, finding in every]
    return InputError(
        f"no labeled sentence has the id or the words {show(given)}.",
        fix=f"give the id of one, such as {_name(near)}; table.report.findings has all",
    )


def _build_ambiguous_error(found: Sequence[Found], given: str) -> InputError:
    return InputError(
        f"{len(found)} sentences have the words {show(given)}.",
        fix=f"give the id of one: {_name([finding for _, finding in found])}",
    )


def _name(findings: Sequence[Finding]) -> str:
    """Return the ids of the first sentences, each with its first words."""
    return ", ".join(
        f"{one.sentence.id!r} ({show(one.sentence.text[:MAX_QUOTE_CHARS])})"
        for one in findings[:MAX_NAMED]
    )
