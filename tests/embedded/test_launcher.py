"""
The launcher as a real process: what it serves, how it ends, and what it says when it cannot start.
"""

import json
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from harness import free_port
from urisk_nb.embedded import decision, gguf_header, weights
from urisk_nb.embedded.launcher import count_cores, launch_server, list_names, parse_args

ROOT = Path(__file__).parents[2]


def launch(*arguments):
    command = [sys.executable, "-m", "urisk_nb.embedded.launcher", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def process():
    """Launch a server and read its line; whatever the test does, the process is gone afterwards."""
    running = []

    def start(*arguments):
        running.append(launch(*arguments))
        return running[-1], json.loads(running[-1].stdout.readline())

    yield start
    for each in running:
        each.kill()
        each.communicate()


@pytest.mark.slow
def test_the_demo_model_is_served_under_two_names(process, demo_model):
    """
    Both models, the window and the slots are told by the server; the adapter is on where a request
    says nothing, since System One takes no other; the log has no request.
    """
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    server, line = process("--gguf", demo_model, "--slots", 2, "--num-ctx", 512)
    url = line["url"]
    assert line == {
        "url": url,
        "pid": server.pid,
        "models": ["smollm2-135m:latest", "urisk-judge:latest"],
    }
    (model,) = fetch(f"{url}/v1/models")[1]["data"]
    assert model["aliases"] == line["models"]
    props = fetch(f"{url}/props")[1]
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"], props["ui"]) == (
        2,
        512,
        False,
    )
    (adapter,) = fetch(f"{url}/lora-adapters")[1]
    assert (Path(adapter["path"]).name, adapter["scale"]) == ("urisk-judge.gguf", 1.0)
    chat = {"messages": [{"role": "user", "content": "word " * 600}], "max_tokens": 1}
    assert fetch(f"{url}/v1/chat/completions", chat)[0] == 400, (
        "the window is that of the command line"
    )
    chat["messages"][0]["content"] = "Name one ocean."
    assert fetch(f"{url}/v1/chat/completions", chat)[0] == 200
    server.send_signal(signal.SIGTERM)
    assert server.wait(5) == 0
    assert "prompt eval" not in server.communicate()[1]


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_in_the_middle_of_an_answer(process, demo_model, number):
    """The stream is cut, and the process is gone within a second."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    server, line = process("--gguf", demo_model)
    host, _, port = line["url"].removeprefix("http://").partition(":")
    chat = {
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "stream": True,
        "ignore_eos": True,
    }
    body = json.dumps(chat).encode()
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        )
        connection.sendall(head % len(body) + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
        began = time.monotonic()
        server.send_signal(number)
        assert server.wait(5) == 0
        assert time.monotonic() - began < 1


@pytest.mark.timing
@pytest.mark.slow
def test_a_signal_ends_it_at_once_while_the_model_loads(demo_model):
    """The guardian waits less than a second; a large model loads for minutes."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    port = free_port()
    server = launch("--gguf", demo_model, "--port", port)
    while True:  # it listens first, and loads then
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except ConnectionRefusedError:
            assert server.poll() is None
            time.sleep(0.005)
    server.send_signal(signal.SIGTERM)
    try:
        assert server.wait(1) == -signal.SIGTERM
    finally:
        server.kill()
        server.communicate()


def test_a_taken_port_is_told_as_ollama_tells_it(tmp_path, tiny_gguf):
    """Exit code 1, nothing on stdout, and one line on stderr."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        out, err, code = run("--gguf", tiny_gguf, "--port", port)
    assert (code, out, err) == (
        1,
        "",
        f"Error: listen tcp 127.0.0.1:{port}: bind: address already in use\n",
    )


def run(*arguments):
    process = launch(*arguments)
    out, err = process.communicate(timeout=30)
    return out, err, process.returncode


@pytest.fixture
def tiny_gguf(tmp_path):
    """A whole file in GGUF form that holds no model: no metadata, no tensors."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(8))
    return path


BROKEN = [
    (None, [], "cannot be read: No such file or directory"),
    (b"no model at all, just some text", [], "a GGUF model starts with b'GGUF'"),
    (b"GGUF\x03\0\0\0" + bytes(24), ["--host", "192.0.2.1"], "192.0.2.1 is not a loopback address"),
    (
        b"GGUF\x03\0\0\0" + bytes(24),
        ["--host", "example.org"],
        "example.org is not a loopback address",
    ),
    (b"GGUF\x03\0\0\0" + bytes(24), ["--port", 70000], "a port is a number from 0 to 65535"),
    (b"GGUF\x03\0\0\0" + bytes(24), ["--slots", 0], "must be at least 1"),
    (
        b"GGUF\x03\0\0\0" + bytes(24),
        ["--adapter", "missing.gguf"],
        "the adapter missing.gguf is not a file",
    ),
    (
        b"GGUF\x03\0\0\0" + bytes(24),
        ["--adapter", __file__],
        "test_launcher.py is not a complete GGUF file",
    ),
]


@pytest.mark.parametrize(("content", "options", "said"), BROKEN)
def test_what_it_cannot_do_is_one_line_and_1(tmp_path, content, options, said):
    """No traceback, nothing on stdout."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    file = tmp_path / "file.gguf"
    if content is not None:
        file.write_bytes(content)
    out, err, code = run("--gguf", file, *options)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("Error: ")
    assert said in err


@pytest.mark.slow
@pytest.mark.parametrize("rest", [b"", b"\xff" * 64], ids=["no model", "damaged"])
def test_a_file_that_llama_cpp_refuses_ends_with_1(tiny_gguf, rest):
    """One line names the file; llama.cpp's own reason stands beside it."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (the embedded extra)")
    if rest:
        tiny_gguf.write_bytes(b"GGUF\x03\0\0\0" + rest)
    # llama.cpp logs in a thread of its own, so its last lines may come after the launcher's, and on
    # a busy machine not at all: they have to be there once.
    for _ in range(5):
        out, err, code = run("--gguf", tiny_gguf)
        assert (code, out) == (1, "")
        assert "Error: llama.cpp cannot load tiny.gguf: " in err
        assert "Traceback" not in err
        if "error loading model" in err:
            return
    pytest.fail("llama.cpp's own reason was lost five times")


class Params:
    """Keeps what is set, as llama.cpp's record of parameters does."""

    def __init__(self):
        self.model, self.cpuparams = SimpleNamespace(), SimpleNamespace()


def test_what_llama_cpp_is_told(tiny_gguf, tmp_path, monkeypatch):
    """
    The judge's adapter whole, since System One takes no other scale; no page but its own may read
    the answers; a window for each slot.
    """
    engine = ModuleType("xllamacpp")
    engine.__spec__ = ModuleSpec("xllamacpp", None)
    engine.CommonParams, engine.CommonAdapterLoraInfo = Params, SimpleNamespace
    engine.Server = lambda params: SimpleNamespace(params=params)
    monkeypatch.setitem(sys.modules, "xllamacpp", engine)
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # which the launcher sets for its process
    entries = [gguf_header.encode_text(key, "x") for key in (decision.TYPE, decision.TEMPLATE)]
    adapter = tmp_path / "mine.gguf"
    adapter.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)) + b"".join(entries))
    words = ["--gguf", tiny_gguf, "--adapter", adapter, "--port", 0, "--slots", 3]
    told = launch_server(parse_args([*map(str, words), "--num-ctx", "100"])).params
    assert [(one.path, one.scale) for one in told.lora_adapters] == [(str(adapter), 1.0)]
    assert told.model.path != str(tiny_gguf), "a copy with the adapter's entries"
    assert (told.n_parallel, told.n_ctx) == (3, 300)
    assert (told.hostnames, told.cors_origins) == (["127.0.0.1"], "http://127.0.0.1:0")
    assert (told.ui, told.model_alias) == (False, {"tiny:latest"})
    told = launch_server(parse_args(["--gguf", str(tiny_gguf)])).params
    assert (told.model.path, hasattr(told, "lora_adapters")) == (str(tiny_gguf), False)


def test_without_the_package_it_says_what_to_install(tiny_gguf):
    """One line, and no traceback of an import."""
    code = (
        "import sys, importlib.util; sys.modules['xllamacpp'] = None\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from urisk_nb.embedded import launcher; sys.exit(launcher.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--gguf", tiny_gguf], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == 'Error: the package xllamacpp is not installed: pip install "urisk-nb[embedded]"\n'
    )


def test_it_starts_light():
    """The engine is imported for the load alone, and no package of the notebook ever."""
    code = (
        "import sys, urisk_nb.embedded.launcher; print([n for n in sys.modules if n in sys.argv])"
    )
    heavy = ["xllamacpp", "pandas", "numpy", "httpx", "pydantic", "IPython", "asyncio"]
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", None),
        ("", None),
    ],
)
def test_threads_are_the_cores_that_it_may_use(tmp_path, text, limit):
    """A container's share counts, not the host's cores; without one the affinity does."""
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    everything = count_cores(tmp_path / "missing")
    assert count_cores(quota) == min(everything, limit or everything)


def test_a_file_gives_its_model_a_name(tmp_path):
    """
    The stem, as far as a name can hold it; the demo model's name only where the file has its size.
    """
    for stem, name in {
        "Qwen3-0.6B-Q8_0": "qwen3-0.6b-q8_0",
        "Qwen3 0.6B (Q8)": "qwen3-0.6b-q8",
        "--a b--": "a-b",
        "日本": "model",
        "_a": "_a",
        "...": "model",
        "x" * 200: "x" * 80,
    }.items():
        path = tmp_path / f"{stem}.gguf"
        path.touch()
        assert list_names(path) == (f"{name}:latest",)
    other = tmp_path / weights.GGUF
    other.touch()
    assert list_names(other) == ("smollm2-135m-instruct.q4_1:latest",)
