"""
Facts about a session that never was, for whoever draws them: records made by the code that makes
the real ones.
"""

import json
import time
from datetime import UTC, datetime

from urisk_nb.errors import ServerConnectionLost
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.messages import Chunk, Final, LoadedModel
from urisk_nb.llm.resilience import BreakerState
from urisk_nb.llm.snapshot import ServerProbe, SessionSnapshot
from urisk_nb.server.model_server import ServerState

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
MODEL = "llama3.1:latest"
ON_THE_GPU = (
    LoadedModel(name=MODEL, size_bytes=5_000_000_000, gpu_bytes=5_000_000_000, num_ctx=4096),
)


def request(prompt="What are the risks?", num_ctx=4096, model=MODEL, **more):
    """The bytes of a request, as the manager sends them."""
    messages = [{"role": "system", "content": "You judge."}, {"role": "user", "content": prompt}]
    return json.dumps(
        {
            "model": model,
            "stream": True,
            "keep_alive": "20m",
            **more,
            "messages": messages,
            "options": {"num_ctx": num_ctx},
        }
    ).encode()


def answered(
    calls, *, body=None, model=MODEL, answer="Some words.", tokens=8, prompt_tokens=100, **phases_s
):
    """A call that has ended well; phases in seconds: queue, load, prompt, generation."""
    phases = {"queue": 0.0, "load": 0.01, "prompt": 0.1, "generation": 0.4, **phases_s}
    record = calls.begin(request(model=model) if body is None else body, model)
    record.mark_started()
    record.mark_sent()
    record.add_chunk(Chunk(text=answer))
    counters = {
        f"{name}_ns": round(phases[name] * 1e9) for name in ("load", "prompt", "generation")
    }
    calls.end(
        record,
        Final(
            total_ns=round(sum(phases.values()) * 1e9),
            tokens=tokens,
            prompt_tokens=prompt_tokens,
            **counters,
        ),
    )
    return record


def failed(calls, error=None, *, after=(), body=None):
    """A call that has ended badly, after these tries."""
    record = calls.begin(request() if body is None else body, MODEL)
    record.mark_started()
    record.mark_sent()
    for earlier in after:
        record.mark_retry(earlier)
    calls.fail(
        record,
        ServerConnectionLost("the connection broke.", fix="ask again") if error is None else error,
    )
    return record


def waited(calls, number, seconds=5.0):
    """So many calls that have waited here for this long, in a session that is otherwise well."""
    for _ in range(number):
        record = calls.begin(request(), MODEL)
        record.asked_s -= seconds
    return calls


def facts(calls=None, *, loaded_models=ON_THE_GPU, **more):
    """A healthy session, but for what is said otherwise."""
    calls = Calls() if calls is None else calls
    probe = ServerProbe(loaded_models=loaded_models, **more.pop("probe", {}))
    known = {
        "state": "managed",
        "server_label": "Ollama 0.33.0 at http://localhost:11434, started here",
        "is_managed": True,
        "model": MODEL,
        "num_ctx": 4096,
        "slots": 1,
        "records": calls.records,
        "live": calls.live,
        "probe": probe,
    }
    known |= more
    known["state"] = ServerState(known["state"])
    known["breaker"] = BreakerState(known.get("breaker", "closed"))
    return SessionSnapshot(at=NOW, now_s=time.monotonic(), **known)
