"""What a table says of the column that its prices come from, and how its headings wrap."""

import re

import numpy as np
import pandas as pd
import pytest

from urisk_nb import assess

DAYS = pd.bdate_range("2024-01-01", periods=40)
CLOSE = pd.Series(np.linspace(50, 60, 40) + np.sin(np.arange(40)), index=DAYS)


def table_from(names, **params):
    frame = pd.concat({"AAA": pd.DataFrame(dict.fromkeys(names, CLOSE))}, axis=1)
    return assess(["AAA"], prices=frame, params={"llm": False, **params})


@pytest.mark.parametrize(
    ("names", "params", "said"),
    [
        (["Adj Close", "Close"], {}, "prices: Adj Close (adjusted)"),
        (["Adj Close", "Close"], {"price_column": "close"}, "prices: Close (not adjusted)"),
        (["Open", "Close"], {"price_column": "Open"}, "prices: Open"),
    ],
)
def test_the_column_of_prices_is_said_once(names, params, said):
    """
    The line under the table names it; "not adjusted" stands only beside an adjusted column.
    """
    lines = repr(table_from(names, **params)).splitlines()
    assert said in lines[-1].split(" · ")
    assert sum("Close" in line or "Open" in line for line in lines) == 1


def test_short_headings_stay_on_one_line():
    """
    "VaR 95" and "max drawdown" are not broken where a long sentence stands beside them.
    """
    head = table_from(["Close"])._repr_html_().partition("</thead>")[0]
    found = re.findall(r'style="([^"]*)">(VaR 95|max drawdown|vol \(ann\.\))<', head)
    assert len(found) == 3
    assert all(style.endswith("white-space:nowrap") for style, _ in found)
