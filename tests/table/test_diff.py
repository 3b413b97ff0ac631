"""Two tables are compared on what both have, and each change names its cause."""

import io
import pickle
import random
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from diff_maker import WORLD_TICKERS, World, check_causes
from run_maker import DAYS, NEWS, TELLING, choose_label, filing, make_prices, make_run, note
from table_maker import HOSTILE
from urisk_nb.errors import InputError
from urisk_nb.render.sections import Section, render_sections_html
from urisk_nb.render.text_layout import display_width
from urisk_nb.risk.taxonomy import DEFAULT, Category, Taxonomy
from urisk_nb.table.causes import COSTS, EDITED, UNKNOWN, differ
from urisk_nb.table.risk_table import RiskTable, diff_tables

OTHER_TAXONOMY = Taxonomy(
    version="with_sea",
    categories=(*DEFAULT.categories, Category(id="sea", name="Sea", definition="ships")),
)


def move_price(world, rng):
    prices = world.prices.copy()
    prices.iloc[rng.randrange(10, 100), prices.columns.get_loc(rng.choice(world.symbols))] *= 1.01
    return replace(world, prices=prices)


def add_days(world, rng):
    days = pd.bdate_range(DAYS[0], periods=len(DAYS) + rng.randrange(1, 30))
    more = make_prices(*world.prices.columns, days=days, seed=rng.randrange(2, 9))
    more.iloc[: len(DAYS)] = world.prices.iloc[: len(DAYS)]
    return replace(world, prices=more)


def add_document(world, rng):
    ticker = rng.choice(world.symbols[:3])
    more = note(ticker, rng.choice(NEWS[4:]), name=f"{ticker}-more-{rng.randrange(99)}")
    return world.write(ticker, *world.documents.get(ticker, ()), more)


def drop_document(world, rng):
    ticker = rng.choice(["AAA", "BBB", "CCC"])
    return world.write(ticker, *world.documents[ticker][1:])


def reword(world, rng):
    return world.write("CCC", note("CCC", "Acme was fined by a high court.", *NEWS[1:4]))


def change_label(world, rng):
    key = rng.choice([("CCC", NEWS[0]), ("AAA", TELLING[12]), ("BBB", NEWS[1])])
    given = {key: (rng.choice(DEFAULT.ids), rng.randrange(6))}
    return replace(world, labels={**world.labels, **given})


MUTATIONS = [
    *(move_price, add_days, add_document, drop_document, reword, change_label),
    lambda world, rng: world.give(judge="judge-9"),
    lambda world, rng: world.give(window="3m"),
    lambda world, rng: world.give(alpha=[0.1]),
    lambda world, rng: world.give(benchmark=rng.choice(["equal", "AAA"])),
    lambda world, rng: world.give(taxonomy=OTHER_TAXONOMY),
    lambda world, rng: world.give(review_below=0.95 if rng.random() < 0.5 else 0.5),
    lambda world, rng: replace(world, p=0.4),
    lambda world, rng: world.give(query="fined default loan"),
    lambda world, rng: world.give(max_sentences=3),
    lambda world, rng: world.give(skip=("BBB",)),
    lambda world, rng: world.give(as_of="2024-04-30"),
    lambda world, rng: world.give(weights=dict.fromkeys(world.symbols, rng.choice([0.2, 0.25]))),
    lambda world, rng: world.give(other=choose_label(rng.random())),
    lambda world, rng: world.give(llm=False),
    lambda world, rng: replace(world, symbols=(*world.symbols[1:], "EEE")),
    lambda world, rng: world.give(previous=[filing("AAA", *TELLING[rng.randrange(7) : 9])]),
    lambda world, rng: world.give(stress=f"spring=2024-0{rng.randrange(1, 4)}-01:2024-04-16"),
    lambda world, rng: world.give(factors=rng.choice(["BBB", "BBB,CCC", "CCC"])),
]


@pytest.fixture(scope="module")
def base():
    return World().run("r1")


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 25))]
)
def test_every_changed_cell_has_a_cause(seed):
    """Pairs of runs that differ in one to four things, drawn."""
    rng = random.Random(seed)
    older = World()
    for mutate in rng.sample(MUTATIONS, rng.randrange(2)):
        older = mutate(older, rng)
    newer = older
    for mutate in rng.sample(MUTATIONS, rng.randrange(1, 4)):
        newer = mutate(newer, rng)
    check_causes(older.run("r1"), newer.run("r2"))


@pytest.mark.parametrize("place", range(len(MUTATIONS)))
def test_each_kind_of_change_has_a_cause(base, place):
    check_causes(base, MUTATIONS[place](World(), random.Random(place)).run("r2"))


def changes_since(older, newer):
    """What a world changes in a table, without the run's own name and cost."""
    changes = newer.run("r2").diff(older).changes
    return changes[~changes["what"].isin(COSTS)]


EQUAL = {"benchmark": "equal"}
BENCHMARK, WEIGHTED = {"benchmark": "AAA"}, {"weights": dict.fromkeys(WORLD_TICKERS, 0.25)}
ONE_CAUSE = [
    ({}, lambda world: move_price(world, random.Random(1)), "values of the prices"),
    ({}, lambda world: add_days(world, random.Random(1)), "last_obs: 2024-06-14 -> "),
    ({}, lambda world: world.give(window="3m"), "window: not set -> 3m"),
    ({}, lambda world: world.give(as_of="2024-04-30"), "as_of: not set -> 2024-04-30"),
    (BENCHMARK, lambda world: world.give(benchmark="BBB"), "benchmark: AAA -> BBB"),
    (WEIGHTED, lambda world: world.give(weights={"AAA": 1.0}), "weights as they were given"),
    (
        EQUAL,
        lambda world: replace(world, symbols=("AAA", "BBB", "CCC")),
        "AAA, BBB, CCC, DDD -> AAA",
    ),
    ({}, lambda world: world.give(judge="judge-9"), "judge: judge-1 -> judge-9"),
    ({}, lambda world: world.give(taxonomy=OTHER_TAXONOMY), "taxonomy: taxonomy_v1 ("),
    ({}, lambda world: world.give(max_sentences=3), "max_sentences: 40 -> 3"),
    ({}, lambda world: world.give(query="fined default loan"), "query: not set -> fined"),
    ({}, lambda world: world.give(review_below=0.95), "review_below: not set -> 0.95"),
    ({}, lambda world: world.give(skip=("CCC",)), "not_run in the newer run (it was stopped)"),
]


@pytest.mark.parametrize(("options", "mutate", "cause"), ONE_CAUSE)
def test_the_one_thing_that_changed_is_the_cause(base, options, mutate, cause):
    """Of every change: nothing else is blamed, and nothing is without it."""
    older = World().give(**options)
    changes = changes_since(older.run("r1") if options else base, mutate(older))
    assert len(changes)
    others = {other for _, _, other in ONE_CAUSE} - {cause}
    for row in changes[~changes["what"].isin({"ticker", "setting", "sentence"})].itertuples():
        # The dates of the prices follow from the settings, and from each other
        assert cause in row.cause or (row.what == "last_obs" and "as_of: " in row.cause), row
        assert not [other for other in others if other in row.cause if "last_obs" not in other], row


def test_a_new_document_is_named_with_its_sentence(base):
    more = note("CCC", "A river took the yard.", name="CCC-more")
    world = replace(World().write("CCC", note("CCC", *NEWS[:4]), more))
    world = replace(world, labels={("CCC", "A river took the yard."): ("operational", 5)})
    changes = changes_since(base, world).set_index("what")
    assert set(changes["ticker"]) == {"CCC"}
    sentence = changes.loc["sentence"]
    assert (sentence["old"], sentence["new"]) == (None, "A river took the yard.")
    assert sentence["cause"] == "the document wire is only in the newer run" or (
        "only the newer run asked about it" in sentence["cause"]
    )
    for name in ("score", "r_operational", "judged"):
        assert "a sentence is new (operational 5)" in changes.loc[name, "cause"]
        assert changes.loc[name, "quote"] == "A river took the yard."


def test_a_gone_document_is_named(base):
    world = World().write("BBB", note("BBB", *NEWS[:2]))
    changes = changes_since(base, world)
    gone = changes[changes["what"] == "sentence"]
    assert gone["new"].isna().all()
    assert (gone["cause"] == "the document BBB-10K.txt is only in the older run").all()


def test_a_changed_label_is_shown_with_its_sentence(base):
    world = replace(World(), labels={("CCC", NEWS[0]): ("credit", 5)})
    changes = changes_since(base, world)
    assert set(changes["ticker"]) == {"CCC"}
    label = changes.set_index("what").loc["label"]
    drawn = choose_label("world")("CCC", NEWS[0])
    assert (label["old"], label["new"]) == (f"{drawn[0]} {drawn[1]}", "credit 5")
    assert label["cause"] == "the judge answers otherwise to the same question"
    rating = changes.set_index("what").loc["r_credit"]
    assert f"from {drawn[0]} {drawn[1]} to credit 5" in rating["cause"]
    assert rating["quote"] == NEWS[0]


def test_a_reworded_sentence_shows_both_wordings(base):
    changes = changes_since(base, reword(World(), None)).set_index("what")
    sentence = changes.loc["sentence"]
    assert (sentence["old"], sentence["new"]) == (NEWS[0], "Acme was fined by a high court.")


def test_an_alert_that_comes_is_a_change():
    """Found by the words alone; no model labels here."""
    before = World().give(llm=False)
    after = before.write("CCC", filing("CCC", TELLING[8]))
    changes = changes_since(before.run("r1"), after)
    alert = changes.set_index("what").loc["alert"]
    assert (alert["old"], alert["new"], alert["quote"]) == (None, "default", TELLING[8])
    assert "only the newer run has these words in CCC-10K.txt" in alert["cause"]


def test_identical_tables_have_no_difference(base):
    """Also those of two runs on the same data, whose names and costs differ."""
    assert base.diff(base).is_same
    same = repr(base.diff(base))
    assert same.startswith(f"two tables of the run {base['run_id'].iloc[0]}, the newer one against")
    assert same.endswith("No difference.")
    again = World().run("r2").diff(base)
    assert again.is_same
    assert set(again.changes["what"]) == {"run_id"}
    assert "No difference." in again._repr_html_()
    assert not (again.summary.iloc[:, 4:] > 0).any(axis=None)


def test_what_only_one_table_has_is_named_and_not_compared(base):
    newer = replace(World(), symbols=("AAA", "BBB", "EEE")).give(alpha=[0.1], benchmark="equal")
    diff = newer.run("r2").diff(base)
    said = " ".join(diff.not_compared)
    assert "Only the newer table has 8 columns: var_90, var_90_lo" in said
    assert "alpha: 0.05 -> 0.1" in said
    assert "benchmark: not set -> equal" in said
    assert "Only the older table has 2 tickers: CCC, DDD." in said
    assert "Only the newer table has 1 ticker: EEE." in said
    alone = diff.changes[diff.changes["what"] == "ticker"].set_index("ticker")
    assert list(alone.index) == ["EEE", "CCC", "DDD"]
    assert pd.isna(alone.loc["EEE", "old"])
    assert list(diff.summary.index) == ["AAA", "BBB", "EEE", "CCC", "DDD"]


def test_a_selection_of_columns_is_compared(base):
    newer = World().give(judge="judge-9", window="3m").run("r2")
    diff = newer[["score", "vol_ann"]].diff(base)
    assert (
        {"vol_ann", "setting"}
        <= set(diff.changes["what"])
        <= {
            *("score", "vol_ann", "setting", "label", "count", "sentence"),
        }
    )
    assert "Only the older table has" in diff.not_compared[0]
    assert newer.reset_index().diff(base.sort_values("vol_ann")).changes["what"].eq("run_id").any()


def test_a_cell_of_ones_own_is_said_to_be_one(base):
    newer = base.copy()
    newer.loc["AAA", "score"] = 1.0
    changes = newer.diff(base).changes
    assert changes[["ticker", "what", "new", "cause"]].values.tolist() == [
        ["AAA", "score", 1.0, EDITED]
    ]
    assert base.assign(mine=1).diff(base.assign(mine=2)).changes["cause"].eq(EDITED).all()


def test_the_summary_counts_by_kind(base):
    world = replace(World(), labels={("CCC", NEWS[0]): ("credit", 5)})
    diff = world.run("r2").diff(base)
    row = diff.summary.loc["CCC"]
    changes = diff.changes[diff.changes["ticker"] == "CCC"]
    assert row["labels"] == 1
    assert row["ratings"] == changes["what"].str.startswith("r_").sum() > 0
    assert row["metrics"] == row["sentences"] == 0
    assert row["new_score"] == diff.changes.set_index("what").loc["score", "new"]
    assert (diff.summary.loc["AAA"].iloc[4:] == 0).all()


@pytest.mark.parametrize(("rtol", "expected"), [(0, True), (1e-12, True), (1e-6, False)])
def test_the_tolerance_is_relative_and_exact_by_default(base, rtol, expected):
    newer = base.copy()
    newer.loc["AAA", "vol_ann"] *= 1 + 1e-9
    assert ("vol_ann" in set(newer.diff(base, rtol=rtol).changes["what"])) is expected


def test_cells_that_are_missing_or_empty():
    """Two missing cells are equal; empty text is a value."""
    for one, two in ((None, np.nan), (pd.NA, pd.NaT), ("", ""), (1, 1.0), (-0.0, 0.0)):
        assert not differ(one, two)
    for one, two in (("", None), (0, None), (1.0, np.nextafter(1.0, 2)), ("a", "A"), (True, "x")):
        assert differ(one, two)


def test_what_cannot_be_compared_is_refused(base):
    with pytest.raises(InputError, match="the older table is a DataFrame"):
        base.diff(pd.DataFrame(base))
    with pytest.raises(InputError, match="the newer table is a dict"):
        diff_tables(base, {})
    for wrong in (-1, 1, "x", float("nan")):
        with pytest.raises(InputError, match="is not a share"):
            base.diff(base, rtol=wrong)
    with pytest.raises(InputError, match="several levels"):
        base.diff(base.set_index("status", append=True))
    both = pd.concat([base, World().run("r2")])
    with pytest.raises(InputError, match="AAA is in the newer table more than once") as caught:
        both.diff(base)
    fixed = eval(caught.value.fix.removeprefix("keep the rows of one run: "), {"table": both})
    assert fixed.diff(base).is_same
    twice = pd.concat([base, base[["score"]]], axis=1)
    with pytest.raises(InputError, match="has the column 'score' twice") as caught:
        twice.diff(base)
    fixed = eval(caught.value.fix.removeprefix("keep one of them: "), {"table": twice})
    assert fixed.diff(base).is_same


def test_the_difference_of_rows_is_still_that_of_pandas(base):
    """A number of periods is what pandas takes, also in its own calls."""
    expected = pd.DataFrame(base)[["score", "vol_ann"]].diff()
    table = base[["score", "vol_ann"]]
    for given in (table.diff(), table.diff(1, 0), table.diff(periods=1), table.diff(1, axis=0)):
        assert isinstance(given, RiskTable)
        pd.testing.assert_frame_equal(pd.DataFrame(given), expected)
    with pytest.raises(TypeError):
        table.diff(1, rtol=0.1)
    with pytest.raises(TypeError):
        table.diff(table, periods=1)


def test_without_an_older_table_the_texts_of_a_table_have_no_difference(base):
    """What pandas says of it names a type of the column, and no way out."""
    with pytest.raises(InputError, match="no older table") as caught:
        base.diff()
    assert "table.diff(older)" in caught.value.fix


def test_a_long_cause_is_not_squeezed_into_a_narrow_column(base):
    """The width grows with the text, and a list of flags without spaces is broken."""
    section = Section(head=("a", "b"), rows=[("short", "x" * 30), ("short", "x" * 300)])
    page = render_sections_html([section], "page")
    widths = [int(one) for one in re.findall(r"overflow-wrap:anywhere;min-width:(\d+)em", page)]
    assert widths == [9, 20]


@pytest.mark.parametrize("width", [20, 60, 140])
def test_it_is_shown_escaped_and_in_the_width(base, width):
    diff = World().write("CCC", note("CCC", HOSTILE)).run("r2").diff(base)
    text = diff.as_text(width)
    assert all(display_width(line) <= width for line in text.splitlines())
    for shown in (text, diff._repr_html_(), repr(diff)):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert "<script>alert" not in diff._repr_html_()
    assert ElementTree.fromstring(diff._repr_html_()).tag == "div"  # each tag is closed
    assert pickle.loads(pickle.dumps(diff)).as_text(width) == text
    with pd.option_context("display.notebook_repr_html", False):
        assert diff._repr_html_() is None


def test_its_files_hold_no_formula():
    """Quotes, labels and causes are foreign text."""
    text = '=HYPERLINK("http://127.0.0.1/x") was fined.'
    newer = World().write("CCC", note("CCC", text)).run("r2")
    frames = [newer.diff(World().run("r1")).changes, newer.explain("CCC").sentences]
    for frame in frames:
        cells = pd.read_csv(io.StringIO(frame.to_csv()), dtype=str, keep_default_na=False)
        assert cells.map(lambda cell: not cell.startswith(("=", "@"))).all(axis=None)
        assert text in set(frame["quote"])


def test_a_table_that_no_run_made_is_compared_by_its_cells():
    one, two = (RiskTable({"score": [value]}, index=["AAA"]) for value in (1.0, 2.0))
    changes = two.diff(one).changes
    assert changes[["ticker", "what"]].values.tolist() == [["AAA", "score"]]
    assert changes["cause"][0] == UNKNOWN


def test_an_episode_is_named_as_the_user_gives_it():
    """Not as the record keeps it."""
    prices = make_prices("AAA", "BBB")
    old = make_run(["AAA"], None, prices=prices)
    new = make_run(["AAA"], None, prices=prices, stress="fall=2024-02-01:2024-02-29")
    text = new.diff(old).as_text(120)
    assert "stress: not set -> fall=2024-02-01:2024-02-29" in text


def test_figures_of_the_portfolio_are_compared():
    """Under a name of their own, with the weights or the prices as the cause."""
    prices = make_prices("AAA", "BBB")
    run = {"symbols": ["AAA", "BBB"], "documents": None}
    old = make_run(**run, prices=prices, weights={"AAA": 0.5, "BBB": 0.5})
    new = make_run(**run, prices=prices, weights={"AAA": 0.75, "BBB": 0.25})
    found = new.diff(old).changes.query("ticker == 'portfolio'").set_index("what")
    assert found.loc["vol_ann", ["old", "new"]].tolist() == [
        old.portfolio["vol_ann"],
        new.portfolio["vol_ann"],
    ]
    assert set(found["cause"]) == {
        "the weights as they were given: AAA 50.0% -> 75.0%, BBB 50.0% -> 25.0%"
    }
    assert "n_obs" not in found.index
    assert "portfolio: " in new.diff(old).as_text(120)
    moved = make_run(**run, prices=prices.iloc[:-1], weights={"AAA": 0.5, "BBB": 0.5})
    found = old.diff(moved).changes.query("ticker == 'portfolio'").set_index("what")
    assert found.loc["n_obs", "cause"] == "the prices of its tickers"
    assert old.head(1).diff(old.head(1)).is_same
    lone = old.diff(make_run(**run, prices=prices))
    assert lone.not_compared[-1] == "Only the newer table has a portfolio of one run."
    assert "portfolio" not in set(lone.changes["ticker"])


def test_a_threshold_does_not_change_a_label():
    """It decides whether a label counts; another label is the judge's."""
    documents = [note("AAA", "Acme was fined by a court.")]
    sure = {"p": lambda ticker, text: 0.9}
    old = make_run(["AAA"], documents, lambda *_: ("legal", 3), review_below=0.5, **sure)
    new = make_run(["AAA"], documents, lambda *_: ("legal", 4), **sure)
    changes = new.diff(old).changes.set_index("what")
    assert changes.loc["label", "cause"] == "the judge answers otherwise to the same question"
