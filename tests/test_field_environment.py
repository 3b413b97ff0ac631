"""
What real users meet in notebooks, by the numbers of the field cases: settings that change (C2),
lines that mean something else (C13), names of models (C15), values in cells (C16).

The magics run in a real IPython shell of this process, over a small server of the test.
"""

import atexit

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from harness import free_port
from plain_ollama import PlainOllama
from urisk_nb import (
    LLMManager,
    assess,
    event_loop,
    load_ipython_extension,
    unload_ipython_extension,
)
from urisk_nb.errors import (
    InputError,
    ModelNotFound,
    PullFailed,
    ServerNotRunning,
    SettingsError,
    UriskError,
)
from urisk_nb.llm.messages import Model, find_model, is_same_model
from urisk_nb.llm.snapshot import probe_server

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No `.env` of the machine is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start():
    """Start a session; it is over with the test."""
    yield LLMManager.initialize_sync
    if (manager := LLMManager.find_instance()) is not None:
        manager.shutdown_sync()


class Shell:
    """An IPython shell with the extension; cells are run as they are typed."""

    def __init__(self, ip, capsys):
        self.ip, self.capsys, self.printed = ip, capsys, ""

    def run(self, cell):
        """Return what a cell prints; its error is raised."""
        self.capsys.readouterr()
        result = self.ip.run_cell(cell, store_history=True)
        self.printed = self.capsys.readouterr().out
        result.raise_error()
        return self.printed

    def error(self, cell):
        with pytest.raises(UriskError) as caught:
            self.run(cell)
        return caught.value


@pytest.fixture(scope="module")
def ip():
    """One shell for the tests of this module; without a history file."""
    config = Config()
    config.HistoryManager.enabled = False
    made = InteractiveShell.instance(config=config)
    load_ipython_extension(made)
    yield made
    unload_ipython_extension(made)
    made.atexit_operations()
    atexit.unregister(made.atexit_operations)
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(ip, capsys, start):
    names = set(ip.user_ns)
    yield Shell(ip, capsys)
    for name in set(ip.user_ns) - names:
        del ip.user_ns[name]


@pytest.fixture
def server():
    with PlainOllama() as made:
        yield made


@pytest.fixture
def started(shell, server, monkeypatch):
    """A shell whose session runs over the small server; its address is in the environment."""
    monkeypatch.setenv("OLLAMA_URL", server.url)
    shell.run("%urisk_start")
    return shell


def settings():
    return LLMManager.get_instance().settings


# C2: settings that change -------------------------------------------------------------------------

IN_SESSION = {
    "OLLAMA_TIMEOUT": ("timeout_s", "120", 120.0, "35 -> 120"),
    "URISK_LOAD_TIMEOUT": ("load_timeout_s", "1200", 1200.0, "300 -> 1200"),
    "OLLAMA_MAX_RETRIES": ("max_retries", "5", 5, "2 -> 5"),
    "OLLAMA_KEEP_ALIVE": ("keep_alive", "2h", "2h", "20m -> 2h"),
    "URISK_PARALLEL": ("parallel", "3", 3, "not set -> 3"),
    "URISK_NUM_CTX": ("num_ctx", "8192", 8192, "4096 -> 8192"),
    "OLLAMA_MODEL": ("model", "mistral", "mistral", "llama3.1:latest -> mistral"),
    "OLLAMA_AUTO_START": ("auto_start", "false", False, "true -> false"),
    "URISK_ALLOW_CLOUD": ("allow_cloud", "true", True, "false -> true"),
    "URISK_KEEP_WARM": ("keep_warm_s", "0", 0.0, "30 -> 0"),
}


@pytest.mark.parametrize("place", ["env", ".env", "ask"])
@pytest.mark.parametrize("name", IN_SESSION)
def test_c2_a_changed_variable_holds_in_the_running_session(
    name, place, started, server, elsewhere, monkeypatch
):
    field, value, meant, shown = IN_SESSION[name]
    manager = LLMManager.get_instance()
    if place == ".env":
        (elsewhere / ".env").write_text(f"{name}={value}\n")
    else:
        monkeypatch.setenv(name, "")  # so that it is undone
        started.run(f"%env {name}={value}")
    printed = started.run("%%ask\nWhat is a bond?" if place == "ask" else "%urisk_start")
    assert f"{name}: {shown}" in printed
    assert LLMManager.get_instance() is manager
    assert getattr(settings(), field) == meant
    assert name not in started.run("%urisk_start")  # said once


def test_c2_the_change_reaches_the_server(started, server, monkeypatch):
    monkeypatch.setenv("URISK_NUM_CTX", "8192")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "2h")
    monkeypatch.setenv("OLLAMA_MODEL", "mistral")
    started.run("%%ask\nWhat is a bond?")
    assert server.bodies("/api/pull") == [{"model": "mistral", "stream": True}]
    load, chat = server.bodies("/api/chat")[-2:]
    for body in (load, chat):
        assert (body["model"], body["keep_alive"]) == ("mistral", "2h")
        assert body["options"]["num_ctx"] == 8192


def test_c2_ollamas_own_variable_counts_too(started, server, monkeypatch):
    with PlainOllama() as other:
        monkeypatch.delenv("OLLAMA_URL")
        monkeypatch.setenv("OLLAMA_HOST", other.url.removeprefix("http://"))
        printed = started.run("%urisk_start")
        assert f"OLLAMA_HOST: {server.url} -> {other.url}" in printed
        started.run("%urisk_stop")


def test_c2_a_model_file_for_another_engine_says_so(started, monkeypatch, tmp_path):
    manager = LLMManager.get_instance()
    monkeypatch.setenv("URISK_GGUF", str(tmp_path / "m.gguf"))
    printed = started.run("%urisk_start")
    assert "URISK_GGUF has no effect here" in printed
    assert "%urisk_start --engine embedded --url http://127.0.0.1:11500" in printed
    assert LLMManager.get_instance() is manager


def test_c2_a_server_of_ours_goes_on_where_it_can(shell, ollama, monkeypatch):
    """A window is a matter of each call; what the server was started with takes another one."""
    monkeypatch.setenv("OLLAMA_URL", f"http://127.0.0.1:{free_port()}")
    shell.run("%urisk_start --engine ollama")
    pid = LLMManager.get_instance().pid
    monkeypatch.setenv("URISK_NUM_CTX", "8192")
    assert "URISK_NUM_CTX: 4096 -> 8192" in shell.run("%urisk_start")
    assert LLMManager.get_instance().pid == pid
    monkeypatch.setenv("URISK_ALLOW_CLOUD", "true")
    printed = shell.run("%%ask\nWhat is a bond?")
    assert "URISK_ALLOW_CLOUD: false -> true: %urisk_start takes it" in printed
    assert (LLMManager.get_instance().pid, settings().allow_cloud) == (pid, False)
    assert "URISK_ALLOW_CLOUD: false -> true" in shell.run("%urisk_start")
    assert LLMManager.get_instance().pid != pid
    assert (settings().allow_cloud, settings().num_ctx) == (True, 8192)
    shell.run("%urisk_stop")


@pytest.mark.parametrize("place", ["env", ".env"])
def test_c2_another_address_is_another_session(place, started, server, elsewhere, monkeypatch):
    with PlainOllama() as other:
        if place == ".env":
            (elsewhere / ".env").write_text(f"OLLAMA_URL={other.url}\n")
            monkeypatch.delenv("OLLAMA_URL")
        else:
            monkeypatch.setenv("OLLAMA_URL", other.url)
        # A question does not go elsewhere by itself, and says how it can
        printed = started.run("%%ask\nWhat is a bond?")
        assert f"OLLAMA_URL: {server.url} -> {other.url}: %urisk_start takes it" in printed
        assert (len(server.prompts), len(other.prompts)) == (1, 0)
        assert "OLLAMA_URL" not in started.run("%%ask\nWhat is a bond?")
        assert f"OLLAMA_URL: {server.url} -> {other.url}" in started.run("%urisk_start")
        started.run("%%ask\nWhat is a bond?")
        assert (len(server.prompts), len(other.prompts)) == (2, 1)
        started.run("%urisk_stop")


def test_c2_an_address_where_nothing_answers_keeps_the_session(started, server, monkeypatch):
    monkeypatch.setenv("OLLAMA_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OLLAMA_AUTO_START", "false")
    assert isinstance(started.error("%urisk_start"), ServerNotRunning)
    started.run("%%ask\nWhat is a bond?")
    assert len(server.prompts) == 1


def test_c2_the_engine_of_another_server_is_refused_with_a_fix(started, monkeypatch):
    monkeypatch.setenv("URISK_ENGINE", "embedded")
    error = started.error("%urisk_start")
    assert "not by the embedded one" in error.message
    assert "%urisk_start --engine embedded --url http://127.0.0.1:11500" in error.fix
    monkeypatch.setenv("URISK_ENGINE", "ollama")
    assert "URISK_ENGINE: auto -> ollama" in started.run("%urisk_start")


def test_c2_what_was_said_last_counts(started, server, monkeypatch):
    """A flag, then a variable, then a flag; one that has not changed gives way to the flag."""
    monkeypatch.setenv("OLLAMA_TIMEOUT", "50")
    assert "URISK_NUM_CTX: 4096 -> 2048" in started.run("%urisk_start --num-ctx 2048")
    assert settings().num_ctx == 2048
    monkeypatch.setenv("URISK_NUM_CTX", "8192")
    assert "URISK_NUM_CTX: 2048 -> 8192" in started.run("%urisk_start")
    assert "URISK_NUM_CTX: 8192 -> 1024" in started.run("%urisk_start --num-ctx 1024")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "60")
    assert "URISK_NUM_CTX" not in started.run("%urisk_start")
    assert (settings().num_ctx, settings().timeout_s) == (1024, 60)
    monkeypatch.delenv("OLLAMA_TIMEOUT")
    assert "OLLAMA_TIMEOUT: 60 -> 35" in started.run("%urisk_start")


def test_c2_a_change_that_fails_changes_nothing_and_is_tried_again(started, server, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODEL", "urisk-judge")  # never pulled
    monkeypatch.setenv("OLLAMA_TIMEOUT", "50")
    for cell in ("%%ask\nWhat is a bond?", "%urisk_start"):
        assert isinstance(started.error(cell), ModelNotFound)
        assert (settings().model, settings().timeout_s) == ("llama3.1:latest", 35)
    monkeypatch.setenv("URISK_NUM_CTX", "many")
    assert isinstance(started.error("%urisk_start"), SettingsError)


@pytest.mark.parametrize("name", ["OLLAMA_API_KEY", "OLLAMA_HEADERS"])
def test_c2_a_secret_is_never_shown(name, started, monkeypatch):
    if name not in {field.alias for field in type(settings()).model_fields.values()}:
        pytest.skip("no such setting")
    secret = "X-Key: s3cr3t-value" if name == "OLLAMA_HEADERS" else "s3cr3t-value"
    monkeypatch.setenv(name, secret)
    printed = started.run("%urisk_start")
    assert f"{name} changed" in printed
    assert "s3cr3t" not in printed


def test_c2_python_gives_the_session_as_it_is(started, server, monkeypatch):
    """`initialize()` in a library must not change what a notebook started."""
    monkeypatch.setenv("OLLAMA_TIMEOUT", "50")
    LLMManager.initialize_sync()
    assert settings().timeout_s == 35
    changes = []
    LLMManager.initialize_sync(reload="all", progress=changes.append)
    assert "OLLAMA_TIMEOUT: 35 -> 50" in map(str, changes)
    with pytest.raises(InputError, match="reload"):
        LLMManager.initialize_sync(reload="yes")


# C13: lines that mean something else --------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["what is this?", "What's up", "Why?", "'tis what", '"What is this?"', "two words"]
)
@pytest.mark.parametrize("body", ["", "\nmore"])
def test_c13_a_question_on_the_line_is_told_where_it_goes(line, body, shell):
    """ipython#13012: what stood there was taken for arguments."""
    error = shell.error(f"%%ask {line}{body}")
    assert isinstance(error, InputError)
    assert "next line" in error.fix


RUN_ON = {
    "%%ask --system be brief\nq": '--system "be brief"',
    "%%ask --system be brief answer\nq": '--system "be brief answer"',
    "%%ask --system=be brief\nq": '--system "be brief"',
    "%%risk --query supply chain --no-llm\nNVDA": '--query "supply chain"',
    "%risk NVDA --query supply chain": '--query "supply chain"',
    "%urisk_start --model my model": '--model "my model"',
}


@pytest.mark.parametrize("cell", RUN_ON)
def test_c13_words_that_no_flag_takes_are_refused_with_the_quoted_form(cell, shell):
    shell.ip.user_ns["brief"] = "kept"
    assert f"write {RUN_ON[cell]}" in shell.error(cell).fix
    assert shell.ip.user_ns["brief"] == "kept"


def test_c13_the_quoted_form_works(started, server):
    started.run('%%ask --no-history --system "be brief" answer  # note\nWhat is a bond?')
    started.run("%%ask again --no-history --system 'be brief'\nWhat is a bond?")
    for body in server.bodies("/api/chat")[-2:]:
        assert [one["content"] for one in body["messages"]] == ["be brief", "What is a bond?"]
    assert started.ip.user_ns["answer"] == started.ip.user_ns["again"] == "Fine."


@pytest.mark.parametrize(
    "line",
    [
        *("%urisk_start  # don't", "%urisk_start --num-ctx 4096 # '", "%urisk_status #x"),
        *("%urisk_latency # note", "%urisk_nest # note", "%urisk_dashboard --static # note"),
        *("%%ask # what?\nq", "%%ask answer # note\nq", "%%risk --prices px # it's\nA"),
        *("%risk A --prices px # all of them", "%urisk_stop  # note"),
    ],
)
def test_c13_a_comment_at_the_end_is_no_argument(line, started):
    started.ip.user_ns["px"] = PRICES
    started.run(line)


@pytest.mark.parametrize(
    "cell",
    [
        *('%urisk_start --model "llama', "%%ask --system 'be\nq", '%%risk --prices "px\nA'),
        *('%risk A --prices "px', "%ask --system 'be brief what?", "%urisk_start --model 'x # y"),
    ],
)
def test_c13_a_quotation_mark_that_is_not_closed_is_said(cell, shell):
    error = shell.error(cell)
    assert "quotation mark is not closed" in error.message
    assert "close it" in error.fix


@pytest.mark.parametrize(
    ("cell", "fix"),
    [
        ("%urisk_dashboard static", "--static"),
        ("%urisk_start llama3.1", "--model"),
        ("%%risk NVDA MSFT --prices px\nA", "%risk NVDA MSFT"),
        ("%%ask --sytem brief\nq", "--system"),
        ("%urisk_stop now", "leave it out"),
        ("%%ask --system\nq", "--system"),
    ],
)
def test_c13_a_word_in_the_wrong_place_is_said(cell, fix, shell):
    error = shell.error(cell)
    assert fix in f"{error.message} {error.fix}"


# Lines: %risk and %ask ----------------------------------------------------------------------------

PRICES = pd.DataFrame(
    100 * np.exp(np.random.default_rng(3).normal(0, 0.01, (60, 3)).cumsum(axis=0)),
    index=pd.bdate_range("2024-01-01", periods=60),
    columns=["A", "B", "US EQ"],
)
RISK_LINES = {
    "table = %risk A B --prices px": ["A", "B"],
    "table = %risk --prices px A, B": ["A", "B"],
    "table = %risk A=0.4 --no-llm B = 0.6 --prices px": ["A", "B"],
    "table = %risk {both} --prices px  # all": ["A", "B"],
    'table = %risk A, "US EQ" --prices=px["2024":]': ["A", "US EQ"],
    "table = %risk {d['k']}={w} --prices px": ["A"],
    "%risk A B --prices px --out table": ["A", "B"],
}


@pytest.mark.parametrize("line", RISK_LINES)
def test_a_line_gives_the_table_that_a_cell_gives(line, shell):
    shell.ip.user_ns.update(px=PRICES, both=["A", "B"], d={"k": "A"}, w=0.5)
    shell.run(line)
    table = shell.ip.user_ns["table"]
    assert list(table.index) == RISK_LINES[line]
    plain = assess(RISK_LINES[line], prices=PRICES, params={"llm": False})
    assert table["vol_ann"].tolist() == plain["vol_ann"].tolist()


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("%risk --prices px", "names no ticker"),
        ("%risk A B", "neither --prices nor --evidence"),
        ("%risk both --prices px", "without braces"),
        ("%risk {bith} --prices px", "no variable 'bith'"),
        ("%ask", "no question"),
        ("%ask --system 'x'", "no question"),
        ("%ask --system", "expected one argument"),
        ("%ask --sytem x what?", "--system"),
    ],
)
def test_a_line_that_lacks_something_says_what(line, seen, shell):
    shell.ip.user_ns.update(px=PRICES, both=["A", "B"])
    error = shell.error(line)
    assert seen in f"{error.message} {error.fix}"


def test_ask_in_a_line_is_the_question_as_it_is(started, server):
    """Also with a question mark at its end, which is IPython's sign for help elsewhere."""
    started.ip.user_ns["x"] = 3
    questions = {
        "%ask What is a bond": "What is a bond",
        "%ask What is a bond?": "What is a bond?",
        "answer = %ask What is it?": "What is it?",
        "answer = %ask What's up?": "What's up?",
        "for n in [1]:\n    answer = %ask What is {x} of it?": "What is 3 of it?",
        "%ask Is # a sign, and 'this?": "Is # a sign, and 'this?",
        "answer = %ask How is --system meant??": "How is --system meant??",
    }
    for line, question in questions.items():
        started.run(line)
        assert server.prompts[-1] == question
    answer = started.ip.user_ns["answer"]
    assert (answer, answer.model, answer.done_reason) == ("Fine.", "llama3.1:latest", "stop")
    started.run('answer = %ask --system "be brief" What is it')
    assert server.bodies("/api/chat")[-1]["messages"][0]["content"] == "be brief"
    assert len(server.prompts) == len(questions) + 1


def test_the_help_of_ipython_is_as_it_was(started):
    """Only questions to %ask end in a question mark that is theirs."""
    transform = started.ip.transform_cell
    for cell in ("%ask?", "%risk?", "%%ask?", "x?", "a = 1\nx.y??", "%risk A?"):
        assert "pinfo" in transform(cell), cell
    text = 'text = """\n%ask What is it?\n"""\n'
    assert transform(text) == text
    assert transform("%ask What is it?") == "get_ipython().run_line_magic('ask', 'What is it?');\n"
    assert transform("a = 5 % ask\n") == "a = 5 % ask\n"
    unload_ipython_extension(started.ip)
    assert "pinfo" in transform("%ask What is it?")
    load_ipython_extension(started.ip)


def test_an_answer_in_a_line_is_shown_once(started):
    for line in ("%ask What is a bond", "%ask What is a bond?", "answer = %ask What is a bond"):
        printed = started.run(line)
        assert printed.count("Fine.") == 1
        assert "Out[" not in printed
    assert "Fine." in started.run("answer")
    assert "Fine." in started.run("%ask What is \\\na bond")


# C15: names of models -----------------------------------------------------------------------------

SAME_MODEL = [
    ("llama3.1", "library/llama3.1"),
    ("llama3.1", "registry.ollama.ai/library/llama3.1"),
    ("llama3.1:latest", "LLAMA3.1:latest"),
    ("llama3.1:8b", "https://registry.ollama.ai/library/Llama3.1:8B"),
    ("me/foo", "registry.ollama.ai/me/foo:latest"),
    ("hf.co/me/Foo-GGUF", "hf.co/me/foo-gguf:latest"),
    ("hf.co/me/Foo-GGUF:Q4_K_M", "HF.co/me/Foo-GGUF:q4_k_m"),
    ("localhost:5000/library/foo", "localhost:5000/library/foo:latest"),
    ("llama3.1", "llama3.1:local"),
]
OTHER_MODEL = [
    ("llama3.1", "llama3.1:8b"),
    ("llama3.1", "me/llama3.1"),
    ("llama3.1", "hf.co/library/llama3.1"),
    ("hf.co/me/foo", "huggingface.co/me/foo"),
    ("me/foo", "localhost:5000/me/foo"),
    ("registry.ollama.ai/foo", "foo"),  # there it is the model foo of a namespace
    ("llama3.1", "llama3"),
]


@pytest.mark.parametrize(("one", "other"), SAME_MODEL)
def test_c15_a_model_has_several_spellings(one, other):

    assert is_same_model(one, other)
    assert is_same_model(other, one)
    assert find_model(one, [Model(name="x"), Model(name=other)]).name == other


@pytest.mark.parametrize(("one", "other"), OTHER_MODEL)
def test_c15_what_ollama_tells_apart_is_told_apart(one, other):

    assert not is_same_model(one, other)


@pytest.mark.parametrize(
    "name", ["library/llama3.1", "registry.ollama.ai/library/llama3.1", "LLAMA3.1:latest"]
)
def test_c15_a_model_that_is_there_is_not_pulled(name, start):
    """In the list, at a start, in the status and as a judge."""
    with PlainOllama() as server:
        manager = start(url=server.url, model=name)
        assert not server.bodies("/api/pull")
        manager.ask_sync(b'{"messages": [{"role": "user", "content": "?"}]}', model="llama3.1")
        event_loop.run(manager.ensure_model("library/llama3.1:latest"))
        assert not server.bodies("/api/pull")
        probe = event_loop.run(probe_server(manager, None))
        assert manager.snapshot(probe).is_loaded
        manager.shutdown_sync()
    with pytest.raises(InputError, match="one model"):
        assess("AAA", evidence={"AAA": "It was fined."}, params={"judge": f"llama3.1,{name}"})


def test_c15_a_pull_that_is_cut_goes_on(start):
    """What has arrived is kept, the error says so, and the start that it names ends the pull."""
    with PlainOllama(models=[], cut_pulls=2) as server:
        for arrived in ("3 of 10 MB", "6 of 10 MB"):
            with pytest.raises(PullFailed, match=arrived) as caught:
                start(url=server.url, model="mistral")
            assert caught.value.fix == "what has arrived is kept; %urisk_start goes on"
        assert start(url=server.url, model="mistral").generate_sync("Hello?") == "Fine."
        assert len(server.bodies("/api/pull")) == 3


# C16: values in cells -----------------------------------------------------------------------------


def test_c16_values_are_filled_into_a_question_and_braces_left_alone(started, server):
    started.ip.user_ns.update(ticker="NVDA", n=3)
    text = 'Is {ticker} {n:.1f}? {"a": {n}} {unknown} {{n}} `{n}` $n'
    started.run(f"%%ask --system {{ticker}}\n{text}")
    assert server.prompts[-1] == 'Is NVDA 3.0? {"a": 3} {unknown} {n} `{n}` $n'
    assert server.bodies("/api/chat")[-1]["messages"][0]["content"] == "NVDA"
    assert "filled in: {ticker}" in started.printed


def test_c16_a_cell_of_tickers_takes_lists_and_weights(shell):
    """jupysql#93."""
    calls = []
    shell.ip.user_ns.update(
        px=PRICES,
        watch=["A", "B"],
        weights=pd.Series({"A": 0.4, "B": 0.6}),
        px2=PRICES,
        make=lambda: calls.append(1) or ["A", "B"],
    )
    for cell, weights in {
        "{watch}": None,
        "{weights}": [0.4, 0.6],
        "{make()}  # all": None,
    }.items():
        shell.run(f"%%risk --prices px --out table\n{cell}")
        table = shell.ip.user_ns["table"]
        assert list(table.index) == ["A", "B"]
        assert weights is None or table["weight"].tolist() == weights
    assert calls == [1]
    for word in ("$watch", "watch", "weights"):
        assert f"{{{word.lstrip('$')}}}" in shell.error(f"%%risk --prices px\n{word}").fix
    assert "did you mean {watch}?" in shell.error("%%risk --prices px\n{wach}").fix
