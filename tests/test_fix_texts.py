"""
Every fix that the package prints is a setting, a flag or a command that exists, and has an effect.

The texts are collected from the sources: what stands in an error, a note or an alert. What is put
into them at run time is replaced by a sample.
"""

import argparse
import ast
import functools
import re
import shlex

import pytest

from harness import ROOT
from plain_ollama import PlainOllama
from sources import FILES, parse
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
OF_A_READING = {"URISK_WORKERS"}  # read anew for each run; tests/workers follows this fix
# Flags of other programs that a fix names
OF_OTHERS = {"--max-model-len", "--ctx-size", "--ubatch-size"}
OLLAMA_COMMANDS = {"serve", "pull", "list", "ps", "stop", "create", "rm", "show"}
ALIASES = {field.alias: name for name, field in Settings.model_fields.items()}


def find_texts(path):
    """Each literal of a file that a person may see, with its samples filled in; no docstrings."""
    nodes = list(ast.walk(parse(path)[1]))
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


@functools.cache
def list_texts():
    """
    List (file, text) for each literal of a sentence. In a test, and not while tests are collected,
    which each worker does: it takes more than a second.
    """
    return sorted(
        {
            (str(path.relative_to(ROOT / "urisk_nb")), text)
            for path in FILES
            for text in find_texts(path)
            if " " in text and "var(--" not in text
        }
    )


def collect(pattern, sample):
    """List the fixes of this form; the sample is one of them, so that the pattern finds some."""
    found = sorted(
        {match.rstrip(".,;:) ") for _, text in list_texts() for match in re.findall(pattern, text)}
    )
    assert sample in found
    return found


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


@pytest.mark.slow
def test_a_variable_is_a_setting_and_has_an_effect_in_the_session(monkeypatch, tmp_path):
    # Headers have spaces in them
    pattern = r"%env (OLLAMA_HEADERS=[^,`]+|\w+=[^\s`]+)"
    with PlainOllama(models=["llama3.2", "llama3.1:latest", "mistral:7b", "NAME"]) as server:
        for fix in collect(pattern, "URISK_NUM_CTX=8192"):
            if "<" not in fix:
                with monkeypatch.context() as patch:
                    patch.setenv("OLLAMA_URL", server.url)
                    check_effect(fix, server, patch, tmp_path)


def check_effect(fix, server, monkeypatch, tmp_path):
    """The session has the advised value and had another one before."""
    name, _, value = fix.partition("=")
    if name in OF_THE_SERVER | OF_THE_JOURNAL | OF_A_READING:
        assert name not in ALIASES
        return
    field = ALIASES[name]
    load(**{field: value})
    if "Path" in str(Settings.model_fields[field].annotation):  # those of a user are not here
        value = str(tmp_path)
    if name == "OLLAMA_URL":
        value = f"{server.url}/v1"
    if str(getattr(load(), field)).lower() in (value, f"{value}:latest", "none"):
        monkeypatch.setenv(name, BEFORE.get(name, ""))
    before = LLMManager.initialize_sync().settings
    monkeypatch.setenv(name, value)
    manager = LLMManager.initialize_sync(reload="all")
    assert getattr(manager.settings, field) != getattr(before, field), fix
    assert getattr(manager.settings, field) == getattr(load(), field), fix
    manager.shutdown_sync()


def test_fixes_that_are_put_together_at_run_time_are_tested_below():
    made = {(path, text) for path, text in list_texts() if re.search(r"%env (<|\w+=<)", text)}
    assert {path for path, _ in made} == {"llm/client.py", "llm/setting_changes.py", "settings.py"}
    assert len(made) == 3


def test_a_magic_of_a_fix_takes_these_flags():
    pattern = r"%?%urisk_\w+(?: --[\w-]+(?:[ =](?!--)[^\s,;:)]+(?::[^\s,;)]+)?)?| on| off)*"
    fixes = collect(pattern, "%urisk_start --engine embedded --url http://127.0.0.1:11500")
    assert "%urisk_nest on" in fixes
    for fix in fixes:
        name, _, line = fix.lstrip("%").partition(" ")
        assert name in USAGES, fix
        args = vars(build_parser(name).parse_line(line))
        if name == "urisk_start":
            load(**args)


def test_a_cell_of_a_fix_takes_these_flags():
    pattern = r"%%?(?:risk|ask)(?: [A-Z]{2,5})*(?: --[\w-]+ \w[^\s,;:)]*)+"
    for fix in collect(pattern, "%%risk --prices prices --evidence news"):
        mark, name, line = re.fullmatch(r"(%%?)(\w+)(.*)", fix).groups()
        if mark == "%%":
            build_parser(name).parse_line(line)
        else:
            build_parser(name, in_line=True).parse_tickers_line(line)


def programs():
    """The parsers of the command line, by the words that call them."""
    actions = cli._parser()._actions
    return next(one.choices for one in actions if isinstance(one, argparse._SubParsersAction))


def test_a_command_of_a_fix_is_one_of_ours():
    commands = programs()
    fixes = collect(r"`urisk ([^`]+)`", "doctor")
    assert {"fetch-model", "install-judge"} <= set(fixes)
    for fix in fixes:
        words = shlex.split(re.sub(r"<[^>]*>|[A-Z]{3,}", "x", fix))
        assert words[0] in commands, fix
        flags = set(commands[words[0]]._option_string_actions)
        assert {word for word in words if word.startswith("--")} <= flags, fix


def test_commands_of_ollama_are_real():
    commands = collect(r"\bollama (serve|[a-z]+) ?(?=[`A-Z,])", "serve")
    assert set(commands) <= OLLAMA_COMMANDS


def test_every_flag_that_is_named_exists():
    known = {one for _, _, arguments in USAGES.values() for one in arguments}
    for command in programs().values():
        known |= set(command._option_string_actions)
    launcher = (ROOT / "urisk_nb/embedded/launcher.py").read_text(encoding="utf-8")
    known |= set(re.findall(r'"(--[\w-]+)"', launcher))
    assert set(collect(r"(?<![\w-])--[a-z][\w-]+", "--prices")) <= known | OF_OTHERS


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
