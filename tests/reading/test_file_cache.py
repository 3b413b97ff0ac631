"""What pages and PDF files said before: given for the same bytes under the same name."""

import pytest

from document_files import make_pdf
from urisk_nb.errors import UriskError
from urisk_nb.readers.file_content import FileContent, read_in_turn
from urisk_nb.reading import file_cache
from urisk_nb.reading.file_cache import remember_files
from urisk_nb.reading.packed_cache import PackedCache

PAGE = "<html><body><p>We received a notice of {}.</p></body></html>"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "AAA.html").write_text(PAGE.format("default"))
    (tmp_path / "BBB.pdf").write_bytes(make_pdf("It was fined in May."))
    (tmp_path / "CCC.txt").write_text("It fell.")
    (tmp_path / "DDD.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    (tmp_path / "primary-document.html").write_text(PAGE.format("recall"))
    return tmp_path


@pytest.fixture
def read(folder):
    """Reads the folder, and tells which files were read anew."""
    cache = PackedCache()

    def read():
        done = []

        def map_files(paths):
            done.extend(path.name for path in paths)
            return read_in_turn(paths)

        return done, list(remember_files(map_files, cache)(sorted(folder.iterdir())))

    return read


def test_pages_and_pdf_files_are_read_once(read):
    """A text, what is broken and what another file tells of is read again, in its order."""
    (first, made), (again, found) = read(), read()
    assert first == ["AAA.html", "BBB.pdf", "CCC.txt", "DDD.pdf", "primary-document.html"]
    assert again == ["CCC.txt", "DDD.pdf", "primary-document.html"]
    assert found[:3] == made[:3]
    assert isinstance(found[0], FileContent)
    assert isinstance(found[3], UriskError)
    assert found[4].source.text == made[4].source.text


def test_other_bytes_or_another_name_is_another_file(read, folder):
    """A name may say whose it is, and its folder which form it has."""
    read()
    (folder / "AAA.html").write_text(PAGE.format("recall"))
    (folder / "BBB.pdf").rename(folder / "BBB_10-K.pdf")
    again, found = read()
    assert again[:2] == ["AAA.html", "BBB_10-K.pdf"]
    assert "recall" in found[0].source.text
    assert found[1].form == "10-K"


def test_a_file_that_is_replaced_while_it_is_read_is_not_known(tmp_path):
    """Its first bytes come back later: they say what they said, and not what the others did."""
    path, cache = tmp_path / "AAA.html", PackedCache()
    path.write_text(PAGE.format("default"))

    def replace_first(paths):
        path.write_text(PAGE.format("recall"))
        yield from read_in_turn(paths)

    (seen,) = remember_files(replace_first, cache)([path])
    path.write_text(PAGE.format("default"))
    (again,) = remember_files(read_in_turn, cache)([path])
    assert "recall" in seen.source.text
    assert "default" in again.source.text


def test_a_file_that_is_named_twice_may_change_in_between(tmp_path, monkeypatch):
    """One of its two contents is known by then, and the other one is not."""
    path, cache = tmp_path / "AAA.html", PackedCache()
    path.write_text(PAGE.format("default"))
    list(remember_files(read_in_turn, cache)([path]))
    hash_file, seen = file_cache._hash_file, []

    def change(one):
        seen.append(hash_file(one))
        if len(seen) == 1:
            path.write_text(PAGE.format("recall"))
        return seen[-1]

    monkeypatch.setattr(file_cache, "_hash_file", change)
    found = [one.source.text for one in remember_files(read_in_turn, cache)([path, path])]
    assert ["default" in found[0], "recall" in found[1]] == [True, True]


def test_very_many_files_are_read(read, folder, monkeypatch):
    """To look them up would take long, and nobody would see what is done."""
    monkeypatch.setattr(file_cache, "MAX_FILES", 4)
    assert read()[0] == read()[0]


def test_what_cannot_be_unpacked_is_read_again(read, monkeypatch):
    """The package may be another one since."""
    _, made = read()
    monkeypatch.setattr(PackedCache, "find", lambda *_: b"of another version")
    assert read()[1][:3] == made[:3]
