"""How a managed server ended, and whom that clears: no process, no socket."""

import asyncio
import signal
import time
from types import SimpleNamespace

import pytest

from urisk_nb import errors
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.retrying_client import RetryingClient, single_attempts
from urisk_nb.server.leases import Exit
from urisk_nb.server.model_server import Server, ServerState
from urisk_nb.settings import load

# SIGKILL may be a lack of memory, which a long sentence can cause
ENDS = [
    (Exit(code=-signal.SIGTERM), True),
    (Exit(code=-signal.SIGINT), True),
    (Exit(code=0), True),
    (Exit(code=None), True),
    (Exit(code=-signal.SIGKILL, asked=True), True),
    (Exit(code=-signal.SIGKILL), False),
    (Exit(code=-signal.SIGSEGV), False),
    (Exit(code=-signal.SIGABRT), False),
    (Exit(code=1), False),
    (Exit(code=None, failed="no such program"), False),
]


async def lose(seen, state=ServerState.MANAGED):
    """A managed server in this state that has ended so, and when its call had begun."""
    server = Server(load(), None, lambda *_: None, lambda: None)
    server.lease, server.state = SimpleNamespace(ended=asyncio.Event()), state
    server._recover = lambda _: asyncio.sleep(0)
    began_s = time.monotonic()
    server._handle_exit(server.lease, seen)
    await asyncio.sleep(0)
    return server, began_s


@pytest.mark.parametrize(("seen", "is_cleared"), ENDS)
def test_the_exit_of_a_server_tells_who_ended_it(seen, is_cleared):
    server, began_s = asyncio.run(lose(seen))
    assert server.ended_from_outside_since(began_s) is is_cleared
    assert not server.ended_from_outside_since(time.monotonic() + 1)


def test_a_server_that_was_ended_for_its_silence_clears_nobody():
    """The call that it hung at may be to blame, whatever the signal."""
    server, began_s = asyncio.run(lose(Exit(code=-signal.SIGTERM), ServerState.HUNG))
    assert not server.ended_from_outside_since(began_s)


@pytest.mark.parametrize(("seen", "is_cleared"), ENDS[:1] + ENDS[6:7])
def test_the_calls_that_were_lost_know_it(seen, is_cleared):
    async def main():
        server, _ = await lose(seen)
        server.ready = lambda: asyncio.sleep(0)
        client = SimpleNamespace(settings=load())
        calls = RetryingClient(client, server, CallLimiter(1), None)

        async def fail(_):
            # The news comes while the call is in flight
            server.lease, server.state = SimpleNamespace(ended=asyncio.Event()), ServerState.MANAGED
            server._handle_exit(server.lease, seen)
            raise errors.ServerConnectionLost("gone", fix="again")

        record = Calls().begin(b"", "m")
        with single_attempts(), pytest.raises(errors.ServerConnectionLost) as caught:
            await calls.run(record, fail, lambda _: None)
        server.monitor.stop()
        return caught.value.facts["ended_from_outside"]

    assert asyncio.run(main()) is is_cleared
