"""Settings: where they come from, what they may be, and what is said of those that may not."""

import pytest

from urisk_nb.errors import SettingsError
from urisk_nb.settings import SECRETS, Engine, Settings, load


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults():
    """
    Without anything set, the published defaults hold.
    """
    settings = load()
    assert (settings.url, settings.model, settings.keep_alive) == (
        "http://localhost:11434",
        "llama3.1:latest",
        "20m",
    )
    assert (
        settings.timeout_s,
        settings.max_retries,
        settings.auto_start,
        settings.load_timeout_s,
    ) == (35.0, 2, True, 300.0)
    assert (settings.engine, settings.num_ctx, settings.parallel) == (Engine.AUTO, 4096, None)
    assert not settings.model_is_given


def test_flags_win_over_environment_over_env_file(elsewhere, monkeypatch):
    """
    A flag beats the environment, the environment beats .env, and .env is looked for in the parents
    too.
    """
    (elsewhere / ".env").write_text(
        "OLLAMA_MODEL=from-file\nOLLAMA_TIMEOUT=11\nOLLAMA_KEEP_ALIVE=5m\nOTHER=1\n"
    )
    inside = elsewhere / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("OLLAMA_MODEL", "from-environment")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "12")
    settings = load(model="from-flag", num_ctx=None)
    assert (settings.model, settings.timeout_s, settings.keep_alive, settings.num_ctx) == (
        "from-flag",
        12,
        "5m",
        4096,
    )
    assert settings.model_is_given


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("example.org", "http://example.org:11434"),
        (":9000", "http://127.0.0.1:9000"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("http://example.org", "http://example.org"),
        ("https://example.org/", "https://example.org"),
        ("[::1]:7000", "http://[::1]:7000"),
        (' "127.0.0.1:1234" ', "http://127.0.0.1:1234"),
    ],
)
def test_ollama_host_counts_where_no_url_is_set(monkeypatch, host, url):
    """
    OLLAMA_HOST is read as the server reads it; OLLAMA_URL goes before it.
    """
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert load().url == url
    monkeypatch.setenv("OLLAMA_URL", "http://localhost:1")
    assert load().url == "http://localhost:1"


@pytest.mark.parametrize(
    ("url", "dialed", "has_path"),
    [
        ("http://localhost:8000/v1", "http://127.0.0.1:8000", False),
        ("http://localhost:8000/v1/", "http://127.0.0.1:8000", False),
        ("http://gpu.example/team/v1", "http://gpu.example/team", True),
        ("http://gpu.example/team", "http://gpu.example/team", True),
        ("http://localhost:11434", "http://127.0.0.1:11434", False),
    ],
)
def test_an_address_may_have_a_path(url, dialed, has_path):
    """
    As the documents of OpenAI-compatible servers write it; `/v1` at the end is part of each path.
    """
    settings = load(url=url)
    assert (settings.base_url, settings.has_path) == (dialed, has_path)


def test_localhost_is_dialled_without_a_look_up():
    """
    The address that is dialled has no name to look up, since look-ups fail while the interpreter
    exits.
    """
    settings = load(url="localhost:5000")
    assert (settings.url, settings.base_url, settings.host, settings.port) == (
        "http://localhost:5000",
        "http://127.0.0.1:5000",
        "127.0.0.1",
        5000,
    )
    assert settings.is_loopback
    assert not load(url="http://192.0.2.1:80").is_loopback
    assert load(url="https://example.org").port == 443


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("20m", "20m"),
        ("1h30m", "1h30m"),
        ("-1m", "-1m"),
        ("90", 90.0),
        ("-1", -1.0),
        ("0", 0.0),
        ("1.5h", "1.5h"),
        ("500ms", "500ms"),
    ],
)
def test_keep_alive_is_sent_as_the_server_wants_it(value, sent):
    """
    A duration goes as text, a bare number as a number: the server refuses "20" as text.
    """
    assert load(keep_alive=value).keep_alive_value == sent


BAD = [
    ("OLLAMA_URL", "ftp://x"),
    ("OLLAMA_URL", "http://"),
    ("OLLAMA_URL", "http://localhost:99999"),
    ("OLLAMA_URL", "http://localhost:0"),
    ("OLLAMA_URL", "http://localhost:11434/api"),
    ("OLLAMA_URL", "localhost:11434/api/chat"),
    ("OLLAMA_URL", "https://gw.example/ollama/api/tags"),
    ("OLLAMA_URL", "http:/localhost:11434"),
    ("OLLAMA_URL", "localhost,,other"),
    ("OLLAMA_URL", "localhost,127.0.0.1:11434"),
    ("OLLAMA_URL", "localhost,other:99999"),
    ("OLLAMA_URL", ",".join(f"host-{number}" for number in range(17))),
    ("OLLAMA_URL", "*"),
    ("OLLAMA_URL", "http://localhost:8000/v1/chat/completions"),
    ("OLLAMA_URL", "http://localhost:8000/v1//x"),
    ("OLLAMA_URL", "http://localhost:8000/v1?secret"),
    ("URISK_DIALECT", "llama"),
    ("OLLAMA_URL", "http://local host:1"),
    ("OLLAMA_URL", "http://secret@localhost:0"),
    ("OLLAMA_HEADERS", "secret"),
    ("OLLAMA_HEADERS", "Content-Length: secret"),
    ("OLLAMA_API_KEY", "sec\nsecret"),
    ("OLLAMA_KEEP_ALIVE", "20 minutes"),
    ("OLLAMA_KEEP_ALIVE", "forever"),
    ("OLLAMA_TIMEOUT", "soon"),
    ("OLLAMA_TIMEOUT", "0"),
    ("OLLAMA_TIMEOUT", "-3"),
    ("OLLAMA_MAX_RETRIES", "-1"),
    ("OLLAMA_MAX_RETRIES", "2.5"),
    ("OLLAMA_AUTO_START", "perhaps"),
    ("OLLAMA_MODEL", "two words"),
    ("URISK_PARALLEL", "0"),
    ("URISK_NUM_CTX", "12"),
    ("URISK_ENGINE", "gpu"),
    ("URISK_LOAD_TIMEOUT", "x"),
    ("URISK_ALLOW_CLOUD", "maybe"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_cannot_be_is_named(monkeypatch, name, value):
    """
    The error names the variable, shows what was seen and gives a line that works; a password is not
    shown.
    """
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.message.startswith(f"{name} is ")
    shown = value.replace("secret@", "").replace("secret", "***")
    assert shown in caught.value.message or name in SECRETS
    assert "secret" not in str(caught.value)
    assert caught.value.fix.startswith(f"%env {name}=")


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_argument_that_cannot_be_is_named(monkeypatch, name, value):
    """It came as an argument: its name is that of the argument, and no variable has to be set."""
    argument = next(key for key, field in Settings.model_fields.items() if field.alias == name)
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError) as caught:
        load(**{argument: value})
    assert caught.value.message.startswith(f"{argument} is ")
    assert caught.value.fix.startswith((f"give {argument} as ", f"leave {argument} out"))
    assert name not in str(caught.value)


def test_a_variable_beside_an_argument_is_named_as_one(monkeypatch):
    """Only the argument that was given has its own name."""
    monkeypatch.setenv("OLLAMA_MODEL", "two words")
    with pytest.raises(SettingsError, match=r"^OLLAMA_MODEL is "):
        load(engine="auto")


@pytest.mark.parametrize("value", ["openai", "gpu"])
def test_no_engine_is_offered_that_cannot_be_started(monkeypatch, value):
    """An OpenAI-compatible server is used where one runs; as an engine it is refused."""
    monkeypatch.setenv("URISK_ENGINE", value)
    with pytest.raises(SettingsError) as caught:
        load()
    wanted = caught.value.message.split("wanted: ")[1]
    assert wanted.startswith("auto, ollama or embedded")
    assert "'openai'" not in wanted
    assert caught.value.fix == "%env URISK_ENGINE=auto"


def test_an_env_file_that_is_no_text_is_named(elsewhere):
    """
    A .env with other bytes than UTF-8 is an error of ours.
    """
    (elsewhere / ".env").write_bytes(b"OLLAMA_MODEL=\xff\xfe\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load()


def test_an_env_file_that_cannot_be_read_is_named(elsewhere, monkeypatch):
    """It may belong to another account."""
    (elsewhere / ".env").write_text("OLLAMA_MODEL=m")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dotenv.dotenv_values", refuse)
    with pytest.raises(SettingsError, match=r"\.env cannot be read: Permission denied"):
        load()


ENV_FILES = {
    "a byte order mark": b"\xef\xbb\xbfOLLAMA_HOST=gpu:1\nOLLAMA_API_KEY=the-key",
    "Windows": b"OLLAMA_HOST=gpu:1\r\nOLLAMA_API_KEY=the-key\r\n",
    "as a shell has it": b"export OLLAMA_HOST='gpu:1'\nexport OLLAMA_API_KEY=\"the-key\"\n",
    "spaces and comments": b"# mine\n OLLAMA_HOST = gpu:1  # here\nOLLAMA_API_KEY=the-key\n",
    "small letters": b"ollama_host=gpu:1\nollama_api_key=the-key\n",
    "small letters of the address": b"ollama_url=gpu:1\nollama_api_key=the-key\n",
}


@pytest.mark.parametrize("case", ENV_FILES)
def test_an_env_file_is_read_as_editors_and_shells_write_it(case, elsewhere, monkeypatch):
    """And what is read is what a change is noticed by."""
    from urisk_nb.llm.setting_changes import read_environment

    if case.endswith("address"):
        monkeypatch.setenv("OLLAMA_HOST", "another")  # the address goes before it
    (elsewhere / ".env").write_bytes(ENV_FILES[case])
    settings = load()
    assert settings.url == "http://gpu:1"
    assert settings.request_headers == {"Authorization": "Bearer the-key"}
    assert read_environment()["OLLAMA_API_KEY"] == "the-key"


@pytest.mark.parametrize(
    "headers",
    ["X-Key: first; X-Key: second", "X-Key: first; x-key: second", '{"X-Key": "a", "X-Key": "b"}'],
)
def test_a_header_that_is_given_twice_is_refused(headers):
    """One of the two would be dropped without a word."""
    with pytest.raises(SettingsError, match="wanted: each name once") as caught:
        load(headers=headers)
    assert "first" not in str(caught.value)


def test_empty_means_not_set(monkeypatch):
    """
    An empty variable is as none.
    """
    monkeypatch.setenv("OLLAMA_MODEL", "")
    assert load().model == "llama3.1:latest"


def test_an_engine_that_does_not_speak_the_dialect_is_refused(monkeypatch):
    """Only Ollama speaks its own wire; nothing is started to find that out."""
    engine = "embedded"
    for flags in ({"engine": engine, "dialect": "ollama"}, {"engine": engine}):
        with pytest.raises(SettingsError, match=f"{engine} engine does not speak") as caught:
            load(**flags)
        assert "--dialect auto" in caught.value.fix
        monkeypatch.setenv("URISK_DIALECT", "ollama")
    assert load(engine="ollama").dialect == "ollama"
    assert load(engine=engine, dialect="openai").engine == engine
