"""A RiskTable keeps its report through everything that pandas does, and shows itself safely."""

import json
import pickle

import pandas as pd

from table_maker import HOSTILE, document, table_of
from urisk_nb.table.risk_table import RiskTable


def test_the_report_stays_with_the_table():
    """
    Filtering, sorting, copying, pickling, merging and putting together keep the findings behind the
    table.
    """
    table = table_of(
        [document("Acme was fined."), document("Boro was fined.", "D2", "BBB")],
        symbols=("AAA", "BBB"),
    )
    kept = [
        table[table["score"] > 1],
        table.sort_values("score"),
        table.copy(),
        pickle.loads(pickle.dumps(table)),
        table.loc[["BBB"]],
        table.head(1),
        table.assign(x=1),
        table.drop(columns="flags"),
        table[["score", "level"]],
        table.query("score > 1"),
        pd.concat([table, table.iloc[:1]]),
        table.merge(
            pd.DataFrame({"sector": ["a", "b"]}, index=["AAA", "BBB"]),
            left_index=True,
            right_index=True,
        ),
        table.reset_index(),
    ]
    for one in kept:
        assert isinstance(one, RiskTable)
        assert one.report.findings["quote"].tolist() == ["Acme was fined.", "Boro was fined."]
        assert repr(one)
        assert one._repr_html_()
    assert kept[0]["level"].cat.ordered
    assert pd.concat([table, table])["level"].cat.ordered


def test_tables_of_two_runs_make_one():
    """Putting two runs together keeps the findings of both and says of which runs they are."""
    one, two = (
        table_of([document("Acme was fined.")]),
        table_of([document("Boro was fined.", "D2", "BBB")], symbols=("BBB",)),
    )
    both = pd.concat([one, two])
    assert both.report.findings["quote"].tolist() == ["Acme was fined.", "Boro was fined."]
    assert [run["run_id"] for run in both.report.meta["runs"]] == ["r1", "r1"]


def test_a_table_of_ones_own_has_an_empty_report():
    """A RiskTable that no run made has no findings, and no error."""
    table = RiskTable({"a": [1]})
    assert table.report.findings.empty
    assert table.report.meta == {}
    assert "1" in repr(table)


def test_it_can_be_written(tmp_path):
    """CSV and Parquet take the table and its findings; the attributes are JSON."""
    table = table_of(
        [document(HOSTILE.replace("evil", "ev\ud800il")), document("Acme fell.", "D2", day=None)]
    )
    table.to_csv(tmp_path / "t.csv")
    table.to_parquet(tmp_path / "t.parquet")
    table.report.findings.to_parquet(tmp_path / "f.parquet")
    back = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(back, pd.DataFrame(table))
    assert json.loads(json.dumps(table.attrs))["urisk"]["run_id"] == "r1"
    assert json.loads(json.dumps(table.report.meta))["model"] == "m:latest"
    assert pd.read_csv(tmp_path / "t.csv", index_col="ticker").loc["AAA", "score"] == 35.0


def test_the_compact_view_has_ten_columns():
    """
    The view shows status, level, score, the worst sentence and five figures; the values stay
    fractions.
    """
    table = table_of([document("Acme was fined.")])
    compact = table.compact()
    expected = [
        "status",
        "level",
        "score",
        "top_risk",
        "top_quote",
        "ret_total",
        "vol_ann",
        "var_95",
        "es_95",
        "max_dd",
    ]
    assert list(compact.columns) == expected
    assert type(compact) is pd.DataFrame
    assert compact.loc["AAA", "vol_ann"] == table.loc["AAA", "vol_ann"] < 1
    assert f"{table.loc['AAA', 'vol_ann']:.1%}" in repr(table)
    assert "r_market" not in repr(table)
    assert "Do not base a decision on it" in table.as_text(200)


def test_the_first_alpha_is_the_one_shown():
    """With another tail than 5 percent the view shows that one."""
    assert {"var_90", "es_90"} <= set(table_of(None, alpha=[0.1, 0.05]).compact().columns)


def test_columns_of_ones_own_choice_are_shown():
    """Someone who selects columns sees those, not the compact ones."""
    text = repr(table_of([document("Acme was fined.")])[["flags", "r_legal", "skew"]])
    assert "r_legal" in text
    assert "skew" in text
    assert "status" not in text


def test_hostile_text_is_shown_and_not_run():
    """
    Markup is escaped, controls and bidi marks are shown by their code, a dollar is no mathematics;
    the value stays the source's.
    """
    table = table_of([document(HOSTILE)])
    html, text = table._repr_html_(), repr(table)
    assert table.loc["AAA", "top_quote"] == HOSTILE
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "tex2jax_ignore" in html
    for view in (html, text):
        assert not set(view) & set("\u202e\u202c\x1b")
        assert "U+202E" in view
    assert "<script" not in table[["top_quote"]]._repr_html_()
    assert (
        "<script"
        not in table.rename(index={"AAA": HOSTILE}).rename(columns={"score": HOSTILE})._repr_html_()
    )
    assert "<script" not in pd.DataFrame(table)._repr_html_()
    assert "<script" not in table.report.findings._repr_html_()


def test_a_long_quote_is_cut_in_the_view_only():
    """The view shows the head of a long sentence; the column has all of it."""
    long = "Acme was fined " + "and fined again " * 30 + "today."
    table = table_of([document(long)])
    assert table.loc["AAA", "top_quote"] == long
    assert "\u2026" in table._repr_html_()
    assert "\u2026" in repr(table[["top_quote"]])
    assert long in " ".join(repr(table).split())


def test_odd_shapes_still_show():
    """Reshaped, empty and grouped tables have a text and an HTML view."""
    table = table_of(
        [document("Acme was fined."), document("Boro was fined.", "D2", "BBB")],
        symbols=("AAA", "BBB"),
    )
    for odd in (
        table.T,
        table.iloc[:0],
        table.iloc[:, :0],
        table.set_index("status", append=True),
        table.describe(),
        pd.concat([table, table], axis=1),
        table.stack(),
    ):
        assert repr(odd)
        assert not hasattr(odd, "_repr_html_") or odd._repr_html_()
    assert table.groupby("status", observed=True)["score"].mean().tolist() == [35.0]
