"""
The fault matrix, as a kernel meets it: however the kernel ends, whatever is interrupted, nothing
is left and nothing is lost.

Real kernels of the installed ipykernel, a real process tree behind them; SIGINT, SIGTERM, SIGKILL
as Jupyter sends them.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from jupyter_client import BlockingKernelClient

from fake_ollama_env import SLOW, gone
from fault_calls import MANAGER, is_text, session_works
from harness import alive, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# The kernel ends ----------------------------------------------------------------------------------


CRASHES = {
    "segfault": "import ctypes; ctypes.string_at(0)",
    "exit without clean-up": "import os; os._exit(3)",
}


@pytest.mark.row(9)
@pytest.mark.row(10)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a stream"])
def test_a_killed_kernel_leaves_nothing(number, busy, lab, figure):
    """No handler of Python's runs then; server and runner are gone all the same."""
    kernel, *pids = lab.started()
    if busy:
        kernel.start("%%ask\nslow")
        eventually(lambda: lab.counters()["in_flight"] == 1)
    os.kill(kernel.manager.provisioner.pid, number)
    figure(
        f"server and runner gone after {number.name} of the kernel, "
        f"{'in a stream' if busy else 'idle'}",
        gone(pids),
    )


@pytest.mark.row(14)
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crashed_kernel_leaves_nothing(crash, lab, figure):
    """A segmentation fault, and an exit that runs no handler."""
    kernel, *pids = lab.started()
    kernel.start(CRASHES[crash])
    eventually(lambda: not alive(kernel.manager.provisioner.pid), 10)
    figure(f"server and runner gone after a {crash}", gone(pids))


@pytest.mark.timing
@pytest.mark.row(11)
def test_a_shutdown_is_quick_and_leaves_nothing(lab, figure):
    """
    From the request to the end of the kernel, with the server's end in it; the address is a name
    that cannot be looked up then.
    """
    kernel, *pids = lab.started()
    began = time.monotonic()
    kernel.manager.shutdown_kernel()
    figure("orderly shutdown of the kernel, its server's end included", time.monotonic() - began)
    assert time.monotonic() - began < 1.5
    gone(pids, 0.5)


@pytest.mark.timing
@pytest.mark.row(48)
def test_the_end_needs_no_name_look_up(lab, figure):
    """
    At the interpreter's end a look-up of `localhost` fails: the address is dialled as a number, and
    the end takes less than a second.
    """
    assert "localhost" in lab.url
    kernel, *pids = lab.started()
    kernel.good(
        "import atexit, time\natexit.register(lambda: open('end', "
        "'w').write(str(time.monotonic())))"
    )
    began = time.monotonic()
    kernel.manager.shutdown_kernel()
    figure("orderly shutdown with localhost as the address", time.monotonic() - began)
    assert (lab.folder / "work" / "end").exists(), (
        "the kernel ran its exit handlers: it ended in order"
    )
    gone(pids, 0.5)


@pytest.mark.row(11)
def test_a_restart_keeps_the_server_warm(lab, figure):
    """
    Restart and Run All finds the same process with its model in memory; without a word of
    %urisk_start it ends after the time set.
    """
    kernel, *pids = lab.started(URISK_KEEP_WARM="15")  # longer than a loaded machine needs
    began = time.monotonic()
    kernel.manager.restart_kernel(env={**os.environ, "URISK_KEEP_WARM": "3"})
    kernel.client.wait_for_ready(timeout=30)
    figure("restart of the kernel to ready", time.monotonic() - began)
    loads = lab.counters()["loads"]
    assert (
        "kept warm from the last kernel" in kernel.good("%load_ext urisk_nb\n%urisk_start").text()
    )
    assert list(lab.processes()) == pids
    assert lab.counters()["loads"] == loads
    kernel.manager.restart_kernel()
    ended = time.monotonic()
    assert all(map(alive, pids))
    gone(pids, 8)
    figure(
        "kept after a restart without a start, asked for 3 s (and the kernel's own start)",
        time.monotonic() - ended,
    )


@pytest.mark.timing
@pytest.mark.row(11)
def test_a_restart_that_shall_keep_nothing(lab):
    """URISK_KEEP_WARM=0: the server ends with the kernel."""
    kernel, *pids = lab.started(URISK_KEEP_WARM="0")
    kernel.manager.restart_kernel()
    gone(pids, 0.5)


@pytest.mark.row(12)
def test_a_restart_by_force_leaves_nothing(lab, figure):
    """The kernel is killed: nothing is kept, since nobody could ask for it."""
    kernel, *pids = lab.started()
    kernel.manager.restart_kernel(now=True)
    figure("server and runner gone after a restart by force", gone(pids))


JUPYTER = """
import sys
from jupyter_client import KernelManager
manager = KernelManager(kernel_name="python3")
manager.start_kernel()
print(manager.connection_file, manager.provisioner.pid, flush=True)
sys.stdin.readline()
"""


@pytest.mark.row(13)
def test_a_killed_jupyter_server_leaves_nothing(lab, figure):
    """The kernel sees that its parent is gone and ends at once; the server goes with it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", JUPYTER], **pipes, env={**os.environ, **lab.env}
    ) as jupyter:
        file, kernel = jupyter.stdout.readline().split()
        client = BlockingKernelClient(connection_file=file)
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        client.execute_interactive(
            "%load_ext urisk_nb\n%urisk_start", timeout=40, output_hook=lambda _: None
        )
        pids = lab.processes()
        began = time.monotonic()
        jupyter.kill()
        client.stop_channels()
        client.context.destroy()
    eventually(lambda: not alive(int(kernel)), 10, "the kernel's own end")
    ended = time.monotonic()
    gone(pids)
    figure(
        "server and runner gone after the kernel of a killed Jupyter server",
        time.monotonic() - ended,
    )
    figure("the same, from the kill", time.monotonic() - began)


@pytest.mark.row(15)
def test_a_restart_with_a_child_of_the_users_about(lab, figure):
    """
    With it ipykernel runs no exit handlers and kills the kernel after some seconds; the guardian
    does not need them.
    """
    kernel, *pids = lab.started()
    kernel.good("import subprocess\nchild = subprocess.Popen(['sleep', '1000'])")
    child = int(kernel.value("child.pid"))
    began = time.monotonic()
    kernel.manager.restart_kernel()
    gone(pids)
    figure("restart with a child in the kernel's group", time.monotonic() - began)
    if alive(child):
        os.kill(child, signal.SIGKILL)


@pytest.mark.row(16)
def test_a_restart_of_a_cell_that_ignores_interrupts(lab):
    """Jupyter kills the kernel then; the server goes with it."""
    kernel, *pids = lab.started()
    kernel.start(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('word', "
        "flush=True)\nwhile True: pass"
    )
    eventually(lambda: is_text(kernel.client.get_iopub_msg(timeout=20)), 20)
    kernel.manager.restart_kernel()
    gone(pids)


# Two kernels, and forks ---------------------------------------------------------------------------


WAYS = {
    "shutdown": lambda kernel: kernel.manager.shutdown_kernel(),
    "restart": lambda kernel: kernel.manager.restart_kernel(),
    "restart by force": lambda kernel: kernel.manager.restart_kernel(now=True),
    "SIGKILL": lambda kernel: os.kill(kernel.manager.provisioner.pid, signal.SIGKILL),
    "SIGTERM": lambda kernel: os.kill(kernel.manager.provisioner.pid, signal.SIGTERM),
    "os._exit": lambda kernel: kernel.start("import os; os._exit(3)"),
}


@pytest.mark.row(28)
@pytest.mark.parametrize("way", WAYS)
def test_the_owner_leaves_first(way, lab):
    """
    The kernel that started the server ends in every way there is; the other one goes on over the
    same process, and ends it.
    """
    owner, *pids = lab.started()
    other = lab.kernel()
    other.good("%urisk_start")
    assert other.value(f"{MANAGER}.pid") == str(pids[0])
    first = owner.manager.provisioner.pid
    WAYS[way](owner)
    eventually(lambda: not alive(first), 10)
    session_works(other)
    other.manager.interrupt_kernel()
    assert list(lab.processes()) == pids
    other.manager.shutdown_kernel()
    if way == "restart":
        owner.stop()  # its share was left warm; it ends with the time, or when nobody is about
    gone(pids, 1.5)


FORKS = {
    "os.fork": """
        import os, warnings
        warnings.simplefilter("ignore")  # Python 3.12 and later warn of every fork beside a thread
        reads, writes = os.pipe()
        if not (child := os.fork()):
            try:
                manager.generate_sync("hi")
                seen = "answered"
            except BaseException as exc:
                seen = type(exc).__name__
            os.write(writes, seen.encode())
            os._exit(0)
        os.waitpid(child, 0)
        print(os.read(reads, 100).decode())
    """,
    "a pool": """
        import multiprocessing, warnings
        warnings.simplefilter("ignore")
        def attempt(_):
            try:
                return manager.generate_sync("hi")
            except Exception as exc:
                return type(exc).__name__
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(*set(pool.map(attempt, range(4))))
    """,
}


@pytest.mark.row(19)
@pytest.mark.row(20)
@pytest.mark.parametrize("fork", FORKS)
def test_a_forked_child_is_refused_and_harms_nothing(fork, lab):
    """It gets an error instead of a hang, while the parent's own stream goes on."""
    lab.plan(rules=[{"contains": "long", "answer": "word " * 100, "token_ms": 10}, SLOW])
    kernel, server, _ = lab.started()
    kernel.good(
        "from urisk_nb import LLMManager\nfrom concurrent.futures import "
        "ThreadPoolExecutor\nmanager = LLMManager.get_instance()"
    )
    kernel.good(
        "threads = ThreadPoolExecutor(1)\nanswer = threads.submit(manager.generate_sync, 'long')"
    )
    assert kernel.good(textwrap.dedent(FORKS[fork])).text().strip() == "ForkedError"
    assert kernel.value("answer.result(20).count('word')") == "100"
    assert lab.processes()[0] == server
