"""The service over several servers: health, and a figure for each. The servers are threads."""

import contextlib

from fake_ollama import Scenario, ScriptedBackend, running
from harness import eventually
from served_app import Served
from urisk_nb import process_state


def test_health_and_figures_of_each_server():
    """One server that answers is enough; the other one is named, with the reason."""
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        backends = [(stack, ScriptedBackend(Scenario())) for stack in (first, second)]
        urls = [stack.enter_context(running(backend)).url for stack, backend in backends]
        served = Served(url=",".join(urls), max_retries=0)
        try:
            served.ready()
            servers = served.http.get("/health/ollama").json()["servers"]
            assert servers == [{"url": url, "status": "ready", "reason": ""} for url in urls]
            assert served.metric(f'urisk_server_up{{server="{urls[1]}"}}') == 1
            assert served.metric(f'urisk_server_places{{server="{urls[1]}"}}') == 1
            first.close()
            assert served.ask("Hello?").status_code == 200
            reply = served.http.get("/health/ollama")
            assert reply.status_code == 200
            assert [one["status"] for one in reply.json()["servers"]] == ["left out", "ready"]
            assert served.metric(f'urisk_server_up{{server="{urls[0]}"}}') == 0
            second.close()
            assert served.ask("Hello?").status_code == 503
            eventually(lambda: served.http.get("/health/ollama").status_code == 503, 5)
        finally:
            served.stop()
    assert process_state.get("manager") is None
