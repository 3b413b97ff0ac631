"""The user's values in questions and in lists of tickers; every other brace is left alone."""

import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from harness import ROOT
from urisk_nb.errors import InputError
from urisk_nb.notebook.cell_text import fill_question, looks_like_tickers, read_ticker_cell
from urisk_nb.readers.holdings import parse_tickers

CALLS = []


@pytest.fixture
def names():
    CALLS.clear()
    return {
        "x": 3,
        "i": 7,
        "n": 12345.678,
        "name": "NVDA",
        "day": datetime(2024, 1, 2, 3, 4, tzinfo=UTC),
        "colons": {"a:b": 2.0, "c!r": 3.0},
        "nested": "{x} and {{x}} and $x",
        "px": pd.DataFrame({"NVDA": [1.0, 2.0]}),
        "books": {"us": "AAPL"},
        "count": lambda: CALLS.append(1) or "once",
        "In": ["exit()"],
        "exit": "IPython's own",
    }


def fill(text, names):
    return fill_question(text, names, {"In": names["In"], "exit": names["exit"]}).text


FILLED = {
    "What is {name}?": "What is NVDA?",
    "{x}{x} {x+1} {-x}": "33 4 -3",
    "{n:,.2f} and {n:.1e} and {name!r:>8}": "12,345.68 and 1.2e+04 and   'NVDA'",
    "{books['us']} {books['us'][1:3]} {px.shape} {len(px)}": "AAPL AP (2, 1) 2",
    "{px['NVDA'].mean():.2f}": "1.50",
    "{day:%H:%M} {day:%Y-%m-%d} {colons['a:b']:.1f} {colons['c!r']!r}": "03:04 2024-01-02 2.0 3.0",
    '{name}\'s "{name}" ({name}), {name}.': 'NVDA\'s "NVDA" (NVDA), NVDA.',
    "a brace: {{name}} {{ {name} }}": "a brace: {name} {{ NVDA }}",
    "{nested}": "{x} and {{x}} and $x",
    "f'a' {x} of \"{x}\" and 'f' {x}": "f'a' 3 of \"3\" and 'f' 3",
}


@pytest.mark.parametrize("text", FILLED)
def test_an_expression_of_the_users_is_filled_in(text, names):
    assert fill(text, names) == FILLED[text]


LEFT_ALONE = [
    "~~~\n{x}\n~~~",
    "~~~\n{x}",
    *(
        "{unknown}",
        "{unknown.x}",
        "{x + unknown}",
        "{}",
        "{ }",
        "{ x }",
        "{",
        "}",
        "}{",
        "{x",
        "x}",
    ),
    *(
        '{"x": 1}',
        '{"a": {"b": "x"}}',
        "{'x'}",
        "{x: 1}",
        "{x, i}",
        "{1, 2}",
        "{x for x in i}",
        "{3}",
    ),
    *(
        "{{ name | upper }}",
        "{% for x in i %}",
        "${x}",
        "$x",
        "{x;}",
        "{x\n}",
        "{len}",
        "{print(1)}",
    ),
    *(r"\frac{x}{i}", r"\sigma_{i}", "e^{x}", r"\text{x}{i}{n}", "{In}", "{exit}", "{__name__}"),
    *(
        "`{x}`",
        "```python\nprint(f'{x}')\n```",
        "```\n{x}",
        "{px['Open']}",
        "{x.nothing}",
        "{x / 0}",
    ),
    *("function f() { return x }", "a {b} c", "{x:d d}", "{lambda: x}", "{*x}", "@{x}", "{x!z}"),
    "{__import__('os').getcwd()}",
    *("print(f'{x} and {i:.2f}')", 'rf"{x}{i}"', "f'it{x}"),
]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_braces_of_prose_json_code_and_latex_stay(text, names):
    assert fill(f"Explain {text} please", names) == f"Explain {text} please"


def test_what_the_document_leaves_alone_is_left_alone(names):
    rows = (
        (ROOT / "docs/notebook.md").read_text(encoding="utf-8").partition("| what | example |")[2]
    )
    cells = [row.split("|")[2].strip() for row in rows.partition("\n\n")[0].splitlines()[2:]]
    assert len(cells) == 6
    names |= dict.fromkeys("ab", 1) | {"watch": ["NVDA"]}
    for cell in cells:
        # As Markdown shows it: code with a backtick in it has two around it
        shown = [first or second for first, second in re.findall(r"`` (.+?) ``|`([^`]+)`", cell)]
        assert shown, cell
        for text in shown:
            assert fill(f"Explain {text} please", names) == f"Explain {text} please"


def test_a_value_is_taken_once_and_never_looked_into(names):
    assert fill("{count()} {count()} {count()}", names) == "once once once"
    assert CALLS == [1]
    assert fill("{nested} {x}", names) == "{x} and {{x}} and $x 3"


def test_what_was_filled_in_and_what_failed_is_said(names):
    found = fill_question("{x} {x} {px['Open']} {unknown}", names)
    assert found.notes == ("filled in: {x}", "left as it is: {px['Open']} (KeyError: 'Open')")


# Tickers ------------------------------------------------------------------------------------------


@pytest.fixture
def lists():
    CALLS.clear()
    return {
        "watch": ["NVDA", "MSFT"],
        "index": pd.Index(["NVDA", "MSFT"]),
        "series": pd.Series({"NVDA": 0.4, "MSFT": 0.6}),
        "plain": pd.Series(["NVDA", "MSFT"]),
        "weights": {"NVDA": 0.4, "MSFT": 0.6},
        "pairs": [("NVDA", 0.4), ("MSFT", 0.6)],
        "text": "NVDA=0.4, MSFT = 60%\n# a comment\n",
        "array": np.array(["NVDA", "MSFT"]),
        "group": {"MSFT", "NVDA"},
        "px": pd.DataFrame({"NVDA": [1.0], "MSFT": [2.0]}),
        "terminal": ["AAPL US Equity", "BRK/B US Equity"],
        "w": np.float64(0.25),
        "one": "NVDA",
        "F": ["F", "GM"],
        "UNIVERSE": ["NVDA", "MSFT"],
        "hostile": ["{boom()}"],
        "boom": lambda: CALLS.append("boom"),
        "count": lambda: CALLS.append(1) or ["NVDA"],
        "nothing": None,
        "AAPL": pd.Series([1.0, 2.0], pd.bdate_range("2024-01-01", periods=2)),
        "name": "Company",
    }


def parse(text, names):
    return [(one.symbol, one.weight) for one in parse_tickers(read_ticker_cell(text, names))]


BOTH, WEIGHTED = [("NVDA", None), ("MSFT", None)], [("NVDA", 0.4), ("MSFT", 0.6)]
TICKERS = {
    "{watch}": BOTH,
    "{index}  # all": BOTH,
    "{plain}": BOTH,
    "{array}": BOTH,
    "{px.columns}": BOTH,
    "{group}": BOTH[::-1],
    "{list(px)}": BOTH,
    "{series}": WEIGHTED,
    "{weights}": WEIGHTED,
    "{pairs}": WEIGHTED,
    "{text}": WEIGHTED,
    "{weights['NVDA'] and series}": WEIGHTED,
    "{ watch }": BOTH,
    "{watch}, AAPL": [*BOTH, ("AAPL", None)],
    "AAPL {watch}\n\nBRK.B # {nothing here}": [("AAPL", None), *BOTH, ("BRK.B", None)],
    "AAPL=0.1, {weights}, {one}=0.25": [("AAPL", 0.1), ("NVDA", 0.65), ("MSFT", 0.6)],
    "NVDA={w}, MSFT = {1 - w}": [("NVDA", 0.25), ("MSFT", 0.75)],
    "{one}={w}": [("NVDA", 0.25)],
    "{one}.B {one}": [("NVDA.B", None), ("NVDA", None)],
    "{watch[:1]}{watch[1:]}": BOTH,
    "{terminal}": [("AAPL US EQUITY", None), ("BRK/B US EQUITY", None)],
    "F, GM": [("F", None), ("GM", None)],
    "AAPL=0.5 name": [("AAPL", 0.5), ("NAME", None)],
    "NVDA\nMSFT": BOTH,
}


@pytest.mark.parametrize("text", TICKERS)
def test_a_list_in_braces_gives_its_tickers_and_weights(text, lists):
    assert parse(text, lists) == TICKERS[text]


@pytest.mark.parametrize(
    ("text", "seen", "fix"),
    [
        ("{wach}", "line 1: there is no variable 'wach'", "{watch}"),
        ("NVDA\n{nowhere}", "line 2", "assign it above"),
        ("{watch[7]}", "IndexError", "a cell of its own"),
        ("{1/0}", "ZeroDivisionError", "a cell of its own"),
        ("{watch list}", "SyntaxError", "a cell of its own"),
        ("{nothing}", "is None", "assign a list"),
        ("{count}", "not tickers", "{count()}"),
        ("{}", "empty", "{watch}"),
        ("{watch", "not closed", "{watch}"),
        ("watch}", "no partner", "{watch}"),
        ("{{watch}}", "not closed", "{watch}"),
        ("{watch}=0.2", "inside of a word", "commas"),
        ("NVDA = {watch}", "inside of a word", "commas"),
        ("X{watch}", "inside of a word", "commas"),
        ("NVDA, $watch", "without braces", "write {watch}"),
        ("${watch}", "without braces", "write {watch}"),
        ("watch", "without braces", "write {watch}"),
        ("NVDA, weights", "without braces", "write {weights}"),
        ("UNIVERSE", "without braces", "write {UNIVERSE}"),
        ("series=0.3", "without braces", "write {series}"),
        ("index plain", "without braces", "write {index}"),
    ],
)
def test_what_cannot_be_filled_in_is_said_with_a_way_out(text, seen, fix, lists):
    with pytest.raises(InputError, match=seen) as caught:
        read_ticker_cell(text, lists)
    assert fix in caught.value.fix


def test_the_fix_for_a_bare_name_works(lists):
    with pytest.raises(InputError) as caught:
        read_ticker_cell("watch", lists)
    assert parse(caught.value.fix.removeprefix("write "), lists) == BOTH


def test_a_value_of_a_ticker_cell_is_taken_once_and_never_evaluated(lists):
    assert parse("{count()}, {count()}", lists) == [("NVDA", None)]
    assert CALLS == [1]
    with pytest.raises(InputError):
        parse("{hostile}", lists)
    with pytest.raises(InputError):
        parse("{hostile[0]}, MSFT", lists)
    assert CALLS == [1]


def test_prices_are_no_list_of_tickers(lists):
    assert not looks_like_tickers(lists["AAPL"])
    assert not looks_like_tickers(lists["px"])
    assert not looks_like_tickers({"NVDA": lists["AAPL"]})
    assert not looks_like_tickers("A sentence, in words.")
