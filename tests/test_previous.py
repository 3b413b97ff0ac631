"""Last year's documents from end to end: files, folders, frames, and what is refused."""

import inspect

import pandas as pd
import pytest

from urisk_nb.errors import InputError
from urisk_nb.session import assess, assess_async, open_run

NO_MODEL = {"llm": False}
COVER = """UNITED STATES SECURITIES AND EXCHANGE COMMISSION
Washington, D.C. 20549
FORM 10-K
For the fiscal year ended December 31, {before}
NORWICK TOOLS INC.
"""
BODY = """
Item 1A. Risk Factors

Our single foundry is in Norwick.

We owed the bank {owed} million dollars at the end of {before}.

{last}

Item 3. Legal Proceedings

No claim is pending against us.
"""


def write(folder, year, owed, last, cover=True, name="NWK_10-K_{}-02-20.txt"):
    folder.mkdir(exist_ok=True)
    path = folder / name.format(year)
    text = (COVER if cover else "") + BODY
    path.write_text(text.format(before=year - 1, owed=owed, last=last))
    return path


@pytest.fixture
def years(tmp_path):
    """A folder with three annual reports."""
    folder = tmp_path / "filings"
    write(folder, 2023, 3, "We plan a second foundry.")
    write(folder, 2024, 5, "Our largest customer renewed its contract.")
    write(folder, 2025, 9, "A fire destroyed the foundry in May.")
    return folder


def list_changes(table):
    return [
        (row.change, row.quote if row.change != "gone" else row.old_quote)
        for row in table.changes("NWK").itertuples()
        if "foundry in May" in str(row.quote)
        or "owed the bank" in str(row.quote)
        or "customer" in str(row.old_quote)
    ]


WANTED = [
    ("new", "A fire destroyed the foundry in May."),
    ("changed", "We owed the bank 9 million dollars at the end of 2024."),
    ("gone", "Our largest customer renewed its contract."),
]


def test_a_folder_of_three_years(years):
    """The newest is read against the one before; a message under the table says all of it."""
    table = assess(["NWK"], evidence=years, params=NO_MODEL)
    assert list_changes(table) == WANTED
    text = repr(table)
    assert "NWK: compared with NWK_10-K_2024-02-20.txt;" in text
    assert "older reports not used: NWK_10-K_2023-02-20.txt" in text
    earlier = assess(["NWK"], evidence=years, params={**NO_MODEL, "as_of": "2024-12-31"})
    assert "compared with NWK_10-K_2023-02-20.txt" in repr(earlier)


def test_two_files_and_two_folders_give_the_same(years, tmp_path):
    """`previous` takes what `evidence` takes."""
    files = {
        "evidence": years / "NWK_10-K_2025-02-20.txt",
        "previous": years / "NWK_10-K_2024-02-20.txt",
    }
    write(tmp_path / "new", 2025, 9, "A fire destroyed the foundry in May.")
    write(tmp_path / "old", 2024, 5, "Our largest customer renewed its contract.")
    folders = {"evidence": tmp_path / "new", "previous": str(tmp_path / "old")}
    for given in (files, folders):
        table = assess(["NWK"], **given, params=NO_MODEL)
        assert list_changes(table) == WANTED
        assert table.loc["NWK", "gone"] == table["gone"].iloc[0] >= 1


def test_frames_and_texts():
    """Texts by ticker and rows of a table are compared, too."""
    text = "We make lathes. A fire destroyed the foundry."
    table = assess(
        ["NWK"], evidence={"NWK": text}, previous={"NWK": "We make lathes."}, params=NO_MODEL
    )
    assert table.loc["NWK", ["new", "changed", "gone"]].tolist() == [1, 0, 0]
    rows = pd.DataFrame({"ticker": ["NWK"], "headline": ["Norwick wins an order"]})
    news = assess(["NWK"], evidence=rows, previous=rows, params=NO_MODEL)
    assert news.loc["NWK", "share_repeated"] == 1


def test_what_is_refused_names_the_argument(years):
    """A path that is not there and a previous without evidence are said as such."""
    prices = pd.DataFrame({"NWK": [1.0, 2.0]}, index=pd.date_range("2025-01-01", periods=2))
    with pytest.raises(InputError, match="previous was given without evidence"):
        open_run(["NWK"], prices=prices, previous=years)
    with pytest.raises(InputError) as error:
        open_run(["NWK"], evidence=years, previous="nowhere/")
    assert error.value.message.startswith("previous: ")
    assert str(error.value).startswith("previous: ")


def test_notes_on_previous_documents_say_so(years):
    (years / "NWK_old.rtf").write_text("x")
    table = assess(
        ["NWK"], evidence=years / "NWK_10-K_2025-02-20.txt", previous=years, params=NO_MODEL
    )
    assert "previous: 1 file of" in repr(table)
    assert "compared with NWK_10-K_2024-02-20.txt; older reports not used: " in repr(table)


@pytest.mark.parametrize("function", [assess, assess_async, open_run])
def test_each_way_in_takes_it(function):
    assert inspect.signature(function).parameters["previous"].default is None
