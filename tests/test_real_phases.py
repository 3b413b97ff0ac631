"""
The phases of calls, seen twice: on llama.cpp's own wire, and in the table.

A tap that copies every byte unchanged stands before llama.cpp; what it heard is read here, by other
code than ours. The model is the real demo model.
"""

import asyncio
import contextlib
import json
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest

from harness import launch_llamacpp
from urisk_nb.llm.manager import LLMManager
from urisk_nb.notebook import latencies

pytestmark = [pytest.mark.slow, pytest.mark.timing, pytest.mark.timeout(180)]

COPIED_S = 1e-6  # a figure that is only handed on is the same but for its rounding
PHASES = ["queue_s", "load_s", "prompt_s", "generation_s"]
RULES = "You judge what is said about companies, sentence by sentence, and nothing else. "
SCHEMA = {
    "type": "object",
    "required": ["risk"],
    "properties": {"risk": {"type": "string", "enum": ["legal", "none"]}},
}


def near(seconds):
    """Within 50 ms or a tenth: what two clocks may differ by on a busy machine."""
    return pytest.approx(seconds, abs=0.05, rel=0.1)


# What is seen -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Exchange:
    """
    One request that went through a tap: when, what was asked, and each JSON line of the reply with
    its instant, all by one clock.
    """

    asked_s: float
    asked: bytes = b""
    lines: list = field(default_factory=list)
    held: bytes | None = None

    def hear(self, data):
        *whole, self.held = ((self.held or b"") + data).split(b"\n")
        lines = (line.removeprefix(b"data: ") for line in whole)
        self.lines += [
            (time.monotonic(), json.loads(line)) for line in lines if line.startswith(b"{")
        ]
        # A reply in one piece, which may have no end of line, or the beginning of a line
        if self.held.startswith(b"{"):
            with contextlib.suppress(ValueError):
                self.lines.append((time.monotonic(), json.loads(self.held)))
                self.held = b""

    def ended_with(self, name):
        return bool(self.lines) and name in self.lines[-1][1]

    @property
    def last(self):
        return self.lines[-1][1]

    @property
    def ended_s(self):
        return self.lines[-1][0]

    @property
    def begun_s(self):
        """
        On llama.cpp's wire the first line comes with the first token, even where its text is held
        back.
        """
        return self.lines[0][0]

    @property
    def first_text_s(self):
        """On llama.cpp's wire."""
        choices = ((said_s, line["choices"][0]) for said_s, line in self.lines)
        return next(
            said_s
            for said_s, choice in choices
            if (choice.get("delta") or choice.get("message") or {}).get("content")
        )


class Tap:
    """A relay to an address that may change; keeps the exchanges."""

    def __init__(self):
        self.address = self.url = ""
        self.exchanges = []

    def ended_with(self, name):
        """The exchanges whose last line has this field, in the order of their ends."""
        return sorted(
            (each for each in self.exchanges if each.ended_with(name)),
            key=lambda each: each.ended_s,
        )

    async def connected(self, reader, writer):
        parts = urlsplit(self.address)
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        # The exchanges of this connection; a request begins with the first bytes after a reply
        open_ = []

        def asked(data):
            if not open_ or open_[-1].held is not None:
                open_.append(Exchange(time.monotonic()))
                self.exchanges.append(open_[-1])
            open_[-1].asked += data

        def said(data):
            open_[-1].hear(data)

        ways = {
            asyncio.create_task(_copied(reader, back, asked)),
            asyncio.create_task(_copied(there, writer, said)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (back, writer):  # what was written is sent before
            end.close()
        await asyncio.wait(ways)


async def _copied(reader, writer, note):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            note(data)
            writer.write(data)


@contextlib.contextmanager
def tapped(*taps):
    """The taps listen, on a loop in a thread of their own."""
    ready = Future()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            for tap in taps:
                server = await stack.enter_async_context(
                    await asyncio.start_server(tap.connected, "127.0.0.1", 0)
                )
                tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            stop = asyncio.Event()
            ready.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="taps")
    thread.start()
    loop, stop = ready.result(10)
    yield
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


@dataclass
class Call:
    """One call of the manager."""

    llama: Exchange
    shown: dict  # the row of the table

    @property
    def timings(self):
        """In llama.cpp's own words."""
        return self.llama.last["timings"]

    @property
    def worked_s(self):
        """What the slot was held for, in llama.cpp's own words."""
        return (self.timings["prompt_ms"] + self.timings["predicted_ms"]) / 1e3


@dataclass
class Bench:
    manager: LLMManager
    tap: Tap

    def calls(self, of=0):
        """
        All calls, or the last few, in the order of their ends: one slot, so the order is the same
        for all who saw them.
        """
        rows = latencies.build_table(self.manager.calls.records).to_dict("records")
        seen = self.tap.ended_with("timings")
        assert len(seen) == len(rows)
        return [Call(*each) for each in zip(seen[-of:], rows[-of:], strict=True)]

    def say(self, prompt, system_prompt=None, *, tokens=12, **more):
        self.manager.generate_sync(
            prompt, system_prompt, options={"num_predict": tokens, "temperature": 0}, **more
        )
        return self.calls(1)[0]

    def say_at_once(self, prompts, tokens):
        async def main():
            fixed = {"num_predict": tokens, "temperature": 0}
            await asyncio.gather(
                *(self.manager.generate(prompt, options=fixed) for prompt in prompts)
            )

        asyncio.run(main())
        return self.calls(len(prompts))


@pytest.fixture(scope="module")
def bench(demo_model):
    tap = Tap()
    # One thread: the cores may be busy with other tests.
    with tapped(tap), launch_llamacpp(demo_model, "--threads", 1) as tap.address:
        manager = LLMManager.initialize_sync(url=tap.url, parallel=3)
        yield Bench(manager, tap)
        manager.shutdown_sync()


# What must agree ----------------------------------------------------------------------------------


def agrees(call):
    """Every figure of the table is llama.cpp's."""
    said, shown = call.timings, call.shown
    assert shown["prompt_s"] == pytest.approx(said["prompt_ms"] / 1e3, abs=COPIED_S)
    assert shown["generation_s"] == pytest.approx(said["predicted_ms"] / 1e3, abs=COPIED_S)
    assert shown["prompt_tokens"] == said["prompt_n"] + said["cache_n"]
    assert shown["tokens"] == said["predicted_n"]
    assert shown["load_s"] == 0, "the model is always in memory"


def adds_up(call):
    """The phases are what our clock saw, and so is the exchange on the wire."""
    shown = call.shown
    assert sum(shown[phase] for phase in PHASES) == pytest.approx(shown["total_s"], abs=0.002)
    assert shown["total_s"] == near(call.llama.ended_s - call.llama.asked_s)


def is_as_long_as_it_says(call):
    """The wire's clock sees llama.cpp's phases as long as its counters have them."""
    prompt_s, generation_s = (call.timings[name] / 1e3 for name in ("prompt_ms", "predicted_ms"))
    queue_s = call.shown["queue_s"]  # llama.cpp's own: its slots are behind its wire
    assert call.llama.begun_s - call.llama.asked_s == near(queue_s + prompt_s)
    assert call.llama.ended_s - call.llama.begun_s == near(generation_s)


@pytest.mark.parametrize(
    ("prompt", "more"),
    [
        ("Name one ocean.", {"tokens": 24}),
        ("Name one sea.", {"tokens": 1}),
        ("Acme was fined.", {"system_prompt": RULES * 20}),
        ("Acme was sued.", {"format": SCHEMA}),
    ],
)
def test_the_phases_of_a_call_are_llama_cpps(bench, prompt, more, figure):
    """
    Words, one token, a long prompt, a schema: times and tokens are those that llama.cpp gave, add
    up, and hold by the clock on its wire.
    """
    call = bench.say(prompt, **more)
    agrees(call)
    adds_up(call)
    is_as_long_as_it_says(call)
    assert call.shown["first_token_s"] == near(call.llama.first_text_s - call.llama.asked_s)
    assert call.shown["first_token_s"] >= sum(call.shown[phase] for phase in PHASES[:3]) - 0.005
    assert call.shown["queue_s"] < 0.1, "nobody was before it"
    figure(f"queue_s of a call that nobody was before, {prompt!r}", call.shown["queue_s"])


@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_the_rate_of_an_answer_is_llama_cpps(bench, tokens):
    """
    Its generation's time begins with the first token, so it is of the others; a single token has no
    rate.
    """
    call = bench.say("Write a long story about the sea.", tokens=tokens)
    assert call.shown["tokens"] == tokens
    is_as_long_as_it_says(call)
    if tokens == 1:
        assert math.isnan(call.shown["tokens_per_s"])
    else:
        assert call.shown["tokens_per_s"] == pytest.approx(
            call.timings["predicted_per_second"], rel=1e-3
        )


def test_the_tokens_of_a_prompt_are_those_of_the_models_own_template(bench):
    """llama.cpp's template and tokenizer, asked apart, count as many."""
    call = bench.say("Name two rivers of Europe.", "Be brief.")
    messages = json.loads(call.llama.asked.partition(b"\r\n\r\n")[2])["messages"]
    assert [each["content"] for each in messages] == ["Be brief.", "Name two rivers of Europe."]
    with httpx.Client(base_url=bench.tap.address, trust_env=False) as http:
        prompt = http.post("/apply-template", json={"messages": messages}).json()["prompt"]
        tokens = http.post(
            "/tokenize", json={"content": prompt, "add_special": True, "parse_special": True}
        ).json()["tokens"]
    assert call.shown["prompt_tokens"] == len(tokens)


def test_a_prompt_that_is_asked_again_costs_less_and_counts_the_same(bench, figure):
    """The prefix cache is seen in `prompt_s`, not in `prompt_tokens`."""
    system = "Read slowly what follows, and say nothing of it. " * 30
    first, again = (bench.say("Name one lake.", system) for _ in range(2))
    for call in (first, again):
        agrees(call)
        adds_up(call)
        is_as_long_as_it_says(call)
    assert first.timings["prompt_n"] > 200
    assert again.timings["prompt_n"] < 20
    assert again.shown["prompt_tokens"] == first.shown["prompt_tokens"]
    assert again.shown["prompt_s"] < first.shown["prompt_s"] / 4
    figure(
        "prompt_s, asked again over the first time",
        again.shown["prompt_s"] / first.shown["prompt_s"],
    )


@pytest.mark.parametrize(
    ("parallel", "waits", "other"), [(3, "queue_s", "wait_s"), (1, "wait_s", "queue_s")]
)
def test_a_call_that_waits_for_the_slot_waits_in_one_phase(bench, parallel, waits, other):
    """
    Three calls over one slot: each waits for what the ones before it took; where, depends on how
    many we let go. No work counts twice.
    """
    bench.manager.parallel = parallel
    try:
        began_s = time.monotonic()
        calls = bench.say_at_once(
            [f"Tell a story about the number {number}." for number in range(3)], tokens=40
        )
        took_s = time.monotonic() - began_s
    finally:
        bench.manager.parallel = 3
    before_s = 0.0
    for call in calls:
        agrees(call)
        adds_up(call)
        is_as_long_as_it_says(call)
        assert call.shown[waits] == near(before_s)
        assert call.shown[other] < 0.1
        before_s += call.shown["total_s"] - call.shown["queue_s"]
    assert sum(call.worked_s for call in calls) <= took_s
    assert calls[-1].shown[waits] > calls[0].worked_s


def test_the_table_is_the_managers_own_record(bench):
    """Row by row, figure by figure, also by what an answer carries."""
    answer = bench.manager.generate_sync("Say yes.", options={"num_predict": 2})
    kept = [asdict(timing) for timing in bench.manager.calls]
    rows = latencies.build_table(bench.manager.calls.records).to_dict("records")
    named = [{name: row[name] for name in kept[0] if name != "asked_at"} for row in rows]
    plain = [{n: value for n, value in each.items() if n != "asked_at"} for each in kept]
    assert repr(named) == repr(plain), "NaN is not equal to itself"
    assert repr(asdict(answer.timing)) == repr(kept[-1])
