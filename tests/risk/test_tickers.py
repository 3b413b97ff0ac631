"""A symbol finds its own column and no lookalike."""

import pytest

from urisk_nb.errors import InputError
from urisk_nb.risk.tickers import resolve


@pytest.mark.parametrize(
    ("symbol", "columns", "expected"),
    [
        ("BRK.B", ["BRK.B", "BRK-B"], ("BRK.B", ())),
        ("NVDA", ["nvda", "MSFT"], ("nvda", ("alias",))),
        ("BRK.B", ["BRK-B"], ("BRK-B", ("alias",))),
        ("BRK/B", ["brk.b"], ("brk.b", ("alias",))),
        ("BRK.B", ["BRK B", "BRKB"], (None, ())),
        ("BTC-USD", ["BTC.USD"], (None, ())),
        ("GOOG", ["GOOGL"], (None, ())),
        ("NVDA", ["NVDA US Equity"], ("NVDA US Equity", ("alias",))),
        ("NVDA", ["nvda us equity", "AMD US Equity"], ("nvda us equity", ("alias",))),
        ("NVDA US EQUITY", ["NVDA"], ("NVDA", ("alias",))),
        ("BRK.B", ["BRK/B US Equity"], ("BRK/B US Equity", ("alias",))),
        ("SPX", ["SPX Index"], ("SPX Index", ("alias",))),
        ("NVDA", ["NASDAQ:NVDA"], ("NASDAQ:NVDA", ("alias",))),
        ("NVDA", ["NVDA.US"], ("NVDA.US", ("alias",))),
        ("NVDA", ["NVDA (USD)"], ("NVDA (USD)", ("alias",))),
        ("NVDA", ["NVDA US"], ("NVDA US", ("alias",))),
        ("NVDA GR EQUITY", ["NVDA US Equity"], (None, ())),
        ("NVDA", ["NVDAX US Equity"], (None, ())),
        ("NVDA", ["NVDA US Equity", "NVDA"], ("NVDA", ())),
    ],
)
def test_resolution_is_exact_then_by_case_then_by_share_class(symbol, columns, expected):
    """Only what is surely the same name matches; a lookalike does not."""
    assert resolve(symbol, columns) == expected


@pytest.mark.parametrize(
    ("symbol", "columns"),
    [
        ("NVDA", ["nvda", "Nvda"]),
        ("BRK.B", ["BRK-B", "BRK/B"]),
        ("NVDA", ["NVDA US Equity", "NVDA GR Equity"]),
        ("NVDA US EQUITY", ["NVDA", "nvda"]),
    ],
)
def test_two_candidates_are_an_error(symbol, columns):
    """Two equally good columns are the user's choice."""
    with pytest.raises(InputError, match=f"{symbol} could be any of"):
        resolve(symbol, columns)
