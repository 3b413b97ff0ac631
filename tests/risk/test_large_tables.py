"""A table of ten thousand rows: the work grows as the rows do, not as their square."""

import sys

import pytest

from price_data import rows_with, walk
from urisk_nb.readers.holdings import parse_tickers
from urisk_nb.readers.prices import read_prices
from urisk_nb.risk import quant
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.table.risk_table import assemble

pytestmark = pytest.mark.slow  # tables of real size


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


def test_only_the_first_hundred_unknown_tickers_are_compared_with_all_columns(monkeypatch):
    """Each row says that it has no column; from the hundred and first on it suggests none."""
    asked = []
    monkeypatch.setattr(quant, "find_closest", lambda name, known: asked.append(name) or ["T1"])
    names = [f"X{number}" for number in range(150)]
    rows = rows_with(walk(40, ["T1"]), names)
    assert asked == names[:100]
    assert [rows[name].status for name in names] == ["no_data"] * 150
    assert rows["X99"].message == "the prices have no column 'X99'; closest: T1."
    assert rows["X100"].message == "the prices have no column 'X100'."


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
