"""
`%urisk_start`, `%%ask`, `%urisk_status`, `%urisk_stop` in a real kernel against the fake Ollama.
"""

import hashlib
import json
import re
import socket
import threading
import time

import pytest

from harness import OllamaProgram, alive, eventually, free_port
from urisk_nb.render.board import BURST_FRAMES

pytestmark = pytest.mark.slow  # a kernel of its own


@pytest.fixture(scope="module")
def started(kernel, fake_ollama):
    kernel.good(f"%urisk_start --url {fake_ollama.url}")
    return kernel


def test_start_says_what_answers_and_again_changes_nothing(started, fake_ollama):
    """
    The line names engine, address and model; a second start asks for nothing more.
    """
    cell = started.good("%urisk_start")
    assert "Ollama 0.33.0" in cell.text()
    assert fake_ollama.url in cell.text()
    assert "llama3.1" in cell.text()
    before = fake_ollama.counters()["requests"]
    started.good("%urisk_start")
    assert fake_ollama.counters()["requests"] - before <= 1


def test_ask_streams_and_binds(started):
    """
    The cell shows the whole answer, and the name is given it as a string that knows its timing.
    """
    cell = started.good("%%ask answer\nWhat are the risks in NVDA?")
    assert "SCRIPTED" in cell.text()
    assert (
        started.value("isinstance(answer, str) and len(answer) > 5 and answer.timing.total_s > 0")
        == "True"
    )
    assert started.value("answer[:20]") in cell.text()


def test_options_of_a_question_reach_the_server(started):
    """The request has them under Ollama's names, and another model is named in it."""
    started.good(
        "%%ask a --temperature 0.2 --seed 7 --max-tokens 9 --system 'be brief' --no-history\nWell?"
    )
    last = "__import__('urisk_nb').LLMManager.get_instance().calls.records[-1].body"
    sent = json.loads(started.value(f"{last}.decode()"))
    wanted = {"temperature": 0.2, "seed": 7, "num_predict": 9}
    assert wanted.items() <= sent["options"].items()
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]
    digest = hashlib.sha256(started.value(f"{last}.decode()").encode()).hexdigest()
    assert started.value("a.request_hash") == digest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--temperature hot", "from 0 to 2"),
        ("--temperature nan", "from 0 to 2"),
        ("--seed -1", "from 0 to"),
        ("--seed 1.5", "a whole number"),
        ("--max-tokens 0", "from 1 to 1,000,000"),
        ("--model nope", "llama3.1"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_asked(started, line, said):
    """Two lines: what was seen, and what to give."""
    before = started.value("__import__('urisk_nb').LLMManager.get_instance().calls.asked")
    cell = started.run(f"%%ask a {line}\nWell?")
    assert cell.status == "error"
    assert cell.error.count("\n") == 1
    assert said in cell.error
    assert started.value("__import__('urisk_nb').LLMManager.get_instance().calls.asked") == before


def test_many_answers_in_one_cell_lose_no_last_frame(started):
    """
    More short answers in a loop than frames may follow each other without a pause: each has its own
    output, which ends with the line of its call.
    """
    ask = "get_ipython().run_cell_magic('ask', '', f'question {number}')"
    cell = started.good(f"for number in range(25):\n    {ask}")
    last = {}
    assert len(cell.outputs) > BURST_FRAMES
    for kind, content in cell.outputs:
        assert kind in ("display_data", "update_display_data")
        last[content["transient"]["display_id"]] = content["data"]["text/plain"]
    assert len(last) == 25
    assert all(" tokens · " in text for text in last.values())


def test_status_counts_the_calls(started):
    """
    After a call the status has its number and its median times.
    """
    started.good("%%ask\nHello?")
    text = started.good("%urisk_status").text()
    assert re.search(r"calls\s+[1-9]", text)
    assert "first token, p50" in text


def test_ipython_expands_nothing_in_a_question(started):
    """
    $x is not filled in by IPython, and {x} by us alone: tests/notebook/test_cell_text.py.
    """
    started.good("x = 'RIGHT'")
    cell = started.good("%%ask --system {x}\nWhat is {y} and $x?")
    assert "filled in: {x}" in cell.text()
    assert "{y}" not in cell.text()


def test_stop_and_status_without_a_session(new_kernel):
    """
    Before a start, stop and status say so and are no errors.
    """
    kernel = new_kernel()
    kernel.good("%load_ext urisk_nb")
    assert "Nothing to stop" in kernel.good("%urisk_stop").text()
    assert "%urisk_start" in kernel.good("%urisk_status").text()


LAST_SENT = "__import__('urisk_nb').LLMManager.get_instance().calls.records[-1].body.decode()"


def test_a_conversation_with_values_in_a_kernel(started, fake_ollama):
    """
    A frame goes with the question, the next question goes on with it, also after a stop and a
    reload; `%urisk_chat` shows it, and forgets it.
    """
    started.good("%urisk_chat reset")
    started.good("import pandas as pd\npx = pd.DataFrame({'A': range(300)})")
    cell = started.good("%%ask a --with px\nWhat is the greatest value of A?")
    assert "px: 10 of 300 rows" in cell.text()
    assert (
        "A: min 0, mean 149.5, max 299"
        in json.loads(started.value(LAST_SENT))["messages"][-1]["content"]
    )
    started.good("%urisk_stop")
    started.good("%reload_ext urisk_nb")
    started.good(f"%urisk_start --url {fake_ollama.url}")
    assert "turn 2" in started.good("%ask And the least?").text()
    sent = json.loads(started.value(LAST_SENT))["messages"]
    assert [one["role"] for one in sent] == ["system", "user", "assistant", "user"]
    shown = started.good("%urisk_chat")
    assert "What is the greatest value of A? (with px)" in shown.text()
    assert "<table" in shown.html
    assert "2 turns forgotten" in started.good("%urisk_chat reset").text()
    assert "no turns yet" in started.good("%urisk_chat show").text()
    cell = started.run("%urisk_chat forget")
    assert cell.status == "error"
    assert "none of show, reset, off, on" in cell.error


STORY = {"rules": [{"contains": "story", "answer": ["word "] * 600, "token_ms": 20}]}


HOSTILE = ["a\x1b[2J", "\x1b]52;c;ZXZp", "bA==\x07", "\x9b31m", "\u202eb\r", "c"]


def test_no_display_of_an_answer_drives_a_terminal(kernel, fake_ollama_with):
    """Field case C9: in each frame as in the last one; the answer itself stays as it came."""
    server = fake_ollama_with({"rules": [{"answer": HOSTILE, "token_ms": 150}]})
    kernel.good(f"%urisk_stop\n%urisk_start --url {server.url}")
    cell = kernel.good("%%ask answer\nWell?")
    shown = [content["data"]["text/plain"] for _, content in cell.outputs if "data" in content]
    assert len(shown) > 1
    assert all(char.isprintable() or char in "\n\t" for char in "".join(shown))
    assert "⟨U+001B⟩]52" in shown[-1]
    assert kernel.value("answer") == "".join(HOSTILE)


@pytest.mark.timing
def test_an_interrupt_stops_the_answer_here_and_on_the_server(kernel, fake_ollama_with):
    """
    Stop while `%%ask` streams: the prompt is back at once, the server has aborted, the text so far
    is shown, the next call works.
    """
    server = fake_ollama_with(STORY)
    kernel.good(f"%urisk_stop\n%urisk_start --url {server.url}")

    def streaming(message):
        return "word word" in str(message["content"].get("data", {}).get("text/plain", ""))

    cell, seconds = kernel.interrupt_when(kernel.start("%%ask told\nTell a story."), streaming)
    print(f"interrupt to prompt: {seconds * 1e3:.0f} ms")
    assert cell.ename == "KeyboardInterrupt"
    assert cell.error.count("\n") == 0
    assert seconds < 0.5
    assert "word word" in cell.text()
    assert kernel.value("told.done_reason, told[:9]") == "interrupted word word"
    eventually(lambda: server.counters()["aborted"] == 1 and server.counters()["in_flight"] == 0)
    assert kernel.good("%%ask again\nHello?").text()
    assert kernel.value("again.done_reason") == "stop"
    kernel.good("%urisk_stop")


def test_a_lost_server_in_the_middle_shows_what_had_come(new_kernel, fake_ollama_with):
    """
    The connection breaks after some words: an error of two lines, the words shown, nothing asked
    twice.
    """
    server = fake_ollama_with({"rules": [{"answer": ["one ", "two ", "three "], "ends": "reset"}]})
    kernel = new_kernel()
    kernel.good(f"%load_ext urisk_nb\n%urisk_start --url {server.url}")
    cell = kernel.run("%%ask\nCount.")
    assert cell.ename == "StreamInterrupted"
    assert cell.error.count("\n") == 1
    assert "one two" in cell.text()


def test_model_text_is_never_markup(new_kernel, fake_ollama_with):
    """
    An answer of script tags, an address or a path is shown as text, nothing is fetched or opened.
    """
    server = fake_ollama_with(
        {
            "rules": [
                {"contains": "evil", "answer": "<script>alert(1)</script> /etc/hostname"},
                {"contains": "web", "answer": "http://127.0.0.1:9/x"},
            ]
        }
    )
    kernel = new_kernel()
    kernel.good(f"%load_ext urisk_nb\n%urisk_start --url {server.url}")
    cell = kernel.good("%%ask\nevil")
    assert "<script" not in cell.html
    assert "&lt;script&gt;" in cell.html
    assert "http://127.0.0.1:9/x" in kernel.good("%%ask\nweb").text()


def test_a_model_that_is_not_there_is_named(new_kernel, fake_ollama):
    """
    `--model nope`: an error of two lines with the models that are there.
    """
    kernel = new_kernel()
    kernel.good("%load_ext urisk_nb")
    cell = kernel.run(f"%urisk_start --url {fake_ollama.url} --model nope")
    assert cell.status == "error"
    assert cell.error.count("\n") == 1
    assert "nope" in cell.error
    assert "llama3.1" in cell.error


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"]
)
def test_something_else_at_the_address_is_said(kernel, answer):
    """
    A program that is silent, speaks HTTP or anything else: PortTaken, within seconds.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            if answer:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    kernel.good("%urisk_stop")
    began = time.monotonic()
    cell = kernel.run(f"%urisk_start --url http://127.0.0.1:{listener.getsockname()[1]}")
    assert time.monotonic() - began < 4
    assert (cell.ename, cell.error.count("\n")) == ("PortTaken", 1), cell.error
    for connection in kept:
        connection.close()
    listener.close()
    thread.join(0.2)


def test_a_server_of_ours_ends_with_the_kernel(new_kernel, tmp_path, run_folder):
    """
    Started by the kernel, not hit by an interrupt of a cell, gone after an orderly shutdown.
    """
    port = free_port()
    OllamaProgram(tmp_path / "bin")
    kernel = new_kernel({"PATH": str(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(run_folder)})
    kernel.good(f"%load_ext urisk_nb\n%urisk_start --engine ollama --url http://127.0.0.1:{port}")
    pid = int(kernel.value("__import__('urisk_nb').LLMManager.get_instance().pid"))
    sleeping = kernel.start("import time\nprint('now', flush=True)\ntime.sleep(30)")
    cell, _ = kernel.interrupt_when(sleeping, lambda message: message["msg_type"] == "stream")
    assert cell.ename == "KeyboardInterrupt"
    assert kernel.good("%%ask\nStill there?").text()
    began = time.monotonic()
    kernel.manager.shutdown_kernel()
    eventually(lambda: not alive(pid), 3)
    print(f"shutdown: {time.monotonic() - began:.2f} s")
