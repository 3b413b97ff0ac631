"""Data from a model as text and HTML: nothing in it is markup, and nothing drives a terminal."""

import pandas as pd
import pytest

from urisk_nb.render.data_view import data_bundle

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e $x$"


@pytest.mark.parametrize(
    "data",
    [
        {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
        [HOSTILE, 1],
        HOSTILE,
        pd.DataFrame({HOSTILE: [HOSTILE], "parts": [[HOSTILE]]}),
    ],
    ids=["object", "list", "text", "table"],
)
def test_hostile_text_is_shown_as_text(data):
    """In names, values, nested parts and notes; as a price, a dollar sign is no formula."""
    plain, markup = data_bundle(data, HOSTILE, [HOSTILE])
    for shown in (plain, markup):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "⟨U+202E⟩" in shown or isinstance(data, pd.DataFrame)
    assert "<script" not in markup
    assert "&lt;script&gt;" in markup
    assert markup.startswith('<div class="tex2jax_ignore mathjax_ignore">')


def test_a_table_is_shown_as_pandas_shows_it_and_stays_as_it_is():
    """Numbers and missing values in pandas' own form; the user's table keeps its texts."""
    frame = pd.DataFrame({"ticker": ["A\x1b", None], "risk": [1.5, None]})
    plain, markup = data_bundle(frame, "m")
    assert "<table" in markup
    assert "1.5" in markup
    assert "NaN" in plain
    assert frame["ticker"][0] == "A\x1b"


def test_an_object_has_a_row_for_each_field():
    """Texts as they are, the rest as JSON."""
    data = {"a": "x", "long name": [1, None], "many": ["word"] * 20}
    plain, markup = data_bundle(data, "facts", ["note"])
    assert plain.splitlines()[:4] == [
        "a          x",
        "long name  [1, null]",
        "many       [",
        '             "word",',
    ]
    assert plain.endswith("note\n\nfacts")
    assert markup.count("<tr>") == 3
    assert "null" in markup


@pytest.mark.parametrize(("data", "shown"), [({}, "{}"), ([], "[]"), (None, "null"), (3, "3")])
def test_what_has_no_fields_is_json(data, shown):
    """An empty answer is shown, too."""
    assert data_bundle(data, "facts")[0] == f"{shown}\n\nfacts"
