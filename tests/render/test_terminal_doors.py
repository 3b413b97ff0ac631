"""
Every way to a terminal, one by one: nothing that a model, a server, evidence or a file name says
drives it, reorders a line or hides.
"""

import io
import pickle
from types import SimpleNamespace

import pandas as pd
import pytest

from urisk_nb import cli, errors
from urisk_nb.llm.dialects.dialect import clean_name, clean_words
from urisk_nb.llm.manager import StartEvent
from urisk_nb.render import board
from urisk_nb.render.board import Board, ProgressLine
from urisk_nb.render.markup import answer_markup, progress_markup, status_bundle
from urisk_nb.table.exports import ExportFrame
from urisk_nb.terminal_text import one_line, visible

HOSTILE = {
    "clear the screen": "\x1b[2J",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "title": "\x1b]0;owned\x1b\\",
    "eight bits": "\x9b31m",
    "overwrite the line": "good\rbad ",
    "backspace": "good\b\b\b\bbad",
    "reorder": "\u202etxt.exe\u2066",
    "hide": "zero\u200bwidth\ufeff",
    "other line ends": "a\u2028b\x85c\x0bd\x0c",
    "nothing": "\x00\x7f",
}
ALL = "".join(HOSTILE.values())


def is_safe(text):
    return all(char.isprintable() or char in "\n\t" for char in text)


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_seen_is_written_out(case):
    shown = visible(f"Answer: {HOSTILE[case]}.")
    assert is_safe(shown)
    assert "⟨U+" in shown
    assert is_safe(one_line(HOSTILE[case]))


@pytest.mark.parametrize(
    "text", ["plain", "two\nlines\tand a tab", "é ü 漢字", "👩‍👩‍👧 family", "می‌خواهم", "क्‍ष", "soft"]
)
def test_what_people_write_stays(text):
    """The joiners of emoji, Persian and Hindi are part of how they are written."""
    assert visible(text) == text


def test_a_line_end_of_windows_is_one():
    assert visible("a\r\nb\rc") == "a\nb⟨U+000D⟩c"


def test_errors_and_their_tracebacks(capsys):
    """Also words that are added later, and errors that came from another process."""
    error = errors.InputError(f"the file {ALL} is no CSV.", fix=f"rename {ALL}")
    again = pickle.loads(pickle.dumps(error))
    again.message = f"previous: {ALL}"
    for one in (error, again):
        assert is_safe("\n".join([str(one), repr(one), *one._render_traceback_()]))
    assert is_safe(error.message + error.fix)
    assert is_safe(errors.StreamInterrupted(ALL, fix="a", partial=ALL).message)


def test_a_servers_words_and_names():
    assert is_safe(clean_name(ALL))
    assert is_safe(clean_words(ALL))
    assert "\n" not in clean_name("a\nb")


@pytest.mark.parametrize("name", ["to_string", "to_csv", "__repr__"])
def test_frames(name):
    """Cells, categories, labels and columns; the data itself stays verbatim."""
    frame = ExportFrame(
        {ALL: [ALL, "plain"], "c": pd.Categorical([ALL, "b"]), "n": [1.0, 2.0]}, index=[ALL, "x"]
    )
    assert is_safe(getattr(frame, name)())
    assert frame.iloc[0, 0] == ALL


def test_excel_takes_a_cell_with_control_characters(tmp_path):
    """openpyxl refuses them."""
    ExportFrame({"a": [ALL]}).to_excel(tmp_path / "t.xlsx")
    assert is_safe(pd.read_excel(tmp_path / "t.xlsx").iloc[0, 1])


def test_html_and_status():
    texts = [answer_markup(ALL, ALL, [ALL]), progress_markup(ALL, 0.5)]
    assert is_safe("".join([*texts, *status_bundle({ALL: ALL}, "status")]))


def test_steps_of_a_start():
    """`progress=print`."""
    assert is_safe(str(StartEvent(step="pulling", text=ALL, done=1, total=2)))
    assert is_safe(str(StartEvent(step="pulling", text=ALL)))


# Boards -------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    is_terminal = True

    def isatty(self):
        return self.is_terminal


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that keeps what is written to it, and no pause between frames."""
    terminal = Terminal()
    monkeypatch.setattr(board, "_in_kernel", lambda: False)
    monkeypatch.setattr(board, "INTERVAL_S", 0.0)
    monkeypatch.setattr(board, "sys", SimpleNamespace(stdout=terminal, stderr=terminal))

    def write(*words, file=None, **rest):
        print(*words, file=terminal, **rest)

    monkeypatch.setattr(board, "print", write, raising=False)
    return terminal


def test_an_answer_that_grows_in_a_terminal(terminal):
    """Cut anywhere, also in the middle of a sequence or of a line end."""
    text = f"{ALL}\r\nnext\r"
    growing = Board(grows=True)
    for end in range(1, len(text)):
        growing.next_s = 0
        growing.show(text[:end], "")
    growing.finish(text, "")
    assert is_safe(terminal.getvalue())
    assert terminal.getvalue() == visible(text) + "\n"


def test_a_line_of_progress_in_a_terminal(terminal):
    line = Board()
    line.show(f"reading {ALL}\nand more", "")
    line.clear()
    progress = ProgressLine()
    progress.show(f"pulling {ALL}\nand more")
    progress.say(f"done {ALL}")
    written = terminal.getvalue()
    assert is_safe(written.replace("\r", ""))
    assert not [part for part in written.split("\r") if "bad" in part and "good" not in part]
    assert written.count("\n") == 1  # of what stays


def test_a_display_of_a_kernel(monkeypatch):
    sent = []
    monkeypatch.setattr(board, "_in_kernel", lambda: True)
    monkeypatch.setattr(Board, "_display", lambda self, bundle: sent.append(bundle))
    for one in (Board(), Board(grows=True)):
        one.show(f"a{ALL}\nb", progress_markup(ALL, None))
        one.finish(f"a{ALL}\nb", answer_markup(ALL))
    assert len(sent) == 4
    assert all(is_safe("".join(bundle.values())) for bundle in sent)
    assert all("\n" in bundle["text/plain"] for bundle in sent)


def test_what_is_waited_for_gives_place_to_the_text(terminal):
    growing = Board(grows=True)
    for seconds in (1, 2, 10):
        growing.next_s = 0
        growing.show_wait(f"waiting ({seconds} s)", "")
    growing.next_s = 0
    growing.show("Well", "")
    growing.finish("Well.", "")
    written = terminal.getvalue()
    assert written.startswith("\rwaiting (1 s)\rwaiting (2 s)\rwaiting (10 s)\r")
    assert written.rpartition("\r")[2] == "Well.\n"


def test_where_nothing_is_rewritten_nothing_is_waited_for(terminal):
    """A file would keep the line."""
    terminal.is_terminal = False
    growing = Board(grows=True)
    growing.show_wait("waiting (1 s)", "")
    growing.finish("Well.", "")
    assert terminal.getvalue() == "Well.\n"


# urisk --------------------------------------------------------------------------------------------


def run_urisk(*argv):
    try:
        return cli.main(argv)
    except SystemExit as exc:
        return exc.code


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", f"no{ALL.replace(chr(0), '')}.csv"],
        [f"--{ALL}"],
        ["evaluate", "x.csv", f"--{ALL}"],
        ["serve", "--port", ALL],
        ["demo", "--engine", ALL],
    ],
)
def test_urisk_repeats_what_was_typed(argv, capsys, monkeypatch):
    """File names come from a pattern, not always from a person."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    assert run_urisk(*argv) in (1, 2)
    out, err = capsys.readouterr()
    assert is_safe(out + err)
    assert "rror" in err


def test_urisk_prints_a_file_whose_name_is_hostile(capsys):
    cli._print(f"Written: {ALL}")
    cli._say(f"Server {ALL}", ALL, ALL)
    assert is_safe(capsys.readouterr().out)
