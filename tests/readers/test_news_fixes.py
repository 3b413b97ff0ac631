"""Every fix that the readers of news print cures: its code is run on what was refused."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.news import read_evidence

TEXTS = ["Acme was fined.", "Acme was sued."]
FRAME = pd.DataFrame({"ticker": "ACME", "text": TEXTS})
CODE = re.compile(r"(?:evidence\b|\[(?:row|text) for|\{\"NVDA\").*")

# What is refused, a part of the message, and how many documents are read after the fix
FIXES = {
    "holes in a frame": (pd.DataFrame({"t": 1, "ticker": "ACME", "text": ["a", None, " ", 5]}), 1),
    "holes in titles": (pd.DataFrame({"ticker": "ACME", "Title": ["a", None, " ", None]}), 1),
    "holes in a list": ([{"ticker": "ACME", "body": one} for one in ("a", None, "", 5)], 1),
    "days and months": (FRAME.assign(Published="01/02/2024"), 2),
    "a misspelt column": (FRAME.rename(columns={"ticker": "tickr"}), 2),
    "a longer name": (FRAME.rename(columns={"text": "article_full_text_en"}), 2),
    "a column twice": (pd.concat([FRAME, FRAME[["text"]]], axis=1), 2),
}


@pytest.mark.parametrize("case", FIXES)
def test_the_code_of_a_fix_cures(case):
    """It is an expression of the evidence; what it gives is read."""
    evidence, count = FIXES[case]
    with pytest.raises(InputError) as caught:
        read_evidence(evidence)
    code = CODE.search(caught.value.fix)[0]
    cured = eval(code, {"evidence": evidence, "pd": pd})
    assert len(read_evidence(cured).documents) == count


def test_texts_of_another_type_are_left_out():
    """Under a ticker the fix is about the list of its texts."""
    texts = ["Acme was fined.", None, 5, " "]
    with pytest.raises(InputError) as caught:
        read_evidence({"ACME": texts})
    cured = eval(CODE.search(caught.value.fix)[0], {"texts": texts})
    assert len(read_evidence({"ACME": cured}).documents) == 1


def test_the_fixes_of_a_missing_ticker_cure():
    """Read NA as text, write the ticker, or put the news under it."""
    table = "ticker,text\nNA,It was fined.\nACME,It was sued.\n"
    evidence = pd.read_csv(StringIO(table))
    with pytest.raises(InputError) as caught:
        read_evidence(evidence)
    assert "keep_default_na=False" in caught.value.fix
    again = pd.read_csv(StringIO(table), keep_default_na=False)
    assert {one.ticker for one in read_evidence(again).documents} == {"NA", "ACME"}
    assert "'*'" in caught.value.fix
    shared = read_evidence(evidence.fillna({"ticker": "*"})).documents
    assert {one.ticker for one in shared} == {None, "ACME"}
    news = [{"title": "Nvidia was fined"}]
    with pytest.raises(InputError) as caught:
        read_evidence(news)
    code = CODE.search(caught.value.fix.rpartition("evidence=")[2])[0]
    (one,) = read_evidence(eval(code, {"news": news})).documents
    assert one.ticker == "NVDA"


def test_a_path_in_place_of_its_name_cures(tmp_path):
    """The fix names the class that makes a path of a text."""
    path = tmp_path / "note.md"
    path.write_text("Acme was fined.")
    with pytest.raises(InputError) as caught:
        read_evidence({"ACME": str(path)})
    assert "pathlib.Path(...)" in caught.value.fix
    assert len(read_evidence({"ACME": Path(str(path))}).documents) == 1


def test_an_item_moves_under_its_own_ticker():
    """Or loses its ticker."""
    item = {"ticker": "EMCA", "text": "It was fined."}
    with pytest.raises(InputError) as caught:
        read_evidence({"ACME": [item]})
    assert "move it under 'EMCA', or leave its ticker out" in caught.value.fix
    assert read_evidence({"EMCA": [item]}).documents[0].ticker == "EMCA"
    del item["ticker"]
    assert read_evidence({"ACME": [item]}).documents[0].ticker == "ACME"


@pytest.mark.parametrize("value", [None, 5, b"text"])
def test_another_shape_is_answered_with_one_that_is_read(value):
    """The first shape of the fix is code."""
    with pytest.raises(InputError) as caught:
        read_evidence(value)
    code = re.match(r"evidence=(\{.*?\}), ", caught.value.fix)[1]
    assert len(read_evidence(eval(code)).documents) == 1
