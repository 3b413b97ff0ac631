"""
Every fix that the package prints is a setting, a flag or a command that exists, and has an effect.

The texts are collected from the sources: what stands in an error, a note or an alert. What is put
into them at run time is replaced by a sample.
"""

import argparse
import ast
import re
import shlex

import pytest

from harness import ROOT
from plain_ollama import PlainOllama
from urisk_nb import LLMManager, cli
from urisk_nb.errors import ContextExceeded, OutOfMemory, SettingsError
from urisk_nb.llm.client import _silence
from urisk_nb.llm.setting_changes import fit_fix
from urisk_nb.notebook.magics import USAGES, build_parser
from urisk_nb.settings import Settings, load

SAMPLES = {
    "models[0].name": "mistral:7b",
    "settings.url[4:]": "://gpu.example:443",
    "moved": "https://gpu.example",
    "first_url": "http://gpu.example:11434",
    "login": "",
    "variable": "SSL_CERT_FILE",
    "settings.engine": "embedded",
    "now.slots": "2",
    "twice": "4",
    "wanted": "4",
    "parallel": "4",
    "JUDGE": "urisk-judge",
    "where": "%%risk",
    "self.prog": "%risk",
    "text": "NVDA",
    "place": "filings/a.txt",
    "path": "filings/a.txt",
    "restart": "%urisk_stop",
}
OF_THE_SERVER = {"OLLAMA_LOAD_TIMEOUT", "HOME"}  # read by a server that is started, not by us
OF_THE_JOURNAL = {"URISK_JOURNAL"}  # read anew for each run; tests/journal follows these fixes
# Flags of other programs that a fix names
OF_OTHERS = {"--max-model-len", "--ctx-size", "--ubatch-size"}
OLLAMA_COMMANDS = {"serve", "pull", "list", "ps", "stop", "create", "rm", "show"}
ALIASES = {field.alias: name for name, field in Settings.model_fields.items()}


def find_texts(path):
    """Each literal of a file that a person may see, with its samples filled in; no docstrings."""
    # Walked once: this runs whenever tests are collected
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    bodies = [node.body for node in nodes if isinstance(getattr(node, "body", 0), list)]
    skipped = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    skipped |= {id(part) for node in texts for part in ast.walk(node) if part is not node}
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(fill, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def fill(part):
    if isinstance(part, ast.Constant):
        return part.value
    code = ast.unparse(part.value)
    return SAMPLES.get(code, f"<{code}>")


TEXTS = sorted(
    {
        (str(path.relative_to(ROOT / "urisk_nb")), text)
        for path in sorted((ROOT / "urisk_nb").rglob("*.py"))
        for text in find_texts(path)
        if " " in text and "var(--" not in text
    }
)


def collect(pattern):
    found = sorted({match for _, text in TEXTS for match in re.findall(pattern, text)})
    assert found
    return found


# Headers have spaces in them
ENV = [match.rstrip(".,;)") for match in collect(r"%env (OLLAMA_HEADERS=[^,`]+|\w+=[^\s`]+)")]
MAGIC = [
    match.rstrip(".,;:) ")
    for match in collect(
        r"%?%urisk_\w+(?: --[\w-]+(?:[ =](?!--)[^\s,;:)]+(?::[^\s,;)]+)?)?| on| off)*"
    )
]
RISK = collect(r"%%?(?:risk|ask)(?: [A-Z]{2,5})*(?: --[\w-]+ \w[^\s,;:)]*)+")
URISK = collect(r"`urisk ([^`]+)`")
FLAG = collect(r"(?<![\w-])--[a-z][\w-]+")


def test_the_collection_sees_what_is_there():
    assert "URISK_NUM_CTX=8192" in ENV
    assert "%urisk_start --engine embedded --url http://127.0.0.1:11500" in MAGIC
    assert "%urisk_nest on" in MAGIC
    assert "%%risk --prices prices --evidence news" in RISK
    assert {"doctor", "fetch-model", "install-judge"} <= set(URISK)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    if (manager := LLMManager.find_instance()) is not None:
        manager.shutdown_sync()


# What the session has before, where the advised value is the default.
BEFORE = {
    "OLLAMA_MODEL": "llama3.2",
    "OLLAMA_AUTO_START": "false",
    "URISK_DIALECT": "ollama",
    "URISK_PARALLEL": "4",
}


@pytest.mark.parametrize("fix", [one for one in ENV if "<" not in one])
def test_a_variable_is_a_setting_and_has_an_effect_in_the_session(fix, monkeypatch, tmp_path):
    name, _, value = fix.partition("=")
    if name in OF_THE_SERVER | OF_THE_JOURNAL:
        assert name not in ALIASES
        return
    field = ALIASES[name]
    load(**{field: value})
    if "Path" in str(Settings.model_fields[field].annotation):  # those of a user are not here
        value = str(tmp_path)
    with PlainOllama(models=["llama3.2", "llama3.1:latest", "mistral:7b", "NAME"]) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        if name == "OLLAMA_URL":
            value = f"{server.url}/v1"
        if str(getattr(load(), field)).lower() in (value, f"{value}:latest", "none"):
            monkeypatch.setenv(name, BEFORE.get(name, ""))
        before = LLMManager.initialize_sync().settings
        monkeypatch.setenv(name, value)
        manager = LLMManager.initialize_sync(reload="all")
        assert getattr(manager.settings, field) != getattr(before, field)
        assert getattr(manager.settings, field) == getattr(load(), field)
        manager.shutdown_sync()


def test_fixes_that_are_put_together_at_run_time_are_tested_below():
    made = {(path, text) for path, text in TEXTS if re.search(r"%env (<|\w+=<)", text)}
    assert {path for path, _ in made} == {"llm/client.py", "llm/setting_changes.py", "settings.py"}
    assert len(made) == 3


@pytest.mark.parametrize("fix", MAGIC)
def test_a_magic_of_a_fix_takes_these_flags(fix):
    name, _, line = fix.lstrip("%").partition(" ")
    assert name in USAGES
    args = vars(build_parser(name).parse_line(line))
    if name == "urisk_start":
        load(**args)


@pytest.mark.parametrize("fix", RISK)
def test_a_cell_of_a_fix_takes_these_flags(fix):
    mark, name, line = re.fullmatch(r"(%%?)(\w+)(.*)", fix).groups()
    if mark == "%%":
        build_parser(name).parse_line(line)
    else:
        build_parser(name, in_line=True).parse_tickers_line(line)


def programs():
    """The parsers of the command line, by the words that call them."""
    actions = cli._parser()._actions
    return next(one.choices for one in actions if isinstance(one, argparse._SubParsersAction))


@pytest.mark.parametrize("fix", URISK)
def test_a_command_of_a_fix_is_one_of_ours(fix):
    words = shlex.split(re.sub(r"<[^>]*>|[A-Z]{3,}", "x", fix))
    commands = programs()
    assert words[0] in commands
    flags = set(commands[words[0]]._option_string_actions)
    assert {word for word in words if word.startswith("--")} <= flags


def test_commands_of_ollama_are_real():
    for command in collect(r"\bollama (serve|[a-z]+) ?(?=[`A-Z,])"):
        assert command in OLLAMA_COMMANDS, command


@pytest.mark.parametrize("flag", FLAG)
def test_every_flag_that_is_named_exists(flag):
    known = {one for _, _, arguments in USAGES.values() for one in arguments}
    for command in programs().values():
        known |= set(command._option_string_actions)
    launcher = (ROOT / "urisk_nb/embedded/launcher.py").read_text(encoding="utf-8")
    known |= set(re.findall(r'"(--[\w-]+)"', launcher))
    assert flag in known | OF_OTHERS


# Fixes that are put together at run time ----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALIASES))
@pytest.mark.parametrize("value", ["9" * 30, "-7", "nonsense", "http://a b"])
def test_the_fix_for_a_bad_value_is_a_good_one(name, value, monkeypatch):
    """`%env NAME=VALUE` of a refused setting is accepted when it is typed."""
    monkeypatch.setenv(name, value)
    fix = find_fix()
    if match := re.fullmatch(r"%env (\w+)=(\S+)", fix):
        monkeypatch.setenv(*match.groups())
    elif fix:
        assert "a valid value, or unset it" in fix
        monkeypatch.delenv(name)
    assert not find_fix()


def find_fix():
    """The fix for the settings as they are; empty where they are good."""
    try:
        load()
    except SettingsError as exc:
        return exc.fix
    return ""


@pytest.mark.parametrize("seconds", [0.5, 35, 300, 40_000, 86_400])
@pytest.mark.parametrize("is_load", [True, False])
def test_the_fix_for_a_silent_server_waits_longer(seconds, is_load, monkeypatch):
    settings = load(timeout_s=seconds, load_timeout_s=seconds)
    fix = _silence(settings, "", is_load=is_load).fix
    name, value = re.search(r"%env (\w+)=(\S+)", fix).groups()
    monkeypatch.setenv(name, value)
    after = getattr(load(), ALIASES[name])
    assert after > seconds or seconds == 86_400


@pytest.mark.parametrize("num_ctx", [512, 1024, 2048, 4096, 8192, 65_536])
def test_the_fix_for_a_window_goes_in_the_right_direction(num_ctx):
    longer = ContextExceeded("x", fix="a larger window: %env URISK_NUM_CTX=8192")
    shorter = OutOfMemory("x", fix="a smaller context: %env URISK_NUM_CTX=2048")
    for error in (longer, shorter):
        fit_fix(error, load(num_ctx=num_ctx))
    assert int(longer.fix.rpartition("=")[2]) > num_ctx
    assert int(shorter.fix.rpartition("=")[2]) < num_ctx or num_ctx == 512
    for error in (longer, shorter):
        load(num_ctx=int(error.fix.rpartition("=")[2]))
