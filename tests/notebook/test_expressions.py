"""A magic's line is split as its user means it, and each flag finds the value that it names."""

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.notebook.expressions import find_value, split_words

WORDS = {
    "--prices px --no-llm": ["--prices", "px", "--no-llm"],
    """--prices "px['Close']" --no-llm""": ["--prices", "px['Close']", "--no-llm"],
    "--prices px['Close']": ["--prices", "px['Close']"],
    """--prices px[["A B", 'C']] --out t""": ["--prices", """px[["A B", 'C']]""", "--out", "t"],
    """--prices px.xs("Adj Close", axis=1, level=0)""": [
        "--prices",
        """px.xs("Adj Close", axis=1, level=0)""",
    ],
    "--prices=px['Close'].loc['2024':, :]": ["--prices=px['Close'].loc['2024':, :]"],
    '--query "supply chain" --out t': ["--query", "supply chain", "--out", "t"],
    "--query='supply chain'": ["--query=supply chain"],
    "--query company's own": ["--query", "company's", "own"],
    "--query (US fraud": ["--query", "(US", "fraud"],
    "--query (US fraud)": ["--query", "(US fraud)"],
    """--prices f(")", 'x y') z""": ["--prices", """f(")", 'x y')""", "z"],
    r"--prices C:\new\prices.csv": ["--prices", r"C:\new\prices.csv"],
    "--query ''": ["--query", ""],
    "  ": [],
}


@pytest.mark.parametrize("line", WORDS)
def test_a_line_is_split_into_words(line):
    assert split_words(line) == WORDS[line]


def test_a_quotation_mark_that_opens_a_word_must_close():
    with pytest.raises(ValueError, match="closing"):
        split_words('--query "supply')


FRAME = pd.DataFrame({("Close", "A"): [1.0, 2.0], ("Volume", "A"): [5, 6]})
CALLS = []


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "filings").mkdir()
    (tmp_path / "px.csv").write_text("date,A\n")
    CALLS.clear()
    return {
        "px": FRAME,
        "books": {"us": FRAME},
        "count": lambda: CALLS.append(1) or FRAME,
        "empty": None,
        "n": 2,
    }


@pytest.mark.parametrize(
    "text",
    [
        *("px", "px['Close']", "px[[('Close', 'A')]]", "books['us'].dropna()", "count()"),
        *(
            "px.rename(columns=lambda c: c)",
            "{key: px for key in ['A']}",
            "px.iloc[: n]",
            "{'A': px}",
        ),
    ],
)
def test_an_expression_is_evaluated_in_the_users_namespace(namespace, text):
    found = find_value(namespace, text, "--prices")
    assert not isinstance(found, str)
    assert text != "count()" or CALLS == [1]


@pytest.mark.parametrize(
    "text",
    [
        *("px.csv", "filings", "filings/", "./px.csv", "data/prices.csv", "data/prices", "p/*.csv"),
        *(
            "NVDA=filings",
            "~/prices.xlsx",
            r"C:\prices.csv",
            "/nowhere/x",
            "prices.csv",
            "3",
            "'a'",
        ),
        "NVDA=filings/nvda.html",
    ],
)
def test_a_path_stays_a_path(namespace, text):
    assert find_value(namespace, text, "--prices") == text


@pytest.mark.parametrize("text", ["SPY", "^GSPC", "BTC-USD", "ES=F", "BRK.B", "EUR_USD", "equal"])
def test_a_label_may_look_like_an_expression(namespace, text):
    assert find_value(namespace, text, "--benchmark", is_label=True) == text


@pytest.mark.parametrize(
    "text", ["a=2020-02-19:2020-03-23", "a=2020-02-19:2020-03-23,b=2021-01-04:2021-02-01", "covid"]
)
def test_episodes_are_text_or_the_users_own(namespace, text):
    """What is typed stays; a name, or a dict, is its value."""
    assert find_value(namespace, text, "--stress", is_label=True) == text
    episodes = {"covid": ("2020-02-19", "2020-03-23")}
    known = {**namespace, "episodes": episodes}
    assert find_value(known, "episodes", "--stress", is_label=True) is episodes
    assert find_value(known, "{'a': episodes['covid']}", "--stress", is_label=True) == {
        "a": episodes["covid"]
    }


REFUSED = {
    "pxx": ("no variable 'pxx'", "did you mean --prices px"),
    "list": ("no variable 'list'", "assign it"),
    "pxx['Close']": ("no variable 'pxx'", "did you mean --prices px"),
    "px['Open']": ("KeyError", "a cell of its own"),
    "px.nothing()": ("AttributeError", "a cell of its own"),
    "empty": ("empty is None", "leave --prices out"),
    "books.get('eu')": ("is None", "leave --prices out"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_wrong_is_said_with_a_way_out(namespace, text):
    seen, fix = REFUSED[text]
    with pytest.raises(InputError, match=seen) as caught:
        find_value(namespace, text, "--prices")
    assert fix in caught.value.fix
