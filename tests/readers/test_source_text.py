"""Page furniture goes, sentences that it cut are whole again, and offsets lead back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.readers.source_text import SourceText, drop_page_furniture, remove_spans


def drop(text):
    return drop_page_furniture(SourceText(text)).text


def test_a_page_number_in_a_sentence_goes():
    pages = [f"This is what page {word} says and the sentence" for word in ("one", "two", "six")]
    text = "\n\n".join(
        f"{page}\n\n{number}\n\nTable of Contents\n\ngoes on behind it."
        for number, page in enumerate(pages, 7)
    )
    assert drop(text) == "\n\n".join(f"{page} goes on behind it." for page in pages)


def test_numbers_that_do_not_count_up_stay():
    text = "We have\n\n12\n\nplants and\n\n5\n\nships.\n\n99"
    assert drop(text) == text


def test_a_page_break_makes_a_number_a_page_number():
    assert drop("The text ends.\n\n17\n\n\f\n\nNext.").split() == ["The", "text", "ends.", "Next."]
    assert drop("The text ends.\n<PAGE> 17\nNext.") == "The text ends.\nNext."


def test_running_headers_at_page_breaks_go_and_headings_stay():
    page = "Some sentence of the report stands here.\n\nAcme Tools | 2024 Form 10-K | {}\n\n\f\n\n"
    text = "Item 1. Business\n\n" + "".join(page.format(number) for number in range(5))
    left = drop(text)
    assert "Acme Tools" not in left
    assert left.count("Some sentence") == 5
    assert left.startswith("Item 1. Business")


def test_the_dates_of_signatures_stay():
    text = "Some sentence stands here.\n\nOctober 4, 2022\n\n7\n\n\f\n\n" * 6
    assert drop(text).count("October 4, 2022") == 6


def test_a_line_that_comes_again_inside_pages_stays():
    text = "Not applicable.\n\nA sentence about nothing.\n\n" * 6
    assert drop(text) == text


def test_bare_headings_at_page_heads_go_but_for_the_first():
    text = "".join(
        f"PART II\n\nSentence number {word} stands on this page.\n\n{number}\n\n\f\n\n"
        for number, word in enumerate(["one", "two", "three", "four", "five"], 40)
    )
    assert drop(text).count("PART II") == 1
    assert drop(text).startswith("PART II")


@given(
    st.text("abc \n", max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=6),
)
def test_what_is_left_leads_back(text, cuts):
    """Removed twice, each character still knows its place in the first text."""
    spans = sorted((at, at + length) for at, length in cuts)
    once = remove_spans(SourceText(text), spans)
    gone = {place for start, end in spans for place in range(start, end)}
    assert once.text == "".join(sign for place, sign in enumerate(text) if place not in gone)
    twice = remove_spans(once, [(1, 3), (5, 6)])
    for source in (once, twice):
        assert [text[source.find_origin(offset)] for offset in range(len(source.text))] == [
            *source.text
        ]
