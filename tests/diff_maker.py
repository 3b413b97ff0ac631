"""Pairs of runs of which one thing differs, and the check that each difference has its cause."""

from dataclasses import dataclass, field, replace

import pandas as pd

from run_maker import NEWS, TELLING, choose_label, filing, make_prices, make_run, note
from urisk_nb.table.causes import EDITED, UNKNOWN

WORLD_TICKERS = ("AAA", "BBB", "CCC", "DDD")


@dataclass(frozen=True)
class World:
    """All that decides a run, so that one thing of it can be changed."""

    symbols: tuple = WORLD_TICKERS
    documents: dict = field(
        default_factory=lambda: {
            "AAA": [filing("AAA", *TELLING[5:13], length=30)],
            "BBB": [filing("BBB", *TELLING[:4], length=5), note("BBB", *NEWS[:2])],
            "CCC": [note("CCC", *NEWS[:4])],
        }
    )
    labels: dict = field(default_factory=dict)
    prices: pd.DataFrame = field(default_factory=lambda: make_prices(*WORLD_TICKERS, "EEE"))
    p: float = 0.9
    options: dict = field(default_factory=dict)

    def run(self, run_id):
        drawn = choose_label("world")

        def label(ticker, text):
            return self.labels.get((ticker, text)) or drawn(ticker, text)

        return make_run(
            self.symbols,
            [one for ticker in self.symbols for one in self.documents.get(ticker, ())],
            label,
            p=lambda ticker, text: self.p if "default" in text else 0.9,
            prices=self.prices[[one for one in self.prices if one in self.symbols]],
            run_id=run_id,
            **self.options,
        )

    def give(self, **options):
        return replace(self, options={**self.options, **options})

    def write(self, ticker, *documents):
        return replace(self, documents={**self.documents, ticker: list(documents)})


def is_other(old, new):
    """Whether two cells differ, said in another way than the code says it."""
    if old is pd.NA or new is pd.NA or old is None or new is None or old != old or new != new:
        return pd.isna(old) != pd.isna(new)
    return bool(old != new)


def check_causes(older, newer):
    """Every cell that differs has a row with a cause, and no other cell has one."""
    changes = newer.diff(older).changes
    found = {(row.ticker, row.what): row for row in changes.itertuples()}
    wanted = set()
    before, after = older.to_dict("index"), newer.to_dict("index")
    for ticker in before.keys() & after.keys():
        for name in before[ticker].keys() & after[ticker].keys():
            old, new = before[ticker][name], after[ticker][name]
            if is_other(old, new):
                wanted.add((ticker, name))
                row = found[ticker, name]
                assert isinstance(row.cause, str)
                assert row.cause.strip()
                assert UNKNOWN not in row.cause, row
                assert row.cause != EDITED, row
                assert not is_other(row.old, old)
                assert not is_other(row.new, new)
    columns = set(older.columns) & set(newer.columns)
    cells = {key for key in found if key[0] != "portfolio"}
    assert {key for key in cells if key[1] in columns} == wanted
    beside = check_parts(older, newer, found)
    assert {key for key in cells if is_named_part(key[1])} | {
        key for key in found if key[0] == "portfolio" and is_named_part(key[1])
    } == beside
    for _, name in found.keys() - cells - beside:
        assert is_other(older.portfolio[name], newer.portfolio[name])
        assert found["portfolio", name].cause.strip()
    return changes


def is_named_part(what):
    return what.split(":")[0].split(" ")[0] in ("stress", "factors", "backtest")


def name_parts(table):
    """Every cell beside the rows by ticker and name, as docs/portfolio.md names its columns."""
    cells, report = {}, table.report
    for row in () if report.stress is None else report.stress.to_dict("records"):
        for name in ("start", "end", "n_obs", "ret_total", "max_dd", "flags", "reason"):
            cells[row["ticker"], f"stress {row['episode']}: {name}"] = row[name]
    for row in () if report.backtest is None else report.backtest.to_dict("records"):
        tail = {0.05: "95", 0.1: "90", 0.01: "99"}[row["alpha"]]
        for name in ("window", "n", "exceedances", "expected", "LR", "p_value", "flags"):
            cells["portfolio", f"backtest {row['method']} {tail}: {name}"] = row[name]
    for ticker, row in {} if report.factors is None else report.factors.to_dict("index").items():
        cells |= {(ticker, f"factors: {name}"): value for name, value in row.items()}
    return cells


def check_parts(older, newer, found):
    """Every cell that differs in backtest, episodes and factors has a cause; returns which."""
    before, after = name_parts(older), name_parts(newer)
    both = {"portfolio", *(older.index.intersection(newer.index))}
    wanted = {
        key
        for key in before.keys() & after.keys()
        if key[0] in both and is_other(before[key], after[key])
    }
    for key in wanted:
        row = found[key]
        assert row.cause.strip()
        assert UNKNOWN not in row.cause
        assert not is_other(row.old, before[key])
        assert not is_other(row.new, after[key])
    return wanted
