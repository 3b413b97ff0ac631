"""Long texts of documents are packed, and nobody can tell."""

import copy
import pickle
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from many_filings import write_filing
from urisk_nb.risk import packed_text
from urisk_nb.risk.inputs import Document
from urisk_nb.risk.packed_text import MIN_PACKED_CHARS, PackedText

REPORT = write_filing("AAA", 400)
TEXTS = {
    "short": "It fell.",
    "empty": "",
    "long": REPORT,
    "with every sign": "\ud800 \u2019 \U0001f600 \x00 \ufeff \r\n" * (MIN_PACKED_CHARS // 10),
    "as long as a packed one": "x" * MIN_PACKED_CHARS,
    "one less": "x" * (MIN_PACKED_CHARS - 1),
}


@pytest.fixture(params=TEXTS)
def text(request, monkeypatch):
    monkeypatch.setattr(packed_text, "_latest", None)
    return TEXTS[request.param]


def make(text, **more):
    return Document(**({"id": "E1", "ticker": "AAA", "text": text} | more))


def test_a_text_is_what_was_given(text):
    """Also read again, after another one, and its length without it."""
    one, other = make(text), make(REPORT[::-1])
    assert one.text == text
    assert other.text == REPORT[::-1]
    assert (one.text, one.length) == (text, len(text))


def test_documents_are_values(text):
    """Equal, hashed, copied, packed for another process and shown as ever."""
    one = make(text)
    same = make("".join(text))
    assert one == same
    assert hash(one) == hash(same)
    assert one.text_key == same.text_key
    assert one != make(text + "!")
    assert make(text + "!").text_key != one.text_key
    for copied in (
        replace(one),
        copy.copy(one),
        copy.deepcopy(one),
        pickle.loads(pickle.dumps(one)),
    ):
        assert copied == one
        assert copied.text == text
    assert repr(text) in repr(one)
    assert replace(one, id="E2").text == text
    with pytest.raises(FrozenInstanceError):
        one.text = "other"


def test_a_document_needs_a_text():
    """The field has no default."""
    with pytest.raises(TypeError, match="text"):
        Document(id="E1", ticker=None)
    assert [one.name for one in fields(Document)][2] == "text"


def test_a_report_takes_a_third_of_its_memory(monkeypatch):
    """The text that was used last stays, and that of no other document."""
    one, other = make(REPORT), make(REPORT[::-1])
    assert isinstance(one.text_key, PackedText)
    assert 3 * sys.getsizeof(one.text_key.data) < sys.getsizeof(REPORT)
    assert one.text is one.text
    assert other.text is not one.text
    assert packed_text._latest == (one.text_key, REPORT)


def test_a_copy_is_not_packed_again(monkeypatch):
    """Thousands of documents get their ids by a copy."""
    one = make(REPORT)
    assert one.text
    monkeypatch.setattr(PackedText, "of", None)
    assert replace(one, id="E2").text_key is one.text_key
