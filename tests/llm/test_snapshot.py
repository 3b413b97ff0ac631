"""The probe of a server: what it says of its models, and what is trouble and what is not."""

import asyncio
from types import SimpleNamespace

import pytest

from urisk_nb.errors import NotSupportedByServer, ServerConnectionLost
from urisk_nb.llm.dialects import ollama, openai
from urisk_nb.llm.dialects.dialect import Feature
from urisk_nb.llm.messages import LoadedModel
from urisk_nb.llm.snapshot import ServerProbe, SessionSnapshot, probe_server


class Manager:
    """A manager over a server that answers, or does not."""

    lead = SimpleNamespace(settings=SimpleNamespace(is_loopback=False), url="http://127.0.0.1:1")

    def __init__(self, dialect, error=None):
        self.dialect, self.error, self.asked = dialect, error, []

    async def answer(self, what, reply):
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        return reply

    async def loaded_models(self):
        if not self.dialect.can(Feature.LOADED_MODELS):
            raise NotSupportedByServer("it has no such list.", fix="use Ollama")
        model = LoadedModel(name="m:latest", size_bytes=2, gpu_bytes=0, num_ctx=4096, expires_at="")
        return await self.answer("loaded", [model])

    async def models(self):
        return await self.answer("models", [])


def probe(manager):
    return asyncio.run(probe_server(manager))


def test_a_server_that_lists_its_models_is_asked_for_them():
    """Ollama says what is in its memory."""
    manager = Manager(ollama.DIALECT)
    assert [model.name for model in probe(manager).loaded_models] == ["m:latest"]
    assert manager.asked == ["loaded"]


@pytest.mark.parametrize("dialect", [openai.DIALECT, openai.LLAMA_CPP])
def test_a_server_without_such_a_list_is_no_trouble(dialect):
    """Other servers do not say what they have loaded: they are asked whether they answer at all."""
    manager = Manager(dialect)
    assert probe(manager) == ServerProbe(loaded_models=None, pid=0)
    assert manager.asked == ["models"]
    snapshot = SessionSnapshot(at=None, now_s=0.0, model="m", probe=probe(manager))
    assert snapshot.is_loaded is None


@pytest.mark.parametrize("dialect", [ollama.DIALECT, openai.DIALECT])
def test_a_server_that_does_not_answer_is_trouble(dialect):
    """The error and its way out are kept."""
    lost = ServerConnectionLost("nothing answers.", fix="%urisk_start")
    assert probe(Manager(dialect, lost)) == ServerProbe(
        problem="nothing answers.", fix="%urisk_start", pid=0
    )
