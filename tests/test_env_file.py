"""The nearest `.env`, as editors and shells write it."""

import pytest

from urisk_nb.chat.prompts import VARIABLE as SYSTEM_PROMPT
from urisk_nb.env_file import read_env_file, read_variable
from urisk_nb.journal.place import VARIABLE as JOURNAL
from urisk_nb.journal.place import find_path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (JOURNAL, SYSTEM_PROMPT):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "content",
    [b"URISK_JOURNAL=off\n", b"\xef\xbb\xbfURISK_JOURNAL=off", b"urisk_journal = 'off' # why\r\n"],
)
def test_names_in_any_case_and_behind_a_byte_order_mark(folder, content):
    """The first line counts as well, so the journal is off."""
    (folder / ".env").write_bytes(content)
    assert read_variable(JOURNAL) == "off"
    assert find_path() is None


def test_the_environment_wins_and_empty_means_not_set(folder, monkeypatch):
    (folder / ".env").write_text(f"{SYSTEM_PROMPT}=in the file\n{JOURNAL}=\n")
    assert read_env_file() == {SYSTEM_PROMPT: "in the file"}
    monkeypatch.setenv(SYSTEM_PROMPT, "")
    assert read_variable(SYSTEM_PROMPT) == "in the file"
    monkeypatch.setenv(SYSTEM_PROMPT, " here ")
    assert read_variable(SYSTEM_PROMPT) == "here"


def test_what_is_no_text_is_as_if_it_were_not_there(folder):
    """Whoever loads the settings names it."""
    (folder / ".env").write_bytes(b"\xff\xfe\x00")
    assert read_variable(JOURNAL) == ""
