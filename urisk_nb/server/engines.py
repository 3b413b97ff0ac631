"""Which engine to start, and how: the program, its arguments, its environment. Decides; starts
nothing.

The order is the user's word, then Ollama, then the embedded engine where it is complete.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from urisk_nb.errors import (
    ModelNotFound,
    OllamaNotInstalled,
    PackageMissing,
    SettingsError,
)
from urisk_nb.settings import DialectName, Engine, Settings

__all__ = [
    "build_command",
    "build_environment",
    "choose",
    "compute_fingerprint",
    "count_slots",
    "data_folder",
    "demo_model_path",
]

# What an engine reads at its start, and what urisk_nb sends with each call or reads itself
ENGINE_VARIABLES = ("OLLAMA_", "CUDA_", "HIP_", "ROCR_", "GGML_")
CALL_VARIABLES = {
    "OLLAMA_URL",
    "OLLAMA_MODEL",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_TIMEOUT",
    "OLLAMA_MAX_RETRIES",
    "OLLAMA_AUTO_START",
}
# What a server that is started here has no use for. Others may read a program's environment.
SECRET_VARIABLES = {"OLLAMA_URL", "OLLAMA_API_KEY", "OLLAMA_HEADERS"}


# Which engine -------------------------------------------------------------------------------------


def data_folder(settings: Settings) -> Path:
    """Return the folder of the demo model: URISK_DATA, or the user's data folder."""
    if settings.data:
        return settings.data
    from platformdirs import user_data_path

    return user_data_path("urisk_nb", appauthor=False)


def demo_model_path(settings: Settings) -> Path | None:
    """Return the demo model's file, if it has been fetched whole."""
    from urisk_nb.embedded import weights

    path = data_folder(settings) / weights.GGUF
    try:
        return path if path.stat().st_size == weights.GGUF_BYTES else None
    except OSError:
        return None


def choose(settings: Settings) -> Engine:
    """
    Return the engine to start.

    It is the one that was named, else Ollama where it is installed, else the embedded one where it
    is complete.

    Raises
    ------
    OllamaNotInstalled
        There is nothing to start; the fix names the ways out.
    PackageMissing, ModelNotFound, SettingsError
        The embedded engine was named and its package, its model, or the file of URISK_GGUF is not
        there.
    """
    if settings.engine is not Engine.EMBEDDED:
        if shutil.which("ollama"):
            return Engine.OLLAMA
        if settings.engine is Engine.OLLAMA:
            raise OllamaNotInstalled(
                "`ollama` is not on the PATH.", fix=_describe_ways_out(settings)
            )
        nothing = f"no server answers at {settings.url}, and `ollama` is not on the PATH."
        if settings.dialect is DialectName.OLLAMA:  # which the embedded engine does not speak
            raise OllamaNotInstalled(
                nothing,
                fix="install Ollama (ollama.com/download), or leave the dialect 'ollama' out: %env "
                "URISK_DIALECT=auto",
            )
        if settings.gguf is None and not (_has_llamacpp() and demo_model_path(settings)):
            raise OllamaNotInstalled(nothing, fix=_describe_ways_out(settings))
    _embedded_model(settings)
    return Engine.EMBEDDED


def _describe_ways_out(settings: Settings) -> str:
    """Return what to do where there is no Ollama: only the steps that are left."""
    ollama = "install Ollama (ollama.com/download)"
    if not _has_llamacpp():
        return (
            f'{ollama}, or use the embedded engine: %pip install "urisk-nb[embedded]" and then '
            "`urisk fetch-model`"
        )
    if demo_model_path(settings) is None:
        return f"run `urisk fetch-model` in a terminal (93 MB, once), or {ollama}"
    return f"{ollama}, or use the embedded engine: %urisk_start --engine embedded"


def _has_llamacpp() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


def _embedded_model(settings: Settings) -> Path:
    if not _has_llamacpp():
        raise PackageMissing(
            "the embedded engine needs the package xllamacpp.",
            fix='%pip install "urisk-nb[embedded]"',
        )
    if settings.gguf is not None:
        if not settings.gguf.is_file():
            raise SettingsError(
                f"URISK_GGUF is {str(settings.gguf)!r}; there is no such file.",
                fix="set it to an existing .gguf file, or unset it",
            )
        return settings.gguf.resolve()
    found = demo_model_path(settings)
    if found is None:
        fix = (
            "run `urisk fetch-model` in a terminal (93 MB, once), or set URISK_GGUF to your "
            "own model file"
        )
        raise ModelNotFound("the embedded engine has no model file.", fix=fix)
    return found.resolve()


# Start --------------------------------------------------------------------------------------------


def build_command(engine: Engine, settings: Settings) -> list[str]:
    """Return the program and its arguments."""
    if engine is Engine.OLLAMA:
        return [shutil.which("ollama") or "ollama", "serve"]
    model = ["--gguf", str(_embedded_model(settings))]
    address = ["--host", settings.host, "--port", str(settings.port)]
    size = ["--slots", str(settings.parallel or 1), "--num-ctx", str(settings.num_ctx)]
    return [sys.executable, "-m", "urisk_nb.embedded.launcher", *model, *address, *size]


def build_environment(
    engine: Engine, settings: Settings, base: Mapping[str, str]
) -> dict[str, str]:
    """
    Return the environment of the server: `base` less what would change its runner and less logins,
    plus where to listen and, for Ollama, to stay off its cloud.
    """
    env = {
        name: value
        for name, value in base.items()
        if not name.startswith("LLAMA_") and name.upper() not in SECRET_VARIABLES
    }
    if engine is Engine.OLLAMA:
        env["OLLAMA_HOST"] = (
            f"{settings.host}:{settings.port}"
            if ":" not in settings.host
            else f"[{settings.host}]:{settings.port}"
        )
        if not settings.allow_cloud:
            env["OLLAMA_NO_CLOUD"] = "1"
        if settings.parallel:
            env["OLLAMA_NUM_PARALLEL"] = str(settings.parallel)
    else:
        # The child runs in another folder and must still find this very package.
        here = str(Path(__file__).parents[2])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, base.get("PYTHONPATH")]))
    return env


def count_slots(engine: Engine, settings: Settings, environ: Mapping[str, str]) -> int:
    """Return how many calls a server that we start answers at once."""
    if settings.parallel:
        return settings.parallel
    named = environ.get("OLLAMA_NUM_PARALLEL", "").strip() if engine is Engine.OLLAMA else ""
    return int(named) if named.isdecimal() and int(named) > 0 else 1


def compute_fingerprint(command: list[str], env: Mapping[str, str]) -> str:
    """
    Return what makes two servers at one address different: the command, and every variable that
    Ollama or the embedded engine reads.
    """
    kept = {
        name: value
        for name, value in sorted(env.items())
        if name.startswith(ENGINE_VARIABLES) and name not in CALL_VARIABLES
    }
    return hashlib.sha256(json.dumps([command, kept]).encode()).hexdigest()[:16]
