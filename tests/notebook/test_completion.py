"""Completion in IPython's own completer, and as a front end asks a kernel for it."""

import dataclasses
import time
from collections.abc import Mapping
from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from harness import eventually
from plain_ollama import PlainOllama
from urisk_nb import LLMManager, load_ipython_extension, unload_ipython_extension
from urisk_nb.notebook import completion

DAYS = pd.bdate_range("2024-01-01", periods=3)
NAMES = {
    "prices": pd.DataFrame({"NVDA": [1.0, 2, 3], "SPY": [1.0, 2, 3]}, DAYS),
    "price_book": {"NVDA": pd.Series([1.0, 2, 3], DAYS)},
    "prices_of_one": pd.Series([1.0, 2, 3], DAYS),
    "press": [{"title": "Fined.", "symbol": "NVDA"}],
    "press_frame": pd.DataFrame({"ticker": ["NVDA"], "text": ["Fined."]}),
    "press_texts": {"NVDA": "It was fined."},
    "print_it": print,
    "price": 3.5,
    "pro_watch": ["NVDA", "MSFT"],
    "pro_weights": {"NVDA": 0.5},
    "Holding": dataclasses.make_dataclass("Holding", [("ticker", str)]),
    "hold_schema": {"type": "object"},
    "hold_weights": {"NVDA": 0.5},
}


@pytest.fixture(scope="module")
def ip():
    config = Config()
    config.HistoryManager.enabled = False
    config.Completer.use_jedi = False  # seconds for a frame
    made = InteractiveShell.instance(config=config)
    load_ipython_extension(made)
    made.user_ns.update(NAMES)
    yield made
    unload_ipython_extension(made)
    made.atexit_operations()
    __import__("atexit").unregister(made.atexit_operations)
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(completion, "_LISTS", completion._ModelLists())
    (tmp_path / "pressroom").mkdir()
    yield
    if (manager := LLMManager.find_instance()) is not None:
        manager.shutdown_sync()


def complete(ip, text):
    """The texts that the completer offers where | stands, each as the line would then read."""
    before, _, after = text.partition("|")
    with provisionalcompleter():
        found = list(ip.Completer.completions(before + after, len(before)))
    return [before[: one.start] + one.text for one in found]


def words(ip, text):
    """What is offered for the last word."""
    return [line.split()[-1] for line in complete(ip, text)]


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%risk --pri|\nNVDA", ["--price-column", "--prices"]),
        ("%%ask --sy|", ["--system"]),
        ("%%ask data --json hol|\nWhat?", ["Holding", "hold_schema"]),
        ("%%ask answer --m|\nWhat?", ["--max-tokens", "--model"]),
        ("%urisk_start --num|", ["--num-ctx"]),
        ("x = 1\n%urisk_dashboard --|", ["--close", "--static"]),
        ("table = %risk NVDA --be|", ["--benchmark"]),
        ("%urisk_nest o|", ["off", "on"]),
        ("%urisk_chat o|", ["off", "on"]),
        ("%urisk_start --engine e|", ["embedded"]),
        ("%urisk_start --dialect=o|", ["--dialect=ollama", "--dialect=openai"]),
        ("%%risk --labels |", ["calibrated", "greedy"]),
        ("%%risk --no-llm --no|\nA", ["--normalise"]),
    ],
)
def test_flags_and_their_words_are_offered(text, offered, ip):
    assert words(ip, text) == offered


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%%risk --prices pri|\nNVDA", {"prices", "price_book", "prices_of_one"}),
        ("%%risk --prices=pri|\nNVDA", {"prices", "price_book", "prices_of_one"}),
        ("table = %risk NVDA --prices pri|", {"prices", "price_book", "prices_of_one"}),
        ("%%risk --evidence p|\nNVDA", {"press", "press_frame", "press_texts", "pressroom/"}),
        ("%%risk --previous press_|\nA", {"press_frame", "press_texts"}),
        ("%%risk --prices prices --benchmark |\nA", {"equal", "prices_of_one", "NVDA", "SPY"}),
        ("%%risk --benchmark S| --prices prices\nA", {"SPY"}),
        ("%%risk --prices prices --factors S|\nA", {"SPY"}),
        ("%%risk --prices px\n{pro_|", {"{pro_watch", "{pro_weights"}),
        ("%risk {pro_w|", {"{pro_watch", "{pro_weights"}),
        ("%%ask --with press_|\nWhy?", {"press_frame", "press_texts"}),
        ("%%ask --with prices,press_|\nWhy?", {"prices,press_frame", "prices,press_texts"}),
    ],
)
def test_variables_that_fit_the_flag_are_offered(text, offered, ip):
    assert {word.removeprefix("--prices=") for word in words(ip, text)} == offered


@pytest.mark.parametrize(
    "text", ["pri|", "prices.|", "%timeit pri|", "x = 5 % pri|", "%%time\npri|", "'--pri|"]
)
def test_all_other_lines_are_ipythons(text, ip):
    """Ours adds nothing and takes nothing away."""
    ours = complete(ip, text)
    unload_ipython_extension(ip)
    try:
        assert complete(ip, text) == ours
    finally:
        load_ipython_extension(ip)


def test_a_file_is_offered_beside_variables(ip, tmp_path):
    (tmp_path / "prices.csv").write_text("")
    assert {"prices", "prices.csv"} <= set(words(ip, "%%risk --prices pri|\nA"))
    assert words(ip, "%%risk --evidence ./pressr|\nA")[0].startswith("./pressroom")


MODEL_LINES = ["%urisk_start --model {}|", "%%risk --judge {}|\nA", "table = %risk A --model {}|"]


@pytest.mark.parametrize("line", MODEL_LINES)
@pytest.mark.parametrize("has_session", [True, False])
def test_models_of_the_server_are_offered(line, has_session, ip, monkeypatch):
    """With a session, or from the server that a start would find; no model is loaded for it."""
    with PlainOllama(models=["llama3.1:latest", "llama3.1:8b", "mistral:7b"]) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        if has_session:
            LLMManager.initialize_sync()
        before = len(server.bodies("/api/chat"))
        both = ["llama3.1:8b", "llama3.1:latest"]
        eventually(lambda: words(ip, line.format("LL")) == both, 5)  # at the next Tab at the latest
        assert words(ip, line.format("llama3.1:")) == ["llama3.1:8b", "llama3.1:latest"]
        assert words(ip, line.format("x"))[:1] != ["mistral:7b"]
        assert (
            len(server.bodies("/api/tags")) <= 1 + 2 * has_session
        )  # the list is kept for a while
        assert len(server.bodies("/api/chat")) == before
        assert (LLMManager.find_instance() is not None) == has_session
        if has_session:
            LLMManager.get_instance().shutdown_sync()


def test_several_judges_stand_between_commas(ip, monkeypatch):
    with PlainOllama(models=["nimble:latest", "mistral:7b"]) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        second = "%%risk --judge nimble,m|\nA"
        eventually(lambda: words(ip, second) == ["nimble,mistral:7b"], 5)
        named = f"%urisk_start --url {server.url} --model n|"
        eventually(lambda: words(ip, named) == ["nimble:latest"], 5)


class Broken:
    """What a class of the user's can do to whoever looks at its objects."""

    @property
    def __class__(self):
        raise RuntimeError("do not look")

    def __getattr__(self, name):
        raise RuntimeError("do not touch")


class BrokenDict(dict):
    def values(self):
        raise OSError("the file is closed")


class OpenFile(Mapping):
    """An open file of arrays, as h5py has it: each value is read when it is asked for."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(["prices of NVDA", "prices of AMD"])

    def __getitem__(self, name):
        self.reads += 1
        return 1.0


def test_odd_objects_are_passed_over(ip, monkeypatch, capsys):
    """No error shows, nothing is read, and what fits is still offered."""
    odd = {"pr_broken": Broken(), "pr_closed": BrokenDict(a=1), "pr_file": OpenFile()}
    odd["pr_nowhere"] = type("Nowhere", (), {"__module__": None})()
    for name, value in odd.items():
        monkeypatch.setitem(ip.user_ns, name, value)
    assert "prices" in words(ip, "%%risk --prices pr|")
    assert "press" in words(ip, "%%risk --evidence pr|")
    assert complete(ip, "%%risk --prices prices\n{pro_w|")
    assert complete(ip, "%%risk --prices pr_broken --benchmark eq|")
    assert odd["pr_file"].reads == 0
    assert capsys.readouterr().err == ""


def test_a_server_that_hangs_holds_nothing_up(ip, monkeypatch):
    """A Tab takes less than 200 ms; what comes later is there at the next one."""
    with PlainOllama(models=["mistral:7b"]) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        server.list_delay_s = 0.3
        seconds = []
        while (
            len(seconds) < 5 and min(seconds, default=1) >= 0.2
        ):  # the machine does more than this
            monkeypatch.setattr(completion, "_LISTS", completion._ModelLists())
            began = time.monotonic()
            assert completion._list_models(None) == []
            seconds.append(time.monotonic() - began)
        assert min(seconds) < 0.2
        eventually(lambda: completion._list_models(None) == ["mistral:7b"], 5)


def test_nothing_is_started_and_no_error_shown(ip, monkeypatch, capsys):
    monkeypatch.setenv("OLLAMA_URL", "http://127.0.0.1:1")
    for value in ("http://127.0.0.1:1", "ftp://x"):
        monkeypatch.setenv("OLLAMA_URL", value)
        assert words(ip, "%urisk_start --model zz|") == []
    printed = capsys.readouterr()
    assert not printed.err
    assert not printed.out
    assert LLMManager.find_instance() is None


def test_the_matcher_is_there_once_and_goes_on_unload(ip):
    def count():
        ours = [one for one in ip.Completer.custom_matchers if "urisk" in str(type(one))]
        return len(ours), len(ip.input_transformers_cleanup)

    before = count()
    assert before[0] == 1
    load_ipython_extension(ip)
    assert count() == before
    unload_ipython_extension(ip)
    assert count() == (0, before[1] - 1)
    load_ipython_extension(ip)
    assert count() == before


def test_an_old_context_is_enough(ip):
    """The matcher needs no more than what IPython 8.6 gives."""
    line = "%%risk --pri"
    context = SimpleNamespace(
        full_text=line, cursor_line=0, text_until_cursor=line, line_with_cursor=line
    )
    found = completion.complete(ip, context)
    assert {one.text for one in found["completions"]} == {"--price-column", "--prices"}


@pytest.mark.slow
def test_a_front_end_is_offered_the_same(kernel):
    """Over the kernel's own protocol: complete_request."""
    kernel.good("import pandas as pd\nprices = pd.DataFrame({'A': [1.0]})")

    def ask(text):
        before, _, after = text.partition("|")
        kernel.client.complete(before + after, len(before))
        while True:
            reply = kernel.client.get_shell_msg(timeout=20)
            if reply["msg_type"] == "complete_reply":
                content = reply["content"]
                return [before[: content["cursor_start"]] + one for one in content["matches"]]

    assert ask("%%risk --pri|\nA") == ["%%risk --price-column", "%%risk --prices"]
    assert ask("%%risk --prices pri|\nA") == ["%%risk --prices prices"]
    with PlainOllama(models=["llama3.1:8b"]) as server:
        kernel.good(f"%env OLLAMA_URL={server.url}")
        offered = ["%urisk_start --model llama3.1:8b"]
        # The first Tab imports the client, which may take longer than a Tab waits
        eventually(lambda: ask("%urisk_start --model llama3.1:|") == offered, 10)
    kernel.good("%unload_ext urisk_nb")
    assert "%%risk --price-column" not in ask("%%risk --pri|\nA")
    kernel.good("%load_ext urisk_nb")
