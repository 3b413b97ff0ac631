"""Dated episodes: what is read of them, and what was lost inside."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from price_data import walk
from urisk_nb import RiskParams, assess
from urisk_nb.errors import InputError
from urisk_nb.risk.episodes import Episode, read_episodes

FALL = Episode(name="fall", start=date(2022, 3, 1), end=date(2022, 4, 29))
TEXT = "fall=2022-03-01:2022-04-29"


def stress(frame=None, tickers="AAA, BBB", text=TEXT, **params):
    table = assess(tickers, prices=walk() if frame is None else frame, stress=text, params=params)
    return table.stress().set_index(["episode", "ticker"])


# --- what is read ---


@pytest.mark.parametrize(
    "given",
    [
        TEXT,
        f" {TEXT} ; ",
        {"fall": "2022-03-01:2022-04-29"},
        {"fall": ("2022-03-01", pd.Timestamp("2022-04-29"))},
        {"fall": [date(2022, 3, 1), "2022-04-29"]},
        [FALL],
        [TEXT],
    ],
)
def test_one_episode_in_every_form(given):
    """Text, a mapping of text or of dates, and records are the same."""
    assert read_episodes(given) == (FALL,)


@pytest.mark.parametrize("sign", [",", ";", ", "])
def test_several_episodes_keep_their_order(sign):
    """Between commas or semicolons; the record of the run reads back as they are."""
    params = RiskParams(stress=f"{TEXT}{sign}rates=2022-06-01:2022-10-14")
    assert [one.name for one in params.stress] == ["fall", "rates"]
    assert RiskParams.of(**json.loads(json.dumps(params.as_dict()))) == params
    assert hash(params)


BAD = {
    "no name": ("2022-03-01:2022-04-29", "not NAME=START:END", "covid="),
    "an empty name": ("=2022-03-01:2022-04-29", "not a name", "covid="),
    "one date": ("fall=2022-03-01", "not two dates", "covid="),
    "no date": ("fall=2022-03-01:soon", "'soon' is not a date", "covid="),
    "the wrong order": (
        "fall=2022-04-29:2022-03-01",
        "begins on 2022-04-29",
        "fall=2022-03-01:2022-04-29",
    ),
    "one day": ("fall=2022-04-29:2022-04-29", "ends on 2022-04-29", "a last date after"),
    "a name twice": (f"{TEXT},{TEXT}", "two episodes", "its own name"),
    "nothing": ("", "no episodes", "covid="),
    "a number": (5, "an int", "mapping"),
    "a hidden name": ({"a\x1b[31m": "2022-03-01:2022-04-29"}, "not a name", "covid="),
    "a long name": ({"a" * 41: "2022-03-01:2022-04-29"}, "not a name", "covid="),
    "three dates": ({"a": ("2022-03-01",) * 3}, "not two dates", "covid="),
    "a record of something": ([{"name": "a"}], "not an episode", "covid="),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_episode_is_refused(case):
    """The message shows what was seen, and the fix is an episode."""
    given, seen, fix = BAD[case]
    with pytest.raises(InputError) as caught:
        RiskParams(stress=given)
    assert caught.value.message.startswith("stress")
    assert seen in caught.value.message
    assert fix in caught.value.fix


# --- what was lost ---


def test_losses_by_pandas_and_empyrical():
    """From the first close inside to the last one; the deepest fall in between."""
    import empyrical

    frame = walk()
    seen = stress(frame, "AAA=0.7, BBB=-0.2")
    inside = frame.loc["2022-03-01":"2022-04-29", ["AAA", "BBB"]]
    moves = inside.pct_change(fill_method=None).dropna()
    for name in ("AAA", "BBB"):
        row = seen.loc["fall", name]
        assert row["ret_total"] == pytest.approx(inside[name].iloc[-1] / inside[name].iloc[0] - 1)
        assert row["max_dd"] == pytest.approx(-empyrical.max_drawdown(moves[name]))
        assert (row["start"], row["end"]) == (inside.index[0], inside.index[-1])
        assert (row["n_obs"], row["flags"], row["reason"]) == (len(moves), "", None)
    book = moves @ [0.7, -0.2]
    row = seen.loc["fall", "portfolio"]
    assert row["ret_total"] == pytest.approx(empyrical.cum_returns_final(book))
    assert row["max_dd"] == pytest.approx(-empyrical.max_drawdown(book))


def test_returns_give_what_their_prices_give():
    """The first return inside has its base before the episode and does not count."""
    frame = walk()
    moves = frame.pct_change(fill_method=None).iloc[1:]
    of_prices = stress(frame, "AAA=0.7, BBB=-0.2")
    of_returns = stress(moves, "AAA=0.7, BBB=-0.2", returns=True)
    pd.testing.assert_frame_equal(of_prices, of_returns)


def test_without_weights_there_is_no_portfolio():
    """One row a ticker."""
    assert stress().index.get_level_values("ticker").tolist() == ["AAA", "BBB"]


def test_an_episode_before_the_window_is_read():
    """The window is that of the metrics; nothing after as_of is used."""
    frame = walk()
    inside = stress(frame, window="90d")
    pd.testing.assert_frame_equal(inside, stress(frame))
    with pytest.raises(InputError) as caught:
        stress(frame, as_of="2022-03-31")
    assert "run from 2022-01-03 to 2022-03-31" in caught.value.message
    assert caught.value.fix == 'stress="fall=2022-03-01:2022-03-31"'
    cut = stress(frame, text="fall=2022-03-01:2022-04-03", as_of="2022-03-31")
    assert cut.loc["fall", "AAA"]["end"] == pd.Timestamp("2022-03-31")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("early=2019-02-01:2022-02-01", 'stress="early=2022-01-03:2022-02-01"'),
        ("late=2022-12-01:2024-01-01", 'stress="late=2022-12-01:2023-02-24"'),
        ("away=2008-09-01:2009-03-09", "leave it out, or give prices of these dates"),
    ],
)
def test_an_episode_outside_of_the_prices(text, fix):
    """Refused with the range of the prices; the fix works."""
    with pytest.raises(InputError) as caught:
        stress(text=text)
    assert "which run from 2022-01-03 to 2023-02-24" in caught.value.message
    assert caught.value.fix == fix
    if fix.startswith("stress"):
        assert len(stress(text=fix.split('"')[1])) == 2


def test_a_weekend_at_the_end_of_the_prices_is_inside():
    """A month that ends on the Sunday after the last price is no error, nor is a short one."""
    seen = stress(text="end=2023-02-01:2023-02-26")
    assert seen.loc["end", "AAA"]["end"] == pd.Timestamp("2023-02-24")
    with pytest.raises(InputError, match="has 1 date of the prices") as caught:
        stress(text="end=2023-02-24:2023-02-26")
    assert len(stress(text=caught.value.fix.split('"')[1])) == 2
    with pytest.raises(InputError, match="has 0 dates of the prices") as caught:
        stress(text="weekend=2022-03-05:2022-03-06")
    assert caught.value.fix == 'stress="weekend=2022-03-04:2022-03-07"'
    assert len(stress(text=caught.value.fix.split('"')[1])) == 2


def test_a_ticker_without_prices_in_it():
    """NaN with a flag and a reason; the portfolio names it and is NaN, too."""
    frame = walk()
    frame.loc[:"2022-06-30", "BBB"] = np.nan
    seen = stress(frame, "AAA=0.5, BBB=0.5, XXX")
    assert seen.loc["fall", "BBB"][["flags", "reason"]].tolist() == [
        "no_data",
        "it has no price in the episode.",
    ]
    assert seen.loc["fall", "XXX"]["flags"] == "no_data"
    book = seen.loc["fall", "portfolio"]
    assert np.isnan(book["max_dd"])
    assert (book["flags"], book["reason"]) == (
        "no_data",
        "BBB has no usable prices in the episode.",
    )
    assert not np.isnan(seen.loc["fall", "AAA"]["max_dd"])


def test_a_part_of_an_episode_is_flagged():
    """Prices that begin more than a week inside count, and say so."""
    frame = walk()
    frame.loc[:"2022-03-20", "BBB"] = np.nan
    seen = stress(frame, "AAA=0.5, BBB=0.5").loc["fall"]
    assert seen["flags"].to_dict() == {
        "AAA": "",
        "BBB": "partial_episode",
        "portfolio": "partial_episode",
    }
    assert seen.loc["portfolio", "start"] == pd.Timestamp("2022-03-21")
    assert seen["reason"].dropna().to_dict() == dict.fromkeys(
        ("BBB", "portfolio"),
        "asked for 2022-03-01 to 2022-04-29; the prices cover 2022-03-21 to 2022-04-29.",
    )
    early = walk()
    early.loc["2022-04-15":"2022-05-31", "BBB"] = np.nan
    assert (
        "the prices cover 2022-03-01 to 2022-04-14."
        in (stress(early, "AAA, BBB").loc[("fall", "BBB"), "reason"])
    )


def test_a_hole_in_all_prices_is_a_part_too():
    """No ticker has a price in the last weeks of the episode, so no calendar has its end."""
    frame = walk()
    seen = stress(frame.drop(frame.loc["2022-04-10":"2022-05-20"].index))
    assert set(seen["flags"]) == {"partial_episode"}
    assert set(seen["end"]) == {pd.Timestamp("2022-04-08")}


def test_a_bad_price_and_a_wiped_out_book():
    """The bad column is its own row's fault; a book of three times its capital can be lost."""
    frame = walk()
    frame.loc["2022-03-15", "BBB"] = -1.0
    seen = stress(frame).loc["fall"]
    assert seen.loc["BBB", "flags"] == "bad_data"
    assert "2022-03-15" in seen.loc["BBB", "reason"]
    frame = walk()
    frame.loc["2022-03-15":, "AAA"] *= 0.5
    book = stress(frame, "AAA=3").loc["fall", "portfolio"]
    assert (book["flags"], np.isnan(book["ret_total"])) == ("wiped_out", True)
    frame.loc[:"2022-03-12", "AAA"] = np.nan
    book = stress(frame, "AAA=3").loc["fall", "portfolio"]
    assert book["flags"] == "partial_episode;wiped_out"
    assert book["reason"] == (
        "asked for 2022-03-01 to 2022-04-29; the prices cover 2022-03-14 to 2022-04-29; it loses "
        "its whole capital in one period."
    )


def test_stress_needs_prices():
    """Refused before anything is read."""
    with pytest.raises(InputError, match="stress was given without prices"):
        assess("AAA", evidence={"AAA": ["It fell."]}, stress=TEXT, params={"llm": False})
