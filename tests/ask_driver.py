"""`%%ask` in this process, over a scripted server that keeps every call: no kernel."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

from fake_ollama import Rule, Scenario, ScriptedBackend, running
from fake_ollama.backend import Final, Refusal
from fake_ollama.scripted import _prompt_tokens, _too_long
from urisk_nb import process_state
from urisk_nb.llm.manager import LLMManager
from urisk_nb.notebook import magics


class KeptCalls(ScriptedBackend):
    """
    A scripted server that keeps its calls, and how many tokens of each prompt it knew already.

    `density`: how many tokens it counts for one, as a tokenizer does that knows no words.
    """

    def __init__(self, scenario, density=1):
        super().__init__(scenario)
        self.calls, self.refused, self.cached, self.density = [], [], [], density

    async def answer(self, call):
        counted = self.density * len(list(_prompt_tokens(call)))
        if counted >= call.num_ctx:
            self.refused.append(call)
            raise Refusal(400, _too_long(counted, call.num_ctx))
        self.calls.append(call)
        async for item in super().answer(call):
            if isinstance(item, Final):
                new = item.prompt_new + (self.density - 1) * (item.prompt_new + item.prompt_cached)
                item = replace(item, prompt_new=new)  # noqa: PLW2901
                self.cached.append((item.prompt_cached, item.prompt_new))
            yield item

    def count(self, call):
        """How many tokens a prompt has."""
        return self.density * len(list(_prompt_tokens(call)))


class AskDriver:
    """The cells of one notebook."""

    def __init__(self, backend, capsys):
        self.backend, self._capsys = backend, capsys
        self.shell = SimpleNamespace(user_ns={}, user_ns_hidden={})

    def ask(self, cell, line=""):
        """Run `%%ask line` with this cell; return what is on the screen."""
        magics.run(self.shell, "ask", line, cell)
        return self._capsys.readouterr().out

    def chat(self, what=""):
        """Run `%urisk_chat what`; return what is on the screen."""
        magics.run(self.shell, "urisk_chat", what, None)
        return self._capsys.readouterr().out

    @property
    def sent(self):
        """The messages of the last call that was answered: (role, content)."""
        return [(one["role"], one["content"]) for one in self.backend.calls[-1].messages]


@contextlib.contextmanager
def notebook(monkeypatch, capsys, *rules, density=1, num_ctx=4096, **scenario):
    """A notebook over a server that answers by these rules."""
    backend = KeptCalls(Scenario(rules=rules, **scenario), density)
    process_state.forget("conversation")
    with running(backend) as server:
        monkeypatch.setenv("OLLAMA_URL", server.url)
        monkeypatch.setenv("URISK_NUM_CTX", str(num_ctx))
        try:
            yield AskDriver(backend, capsys)
        finally:
            if (manager := LLMManager.find_instance()) is not None:
                manager.shutdown_sync()
            process_state.forget("conversation")


__all__ = ["AskDriver", "KeptCalls", "Rule", "notebook"]
