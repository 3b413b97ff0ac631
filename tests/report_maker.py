"""Tables whose report has more than a run without a server gives: prices, a portfolio, rows."""

import dataclasses

import numpy as np
import pandas as pd

from table_maker import DAYS, HOSTILE
from urisk_nb.table.risk_table import Report, RiskTable

FINED = "It was fined 3 million dollars in May."
ATTACKS = (
    HOSTILE,
    '"><img src=x onerror=alert(1)> was fined by <b onclick="x()">court</b>.',
    "<a href='javascript:alert(1)'>The company</a> was sued by http://evil.example/x.png there.",
    "</style></title><iframe src=//evil.example></iframe> was fined &lt;script&gt; in May.",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FullReport(Report):
    prices: object = None
    portfolio: object = None
    backtest: object = None
    stress: object = None
    factors: object = None


def give(table, **more):
    """The table with a report that has more parts."""
    parts = {one.name: getattr(table.report, one.name) for one in dataclasses.fields(table.report)}
    object.__setattr__(table, "_report", FullReport(**(parts | more)))
    return table


def give_portfolio(table):
    """The table with weights, what each ticker adds to ES, and the figures of the whole."""
    count = len(table)
    table = table.assign(
        weight=[1 / count] * count, comp_es=[0.04, -0.01, *[0.01] * (count - 2)][:count]
    )
    portfolio = pd.Series(
        {"holdings": count, "es_95": 0.03, "first_obs": DAYS[0], "vol_ann": float("nan")},
        dtype=object,
        name="portfolio",
    )
    backtest = pd.DataFrame({"method": ["historical"], "alpha": [0.05], "exceedances": [3]})
    stress = pd.DataFrame({"episode": ["covid"], "ticker": ["AAA"], "max_dd": [0.25]})
    return give(table, portfolio=portfolio, backtest=backtest, stress=stress)


def prices(*names):
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {name: 50 * np.cumprod(1 + rng.normal(0, 0.01, len(DAYS))) for name in names}, index=DAYS
    )


def multiply(table, names):
    """The row of one ticker and its findings, for each of these names."""
    rows = pd.concat([pd.DataFrame(table)] * len(names)).set_axis(names).rename_axis("ticker")
    found = [table.report.findings.assign(ticker=name) for name in names]
    whole = RiskTable(rows)
    report = dataclasses.replace(table.report, findings=pd.concat(found, ignore_index=True))
    object.__setattr__(whole, "_report", report)
    return whole
