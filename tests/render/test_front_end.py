"""Consoles are told from notebooks by the program that started the kernel."""

import os
import subprocess
import sys

import pytest

from urisk_nb.render import board, front_end
from urisk_nb.render.board import Board
from urisk_nb.render.front_end import is_console

LONG = "reading the evidence of AAA " * 20


@pytest.mark.parametrize(
    "line",
    [
        "/usr/bin/python3 /home/me/.local/bin/jupyter-console --kernel=python3",
        "python -m jupyter_console",
        "python3.12 -Xdev -mjupyter_console",
        "python /opt/lib/site-packages/jupyter_console/__main__.py",
        "/opt/bin/python /opt/bin/jupyter console",
        "python -m jupyter console --simple-prompt",
        r"C:\conda\Scripts\jupyter-qtconsole.exe",
        r"C:\conda\pythonw.exe C:\conda\Scripts\spyder-script.py",
        "python -m qtconsole",
    ],
)
def test_a_console_is_known_by_its_command(line):
    """However it was started; all of them print, and drop updates."""
    assert is_console(line.split(" "))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "/usr/bin/python3 /usr/bin/jupyter-lab --no-browser",
        "python -m notebook jupyter-console",
        "python -m jupyter lab console",
        "python /home/me/jupyter-console/run_notebooks.py",
        "python -m papermill console.ipynb out.ipynb",
        "python -m pytest --nbmake qtconsole.ipynb",
        "/home/me/spyder/bin/python -m jupyterlab",
    ],
)
def test_what_shows_updates_is_no_console(line):
    """A folder or an argument of a console's name makes none."""
    assert not is_console(line.split(" "))


def test_the_starter_of_a_kernel_is_found(monkeypatch):
    """The process that JPY_PARENT_PID names; none where it has ended, or none started us."""
    program = [sys.executable, "-c", "input()", "jupyter-console"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as process:
        monkeypatch.setenv("JPY_PARENT_PID", str(process.pid))
        found = front_end._find_starter.__wrapped__()
        process.communicate(b"\n")
    if os.name == "posix":
        assert found == tuple(program)
        assert front_end._find_starter.__wrapped__() == ()
    monkeypatch.setenv("JPY_PARENT_PID", "")
    assert front_end._find_starter.__wrapped__() == ()


@pytest.fixture
def terminal(monkeypatch):
    """Something that prints, with no pause between frames."""
    monkeypatch.setattr(board, "_in_kernel", lambda: False)
    monkeypatch.setattr(board, "INTERVAL_S", 0.0)


def test_progress_is_not_written_into_a_file(terminal, capsys):
    """A log of `ipython script.ipy` has the answer, once, and no frames of progress."""
    line, answer = Board(), Board(grows=True)
    line.show("1 of 2", "")
    line.clear()
    answer.show("Well", "")
    answer.finish("Well.", "")
    assert capsys.readouterr().out == "Well.\n"


@pytest.mark.parametrize("place", ["terminal", "console"])
def test_progress_stays_on_one_line(terminal, place, monkeypatch, capsys):
    """A text longer than the line is cut: what wraps would be left behind by each frame."""
    monkeypatch.setattr(board, "in_console", lambda: place == "console")
    monkeypatch.setattr("sys.stdout.isatty", lambda: place == "terminal")
    monkeypatch.setenv("COLUMNS", "60")
    line = Board()
    for number in range(3):
        line.next_s = 0
        line.show(f"{number} {LONG}", "")
    line.clear()
    frames = capsys.readouterr().out.split("\r")
    assert [frame[:2] for frame in frames[1:4]] == ["0 ", "1 ", "2 "]
    assert max(map(len, frames)) < 60
    assert frames[-2:] == [" " * len(frames[-3]), ""]
