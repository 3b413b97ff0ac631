"""Which engine is chosen, with what command and environment."""

import os
import sys
from pathlib import Path

import pytest

from harness import free_port
from urisk_nb.embedded import weights
from urisk_nb.errors import (
    ModelNotFound,
    OllamaNotInstalled,
    PackageMissing,
    PortTaken,
    SettingsError,
)
from urisk_nb.server import engines
from urisk_nb.server.checks import check_engine
from urisk_nb.settings import Engine, Settings

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
pytestmark = pytest.mark.usefixtures("own_places")
ROOT = Path(engines.__file__).parents[2]


def settings(**flags):
    return Settings(url=flags.pop("url", f"http://127.0.0.1:{free_port()}"), **flags)


# Which engine -------------------------------------------------------------------------------------


@pytest.fixture
def embedded(monkeypatch):
    """Say whether the embedded engine's package is there, without installing it."""

    def say(there):
        real = engines.importlib.util.find_spec
        monkeypatch.setattr(
            engines.importlib.util,
            "find_spec",
            lambda name: (object() if there else None) if name == "xllamacpp" else real(name),
        )

    return say


@pytest.fixture
def demo_model(tmp_path):
    """A file with the demo model's name and size, without its content."""
    folder = tmp_path / "weights"
    folder.mkdir()
    with (folder / weights.GGUF).open("wb") as file:
        file.truncate(weights.GGUF_BYTES)
    return folder


@pytest.mark.parametrize("engine", [one for one in Engine if one is not Engine.OPENAI])
@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize("has_package", [False, True])
@pytest.mark.parametrize("has_ollama", [False, True])
def test_the_choice_of_the_engine(
    engine, has_ollama, has_package, has_model, program, embedded, demo_model, tmp_path
):
    """
    Ollama first, then the embedded engine where it is complete; a named one or its absence; no
    server of others.
    """
    if has_ollama:
        program("")
    embedded(has_package)
    given = settings(engine=engine, data=demo_model if has_model else tmp_path / "nothing")
    complete = has_package and has_model
    expected = {
        Engine.AUTO: Engine.OLLAMA
        if has_ollama
        else Engine.EMBEDDED
        if complete
        else OllamaNotInstalled,
        Engine.OLLAMA: Engine.OLLAMA if has_ollama else OllamaNotInstalled,
        Engine.EMBEDDED: Engine.EMBEDDED
        if complete
        else ModelNotFound
        if has_package
        else PackageMissing,
    }[engine]
    if isinstance(expected, Engine):
        assert engines.choose(given) is expected
        return
    with pytest.raises(expected) as caught:
        engines.choose(given)
    # Only the steps that are left
    rest = (
        "urisk-nb[embedded]"
        if not has_package
        else "--engine embedded"
        if has_model
        else "urisk fetch-model"
    )
    if has_package:
        assert "install" not in caught.value.fix.replace("install Ollama", "")
    ways = {
        OllamaNotInstalled: ("ollama.com/download", rest),
        PackageMissing: ("urisk-nb[embedded]",),
        ModelNotFound: ("urisk fetch-model", "URISK_GGUF"),
    }[expected]
    assert all(way in caught.value.fix for way in ways)


def test_a_model_file_of_ones_own(embedded, tmp_path):
    """
    URISK_GGUF is enough; a path that leads nowhere is named, and its package is asked for first.
    """
    embedded(True)
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    assert engines.choose(settings(gguf=file)) is Engine.EMBEDDED
    words = engines.build_command(Engine.EMBEDDED, settings(gguf=file))
    assert words[words.index("--gguf") + 1] == str(file)
    with pytest.raises(SettingsError, match=r"nowhere\.gguf"):
        engines.choose(settings(gguf=tmp_path / "nowhere.gguf"))
    embedded(False)
    with pytest.raises(PackageMissing):
        engines.choose(settings(gguf=file))


def test_a_named_dialect_keeps_the_embedded_engine_out(embedded, tmp_path):
    """It does not speak Ollama's wire: its start would never be seen to answer."""
    embedded(True)
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    with pytest.raises(OllamaNotInstalled) as caught:
        engines.choose(settings(gguf=tmp_path / "mine.gguf", dialect="ollama"))
    assert "URISK_DIALECT=auto" in caught.value.fix


def test_a_half_fetched_demo_model_is_none(tmp_path, demo_model):
    """Only a file of the full size counts, in URISK_DATA or in the user's data folder."""
    assert engines.demo_model_path(settings(data=demo_model)) == demo_model / weights.GGUF
    with (demo_model / weights.GGUF).open("wb") as file:
        file.truncate(1000)
    assert engines.demo_model_path(settings(data=demo_model)) is None
    assert engines.demo_model_path(settings(data=tmp_path / "none")) is None
    assert engines.data_folder(settings()).name == "urisk_nb"


# What it is started with --------------------------------------------------------------------------


def test_the_servers_environment(program):
    """Where to listen, no phoning home, and nothing that would change its runner."""
    base = {
        "HOME": "/home/u",
        "LLAMA_API_KEY": "secret",
        "LLAMA_ARG_CTX_SIZE": "9",
        "OLLAMA_HOST": "0.0.0.0",
        "OLLAMA_MODELS": "/m",
    }
    env = engines.build_environment(Engine.OLLAMA, settings(url="http://localhost:11500"), base)
    assert env == {
        "HOME": "/home/u",
        "OLLAMA_MODELS": "/m",
        "OLLAMA_HOST": "127.0.0.1:11500",
        "OLLAMA_NO_CLOUD": "1",
    }
    more = engines.build_environment(
        Engine.OLLAMA, settings(url="http://[::1]:11500", parallel=3, allow_cloud=True), base
    )
    assert (more["OLLAMA_HOST"], more["OLLAMA_NUM_PARALLEL"]) == ("[::1]:11500", "3")
    assert "OLLAMA_NO_CLOUD" not in more


def test_the_launcher_finds_this_package():
    """
    It runs in another folder, so that its path names the package's parent, before what was set.
    """
    env = engines.build_environment(Engine.EMBEDDED, settings(), {"PYTHONPATH": "/mine"})
    assert env["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/mine"]
    assert "LLAMA_API_KEY" not in engines.build_environment(
        Engine.EMBEDDED, settings(), {"LLAMA_API_KEY": "x"}
    )


def test_the_commands(program, tmp_path, embedded, demo_model):
    """`ollama serve`, or this very Python with the launcher, its model file and its size."""
    path = program("")
    given = settings(url="http://localhost:11500", parallel=2, num_ctx=2048, data=demo_model)
    embedded(True)
    assert engines.build_command(Engine.OLLAMA, given) == [str(path), "serve"]
    assert engines.build_command(Engine.EMBEDDED, given) == [
        *(sys.executable, "-m", "urisk_nb.embedded.launcher"),
        *("--gguf", str(demo_model / weights.GGUF)),
        *("--host", "127.0.0.1", "--port", "11500", "--slots", "2", "--num-ctx", "2048"),
    ]


@pytest.mark.parametrize(("version", "seen"), [("", "engine, not"), ("0.9", "engine (0.9), not")])
def test_a_server_without_a_version_has_no_empty_brackets(version, seen):
    """The embedded engine tells none."""
    with pytest.raises(PortTaken) as caught:
        check_engine(settings(engine=Engine.OLLAMA), Engine.EMBEDDED, version)
    assert f"the embedded {seen} by the ollama one" in caught.value.message
