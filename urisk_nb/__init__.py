"""urisk_nb: a ticker list in a notebook cell becomes a risk table that can be defended.

`%load_ext urisk_nb` registers `%urisk_start`, `%urisk_stop`, `%urisk_status`, `%urisk_dashboard`,
`%urisk_latency`, `%urisk_nest`, `%urisk_history`, `%urisk_replay`, `%urisk_diff`, `%urisk_chat`,
`%%ask` and `%%risk`, and in one line `%ask` and `%risk`. The same in Python: `LLMManager` keeps one
Ollama server and one model for the life of the kernel, `assess` makes the table, and `replay` shows
it again. Everything here is imported when it is first used: loading the extension costs
milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from urisk_nb.llm.manager import LLMManager
    from urisk_nb.past_answers import answers, read_answer
    from urisk_nb.past_runs import history, overrides, purge, replay, verify
    from urisk_nb.risk.params import RiskParams
    from urisk_nb.session import assess, assess_async
    from urisk_nb.table.risk_table import RiskTable

__version__ = "0.1.0"
__all__ = [
    "LLMManager",
    "RiskParams",
    "RiskTable",
    "__version__",
    "answers",
    "assess",
    "assess_async",
    "history",
    "load_ipython_extension",
    "overrides",
    "purge",
    "read_answer",
    "replay",
    "unload_ipython_extension",
    "verify",
]

_HOMES = {
    "LLMManager": "urisk_nb.llm.manager",
    "RiskParams": "urisk_nb.risk.params",
    "RiskTable": "urisk_nb.table.risk_table",
    "answers": "urisk_nb.past_answers",
    "assess": "urisk_nb.session",
    "assess_async": "urisk_nb.session",
    "history": "urisk_nb.past_runs",
    "overrides": "urisk_nb.past_runs",
    "purge": "urisk_nb.past_runs",
    "read_answer": "urisk_nb.past_answers",
    "replay": "urisk_nb.past_runs",
    "verify": "urisk_nb.past_runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'urisk_nb' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics; loading twice changes nothing."""
    from urisk_nb.notebook import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics out again; a running manager stays, since Python code may be using it."""
    from urisk_nb.notebook import unregister

    unregister(shell)
