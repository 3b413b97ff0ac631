"""Ids for the sentences that go with a question, and what an answer makes of them.

A model may cite a sentence that does not exist. Such an id is struck where the answer is shown, and
listed in `answer.unknown_citations`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from urisk_nb.chat.attachments import Source
from urisk_nb.llm.answers import Answer, Citation

__all__ = ["CitationMarks", "SourceIds", "describe_citations", "mark_citations", "strike_unknown"]

PREFIX = "S"
# [S1], [S1, S2], [S1][S2]; some models write their own brackets
_CITED = re.compile(r"[\[【]\s*[Ss][0-9]+(?:\s*(?:[,;]|and|-|–)\s*[Ss][0-9]+)*\s*[\]】]")
_ID = re.compile(r"[Ss]0*([0-9]+)")
_ID_OR_RANGE = re.compile(rf"{_ID.pattern}(?:\s*[-–]\s*{_ID.pattern})?")
MAX_DIGITS = 9  # of an id that is a number: Python reads none of some thousand digits
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)


class SourceIds:
    """The ids of the sentences of one conversation: a sentence keeps its id from turn to turn."""

    def __init__(self) -> None:
        self._ids: dict[Source, str] = {}

    def name(self, source: Source) -> str:
        """Return the id of a sentence: that it has, or the next one."""
        return self._ids.setdefault(source, f"{PREFIX}{len(self._ids) + 1}")

    @property
    def by_id(self) -> Mapping[str, Source]:
        """The sentences by their ids."""
        return {name: source for source, name in self._ids.items()}


def mark_citations(answer: Answer, sources: Mapping[str, Source]) -> Answer:
    """Set what an answer cites: `citations`, and `unknown_citations` without a sentence."""
    cited = dict.fromkeys(
        name for found in _CITED.findall(answer) for name in _read_ids(found, sources)
    )
    answer.citations = tuple(
        Citation(
            id=name,
            quote=(one := sources[name]).quote,
            source=one.source,
            section=one.section,
            date=one.date,
            ticker=one.ticker,
            evidence=one.evidence,
        )
        for name in cited
        if name in sources
    )
    answer.unknown_citations = tuple(name for name in cited if name not in sources)
    return answer


def _read_ids(text: str, sources: Mapping[str, Source]) -> Iterator[str]:
    """Yield the ids between two brackets; of a range also those within it that exist."""
    for first, last in _ID_OR_RANGE.findall(text):
        yield PREFIX + first
        if last:
            yield from _list_within(first, last, sources)
            yield PREFIX + last


def _list_within(first: str, last: str, sources: Mapping[str, Source]) -> list[str]:
    if max(len(first), len(last)) > MAX_DIGITS:
        return []
    numbers = (int(name.removeprefix(PREFIX)) for name in sources)
    return [f"{PREFIX}{one}" for one in sorted(numbers) if int(first) < one < int(last)]


def strike_unknown(text: str, sources: Mapping[str, Source]) -> str:
    """Return an answer in Markdown with the ids struck that do not exist; code stays as it is."""
    parts = _CODE.split(text)
    parts[::2] = [_CITED.sub(lambda found: _strike(found[0], sources), one) for one in parts[::2]]
    return "".join(parts)


def _strike(cited: str, sources: Mapping[str, Source]) -> str:
    # Inside of the brackets: Markdown strikes nothing that begins in the middle of a word
    return _ID.sub(
        lambda found: found[0] if PREFIX + found[1] in sources else f"~~{found[0]}~~",
        cited,
    )


def describe_citations(answer: Answer, *, is_struck: bool = True) -> str:
    """Return what the line under an answer says of its citations; empty where it has none."""
    cited, unknown = len(answer.citations), len(answer.unknown_citations)
    parts = []
    if cited:
        parts.append(f"cites {cited} sentence{'' if cited == 1 else 's'}")
    if unknown:
        one, many = ("id does not exist", "is"), ("ids do not exist", "are")
        said, verb = one if unknown == 1 else many
        struck = f" and {verb} struck"
        parts.append(f"{unknown} {said}{struck if is_struck else ''}")
    return "; ".join(parts)


class CitationMarks:
    """
    What is done with the citations of one answer, while it comes and at its end.

    Parameters
    ----------
    sources
        The sentences that it may cite, by their ids.
    is_on
        Whether ids are looked for at all.
    is_struck
        Whether those that do not exist are struck in the text that is shown.
    """

    def __init__(
        self, sources: Mapping[str, Source], *, is_on: bool = True, is_struck: bool = True
    ) -> None:
        self._sources, self._is_on, self._is_struck = sources, is_on, is_struck

    def mark(self, text: str) -> str:
        """Return a text as it is shown."""
        return strike_unknown(text, self._sources) if self._is_on and self._is_struck else text

    def finish(self, answer: Answer) -> tuple[str, ...]:
        """Set what the answer cites; return what the line under it says."""
        if not self._is_on:
            return ()
        mark_citations(answer, self._sources)
        said = describe_citations(answer, is_struck=self._is_struck)
        return (said,) if said else ()
