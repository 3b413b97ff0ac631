"""Backtests, episodes and factors of two runs are compared, each cell with its cause."""

import re
from dataclasses import replace

import pytest

from diff_maker import WORLD_TICKERS, World, check_causes, is_named_part
from run_maker import make_prices
from urisk_nb import assess
from urisk_nb.table.causes import COSTS

# What decides the parts beside the rows, and what moves them
BOOK = {"AAA": 0.5, "BBB": 0.3, "CCC": 0.4, "DDD": -0.2}
BESIDE = {
    "weights": BOOK,
    "stress": "spring=2024-03-01:2024-04-30; winter=2024-01-08:2024-02-15",
    "factors": "AAA,DDD",
}
BARE = World(documents={})
OTHER_DATES = {"stress": "spring=2024-03-04:2024-04-30; winter=2024-01-08:2024-02-15"}
NEW_EPISODE = {"stress": "spring=2024-03-01:2024-04-30; june=2024-05-27:2024-06-14"}


def move_in(ticker, day):
    """Change one price of one ticker."""

    def move(world):
        prices = world.prices.copy()
        prices.loc[day, ticker] *= 1.2
        return replace(world, prices=prices)

    return move


ONE_CAUSE_BESIDE = [
    (
        lambda world: world.give(weights={**BOOK, "AAA": 0.4}),
        {"portfolio": "the weights as they were given: AAA 50.0% -> 40.0%"},
    ),
    (
        lambda world: world.give(**OTHER_DATES),
        dict.fromkeys(
            (*WORLD_TICKERS, "portfolio"),
            "the dates of spring: 2024-03-01:2024-04-30 -> 2024-03-04:2024-04-30",
        ),
    ),
    (
        lambda world: world.give(factors="AAA"),
        dict.fromkeys((*WORLD_TICKERS, "portfolio"), "factors: AAA, DDD -> AAA"),
    ),
    (
        move_in("BBB", "2024-03-12"),
        {
            "BBB": ("the prices of BBB in the episode", "the prices of BBB or of the factors"),
            "portfolio": (
                "the prices of BBB in the episode",
                "the prices of BBB or of the factors",
                "the prices of BBB",
                "the prices of its tickers",
            ),
        },
    ),
    (
        lambda world: world.give(window="4m"),
        dict.fromkeys((*WORLD_TICKERS, "portfolio"), "window: not set -> 4m"),
    ),
    (lambda world: world.give(alpha=[0.05, 0.1]), {}),
]


@pytest.mark.parametrize(("mutate", "causes"), ONE_CAUSE_BESIDE)
def test_the_cause_of_what_stands_beside_the_rows(mutate, causes):
    """The one thing that changed, of each cell of backtest, episodes and factors."""
    older = BARE.give(**BESIDE)
    changes = check_causes(older.run("r1"), mutate(older).run("r2"))
    beside = changes[changes["what"].map(is_named_part)]
    assert set(beside["ticker"]) == set(causes)
    for row in beside.itertuples():
        wanted = causes[row.ticker]
        assert row.cause in ((wanted,) if isinstance(wanted, str) else wanted), row


def test_the_values_of_ones_own_factors_are_a_cause():
    """No price and no setting differs."""
    frame = make_prices("AAA", "BBB", "FFF")
    older, newer = (
        assess("AAA, BBB", prices=frame[["AAA", "BBB"]], factors=frame[["FFF"]] * scale)
        for scale in (1, 2)
    )
    assert newer.diff(older).is_same  # the same returns
    moved = assess("AAA, BBB", prices=frame[["AAA", "BBB"]], factors=make_prices("FFF", seed=2))
    changes = check_causes(older, moved)
    beside = changes[changes["what"].map(is_named_part)]
    assert set(beside["ticker"]) == {"AAA", "BBB"}
    assert set(beside["cause"]) == {"the values of the factors"}


def test_weights_and_prices_are_both_told():
    """Where both differ, the weights alone would be half of the truth."""
    older = BARE.give(**BESIDE)
    newer = move_in("BBB", "2024-03-12")(older).give(weights={**BOOK, "AAA": 0.4})
    changes = check_causes(older.run("r1"), newer.run("r2")).set_index(["ticker", "what"])
    cause = changes.loc[("portfolio", "stress spring: ret_total"), "cause"]
    weights = "the weights as they were given: AAA 50.0% -> 40.0%"
    assert cause == f"{weights}; the prices of BBB in the episode"
    assert changes.loc[("portfolio", "vol_ann"), "cause"] == f"{weights}; the prices of its tickers"


def test_episodes_factors_and_tails_of_one_table_are_named():
    """Those of both are compared."""
    older = BARE.give(**BESIDE)
    newer = older.give(**NEW_EPISODE, factors="AAA,BBB", alpha=[0.1])
    diff = newer.run("r2").diff(older.run("r1"))
    said = " ".join(diff.not_compared)
    for one in (
        "Only the newer table has 1 episode: june.",
        "Only the older table has 1 episode: winter.",
        "Only the newer table has 1 factor: BBB.",
        "Only the older table has 1 factor: DDD.",
        "Only the newer table has 4 backtests: historical 90, filtered 90,",
    ):
        assert one in said
    assert not any(what.startswith("stress") for what in diff.changes["what"])
    plain = newer.run("r2").diff(BARE.give(weights=BOOK).run("r1"))
    said = " ".join(plain.not_compared)
    assert "Only the newer table has episodes of one run." in said
    assert "Only the newer table has factors of one run." in said


def test_losses_are_shown_as_per_cent_and_counted():
    """As in the table; in the summary they are metrics of their ticker."""
    older = BARE.give(**BESIDE)
    diff = move_in("BBB", "2024-03-12")(older).run("r2").diff(older.run("r1"))
    assert re.search(r"stress spring: max_dd \d+\.\d% -> \d+\.\d%", diff.as_text(200))
    mine = diff.changes[diff.changes["ticker"] == "BBB"]
    counted = diff.summary.loc["BBB", ["metrics", "others"]].sum()
    assert counted == (~mine["what"].isin(COSTS)).sum()
    assert diff.summary.loc["BBB", "metrics"] >= mine["what"].map(is_named_part).sum() > 0
    one = older.run("r1").loc[["AAA"]]
    assert set(one.diff(older.give(**OTHER_DATES).run("r2")).changes["ticker"].dropna()) == {
        *("AAA", "BBB", "CCC", "DDD", "portfolio")
    }
    inside = one.diff(older.give(**OTHER_DATES).run("r2")).changes
    assert not inside[inside["what"].map(is_named_part)]["ticker"].isin(["BBB", "CCC"]).any()
