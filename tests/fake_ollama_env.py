"""
An environment with a fake `ollama` on the PATH, real processes and real kernels around it. What
it answers is SCRIPTED.
"""

import contextlib
import json
import time
import urllib.request

from harness import OllamaProgram, alive, eventually, free_port, short_folder

SLOW = {"contains": "slow", "answer": "word " * 2000, "token_ms": 5}
SCENARIO = {"version": "0.33.0", "models": ["llama3.1"], "rules": [SLOW]}


class FakeOllamaEnv:
    """
    One address, one folder for locks, one `ollama`; kernels and managers that see them and nothing
    else.
    """

    def __init__(self, folder, kernels):
        self.folder, self._kernels, self._made = folder, kernels, []
        self.program = OllamaProgram(folder / "bin", SCENARIO)
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self._run_folder = short_folder()
        for name in ("work", "home"):
            (folder / name).mkdir()

    def close(self):
        """End the kernels."""
        for machine in self._made:
            machine.stop()

    def plan(self, **scenario):
        """Another behaviour of the servers that are started from now on."""
        self.program.plan({**SCENARIO, **scenario})

    @property
    def env(self):
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(self._run_folder),
            "XDG_DATA_HOME": str(self.folder / "home"),
            "OLLAMA_URL": self.url,
            "URISK_KEEP_WARM": "1",
        }

    def kernel(self, **env):
        """A kernel with the extension loaded."""
        machine = self._kernels({**self.env, **env}, str(self.folder / "work"))
        self._made.append(machine)
        machine.good("%load_ext urisk_nb")
        return machine

    def started(self, **env):
        """A kernel with a session of its own; the kernel, its server and the runner."""
        machine = self.kernel(**env)
        machine.good("%urisk_start")
        return machine, *self.processes()

    def processes(self):
        """The server at the address, and its runner."""
        counters = self.counters()
        return counters["pid"], counters["runners"][0]

    def counters(self):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/urisk/counters", timeout=5
        ) as reply:
            return json.load(reply)

    def answers(self):
        """Whether somebody answers at the address."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/version", timeout=2) as reply,
        ):
            return reply.status == 200
        return False


def gone(pids, within_s=1.0):
    """Seconds until none of the processes runs any more; fails after the limit."""
    began = time.monotonic()
    eventually(lambda: not any(map(alive, pids)), within_s, f"the end of {pids}")
    return time.monotonic() - began
