"""An await that lets other tasks run only where it waits for something."""

import asyncio
from types import SimpleNamespace

import anyio.lowlevel
import httpx
import pytest

from urisk_nb import event_loop
from urisk_nb.event_loop import MAX_SKIPPED, skip_checkpoints
from urisk_nb.llm.client import Client
from urisk_nb.llm.limiter import CallLimiter
from urisk_nb.llm.manager import LLMManager
from urisk_nb.settings import load

REPLY = b'{"message": {"content": "ok"}, "done": true}\n'


async def pass_checkpoints(seen, name, waits):
    seen.append(f"{name} begun")
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    seen.append(f"{name} sent")
    await waits
    await anyio.lowlevel.checkpoint()
    seen.append(f"{name} read")
    return name


def test_other_tasks_run_only_where_there_is_something_to_wait_for():
    """The first has sent all it has before the second is looked at, and so with their replies."""

    async def run():
        seen, reply = [], asyncio.get_running_loop().create_future()
        work = [
            asyncio.create_task(wait_without_pauses(pass_checkpoints(seen, name, reply)))
            for name in "ab"
        ]
        asyncio.get_running_loop().call_later(0.01, reply.set_result, None)
        assert await asyncio.gather(*work) == ["a", "b"]
        return seen

    async def wait_without_pauses(work):
        return await skip_checkpoints(work)

    assert asyncio.run(run()) == [
        *("a begun", "a sent", "b begun", "b sent"),
        *("a read", "b read"),
    ]


def test_what_is_waited_for_and_a_cancel_reach_the_work():
    """Its clean-up runs, and what it raises in place of the cancel counts."""

    async def work(seen):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise ValueError("closed") from None

    async def run():
        seen = []
        task = asyncio.create_task(wrap(work(seen)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(ValueError, match="closed"):
            await task
        return seen

    async def wrap(one):
        await skip_checkpoints(one)

    assert asyncio.run(run()) == ["cancelled"]


def test_work_that_looks_for_another_task_again_and_again_lets_it_run():
    """Else it would look for ever."""

    async def run():
        done = []

        async def other():
            done.append(True)

        async def look():
            looks = 0
            while not done:
                looks += 1
                await asyncio.sleep(0)
            return looks

        task = asyncio.create_task(other())
        looks = await skip_checkpoints(look())
        await task
        return looks

    assert MAX_SKIPPED < asyncio.run(run()) < 3 * MAX_SKIPPED


class SlowWire(httpx.AsyncBaseTransport):
    """Has checkpoints before it sends and when it is closed, as the real one."""

    def __init__(self, seen):
        self.seen = seen

    async def handle_async_request(self, request):
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        self.seen.append(request.content.decode())
        await asyncio.sleep(0.01)
        return httpx.Response(200, stream=SlowReply())


class SlowReply(httpx.AsyncByteStream):
    async def __aiter__(self):
        yield REPLY

    async def aclose(self):
        for _ in range(3):
            await anyio.lowlevel.checkpoint()


def test_a_call_of_a_run_is_sent_before_another_task_has_its_turn():
    """From its place on, and after the reply of the call before it."""

    async def run():
        seen = []
        client = Client(load(url="http://127.0.0.1:1"), SlowWire(seen))
        limiter = CallLimiter(2)

        async def ask(name):
            async with limiter.hold():
                await client.chat(name.encode())

        manager = LLMManager.__new__(LLMManager)  # only its way of asking is looked at
        manager._prepare_question = lambda name, _: SimpleNamespace(whole=lambda: ask(name))

        async def ask_twice(name):
            for number in (1, 2):
                await manager.ask(f"{name}{number}")

        tasks = []
        for name in "ab":
            tasks.append(asyncio.create_task(ask_twice(name)))
            await asyncio.sleep(0)  # one step of the loop
            assert seen[-1:] == [f"{name}1"]
        await asyncio.gather(*tasks)
        await client.aclose()
        return seen

    assert event_loop.run(run()) == ["a1", "b1", "a2", "b2"]
