"""What pandas writes of any shape of prices is read back from the file, without a line of glue."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from urisk_nb.readers.prices import read_prices

DAYS = pd.bdate_range("2024-01-01", periods=40, name="Date")
RNG = np.random.default_rng(4)
CLOSE = pd.DataFrame(
    {
        "NVDA": 1000 * np.cumprod(1 + RNG.normal(0, 0.01, 40)),
        "MSFT": 10 * np.cumprod(1 + RNG.normal(0, 0.01, 40)),
        "0700.HK": np.arange(300.0, 340.0),
    },
    index=DAYS,
).round(2)
FIELDS = pd.concat(
    {"Close": CLOSE, "Adj Close": CLOSE / 2, "Volume": (100 * CLOSE).astype(int)},
    axis=1,
    names=["Price", "Ticker"],
)
LONG = FIELDS.stack(level="Ticker", future_stack=True)
SHAPES = {
    "wide": CLOSE,
    "wide without a name": CLOSE.rename_axis(None),
    "wide with a column": CLOSE.reset_index(),
    "levels": FIELDS,
    "levels by ticker": FIELDS.swaplevel(axis=1).sort_index(axis=1),
    "levels without names": FIELDS.rename_axis(columns=[None, None], index=None),
    "levels of rows": LONG,
    "levels of rows by ticker": LONG.swaplevel().sort_index(),
    "long": LONG.reset_index(),
    "joined names": FIELDS.set_axis([f"{two}_{one}" for one, two in FIELDS.columns], axis=1),
    "tickers as rows": CLOSE.set_axis(DAYS.strftime("%Y-%m-%d")).T.rename_axis("ticker"),
}
HALVED = {name for name in SHAPES if name.split()[0] in ("levels", "long", "joined")}
FORMS = {
    "csv": lambda frame, path: frame.to_csv(path),
    "semicolons": lambda frame, path: frame.to_csv(path, sep=";", decimal=","),
    "tabs and utf-16": lambda frame, path: frame.to_csv(path, sep="\t", encoding="utf-16"),
    "bars and a mark": lambda frame, path: frame.to_csv(path, sep="|", encoding="utf-8-sig"),
    "excel": lambda frame, path: frame.to_excel(path),
    "parquet": lambda frame, path: frame.to_parquet(path),
}
SUFFIXES = {"excel": ".xlsx", "parquet": ".parquet"}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", SHAPES)
def test_what_was_saved_is_read(tmp_path, case, form):
    """Tickers, dates and prices are as they were, and adjusted prices come first."""
    path = tmp_path / f"p{SUFFIXES.get(form, '.csv')}"
    FORMS[form](SHAPES[case], path)
    read = read_prices(path, tickers=["NVDA", "MSFT"])
    expected = CLOSE / 2 if case in HALVED else CLOSE
    assert {*read.close} == {*CLOSE}
    pd.testing.assert_frame_equal(
        read.close[list(CLOSE)],
        expected,
        check_names=False,
        check_freq=False,
        check_index_type=False,
    )
    assert (read.is_adjusted is True) is (case in HALVED)
    assert (read.volume is not None) is (case in HALVED)


class Polars:
    """What reading sees of a frame of polars: a way to pandas."""

    def __init__(self, frame):
        self.frame = frame

    def to_pandas(self):
        return self.frame


class Lazy:
    """A query of polars that has not run."""

    def __init__(self, frame):
        self.frame = frame

    def collect(self):
        return Polars(self.frame)


def test_frames_of_other_libraries_are_taken_to_pandas():
    """Collected first, if they are lazy; inside a dict, too. polars has no index."""
    plain = CLOSE.reset_index().assign(Date=lambda rows: [day.date() for day in rows["Date"]])
    assert isinstance(plain["Date"].iloc[0], date)
    for given in (Polars(plain), Lazy(plain)):
        assert read_prices(given).close.to_dict("list") == CLOSE.to_dict("list")
    one = plain[["Date", "NVDA"]].rename(columns={"NVDA": "close"})
    read = read_prices({"NVDA": Polars(one)}, tickers=["NVDA", "MSFT"])
    assert read.close["NVDA"].tolist() == CLOSE["NVDA"].tolist()
