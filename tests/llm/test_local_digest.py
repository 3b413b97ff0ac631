"""The digest of a model that is served from a file: of its content, whatever the file is called."""

import os
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from urisk_nb.llm import local_digest
from urisk_nb.llm.local_digest import find_local_digest
from urisk_nb.settings import load


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "own-model.gguf"
    path.write_bytes(b"GGUF" + os.urandom(2000))
    return path


def test_it_is_that_of_the_content(gguf):
    """The same bytes again, the same digest; one other byte, another one."""
    first = find_local_digest(load(gguf=gguf), "own-model:latest")
    assert first.startswith("sha256:")
    assert len(first) == len("sha256:") + 64
    assert find_local_digest(load(gguf=gguf), "own-model") == first
    content = bytearray(gguf.read_bytes())
    content[1000] ^= 1
    gguf.write_bytes(content)
    os.utime(gguf, ns=(1, 1))  # a change within the resolution of the clock would not be seen
    assert find_local_digest(load(gguf=gguf), "own-model") not in ("", first)


def test_a_model_that_the_file_does_not_serve_has_none(gguf):
    """Whoever serves it has it from elsewhere."""
    assert find_local_digest(load(gguf=gguf), "llama3.1") == ""
    assert find_local_digest(load(gguf=gguf.with_name("gone.gguf")), "gone") == ""


def test_a_file_that_is_replaced_under_its_server_has_none(gguf, monkeypatch):
    """The server answers from the file that it began with. A date of long ago hides nothing."""
    settings, asked = load(gguf=gguf), []
    os.utime(gguf, ns=(1, 1))
    changed_s = gguf.stat().st_ctime

    def find(began_s):
        def measure(pid):
            asked.append(pid)
            return SimpleNamespace(started_at=datetime.fromtimestamp(began_s, UTC))

        monkeypatch.setattr(local_digest, "measure_memory", measure)
        return find_local_digest(settings, "own-model", 4711)

    assert find(changed_s + 1) == find_local_digest(settings, "own-model") != ""
    assert find(changed_s - 60) == ""
    assert asked == [4711, 4711]


def test_the_two_models_of_the_demo_file_are_two(gguf, monkeypatch):
    """One file and one adapter: the model beneath and the judge answer differently."""
    names = ("smollm2-135m:latest", "urisk-judge:latest")
    monkeypatch.setattr(local_digest, "list_names", lambda path: names)
    settings = load(gguf=gguf)
    digests = [find_local_digest(settings, name) for name in (*names, "urisk-judge")]
    assert len(set(digests)) == 2
    assert digests[1] == digests[2] != ""


def test_a_huge_file_is_sampled(gguf, monkeypatch):
    """Its size and date count, too: a file that was written anew is another one."""
    monkeypatch.setattr(local_digest, "MAX_WHOLE_BYTES", 100)
    monkeypatch.setattr(local_digest, "SAMPLE_BYTES", 10)
    settings, seen = load(gguf=gguf), set()
    for when in (1, 2):
        os.utime(gguf, ns=(when, when))
        seen.add(find_local_digest(settings, "own-model"))
    content = gguf.read_bytes()
    gguf.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(gguf, ns=(2, 2))
    local_digest._hash_file.cache_clear()
    seen.add(find_local_digest(settings, "own-model"))
    assert len(seen - {""}) == 3
