"""
What the dashboard says by itself: nothing where all is well; else what was seen, why, and what to
do.
"""

import pytest

from call_records import MODEL, answered, facts, failed, request, waited
from urisk_nb.llm.calls import Calls
from urisk_nb.llm.messages import Chunk, Final, LoadedModel
from urisk_nb.notebook.alerts import cache_hits, find_alerts


def only(shown):
    (alert,) = find_alerts(shown)
    return alert


def calls_of(*phases):
    calls = Calls()
    for each in phases:
        answered(calls, **each)
    return calls


def test_a_healthy_session_says_nothing():
    """Twenty alike calls on a model that fits."""
    assert find_alerts(facts(calls_of(*[{}] * 20))) == []


def test_no_session_says_nothing():
    """There is nothing to teach yet."""
    assert find_alerts(facts(server_label="", state="stopped", loaded_models=None)) == []


TROUBLES = {
    "crashed": (
        {"state": "crashed", "log": "/run/server.log"},
        "ended unexpectedly and is being restarted",
        "/run/server.log",
    ),
    "hung": ({"state": "hung"}, "does not answer", "restarted"),
    "failed": (
        {"state": "failed", "failure": ("it ended 3 times.", "%urisk_start")},
        "it ended 3 times.",
        "%urisk_start",
    ),
    "silent": (
        {"probe": {"problem": "nothing answers.", "fix": "start it"}, "loaded_models": None},
        "nothing answers.",
        "start it",
    ),
    "breaker": ({"breaker": "open"}, "failed several times in a row", "restart it"),
}


def test_a_breaker_that_lets_one_through_is_a_warning():
    """The next call tells."""
    alert = only(facts(breaker="half_open"))
    assert "the next call probes" in alert.text
    assert alert.level == "warning"


@pytest.mark.parametrize(("more", "text", "action"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_with_the_server_is_an_error_with_a_way_out(more, text, action):
    """What was seen, and what to do."""
    alert = only(facts(**more))
    assert text in alert.text
    assert action in alert.action
    assert alert.level == "error"


def test_a_server_that_came_back_by_itself_is_a_note():
    """It is well now; where its last words are is worth knowing."""
    alert = only(facts(restart_count=2, log="/run/server.log"))
    assert "ended unexpectedly 2 times" in alert.text
    assert (alert.action, alert.level) == ("Its log: /run/server.log", "note")


def test_errors_come_before_notes():
    """The worst first."""
    assert [alert.level for alert in find_alerts(facts(breaker="open", notes=("SCRIPTED.",)))] == [
        "error",
        "note",
    ]


@pytest.mark.parametrize(("gpu", "share"), [(3_000_000_000, "40%"), (4_500_000_000, "10%")])
def test_a_model_that_does_not_fit_in_gpu_memory(gpu, share):
    """How much of it is on the CPU, and what makes it smaller."""
    alert = only(
        facts(
            loaded_models=(
                LoadedModel(name=MODEL, size_bytes=5_000_000_000, gpu_bytes=gpu, num_ctx=8192),
            )
        )
    )
    assert f"{share} of it is on the CPU" in alert.text
    assert "now 8192 tokens" in alert.action


@pytest.mark.parametrize("gpu", [0, 5_000_000_000])
def test_a_model_on_one_side_alone_is_no_alert(gpu):
    """All on the GPU is well; without a GPU there is nothing to fit."""
    assert (
        find_alerts(
            facts(loaded_models=(LoadedModel(name=MODEL, size_bytes=5_000_000_000, gpu_bytes=gpu),))
        )
        == []
    )


def test_calls_that_wait_behind_others():
    """How many, behind how many, and how to have more at once."""
    alert = only(facts(waited(Calls(), 3), waiting=3, in_flight=1))
    assert alert.text == "3 calls wait behind 1: the server has 1 slot."
    assert "%urisk_start --parallel 4" in alert.action
    others = only(
        facts(waited(Calls(), 1), waiting=1, in_flight=2, is_managed=False, slots=0, parallel=2)
    )
    assert others.text == "1 call waits behind 2."
    assert "OLLAMA_NUM_PARALLEL=4" in others.action


def test_the_slots_that_are_named_are_the_servers():
    """Not how many calls may be in flight here."""
    alert = only(facts(waited(Calls(), 1), waiting=1, in_flight=4, parallel=4, slots=1))
    assert alert.text == "1 call waits behind 4: the server has 1 slot."
    assert "--parallel 8" in alert.action


def test_calls_that_wait_for_a_limit_of_our_own():
    """The server could take more."""
    alert = only(facts(waited(Calls(), 3), waiting=3, in_flight=1, parallel=1, slots=4))
    assert "the server has 4 slots" in alert.text
    assert "%urisk_start --parallel 4" in alert.action


def test_calls_that_wait_for_a_moment_are_not_spoken_of():
    """They come and go faster than a sentence can be read."""
    assert find_alerts(facts(waited(Calls(), 3, seconds=0.3), waiting=3, in_flight=1)) == []


def test_a_wait_at_the_server_means_somebody_else():
    """Ours wait here, so whoever was before this one was not ours."""
    alert = only(facts(calls_of(*[{}] * 5, {"queue": 1.3})))
    assert (
        alert.text == "Call 6 waited 1.3 s for a slot at the server: another program uses it, too."
    )
    assert find_alerts(facts(calls_of(*[{}] * 5, {"queue": 0.15}))) == []


def test_a_wait_at_the_server_behind_our_own_calls():
    """More are in flight than it has slots."""
    calls = Calls()
    first, second = calls.begin(request(), MODEL), calls.begin(request(), MODEL)
    for record in (first, second):
        record.mark_started()
        record.mark_sent()
        record.add_chunk(Chunk(text="a"))
    calls.end(first, Final(total_ns=10**9, generation_ns=10**9))
    calls.end(second, Final(total_ns=3 * 10**9, generation_ns=10**9))
    alert = only(facts(calls, parallel=4))
    assert (
        alert.text
        == "Call 2 waited 2.0 s for a slot at the server: 4 may be in flight at once, and it has "
        "fewer slots."
    )
    assert "--parallel 1" in alert.action


# Loads --------------------------------------------------------------------------------------------


def test_a_load_since_another_program_had_changed_num_ctx():
    """
    It was seen in memory with another one between the two calls; what was seen earlier explains
    nothing.
    """
    calls = calls_of(*[{}] * 5)
    seen_s = calls.records[-1].ended_s
    answered(calls, load=1.25)
    alert = only(facts(calls, other_num_ctx=(8192, seen_s)))
    assert "Call 6 waited 1.2 s" in alert.text
    assert "num_ctx changed from 8192, set by another program, to 4096" in alert.text
    assert "one num_ctx" in alert.action
    assert "num_ctx" not in only(facts(calls, other_num_ctx=(8192, seen_s - 60))).text


def test_a_load_since_another_model_was_asked():
    """It may have put this one out."""
    calls = calls_of(*[{}] * 3, {"model": "phi4:latest", "load": 0.01}, {"load": 2.0})
    assert "calls to phi4:latest came in between" in only(facts(calls)).text


def test_a_model_that_was_asked_long_before_is_no_reason():
    """This one has been in memory since."""
    calls = calls_of({"model": "phi4:latest"}, *[{}] * 3, {"load": 2.0})
    assert "phi4" not in only(facts(calls)).text


def test_a_load_for_no_reason_that_is_known_here():
    """What it can be, and how to keep the model longer."""
    alert = only(facts(calls_of(*[{}] * 3, {"load": 2.0})))
    assert "keep_alive" in alert.text
    assert "%urisk_start --keep-alive 2h" in alert.action


@pytest.mark.parametrize(("load", "seen"), [(0.75, 0), (0.76, 1)])
def test_a_load_is_unusual_beyond_three_times_the_median(load, seen):
    """The others loaded for 0.25 s: 0.75 s is three times that and passes, 0.76 s is more."""
    assert len(find_alerts(facts(calls_of(*[{"load": 0.25}] * 5, {"load": load})))) == seen


def test_a_load_long_ago_is_history():
    """Twenty calls later nobody wants to read of it."""
    assert find_alerts(facts(calls_of(*[{}] * 3, {"load": 2.0}, *[{}] * 20))) == []


def test_a_server_whose_every_call_loads_a_little_is_not_accused():
    """Some versions count a fifth of a second for finding the model."""
    assert find_alerts(facts(calls_of(*[{"load": 0.25}] * 6))) == []


# Prompt cache -------------------------------------------------------------------------------------


def test_a_prompt_that_was_read_anew():
    """It begins as the one before it, and took many times the usual."""
    alert = only(facts(calls_of(*[{}] * 5, {"prompt": 0.9})))
    assert (
        alert.text
        == "The prompt of call 6 missed the cache: reading it took 0.90 s; 0.10 s is usual."
    )
    assert "slot" in alert.action


@pytest.mark.parametrize(("prompt", "seen"), [(0.75, 0), (0.76, 1)])
def test_a_prompt_takes_long_beyond_three_times_the_median(prompt, seen):
    """The median is 0.25 s: 0.75 s is three times that and passes, 0.76 s is more."""
    assert len(find_alerts(facts(calls_of(*[{"prompt": 0.25}] * 5, {"prompt": prompt})))) == seen


def test_another_prompt_is_not_expected_in_the_cache():
    """It begins otherwise."""
    calls = calls_of(
        *[{}] * 5,
        {"prompt": 0.9, "body": request(format={"type": "object"}, think=False, stop=["x" * 400])},
    )
    assert find_alerts(facts(calls)) == []


def test_a_prompt_that_was_read_anew_after_a_load_is_explained_by_it():
    """One cause, one alert."""
    assert [
        alert.text[:14]
        for alert in find_alerts(facts(calls_of(*[{}] * 5, {"prompt": 0.9, "load": 2.0})))
    ] == ["Call 6 waited "]


def test_cache_hits_by_the_time_a_token_took():
    """
    One cold call, three that had their prompt; short ones, failures, and a model's only call say
    nothing.
    """
    calls = calls_of(
        {"prompt": 1.0},
        *[{"prompt": 0.1}] * 3,
        {"prompt": 0.6},
        {"prompt": 1.0, "prompt_tokens": 10},
        {"model": "phi4"},
    )
    failed(calls)
    assert cache_hits(calls.records) == (3, 5)
    assert cache_hits(()) == (0, 0)
