"""Text is read in the encodings that people's files have; binary content is refused."""

import pytest

from urisk_nb.errors import InputError
from urisk_nb.readers.encodings import decode_text, read_text

TEXT = "Der Umsatz in München fiel um 5 % – „deutlich“ sagte die Firma; costs rose to €5 million.\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"],
)
def test_text_is_read_in_its_encoding(encoding):
    assert decode_text((TEXT * 3).encode(encoding)) == TEXT * 3


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "The company’s revenue fell – “significantly”, to €5 million.\n"),
        ("cp1252", "La société a été condamnée à une amende de 5 millions d’euros.\n"),
        ("cp1251", "Выручка компании упала на 5 процентов.\n"),
        ("shift_jis", "売上高は前年比で5%減少した。会社は罰金を科された。\n"),
        ("gb18030", "公司的收入下降了百分之五。监管机构对其处以罚款。\n"),
    ],
)
def test_code_pages_are_recognised(encoding, text):
    assert decode_text(text.encode(encoding)) == text


def test_line_ends_stay(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n")
    assert read_text(tmp_path / "a.txt") == "one\r\ntwo\n"


@pytest.mark.parametrize("content", [bytes(range(256)) * 4, b"\x00\x01\x02PK\x00" * 99])
def test_binary_content_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt holds no text"):
        read_text(tmp_path / "a.txt")


def test_a_missing_file_is_an_error_of_its_name(tmp_path):
    with pytest.raises(InputError, match=r"b\.txt cannot be read"):
        read_text(tmp_path / "b.txt")
