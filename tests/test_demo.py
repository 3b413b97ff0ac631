"""The example's own prices and events."""

import subprocess
import sys

import pandas as pd
import pytest

from urisk_nb import demo


def test_the_prices_are_those_of_plotly():
    """To the last digits of a float, where plotly is installed."""
    data = pytest.importorskip("plotly.data")
    theirs = data.stocks().astype({"date": str}).set_index("date")
    ours = demo.prices()
    assert list(ours.columns) == list(theirs.columns) == list(demo.TICKERS)
    assert [f"{day:%Y-%m-%d}" for day in ours.index] == [day[:10] for day in theirs.index]
    pd.testing.assert_frame_equal(
        ours.reset_index(drop=True), theirs.reset_index(drop=True), rtol=1e-14, atol=0
    )


def test_the_prices_start_at_one_each_week():
    """105 Mondays, each column divided by its first price."""
    prices = demo.prices()
    assert prices.shape == (105, 6)
    assert prices.iloc[0].tolist() == [1.0] * 6
    assert set(prices.index.to_series().diff().dropna().dt.days) == {7}
    assert set(prices.index.day_of_week) == {0}


def test_the_events_are_about_the_tickers():
    """Sixteen events with date and source."""
    events = demo.evidence()
    assert len(events) == 16
    assert set(events["ticker"]) == set(demo.TICKERS)
    assert (events[["id", "date", "source", "text"]] != "").all(axis=None)


def test_the_example_does_not_import_plotly():
    """65 MB for one table are too much."""
    code = (
        "import sys; from urisk_nb import demo; demo.prices(); demo.evidence(); "
        "print('plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("False\n", "")
