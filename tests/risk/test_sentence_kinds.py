"""Sentences in the manner of filings, feeds and notes of any maker: ends, bullets, lost spaces."""

import textwrap

import pytest

from urisk_nb.risk.evidence import split
from urisk_nb.risk.inputs import Document

CLOSED = "The plant was closed."


def read(text):
    return [one.text for one in split(Document(id="E1", ticker="ACME", text=text)).sentences]


@pytest.mark.parametrize(
    "sentence",
    [
        *("Lt. Col. Roe left our board.", "Gov. Doe has sued us.", "Pres. Doe has sued us."),
        *("The Mt. Vernon plant burned.", "The Ft. Worth plant burned."),
        *("Acme Pty. Ltd. was fined.", "Acme Mfg. Co. was fined.", "Acme Natl. Bank was fined."),
        *("Our Cl. A shares fell.", "Our Ser. B notes are in default.", "It is in Ch. Eleven now."),
        *("Under Fed. R. Civ. P. 12 it was dismissed.", "Under Treas. Reg. § 1.5 we owe tax."),
        *("Under Cal. Civ. Code we are liable.", "Under Bus. & Prof. Code we are liable."),
        *("Tampa, Fla. Officials fined us.", "A Boston, Mass. Court fined us."),
        *("Our 2.5 m. saw line is old.", "Debt is $3.5bn. as of May.", "Node.Js was hacked."),
    ],
)
def test_an_abbreviation_ends_no_sentence(sentence):
    assert read(f"{CLOSED} {sentence} {CLOSED}") == [CLOSED, sentence, CLOSED]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The plant burned.It was closed.", ["The plant burned.", "It was closed."]),
        ("The plant burned.Sales were lost.", ["The plant burned.", "Sales were lost."]),
        ("See www.acme.Com for the news.", ["See www.acme.Com for the news."]),
        ("The plant burned. 2024 was a bad year.", ["The plant burned.", "2024 was a bad year."]),
        ("We sold some. 5,000 shares were left.", ["We sold some.", "5,000 shares were left."]),
        (
            "See Note 5 and approx. 2024 figures here.",
            ["See Note 5 and approx. 2024 figures here."],
        ),
        ("We lost the plant.(1) It was old.", ["We lost the plant.(1)", "It was old."]),
        ("We lost the plant.[2] It was old.", ["We lost the plant.[2]", "It was old."]),
        (
            "工場が燃えた。「閉鎖する。」と社長は言った。",
            ["工場が燃えた。", "「閉鎖する。」と社長は言った。"],
        ),
    ],
)
def test_where_a_sentence_ends(text, expected):
    assert read(text) == expected


BULLETS = (
    "• ‣ ▪ ■ ● ○ ◦ ► ➢ ✓ ✔ ➤ → ❖ · – — - * o § » ◆ ♦ ❑ ⚫ ▸ ▶ ⇒ ✗ ★ 1. 1) (1) (a) a) A) ii) [1]"
)


@pytest.mark.parametrize("bullet", BULLETS.split())
def test_no_bullet_is_part_of_a_sentence(bullet):
    items = ["We may lose our plant to a fire.", "We may lose our largest customer."]
    text = "Our main risks are these:\n\n" + "\n\n".join(f"{bullet} {item}" for item in items)
    assert read(text) == ["Our main risks are these:", *items]


def test_a_sign_inside_a_sentence_is_no_bullet():
    sentence = "A claim under § 10 of the law and an upgrade from A → B are open."
    assert read(f"{sentence} {CLOSED}") == [sentence, CLOSED]


WRAPPED = [
    "We depend on a single Supplier in Taiwan for our blades, and a fire may stop our sales.",
    "Our Board has no plan for such a case.",
    "In May Acme Inc. told us that it may end the contract.",
]


@pytest.mark.parametrize("width", [40, 55, 60, 65, 72, 80, 100, 120])
@pytest.mark.parametrize("indents", [("", ""), ("     ", ""), ("  ", "    ")])
def test_a_paragraph_of_any_width_is_whole(width, indents):
    text = textwrap.fill(
        " ".join(WRAPPED), width, initial_indent=indents[0], subsequent_indent=indents[1]
    )
    for given in (text, text.replace("\n", "\r\n")):
        assert read(given) == WRAPPED
    assert read(f"{text}\n\n{text}") == WRAPPED * 2
