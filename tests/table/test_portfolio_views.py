"""What a table answers about its portfolio, through everything that pandas does to it."""

import pickle
import re

import pandas as pd
import pytest

from harness import ROOT
from price_data import walk
from table_maker import document, finish, prices
from urisk_nb import assess
from urisk_nb.errors import InputError
from urisk_nb.notebook.magics import build_parser
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.risk.row_warnings import WARNINGS
from urisk_nb.session import open_run
from urisk_nb.table.portfolio_text import render_parts_text
from urisk_nb.table.risk_table import RiskTable

COLUMNS = ("AAA", "BBB", "SPY", "TLT")
STRESS = "fall=2022-03-01:2022-04-29; spring=2022-05-02:2022-06-30"


def make(tickers="AAA=0.6, BBB=0.4", frame=None, **given):
    frame = walk(columns=COLUMNS) if frame is None else frame
    return assess(tickers, prices=frame, stress=STRESS, factors="SPY,TLT", **given)


def test_a_changed_table_keeps_the_portfolio_of_its_run():
    """Filtered, sorted, copied, pickled, put together with itself: the same figures."""
    table = make()
    kept = [
        table[table["vol_ann"] > 0],
        table.loc[["BBB"]],
        table.sort_values("vol_ann"),
        table.copy(),
        pickle.loads(pickle.dumps(table)),
        table[["vol_ann"]],
        table.reset_index(),
        table.iloc[:0],
        pd.concat([table, table.iloc[:1]]),
    ]
    for one in kept:
        pd.testing.assert_series_equal(one.portfolio, table.portfolio)
        pd.testing.assert_frame_equal(one.backtest(), table.backtest())
        assert one.report.prices.equals(table.report.prices)


def test_rows_of_the_tickers_that_are_left():
    """Stress and factors show the tickers of the table, and the portfolio of the run."""
    table = make().loc[["BBB"]]
    assert table.stress()["ticker"].tolist() == ["BBB", "portfolio"] * 2
    assert table.factors().index.tolist() == ["BBB", "portfolio"]
    assert table.reset_index().factors().index.tolist() == ["BBB", "portfolio"]
    assert make("AAA, BBB").stress()["ticker"].tolist() == ["AAA", "BBB"] * 2


def test_files_have_the_rows_of_the_tickers_that_are_left(tmp_path):
    """The page and the workbook of a filtered table say what its methods say."""
    table = make().loc[["BBB"]]
    table.to_excel(tmp_path / "t.xlsx")
    table.to_html_report(tmp_path / "t.html")
    for name in ("stress", "factors"):
        sheet = pd.read_excel(tmp_path / "t.xlsx", sheet_name=name)
        assert set(sheet["ticker"]) == {"BBB", "portfolio"}
    assert "AAA" not in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_the_page_says_what_each_flag_of_its_tables_means(tmp_path):
    """A reader of the page has no other place to look it up."""
    frame = walk(columns=COLUMNS)
    frame["BBB"] = frame["BBB"].where(frame.index < "2022-04-10")
    table = make(frame=frame)
    assert "partial_episode" in set(table.stress()["flags"])
    assert set(table.backtest()["flags"]) == {"short_backtest"}
    table.to_html_report(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    for code in ("partial_episode", "short_backtest"):
        assert f"{code}: {WARNINGS[code]}" in page
        assert f"{code}: " in render_parts_text(table.report, 100)


def test_the_share_of_the_book_with_a_score_is_per_cent(tmp_path):
    """As the other shares of the page are."""
    make().to_html_report(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert re.search(r"score_coverage</td><td[^>]*>0.0%</td>", page)


def test_figures_are_shown_with_the_digits_that_they_need(tmp_path):
    """Weights as per cent, parts of ES to a basis point, betas and p-values to three decimals."""
    from openpyxl import load_workbook

    table = make()
    figures, part = table.portfolio, table.loc["AAA", "comp_es"]
    beta, se = table.factors().loc["AAA", ["beta_TLT", "beta_TLT_se"]]
    p_value = table.backtest()["p_value"].iloc[0]
    table.to_html_report(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    for value in ("100.0%", f"{part:.2%}", f"{figures['effective_number']:.2f}"):
        assert f">{value}</td>" in page
    for value in (beta, se, p_value):
        assert f">{value:.3f}</td>" in page
        assert f"{value:.3f}" in render_parts_text(table.report, 120)
    assert '<td class="s">2022-03-01</td>' in page  # on one line
    table.to_excel(tmp_path / "t.xlsx")
    book = load_workbook(tmp_path / "t.xlsx")
    kinds = {
        row[0].value: row[1].number_format for row in book["portfolio"].iter_rows() if row[0].value
    }
    assert kinds["weight_sum"] == kinds["weight_gross"] == "0.0%"
    assert kinds["first_obs"] == "yyyy-mm-dd"
    assert kinds["effective_number"] == "0.00"
    assert book["portfolio"].column_dimensions["B"].width <= 26
    heads = [cell.value for cell in book["factors"][1]]
    row = dict(zip(heads, (cell.number_format for cell in book["factors"][2]), strict=True))
    assert row["beta_TLT"] == row["beta_TLT_se"] == row["r2"] == "0.000"


def test_what_is_returned_may_be_changed():
    """A change of the Series or of a frame is not one of the report."""
    table = make()
    series, tests, losses, betas = (
        table.portfolio,
        table.backtest(),
        table.stress(),
        table.factors(),
    )
    series["vol_ann"] = tests["n"] = losses["max_dd"] = betas["r2"] = 0
    assert table.portfolio["vol_ann"] > 0
    assert table.backtest()["n"].max() > 0
    assert table.stress()["max_dd"].max() > 0
    assert table.factors()["r2"].max() > 0


@pytest.mark.parametrize("name", ["portfolio", "backtest", "stress", "factors"])
def test_tables_put_together_have_no_portfolio(name):
    """Each run has its own; the error says so, also where one of them has none."""
    one, two = make(), make("SPY=1, TLT=-1")
    for both in (pd.concat([one, two]), pd.concat([one, make("SPY")])):
        with pytest.raises(InputError) as caught:
            answer(both, name)
        assert "put together from 2 runs" in caught.value.message
        assert f"for its {name}" in caught.value.fix
    assert list(pd.concat([one, two]).report.prices) == ["AAA", "BBB", "SPY", "TLT"]


def answer(table, name):
    return table.portfolio if name == "portfolio" else getattr(table, name)()


@pytest.mark.parametrize(
    ("name", "message", "fix"),
    [
        ("portfolio", "no ticker has a weight", "NVDA=0.4, MSFT=0.6"),
        ("backtest", "no ticker has a weight", "NVDA=0.4, MSFT=0.6"),
        ("stress", "was given no episode", "covid=2020-02-19:2020-03-23"),
        ("factors", "was given no factors", "SPY,TLT"),
    ],
)
def test_what_was_not_asked_for_says_how_to_ask(name, message, fix):
    """The fix is what a run takes."""
    for table in (assess("AAA", prices=walk()), RiskTable({"a": [1]})):
        with pytest.raises(InputError) as caught:
            answer(table, name)
        assert message in caught.value.message
        assert fix in caught.value.fix


def test_prices_that_differ_between_two_runs_are_left_out():
    """Either would be wrong for one of them."""
    frame = walk()
    one, two = assess("AAA, BBB", prices=frame), assess("BBB, CCC", prices=frame * [1, 2, 1])
    assert list(pd.concat([one, two]).report.prices) == ["AAA", "CCC"]
    same = assess("BBB, CCC", prices=frame)
    assert list(pd.concat([one, same]).report.prices) == ["AAA", "BBB", "CCC"]


def test_prices_of_the_run_are_those_of_its_window():
    """Cut to the period, without the columns that are no tickers or cannot be used."""
    frame = walk()
    frame.loc[frame.index[5], "BBB"] = -1
    seen = assess("AAA, BBB, XXX", prices=frame, params={"start": "2022-02-01"}).report.prices
    assert list(seen) == ["AAA", "BBB"]
    assert seen["AAA"].equals(frame.loc["2022-02-01":, "AAA"])
    assert list(assess("AAA, BBB", prices=frame).report.prices) == ["AAA"]
    assert assess("AAA", evidence={}, params={"llm": False}).report.prices is None


# --- the weighted score ---


def scored(weights, symbols=("AAA", "BBB", "CCC")):
    holdings = [
        Holding(symbol=symbol, weight=weight)
        for symbol, weight in zip(symbols, weights, strict=True)
    ]
    documents = [document("Acme was fined."), document("Boro was sued.", "D2", "BBB")]
    plan = prepare(holdings, prices(*symbols), documents, RiskParams.of())
    return finish(plan, lambda text: ("legal", 3 if "fined" in text else 4)).portfolio


@pytest.mark.parametrize(
    ("weights", "score", "coverage"),
    [
        ((0.5, 0.25, 0.25), (0.5 * 35 + 0.25 * 60) / 0.75, 0.75),
        ((1, -1, 0), 47.5, 1.0),
        ((0, 0.5, 0.5), 60.0, 0.5),
    ],
)
def test_scores_are_weighed_by_size(weights, score, coverage):
    """A lone 3 is 35 and a lone 4 is 60; CCC has no evidence, and so no score."""
    seen = scored(weights)
    assert (seen["score"], seen["score_coverage"]) == pytest.approx((score, coverage))


def test_without_a_score_there_is_none():
    """All weight on a ticker without evidence."""
    seen = scored((0, 0, 1))
    assert pd.isna(seen["score"])
    assert seen["score_coverage"] == 0


# --- one instrument, several lines ---


def test_lots_and_spellings_are_one_position():
    """Its figures are those of the sum, and a message names each line: no money is lost."""
    frame = walk(columns=("BRK-B", "AAA"))
    table = assess("BRK.B=0.2, AAA=0.5, BRK-B=0.1, AAA=0.2", prices=frame)
    assert table.index.tolist() == ["BRK.B", "AAA"]
    assert table["flags"].tolist() == ["alias;duplicate", "duplicate"]
    sums = {"holdings": 2, "weight_sum": 1.0, "weight_gross": 1.0, "effective_number": 1 / 0.58}
    assert table.portfolio[list(sums)].to_dict() == pytest.approx(sums)
    once = assess("BRK.B=0.3, AAA=0.7", prices=frame)
    assert table.portfolio.drop("reason").equals(once.portfolio.drop("reason"))
    said = table.report.meta["messages"]["*"]
    fix = "If you want one of these lines only, remove the others."
    assert said == [
        f"BRK.B is listed 2 times (BRK.B 20%, BRK-B 10%): this is one position of 30%. {fix}",
        f"AAA is listed 2 times (AAA 50%, AAA 20%): this is one position of 70%. {fix}",
    ]
    plain = assess("BRK.B, BRK-B, AAA, AAA", prices=frame)
    assert plain.report.meta["messages"]["*"] == [
        "BRK.B is listed 2 times (BRK.B, BRK-B): this is one row."
    ]
    assert plain.index.tolist() == ["BRK.B", "AAA"]


def test_many_repeats_are_counted():
    """The first ten are told in full."""
    names = [f"T{number}" for number in range(12)]
    table = assess(
        [f"{name}=0.04" for name in (*names, *names)], prices=walk(columns=names), stress=None
    )
    said = table.report.meta["messages"]["*"]
    assert sum("is listed 2 times" in one for one in said) == 10
    assert "2 more tickers are listed more than once." in said


# --- what is shown ---


def test_the_views_show_weight_and_beta_where_they_were_asked_for():
    """In the order identity, labels, figures; without weights and benchmark they are not there."""
    both = make(benchmark="SPY")
    head = repr(both).splitlines()[0].split()
    assert head[:2] == ["ticker", "weight"]
    assert "beta" in head
    assert {"weight", "beta"} <= set(both.compact())
    assert "60.0%" in repr(both)
    beta = both.loc["AAA", "beta"]
    assert f"{beta:.2f}" in repr(both).splitlines()[2].split()
    html = both._repr_html_()
    assert ">weight<" in html
    assert ">beta<" in html
    plain = make("AAA, BBB")
    assert not {"weight", "beta"} & set(plain.compact())
    assert not {"weight", "beta"} & set(repr(plain).splitlines()[0].split())


def test_every_figure_and_column_is_documented():
    """docs/portfolio.md names each figure of the Series and each column of the frames."""
    page = (ROOT / "docs/portfolio.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    table = make()
    assert set(table.portfolio.index) <= named
    for frame in (table.backtest(), table.stress()):
        assert set(frame.columns) <= named
    columns = {name.replace("SPY", "NAME").replace("TLT", "NAME") for name in table.factors()}
    assert columns <= named
    comps = {name for name in table.columns if name.startswith("comp_")}
    assert len(comps) == 3
    assert comps <= named


# --- in a cell ---


def test_a_line_of_a_cell_takes_them():
    """As typed, and as the example of the page has it."""
    line = '--stress "covid=2020-02-19:2020-03-23; rates=2022-01-03:2022-10-14" --factors SPY,TLT'
    args = build_parser("risk").parse_line(f"--prices px {line} --factor-returns")
    params = RiskParams.of(stress=args.stress, factors=args.factors, factor_returns=True)
    assert [one.name for one in params.stress] == ["covid", "rates"]
    assert params.factors == ("SPY", "TLT")
    short = build_parser("risk").parse_line(
        "--stress a=2020-02-19:2020-03-23,b=2021-01-04:2021-02-01"
    )
    assert [one.name for one in RiskParams.of(stress=short.stress).stress] == ["a", "b"]


def test_a_wrong_episode_is_refused_before_the_evidence_is_read():
    """And so before any server."""
    read = []
    with pytest.raises(InputError, match="outside of the prices"):
        open_run(
            "AAA",
            prices=walk(),
            evidence={"AAA": ["It fell."]},
            stress="away=2008-09-01:2009-03-09",
            on_read=lambda *seen: read.append(seen),
        )
    assert not read
