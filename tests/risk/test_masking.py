"""
Masking: names, dates and amounts go, and what happened stays; the same seed gives the same.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.errors import InputError
from urisk_nb.risk.masking import find_names, mask, swap

FINED = (
    "On March 12, 2021 Oskarelli Foods Inc. was fined $4.5 million by the SEC for its 2019 report."
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (FINED, ["Oskarelli Foods"]),
        ("Zentrovia's auditor resigned, and Mr. Okonwe left.", ["Zentrovia", "Okonwe"]),
        ("Shares of Trelko (NYSE: TRK) fell; $ABC rose.", ["Trelko", "TRK", "ABC"]),
        ("It sued Standard Paper Co. and its parent in Delaware.", ["Standard Paper"]),
        ("The Company, the Board and the Audit Committee met in New York.", []),
        ("We follow U.S. GAAP, ASC 606 and the Sarbanes-Oxley Act.", []),
        ("Turbidity in the wells exceeded the limit of the EPA.", []),
        ("NOTES TO CONSOLIDATED FINANCIAL STATEMENTS OF ZENTROVIA", []),
    ],
)
def test_what_is_a_name(text, names):
    """Companies, people and tickers; no ordinary word, country, regulator or caption."""
    assert find_names(text) == names


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_tells_is_left(seed):
    """Name, date and amount are others; the rest of the sentence is the same, word for word."""
    masked = mask(FINED, seed)
    form = re.fullmatch(
        r"On ([A-Z][a-z]+) (\d+), (\d{4}) (the Company|[A-Z][a-z]+ Inc\.) was fined \$(\d\.\d) "
        r"million by the SEC for its (\d{4}) report\.",
        masked,
    )
    assert form, masked
    month, day, year, name, amount, earlier = form.groups()
    assert "Oskarelli" not in masked
    assert (month, day, year, amount) != ("March", "12", "2021", "4.5")
    assert month != "March"
    assert day != "12"
    assert year != "2021"
    assert amount != "4.5"
    assert name != "Oskarelli Foods Inc."
    assert int(year) - int(earlier) == 2, "the years move together"


def test_the_same_seed_gives_the_same():
    """And others give others."""
    assert mask(FINED, 3) == mask(FINED, 3)
    assert len({mask(FINED, seed) for seed in range(10)}) > 5


def test_kinds_are_masked_one_by_one():
    """What is not asked for stays; a kind that there is none of is an error."""
    text = "Trelko paid $212,000 in March 2020."
    assert re.fullmatch(r"\S+( \S+)? paid \$212,000 in March 2020\.", mask(text, kinds=["name"]))
    assert re.fullmatch(
        r"Trelko paid \$212,000 in (?!March)[A-Z][a-z]+ (?!2020)\d{4}\.", mask(text, kinds=["date"])
    )
    assert re.fullmatch(
        r"Trelko paid \$(?!212)\d{3},000 in March 2020\.", mask(text, kinds=["amount"])
    )
    assert mask(text, kinds=[]) == text
    with pytest.raises(InputError, match="'names'") as error:
        mask(text, kinds=["names"])
    assert "name, date, amount" in error.value.fix


@pytest.mark.parametrize(
    "text",
    [
        "Reported on Form 10-K, Item 7A, Note 14 and pages 47 through 49 under ASU 2016-13.",
        "The Securities Exchange Act of 1934 and Rule 10b-5 apply to Chapter 11 cases.",
        "A Phase 3 trial against COVID-19 ran in two plants at 10:30 with 5 people.",
        "It owns 100% of the shares, as in the 1990s.",
        "Revenue may decline, and we march on.",
    ],
)
def test_references_and_small_numbers_stay(text):
    """They say what it is about, and not who or when."""
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("31 December 2013", r"(3[01]|2[89]) [A-Z][a-z]+ (?!2013)\d{4}"),
        ("on 2013-06-30", r"on (?!2013)\d{4}-(?!06)\d\d-(3[01]|28)"),
        ("at 12/31/13", r"at (?!12)\d{2}/(3[01]|28)/(?!13)\d\d"),
        ("fiscal 2013-14 and FY13", r"fiscal (?!2013)\d{4}-\d\d and FY(?!13)\d\d"),
        ("for 2005-2006", r"for (?!2005)(\d{4})-(?!2006)\d{4}"),
        ("in Sept. 2013", r"in (?!Sep)([A-Z][a-z]{2}\.|May) (?!2013)\d{4}"),
        ("on Monday", r"on (?!Mon)[A-Z][a-z]+day"),
        ("since early May", r"since early (?!May)[A-Z][a-z]+"),
    ],
)
def test_a_date_keeps_its_form(text, form):
    """Another one, written alike; the last day of a month is one."""
    for seed in range(12):
        assert re.fullmatch(form, mask(text, seed)), mask(text, seed)


@given(st.integers(1, 99_999_999), st.integers(0, 3), st.integers(0, 50))
def test_an_amount_keeps_its_class(number, decimals, seed):
    """As many digits, decimals and zeros at the end as before, and another value."""
    figure = f"{number / 10**decimals:,.{decimals}f}"
    masked = mask(f"It paid ${figure} for it.", seed, kinds=["amount"])[9:-8]
    assert re.sub(r"\d", "0", masked) == re.sub(r"\d", "0", figure)
    assert masked != figure
    digits, before = (re.sub(r"\D", "", one).lstrip("0") for one in (masked, figure))
    assert len(digits) == len(before)


@pytest.mark.parametrize("seed", range(10))
def test_what_rose_still_rises(seed):
    """One factor for all amounts of a sentence, and one shift for all of its years."""
    text = mask("Sales rose 12% from $3.1 billion in 2018 to $4.2 billion in 2019.", seed)
    before, first, after, second = (
        float(one) for one in re.findall(r"\$(\d\.\d)|(?:in )(\d{4})", text) for one in one if one
    )
    assert before < after
    assert second == first + 1


def test_only_a_company_becomes_the_company():
    """A thing that opens a sentence does not: the sentence would become one about it."""
    masked = {mask("Zentrum was cheaper.", seed) for seed in range(10)}
    assert not any(text.startswith("The Company") for text in masked)
    for text, names in (("Zentrovia said it fell.", ()), ("Zentrovia fell.", ("Zentrovia",))):
        masked = {mask(text, seed, names=names) for seed in range(10)}
        assert any(text.startswith("The Company ") for text in masked)
        assert any(re.match(r"(?!Zentrovia)[A-Z][a-z]+ \w", text) for text in masked)


def test_a_known_name_is_masked_wherever_it_stands():
    """Though all its words are ordinary."""
    masked = mask("Shares of Target fell. Target's sales target was missed.", 1, names=["Target"])
    assert "Target" not in masked
    assert "sales target" in masked


def test_a_company_is_swapped():
    """With its legal form and without, in any case, with its possessive; a word of it stays."""
    text = "ACME Corp. said Acme's unit owes Acme Corp. cash at the acme of Acmeville."
    assert swap(text, "Acme Corp.", "Orr plc") == (
        "Orr plc said Orr's unit owes Orr plc cash at the acme of Acmeville."
    )
    assert swap("It fell.", "Acme", "Orr") == "It fell."
    assert swap("It fell.", "", "Orr") == "It fell."


@pytest.mark.parametrize(("name", "written"), [("Migros", "M\u0131gros"), ("Tesla", "Te\u017fla")])
def test_a_name_is_found_in_letters_that_are_one_without_case(name, written):
    """A dotless i, and the long s of old prints."""
    assert swap(f"{written} Inc. fell, said {written}'s board.", name, "Orr") == (
        "Orr Inc. fell, said Orr's board."
    )


def test_half_of_a_surrogate_pair_is_masked_like_any_text():
    """As a damaged file has it."""
    assert mask("Zentrovia\ud800 fell.", 1) == mask("Zentrovia\ud800 fell.", 1)
    assert "Zentrovia" not in mask("Zentrovia said \ud800 it fell.", 1)
