"""The document in an answer: what is read, and what is a fault, within bounds of time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urisk_nb.chat.json_text import Fault, format_path, parse_answer, shorten_value

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**290), 10**290),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abé "), inner), max_leaves=20
)


@pytest.mark.slow
@given(DOCUMENTS)
def test_json_is_read_as_it_was_written(document):
    """Whatever the document; in a fence, too."""
    text = json.dumps(document)
    assert parse_answer(text) == (document, None)
    assert parse_answer(f"\ufeff```json\n{text}\n```\n") == (document, None)


@given(st.text())
def test_any_text_is_a_document_or_a_fault(text):
    """No exception."""
    document, fault = parse_answer(text)
    assert fault is None or (document is None and isinstance(fault, Fault))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the answer is empty"),
        (" \n\ufeff", "the answer is empty"),
        ("<think>Is it", "only thought"),
        ("No.", "not JSON"),
        ('{"a": 1} and so on', "not JSON"),
        ('{"a": 1', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is too large"),
        (f"[{'1' * 301}]", "301 digits"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        ('["\\ud83d"]', "half of a character (U+D83D)"),
        ("[" * 65 + "]" * 65, "64 levels"),
        ("[" * 1_000_000, "nested"),
        ('{"a":' * 200_000, "nested"),
        ("[" * 400_000 + "]" * 400_000, "nested"),
        ('"' + "x" * 2_000_000 + '"', "2,000,002 characters"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_document_is_a_fault(text, said):
    """Broken, hostile or huge: a sentence."""
    document, fault = parse_answer(text)
    assert document is None
    assert said in fault.reason
    assert len(str(fault)) < 400


def test_the_bounds_hold_for_what_is_just_within():
    """64 levels and 300 digits are read."""
    assert parse_answer("[" * 64 + "]" * 64)[1] is None
    assert parse_answer(f"[{'1' * 300}]")[0] == [int("1" * 300)]


def test_a_million_characters_of_fields_are_read_in_seconds():
    """No step is quadratic, where the last field stands twice either."""
    names = ",".join(f'"f{number}":1' for number in range(80_000))
    began = time.process_time()
    assert parse_answer(f"{{{names}}}")[1] is None
    assert "twice" in parse_answer(f'{{{names},"f7":1}}')[1].reason
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ([], "$"),
        (["holdings", 2, "risk"], "$.holdings[2].risk"),
        (["price target", "a.b", ""], '$["price target"]["a.b"][""]'),
    ],
)
def test_a_path_reads_as_json_paths_do(parts, path):
    """By the usual notation."""
    assert format_path(parts) == path


def test_values_in_messages_are_short():
    """Whatever their size."""
    assert shorten_value("x" * 10_000) == f"{'x' * 60!r}..."
    assert shorten_value(list(range(5000))) == "a list of 5,000"
    assert shorten_value({}) == "an empty object"
    assert shorten_value(None) == "null"
    assert shorten_value(True) == "true"
    assert len(format_path(["x" * 5000])) < 130
