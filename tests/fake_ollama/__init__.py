"""A scripted Ollama for tests and demonstrations: the protocol, its faults, real processes.

Knows: Ollama's protocol, rules that say what is answered.
Does not know: urisk_nb. It shares no code with the client, else one mistake would hide itself.

`serve` runs it on an asyncio loop, `running` in a thread, `python -m fake_ollama` as a process with
`tests` on the path, `fake_ollama.program` as the program `ollama`.
"""

from __future__ import annotations

from fake_ollama.backend import Backend, Chunk, Final, Model, ModelCall, Refusal
from fake_ollama.scenario import Ending, Process, Rule, Scenario
from fake_ollama.scripted import ScriptedBackend
from fake_ollama.server import Server, running, serve

__all__ = [
    "Backend",
    "Chunk",
    "Ending",
    "Final",
    "Model",
    "ModelCall",
    "Process",
    "Refusal",
    "Rule",
    "Scenario",
    "ScriptedBackend",
    "Server",
    "running",
    "serve",
]
