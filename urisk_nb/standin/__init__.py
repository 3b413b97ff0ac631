"""A stand-in for Ollama: one HTTP face, two brains. Part of the product: for tests, for demos, for
machines without Ollama.

Knows: Ollama's protocol, llama.cpp, rules.
Does not know: anything else of urisk_nb. It shares no code with the client, else one mistake would
hide itself.

`serve` runs it on an asyncio loop, `running` in a thread, `python -m urisk_nb.standin` as a
process.
"""

from __future__ import annotations

from urisk_nb.standin.brain import Ask, Brain, Finish, Model, Piece, Refused
from urisk_nb.standin.scenario import Ending, Process, Rule, Scenario
from urisk_nb.standin.scripted import ScriptedBrain
from urisk_nb.standin.server import Server, running, serve

__all__ = [
    "Ask",
    "Brain",
    "Ending",
    "Finish",
    "Model",
    "Piece",
    "Process",
    "Refused",
    "Rule",
    "Scenario",
    "ScriptedBrain",
    "Server",
    "running",
    "serve",
]
