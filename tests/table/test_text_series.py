"""A column of texts is as safe to print and to write as its table; all else is as in pandas."""

import copy
import io
import pickle

import numpy as np
import openpyxl
import pandas as pd
import pytest

from urisk_nb.table.exports import ExportFrame, ExportSeries

HOSTILE = "a\x1b[31m\u202eb"
SHOWN = "a⟨U+001B⟩[31m⟨U+202E⟩b"
TEXTS = [HOSTILE, "plain", "=1+1", HOSTILE]


@pytest.fixture
def frame():
    return ExportFrame(
        {
            "text": TEXTS,
            "kind": pd.Categorical(["x", HOSTILE, "x", "x"]),
            "number": [1.5, 2.5, np.nan, 4.0],
            "count": pd.array([1, 2, None, 4], dtype="Int64"),
            "day": pd.to_datetime(["2024-01-01", "2024-01-02", None, "2024-01-04"]),
            "is_so": [True, False, True, False],
        },
        index=["A", "B", "C", HOSTILE],
    )


@pytest.fixture
def plain(frame):
    return pd.DataFrame(frame)


def is_safe(shown):
    return "\x1b" not in shown and "\u202e" not in shown


def test_a_series_of_texts_is_printed_visibly(frame):
    """Whatever is made of it: selections, parts, sums, counts, rows."""
    texts = frame["text"]
    for one in (
        *(texts, texts.head(2), texts + "!", texts.str.upper(), texts.rename(HOSTILE)),
        *(texts.value_counts(), texts.sort_values(), texts[texts != "plain"], texts.dropna()),
        *(frame["kind"], frame["kind"].value_counts(), frame.loc["A"], frame.iloc[0]),
        *(texts.to_frame(), texts.reset_index(drop=True), texts.copy(), texts.astype("string")),
        *(texts.groupby(frame["is_so"]).first(), frame.groupby("is_so")["text"].last()),
        *(
            frame.groupby("is_so")["text"].apply("; ".join),
            frame.apply(lambda row: row["text"], axis=1),
        ),
        *(
            frame.stack(),
            frame[["text"]].max(),
            frame[["text"]].squeeze(),
            pd.concat([texts, texts]),
        ),
        *(pickle.loads(pickle.dumps(texts)), copy.deepcopy(texts), frame.T["A"], texts.to_string()),
    ):
        assert is_safe(repr(one)), repr(one)
        assert is_safe(str(one))
    assert SHOWN in repr(texts)
    assert texts.tolist() == TEXTS


def test_what_it_writes_holds_no_formula(frame, tmp_path):
    back = pd.read_csv(io.StringIO(frame["text"].to_csv()), index_col=0)["text"]
    assert back.tolist() == [SHOWN, "plain", "'=1+1", SHOWN]
    assert is_safe(frame["text"].reset_index(drop=True).to_csv())
    frame["text"].to_excel(tmp_path / "t.xlsx")
    cells = [cell for row in openpyxl.load_workbook(tmp_path / "t.xlsx").active for cell in row]
    assert "'=1+1" in [cell.value for cell in cells]
    assert not [cell for cell in cells if cell.data_type == "f"]
    assert is_safe(frame["text"].to_markdown()) if _has_tabulate() else True


def _has_tabulate():
    try:
        import tabulate  # noqa: F401  # optional, of pandas
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", ["number", "count", "day", "is_so"])
def test_other_columns_are_plain_series(frame, plain, name):
    """Of numbers, dates and booleans pandas' own class, and so its speed."""
    assert type(frame[name]) is pd.Series
    pd.testing.assert_series_equal(frame[name], plain[name])
    assert type(frame["text"] == "plain") is pd.Series
    assert type(frame["text"].str.len()) is pd.Series
    assert type(frame[["number"]].mean()) is pd.Series
    assert type(frame.groupby("is_so")["number"].sum()) is pd.Series


OPERATIONS = {
    "compare": lambda frame: frame["text"] == "plain",
    "counts": lambda frame: frame["text"].value_counts(),
    "shares": lambda frame: frame["kind"].value_counts(normalize=True),
    "group": lambda frame: frame.groupby("text")["number"].sum(),
    "group text": lambda frame: frame.groupby("is_so")["text"].agg(["first", "count"]),
    "transform": lambda frame: frame.groupby("is_so")["text"].transform("first"),
    "sum": lambda frame: frame["text"] + "!",
    "map": lambda frame: frame["text"].map(len),
    "apply": lambda frame: frame["text"].apply(str.upper),
    "where": lambda frame: frame["text"].where(frame["is_so"]),
    "fill": lambda frame: frame["text"].where(frame["is_so"]).fillna("x"),
    "concat": lambda frame: pd.concat([frame["text"], frame["text"]]),
    "align": lambda frame: frame["text"].reindex(["B", "Z"]),
    "sort": lambda frame: frame["text"].sort_index(),
    "unique": lambda frame: pd.Series(frame["text"].unique()),
    "rows": lambda frame: frame.loc["B"],
    "items": lambda frame: pd.Series([row["text"] for _, row in frame.iterrows()]),
    "describe": lambda frame: frame["text"].describe(),
    "frame": lambda frame: frame["text"].to_frame(),
    "index": lambda frame: frame["text"].reset_index(),
    "unstack": lambda frame: frame.set_index("count", append=True)["text"].unstack(),
    "codes": lambda frame: frame["kind"].cat.codes,
    "merge": lambda frame: frame[["text"]].merge(
        frame[["number"]], left_index=True, right_index=True
    ),
    "pivot": lambda frame: frame.pivot_table(index="kind", values="number", observed=True),
    "json": lambda frame: pd.Series(frame["text"].to_json()),
    "dict": lambda frame: pd.Series(frame["text"].to_dict()),
    "isin": lambda frame: frame[frame["text"].isin(["plain"])],
    "assign": lambda frame: frame.assign(text=frame["text"].str.upper()),
    "parts": lambda frame: frame["text"].str.split("l", expand=True),
    "duplicates": lambda frame: frame["text"].drop_duplicates(),
    "mode": lambda frame: frame["text"].mode(),
    "explode": lambda frame: frame["text"].str.split("l").explode(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_are_those_of_pandas(frame, plain, name):
    """Each operation gives the values, labels and types that it gives on a plain frame."""
    got, wanted = OPERATIONS[name](frame), OPERATIONS[name](plain)
    if isinstance(wanted, pd.DataFrame):
        pd.testing.assert_frame_equal(pd.DataFrame(got), wanted)
    else:
        pd.testing.assert_series_equal(pd.Series(got), wanted)


def test_setting_values_reaches_the_frame_and_not_the_copy(frame):
    copied = frame["text"].copy()
    frame.loc["B", "text"] = "new"
    assert (frame["text"]["B"], copied["B"]) == ("new", "plain")
    frame["text"] = frame["text"].str.upper()
    assert frame["text"]["B"] == "NEW"


def test_a_pickle_and_a_copy_keep_the_class_and_the_name(frame):
    texts = frame["text"]
    for one in (pickle.loads(pickle.dumps(texts)), copy.copy(texts), texts.copy(), texts.head(1)):
        assert type(one) is ExportSeries
        assert one.name == "text"
    assert isinstance(texts.to_frame(), ExportFrame)
