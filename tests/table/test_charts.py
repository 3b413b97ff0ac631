"""
The charts of a table: what is drawn is what the table says, hostile text stays text, and what is
missing is said with a way out.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from price_data import walk
from table_maker import DAYS, document, finish, prices, table_of
from urisk_nb import assess, errors
from urisk_nb.readers.prices import read_prices
from urisk_nb.render.figures import SEVERITY_COLORS
from urisk_nb.risk.inputs import Holding
from urisk_nb.risk.params import RiskParams
from urisk_nb.risk.plan import prepare
from urisk_nb.table.charts import Charts
from urisk_nb.table.frames import Frames
from urisk_nb.table.risk_table import RiskTable

HOSTILE = '<b>evil</b> <a href="http://127.0.0.1">x</a> $1 to $2 %{x} &lt;i&gt; was fined'


def charts_of(table, closes=None):
    """The charts of a table with these closes."""
    frames = Frames(pd.DataFrame(table), table.frames.tickers, closes)
    return Charts(pd.DataFrame(table), frames, table.report.findings)


def texts_of(part):
    """Each text of a figure, as plotly.js gets it."""
    if isinstance(part, dict):
        for value in part.values():
            yield from texts_of(value)
    elif isinstance(part, list | tuple | np.ndarray):
        for value in part:
            yield from texts_of(value)
    elif isinstance(part, str):
        yield part


def words(markup):
    """A text of ours without the color of the page."""
    return markup.removeprefix(
        '<span style="color:var(--jp-ui-font-color1,currentColor)">'
    ).removesuffix("</span>")


@pytest.fixture
def table():
    """Three companies: AAA 4 in legal and 2 in credit, BBB 5 in legal, CCC nothing."""

    def label(text):
        if "rain" in text:
            return ("none", 0)
        return ("credit", 2) if "debt" in text else ("legal", 5 if "Boro" in text else 4)

    documents = [
        document("Acme was fined. Acme was sued. Acme took on debt.", "D1", "AAA"),
        document("Boro was fined.", "D2", "BBB"),
        document("It rained.", "D3", "CCC"),
    ]
    return table_of(documents, label=label, symbols=("AAA", "BBB", "CCC"))


@pytest.fixture
def closes():
    return prices("AAA", "BBB", "CCC").close


# Severities


def test_severities_are_the_ratings_of_the_table(table):
    """Floats, so that every plotting package takes them; NaN where no sentence counts."""
    frame = table.frames.severities()
    assert list(frame.index) == ["AAA", "BBB", "CCC"]
    assert list(frame.columns) == [
        name.removeprefix("r_") for name in table.columns if name.startswith("r_")
    ]
    assert set(map(str, frame.dtypes)) == {"float64"}
    assert frame.loc["AAA"].dropna().to_dict() == {"credit": 2, "legal": 4}
    assert frame.loc["BBB"].dropna().to_dict() == {"legal": 5}
    assert frame.loc["CCC"].isna().all()


def cell(figure, ticker, category):
    """Row and column of a cell of the heatmap."""
    rows, columns = figure.layout.yaxis.ticktext, figure.layout.xaxis.ticktext
    return (
        [words(name) for name in rows].index(ticker),
        [words(name) for name in columns].index(category),
    )


def test_the_heatmap_shows_color_number_and_sentences(table):
    figure = charts_of(table).heatmap()
    colored, numbers = figure.data
    row, column = cell(figure, "AAA", "legal")
    assert colored.z[row][column] == 4
    # the color at the middle of the step of a 4
    share = (4 - colored.zmin) / (colored.zmax - colored.zmin)
    below = [color for edge, color in colored.colorscale if edge <= share]
    assert below[-1] == SEVERITY_COLORS[4]
    at = [
        place
        for place in range(len(numbers.x))
        if (numbers.y[place], numbers.x[place]) == (row, column)
    ]
    assert [numbers.text[place] for place in at] == ["4"]
    hover = colored.hovertext[row][column]
    assert hover.startswith("<b>AAA · legal</b>: 4<br>material and adverse now")
    assert "2 sentences count" in hover
    assert "Acme was fined." in hover
    row, column = cell(figure, "CCC", "legal")
    assert colored.z[row][column] is None
    assert "no sentence counts" in colored.hovertext[row][column]


def test_the_highest_score_stands_on_top(table):
    figure = charts_of(table).heatmap()
    assert [words(name) for name in figure.layout.yaxis.ticktext] == ["BBB", "AAA", "CCC"]
    low, high = figure.layout.yaxis.range
    assert low > high, "row 0 is at the top"


def test_hostile_quotes_and_tickers_stay_text():
    """No tag, link, formula or placeholder of theirs is in any text of the figure."""
    table = table_of(
        [document(HOSTILE + "."), document("Boro was fined.", "D2", "BBB")], symbols=("AAA", "BBB")
    )
    table = table.rename(index={"BBB": "<b>B</b>$"})
    figure = charts_of(table).heatmap()
    assert any("evil" in text for text in texts_of(figure.to_dict()))
    for text in texts_of(figure.to_dict()):
        for bad in ("<b>e", "<a", "<b>B<", "$", "%{x}", "&lt;i&gt; "):
            assert bad not in text, text


def test_a_long_quote_is_cut_and_wrapped():
    table = table_of([document("Acme was fined " + "and fined again " * 60 + "in May.")])
    hover = charts_of(table).heatmap().data[0].hovertext
    (text,) = [one for one in texts_of(list(hover)) if "fined" in one]
    lines = text.split("<br>")
    assert max(map(len, lines)) < 90
    assert sum(map(len, lines)) < 500
    assert lines[-1].endswith("…</i>")


def many(count):
    """A table of a run over so many companies; the score falls from the first to the last."""
    names = [f"T{number:02d}" for number in range(count)]
    documents = [document("Acme was fined.", f"D{name}", name) for name in names]
    table = table_of(documents, symbols=tuple(names))
    table["score"] = np.arange(float(count))
    return table, names


def test_fifty_tickers_fit_and_more_are_cut_by_score():
    """Each row keeps its height; the line under the chart says what is left out, and it works."""
    table, names = many(60)
    figure = charts_of(table).heatmap()
    assert [words(name) for name in figure.layout.yaxis.ticktext] == names[:9:-1]
    drawing = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert drawing / 50 >= 18, "pixels a row"
    (note,) = figure.layout.annotations
    said = words(note.text).replace("<br>", " ")
    assert said.startswith("50 of 60 tickers shown, those with the highest scores.")
    for one in (table, table.reset_index()):
        said = words(charts_of(one).heatmap().layout.annotations[0].text).replace("<br>", " ")
        code = said.partition("Choose others: ")[2]
        (only,) = eval(code, {"table": one}).layout.yaxis.ticktext
        assert words(only) in names[:10]
    few = charts_of(table.iloc[:50]).heatmap()
    assert not few.layout.annotations


def test_rows_of_one_ticker_stay_two(table):
    """Tables put together may have a ticker twice."""
    both = pd.concat([table, table.head(1)])
    figure = charts_of(both).heatmap()
    assert sorted(map(words, figure.layout.yaxis.ticktext)) == ["AAA", "AAA", "BBB", "CCC"]
    assert len(figure.data[0].z) == 4


# Drawdowns


def test_drawdowns_are_by_hand(table):
    """Below the highest price so far; a day without a price has none."""
    frame = pd.DataFrame(
        {"AAA": [100, 80, np.nan, 120, 90.0], "BBB": [1, 2, 3, 4, 5.0], "XXX": 1.0},
        index=pd.bdate_range("2024-01-01", periods=5),
    )
    found = Frames(pd.DataFrame(table), table.frames.tickers, frame).drawdowns()
    assert list(found.columns) == ["AAA", "BBB"], "those of the table that have prices"
    assert found["AAA"].tolist() == pytest.approx([0, 0.2, np.nan, 0, 0.25], nan_ok=True)
    assert found["BBB"].tolist() == [0, 0, 0, 0, 0]


def test_of_returns_the_wealth_of_one_is_drawn(table):
    """A loss on the first day is a drawdown, and its return is not lost."""
    frame = pd.DataFrame({"AAA": [0.9, 1.08, np.nan, 0.54]}, index=DAYS[:4])
    frames = Frames(pd.DataFrame(table), table.frames.tickers, frame, is_wealth=True)
    assert frames.drawdowns()["AAA"].tolist() == pytest.approx([0.1, 0, np.nan, 0.5], nan_ok=True)
    assert frames.returns()["AAA"].tolist() == pytest.approx([-0.1, 0.2, -0.5])
    table.report.meta["params"]["returns"] = True
    report = ReportWithPrices(prices=frame, findings=table.report.findings, meta=table.report.meta)
    object.__setattr__(table, "_report", report)
    assert table.frames.returns()["AAA"].iloc[0] == pytest.approx(-0.1)


def test_the_deepest_drawdown_is_the_one_of_the_table(table, closes):
    deepest = charts_of(table, closes)._frames.drawdowns().max()
    assert deepest.to_dict() == pytest.approx(table["max_dd"].to_dict())


def test_drawdowns_go_down(table, closes):
    """Positive fractions on an axis that is turned over, in percent; one line a ticker."""
    figure = charts_of(table, closes).drawdowns()
    assert [words(line.name) for line in figure.data] == ["BBB", "AAA", "CCC"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.tickformat == "~%"
    assert min(figure.data[0].y) == 0
    assert max(figure.data[0].y) == pytest.approx(table.loc["BBB", "max_dd"])


def test_lines_differ_in_color_or_dash_and_more_than_eight_are_cut():
    table, names = many(12)
    figure = charts_of(table, prices(*names).close).drawdowns()
    assert len(figure.data) == 8
    assert len({(line.line.color, line.line.dash) for line in figure.data}) == 8
    assert len({line.line.dash for line in figure.data[:4]}) == 4, "not by color alone"
    assert "8 of 12 tickers shown" in figure.layout.annotations[0].text


# Tails


def test_returns_are_those_that_var_is_made_of(closes):
    """VaR by its definition: the sixth worst of 119 returns at 5 percent; none across a gap."""
    holes = closes.copy()
    holes.iloc[40:50, 1] = np.nan
    plan = prepare(
        [Holding(symbol=name) for name in holes], read_prices(holes), None, RiskParams.of()
    )
    table = finish(plan)
    found = Frames(pd.DataFrame(table), list(table.index), holes).returns()
    assert len(found) == 119
    assert found["AAA"].tolist() == pytest.approx(
        (closes["AAA"] / closes["AAA"].shift() - 1)[1:].tolist()
    )
    assert -found["AAA"].sort_values().iloc[5] == pytest.approx(table.loc["AAA", "var_95"])
    assert np.isnan(found.loc[DAYS[50], "BBB"]), "the step over ten missing days"
    own = found["BBB"].dropna().sort_values()
    assert len(own) == 108
    assert -own.iloc[int(np.ceil(0.05 * 108)) - 1] == pytest.approx(table.loc["BBB", "var_95"])


def test_tails_mark_var_and_es_of_the_table(table, closes):
    figure = charts_of(table, closes).tails()
    dots, var, es = figure.data
    rows = [words(name) for name in figure.layout.yaxis.ticktext]
    assert rows == ["BBB", "AAA", "CCC"]
    assert list(var.x) == pytest.approx(table.loc[rows, "var_95"].tolist())
    assert list(es.x) == pytest.approx(table.loc[rows, "es_95"].tolist())
    assert [words(one.name) for one in figure.data] == [
        *("the worst 10% of the returns", "VaR 95", "ES 95")
    ]
    assert words(figure.layout.xaxis.title.text) == "loss in one day"
    for row, name in enumerate(rows):
        worst = (closes[name] / closes[name].shift() - 1).nsmallest(
            12
        )  # a tenth of 119, rounded up
        own = [x for x, y in zip(dots.x, dots.y, strict=True) if y == row]
        assert own == pytest.approx((-worst).tolist())


def test_tails_of_another_alpha(closes):
    plan = prepare(
        [Holding(symbol="AAA")], read_prices(closes), None, RiskParams.of(alpha=[0.1, 0.075])
    )
    table = finish(plan)
    assert [words(one.name) for one in charts_of(table, closes).tails().data][1:] == [
        "VaR 90",
        "ES 90",
    ]
    figure = charts_of(table, closes).tails(alpha=0.075)
    assert [words(one.name) for one in figure.data] == [
        *("the worst 15% of the returns", "VaR 92.5", "ES 92.5")
    ]
    assert list(figure.data[1].x) == pytest.approx(table["var_925"].tolist())
    with pytest.raises(
        errors.InputError, match="no column var_99; of VaR it has var_90, var_925"
    ) as caught:
        charts_of(table, closes).tails(alpha=0.01)
    assert caught.value.fix == "alpha=0.1"
    charts_of(table, closes).tails(alpha=0.1)
    with pytest.raises(errors.InputError, match="5") as caught:
        charts_of(table, closes).tails(alpha=5)
    assert "0.05" in caught.value.fix


def test_a_short_history_has_dots_alone(table, closes):
    """NaN in the table is no mark, and no error."""
    table.loc["BBB", ["var_95", "es_95"]] = np.nan
    dots, var, _ = charts_of(table, closes).tails().data
    assert list(var.y) == [1, 2]
    assert 0 in dots.y


def test_tickers_without_usable_prices_are_named(table, closes):
    """One that is missing, and one with a price that is none."""
    bad = closes.drop(columns="CCC")
    bad.iloc[3, 1] = -1.0
    for draw in ("drawdowns", "tails"):
        figure = getattr(charts_of(table, bad), draw)()
        assert "Without usable prices: BBB, CCC." in figure.layout.annotations[0].text


# Parts of the expected shortfall


def test_parts_of_the_expected_shortfall(table):
    """The largest on top, a hedge to the left in its own color, and the sum of all in words."""
    table["comp_es"] = [0.012, -0.004, 0.02]
    figure = charts_of(table).component_es()
    adds, lowers = figure.data
    assert list(map(words, figure.layout.yaxis.ticktext)) == ["CCC", "AAA", "BBB"]
    assert (list(adds.x), list(lowers.x)) == ([0.02, 0.012, None], [None, None, -0.004])
    assert adds.marker.color != lowers.marker.color
    low, high = figure.layout.xaxis.range
    assert low < -0.005, "room for the number of the hedge"
    assert high > 0.022
    assert list(map(words, lowers.text))[2] == "-0.40%"
    assert "Sum of 3 tickers: 2.80%" in figure.layout.annotations[0].text
    assert figure.layout.showlegend
    assert not charts_of(table.drop(index="BBB")).component_es().layout.showlegend


def test_a_ticker_without_a_part_has_no_bar(table):
    table["comp_es"] = [0.012, np.nan, 0.02]
    assert len(charts_of(table).component_es().layout.yaxis.ticktext) == 2


def test_parts_of_two_portfolios_have_no_sum():
    """Rows of two runs are no book; those of one of them are."""
    px = walk(columns=("AAA", "BBB"))
    one, two = (assess({name: 1.0}, prices=px) for name in ("AAA", "BBB"))
    both = pd.concat([one, two])
    for table in (both, both.drop(columns="run_id")):
        with pytest.raises(errors.InputError, match="rows are of 2 runs"):
            table.charts.component_es()
    assert len(both.loc[["BBB"]].charts.component_es().layout.yaxis.ticktext) == 1


def test_parts_say_of_which_expected_shortfall_they_are(tmp_path):
    """Of the first alpha, in the chart and on the page."""
    table = assess({"AAA": 1.0}, prices=walk(columns=("AAA",)), params={"alpha": (0.025, 0.05)})
    assert "value (ES 97.5)." in table.charts.component_es().layout.annotations[0].text
    assert table["comp_es"].sum() == pytest.approx(table.portfolio["es_975"])
    table.to_html_report(tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "adds to the portfolio&#x27;s ES 97.5;" in page


def test_a_portfolio_without_figures_says_why_there_are_no_parts():
    """The way out is not to give weights: they are there."""
    table = assess({"AAA": 0.5, "ZZZ": 0.5}, prices=walk(columns=("AAA",)))
    with pytest.raises(errors.InputError, match="ZZZ has no usable prices") as caught:
        table.charts.component_es()
    assert caught.value.fix.startswith("give prices of each ticker with a weight")
    whole = assess({"AAA": 1.0}, prices=walk(columns=("AAA",)))
    with pytest.raises(errors.InputError) as caught:
        whole[["vol_ann"]].charts.component_es()
    assert "that it had" in caught.value.fix


# What is missing


@pytest.mark.parametrize(
    ("chart", "seen", "fix"),
    [
        ("drawdowns", "no prices to draw", "give prices=..."),
        ("tails", "no prices to draw", "give prices=..."),
        ("component_es", "no parts of an expected shortfall", "a weight for each ticker"),
    ],
)
def test_what_is_missing_is_said(table, chart, seen, fix):
    with pytest.raises(errors.InputError, match=seen) as caught:
        getattr(charts_of(table), chart)()
    assert fix in caught.value.fix


def test_a_table_without_ratings_says_so(table):
    chosen = table[["score"]]
    with pytest.raises(errors.InputError, match="no columns r_<category>") as caught:
        chosen.charts.heatmap()
    assert "before you choose columns" in caught.value.fix
    unlabeled = table_of([document("Acme was fined.")], llm=False)
    with pytest.raises(errors.InputError, match="no ticker of this table has a rating") as caught:
        unlabeled.charts.heatmap()
    assert "evidence=..." in caught.value.fix


def test_none_of_the_tickers_has_prices(table, closes):
    with pytest.raises(errors.InputError, match="none of the 3 tickers"):
        charts_of(table, closes.add_suffix("x")).drawdowns()


@pytest.mark.parametrize("chart", ["heatmap", "drawdowns", "tails", "component_es"])
def test_without_plotly_the_error_says_what_to_install(monkeypatch, table, chart):
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(errors.PackageMissing, match="plotly") as caught:
        getattr(table.charts, chart)()
    assert 'pip install "urisk-nb[notebook]"' in caught.value.fix
    assert table.frames.severities().shape[0] == 3, "the frames need no plotly"


@dataclass
class ReportWithPrices:
    """The report of a run that keeps its closes."""

    prices: Any
    findings: Any
    meta: dict = field(default_factory=dict)
    changes: Any = None


def test_the_table_hands_its_closes_over(table, closes):
    """The closes of the report are drawn, also after the table was filtered."""
    report = ReportWithPrices(prices=closes, findings=table.report.findings)
    object.__setattr__(table, "_report", report)
    assert list(table.loc[["CCC"]].frames.drawdowns().columns) == ["CCC"]
    assert len(table.reset_index().charts.drawdowns().data) == 3


def test_an_empty_table_has_no_chart():
    with pytest.raises(errors.InputError):
        RiskTable({"a": []}).charts.heatmap()
