"""The task of one ticker: whoever does it, in whatever process, the selection is the same."""

from dataclasses import replace
from datetime import date

import pytest

from urisk_nb.risk.evidence import split
from urisk_nb.risk.families import load_families, read_families
from urisk_nb.risk.inputs import Document, Holding, Section
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.questions import EXAMPLES
from urisk_nb.risk.selection import keep_shared, list_tasks, select_evidence, select_in_turn
from urisk_nb.risk.task_bytes import (
    decode_selection,
    decode_task,
    encode_selection,
    encode_task,
    select_bytes,
)
from urisk_nb.risk.taxonomy import DEFAULT

LOST = "On May 4, 2024 we lost the licence of plant {0}, and our lenders declared a default."
PLAIN = "The plant in town {0} makes paper for offices, and it runs in two shifts."
OWN = read_families("[lost]\ncategory = 'regulatory'\npatterns = ['lost the licen[sc]e']", "own")
OWN = (*load_families(), *OWN)
TICKERS = ("AAA", "BBB")


def filing(ticker, year=2024, lines=200):
    text = "\n\n".join((LOST if n % 9 == 0 else PLAIN).format(n) for n in range(lines))
    return Document(
        id=f"{ticker}{year}",
        ticker=ticker,
        text=text,
        date=date(year, 6, 1),
        source=f"{ticker}-{year}.txt",
        form="10-K",
        sections=(Section(name="Item 1", title="Business", start=0),),
    )


NEWS = Document(id="N", ticker=None, text="Paper prices fell by a third.", date=date(2024, 6, 2))
THIS_YEAR = [filing("AAA"), filing("BBB"), NEWS]


def list_of(documents, *, previous=None, families=None, **settings):
    holdings = [Holding(symbol=ticker) for ticker in TICKERS]
    given = {"previous": previous, "taxonomy": DEFAULT, "examples": EXAMPLES, "as_of": None}
    params = RiskParams.of(**settings)
    return list(list_tasks(holdings, documents, params, families=families, **given))


CASES = {
    "filings": list_of(THIS_YEAR),
    "a year before": list_of(THIS_YEAR, previous=[filing("AAA", 2023, 190)]),
    "two years in one folder": list_of([filing("AAA"), filing("AAA", 2023, 150), NEWS]),
    "a query": list_of(THIS_YEAR, query="licence"),
    "families of the user": list_of(THIS_YEAR, families=OWN),
    "nothing of one": list_of([filing("BBB")]),
    "no model": list_of([NEWS], llm=False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_selection_survives_the_way_there_and_back(case):
    """
    Packed, done elsewhere and unpacked, a selection equals that of this process, and has the
    caller's own documents and families in it.
    """
    for task in CASES[case]:
        here = select_evidence(task)
        there = decode_selection(select_bytes(encode_task(task)), task)
        assert there == here
        assert there.message == here.message
        own = {id(one) for one in (*task.documents, *(task.previous or ()))}
        assert {id(one.document) for one in there.chosen} <= own
        families = {id(one) for one in task.families or load_families()}
        assert {id(one.family) for one in there.passages if one.family} <= families


def test_no_text_of_a_document_travels_back():
    """A selection is small: the sentences that were chosen, and the places of their documents."""
    text = "\n\n".join([LOST.format(1), *(PLAIN.format(n) for n in range(9000))])
    (task, _) = list_of([replace(filing("AAA"), text=text)])
    back = encode_selection(select_evidence(task), task)
    packed = task.documents[0].text_key.data
    assert packed in encode_task(task)
    assert packed not in back
    assert len(back) < 0.1 * len(text)


def test_families_are_compiled_once_a_process():
    """Tasks that were packed apart share their families when they are unpacked."""
    first, second = (decode_task(encode_task(task)) for task in list_of(THIS_YEAR, families=OWN))
    assert first.families is second.families
    assert first.families == OWN


def test_a_shared_document_is_split_once():
    """Its sentences are kept, and those of one company are not."""
    split_once = keep_shared()
    assert split_once(NEWS) is split_once(NEWS)
    assert split_once(THIS_YEAR[0]) is not split_once(THIS_YEAR[0])
    assert split_once(THIS_YEAR[0]) == split(THIS_YEAR[0])


def test_who_reads_the_evidence_can_be_given():
    """
    Each task is made when it is taken, and said to be read then; the plan has the selections that
    come back, in the order of the tickers.
    """
    events = []

    def map_selections(tasks):
        for task in tasks:
            events.append(("taken", task.holding.symbol))
            yield from select_in_turn([task])

    plan = prepare(
        [Holding(symbol=ticker) for ticker in TICKERS],
        None,
        THIS_YEAR,
        RiskParams.of(),
        on_read=lambda symbol, number, count: events.append((symbol, number, count)),
        map_selections=map_selections,
    )
    assert events == [("AAA", 1, 2), ("taken", "AAA"), ("BBB", 2, 2), ("taken", "BBB")]
    assert [one.chosen[0].document.ticker for one in plan.selections.values()] == ["AAA", "BBB"]
