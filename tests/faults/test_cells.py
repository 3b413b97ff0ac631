"""
The fault matrix, as a cell meets it: interrupts, reloads, callers on every loop, magics inside of
others. Real kernels over real processes of the scripted server's program.
"""

import json
import os
import signal
import subprocess
import time

import pytest

from fake_ollama_env import gone
from fault_calls import MANAGER, is_text, session_works
from harness import children, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# Interrupts ---------------------------------------------------------------------------------------


@pytest.mark.row(1)
def test_an_interrupt_of_an_answer(lab, figure):
    """It stops here and on the server, which lives on; the next call works."""
    kernel, server, runner = lab.started()
    cell, felt_s = kernel.interrupt_when(kernel.start("%%ask\nslow"), is_text)
    figure("interrupt of %%ask to prompt", felt_s)
    assert cell.ename == "KeyboardInterrupt"
    eventually(lambda: lab.counters()["aborted"] == 1)
    assert lab.processes() == (server, runner)
    session_works(kernel)


AWAITED = """
import asyncio, time
from urisk_nb import LLMManager
manager = LLMManager.get_instance()
print("word", flush=True)
try:
    await manager.generate("slow")
except BaseException as exc:
    print(type(exc).__name__, flush=True)
    raise
"""


@pytest.mark.timing
@pytest.mark.row(2)
def test_an_interrupt_of_an_awaited_call(lab, figure):
    """
    A cell that awaits our coroutine is interrupted, though an idle await of its own would not be.
    """
    kernel, *_ = lab.started()
    message = kernel.start(AWAITED)
    eventually(lambda: lab.counters()["in_flight"] == 1)
    cell, felt_s = kernel.interrupt_when(message, is_text)
    figure("interrupt of an awaited generate to prompt", felt_s)
    assert "CancelledError" in cell.text() or "KeyboardInterrupt" in cell.text()
    assert felt_s < 1
    eventually(lambda: lab.counters()["aborted"] == 1)
    session_works(kernel)


@pytest.mark.row(3)
def test_two_interrupts_in_a_row(lab):
    """The second one, 50 ms later, is no harm: the loop lives, the session too."""
    kernel, *_ = lab.started()
    message = kernel.start("%%ask\nslow")
    eventually(lambda: lab.counters()["in_flight"] == 1)
    kernel.manager.interrupt_kernel()
    time.sleep(0.05)  # the row's own distance between the two
    kernel.manager.interrupt_kernel()
    assert kernel.finish(message).status == "error"
    eventually(lambda: lab.counters()["in_flight"] == 0)
    session_works(kernel)


@pytest.mark.row(4)
@pytest.mark.row(39)
def test_many_interrupts_hit_nobody_else(lab):
    """
    25 interrupts: six tasks of the user's own loop live on, and the breaker does not count what its
    user stopped.
    """
    kernel, *_ = lab.started()
    kernel.good(
        "import asyncio\ntasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(6)]"
    )
    for _ in range(25):
        message = kernel.start("%%ask\nslow")
        eventually(lambda: lab.counters()["in_flight"] == 1)
        kernel.manager.interrupt_kernel()
        assert kernel.finish(message).ename == "KeyboardInterrupt"
        eventually(lambda: lab.counters()["in_flight"] == 0)
    assert kernel.value("sum(task.done() for task in tasks)") == "0"
    assert kernel.value(f"{MANAGER}.breaker()") == "closed"
    assert (
        kernel.value("[t.name for t in __import__('threading').enumerate()].count('urisk-loop')")
        == "1"
    )
    session_works(kernel)


@pytest.mark.row(5)
def test_an_interrupt_of_a_pull(lab):
    """
    The download and the server that was started for it end; the next start works. (That what has
    arrived is kept: test_servers.)
    """
    lab.plan(models=[{"name": "llama3.1", "installed": False}], pull_ms=150)
    kernel = lab.kernel()
    message = kernel.start("%urisk_start")
    eventually(lambda: lab.answers() and lab.counters()["paths"].get("/api/pull"), 10)
    cell, _ = kernel.interrupt_when(
        message, lambda m: "MB" in str(m["content"]) or "Pulling" in str(m["content"])
    )
    assert cell.ename == "KeyboardInterrupt"
    eventually(lambda: not lab.answers(), 3, "the end of the server that was started for it")
    kernel.good("%urisk_start", timeout=60)
    session_works(kernel)


@pytest.mark.row(6)
def test_an_interrupt_of_a_start(lab):
    """While the server does not answer yet: it is given back, and the next start has one server."""
    lab.plan(process={"ready_ms": 1500})
    kernel = lab.kernel()
    message = kernel.start("%urisk_start")
    cell, _ = kernel.interrupt_when(message, lambda m: "Starting" in str(m["content"]))
    assert cell.ename == "KeyboardInterrupt"
    lab.plan()
    kernel.good("%urisk_start", timeout=60)
    guardians = children(kernel.manager.provisioner.pid)
    assert [lab.processes()[0]] == [
        server for guardian in guardians for server in children(guardian)
    ]


@pytest.mark.row(7)
def test_run_all_with_a_cell_that_fails(lab):
    """The rest is not run, as in every notebook; the session is as it was."""
    kernel, server, _ = lab.started()
    cells = [
        kernel.start(code)
        for code in ("%%ask\nhi", "%%ask --nonsense\nhi", "%%ask\nhi", "a = 1", "%%ask\nhi")
    ]
    replies = [kernel.client.get_shell_msg(timeout=20) for _ in cells]
    assert [reply["content"]["status"] for reply in replies] == [
        "ok",
        "error",
        "aborted",
        "aborted",
        "aborted",
    ]
    session_works(kernel)
    assert lab.processes()[0] == server


# One manager --------------------------------------------------------------------------------------


@pytest.mark.timing
@pytest.mark.row(44)
def test_reloads_keep_one_manager(lab):
    """
    Loading twice, reloading the extension or modules, autoreload, a fresh import: one manager, one
    loop, one exit handler.
    """
    kernel, server, _ = lab.started()
    kernel.good(
        "import urisk_nb, importlib, sys, atexit\nfrom urisk_nb import LLMManager\nfirst = "
        "LLMManager.get_instance()"
    )
    handlers = kernel.value("atexit._ncallbacks()")
    kernel.good("%load_ext urisk_nb\n%reload_ext urisk_nb\n%load_ext autoreload\n%autoreload 2")
    kernel.good(
        "import urisk_nb.llm.manager as m\nimportlib.reload(m)\nprint(m.LLMManager.get_instance() "
        "is first)"
    )
    assert kernel.value("m.LLMManager.get_instance() is first") == "True"
    kernel.good(
        "for name in [name for name in sys.modules if name.startswith('urisk_nb')]: del "
        "sys.modules[name]"
    )
    assert kernel.value("__import__('urisk_nb').LLMManager.get_instance() is first") == "True"
    session_works(kernel)
    assert (
        kernel.value("[t.name for t in __import__('threading').enumerate()].count('urisk-loop')")
        == "1"
    )
    assert kernel.value("atexit._ncallbacks()") == handlers
    assert lab.processes()[0] == server
    began = time.monotonic()
    kernel.manager.shutdown_kernel()
    assert time.monotonic() - began < 1.5
    gone([server], 0.5)


CALLERS = """
import asyncio, threading
from urisk_nb import LLMManager
manager = LLMManager.get_instance()
seen = []
def thread():
    seen.extend(manager.generate_sync("hi") for _ in range(5))
def own_loop():
    seen.extend(asyncio.run(gather()))
async def gather():
    return await asyncio.gather(*(manager.generate("hi") for _ in range(5)))
workers = [threading.Thread(target=thread), threading.Thread(target=own_loop)]
for worker in workers: worker.start()
seen.extend(await gather())
seen.extend([await manager.generate("hi") for _ in range(5)])
for worker in workers: worker.join()
print(len(seen), len(set(seen)))
"""


@pytest.mark.row(43)
def test_callers_on_every_loop_and_thread(lab):
    """
    The kernel's loop, a thread, and a loop of a thread's own at the same time: no error of one
    client on two loops.
    """
    kernel, *_ = lab.started()
    assert kernel.good(CALLERS).text().strip() == "20 1"
    assert kernel.value(f"{MANAGER}.breaker()") == "closed"


@pytest.mark.row(43)
def test_a_subshell_asks_while_a_cell_runs(lab):
    """ipykernel 7 runs a second cell beside the first: both are answered over the one session."""
    kernel, *_ = lab.started()
    info = kernel.client.kernel_info(reply=True, timeout=20)["content"]
    if "kernel subshells" not in info.get("supported_features", []):
        pytest.skip("this ipykernel has no subshells")
    kernel.client.session.send(kernel.client.control_channel.socket, "create_subshell_request", {})
    made = kernel.client.get_control_msg(timeout=20)
    kernel.start("%%ask\nslow")
    eventually(lambda: lab.counters()["in_flight"] == 1)
    message = kernel.client.session.msg(
        "execute_request", {"code": "%urisk_status", "silent": False, "store_history": False}
    )
    message["header"]["subshell_id"] = made["content"]["subshell_id"]
    kernel.client.shell_channel.send(message)
    reply = kernel.client.get_shell_msg(timeout=20)
    assert (reply["parent_header"]["msg_id"], reply["content"]["status"]) == (
        message["header"]["msg_id"],
        "ok",
    )
    kernel.manager.interrupt_kernel()
    eventually(lambda: lab.counters()["in_flight"] == 0)


# Cells --------------------------------------------------------------------------------------------


AROUND = {
    "%%time": "%%time\n_ = get_ipython().run_cell_magic('ask', '', 'hi')",
    "%%capture": "%%capture kept\n%urisk_status\n_ = get_ipython().run_cell_magic('ask', '', 'hi')",
    "a loop": "for _ in range(2):\n    get_ipython().run_cell_magic('ask', '', 'hi')",
    "a function": "def ask():\n    return get_ipython().run_cell_magic('ask', 'answer', "
    "'hi')\nask()\nprint(answer)",
}


@pytest.mark.row(52)
@pytest.mark.parametrize("around", AROUND)
def test_magics_inside_of_others(around, lab):
    """A magic is a blocking call like any other: it works wherever a call does."""
    kernel, *_ = lab.started()
    cell = kernel.good(AROUND[around])
    if around == "%%capture":
        assert cell.outputs == []
        cell = kernel.good(
            "print(*(output.data['text/plain'] for output in kept.outputs), kept.stdout)"
        )
    assert "SCRIPTED" in cell.text()


BACKGROUND = """
from urisk_nb import LLMManager, event_loop
from IPython.display import display
handle = display("begun", display_id="job")
async def job(manager):
    answer = await manager.generate("later")
    print("printed", flush=True)
    handle.update(f"done: {answer}")
work = event_loop.submit(job(LLMManager.get_instance()))
"""


@pytest.mark.row(53)
def test_the_output_of_a_background_job_finds_its_cell(lab):
    """
    The next cell runs already: an update by display id arrives at its own output; on ipykernel 7
    printed text does, too.
    """
    lab.plan(rules=[{"contains": "later", "answer": "SCRIPTED later", "first_ms": 600}])
    kernel, *_ = lab.started()
    first = kernel.start(BACKGROUND)
    kernel.finish(first)
    second = kernel.start("print('the next cell', work.done.wait(20), flush=True)")
    updates, printed, end = [], [], time.monotonic() + 30
    while not (updates and printed) and time.monotonic() < end:
        message = kernel.client.get_iopub_msg(timeout=20)
        if message["msg_type"] == "update_display_data":
            updates.append(message["content"]["transient"]["display_id"])
        elif message["msg_type"] == "stream" and "printed" in message["content"]["text"]:
            printed.append(message["parent_header"]["msg_id"])
    assert updates == ["job"]
    assert printed[0] in ([first] if ipykernel_version() >= (7,) else [first, second])


def ipykernel_version():
    from importlib.metadata import version

    return tuple(int(part) for part in version("ipykernel").split(".")[:2])


@pytest.mark.row(32)
def test_a_server_of_others_is_never_ended(lab):
    """It ran before: it is used, and outlives every kernel, killed or shut down."""
    with subprocess.Popen(
        [str(lab.program.path), "serve"],
        env={**os.environ, "OLLAMA_HOST": f"127.0.0.1:{lab.port}"},
        # Fmt: skip
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as others:
        try:
            eventually(lab.answers, 10)
            for end in (signal.SIGKILL, None):
                kernel = lab.kernel()
                kernel.good("%urisk_start")
                assert kernel.value(f"{MANAGER}.state.value") == "external"
                if end:
                    os.kill(kernel.manager.provisioner.pid, end)
                kernel.stop()
                assert others.poll() is None
                assert lab.answers()
                assert json.dumps(lab.counters()["runners"]) != "[]"
        finally:
            others.terminate()
