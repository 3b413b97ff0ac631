"""The settings: environment and `.env` become one frozen record; flags win.

Knows the names, the defaults and what each value may be. Does not know what the values are used
for. Imports pydantic, so this module is itself imported late: `%load_ext urisk_nb` must not pay for
it. Over 400 lines: the fields, what each may be, and what is said of a wrong one are read together.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from urisk_nb import address
from urisk_nb.address import DEFAULT_PORT
from urisk_nb.env_file import ENV_FILE_ENCODING
from urisk_nb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_MODEL",
    "DialectName",
    "Engine",
    "Settings",
    "given_settings",
    "load",
]

DEFAULT_MODEL = "llama3.1:latest"
SECRETS = ("OLLAMA_API_KEY", "OLLAMA_HEADERS")  # their values are never shown
# What is shorter is found by chance in what a server says, and masking it would hide nothing
MIN_SECRET_CHARS = 4
# Go's time.ParseDuration, which Ollama applies to a keep_alive given as text; "20" without a unit
# is refused there.
GO_DURATION = re.compile(
    r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*"
)

# What to advise where there is no default
EXAMPLES = {"URISK_PARALLEL": "1"}
ENGINE_CHOICES = "auto, ollama or embedded"


class Engine(StrEnum):
    """What may answer when no server is running yet."""

    AUTO = "auto"  # Ollama where it is installed, else the embedded engine
    OLLAMA = "ollama"
    EMBEDDED = "embedded"  # llama.cpp in a process that urisk_nb starts
    # Any OpenAI-compatible server that is running already. It says what answers, and cannot be
    # asked for: none is started here.
    OPENAI = "openai"


class DialectName(StrEnum):
    """Which wire the server speaks."""

    AUTO = "auto"  # found by probing: Ollama's own where it has it, else OpenAI-compatible
    OLLAMA = "ollama"
    OPENAI = "openai"


class Settings(BaseSettings):
    """
    All settings of a manager; made by `load`, never changed afterwards.

    Each field is read from the environment variable of its alias, then from the nearest `.env`.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        env_file_encoding=ENV_FILE_ENCODING,
        protected_namespaces=(),
        hide_input_in_errors=True,  # the error of pydantic stands in tracebacks
    )

    url: str = Field(
        f"http://localhost:{DEFAULT_PORT}",
        alias="OLLAMA_URL",
        description="address of the server, or of several",
    )
    api_key: SecretStr | None = Field(
        None,
        alias="OLLAMA_API_KEY",
        description="key for a server behind a login: `Authorization: Bearer KEY`",
    )
    headers: SecretStr | None = Field(
        None, alias="OLLAMA_HEADERS", description="more headers: `Name: value; Other: value`"
    )
    ca_file: Path | None = Field(
        None, alias="SSL_CERT_FILE", description="certificates to trust over https, one file"
    )
    ca_folder: Path | None = Field(
        None, alias="SSL_CERT_DIR", description="certificates to trust over https, a folder"
    )
    model: str = Field(DEFAULT_MODEL, alias="OLLAMA_MODEL", description="model that answers")
    keep_alive: str = Field(
        "20m", alias="OLLAMA_KEEP_ALIVE", description="how long the model stays loaded after a call"
    )
    timeout_s: float = Field(
        35.0,
        alias="OLLAMA_TIMEOUT",
        gt=0,
        le=86_400,
        description="longest silence between two tokens, seconds",
    )
    max_retries: int = Field(
        2,
        alias="OLLAMA_MAX_RETRIES",
        ge=0,
        le=20,
        description="retries of a call, before the first token",
    )
    auto_start: bool = Field(
        True, alias="OLLAMA_AUTO_START", description="start a server when none answers"
    )
    load_timeout_s: float = Field(
        300.0,
        alias="URISK_LOAD_TIMEOUT",
        gt=0,
        le=86_400,
        description="longest wait for the first token (queue, load, prompt), seconds",
    )
    outage_wait_s: float = Field(
        60.0,
        alias="URISK_OUTAGE_WAIT",
        ge=0,
        le=86_400,
        description="how long a run waits for a server that is busy, restarts or is gone, seconds",
    )
    parallel: int | None = Field(
        None,
        alias="URISK_PARALLEL",
        ge=1,
        le=256,
        description="calls in flight; default: the server's slots",
    )
    keep_warm_s: float = Field(
        30.0,
        alias="URISK_KEEP_WARM",
        ge=0,
        le=86_400,
        description="how long a managed server waits for a kernel that restarts, seconds",
    )
    num_ctx: int = Field(
        4096,
        alias="URISK_NUM_CTX",
        ge=512,
        le=1_048_576,
        description="context window asked for in every call, tokens",
    )
    engine: Engine = Field(Engine.AUTO, alias="URISK_ENGINE", description=ENGINE_CHOICES)
    dialect: DialectName = Field(
        DialectName.AUTO, alias="URISK_DIALECT", description="wire: auto, ollama or openai"
    )
    gguf: Path | None = Field(
        None, alias="URISK_GGUF", description="model file for the embedded engine"
    )
    data: Path | None = Field(
        None,
        alias="URISK_DATA",
        description="folder for the demo model; default: the user's data folder",
    )
    allow_shared: bool = Field(
        False, alias="URISK_ALLOW_SHARED", description="use a server of another person's account"
    )
    allow_cloud: bool = Field(
        False,
        alias="URISK_ALLOW_CLOUD",
        description="use models that run elsewhere: the text leaves this machine",
    )

    # The user and password of each address of OLLAMA_URL as `user:password`; not part of `url`,
    # which is shown
    _logins: tuple[SecretStr | None, ...] = PrivateAttr((None,))

    @model_validator(mode="wrap")
    @classmethod
    def _take_logins(cls, data: Any, handler: Callable[[Any], Settings]) -> Settings:
        logins: list[str | None] = [None]
        for name in {"OLLAMA_URL", "url"} & set(data):
            text = _join_addresses(data[name])
            if isinstance(text, str):
                parts = [address.split_login(one) for one in address.split_addresses(text)]
                logins = [login for _, login in parts]
                text = ",".join(rest for rest, _ in parts)
            data = {**data, name: text}
        made = handler(data)
        made._logins = tuple(login if login is None else SecretStr(login) for login in logins)
        return made

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return address.parse_addresses(value)

    @field_validator("api_key")
    @classmethod
    def _api_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = re.sub(r"(?i)^bearer\s+", "", value.get_secret_value().strip())
        if not address.is_header_value(key):
            raise ValueError("a key of visible ASCII characters")
        return SecretStr(key) if key else None

    @field_validator("headers", mode="before")
    @classmethod
    def _headers(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = json.dumps(value)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(text, str):
            address.parse_headers(text)
        return value

    @field_validator("keep_alive")
    @classmethod
    def _keep_alive(cls, value: str) -> str:
        if not (_is_number(value) or GO_DURATION.fullmatch(value)):
            raise ValueError(
                "a duration such as 20m, 1h30m or 90s, or a number of seconds; negative means for "
                "ever"
            )
        return value

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        if not value.strip() or any(ch.isspace() for ch in value.strip()):
            raise ValueError("a model name such as llama3.1:latest, without spaces")
        return value.strip()

    @field_validator("engine", mode="before")
    @classmethod
    def _engine(cls, value: object) -> object:
        if value == Engine.OPENAI:
            raise ValueError(
                f"{ENGINE_CHOICES}; an OpenAI-compatible server is used where one runs, and never "
                "started"
            )
        if value not in list(Engine):
            raise ValueError(ENGINE_CHOICES)
        return value

    @field_validator("gguf", "data", "ca_file", "ca_folder")
    @classmethod
    def _path(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value else value

    @functools.cached_property
    def each_server(self) -> tuple[Settings, ...]:
        """
        The settings of each server that `url` names: these, or, of several, one with each address.

        One of several is never started from here: which machine would it be?
        """
        urls = self.url.split(",")  # an address has no comma
        if len(urls) == 1:
            return (self,)
        return tuple(map(self._narrow, urls, self._logins))

    def _narrow(self, url: str, login: SecretStr | None) -> Settings:
        """Return the settings of one of several servers."""
        made = self.model_copy(update={"url": url, "auto_start": False})
        for name in set(vars(made)) - set(Settings.model_fields):
            del vars(made)[name]  # what was computed of all
        made._logins = (login,)
        return made

    @property
    def base_urls(self) -> tuple[str, ...]:
        """
        The addresses that are dialed, in this order: `localhost` becomes the two numbers of this
        machine, and `/v1` at the end is left out: each path has its own. Of several servers, those
        of the first.
        """
        return address.list_dial_addresses(self.url.partition(",")[0])

    @property
    def base_url(self) -> str:
        """The first of the addresses that are dialed; a server that we start listens there."""
        return self.base_urls[0]

    @property
    def has_path(self) -> bool:
        """Whether the address has a path beyond `/v1`: behind a proxy, so not one to start."""
        return urlsplit(self.base_url).path != ""

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.base_url).port or (443 if self.is_tls else 80)

    @property
    def is_loopback(self) -> bool:
        return address.is_loopback(self.host)

    # Secrets --------------------------------------------------------------------------------------

    @property
    def _login(self) -> SecretStr | None:
        return self._logins[0]

    @property
    def request_headers(self) -> dict[str, str]:
        """What each request carries beside its own headers; secret, for the client alone."""
        given = {} if self.headers is None else self._read_headers()
        if any(name.lower() == "authorization" for name in given):
            return given
        if self._login is not None:
            login = self._login.get_secret_value().encode()
            return {**given, "Authorization": f"Basic {base64.b64encode(login).decode()}"}
        if self.api_key is not None:
            return {**given, "Authorization": f"Bearer {self.api_key.get_secret_value()}"}
        return given

    def _read_headers(self) -> dict[str, str]:
        return address.parse_headers(self.headers.get_secret_value() if self.headers else "")

    @property
    def credential(self) -> str:
        """Which login is sent, in words; empty: none."""
        if any(name.lower() == "authorization" for name in self.request_headers):
            if self.headers is not None and "authorization" in map(str.lower, self._read_headers()):
                return "the Authorization of OLLAMA_HEADERS"
            is_login = self._login is not None
            return "the user and password of OLLAMA_URL" if is_login else "the key OLLAMA_API_KEY"
        return "OLLAMA_HEADERS" if self.headers is not None else ""

    def is_same_login(self, other: Settings) -> bool:
        """Return whether each address carries the same user and password, or none in both."""
        return self._logins == other._logins

    def redact(self, text: str) -> str:
        """Return a text, from a server for example, without any secret that is sent to it."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @functools.cached_property
    def _secrets(self) -> tuple[str, ...]:
        """All that must not be seen, the longest first."""
        sent = {name.lower(): value for name, value in self.request_headers.items()}
        sent.pop("host", None)
        values = [*sent.values(), sent.get("authorization", "").partition(" ")[2]]
        if self.api_key is not None:
            values.append(self.api_key.get_secret_value())
        for login in filter(None, self._logins):
            user, _, password = login.get_secret_value().partition(":")
            values += [f"{user}:{password}", password or user]
        found = {value for value in values if len(value) >= MIN_SECRET_CHARS}
        return tuple(sorted(found, key=len, reverse=True))

    @property
    def model_is_given(self) -> bool:
        """
        Whether the user named a model; an engine that has one of its own then does not put it in
        its place.
        """
        return "model" in self.model_fields_set

    @functools.cached_property  # each request sends it
    def keep_alive_value(self) -> str | float:
        """As it is sent: Ollama wants a bare number as a number, not as text."""
        return float(self.keep_alive) if _is_number(self.keep_alive) else self.keep_alive


def load(**flags: Any) -> Settings:
    """
    Settings from flags, then environment, then the nearest `.env` (working directory, then its
    parents), then defaults.

    Parameters
    ----------
    **flags
        Field names with values; None means not given.

    Raises
    ------
    SettingsError
        A value cannot be used; the message names the variable or the argument, and what was seen.
    """
    import os

    from dotenv import dotenv_values, find_dotenv

    # By alias: older pydantic-settings let the environment win over a flag that is given by its
    # field's name.
    aliases = {name: field.alias or name for name, field in Settings.model_fields.items()}
    given = {aliases.get(name, name): value for name, value in flags.items() if value is not None}
    arguments = {aliases[name]: name for name in flags if aliases.get(name) in given}
    env_file = find_dotenv(usecwd=True)
    host = ""
    try:
        if "OLLAMA_URL" not in given:
            in_file = dotenv_values(env_file, encoding=ENV_FILE_ENCODING) if env_file else {}
            host = _read_ollama_host(os.environ, in_file)
            given.update({"OLLAMA_URL": host} if host else {})
        settings = Settings(_env_file=env_file or None, **given)
    except ValidationError as exc:
        raise _build_settings_error(exc, arguments, is_ollama_host=bool(host)) from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(
            f"{env_file} is not UTF-8 text (byte {exc.start}).",
            fix="save it as UTF-8, or remove it",
        ) from exc
    except OSError as exc:
        raise SettingsError(
            f"{env_file} cannot be read: {exc.strerror or exc}.",
            fix="check its permissions, or start the notebook in another folder",
        ) from exc
    _check_engine_speaks(settings)
    _check_engine_runs(settings)
    return settings


def _check_engine_speaks(settings: Settings) -> None:
    """Only Ollama speaks Ollama's own wire: no server of another engine would ever be found."""
    if settings.dialect is DialectName.OLLAMA and settings.engine in (
        Engine.EMBEDDED,
        Engine.OPENAI,
    ):
        raise SettingsError(
            f"the {settings.engine} engine does not speak the dialect 'ollama' (URISK_ENGINE is "
            f"{str(settings.engine)!r}, URISK_DIALECT is 'ollama').",
            fix="leave the dialect out, or use --dialect auto (%env URISK_DIALECT=auto)",
            name="URISK_DIALECT",
        )


def _check_engine_runs(settings: Settings) -> None:
    """The embedded engine is started here, and none of several servers is."""
    if settings.engine is Engine.EMBEDDED and len(settings.each_server) > 1:
        raise SettingsError(
            "the embedded engine runs on this machine alone, and OLLAMA_URL names "
            f"{len(settings.each_server)} servers (URISK_ENGINE is 'embedded').",
            fix="leave the engine out, or name one address: %urisk_start --engine embedded --url "
            "http://127.0.0.1:11500",
            name="OLLAMA_URL",
        )


def given_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return those of a function's arguments that name a setting and were given; for functions that
    take each setting by name.
    """
    return {
        name: arguments[name] for name in Settings.model_fields if arguments.get(name) is not None
    }


def _read_ollama_host(environ: Mapping[str, str], env_file: Mapping[str, str | None]) -> str:
    """OLLAMA_HOST, which people set for Ollama's own client, counts where OLLAMA_URL is not set."""
    # Names count in any case, as those of the other settings do
    given, in_file = (
        {name.upper(): value for name, value in one.items()} for one in (environ, env_file)
    )
    if given.get("OLLAMA_URL") or in_file.get("OLLAMA_URL"):
        return ""
    return (given.get("OLLAMA_HOST") or in_file.get("OLLAMA_HOST") or "").strip()


def _join_addresses(value: Any) -> Any:
    """Return a list of addresses as one text with commas; anything else as it is."""
    is_list = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return ",".join(value) if is_list and value else value


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)", value) is not None


def _build_settings_error(
    exc: ValidationError, arguments: Mapping[str, str], *, is_ollama_host: bool
) -> SettingsError:
    """
    Return the error.

    Parameters
    ----------
    exc
        What pydantic says.
    arguments
        The name of each argument that was given, by its variable.
    is_ollama_host
        Whether the address is that of OLLAMA_HOST.
    """
    first = exc.errors(include_url=False)[0]
    place = str(first["loc"][0]) if first["loc"] else "settings"
    field = next((f for n, f in Settings.model_fields.items() if place in (n, f.alias)), None)
    alias = field.alias if field and field.alias else place
    example = str(field.default) if field and field.default is not None else ""
    example = example or EXAMPLES.get(alias, "")
    wanted = first["msg"].removeprefix("Value error, ")
    wanted = wanted[:1].lower() + wanted[1:]
    name = arguments.get(alias, alias)
    if alias == "OLLAMA_URL" and is_ollama_host:
        name, example = "OLLAMA_HOST", f"127.0.0.1:{DEFAULT_PORT}"
    if alias in arguments:
        fix = f"give {name} as {example}, or leave it out" if example else f"leave {name} out"
    else:
        fix = f"%env {name}={example or '(a valid value, or unset it)'}"
    is_secret = alias in SECRETS
    seen = (
        "not what it should be" if is_secret else repr(address.mask_login(str(first.get("input"))))
    )
    return SettingsError(f"{name} is {seen}; wanted: {wanted}.", fix=fix, name=name)
