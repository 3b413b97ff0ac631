"""A table of ten thousand rows: the work grows as the rows do, not as their square."""

import sys

import pytest
from price_data import walk

from urisk_nb.risk.inputs import Document, parse_tickers, read_prices
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.table.risk_table import assemble


def calls_for(count, spelling, evidence):
    """How often Python enters a function, or goes on with a generator, until the table is there."""
    names = [f"T{number}" for number in range(count)]
    prices = read_prices(walk(40, list(map(spelling, names))))
    params = RiskParams(llm=evidence is not None, benchmark=spelling("T0"))
    documents = None if evidence is None else evidence(names)
    calls = 0

    def count_calls(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_calls)
    try:
        plan = prepare(parse_tickers(names), prices, documents, params)
        table = assemble(plan, {}, run_id="r1")
    finally:
        sys.setprofile(None)
    assert (len(table), table["n_obs"].tolist()) == (count, [40] * count)
    return calls


def one_each(names):
    """A document of each company, and one that counts for all."""
    shared = Document(id="S", ticker=None, text="Rates rose.")
    return [shared, *(Document(id=name, ticker=name, text="It fell.") for name in names)]


@pytest.mark.parametrize(
    "evidence",
    [None, lambda names: (), one_each],
    ids=["prices alone", "no evidence", "evidence of each"],
)
@pytest.mark.parametrize("spelling", [str.upper, str.lower], ids=["exact names", "other spelling"])
def test_four_times_the_rows_are_four_times_the_work(spelling, evidence):
    """From 200 to 800 rows, with exact column names and with names that must be looked for."""
    calls_for(10, spelling, evidence)  # what is done once in a process is done
    small, large = (calls_for(count, spelling, evidence) for count in (200, 800))
    assert large < 4.2 * small
